"""The head that is rendered: its file, texture coordinates, light transfer, and the shell that hair hangs on.

Frame and units are the face model's: millimetres, +x the subject's left, +y up, +z out of the face, origin in the
middle of the face. Textures are cylindrical: `uv` in [0, 1) x [0, 1], u = 0.5 straight ahead growing towards the
subject's left, stretched so that the front gets more of the texture than the back; v grows downwards. The texture
coordinates are those of the mean head with its eyes closed, so that the skin of the lids has texture of its own.
Vertices on the seam at the back of the head appear twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime import safetensors
from runtime.errors import FileFormatError
from training.synthetic import lighting, materials
from training.synthetic.rasterizer import draw, empty_buffer, vertex_normals

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

HEAD_PATH = Path(__file__).parent / "assets" / "head.safetensors"
TEXTURE_HEIGHT, TEXTURE_WIDTH = 384, 512
_TEXTURE_TOP, _TEXTURE_BOTTOM = 150.0, -190.0  # mm: what v = 0 and v = 1 mean
SHELL_ROWS, SHELL_COLUMNS = 33, 73
_SHELL_LOWEST, _SHELL_HIGHEST = np.radians(-60.0), np.radians(90.0)
BASE_PITCH = 5.0
"""Degrees that tools/make_face_model.py turns MakeHuman's head up."""
_BASE_SEAM = 0.05  # of the base texture's side: no triangle of the head is larger
_CLOSED_LID_GAP = 1.0  # mm between the lids' landmarks in the texture's pose


