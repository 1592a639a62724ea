"""Settle where the 68 landmarks lie on the face, so that they mean what AFLW2000-3D's labels mean.

    python -m tools.settle_landmarks DIR [--jaw CHECKPOINT]

DIR holds AFLW2000-3D images with their .mat (the committed table was made from 300 of them, 150 + 75 + 75 by |yaw|).
Without --jaw only labelled points are used: no image is looked at, and no network. Method: the face model with its
landmarks at their anchors (`tools/face_model/landmarks.py`) is fitted to each face's 68 points (the most probable pose,
shape and expression, N(0, 1) prior on the coefficients, 2 px of noise on a face of 120 px). What the fits leave over on
average, in the model's frame, and the mean of the fitted shapes, which our population lacks, are a point's offset; it
is made symmetric, and rid of the similarity that a pose absorbs. This is done on all faces and on both halves of them.

What moves: jaw, brows, nose, corners of the eyes, the lips' outer border. What doesn't: the lids' and the inner lips'
points, since those edges are what opens and closes. The printed table is CONVENTION of `tools/face_model/landmarks.py`.

The jaw line is the one part of the 68 without a mark on the face, and points alone leave open how far it is turned
about the ears' axis against the face that one sees. --jaw settles that by the photographs: the network of CHECKPOINT
says where the face is (one pass, regions from the labels), and the 17 points slide along the skin to where they leave
over the least (mean distance over the face's size; the three bins of |yaw| weigh alike, both sides move alike). What it
prints takes the place of rows 0 to 8, once the table of before is in the bundled face model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.command import command
from runtime.face_model import POSE_SIZE, FaceModel, load_face_model
from runtime.roi import Roi, maps
from tools.face_model.modes import FLIP, similarity
from tools.make_face_model import on_skin
from training.data.aflw2000 import AnnotatedFace, load_aflw2000
from training.data.landmarks import IBUG_68
from training.evaluation.fitting import FittedShape, fit_shape
from training.evaluation.metrics import YAW_EDGES, box_size, by_yaw
from training.evaluation.photographs import view_faces
from training.evaluation.predictors import load_predictor
from training.synthetic.head import load_head

FACE_PX = 120.0
NOISE_PX = 2.0
ROUNDS = 6
MOVING = (*range(17), *range(17, 36), 36, 39, 42, 45, *range(48, 60))
SIDE = (*range(9), *range(17, 22), *range(27, 34), 36, 39, 48, 49, 50, 51, 57, 58, 59)
"""The subject's right side and the middle, of those that move."""
JAW = range(9)
"""The subject's right side of the jaw, and the chin."""
FINE = 1.0
"""Percent of the face's size below which a distance weighs as its square."""

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
    parser.add_argument("--jaw", type=Path, metavar="CHECKPOINT", help="settle the jaw by this network's faces")
    options = parser.parse_args()
    faces = load_aflw2000(options.folder)
    if options.jaw:
        slide_jaw(options.jaw, faces)
        return 0
    points = np.stack([normalised(face.landmarks) for face in faces])
    anchors = load_anchors()
    whole = offsets_of(anchors, points)
    halves = [offsets_of(anchors, points[start::2]) for start in (0, 1)]
    differ = rms(halves[0] - halves[1])
    print(f"{len(points)} faces; offsets {rms(whole):.2f} mm rms; the two halves differ by {differ:.2f}")
    print_table(whole, SIDE)
    return 0


def print_table(offsets: Array, rows: Iterable[int]) -> None:
    """The chosen rows of offsets, as CONVENTION has them."""
    print("CONVENTION = {")
    for index in rows:
        print(f"    {index}: np.array(({', '.join(f'{value:.1f}' for value in offsets[index])})),")
    print("}")


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


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The jaw of F faces, as a network sees them."""

    labels: Array
    """(F, 17, 2), percent of the face's size."""
    projections: Array
    """(F, 2, 3), percent a millimetre of the head."""
    origins: Array
    """(F, 2): where the head's origin lies."""
    forms: Array
    """(F, N, 3): the faces' vertices in the head's frame, mm."""
    weights: Array
    """(F,): each bin of |yaw| weighs the same."""
    yaw: Array

    def left_over(self, corners: NDArray[np.int64], shares: Array) -> Array:
        """Labels minus the points of the surface (17 triangles and weights): (F, 17, 2)."""
        points = (self.forms[:, corners] * shares[..., None]).sum(axis=2)
        return self.labels - points @ self.projections.transpose(0, 2, 1) - self.origins[:, None]


