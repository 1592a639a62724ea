"""Faces that are labelled with points alone: what a label is, and samples to fine-tune with.

Points are image pixels, 0-based; a point that is unknown or hidden weighs 0. Two schemes: iBUG's 68 points, and AFLW's
21, taken as means of the 68 the way 3DDFA's published AFLW protocol has it (an eye's centre is the mean of its six
points, the mouth's that of the inner lips; the jaw's third and third last points stand for the ears). A network's 68
landmarks (B, 68, 2) become a scheme's points (B, K, 2) by its `mixing` matrix (K, 68), so one loss, or one NME, serves
both: compare `labels.of(landmarks)` with `labels.points` where `labels.weights` is above 0.

"Left" in AFLW's names is the image's left, the subject's right.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.errors import InvalidInputError
from runtime.face_model import LANDMARKS
from runtime.roi import Roi
from training.data.files import CropReader

_CHUNK = 64
"""Images that are decoded at once to see whether they can be."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scheme:
    """K named points on a face."""

    name: str
    mixing: NDArray[np.float32]  # (K, 68): each point as a mean of iBUG's 68
    mirror: NDArray[np.int64]  # (K,) each point's partner in the mirrored image


def _mixing(rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    matrix = np.zeros((len(rows), LANDMARKS), np.float32)
    for row, sources in zip(matrix, rows, strict=True):
        row[list(sources)] = 1.0 / len(sources)
    return matrix


_MIRROR_68 = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *range(27, 31),  # nose ridge
    *range(35, 30, -1),  # under the nose
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer lips
    *(64, 63, 62, 61, 60, 67, 66, 65),  # inner lips
)
IBUG_68 = Scheme(name="ibug68", mixing=np.eye(LANDMARKS, dtype=np.float32), mirror=np.array(_MIRROR_68))
_AFLW_ROWS = (
    *((17,), (19,), (21,), (22,), (24,), (26,)),  # brows: left corner, centre, right corner, of each
    *((36,), tuple(range(36, 42)), (39,), (42,), tuple(range(42, 48)), (45,)),  # eyes, the same way
    *((2,), (31,), (30,), (35,), (14,)),  # left ear, nose left, centre, right, right ear
    *((48,), tuple(range(60, 68)), (54,), (8,)),  # mouth left, centre, right, chin
)
_AFLW_MIRROR = (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 16, 15, 14, 13, 12, 19, 18, 17, 20)
AFLW_21 = Scheme(name="aflw21", mixing=_mixing(_AFLW_ROWS), mirror=np.array(_AFLW_MIRROR))


@dataclass(frozen=True, kw_only=True, eq=False)
class PointFace:
    """One face of a set."""

    image_path: Path
    points: NDArray[np.float64]  # (K, 2) image pixels, 0-based; anything where not visible
    visible: NDArray[np.bool_]  # (K,)
    roi: Roi
    """Region a detector would give; samples are `MARGIN` times as wide."""
    yaw: float | None = None
    """Degrees, where the set says it."""
    length: float | None = None
    """Image pixels an error is divided by, where the set's protocol says it; else sqrt(w h) of the points' box."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LandmarkLabels:
    """Labels of a batch, in the pixels of its images."""

    scheme: Scheme
    points: Tensor  # float32 (B, K, 2)
    weights: Tensor  # float32 (B, K): 1 where the point is known, else 0

    def of(self, landmarks: Tensor) -> Tensor:
        """The scheme's points (B, K, 2) of 68 landmarks (B, 68, 2 or 3); differentiable."""
        mixing = torch.from_numpy(self.scheme.mixing).to(landmarks)
        return mixing @ landmarks[..., :2]

    def moved(self, matrix: Tensor, offset: Tensor) -> LandmarkLabels:
        """After x' = matrix @ x + offset of the images, (B, 2, 2) and (B, 2): an augmentation's crop."""
        points = self.points @ matrix.transpose(1, 2) + offset[:, None]
        return LandmarkLabels(scheme=self.scheme, points=points, weights=self.weights)

    def mirrored(self, width: int) -> LandmarkLabels:
        """Of the images mirrored left to right, x' = width - 1 - x: each point becomes its partner."""
        order = torch.from_numpy(self.scheme.mirror).to(self.points.device)
        x, y = self.points[:, order].unbind(dim=-1)
        points = torch.stack([width - 1.0 - x, y], dim=-1)
        return LandmarkLabels(scheme=self.scheme, points=points, weights=self.weights[:, order])

    def mirrored_where(self, chosen: Tensor, width: int) -> LandmarkLabels:
        """`mirrored` of the samples that are chosen, bool (B,); the others as they are."""
        other = self.mirrored(width)
        points = torch.where(chosen[:, None, None], other.points, self.points)
        weights = torch.where(chosen[:, None], other.weights, self.weights)
        return LandmarkLabels(scheme=self.scheme, points=points, weights=weights)

    def to(self, device: torch.device) -> LandmarkLabels:
        """The same on a device."""
        return LandmarkLabels(scheme=self.scheme, points=self.points.to(device), weights=self.weights.to(device))


