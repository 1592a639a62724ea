"""Photographs read once each, in batches that memory bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.errors import FileFormatError
from runtime.image import read_image

BATCH = 64
_BATCH_BYTES = 1 << 26
"""Of decoded photographs that are held at once, so that a batch of large ones fits into memory."""


class Photographed(Protocol):
    """A face of a photograph."""

    @property
    def image_path(self) -> Path:
        """The photograph."""


def read_batches(
    faces: Sequence[Photographed], *, progress: bool = True
) -> Iterator[tuple[list[int], list[NDArray[np.uint8]]]]:
    """Faces' numbers and their photographs, decoded, in batches that memory bounds.

    A photograph with several faces that follow each other is read once, and is the same array for all of them.

    Raises:
        FileNotFoundError, FileFormatError: A photograph is missing or can't be decoded.
    """
    numbers: list[int] = []
    images: list[NDArray[np.uint8]] = []
    held, path, image = 0, None, np.empty(0, np.uint8)
    with tqdm(total=len(faces), unit="face", desc="evaluating", disable=None if progress else True) as bar:
        for number, face in enumerate(faces):
            if face.image_path != path:
                path, image = face.image_path, _read(face.image_path)
                held += image.nbytes
            numbers.append(number)
            images.append(image)
            if len(numbers) == BATCH or held >= _BATCH_BYTES or number == len(faces) - 1:
                yield numbers, images
                bar.update(len(numbers))
                numbers, images, held = [], [], 0


def _read(path: Path) -> NDArray[np.uint8]:
    """A photograph; figures of a part of a set would be no figures of the set, so a damaged one ends the work."""
    try:
        return read_image(path)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; fetch it again, or take it out together with its label") from None
