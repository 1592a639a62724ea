"""Fits the face model to landmarks directly: how near it can come to real labels, the floor under a network's NME.

The fit is the most probable face under a noise of NOISE_PX pixels standard deviation on each x and y, coefficients that
are standard normal (times the model's sigmas), and a free scaled-orthographic pose; Gauss-Newton. The landmarks' z only
starts it. Result: params (62,) in the landmarks' own pixel frame (x right, y down), as a network would give them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InvalidInputError
from runtime.face_model import LANDMARKS, FaceModel
from runtime.pose import decompose

NOISE_PX = 1.0
_ITERATIONS = 40
_TO_IMAGE = np.array([1.0, -1.0])  # the fit runs with y up, as the face model is

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _State:
    """Where the fit stands: point = scale * (rotation @ model point)[:2] + shift, y up."""

    scale: float
    rotation: Array  # (3, 3)
    shift: Array  # (2,)
    coefficients: Array  # (K,) in standard deviations


def fit_params(face_model: FaceModel, landmarks: ArrayLike, *, form: bool = True) -> Array:
    """The most probable parameters (12 + S + E,) of landmarks (68, 3) in pixels, y down.

    Args:
        face_model: What is fitted.
        landmarks: Where to; only x and y are fitted.
        form: Fit the coefficients too; without it they are 0: the mean face in its best pose.

    Raises:
        InvalidInputError: They are not 68 finite points.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (LANDMARKS, 3) or not np.isfinite(points).all():
        raise InvalidInputError(f"Expected finite landmarks ({LANDMARKS}, 3), got shape {points.shape}.")
    mean, modes, sigma = _at_landmarks(face_model)
    basis = modes * sigma[:, None, None] if form else modes[:0]
    fitted = fit_shape(mean, basis, points)
    coefficients = fitted.coefficients * sigma if form else np.zeros(len(modes))
    return np.concatenate([fitted.pose.ravel(), coefficients])


@dataclass(frozen=True, kw_only=True)
class FittedShape:
    """A shape fitted to points; image frame, y down."""

    pose: Array  # (3, 4)
    coefficients: Array  # (K,) in standard deviations
    placed: Array  # (N, 2) the fitted points in pixels

    @property
    def projection(self) -> Array:
        """(2, 3): pixels along x and y per unit of the model frame."""
        return self.pose[:2, :3]


def fit_shape(mean: Array, basis: Array, points: Array, *, noise: float = NOISE_PX) -> FittedShape:
    """The most probable pose and coefficients of points (N, 3) in pixels, y down, of which x and y are fitted.

    Args:
        mean: Mean points (N, 3) in the model frame.
        basis: Modes (K, N, 3), per standard deviation of a standard normal coefficient.
        points: Where to; their z only starts the fit.
        noise: Standard deviation of each x and y, in pixels.
    """
    target = points[:, :2] * _TO_IMAGE
    state = _start(mean, points, len(basis))
    for _ in range(_ITERATIONS):
        state = _improve(state, mean, basis, target, noise)
    pose = np.zeros((3, 4))
    pose[:, :3] = state.scale * np.diag([*_TO_IMAGE, 1.0]) @ state.rotation
    pose[:2, 3] = state.shift * _TO_IMAGE
    placed = (mean + np.tensordot(state.coefficients, basis, 1)) @ pose[:2, :3].T + pose[:2, 3]
    return FittedShape(pose=pose, coefficients=state.coefficients, placed=placed)


def _at_landmarks(face_model: FaceModel) -> tuple[Array, Array, Array]:
    """Mean (68, 3), modes (S + E, 68, 3) and sigmas (S + E,)."""
    modes = face_model.at_landmarks(np.concatenate([face_model.shape_basis, face_model.expression_basis]))
    sigma = np.concatenate([face_model.shape_sigma, face_model.expression_sigma])
    return (
        face_model.at_landmarks(face_model.mean).astype(np.float64),
        modes.astype(np.float64),
        sigma.astype(np.float64),
    )


def _start(mean: Array, points: Array, count: int) -> _State:
    """The best affine map of the mean face, made a pose; z helps, so that a profile starts on its own side."""
    affine, *_ = np.linalg.lstsq(np.column_stack([mean, np.ones(len(mean))]), points, rcond=None)  # (4, 3)
    scale, rotation, shift = decompose(affine.T)
    return _State(scale=scale, rotation=rotation, shift=shift[:2] * _TO_IMAGE, coefficients=np.zeros(count))


def _improve(state: _State, mean: Array, basis: Array, target: Array, noise: float) -> _State:
    """One Gauss-Newton step."""
    turned = (mean + np.tensordot(state.coefficients, basis, 1)) @ state.rotation.T
    residual = target - (state.scale * turned[:, :2] + state.shift)
    jacobian = _jacobian(state, turned, basis) / noise
    normal = jacobian.T @ jacobian
    gradient = jacobian.T @ residual.ravel() / noise
    prior = np.arange(6, len(normal))
    normal[prior, prior] += 1.0
    gradient[6:] -= state.coefficients
    step = np.linalg.solve(normal, gradient)
    return _State(
        scale=state.scale * float(np.exp(step[0])),
        rotation=_small_rotation(step[1:4]) @ state.rotation,
        shift=state.shift + step[4:6],
        coefficients=state.coefficients + step[6:],
    )


def _jacobian(state: _State, turned: Array, basis: Array) -> Array:
    """Of the points' x and y (136,) by log scale, turn about x, y and z, shift, coefficients: (136, 6 + K)."""
    x, y, z = turned.T
    zero, one = np.zeros(len(x)), np.ones(len(x))
    pose = [
        state.scale * np.stack([x, y], 1),
        state.scale * np.stack([zero, -z], 1),
        state.scale * np.stack([z, zero], 1),
        state.scale * np.stack([-y, x], 1),
        np.stack([one, zero], 1),
        np.stack([zero, one], 1),
    ]
    form = state.scale * (basis @ state.rotation.T)[:, :, :2]  # (K, 68, 2)
    return np.concatenate([np.stack(pose), form]).reshape(6 + len(basis), -1).T


def _small_rotation(turn: Array) -> Array:
    x, y, z = turn
    u, _, vt = np.linalg.svd(np.eye(3) + np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))
    return u @ vt
