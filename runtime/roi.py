"""The square region of a face, the crop that is cut from it, and the exact way back.

Points in images and crops alike use OpenCV's numbering: the centre of the top-left pixel is (0, 0), x right, y down. A
region of centre c and side d and its crop of S pixels cover the same area: for a point x of the image and u of the crop

    x = c + (u - (S - 1) / 2) · d / S        (z scales by d / S)

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
        if not (abs(self.center_x) < _LIMIT and abs(self.center_y) < _LIMIT and 0 < self.side < _LIMIT):
            raise InvalidInputError(f"region: expected numbers below {_LIMIT:g} and a side above 0, got {self}")

    @classmethod
    def from_landmarks(cls, points: ArrayLike) -> Roi:
        """Region of landmarks (N, 2 or 3): the bounding box's middle; √2 times its longer side (3DDFA's rule)."""
        xy = np.asarray(points, dtype=np.float64)
        if xy.ndim != 2 or len(xy) < 2 or xy.shape[1] < 2 or not np.isfinite(xy[:, :2]).all():
            raise InvalidInputError(f"landmarks: expected finite points of shape (N, 2), got shape {xy.shape}")
        return cls._around(*xy[:, :2].min(axis=0).tolist(), *xy[:, :2].max(axis=0).tolist())

    @classmethod
    def from_box(cls, box: ArrayLike) -> Roi:
        """Region of a tight face box (x, y, w, h): brows to chin and cheek to cheek, as landmarks span it.

        Raises:
            InvalidInputError: not four finite numbers, or no area.
        """
        x, y, w, h = check_box(box)
        return cls._around(x, y, x + w, y + h)

    @classmethod
    def _around(cls, left: float, top: float, right: float, bottom: float) -> Roi:
        longer = max(right - left, bottom - top)
        return cls(center_x=(left + right) / 2, center_y=(top + bottom) / 2, side=longer * math.sqrt(2))

    def to_crop(self, points: ArrayLike, size: int) -> NDArray[Any]:
        """Image points (…, 2 or 3) in the frame of this region's crop of `size` pixels."""
        values = np.asarray(points)
        scale, left, top = self.placement(size)
        return _like((values - np.array((left, top, 0.0))[: values.shape[-1]]) / scale, values)

    def to_image(self, points: ArrayLike, size: int) -> NDArray[Any]:
        """The inverse of `to_crop`: crop points (…, 2 or 3) in the image's frame."""
        values = np.asarray(points)
        scale, left, top = self.placement(size)
        return _like(values.astype(np.float64) * scale + np.array((left, top, 0.0))[: values.shape[-1]], values)

    def placement(self, size: int) -> tuple[float, float, float]:
        """Image pixels per crop pixel, and the image point x, y of crop pixel (0, 0)."""
        scale = self.side / size
        reach = (size - 1) / 2 * scale
        return scale, self.center_x - reach, self.center_y - reach


def to_image(points: NDArray[np.float32], rois: Sequence[Roi], size: int) -> NDArray[np.float32]:
    """Points (F, N, 3) of the crops of several regions in the image's frame: `Roi.to_image` for all at once."""
    placed = np.array([(*roi.placement(size), 0.0) for roi in rois]).reshape(-1, 1, 4)
    return np.asarray(points * placed[..., :1] + placed[..., 1:], dtype=np.float32)


def _like(points: NDArray[Any], given: NDArray[Any]) -> NDArray[Any]:
    """`points` in the precision that came in; integers become float64."""
    return np.asarray(points, dtype=given.dtype if given.dtype.kind == "f" else np.float64)


def check_box(box: ArrayLike) -> tuple[float, float, float, float]:
    """Four finite numbers (x, y, w, h) with w, h > 0, or an `InvalidInputError`."""
    try:
        x, y, w, h = map(float, box)  # type: ignore[arg-type]  # what can't be iterated is refused below
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"box: expected four numbers (x, y, w, h), got {box!r}") from None
    if not all(map(math.isfinite, (x, y, w, h))):
        raise InvalidInputError(f"box: expected four finite numbers (x, y, w, h), got {box!r}")
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
    scale, left, top = roi.placement(size)
    block = min(math.floor(scale), *image.shape[:2]) if scale > 2 else 1
    if block == 1:
        _sample(image, scale, left, top, size, out)
        return
    averaged, first_x, first_y = _average(image, roi, block)
    left, top = (left + 0.5) / block - 0.5 - first_x, (top + 0.5) / block - 0.5 - first_y
    # OpenCV samples four channels in less than half the time that three take, to the same bytes.
    four = cv2.cvtColor(averaged, cv2.COLOR_BGR2BGRA)
    cv2.cvtColor(_sample(four, scale / block, left, top, size), cv2.COLOR_BGRA2BGR, dst=out)


def _sample(image: Any, scale: float, left: float, top: float, size: int, out: Any = None) -> Any:
    """The image at (left + scale · u, top + scale · v) for each pixel (u, v) of a square of `size`; into `out`."""
    matrix = np.array(((scale, 0.0, left), (0.0, scale, top)))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (size, size), dst=out, flags=flags, borderMode=cv2.BORDER_REPLICATE)


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
