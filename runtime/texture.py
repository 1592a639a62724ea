"""The face's texture from the photograph, and the unfolding of the face that it is laid out in.

The unfolding is the mean face seen from inside the head (azimuth and elevation), so that one sheet shows the whole face
upright, without seams and mirror-symmetric, for any face model. (The face model's own `uv`, which OBJ files carry, is
the layout of the body that it was cut from.) `u` grows to the subject's left, `v` downwards, as in glTF: the texture's
left edge is u = 0, its top v = 0.

Where the camera saw the surface the texture is the photograph; where it did not, but saw the same spot of the other
half of the face, that half is mirrored; what neither half showed is filled with the colours around it. `seen` says
which is the photograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel
from runtime.image import as_bgr
from runtime.rasterizer import Raster, rasterize, vertex_normals

if TYPE_CHECKING:
    from runtime.face import Face

TEXTURE_SIZE = 512
_MAX_SIZE = 8192
_GRAZING, _FACING = 0.2, 0.5  # cosine between the normal and the line of sight: below nothing, above all is seen
SEEN = 0.5
"""Of `shown_vertices`: from when on a vertex or a texel counts as seen."""
_INNER_LIPS = np.arange(60, 68)  # landmarks, a closed line
_UPPER, _LOWER = [61, 62, 63], [65, 66, 67]
_OPEN = 3.0  # mm between the lips
_TEETH = 1.5  # mm beside an open mouth's edge that are not believed; to twice as many ever more
_CENTER = 1.3  # half widths of the face, from its front to the point that the unfolding looks from
_BORDER = 0.01  # of the texture's side, around the face


@dataclass(frozen=True, kw_only=True, eq=False)
class Texture:
    """A face's texture (S, S)."""

    image: NDArray[np.uint8]  # (S, S, 3) BGR
    seen: NDArray[np.uint8]  # (S, S) 255 where it is the photograph, 0 where it is mirrored, filled, or no face at all


def uv_texture(face: Face, image: NDArray[np.uint8], size: int = TEXTURE_SIZE) -> Texture:
    """The texture of a face that was found in `image`.

    Args:
        face: the face.
        image: the photograph, uint8 (H, W, 3) BGR; grey and BGRA are converted.
        size: the texture's side in pixels.

    Raises:
        InvalidInputError: the camera saw nothing of the face in this image, or no image or size.
    """
    if not (isinstance(size, int) and 4 <= size <= _MAX_SIZE):
        raise InvalidInputError(f"texture size: expected 4..{_MAX_SIZE} pixels, got {size}")
    frame = as_bgr(image)
    shown = shown_vertices(face, frame)
    if not (shown >= SEEN).any():
        raise InvalidInputError(
            "texture: expected a face that the image shows, got one of which nothing is seen in it; "
            "is it the image that the face was found in?"
        )
    source, place = _reduced(frame, face, size)
    values = _layout(face.model, size).interpolate(np.column_stack([place, shown]))
    weight = np.ascontiguousarray(values[..., 2])
    taken = _sampled(source, values[..., :2])
    mirrored = cv2.flip(weight, 1) * (1 - weight)
    both = np.asarray(cv2.blendLinear(taken, cv2.flip(taken, 1), weight, mirrored), dtype=np.uint8)
    known = weight + mirrored
    image_ = cv2.blendLinear(both, _filled(both, known), known, 1 - known)
    seen = np.where(weight >= SEEN, 255, 0).astype(np.uint8)
    return Texture(image=np.asarray(image_, dtype=np.uint8), seen=seen)


def vertex_colors(face: Face, image: NDArray[np.uint8], *, texture: Texture | None = None) -> NDArray[np.uint8]:
    """Colours uint8 (N, 3), RGB, of the vertices: the texture's, where each lies.

    Raises:
        InvalidInputError: see `uv_texture`.
    """
    texture = texture or uv_texture(face, image)
    place = (texture_coordinates(face.model) * len(texture.image) - 0.5)[None]
    return np.ascontiguousarray(_sampled(texture.image, place)[0, :, ::-1])


