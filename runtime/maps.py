"""Maps of faces: a number or a colour for each pixel of the image, or of a face's crop.

`shape` says which: (height, width) is the image that the faces were found in, a single number the side of one face's
crop (`runtime.roi`). Of faces that overlap the larger one is in front. Where no face is: NaN in depth, zeros in normals
and PNCC, -1 in triangle numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.drawing import window
from runtime.errors import InvalidInputError
from runtime.face import Face
from runtime.image import MAX_SIDE
from runtime.rasterizer import Raster, rasterize, vertex_normals

Shape = tuple[int, int] | int
FloatMap = NDArray[np.float32]


def depth_map(faces: Face | Sequence[Face], shape: Shape) -> FloatMap:
    """Float32 (H, W): millimetres towards the viewer from the origin of the face's model, NaN where no face is.

    Relative, not metric: counted in the face model's millimetres, from the face's own middle (see `face.metric_pose`
    for distances from a camera).
    """

    def values(face: Face, raster: Raster) -> FloatMap:
        scale, origin = _depth_scale(face, shape)
        return np.asarray((raster.depth - origin) / scale, dtype=np.float32)

    return _compose(faces, shape, values, np.nan, 0)


def normal_map(faces: Face | Sequence[Face], shape: Shape) -> FloatMap:
    """Float32 (H, W, 3): the surface's unit normal: x right, y up, z towards the viewer; zeros where no face is."""

    def values(face: Face, raster: Raster) -> FloatMap:
        normals = vertex_normals(raster.vertices, raster.triangles) * np.array([1, -1, 1], dtype=np.float32)
        return raster.interpolate(normals, unit=True)

    return _compose(faces, shape, values, 0.0, 3)


def pncc_map(faces: Face | Sequence[Face], shape: Shape) -> FloatMap:
    """Float32 (H, W, 3): the projected normalised coordinate code (Zhu et al. 2016, arXiv 1511.07212, section 3.2).

    Each point of the surface carries where it lies on the mean face: x, y, z from 0 to 1 over the mean face's extent.
    Zeros where no face is.
    """

    def values(face: Face, raster: Raster) -> FloatMap:
        mean = face.model.mean
        return raster.interpolate((mean - mean.min(axis=0)) / np.ptp(mean, axis=0))

    return _compose(faces, shape, values, 0.0, 3)


def triangle_map(faces: Face | Sequence[Face], shape: Shape) -> NDArray[np.int32]:
    """Int32 (H, W): the number of the triangle (`face.triangles`) that a pixel shows, -1 where no face is."""
    return _compose(faces, shape, lambda face, raster: raster.triangle, -1, 0, np.int32)


def depth_picture(depth: FloatMap) -> NDArray[np.uint8]:
    """Uint8 (H, W) to look at: the nearest 255, the farthest 40, black where no face is."""
    known = np.isfinite(depth)
    if not known.any():
        return np.zeros(depth.shape, dtype=np.uint8)
    low, high = float(depth[known].min()), float(depth[known].max())
    levels = 40 + 215 * (np.where(known, depth, low) - low) / max(high - low, 1e-6)
    return np.where(known, levels + 0.5, 0).astype(np.uint8)


def normal_picture(normals: FloatMap) -> NDArray[np.uint8]:
    """Uint8 (H, W, 3), BGR: red, green, blue are x, y, z from -1 to 1; black where no face is."""
    colors = cv2.cvtColor(normals, cv2.COLOR_RGB2BGR)
    levels = colors * 127.5 + 128
    return np.where((normals == 0).all(axis=2)[..., None], 0, levels).astype(np.uint8)


def color_picture(colors: FloatMap) -> NDArray[np.uint8]:
    """Uint8 (H, W, 3), BGR, of a map of three channels from 0 to 1 such as PNCC: red, green, blue are x, y, z."""
    return np.asarray(np.clip(cv2.cvtColor(colors, cv2.COLOR_RGB2BGR) * 255 + 0.5, 0, 255), dtype=np.uint8)


def raster_of(face: Face, shape: Shape) -> tuple[Raster, tuple[int, int]] | None:
    """The face drawn into the part of the image, or of its crop, that it covers, and that part's left and top."""
    side = _side(shape)
    vertices = face.vertices if side is None else face.roi.to_crop(face.vertices, side)
    place = window(vertices, _size(shape))
    if place is None:
        return None
    left, top, right, bottom = place
    moved = vertices - np.array([left, top, 0], dtype=np.float32)
    return rasterize(moved, face.triangles, (bottom - top, right - left)), (left, top)


def _depth_scale(face: Face, shape: Shape) -> tuple[float, float]:
    """Pixels per millimetre, and z of the model's origin, in the image's frame or in a crop's."""
    side = _side(shape)
    ratio = 1.0 if side is None else side / face.roi.side
    return face.pose.scale * ratio, float(face.params[11]) * face.roi.side / face.crop_size * ratio


def _compose(
    faces: Face | Sequence[Face],
    shape: Shape,
    values: Callable[[Face, Raster], NDArray[Any]],
    empty: float,
    channels: int,
    dtype: type = np.float32,
) -> NDArray[Any]:
    several = [faces] if isinstance(faces, Face) else sorted(faces, key=lambda face: face.roi.side)
    _check_shape(shape, len(several))
    height, width = _size(shape)
    out: NDArray[Any] = np.full((height, width, channels) if channels else (height, width), empty, dtype=dtype)
    for face in several:
        drawn = raster_of(face, shape)
        if drawn is None:
            continue
        raster, (left, top) = drawn
        rows, columns = raster.triangle.shape
        part = out[top : top + rows, left : left + columns]
        cv2.copyTo(values(face, raster), raster.mask.view(np.uint8), dst=part)
    return out


def _side(shape: Shape) -> int | None:
    """A crop's side, if one is given."""
    return int(shape) if isinstance(shape, int | np.integer) else None


def _size(shape: Shape) -> tuple[int, int]:
    """Height and width."""
    return (shape, shape) if isinstance(shape, int | np.integer) else shape


def _check_shape(shape: Shape, faces: int) -> None:
    if _side(shape) is not None and faces != 1:
        raise InvalidInputError(
            f"shape: expected (height, width) for {faces} faces, got {shape}, a crop's side; maps of crops are one "
            "face's each"
        )
    size = _size(shape)
    if len(size) != 2 or not all(isinstance(n, int | np.integer) and 0 < n <= MAX_SIDE for n in size):
        raise InvalidInputError(f"shape: expected (height, width) or a crop's side, 1..{MAX_SIDE} pixels, got {shape}")