@dataclass(frozen=True, kw_only=True)
class HeadShell:
    """The head's outer surface over (elevation, azimuth) from `center`; the last column repeats the first.

    `radius` leaves the ears out, `radius_with_ears` does not. `bound_to` (rows, columns, 4) are the vertices whose
    movement a point follows.
    """

    center: FloatArray
    elevation: FloatArray  # (rows,) radians, from the top down
    azimuth: FloatArray  # (columns,) radians, -pi to pi; 0 = straight ahead, grows towards the subject's left
    radius: FloatArray
    radius_with_ears: FloatArray
    bound_to: IntArray

    @cached_property
    def directions(self) -> FloatArray:
        """Unit vectors (rows, columns, 3) from the centre."""
        return spherical(self.elevation[:, None], self.azimuth[None, :])

    def carried(self, moved: FloatArray) -> FloatArray:
        """How far the surface goes (rows, columns, 3) when the head's vertices move by `moved` (M, 3)."""
        return moved[self.bound_to].mean(axis=2)

    def lookup(self, points: FloatArray, *, ears: bool) -> tuple[FloatArray, FloatArray]:
        """Distance of each point (..., 3) from the centre, and of the surface below it (bilinear)."""
        offset = points - self.center
        distance = np.sqrt((offset * offset).sum(-1)) + 1e-6
        elevation = np.arcsin(np.clip(offset[..., 1] / distance, -1, 1))
        azimuth = np.arctan2(offset[..., 0], offset[..., 2])
        rows, columns = self.radius.shape
        y = np.clip((_SHELL_HIGHEST - elevation) / (_SHELL_HIGHEST - _SHELL_LOWEST) * (rows - 1), 0, rows - 1.001)
        x = np.clip((azimuth + np.pi) / (2 * np.pi) * (columns - 1), 0, columns - 1.001)
        table = self.radius_with_ears if ears else self.radius
        iy, ix = y.astype(np.int32), x.astype(np.int32)
        fy, fx = y - iy, x - ix
        upper = table[iy, ix] * (1 - fx) + table[iy, ix + 1] * fx
        lower = table[iy + 1, ix] * (1 - fx) + table[iy + 1, ix + 1] * fx
        return distance.astype(np.float32), (upper * (1 - fy) + lower * fy).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Everything fixed about the head. R = M + seam copies; `source` (R,) maps a render vertex to its model vertex."""

    mean: FloatArray  # (M, 3)
    basis: FloatArray  # (50, M * 3): 40 shape, then 10 expression modes
    face_vertices: IntArray
    landmark_vertices: IntArray
    identity_samples: FloatArray
    identity_traits: FloatArray  # (N, 2) how male they are, 0 to 1, and their age on MakeHuman's scale
    expression_samples: FloatArray
    model_triangles: IntArray  # (T, 3) on model vertices: skin, eyes, teeth, tongue
    part: NDArray[np.uint8]  # (T,)
    part_names: tuple[str, ...]
    source: IntArray  # (R,)
    triangles: IntArray  # (T, 3) on render vertices
    uv: FloatArray  # (R, 2)
    base_uv: FloatArray  # (M, 2) texture coordinates of MakeHuman's base mesh, v downwards
    mirror: IntArray  # (M,) the vertex on the other side
    base_vertex: IntArray  # (M,) number in MakeHuman's base mesh, -1 for points between its vertices
    texture_vertices: FloatArray  # (M, 3) the pose that `uv` was taken in
    lips: FloatArray  # (M,)
    ears: NDArray[np.bool_]  # (M,)
    inner: NDArray[np.bool_]  # (M,) mouth cavity, teeth and tongue
    eye_direction: FloatArray  # (M, 3) from the eyeball's centre in eyeball radii, 0 elsewhere
    body: FloatArray  # (M,) 0 on the head, 1 on the shoulders
    file_sha256: str

    @property
    def landmarks(self) -> FloatArray:
        """The mean head's 68 landmarks (68, 3)."""
        return self.mean[self.landmark_vertices]

    def vertices(self, coefficients: FloatArray) -> FloatArray:
        """Model vertices (M, 3) of 50 coefficients."""
        return self.mean + (coefficients @ self.basis).reshape(-1, 3)

    def to_texture(self, points: ArrayLike) -> FloatArray:
        """Texture pixels (..., 2) of points (..., 3) on the texture's pose of the head."""
        uv = cylindrical(np.asarray(points, np.float32), self.axis_z)
        return uv * np.array([TEXTURE_WIDTH, TEXTURE_HEIGHT], np.float32)

    def texture_landmarks(self) -> FloatArray:
        """The 68 landmarks (68, 2) in texture pixels."""
        return self.to_texture(self.texture_vertices[self.landmark_vertices])

    def without(self, *words: str) -> Head:
        """The same head without the parts that have one of these words in their name; its vertices stay."""
        kept = ~np.isin(self.part, [k for k, name in enumerate(self.part_names) if any(word in name for word in words)])
        return replace(
            self,
            model_triangles=np.ascontiguousarray(self.model_triangles[kept]),
            triangles=np.ascontiguousarray(self.triangles[kept]),
            part=np.ascontiguousarray(self.part[kept]),
        )

    @property
    def axis_z(self) -> float:
        """Z of the texture cylinder's axis: the ears'."""
        return float(self.mean[self.ears, 2].mean())

    @cached_property
    def skin_triangles(self) -> IntArray:
        """Model triangles of the skin alone."""
        return np.ascontiguousarray(self.model_triangles[self.part == self.part_names.index("skin")])

    @cached_property
    def materials(self) -> NDArray[np.uint8]:
        """What each triangle (T,) is made of, for the shading."""
        of_part = {
            "skin": materials.SKIN,
            "tongue": materials.FLESH,
            "upper_teeth": materials.TEETH,
            "lower_teeth": materials.TEETH,
        }
        material = np.array([of_part.get(name, materials.EYE) for name in self.part_names], np.uint8)[self.part]
        cavity = self.inner[self.model_triangles].all(axis=1) & (material == materials.SKIN)
        return np.where(cavity, np.uint8(materials.FLESH), material)

    @cached_property
    def smiles(self) -> IntArray:
        """The expression samples (K,) that smile most: photographs of people are full of them."""
        basis = self.basis[40:].reshape(len(self.basis) - 40, -1, 3)[:, self.landmark_vertices]
        wider = basis[:, 54, 0] - basis[:, 48, 0]
        higher = (basis[:, [48, 54], 1] - basis[:, [51, 57], 1].mean(axis=1, keepdims=True)).mean(axis=1)
        smile = self.expression_samples @ (wider / 12 + higher / 9)
        return np.flatnonzero(smile > np.quantile(smile, 0.85)).astype(np.int32)

    @cached_property
    def trait_slopes(self) -> FloatArray:
        """How traits follow from shape coefficients (1 + S, 2), the first row for none: least squares over the bank.

        Of samples that were left out it explains 96 % of the variance of sex and 90 % of that of age.
        """
        samples = np.column_stack([np.ones(len(self.identity_samples)), self.identity_samples])
        return np.asarray(np.linalg.lstsq(samples, self.identity_traits, rcond=None)[0], np.float32)

    def traits(self, coefficients: FloatArray) -> tuple[float, float]:
        """How male a face looks (about 0 to 1), and its age on MakeHuman's scale; the shape comes first, (S, ...)."""
        slopes = self.trait_slopes[1:]
        male, age = self.trait_slopes[0] + coefficients[: len(slopes)] @ slopes
        return float(male), float(age)

    @cached_property
    def seam_uv(self) -> tuple[IntArray, FloatArray]:
        """For triangles on a seam of the base texture: a row (T,), -1 elsewhere, of corners' coordinates (S, 3, 2).

        A corner on the other side of the seam takes the middle of those on the side with more corners.
        """
        uv = self.base_uv[self.model_triangles]  # (T, 3, 2)
        torn = np.flatnonzero(np.ptp(uv, axis=1).max(axis=1) > _BASE_SEAM)
        corners = uv[torn].copy()
        near = np.abs(corners[:, :, None] - corners[:, None]).max(axis=3) < _BASE_SEAM  # (S, 3, 3)
        lead = near.sum(axis=2).argmax(axis=1)
        same = near[np.arange(len(torn)), lead][..., None]  # (S, 3, 1)
        middle = (corners * same).sum(axis=1, keepdims=True) / same.sum(axis=1, keepdims=True)
        row = np.full(len(uv), -1, np.int32)
        row[torn] = np.arange(len(torn), dtype=np.int32)
        return row, np.where(same, corners, middle).astype(np.float32)

    @cached_property
    def transfer(self) -> lighting.Transfer:
        """How distant light reaches each vertex of the mean head, self-shadowing included."""
        return lighting.transfer(self.mean, self.model_triangles, self.normals(self.mean))

    def normals(self, vertices: FloatArray) -> FloatArray:
        """Unit normals (M, 3), outwards; each part by itself."""
        return vertex_normals(vertices, self.model_triangles)

    @cached_property
    def shell(self) -> HeadShell:
        """The surface that hair and hats are built on."""
        return _build_shell(self)

    @cached_property
    def surface_frame(self) -> FloatArray:
        """Per render vertex (R, 3): direction from the eyeball's centre on the eyes, tangent along u elsewhere."""
        x, z = self.mean[self.source, 0], self.mean[self.source, 2] - self.axis_z
        length = np.hypot(x, z) + 1e-6
        tangent = np.stack([z / length, np.zeros_like(x), -x / length], axis=-1)
        eye = self.eye_direction[self.source]
        return np.where(eye.any(axis=1, keepdims=True), eye, tangent).astype(np.float32)