def _sampled(image: NDArray[np.uint8], place: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image at x, y (…, 2), bilinear."""
    nothing: Any = None
    taken = cv2.remap(image, place, nothing, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(taken, dtype=np.uint8)


def shown_vertices(face: Face, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How well the image (H, W, …) shows each vertex (N,), 0 to 1: visible, facing the camera, and inside the image.

    The inner edge of the lips does not count where the mouth is open: a pixel beside it there are teeth.
    """
    facing = vertex_normals(face.vertices, face.triangles)[:, 2]
    weight = np.clip((facing - _GRAZING) / (_FACING - _GRAZING), 0, 1) * face.vertex_visibility
    x, y = face.vertices[:, 0], face.vertices[:, 1]
    inside = (x >= 0) & (y >= 0) & (x <= image.shape[1] - 1) & (y <= image.shape[0] - 1)
    return _beside_teeth(face, np.where(inside, weight, 0).astype(np.float32))


def is_shown(face: Face, image: NDArray[np.uint8]) -> bool:
    """Whether the image shows anything of the face: otherwise it has no texture."""
    return bool((shown_vertices(face, image) >= SEEN).any())


def _beside_teeth(face: Face, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (N,) of the vertices, less for those of the lips that lie near the mouth's opening in the image."""
    upper, lower = (face.model_landmarks[numbers].mean(axis=0) for numbers in (_UPPER, _LOWER))
    lips = [number for number, name in enumerate(face.model.region_names) if name == "lips"]
    near = np.flatnonzero(np.isin(face.model.region, lips) & (weight > 0))
    if np.linalg.norm(upper - lower) < _OPEN or not len(near):
        return weight
    start = face.landmarks[_INNER_LIPS, :2]
    along = np.roll(start, -1, axis=0) - start
    off = face.vertices[near, None, :2] - start  # (K, 8, 2), to the contour's segments
    share = np.clip((off * along).sum(axis=2) / np.maximum(np.square(along).sum(axis=1), 1e-12), 0, 1)
    distance = np.linalg.norm(off - share[..., None] * along, axis=2).min(axis=1) / face.pose.scale
    weight[near] *= np.clip((distance - _TEETH) / _TEETH, 0, 1)
    return weight


@lru_cache(maxsize=4)
def texture_coordinates(model: FaceModel) -> NDArray[np.float32]:
    """U and v (N, 2) of the vertices in the unfolding, 0 to 1, v downwards; read-only."""
    azimuth, elevation, _ = _from_inside(model)
    u = azimuth / (2 * np.abs(azimuth).max()) + 0.5
    v = (elevation.max() - elevation) / np.ptp(elevation)
    uv = (_BORDER + (1 - 2 * _BORDER) * np.stack([u, v], axis=1)).astype(np.float32)
    uv.flags.writeable = False
    return uv


def _from_inside(model: FaceModel) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Azimuth and elevation (radians) and distance of the mean face's vertices from a point inside the head."""
    mean = model.mean.astype(np.float64)
    low, high = mean.min(axis=0), mean.max(axis=0)
    center = np.array([0, (low[1] + high[1]) / 2, high[2] - _CENTER * (high[0] - low[0]) / 2])
    x, y, z = (mean - center).T
    level = np.hypot(x, z)
    return np.arctan2(x, z), np.arctan2(y, level), np.hypot(level, y)


@lru_cache(maxsize=4)
def _layout(model: FaceModel, size: int) -> Raster:
    """The mesh unfolded into the texture; where it folds over itself (lids over eyes, lips) the outer part counts."""
    place = texture_coordinates(model) * size - 0.5
    return rasterize(np.column_stack([place, _from_inside(model)[2]]), model.triangles, (size, size))


def _reduced(frame: NDArray[np.uint8], face: Face, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The photograph around the face, averaged where the texture is much coarser, and the vertices in it (N, 2)."""
    xy = face.vertices[:, :2]
    height, width = frame.shape[:2]
    low = np.clip(np.floor(xy.min(axis=0)) - 2, 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(xy.max(axis=0)) + 3, low + 1, (width, height)).astype(int)
    part = frame[low[1] : high[1], low[0] : high[0]]
    factor = max(int(np.ptp(xy[:, 0]) / size), 1)
    if factor > 1:
        smaller = np.maximum((high - low) // factor, 1)
        part = np.asarray(cv2.resize(part, smaller.tolist(), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    scale = np.array(part.shape[1::-1]) / (high - low)
    return part, ((xy - low + 0.5) * scale - 0.5).astype(np.float32)


def _filled(colors: NDArray[np.uint8], known: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours everywhere, spread from where they are known (pull-push, Gortler et al. 1996), on a coarser grid."""
    side = colors.shape[0]
    coarse = max(side // 4, 1)
    weight = cv2.resize(known, (coarse, coarse), interpolation=cv2.INTER_AREA)
    premultiplied = cv2.resize(colors * known[..., None], (coarse, coarse), interpolation=cv2.INTER_AREA)
    spread = _pull_push(premultiplied, weight)
    levels = np.clip(spread + 0.5, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(levels, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _pull_push(premultiplied: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    side = len(weight)
    if side <= 2:
        mean = premultiplied.sum(axis=(0, 1)) / max(float(weight.sum()), 1e-6)
        return np.asarray(premultiplied + (1 - weight[..., None]) * mean, dtype=np.float32)
    half = (side + 1) // 2
    color = cv2.resize(premultiplied, (half, half), interpolation=cv2.INTER_AREA)
    share = cv2.resize(weight, (half, half), interpolation=cv2.INTER_AREA)
    gain = np.minimum(1 / np.maximum(share, 1e-6), 4.0).astype(np.float32)  # a known quarter stands for its whole
    coarse = _pull_push(color * gain[..., None], share * gain)
    upper = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(premultiplied + (1 - weight[..., None]) * upper, dtype=np.float32)
