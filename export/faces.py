"""The crops that steps of the export are compared on: rendered faces with labels, the caller's photographs, noise."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel, load_face_model
from runtime.image import IMAGE_SUFFIXES
from runtime.roi import Roi, crop

FACES = 48  # rendered ones that every step is compared on
NOISE = 8
_SEED = 20  # of the rendered faces; training renders with others
LabelledFaces = tuple[NDArray[np.uint8], NDArray[np.float32]]  # crops (B, S, S, 3), true params (L, P) of the first L


@dataclass(frozen=True, kw_only=True)
class ParityCrops:
    """Crops uint8 (B, S, S, 3) to compare on. Without any faces, noise is what the gates look at.

    `labels` are the true params (L, P) of the first L faces, L from 0 on.
    """

    faces: NDArray[np.uint8]
    noise: NDArray[np.uint8]
    labels: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 62), dtype=np.float32))

    @property
    def gated(self) -> NDArray[np.uint8]:
        """The crops that the gates look at."""
        return self.faces if len(self.faces) else self.noise


def parity_crops(size: int, rendered: LabelledFaces, folder: Path | None = None) -> ParityCrops:
    """Rendered faces, those of the photographs in `folder`, and noise, which is always the same.

    Raises:
        InvalidInputError: the folder holds no images.
    """
    faces, labels = rendered
    more = [] if folder is None else [_folder_crops(folder, size)]
    return ParityCrops(faces=np.concatenate([faces, *more]), noise=noise_crops(size), labels=labels)


def noise_crops(size: int, count: int = NOISE) -> NDArray[np.uint8]:
    """Half of them white noise, half smooth blobs of colour."""
    generator = np.random.default_rng(0)
    white = generator.integers(0, 256, (count // 2, size, size, 3), dtype=np.uint8)
    coarse = generator.integers(0, 256, (count - count // 2, 5, 5, 3), dtype=np.uint8)
    roi = Roi(center_x=2.0, center_y=2.0, side=5.0)
    return np.concatenate([white, *(crop(image, [roi], size) for image in coarse)])


def rendered_faces(size: int, face_model: FaceModel, indices: Iterable[int]) -> LabelledFaces:
    """Renders of `training.synthetic`, or none where that cannot be imported, and their labels.

    The labels are params of the bundled face model: for another one there are none.
    """
    if any(importlib.util.find_spec(name) is None for name in ("numba", "training.synthetic.factory")):
        return np.empty((0, size, size, 3), dtype=np.uint8), np.empty((0, face_model.num_params), dtype=np.float32)
    from training.synthetic.factory import FaceFactory

    factory = FaceFactory(size=size, margin=1.0, seed=_SEED)
    samples = [factory.sample(index) for index in indices]
    known = samples if face_model.sha256 == load_face_model().sha256 else []
    labels = np.array([sample.params for sample in known], dtype=np.float32).reshape(-1, face_model.num_params)
    return np.stack([sample.image for sample in samples]), labels


def _folder_crops(folder: Path, size: int) -> NDArray[np.uint8]:
    from runtime.image import read_image

    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InvalidInputError(f"{folder}: expected a folder with face crops as images, found no image there")
    return np.concatenate([faces_of(read_image(file), size) for file in files])


def faces_of(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The faces that the runtime's detector finds, cut as the runtime cuts them, or else the whole image."""
    from runtime.detection import BlazeFaceDetector, roi_from_detection

    if found := BlazeFaceDetector().detect(image):
        return crop(image, [roi_from_detection(detection) for detection in found], size)
    height, width = image.shape[:2]
    roi = Roi(center_x=(width - 1) / 2, center_y=(height - 1) / 2, side=float(min(height, width)))
    return crop(image, [roi], size)