def base_axes() -> FloatArray:
    """MakeHuman's axes as columns (3, 3) in the head's frame: its head is turned up by `BASE_PITCH`."""
    sine, cosine = np.sin(np.radians(BASE_PITCH)), np.cos(np.radians(BASE_PITCH))
    return np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]], np.float32)


def spherical(elevation: ArrayLike, azimuth: ArrayLike) -> FloatArray:
    """Unit vectors (..., 3) of angles in radians (elevation 0 = level, azimuth 0 = straight ahead)."""
    elevation, azimuth = np.broadcast_arrays(np.asarray(elevation, np.float32), np.asarray(azimuth, np.float32))
    level = np.cos(elevation)
    return np.stack([level * np.sin(azimuth), np.sin(elevation), level * np.cos(azimuth)], axis=-1).astype(np.float32)


def cylindrical(points: FloatArray, axis_z: float) -> FloatArray:
    """(u, v) of points (..., 3)."""
    turn = np.arctan2(points[..., 0], points[..., 2] - axis_z) / np.pi
    u = 0.5 + 0.5 * turn * (1.5 - 0.5 * np.abs(turn))
    v = (_TEXTURE_TOP - points[..., 1]) / (_TEXTURE_TOP - _TEXTURE_BOTTOM)
    return np.stack([u, v], axis=-1).astype(np.float32)


def texture_azimuth() -> FloatArray:
    """Azimuth in radians of each texture column's centre (the inverse of `cylindrical`)."""
    stretched = (np.arange(TEXTURE_WIDTH, dtype=np.float32) + 0.5) / TEXTURE_WIDTH * 2 - 1
    return np.sign(stretched) * (1.5 - np.sqrt(2.25 - 2 * np.abs(stretched))) * np.pi


def texture_height() -> FloatArray:
    """Y in mm of each texture row's centre."""
    v = (np.arange(TEXTURE_HEIGHT, dtype=np.float32) + 0.5) / TEXTURE_HEIGHT
    return _TEXTURE_TOP + v * (_TEXTURE_BOTTOM - _TEXTURE_TOP)


