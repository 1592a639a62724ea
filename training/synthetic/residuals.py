"""What a head has that no coefficients say: smooth departures from the face model's 40 modes of shape.

Real heads do not lie in the span of 40 modes. A network that has only seen heads that do learns to read the pose of a
head from the place of its ear or its jaw more exactly than anatomy allows. The face area of ICT-FaceKit (from scans),
fitted with our modes, leaves 1.1 mm (root mean square of the 68 landmarks, one unit of ridge per coefficient).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.synthetic.head import Head, load_head
from training.synthetic.noise import stream

FloatArray = NDArray[np.float32]

RESIDUAL = 1.1
"""Root mean square in mm of what an average head's landmarks depart by."""

_SEED = 20261127  # the modes are the same for every factory: samples only mix them
_MODES = 64
_WAVES = 24
_LENGTHS = 22.0, 45.0  # mm: a field's values are related up to about so far
_FIT_STRIDE = 5  # every 5th face vertex takes part in the fit
_RIDGE = 1.0  # mm^2 per squared coefficient, where 68 landmarks weigh 1 each


@lru_cache(maxsize=1)
def load_residual_modes(path: Path) -> FloatArray:
    """`residual_modes` of a head's file, the same array for all in the process. Raises what `load_head` does."""
    return residual_modes(load_head(path))


def residual_modes(head: Head) -> FloatArray:
    """Displacements (K, M, 3) in mm; mixed by standard normal numbers (K,) the landmarks' are `RESIDUAL` on average.

    Gaussian random fields, half of them alike on both sides of the head, less what shape, expression and a similarity
    could say: of a displaced head the undisplaced one's label is the best there is, for its landmarks and its face.
    """
    rng = stream(_SEED)
    fields = np.stack([_field(rng, head.mean, _LENGTHS[k % 2]) for k in range(_MODES)])  # (K, M, 3)
    alike = fields[: _MODES // 2]
    alike += alike[:, head.mirror] * np.float32([-1, 1, 1])
    alike /= np.sqrt(2.0)
    moves = np.concatenate([head.basis.reshape(len(head.basis), -1, 3), _similarities(head.mean)]).astype(np.float64)
    chosen, weights = _fitted_vertices(head)
    seen = (moves[:, chosen] * weights).reshape(len(moves), -1)
    ridge = np.diag([_RIDGE] * len(head.basis) + [0.0] * (len(moves) - len(head.basis)))
    told = np.linalg.solve(seen @ seen.T + ridge, seen @ (fields[:, chosen] * weights).reshape(_MODES, -1).T)  # (., K)
    left = fields - np.tensordot(told, moves, axes=(0, 0))
    size = np.sqrt((left[:, head.landmark_vertices] ** 2).sum(axis=(0, 2)).mean())
    return (RESIDUAL / size * left).astype(np.float32)


def _field(rng: np.random.Generator, points: FloatArray, length: float) -> NDArray[np.float64]:
    """A Gaussian random field (M, 3) of unit variance at points (M, 3): a sum of waves, after Rahimi and Recht."""
    waves = rng.standard_normal((3 * _WAVES, 3)) / length
    phases = rng.uniform(0, 2 * np.pi, 3 * _WAVES)
    waved = np.cos(points.astype(np.float64) @ waves.T + phases)  # (M, 3 * waves)
    return np.sqrt(2 / _WAVES) * waved.reshape(len(points), 3, _WAVES).sum(axis=2)


def _similarities(points: FloatArray) -> NDArray[np.float64]:
    """Shifts, turns and growth (7, M, 3)."""
    arm = points - points.mean(axis=0, dtype=np.float64)
    shifts = np.broadcast_to(np.eye(3)[:, None], (3, *arm.shape))
    turns = np.stack([np.cross(axis, arm) for axis in np.eye(3)])
    return np.concatenate([shifts, turns, arm[None]])


def _fitted_vertices(head: Head) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Vertices (V,) that the label is fitted to, and their weights' roots (V, 1): all others weigh as the landmarks."""
    others = head.face_vertices[::_FIT_STRIDE]
    chosen = np.concatenate([head.landmark_vertices, others])
    share = np.sqrt(len(head.landmark_vertices) / len(others))
    return chosen, np.concatenate([np.ones(len(head.landmark_vertices)), np.full(len(others), share)])[:, None]
