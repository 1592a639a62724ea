"""Settle where the 68 landmarks lie on the face, so that they mean what AFLW2000-3D's labels mean.

    python -m tools.settle_landmarks DIR

DIR holds AFLW2000-3D images with their .mat (the committed table was made from 300 of them, 150 + 75 + 75 by |yaw|).
Only labelled points are used: no image is looked at, and no network. Method: the face model with its landmarks at their
anchors (`tools/face_model/landmarks.py`) is fitted to each face's 68 points (the most probable pose, shape and
expression, N(0, 1) prior on the coefficients, 2 px of noise on a face of 120 px). What the fits leave over on average,
in the model's frame, and the mean of the fitted shapes, which our population lacks, are a point's offset; it is made
symmetric, and rid of the similarity that a pose absorbs. This is done on all faces and on both halves of them.

What moves: jaw, brows, nose, corners of the eyes, the lips' outer border. What doesn't: the lids' and the inner lips'
points, since those edges are what opens and closes. The printed table is CONVENTION of `tools/face_model/landmarks.py`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.command import command
from tools.face_model.modes import FLIP, similarity
from training.data.aflw2000 import load_aflw2000
from training.data.landmarks import IBUG_68
from training.evaluation.fitting import FittedShape, fit_shape
from training.synthetic.head import load_head

FACE_PX = 120.0
NOISE_PX = 2.0
ROUNDS = 6
MOVING = (*range(17), *range(17, 36), 36, 39, 42, 45, *range(48, 60))
SIDE = (*range(9), *range(17, 22), *range(27, 34), 36, 39, 48, 49, 50, 51, 57, 58, 59)
"""The subject's right side and the middle, of those that move."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """The landmarks' anchors: mean (68, 3) and shape and expression modes (K, 68, 3), mm."""

    mean: Array
    modes: Array
    shape_count: int


@command()
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="AFLW2000-3D images with their .mat")
    options = parser.parse_args()
    faces = load_aflw2000(options.folder)
    points = np.stack([normalised(face.landmarks) for face in faces])
    anchors = load_anchors()
    whole = offsets_of(anchors, points)
    halves = [offsets_of(anchors, points[start::2]) for start in (0, 1)]
    differ = rms(halves[0] - halves[1])
    print(f"{len(points)} faces; offsets {rms(whole):.2f} mm rms; the two halves differ by {differ:.2f}")
    print("CONVENTION = {")
    for index in SIDE:
        print(f"    {index}: ({', '.join(f'{value:.1f}' for value in whole[index])}),")
    print("}")
    return 0


def normalised(landmarks: Array) -> Array:
    """Points in pixels, scaled so that the square root of their box's area is FACE_PX."""
    return landmarks * FACE_PX / np.sqrt(np.prod(np.ptp(landmarks[:, :2], axis=0)))


def load_anchors() -> Anchors:
    """The anchors in the head that training faces are rendered from."""
    head = load_head()
    modes = head.basis.reshape(len(head.basis), -1, 3)[:, head.landmark_vertices]
    return Anchors(
        mean=head.landmarks.astype(np.float64),
        modes=modes.astype(np.float64),
        shape_count=head.identity_samples.shape[1],
    )


def offsets_of(anchors: Anchors, points: Array) -> Array:
    """Where labels (F, 68, 3) have the points, from the anchors: (68, 3) mm."""
    offsets = np.zeros_like(anchors.mean)
    for _ in range(ROUNDS):
        fits = [fit_shape(anchors.mean + offsets, anchors.modes, face, noise=NOISE_PX) for face in points]
        offsets += symmetric(left_over(fits, points))
    shape = np.mean([fit.coefficients for fit in fits], axis=0)[: anchors.shape_count]
    offsets += symmetric(np.tensordot(shape, anchors.modes[: anchors.shape_count], 1))
    scale, rotation, shift = similarity(anchors.mean + offsets, anchors.mean, np.ones(len(offsets)))
    return scale * (anchors.mean + offsets) @ rotation + shift - anchors.mean


def left_over(fits: list[FittedShape], points: Array) -> Array:
    """The offset (68, 3) in the model's frame that explains most of what the fits leave over in x and y."""
    normal, gradient = np.zeros((3, 3)), np.zeros((len(points[0]), 3))
    for fit, face in zip(fits, points, strict=True):
        normal += fit.projection.T @ fit.projection
        gradient += (face[:, :2] - fit.placed) @ fit.projection
    return np.linalg.solve(normal + 1e-3 * np.eye(3), gradient.T).T


def symmetric(offsets: Array) -> Array:
    """The symmetric part of offsets (68, 3)."""
    return (offsets + offsets[IBUG_68.mirror] * FLIP) / 2.0


def rms(offsets: Array) -> float:
    """Of the points that move, in mm."""
    return float(np.sqrt((offsets[list(MOVING)] ** 2).sum(axis=1).mean()))


if __name__ == "__main__":
    raise SystemExit(main())
