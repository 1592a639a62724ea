"""`Samples` of faces with Basel labels (300W-LP, AFLW2000-3D, 3DDFA's packed list), for a converted Basel model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.face_model import FaceModel
from runtime.roi import Roi
from training.data.basel_labels import BaselFrame, BaselLabels, crop_params
from training.data.files import CropReader
from training.data.samples import MARGIN


class BaselFaces(Protocol):
    """A set's images and labels."""

    @property
    def images(self) -> list[Path]:
        """An image for each face."""

    def labels_of(self, chosen: NDArray[np.int64]) -> BaselLabels:
        """Labels of some of the faces."""


class _Chosen:
    """Some of a set's faces."""

    def __init__(self, faces: BaselFaces, indices: NDArray[np.int64]) -> None:
        self.images = [faces.images[index] for index in indices]
        self._faces, self._indices = faces, indices

    def labels_of(self, chosen: NDArray[np.int64]) -> BaselLabels:
        return self._faces.labels_of(self._indices[chosen])


class BaselSamples:
    """Crops about the label's landmarks, `MARGIN` times as wide as their region, with params in the crop's pixels."""

    def __init__(self, faces: BaselFaces, face_model: FaceModel, *, size: int, threads: int | None = None) -> None:
        """Crops of `size` pixels, read in `threads` threads (by default one for each core, at most eight).

        Raises:
            MismatchError: The face model is not the Basel model.
        """
        self.size, self.faces = size, faces
        self._face_model = face_model
        self._frame = BaselFrame.of(face_model)
        self._reader = CropReader(len(faces.images), threads=threads)
        self.skipped = self._reader.skipped
        """The images that could not be read so far; its `report` names them."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.faces.images)

    @property
    def image_paths(self) -> list[Path]:
        """The image of each sample."""
        return self.faces.images

    def part(self, indices: NDArray[np.int64]) -> BaselSamples:
        """Some of the samples; a damaged one gives place to one of them, and is counted with the whole set's."""
        result = copy.copy(self)
        result.faces = _Chosen(self.faces, indices)
        result._reader = self._reader.part(len(indices))
        return result

    def batch(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, W, W, 3) and params float32 (B, 12 + S + E); a damaged image gives place to the next one.

        Raises:
            FileFormatError: More than 1 % of the images can't be read.
        """
        known = dict(zip(indices.tolist(), self._labels(indices), strict=True))

        def label(index: int) -> tuple[NDArray[np.float64], Roi]:
            return known.get(index) or self._labels(np.array([index]))[0]

        images, used = self._reader.read(indices, lambda index: (self.faces.images[index], label(index)[1]), self.size)
        params = [crop_params(*label(int(index)), self.size) for index in used]
        return torch.from_numpy(images), torch.from_numpy(np.array(params, dtype=np.float32))

    def _labels(self, indices: NDArray[np.int64]) -> list[tuple[NDArray[np.float64], Roi]]:
        """Params in the image's pixels, and the sample's region, of each."""
        params = self._frame.params(self.faces.labels_of(indices))
        regions = [Roi.from_landmarks(points) for points in self._face_model.landmarks(params)]
        wide = [Roi(center_x=roi.center_x, center_y=roi.center_y, side=roi.side * MARGIN) for roi in regions]
        return list(zip(params, wide, strict=True))