class LandmarkSamples:
    """What fine-tuning by landmarks alone reads; `training.data.samples.Samples` is its twin with params."""

    def __init__(
        self,
        faces: Sequence[PointFace],
        scheme: Scheme,
        *,
        size: int,
        margin: float,
        threads: int | None = None,
    ) -> None:
        """Crops of `size` pixels, `margin` times as wide as each face's region.

        Raises:
            InvalidInputError: There is no face, or one with another number of points than the scheme has.
        """
        if not faces:
            raise InvalidInputError("Expected at least one face, got none.")
        count = len(scheme.mixing)
        wrong = next((face for face in faces if face.points.shape != (count, 2)), None)
        if wrong is not None:
            raise InvalidInputError(
                f"{wrong.image_path}: expected the {count} points of {scheme.name}, got {wrong.points.shape}."
            )
        self.size, self.faces, self.scheme = size, faces, scheme
        self._margin = margin
        self._reader = CropReader(len(faces), threads=threads)
        self.skipped = self._reader.skipped

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.faces)

    @property
    def image_paths(self) -> list[Path]:
        """The image of each sample."""
        return [face.image_path for face in self.faces]

    def part(self, indices: NDArray[np.int64]) -> LandmarkSamples:
        """Some of the samples; a damaged one gives place to one of them, and is counted with the whole set's."""
        result = copy.copy(self)
        result.faces = [self.faces[index] for index in indices]
        result._reader = self._reader.part(len(indices))
        return result

    def readable(self) -> list[PointFace]:
        """The faces whose images can be read; the others are counted.

        Raises:
            FileFormatError: More than 1 % of the images can't be read.
        """
        chunks = np.array_split(np.arange(len(self)), -(-len(self) // _CHUNK))
        # What takes a damaged one's place is a readable one too.
        used = np.unique(np.concatenate([self._read(chunk)[1] for chunk in chunks]))
        return [self.faces[index] for index in used]

    def batch(self, indices: NDArray[np.int64]) -> tuple[Tensor, LandmarkLabels]:
        """Images uint8 (B, W, W, 3) and labels; a damaged image gives place to the next one.

        Raises:
            FileFormatError: More than 1 % of the images can't be read.
        """
        images, used = self._read(indices)
        points, weights = [], []
        for index in used:
            face = self.faces[index]
            # A hidden point's place may hold anything, NaN too, which a weight of 0 would not stop.
            at = np.where(face.visible[:, None], self._wide(index).to_crop(face.points, self.size), 0.0)
            points.append(at)
            weights.append(face.visible)
        labels = LandmarkLabels(
            scheme=self.scheme,
            points=torch.from_numpy(np.array(points, dtype=np.float32)),
            weights=torch.from_numpy(np.array(weights, dtype=np.float32)),
        )
        return torch.from_numpy(images), labels

    def _read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return self._reader.read(indices, lambda index: (self.faces[index].image_path, self._wide(index)), self.size)

    def _wide(self, index: int) -> Roi:
        roi = self.faces[index].roi
        return Roi(center_x=roi.center_x, center_y=roi.center_y, side=roi.side * self._margin)