@lru_cache(maxsize=1)
def load_head(path: Path = HEAD_PATH) -> Head:
    """Reads the head and prepares it; the same object for every caller in the process.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is not a head of the version this module reads.
    """
    tensors, metadata = safetensors.read(path)
    kind = metadata.get("format"), metadata.get("version")
    if kind != ("cln.head", "2"):
        raise FileFormatError(
            f"{path}: expected a cln.head file of version 2, got {kind[0]!r} of version {kind[1]!r}; "
            "make it again (tools/make_face_model.py)"
        )
    names = tuple(metadata["part_names"].split(","))
    part = tensors["triangle_part"]
    solid = part < names.index("hair")  # the helper hair is not used: hair is made here
    mean = tensors["mean"].astype(np.float32)
    basis = np.concatenate([tensors["shape_basis"], tensors["expression_basis"]]).astype(np.float32).reshape(50, -1)
    landmarks = tensors["landmark_vertices"]
    ears = tensors["mask_ears"] > 100
    closed = _close_eyes(mean, tensors["expression_basis"].astype(np.float32), landmarks)
    model_triangles = np.ascontiguousarray(tensors["triangles"][solid])
    source, triangles, uv = _cut_seam(cylindrical(closed, float(mean[ears, 2].mean())), model_triangles)
    part = np.ascontiguousarray(part[solid])
    return Head(
        mean=mean,
        basis=basis,
        face_vertices=tensors["face_vertices"],
        landmark_vertices=landmarks,
        identity_samples=tensors["identity_samples"].astype(np.float32),
        identity_traits=tensors["identity_traits"].astype(np.float32),
        expression_samples=tensors["expression_samples"].astype(np.float32),
        model_triangles=model_triangles,
        part=part,
        part_names=names,
        source=source,
        triangles=triangles,
        uv=uv,
        base_uv=tensors["uv"].astype(np.float32) * np.float32([1, -1]) + np.float32([0, 1]),
        mirror=tensors["mirror"],
        base_vertex=tensors["base_vertex"],
        texture_vertices=closed,
        lips=tensors["mask_lips"].astype(np.float32) / 255.0,
        ears=ears,
        inner=(tensors["mask_inner_mouth"] > 127)
        | _vertices_of(names, part, model_triangles, len(mean), "teeth", "tongue"),
        eye_direction=_eye_directions(mean, names, part, model_triangles),
        body=_body_weight(mean, landmarks),
        file_sha256=metadata.get("face_model_sha256", ""),
    )


def _close_eyes(mean: FloatArray, expression: FloatArray, landmarks: IntArray) -> FloatArray:
    """The mean head with its lids closed by the smallest set of expression coefficients that does it."""
    upper, lower = landmarks[[37, 38, 43, 44]], landmarks[[41, 40, 47, 46]]
    gap = float((mean[upper] - mean[lower])[:, 1].mean())
    slope = (expression[:, upper] - expression[:, lower])[:, :, 1].mean(axis=1)  # (E,) mm of opening per coefficient
    coefficients = slope * (_CLOSED_LID_GAP - gap) / (slope @ slope)
    return mean + np.tensordot(coefficients, expression, axes=1)


