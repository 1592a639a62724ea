"""Drawing faces over a photo: contours and points of the 68 landmarks, the shaded mesh, pose axes, box, number.

Points are in image pixels as `runtime.roi` defines them. All functions return a new image and leave theirs alone; with
several of them use `draw_faces`, which copies once. Landmarks that the face itself hides are drawn hollow, the contours
between them thin and dark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidInputError, nearest_name
from runtime.face import Face
from runtime.image import as_bgr
from runtime.rasterizer import rasterize, vertex_normals

# iBUG's 68 points: first, last (inclusive), closed
CONTOURS = (
    (0, 16, False),  # jaw
    (17, 21, False),  # brows
    (22, 26, False),
    (27, 30, False),  # nose ridge
    (31, 35, False),  # nose base
    (36, 41, True),  # eyes
    (42, 47, True),
    (48, 59, True),  # outer lips
    (60, 67, True),  # inner lips
)
_CONTOUR_COLOR, _HIDDEN_COLOR = (80, 255, 80), (60, 140, 60)
_POINT_COLOR = (40, 40, 255)
_BOX_COLOR = (255, 190, 60)
_AXIS_COLORS = ((60, 60, 255), (80, 255, 80), (255, 120, 40))  # x red, y green, z blue
_AXIS_LENGTH = 60.0  # mm
_MESH_COLOR = np.array([235, 206, 170], dtype=np.float32)
_LIGHT = np.array([0.45, -0.5, 0.75], dtype=np.float32)  # crop frame: from the upper right, towards the viewer
_DOTS_FROM = 250  # pixels of a region's side: on smaller faces dots would hide what they mark
_SUBPIXEL_BITS = 4
_FINEST = 800  # pixels of a face's longer side, from when on its shade is drawn coarser and enlarged
_HALF = np.array([0.5, 0.5, 0], dtype=np.float32)
# A point drawn with a 16-bit coordinate or more would overflow OpenCV's fixed point; it is far outside any image.
_FAR = 1 << 16

Image = NDArray[np.uint8]
Window = tuple[int, int, int, int]  # left, top, right, bottom (past the last pixel)


def draw_faces(
    image: Image,
    faces: Sequence[Face],
    parts: Iterable[str] = ("mesh", "contours"),
    *,
    ids: Sequence[int] | None = None,
) -> Image:
    """Draws the named parts of each face, in the order of `DRAWERS`; larger faces over smaller ones.

    Args:
        image: uint8 (H, W, 3) BGR.
        faces: of it.
        parts: names of `DRAWERS`.
        ids: the faces' numbers; default: their places in the list.

    Raises:
        InvalidInputError: a name that is none of `DRAWERS`, with the nearest that is.
    """
    wanted = check_parts(parts)
    canvas = as_bgr(image).copy()
    numbers = range(len(faces)) if ids is None else ids
    order = sorted(zip(faces, numbers, strict=True), key=lambda pair: pair[0].roi.side)
    for name in wanted:
        for face, number in order:
            DRAWERS[name](canvas, face, number)
    return canvas


def check_parts(parts: Iterable[str]) -> list[str]:
    """The names in the order in which they are drawn, or an `InvalidInputError`."""
    wanted = list(parts)
    for name in wanted:
        if name not in DRAWERS:
            raise InvalidInputError(f"draw: expected names of {', '.join(DRAWERS)}, got {nearest_name(name, DRAWERS)}")
    return [name for name in DRAWERS if name in wanted]


def draw_landmarks(image: Image, faces: Sequence[Face]) -> Image:
    """Draws each face's 68 landmarks as contours, with dots where the face is large enough for them."""
    canvas = as_bgr(image).copy()
    for i, face in enumerate(faces):
        _contours(canvas, face, i)
        if face.roi.side >= _DOTS_FROM:
            _points(canvas, face, i)
    return canvas


def draw_mesh(image: Image, faces: Sequence[Face], *, opacity: float = 0.6) -> Image:
    """Draws each face's mesh, shaded, over the image; nearer surfaces hide farther ones within a face."""
    canvas = as_bgr(image).copy()
    for face in faces:
        _shade(canvas, face, opacity)
    return canvas


def window(vertices: NDArray[np.float32], shape: tuple[int, ...]) -> Window | None:
    """The part of an image (H, W, …) that points (N, 2 or more) span; None where they miss it or none is finite."""
    xy = np.ascontiguousarray(vertices[:, :2].T)
    low, high = xy.min(axis=1), xy.max(axis=1)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    size = np.array([shape[1], shape[0]])
    (left, top), (right, bottom) = np.clip(np.floor(low), 0, size), np.clip(np.floor(high) + 1, 0, size)
    return None if left >= right or top >= bottom else (int(left), int(top), int(right), int(bottom))


