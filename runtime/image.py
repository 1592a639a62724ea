"""What an image may be: uint8 (H, W, 3) in BGR order, as OpenCV reads it. Grey and BGRA are converted.

All coordinates, of boxes, labels and results, are pixels of the upright image: turned as the file's EXIF tag (or its
counterpart in AVIF and HEIC) says. docs/formats.md has a table of what is read.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import EngineUnavailableError, FileFormatError, InvalidInputError
from runtime.image_header import Header, read_header

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".gif"),
    *(".jp2", ".pbm", ".pgm", ".ppm", ".pnm"),
)
"""Files of these suffixes are images, in lower case; what is in them decides how they are read."""
# OpenCV addresses pixels of a warp's source with 16-bit integers.
MAX_SIDE = 32766
MAX_PIXELS = 200_000_000
"""Of an image file: what fits the largest phone cameras, decoded within two gigabytes."""
MAX_BYTES = 1 << 30
"""Of an image file."""
_LIBJPEG = re.compile("Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid SOS")
_LIBPNG = re.compile("libpng (error|warning)")
_HEAD = 1 << 16  # bytes in which most formats' headers lie


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
    """Reads an image file as uint8 (H, W, 3) BGR, turned upright as it says itself.

    Deeper colours are cut to 8 bits, transparency is dropped, of several pictures in a file the first is read.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError, EngineUnavailableError: see `decode_image`.
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
        FileFormatError: it is no image, of a format that is not read, damaged, or larger than `MAX_PIXELS`.
        EngineUnavailableError: it is HEIC, and neither pi-heif nor pillow-heif is installed.
    """
    header = read_header(data)
    if header is not None:
        _check_size(header.width, header.height, name)
    image: Any = None
    if header is not None and header.format == "HEIC":
        image = _decode_heic(data, name)
    elif header is not None:
        try:
            image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:  # OpenCV refuses some damaged headers by raising instead of returning None
            image = None
    if image is None or header is None:
        kind = f" ({header.format})" if header else ""
        raise FileFormatError(
            f"{name}: expected an image (JPEG, PNG, …), got {len(data)} bytes{kind} that OpenCV cannot decode; "
            f"{'the file is damaged or cut off' if header else 'docs/formats.md lists what is read'}"
        )
    return _turned(np.asarray(image, dtype=np.uint8), header)


def decode_noted(data: bytes, *, name: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """`decode_image`, and what its decoder found wrong with a file that it could patch up: half a JPEG is grey below.

    libjpeg tells that on standard error alone, which is listened to meanwhile: for programs that decode in one thread.
    What others write there meanwhile is passed on.

    Raises:
        FileFormatError, EngineUnavailableError: see `decode_image`.
    """
    with _standard_error() as lines:
        image = decode_image(data, name=name)
    said = dict.fromkeys(line.strip() for line in lines if _LIBJPEG.match(line))
    return image, tuple(f"damaged, a part of the picture may be missing ({text})" for text in said)


@contextlib.contextmanager
def _standard_error() -> Iterator[list[str]]:
    """What is written to the process's standard error, line by line, once it is left."""
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            written = stack.enter_context(tempfile.TemporaryFile())
            before = os.dup(2)
        except OSError:  # no folder for temporary files, or standard error is closed: not listened to
            yield lines
            return
        os.dup2(written.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(before, 2)
            os.close(before)
            written.seek(0)
            for raw in written.read().splitlines(keepends=True):
                line = raw.decode(errors="replace")
                lines.append(line)
                if not (_LIBJPEG.match(line) or _LIBPNG.match(line)):
                    os.write(2, raw)


def _check_size(width: int, height: int, name: str) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise FileFormatError(
            f"{name}: expected an image with sides of 1..{MAX_SIDE} pixels and at most {MAX_PIXELS // 10**6} million "
            f"in all, got {width} x {height}; scale it down first"
        )


def _turned(image: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    """AVIF upright; of all other formats the decoder has done it."""
    if header.format != "AVIF" or not header.turns:
        return image
    if header.width != header.height and image.shape[:2] == header.upright_size[::-1] != (header.height, header.width):
        return image  # the decoder has done it
    for kind, number in header.turns:
        image = np.rot90(image, number) if kind == "irot" else np.flip(image, number)
    return np.ascontiguousarray(image)


def _decode_heic(data: bytes, name: str) -> NDArray[np.uint8] | None:
    heif = _heif_package()
    if heif is None:
        raise EngineUnavailableError(
            f"{name}: HEIC needs the package pi-heif; install it with: pip install 'cln[heic]', or convert the file"
        )
    try:
        decoded = heif.read_heif(io.BytesIO(data), convert_hdr_to_8bit=True, bgr_mode=True)
        pixels = np.asarray(decoded)
    except (OSError, ValueError, RuntimeError, EOFError, SyntaxError):  # what libheif refuses comes as any of these
        return None
    return as_bgr(pixels)


def _heif_package() -> Any:
    """The one that is installed, or nothing."""
    for package in ("pi_heif", "pillow_heif"):
        try:
            return importlib.import_module(package)
        except ImportError:
            continue
    return None


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of an image file as `read_image` gives it: from its header, or else by decoding it.

    Raises:
        FileNotFoundError, FileFormatError: see `read_image`.
    """
    with open(path, "rb") as file:
        header = read_header(file.read(_HEAD))
    if header is None or header.format in ("PNG", "WebP"):  # their turn may stand at the end
        header = read_header(read_bytes(path))
    if header is not None:
        return header.upright_size
    height, width = read_image(path).shape[:2]
    return width, height