def _cut_seam(uv: FloatArray, triangles: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Doubles the vertices of triangles that straddle u = 0 / 1: their copies get u + 1."""
    u = uv[triangles, 0]
    straddles = (u.max(axis=1) - u.min(axis=1) > 0.5)[:, None] & (u < 0.5)  # (T, 3) corners to replace
    doubled = np.unique(triangles[straddles])
    copy_of = np.zeros(len(uv), np.int32)
    copy_of[doubled] = len(uv) + np.arange(len(doubled), dtype=np.int32)
    cut = np.where(straddles, copy_of[triangles], triangles).astype(np.int32)
    source = np.concatenate([np.arange(len(uv), dtype=np.int32), doubled.astype(np.int32)])
    return source, cut, np.concatenate([uv, uv[doubled] + np.array([1, 0], np.float32)])


def _vertices_of(
    names: tuple[str, ...], part: NDArray[np.uint8], triangles: IntArray, count: int, *words: str
) -> NDArray[np.bool_]:
    wanted = [index for index, name in enumerate(names) if any(word in name for word in words)]
    chosen = np.zeros(count, bool)
    chosen[triangles[np.isin(part, wanted)]] = True
    return chosen


def _eye_directions(
    mean: FloatArray, names: tuple[str, ...], part: NDArray[np.uint8], triangles: IntArray
) -> FloatArray:
    direction = np.zeros_like(mean)
    for eye in ("left_eye", "right_eye"):
        of_eye = _vertices_of(names, part, triangles, len(mean), eye)
        low, high = mean[of_eye].min(axis=0), mean[of_eye].max(axis=0)
        direction[of_eye] = (mean[of_eye] - (low + high) / 2) / ((high[0] - low[0]) / 2)
    return direction


def _body_weight(mean: FloatArray, landmarks: IntArray) -> FloatArray:
    """0 above the chin's underside, rising to 1 at the shoulders; lower at the front of the neck than at its back."""
    chin = float(mean[landmarks[8], 1])
    start = chin - 28.0 - 0.10 * (mean[:, 2] - mean[landmarks[8], 2])
    weight = np.clip((start - mean[:, 1]) / 75.0, 0, 1)
    return (weight * weight * (3 - 2 * weight)).astype(np.float32)


def _build_shell(head: Head) -> HeadShell:
    landmarks = head.landmarks
    top = float(head.mean[:, 1].max())
    center = np.array([0.0, 0.5 * (landmarks[27, 1] + top * 0.25), head.axis_z], np.float32)
    elevation = np.linspace(_SHELL_HIGHEST, _SHELL_LOWEST, SHELL_ROWS, dtype=np.float32)
    azimuth = np.linspace(-np.pi, np.pi, SHELL_COLUMNS, dtype=np.float32)
    skin = head.skin_triangles
    bare = skin[~head.ears[skin].any(axis=1)]
    radius = _outermost(head.mean - center, bare)
    # The back of the ear's root is open without the ear: never let the surface fall inwards there.
    full = np.maximum(_outermost(head.mean - center, skin), radius)
    full = cv2.dilate(full, np.ones((3, 3), np.uint8))  # sampled identities' ears move about
    points = center + spherical(elevation[:, None], azimuth[None, :]) * radius[..., None]
    candidates = np.unique(bare)
    squared = ((points.reshape(-1, 1, 3) - head.mean[candidates][None]) ** 2).sum(-1)
    nearest = candidates[np.argpartition(squared, 4, axis=1)[:, :4]].astype(np.int32)
    return HeadShell(
        center=center,
        elevation=elevation,
        azimuth=azimuth,
        radius=radius,
        radius_with_ears=full,
        bound_to=nearest.reshape(SHELL_ROWS, SHELL_COLUMNS, 4),
    )


def _outermost(offsets: FloatArray, triangles: IntArray) -> FloatArray:
    """Largest distance from the origin over (elevation, azimuth): the z-buffer in polar coordinates."""
    distance = np.linalg.norm(offsets, axis=1)
    row = (_SHELL_HIGHEST - np.arcsin(offsets[:, 1] / distance)) / (_SHELL_HIGHEST - _SHELL_LOWEST) * (SHELL_ROWS - 1)
    column = (np.arctan2(offsets[:, 0], offsets[:, 2]) + np.pi) / (2 * np.pi) * (SHELL_COLUMNS - 1)
    buffer = empty_buffer(SHELL_COLUMNS)
    spans = np.ptp(column[triangles], axis=1) > SHELL_COLUMNS / 2
    for shift in (0.0, SHELL_COLUMNS - 1.0, 1.0 - SHELL_COLUMNS):
        # A triangle over the seam is drawn with its low side moved by a turn, once at each end.
        for chosen, lift in ((~spans, 0.0), (spans, SHELL_COLUMNS - 1.0)):
            x = column + np.where(column < SHELL_COLUMNS / 2, lift, 0.0) + shift
            screen = np.stack([x, row, distance], axis=1).astype(np.float32)
            draw(screen, np.ascontiguousarray(triangles[chosen]), buffer)
    radius = buffer.depth[:SHELL_ROWS].copy()
    radius[0] = radius[0][radius[0] > 0].max() if (radius[0] > 0).any() else radius[1].max()
    limit = float(np.median(radius[: SHELL_ROWS // 2])) * 1.25  # below the jaw the shoulders would take over
    for row_index in range(1, SHELL_ROWS):
        empty = radius[row_index] < 0
        radius[row_index, empty] = radius[row_index - 1, empty]
    radius[:, -1] = radius[:, 0]
    return np.minimum(radius, limit).astype(np.float32)