def _shade(canvas: Image, face: Face, opacity: float) -> None:
    place = window(face.vertices, canvas.shape)
    if place is None:
        return
    left, top, right, bottom = place
    width, height = right - left, bottom - top
    coarser = -(-max(width, height) // _FINEST)
    columns, rows = -(-width // coarser), -(-height // coarser)
    moved = (face.vertices + np.array([0.5 - left, 0.5 - top, 0], np.float32)) / np.float32(coarser) - _HALF
    raster = rasterize(moved, face.triangles, (rows, columns))
    light = _LIGHT / np.linalg.norm(_LIGHT)
    shade = 0.1 + 0.9 * np.clip(vertex_normals(moved, face.triangles) @ light, 0, 1)
    levels = raster.interpolate(255 * shade[:, None])[..., 0].astype(np.uint8)
    mask = raster.mask.view(np.uint8)
    if coarser > 1:
        size = (columns * coarser, rows * coarser)
        levels = np.asarray(cv2.resize(levels, size, interpolation=cv2.INTER_LINEAR), np.uint8)[:height, :width]
        mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)[:height, :width]
    under = canvas[top:bottom, left:right]
    mixed = cv2.addWeighted(under, 1 - opacity, cv2.applyColorMap(levels, _SHADES), opacity, 0)
    cv2.copyTo(mixed, mask, dst=under)


_SHADES = np.clip(np.arange(256)[:, None, None] / 255 * _MESH_COLOR + 0.5, 0, 255).astype(np.uint8)


def _mesh(canvas: Image, face: Face, number: int) -> None:
    _shade(canvas, face, 0.6)


def _contours(canvas: Image, face: Face, number: int) -> None:
    points, thickness = _fixed(face.landmarks), _thickness(face)
    lines = points[_SEGMENTS]  # (S, 2, 2)
    hidden = ~face.visible[_SEGMENTS].all(axis=1)
    for some, color, width in ((hidden, _HIDDEN_COLOR, 1), (~hidden, _CONTOUR_COLOR, thickness)):
        cv2.polylines(canvas, list(lines[some]), False, color, width, cv2.LINE_AA, _SUBPIXEL_BITS)


_SEGMENTS = np.array(
    [(i, i + 1) for first, last, _ in CONTOURS for i in range(first, last)]
    + [(last, first) for first, last, closed in CONTOURS if closed]
)


def _points(canvas: Image, face: Face, number: int) -> None:
    points, thickness = _fixed(face.landmarks), _thickness(face)
    # Dots as polylines of one point each: one call for all of them.
    seen = list(points[face.visible].reshape(-1, 1, 2))
    cv2.polylines(canvas, seen, True, _POINT_COLOR, 2 * thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    radius = (thickness + 1) << _SUBPIXEL_BITS
    for x, y in points[~face.visible]:
        cv2.circle(canvas, (int(x), int(y)), radius, _POINT_COLOR, 1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _axes(canvas: Image, face: Face, number: int) -> None:
    """The model's axes from between the eyes: x (red) to the subject's left, y (green) up, z (blue) out of the face."""
    origin = face.landmarks[27, :2]
    ends = origin + face.pose.rotation[:2].T * (1, -1) * face.pose.scale * _AXIS_LENGTH  # (3, 2)
    start, *tips = _fixed(np.vstack([origin, ends])).tolist()
    farthest_first = np.argsort(face.pose.rotation[2])
    for axis in farthest_first:
        cv2.line(
            canvas, start, tips[axis], _AXIS_COLORS[axis], _thickness(face) + 1, cv2.LINE_AA, _SUBPIXEL_BITS
        )  # fmt: skip


def _box(canvas: Image, face: Face, number: int) -> None:
    x, y, w, h = face.box
    low, high = _fixed(np.array([[x, y], [x + w, y + h]])).tolist()
    cv2.rectangle(canvas, low, high, _BOX_COLOR, _thickness(face), cv2.LINE_AA, _SUBPIXEL_BITS)


def _id(canvas: Image, face: Face, number: int) -> None:
    """The face's number in the results, above its box."""
    scale = max(face.box[2] / 200, 0.4)
    at = np.clip([face.box[0], face.box[1] - 4 * scale], -_FAR, _FAR).astype(int).tolist()
    write_text(canvas, str(number), at, scale)


def write_text(canvas: Image, text: str, at: Sequence[int], scale: float) -> None:
    """White text with a dark rim, in place; `at` is its lower left corner, `scale` 1 some 22 px high."""
    width = rim = max(1, round(scale * 1.5))
    # A rim of thicker letters would be wider spaced than they are, from OpenCV 5 on.
    for x, y in ((-rim, -rim), (rim, -rim), (-rim, rim), (rim, rim)):
        place = at[0] + x, at[1] + y
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), width, cv2.LINE_AA)
    cv2.putText(canvas, text, tuple(at), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), width, cv2.LINE_AA)


def _fixed(points: NDArray[np.floating]) -> NDArray[np.int32]:
    """X and y (K, 2) in OpenCV's fixed point."""
    xy = np.clip(np.nan_to_num(points[:, :2], nan=-_FAR), -_FAR, _FAR)
    return np.asarray(np.round(xy * (1 << _SUBPIXEL_BITS)), dtype=np.int32)


def _thickness(face: Face) -> int:
    return max(1, round(min(face.roi.side, _FAR) / 300))


DRAWERS: Mapping[str, Callable[[Image, Face, int], None]] = MappingProxyType(
    {"mesh": _mesh, "box": _box, "contours": _contours, "points": _points, "axes": _axes, "id": _id}
)
"""What `--draw` knows: each paints a face with its number into an image, in place."""