def slide_jaw(checkpoint: Path, faces: list[AnnotatedFace]) -> None:
    """Print where the jaw's points come to lie, and what that changes between halves of the faces."""
    face_model = load_face_model()
    seen = look(checkpoint, faces, face_model)
    everything, order = np.ones(len(faces), bool), np.random.default_rng(0).permutation(len(faces))
    halves = [order % 2 == half for half in (0, 1)]
    now = on_jaw(face_model, face_model.at_landmarks(face_model.mean)[:17])
    moved = slide(face_model, seen, everything)
    for what, (place, chosen) in {
        "now": (now, everything),
        "moved": (moved, everything),
        **{f"half {k}, now": (now, halves[k]) for k in (0, 1)},
        **{f"half {k}, moved by the other": (slide(face_model, seen, halves[1 - k]), halves[k]) for k in (0, 1)},
    }.items():
        errors = np.linalg.norm(seen.left_over(*place), axis=2).mean(axis=1)[chosen]
        print(f"the jaw's error, %, {what}: {by_yaw(errors, seen.yaw[chosen])}")
    corners, shares = moved
    positions = (face_model.mean[corners].astype(np.float64) * shares[..., None]).sum(axis=1)
    print_table(positions - load_anchors().mean[:17], JAW)


def look(checkpoint: Path, faces: list[AnnotatedFace], face_model: FaceModel) -> Seen:
    """Where the network has the faces, in percent of their labels' size."""
    predict, size = load_predictor(checkpoint, face_model)
    rois = [Roi.from_landmarks(face.landmarks) for face in faces]
    params = view_faces(predict, size, face_model, faces, rois, None).params
    linear, offset = maps(rois, size)
    poses = params[:, :POSE_SIZE].reshape(-1, 3, 4).astype(np.float64)
    points = np.stack([face.landmarks[:, :2] for face in faces])
    unit = 100.0 / box_size(points, points, 2)[:, None, None]
    yaw = np.array([face.yaw for face in faces])
    bins = np.digitize(np.abs(yaw), YAW_EDGES, right=True)
    return Seen(
        labels=points[:, :17] * unit,
        projections=(linear @ poses[..., :3])[:, :2] * unit,
        origins=((linear @ poses[..., 3:])[..., 0] + offset)[:, :2] * unit[..., 0],
        forms=face_model.vertices(face_model.unposed(params[:, POSE_SIZE:])),
        weights=1.0 / np.bincount(bins)[bins],
        yaw=yaw,
    )


def slide(face_model: FaceModel, seen: Seen, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Array]:
    """The jaw as points of the surface (17 triangles and weights) that leaves over the least on the chosen faces."""
    mirror = IBUG_68.mirror
    flip = np.diag(FLIP)
    targets = face_model.at_landmarks(face_model.mean)[:17].astype(np.float64)
    projections = seen.projections[chosen]
    for _ in range(ROUNDS):
        corners, shares = on_jaw(face_model, targets)
        left = seen.left_over(corners, shares)[chosen]
        weights = seen.weights[chosen, None] / np.maximum(np.linalg.norm(left, axis=2), FINE)
        targets = (face_model.mean[corners].astype(np.float64) * shares[..., None]).sum(axis=1)
        for index in JAW:
            other = mirror[index]
            along = directions(face_model.mean[corners[index]].astype(np.float64), middle=other == index)
            steps = np.concatenate([projections @ along, projections @ flip @ along])  # (2F, 2, K)
            weight, rest_of = (np.concatenate([a[:, index], a[:, other]]) for a in (weights, left))
            normal = np.einsum("f,fia,fib->ab", weight, steps, steps)
            move = along @ np.linalg.solve(normal, np.einsum("f,fia,fi->a", weight, steps, rest_of))
            targets[other] += move * FLIP
            if other != index:
                targets[index] += move
    return on_jaw(face_model, targets)


def directions(triangle: Array, *, middle: bool) -> Array:
    """Orthonormal directions (3, K) along a triangle (3, 3); in the plane of symmetry along its first edge alone."""
    first = triangle[1] - triangle[0]
    if middle:
        return (first * [0, 1, 1] / np.linalg.norm(first[1:]))[:, None]
    return np.linalg.qr(np.stack([first, triangle[2] - triangle[0]], axis=1))[0]


def on_jaw(face_model: FaceModel, targets: Array) -> tuple[NDArray[np.int64], Array]:
    """The nearest points of the mean face's skin to the jaw's targets (17, 3)."""
    return on_skin(face_model.mean.astype(np.float64), face_model.triangles, face_model.region, targets)


def rms(offsets: Array) -> float:
    """Of the points that move, in mm."""
    return float(np.sqrt((offsets[list(MOVING)] ** 2).sum(axis=1).mean()))


if __name__ == "__main__":
    raise SystemExit(main())
