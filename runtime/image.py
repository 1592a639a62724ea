"""What an image may be: uint8 (H, W, 3) in BGR order, as OpenCV reads it. Grey and BGRA are converted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError, InvalidInputError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".gif"),
    *(".jp2", ".pbm", ".pgm", ".ppm", ".pnm"),
)
"""Files of these suffixes are images, in lower case; what is in them decides how they are read."""
# OpenCV addresses pixels of a warp's source with 16-bit integers.
MAX_SIDE = 32766
MAX_BYTES = 1 << 30
"""Of an image file."""


def as_bgr(image: Any) -> NDArray[np.uint8]:
    """Returns `image` as uint8 (H, W, 3) BGR; no copy where it already is.

    Args:
        image: uint8 array of shape (H, W), (H, W, 1), (H, W, 3) in BGR or (H, W, 4) in BGRA.

    Raises:
        InvalidInputError: not an array, another type or shape, empty, or a side over 32766 pixels.
    """
    if not isinstance(image, np.ndarray):
        raise InvalidInputError(
            f"image: expected a uint8 array of shape (H, W, 3), got {type(image).__name__}; "
            "read files with runtime.read_image(path)"
        )
    if image.dtype != np.uint8:
        raise InvalidInputError(f"image: expected dtype uint8 (0..255), got {image.dtype}; scale and convert it first")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise InvalidInputError(f"image: expected shape (H, W), (H, W, 3) or (H, W, 4), got {image.shape}")
    height, width, *channels = image.shape
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise InvalidInputError(f"image: expected sides of 1..{MAX_SIDE} pixels, got {width} x {height}")
    if channels == [3]:
        return image
    code = cv2.COLOR_BGRA2BGR if channels == [4] else cv2.COLOR_GRAY2BGR
    return np.asarray(cv2.cvtColor(image, code), dtype=np.uint8)


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Reads an image file as uint8 (H, W, 3) BGR, turned upright as its EXIF tag says.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: OpenCV cannot decode it.
    """
    return decode_image(read_bytes(path), name=os.fspath(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of an image file.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is larger than any image.
        OSError: it cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected an image file, found none; check the path")
    if (size := file.stat().st_size) > MAX_BYTES:
        raise FileFormatError(f"{file}: expected an image file of at most {MAX_BYTES} bytes, got {size}")
    return file.read_bytes()


def decode_image(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """Decodes a file's content (JPEG, PNG, …) as `read_image` does; `name` is used in errors.

    Raises:
        FileFormatError: OpenCV cannot decode it.
    """
    encoded = np.frombuffer(data, dtype=np.uint8)
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except cv2.error:  # OpenCV refuses some damaged headers by raising instead of returning None
        image = None
    if image is None:
        raise FileFormatError(
            f"{name}: expected an image (JPEG, PNG, …), got {encoded.size} bytes that OpenCV cannot decode"
        )
    return np.asarray(image, dtype=np.uint8)
