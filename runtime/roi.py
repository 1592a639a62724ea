"""The square region of a face, the crop that is cut from it, and the exact way back.

Points in images and crops alike use OpenCV's numbering: the centre of the top-left pixel is (0, 0), x right, y down. A
region of centre c and side d and its crop of S pixels cover the same area: for a point x of the image and u of the crop

    u = (x - c) · S / d + (S - 1) / 2        (z scales by S / d)

Resampling is bilinear with edge pixels replicated. Where the region is more than twice as large as the crop, the image
is first averaged over blocks of n × n pixels, n = ⌊d / S⌋, on a grid anchored at the image's top-left corner, so that
large faces do not alias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime import compiled
from runtime.errors import InvalidInputError
from runtime.image import as_bgr

_LIMIT = 1e9  # pixels: beyond any image, well within what a warp's arithmetic holds


@dataclass(frozen=True, kw_only=True)
class Roi:
    """A square region of interest in image pixels: centre and side."""

    center_x: float
    center_y: float
    side: float

    def __post_init__(self) -> None:
        if not all(abs(v) < _LIMIT for v in (self.center_x, self.center_y, self.side)) or self.side <= 0:
            raise InvalidInputError(f"region: expected numbers below {_LIMIT:g} and a side above 0, got {self}")

    @classmethod
    def from_landmarks(cls, points: ArrayLike) -> Roi:
        """Region of landmarks (N, 2 or 3): the bounding box's middle; √2 times its longer side (3DDFA's rule)."""
        xy = np.asarray(points, dtype=np.float64)
        if xy.ndim != 2 or len(xy) < 2 or xy.shape[1] < 2 or not np.isfinite(xy[:, :2]).all():
            raise InvalidInputError(f"landmarks: expected finite points of shape (N, 2), got shape {xy.shape}")
        low, high = xy[:, :2].min(axis=0), xy[:, :2].max(axis=0)
        center_x, center_y = (float(v) for v in (low + high) / 2)
        return cls(center_x=center_x, center_y=center_y, side=float((high - low).max()) * math.sqrt(2))

    @classmethod
    def from_box(cls, box: ArrayLike) -> Roi:
        """Region of a tight face box (x, y, w, h): brows to chin and cheek to cheek, as landmarks span it.

        Raises:
            InvalidInputError: not four finite numbers, or no area.
        """
        x, y, w, h = check_box(box)
        return cls.from_landmarks([(x, y), (x + w, y + h)])

    def to_crop(self, points: ArrayLike, size: int) -> NDArray[Any]:
        """Image points (…, 2 or 3) in the frame of this region's crop of `size` pixels."""
        values = np.asarray(points)
        center, offset = self._origins(values.shape[-1], size)
        return _like((values - center) * (size / self.side) + offset, values)

    def to_image(self, points: ArrayLike, size: int) -> NDArray[Any]:
        """The inverse of `to_crop`: crop points (…, 2 or 3) in the image's frame."""
        values = np.asarray(points)
        center, offset = self._origins(values.shape[-1], size)
        return _like((values - offset) * (self.side / size) + center, values)

    def _origins(self, dimensions: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The region's middle in the image and in the crop, as points of 2 or 3 dimensions."""
        center = np.array([self.center_x, self.center_y, 0.0], dtype=np.float64)
        offset = np.array([(size - 1) / 2, (size - 1) / 2, 0.0])
        return center[:dimensions], offset[:dimensions]


def _like(points: NDArray[Any], given: NDArray[Any]) -> NDArray[Any]:
    """`points` in the precision that came in; integers become float64."""
    return np.asarray(points, dtype=given.dtype if given.dtype.kind == "f" else np.float64)


def check_box(box: ArrayLike) -> tuple[float, float, float, float]:
    """Four finite numbers (x, y, w, h) with w, h > 0, or an `InvalidInputError`."""
    try:
        values = np.asarray(box, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInputError(f"box: expected four numbers (x, y, w, h), got {box!r}") from None
    if values.shape != (4,) or not np.isfinite(values).all():
        raise InvalidInputError(f"box: expected four finite numbers (x, y, w, h), got {box!r}")
    x, y, w, h = (float(v) for v in values)
    if w <= 0 or h <= 0:
        raise InvalidInputError(f"box: expected a width and height above 0, got {w:g} x {h:g}; drop empty boxes")
    return x, y, w, h


def crop(image: NDArray[np.uint8], rois: Sequence[Roi], size: int) -> NDArray[np.uint8]:
    """Cuts `rois` from `image` into uint8 (B, size, size, 3), BGR.

    Raises:
        InvalidInputError: the image is no image (see `as_bgr`), or the size is below 1.
    """
    source = as_bgr(image)
    if size < 1:
        raise InvalidInputError(f"crop size: expected at least 1 pixel, got {size}")
    if compiled.cln_cpp is not None:
        regions = np.array([(roi.center_x, roi.center_y, roi.side) for roi in rois], dtype=np.float64)
        return np.asarray(compiled.cln_cpp.crop(source, regions.reshape(-1, 3), int(size)), dtype=np.uint8)
    crops = np.empty((len(rois), size, size, 3), dtype=np.uint8)
    for roi, out in zip(rois, crops, strict=True):  # one C call per face, straight into its place in the batch
        _warp(source, roi, out)
    return crops


def _warp(image: NDArray[np.uint8], roi: Roi, out: NDArray[np.uint8]) -> None:
    size = len(out)
    scale = roi.side / size
    block = min(math.floor(scale), *image.shape[:2]) if scale > 2 else 1
    # The image point of crop pixel (0, 0): what `to_image` gives, in plain floats.
    left, top = roi.center_x - (size - 1) / 2 * scale, roi.center_y - (size - 1) / 2 * scale
    if block > 1:
        image, first_x, first_y = _average(image, roi, block)
        left, top = (left + 0.5) / block - 0.5 - first_x, (top + 0.5) / block - 0.5 - first_y
        scale /= block
    matrix = np.array([[scale, 0.0, left], [0.0, scale, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, matrix, (size, size), dst=out, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _average(image: NDArray[np.uint8], roi: Roi, block: int) -> tuple[NDArray[np.uint8], int, int]:
    """Block means of the part of `image` that `roi` needs, and the index of that part's first block along x and y."""
    spans = []
    for center, length in ((roi.center_x, image.shape[1]), (roi.center_y, image.shape[0])):
        blocks = -(-length // block)
        # Two blocks of margin for the bilinear taps; one block must remain even where the region misses the image.
        first = min(max(math.floor((center - roi.side / 2) / block) - 2, 0), blocks - 1)
        last = max(min(math.ceil((center + roi.side / 2) / block) + 2, blocks), first + 1)
        spans.append((first, last))
    (x0, x1), (y0, y1) = spans
    part = image[y0 * block : y1 * block, x0 * block : x1 * block]
    pad_y, pad_x = (y1 - y0) * block - part.shape[0], (x1 - x0) * block - part.shape[1]
    if pad_x or pad_y:
        part = cv2.copyMakeBorder(part, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    averaged = cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return np.asarray(averaged, dtype=np.uint8), x0, y0
