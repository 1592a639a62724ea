"""The square region of a face, the crop that is cut from it, and the exact way back.

Points in images and crops alike use OpenCV's numbering: the centre of the top-left pixel is (0, 0), x right, y down. A
region of centre c, side d and angle a and its crop of S pixels cover the same area: for a point x of the image and u of
the crop

    x = c + R(a) · (u - (S - 1) / 2) · d / S,    R(a) = [[cos a, -sin a], [sin a, cos a]]        (z scales by d / S)

so that the region's own x axis is turned by a against the image's, clockwise as seen.

Resampling is bilinear with edge pixels replicated. Where the region is more than twice as large as the crop, the image
is first averaged over blocks of n × n pixels, n = ⌊d / S⌋, on a grid anchored at the image's top-left corner, so that
large faces do not alias; a turned region is sampled from the same upright blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """A square region of interest in image pixels: centre, side, and turn in degrees, clockwise as seen."""

    center_x: float
    center_y: float
    side: float
    angle: float = 0.0

    def __post_init__(self) -> None:
        where = abs(self.center_x) < _LIMIT and abs(self.center_y) < _LIMIT and abs(self.angle) < _LIMIT
        if not (where and 0 < self.side < _LIMIT):
            raise InvalidInputError(f"region: expected numbers below {_LIMIT:g} and a side above 0, got {self}")

    @classmethod
    def from_landmarks(cls, points: ArrayLike, *, angle: float = 0.0) -> Roi:
        """Region of landmarks (N, 2 or 3): the bounding box's middle; √2 times its longer side (3DDFA's rule).

        With an angle, the bounding box is the one whose sides are turned by it, and so is the region.
        """
        xy = np.asarray(points, dtype=np.float64)
        if xy.ndim != 2 or len(xy) < 2 or xy.shape[1] < 2 or not np.isfinite(xy[:, :2]).all():
            raise InvalidInputError(f"landmarks: expected finite points of shape (N, 2), got shape {xy.shape}")
        return rois_from_landmarks(xy[np.newaxis], [angle])[0]

    @classmethod
    def from_box(cls, box: ArrayLike) -> Roi:
        """Region of a tight face box: brows to chin and cheek to cheek, as landmarks span it.

        The box is (x, y, w, h), or (x, y, w, h, angle): the same box turned about its middle, degrees clockwise.

        Raises:
            InvalidInputError: not four or five finite numbers, or no area.
        """
        (x, y, w, h), angle = split_box(box)
        roi = cls._around(np.array((x, y)), np.array((x + w, y + h)))
        return replace(roi, angle=angle) if angle else roi

    @classmethod
    def _around(cls, low: NDArray[np.float64], high: NDArray[np.float64]) -> Roi:
        center_x, center_y = ((low + high) / 2).tolist()
        return cls(center_x=center_x, center_y=center_y, side=float((high - low).max()) * math.sqrt(2))

    def to_crop(self, points: ArrayLike, size: int) -> NDArray[Any]:
        """Image points (…, 2 or 3) in the frame of this region's crop of `size` pixels."""
        values = np.asarray(points)
        linear, offset = self.map(size)
        back = linear / linear[2, 2] ** 2  # the transpose of the inverse: `linear` is a scaled rotation
        n = values.shape[-1]
        return _like((values - offset[:n]) @ back[:n, :n], values)

    def to_image(self, points: ArrayLike, size: int) -> NDArray[Any]:
        """The inverse of `to_crop`: crop points (…, 2 or 3) in the image's frame."""
        values = np.asarray(points)
        linear, offset = self.map(size)
        n = values.shape[-1]
        return _like(values.astype(np.float64) @ linear[:n, :n].T + offset[:n], values)

    def matrix(self, size: int) -> NDArray[np.float64]:
        """The affine map (2, 3) from pixels of this region's crop of `size` pixels to the image's."""
        scale, turn = self.side / size, math.radians(self.angle)
        c, s, reach = scale * math.cos(turn), scale * math.sin(turn), (size - 1) / 2
        left, top = self.center_x - (c - s) * reach, self.center_y - (s + c) * reach
        return np.array(((c, -s, left), (s, c, top)))

    @property
    def reach(self) -> float:
        """How far the region goes from its centre, along x and y alike."""
        turn = math.radians(self.angle)
        return self.side / 2 * (abs(math.cos(turn)) + abs(math.sin(turn)))

    def map(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`matrix` for points with z: a scaled rotation (3, 3) and an offset (3,)."""
        linear, offset = maps([self], size)
        return linear[0], offset[0]


def maps(rois: Sequence[Roi], size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`Roi.map` of several regions at once: scaled rotations (F, 3, 3) and offsets (F, 3)."""
    matrices = np.array([roi.matrix(size) for roi in rois]).reshape(-1, 2, 3)
    linear, offset = np.zeros((len(rois), 3, 3)), np.zeros((len(rois), 3))
    linear[:, :2, :2], offset[:, :2] = matrices[:, :, :2], matrices[:, :, 2]
    linear[:, 2, 2] = [roi.side / size for roi in rois]
    return linear, offset


def to_image(
    points: NDArray[np.float32], linear: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Points (F, N, 3) of the crops of several regions in the image's frame, by the regions' `maps`."""
    placed = points.astype(np.float64) @ linear.transpose(0, 2, 1) + offset[:, np.newaxis]
    return np.asarray(placed, dtype=np.float32)


def rois_from_landmarks(points: NDArray[np.floating], angles: Sequence[float]) -> list[Roi]:
    """`Roi.from_landmarks` of several faces' landmarks (F, N, 2 or 3), each with its angle, at once."""
    turn = np.radians(angles)
    c, s = np.cos(turn), np.sin(turn)
    axes: NDArray[np.float64] = np.array(((c, -s), (s, c))).transpose(2, 0, 1)  # (F, 2, 2)
    along = points[:, :, :2].astype(np.float64) @ axes
    low, high = along.min(axis=1), along.max(axis=1)
    centers = axes @ ((low + high) / 2)[:, :, np.newaxis]
    sides = (high - low).max(axis=1) * math.sqrt(2)
    return [
        Roi(center_x=x, center_y=y, side=side, angle=angle)
        for (x, y), side, angle in zip(centers[:, :, 0].tolist(), sides.tolist(), angles, strict=True)
    ]


def on_grid(roi: Roi) -> Roi:
    """The nearest region on a grid of about 1/256 of its side and 1/4 degree.

    A crop's rounding makes a hundredth of a pixel out of a region's ten-thousandth, which the next region then differs
    by, and so on: regions on a grid are equal again as soon as they are near, in whatever language they are computed.
    """
    unit = 2.0 ** (round(math.log2(roi.side)) - 8)
    center_x, center_y, side = (unit * round(value / unit) for value in (roi.center_x, roi.center_y, roi.side))
    return Roi(center_x=center_x, center_y=center_y, side=side, angle=round(4 * roi.angle) / 4)


def _rotation(angle: float) -> NDArray[np.float64]:
    """R (2, 2) of the module's docstring: its columns are the region's axes in the image."""
    turn = math.radians(angle)
    c, s = math.cos(turn), math.sin(turn)
    return np.array(((c, -s), (s, c)))


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


def split_box(box: ArrayLike) -> tuple[tuple[float, float, float, float], float]:
    """(x, y, w, h) and the angle of a box of four or five numbers, checked as `check_box` does."""
    try:
        values = list(map(float, box))  # type: ignore[arg-type]  # what can't be iterated is refused below
    except (TypeError, ValueError, OverflowError):
        values = []
    if len(values) != 5:
        return check_box(box), 0.0
    if not math.isfinite(values[4]):
        raise InvalidInputError(f"box: expected a finite angle as the fifth number, got {box!r}")
    return check_box(values[:4]), values[4]


def check_overlap(boxes: Sequence[ArrayLike], *, width: int, height: int) -> None:
    """Boxes of an image of these sides, each as `split_box` takes it.

    Raises:
        InvalidInputError: one is wholly outside, where no face can be: such boxes were made for another image or size.
    """
    for number, box in enumerate(boxes):
        (x, y, w, h), angle = split_box(box)
        c, s = (abs(v) for v in _rotation(angle)[0])
        reach_x, reach_y = (c * w + s * h) / 2, (s * w + c * h) / 2
        if not (
            abs(x + w / 2 - width / 2) < width / 2 + reach_x and abs(y + h / 2 - height / 2) < height / 2 + reach_y
        ):
            raise InvalidInputError(
                f"box {number}: expected a box that overlaps the image of {width} x {height} pixels, "
                f"got x {x:g}, y {y:g}, {w:g} x {h:g}; was it made for this image, at this size?"
            )


def crop(image: NDArray[np.uint8], rois: Sequence[Roi], size: int) -> NDArray[np.uint8]:
    """Cuts `rois` from `image` into uint8 (B, size, size, 3), BGR.

    Raises:
        InvalidInputError: the image is no image (see `as_bgr`), or the size is below 1.
    """
    source = as_bgr(image)
    if size < 1:
        raise InvalidInputError(f"crop size: expected at least 1 pixel, got {size}")
    if compiled.cln_cpp is not None:
        regions = np.array([(roi.center_x, roi.center_y, roi.side, roi.angle) for roi in rois], dtype=np.float64)
        return np.asarray(compiled.cln_cpp.crop(source, regions.reshape(-1, 4), int(size)), dtype=np.uint8)
    crops = np.empty((len(rois), size, size, 3), dtype=np.uint8)
    for roi, out in zip(rois, crops, strict=True):  # one C call per face, straight into its place in the batch
        _warp(source, roi, out)
    return crops


def crop_through(image: ArrayLike, homography: NDArray[np.float64], side: float, size: int) -> NDArray[np.uint8]:
    """Cuts a square out of an image as a turned camera would see it: uint8 (size, size, 3), resampled as `crop` does.

    Args:
        image: as for `crop`.
        homography: (3, 3) from the square's pixels to the image's, finite all over the square.
        side: of the part of the image that it shows, image pixels: about `size` times one of its pixels.
        size: of the square.

    Raises:
        InvalidInputError: as `crop` does.
    """
    source, last = as_bgr(image), size - 0.5
    corners = np.array([(-0.5, -0.5, 1), (last, -0.5, 1), (last, last, 1), (-0.5, last, 1)]) @ homography.T
    outline = corners[:, :2] / corners[:, 2:]
    (x, y), reach = (outline.min(axis=0) + outline.max(axis=0)) / 2, float(np.ptp(outline, axis=0).max())
    out = np.empty((size, size, 3), dtype=np.uint8)
    _sample_into(out, source, homography.copy(), side / size, Roi(center_x=float(x), center_y=float(y), side=reach))
    return out


def _warp(image: NDArray[np.uint8], roi: Roi, out: NDArray[np.uint8]) -> None:
    _sample_into(out, image, roi.matrix(len(out)), roi.side / len(out), roi)


def _sample_into(
    out: NDArray[np.uint8], image: NDArray[np.uint8], matrix: NDArray[np.float64], scale: float, roi: Roi
) -> None:
    """The image at `matrix` · (u, v, 1), which lies in `roi`, for each pixel (u, v); `scale` image pixels wide each."""
    block = min(math.floor(scale), *image.shape[:2]) if scale > 2 else 1
    # OpenCV samples four channels in less than half the time that three take, to the same bytes.
    if block == 1:
        four = _four_channels(image, roi)
    else:
        averaged, *first = _average(image, roi, block)
        if len(matrix) == 2:
            matrix[:, 2] += 0.5
            matrix /= block
            matrix[:, 2] -= 0.5 + np.array(first)
        else:
            matrix[:2] = (matrix[:2] + 0.5 * matrix[2]) / block - np.outer(0.5 + np.array(first), matrix[2])
        four = cv2.cvtColor(averaged, cv2.COLOR_BGR2BGRA)  # type: ignore[assignment]
    cv2.cvtColor(_sample(four, matrix, len(out)), cv2.COLOR_BGRA2BGR, dst=out)


def _four_channels(image: NDArray[np.uint8], roi: Roi) -> NDArray[np.uint8]:
    """The image as BGRA, filled in where `roi` needs it alone; all of its size, as an offset would round otherwise."""
    four = np.empty((*image.shape[:2], 4), np.uint8)
    spans = []
    for center, length in ((roi.center_y, len(image)), (roi.center_x, image.shape[1])):
        first = min(max(math.floor(center - roi.reach) - 2, 0), length - 1)  # with margin for the bilinear taps
        spans.append(slice(first, max(min(math.ceil(center + roi.reach) + 3, length), first + 1)))
    rows, columns = spans
    cv2.cvtColor(image[rows, columns], cv2.COLOR_BGR2BGRA, dst=four[rows, columns])
    return four


def _sample(image: Any, matrix: NDArray[np.float64], size: int) -> Any:
    """The image at `matrix` · (u, v, 1) for each pixel (u, v) of a square of `size`: affine (2, 3), or a homography."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warp = cv2.warpAffine if len(matrix) == 2 else cv2.warpPerspective
    return warp(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _average(image: NDArray[np.uint8], roi: Roi, block: int) -> tuple[NDArray[np.uint8], int, int]:
    """Block means of the part of `image` that `roi` needs, and the index of that part's first block along x and y."""
    spans = []
    for center, length in ((roi.center_x, image.shape[1]), (roi.center_y, image.shape[0])):
        blocks = -(-length // block)
        # Two blocks of margin for the bilinear taps; one block must remain even where the region misses the image.
        first = min(max(math.floor((center - roi.reach) / block) - 2, 0), blocks - 1)
        last = max(min(math.ceil((center + roi.reach) / block) + 2, blocks), first + 1)
        spans.append((first, last))
    (x0, x1), (y0, y1) = spans
    part = image[y0 * block : y1 * block, x0 * block : x1 * block]
    pad_y, pad_x = (y1 - y0) * block - part.shape[0], (x1 - x0) * block - part.shape[1]
    if pad_x or pad_y:
        part = cv2.copyMakeBorder(part, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    averaged = cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return np.asarray(averaged, dtype=np.uint8), x0, y0
