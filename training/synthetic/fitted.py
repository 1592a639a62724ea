"""Meshes that follow the head: hair, brows, teeth, tongue, hats, bound to it by MakeHuman's `.mhclo`.

All their textures lie in one flat `Atlas`, so that compiled loops take any number of sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError
from training.synthetic.asset_files import BASE_VERTICES, read_binding, read_mesh, read_texture
from training.synthetic.head import Head, base_axes
from training.synthetic.lighting import sphere, view_rotation
from training.synthetic.rasterizer import draw, empty_buffer, vertex_normals
from training.synthetic.shading import LINEAR
from training.synthetic.sheets import Sheet

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
ByteArray = NDArray[np.uint8]

GREY_LEVEL = 0.2
"""Linear mean of textures that were made grey, to be coloured by a tint."""
_LATTICE = np.array([(i, j, 7 - i - j) for i in range(8) for j in range(8 - i)], np.float32) / 7
"""Places in a triangle, as weights (36, 3) of its corners."""
_ROUND = 80.0  # mm: about the head's radius
_HIGHEST = 2.0  # mm above the skin
_OCCLUSION_DIRECTIONS, _OCCLUSION_SIZE, _OCCLUSION_BIAS = 48, 160, 4.0  # mm


class Atlas:
    """Textures one after the other: `texels (N, 4)` BGR and alpha, `table (K, 3)` first texel, width, height."""

    def __init__(self) -> None:
        """Empty."""
        self._parts: list[ByteArray] = []
        self._rows: list[tuple[int, int, int]] = []
        self._known: dict[tuple[Path, int, bool, bool], int] = {}

    def add(self, path: Path, *, side: int, grey: bool, alpha: bool = True) -> int:
        """A texture's number; it is shrunk to `side` and, with `grey`, brought to a mean of `GREY_LEVEL`."""
        key = path, side, grey, alpha
        if key not in self._known:
            picture = read_texture(path, alpha=alpha)
            if not alpha:
                picture = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
            texels = _shrink(picture, side)
            if grey:
                texels = _to_grey(texels)
            self._known[key] = len(self._rows)
            first = sum(len(part) for part in self._parts)
            self._rows.append((first, texels.shape[1], texels.shape[0]))
            self._parts.append(texels.reshape(-1, 4))
        return self._known[key]

    def alpha(self, texture: int) -> FloatArray:
        """How opaque a texture's texels (h, w) are, 0 to 1."""
        _, width, height = self._rows[texture]
        return self._parts[texture][:, 3].reshape(height, width).astype(np.float32) / np.float32(255)

    def pack(self) -> tuple[ByteArray, IntArray]:
        """`texels` and `table`."""
        return np.concatenate(self._parts), np.array(self._rows, np.int32)


@dataclass(frozen=True, kw_only=True)
class Waves:
    """Hair that stands off the head by `lift` mm and swings by `swing` mm once every `period` mm of height."""

    lift: float
    swing: float
    period: float
    phase: float

    def moved(self, vertices: FloatArray, center: FloatArray, depth: FloatArray) -> FloatArray:
        """Vertices (N, 3) moved away from the head's centre (3,), the more the larger their `depth` (N, 1).

        Waves begin at the centre's height and grow downwards.
        """
        offset = vertices - center
        away = offset / (np.sqrt((offset * offset).sum(axis=1, keepdims=True)) + 1e-6)
        turn = np.arctan2(offset[:, :1], offset[:, 2:])
        hanging = np.clip((30.0 - offset[:, 1:2]) / 120.0, 0, 1)
        wave = 0.5 + 0.5 * np.sin(offset[:, 1:2] * (2 * np.pi / self.period) + self.phase + 2.0 * np.sin(3 * turn))
        return (vertices + away * depth * (self.lift + self.swing * hanging * wave)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A mesh bound to the head: three head vertices, weights and an offset (N, 3 each) per vertex.

    `axes (3, 2)` head vertices and `lengths (3,)` scale the offsets, as in `asset_files.Binding`; `strands (N, 3)` run
    along the texture's columns at rest; `depth (N, 1)` is the share of soft light that reaches a vertex.
    """

    name: str
    bound_to: IntArray
    weights: FloatArray
    offsets: FloatArray
    axes: IntArray
    lengths: FloatArray
    uv: FloatArray
    triangles: IntArray
    strands: FloatArray
    depth: FloatArray
    texture: int
    occlusion: FloatArray  # (M,) share of soft light it leaves to each of the head's vertices

    def mirrored(self, head: Head) -> Fitted:
        """The same, left for right."""
        flip = np.array([-1, 1, 1], np.float32)
        return replace(
            self, bound_to=head.mirror[self.bound_to], offsets=self.offsets * flip, strands=self.strands * flip,
            triangles=np.ascontiguousarray(self.triangles[:, ::-1]), occlusion=self.occlusion[head.mirror],
        )  # fmt: skip

    def vertices(self, head_vertices: FloatArray) -> FloatArray:
        """Where its vertices (N, 3) are on a head (M, 3)."""
        return _place(self.bound_to, self.weights, self.offsets, self.axes, self.lengths, head_vertices)

    def opaque(self, head_vertices: FloatArray, alpha: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Points (K, 3) spread over it, and the mm^2 (K,) that each covers, with its texture's alpha (h, w)."""
        corners = self.vertices(head_vertices)[self.triangles]  # (T, 3, 3)
        points = np.einsum("kc,tcd->tkd", _LATTICE, corners)
        u, v = np.moveaxis(np.einsum("kc,tcd->tkd", _LATTICE, self.uv[self.triangles]), -1, 0) % 1.0
        seen = alpha[(v * len(alpha)).astype(int), (u * alpha.shape[1]).astype(int)]
        area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        return points.reshape(-1, 3), (seen * area[:, None] / len(_LATTICE)).ravel()

    def slid_up(self, head: Head, rise: float) -> Fitted:
        """The same, `rise` mm higher on the mean head's skin, as far above it as before, and bound to it there."""
        skin = head.skin_triangles
        skin = skin[(head.mean[skin, 2] > head.axis_z).all(axis=1) & ~head.inner[skin].any(axis=1)]
        rest = self.vertices(head.mean)
        below, shares = _skin_under(head, skin, rest, 0.0)
        height = np.linalg.norm(rest - (shares[..., None] * head.mean[below]).sum(axis=1), axis=1, keepdims=True)
        above, weights = _skin_under(head, skin, rest, rise)
        outwards = (weights[..., None] * head.normals(head.mean)[above]).sum(axis=1)
        offsets = np.minimum(height, _HIGHEST) * outwards / np.linalg.norm(outwards, axis=1, keepdims=True)
        scale = _scale(self.axes, self.lengths, head.mean)
        return replace(
            self, bound_to=above, weights=weights, offsets=((offsets @ base_axes()) / scale).astype(np.float32)
        )

    def sheet(
        self, head_vertices: FloatArray, *, material: int, look: int, texture: int | None = None, light: float = 1.0,
        casts_shadow: bool = True, raised: float = 0.0, round_about: FloatArray | None = None,
        waves: Waves | None = None,
    ) -> Sheet:  # fmt: skip
        """As a sheet on a head; `raised` mm along its normals; normals lean away from the point `round_about`.

        `waves` move it away from that point.
        """
        vertices = self.vertices(head_vertices)
        if waves is not None and round_about is not None:
            vertices = waves.moved(vertices, round_about, self.depth)
        normals = vertex_normals(vertices, self.triangles)
        if raised:
            vertices = vertices + np.float32(raised) * normals
        if round_about is not None:
            away = vertices - round_about
            away /= np.sqrt((away * away).sum(axis=1, keepdims=True)) + 1e-6
            facing = np.sign((normals * away).sum(axis=1, keepdims=True))
            normals = 0.5 * normals * facing + away
            normals /= np.sqrt((normals * normals).sum(axis=1, keepdims=True)) + 1e-6
        return Sheet(
            vertices=vertices, normals=normals, uv=self.uv, strands=self.strands, triangles=self.triangles,
            material=material, look=look, light=light * self.depth, casts_shadow=casts_shadow,
            texture=self.texture if texture is None else texture,
        )  # fmt: skip


def fit(path: Path, head: Head, *, texture: int, inner: bool = False, shades: bool = False) -> Fitted:
    """A mesh of an `.mhclo`, bound to the head; `inner`: deeper vertices get less soft light; `shades`: onto the head.

    Raises:
        FileFormatError: The file or its mesh is unusable, they do not belong together, or it is bound to other parts.
    """
    binding = read_binding(path)
    mesh = read_mesh(binding.mesh)
    if mesh.vertices != len(binding.vertices):
        raise FileFormatError(
            f"{path}: expected as many bound vertices as {binding.mesh.name} has ({mesh.vertices}), "
            f"got {len(binding.vertices)}; fetch both again"
        )
    number = np.full(BASE_VERTICES, -1, np.int32)
    own = head.base_vertex >= 0
    number[head.base_vertex[own]] = np.flatnonzero(own)
    bound_to, axes = number[binding.vertices], number[binding.scale_vertices]
    if bound_to.min() < 0 or axes.min() < 0:
        raise FileFormatError(f"{path}: expected a mesh that is bound to the head, got one bound to the body")
    bound_to, weights, offsets = (part[mesh.vertex_of] for part in (bound_to, binding.weights, binding.offsets))
    rest = _place(bound_to, weights, offsets, axes, binding.scale_lengths, head.mean)
    return Fitted(
        name=path.stem,
        bound_to=np.ascontiguousarray(bound_to),
        weights=np.ascontiguousarray(weights),
        offsets=np.ascontiguousarray(offsets),
        axes=axes,
        lengths=binding.scale_lengths,
        uv=(mesh.uv - np.floor(mesh.uv.min(axis=0))).astype(np.float32),
        triangles=mesh.triangles,
        strands=_strands(rest, mesh.uv, mesh.triangles),
        depth=_depth(rest, head) if inner else np.ones((len(rest), 1), np.float32),
        texture=texture,
        occlusion=_occlusion(rest, mesh.triangles, head) if shades else np.ones(len(head.mean), np.float32),
    )


def _place(
    bound_to: IntArray, weights: FloatArray, offsets: FloatArray, axes: IntArray, lengths: FloatArray,
    head_vertices: FloatArray,
) -> FloatArray:  # fmt: skip
    placed = (offsets * _scale(axes, lengths, head_vertices)) @ base_axes().T
    for k in range(3):
        placed += weights[:, k, None] * head_vertices[bound_to[:, k]]
    return placed.astype(np.float32)


def _scale(axes: IntArray, lengths: FloatArray, head_vertices: FloatArray) -> FloatArray:
    """Mm per decimetre (3,) along each of MakeHuman's axes, which are the columns of `base_axes`."""
    span = (head_vertices[axes[:, 0]] - head_vertices[axes[:, 1]]) @ base_axes()  # (3, 3)
    return (np.abs(np.diagonal(span)) / lengths).astype(np.float32)


def _skin_under(head: Head, skin: IntArray, points: FloatArray, rise: float) -> tuple[IntArray, FloatArray]:
    """The skin's vertices (N, 3) and their weights (N, 3) below points (N, 3) that slide up by `rise` mm.

    "Below" is towards the axis through the ears: over the front of the head, the skin is flat around it.
    """

    def flat(places: FloatArray) -> FloatArray:
        turn = np.arctan2(places[..., 0], places[..., 2] - head.axis_z)
        return np.stack([_ROUND * turn, places[..., 1]], axis=-1).astype(np.float64)

    a, b, c = np.moveaxis(flat(head.mean[skin]), 1, 0)  # (T, 2) each
    at = (flat(points) + np.array([0.0, rise]))[:, None]  # (N, 1, 2)
    whole = _cross(b - a, c - a)
    whole = np.where(np.abs(whole) < 1e-9, np.inf, whole)  # a triangle on edge holds nothing
    second, third = _cross(at - a, c - a) / whole, _cross(b - a, at - a) / whole
    shares = np.stack([1 - second - third, second, third], axis=-1)  # (N, T, 3)
    best = shares.min(axis=-1).argmax(axis=1)  # the one that holds the point, or comes nearest to it
    found = shares[np.arange(len(best)), best].clip(0, 1)
    return skin[best], (found / found.sum(axis=1, keepdims=True)).astype(np.float32)


def _cross(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])


def _strands(vertices: FloatArray, uv: FloatArray, triangles: IntArray) -> FloatArray:
    """Unit direction (N, 3) in which v grows: along hair strands, as these textures have them."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    du1, dv1 = (uv[triangles[:, 1]] - uv[triangles[:, 0]]).T[:, :, None]
    du2, dv2 = (uv[triangles[:, 2]] - uv[triangles[:, 0]]).T[:, :, None]
    along = (c - a) * du1 - (b - a) * du2
    along *= np.sign(du1 * dv2 - du2 * dv1)
    total = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(total, triangles[:, k], along)
    return (total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-9)).astype(np.float32)


def _depth(vertices: FloatArray, head: Head) -> FloatArray:
    """Less light close to the scalp, below other hair."""
    distance, surface = head.shell.lookup(vertices, ears=False)
    above = (distance - surface)[:, None]
    return np.clip(0.4 + 0.5 * above / max(float(np.percentile(above, 90)), 8.0), 0.25, 1.0).astype(np.float32)


def _occlusion(vertices: FloatArray, triangles: IntArray, head: Head) -> FloatArray:
    """Share of soft light (M,) that a mesh leaves to the mean head's vertices: seen from a number of sides."""
    normals, open_sum = head.normals(head.mean), np.zeros(len(head.mean), np.float32)
    lit_sum = np.zeros_like(open_sum)
    center, scale = head.shell.center, _OCCLUSION_SIZE / 420.0  # pixels per mm
    for direction in sphere(_OCCLUSION_DIRECTIONS):
        rotation = view_rotation(direction) * np.float32(scale)
        buffer = empty_buffer(_OCCLUSION_SIZE)
        draw(_centered((vertices - center) @ rotation.T), triangles, buffer)
        screen = _centered((head.mean - center) @ rotation.T)
        x, y = (np.clip(np.rint(screen[:, k]).astype(int), 0, _OCCLUSION_SIZE - 1) for k in (0, 1))
        facing = np.clip(normals @ direction, 0, None)
        open_sum += facing
        lit_sum += facing * (screen[:, 2] + _OCCLUSION_BIAS * scale > buffer.depth[y, x])
    return np.where(open_sum > 0, 0.2 + 0.8 * lit_sum / np.maximum(open_sum, 1e-6), 1.0).astype(np.float32)


def _centered(points: FloatArray) -> FloatArray:
    screen = np.ascontiguousarray(points, np.float32)
    screen[:, :2] += _OCCLUSION_SIZE / 2
    return screen


def _shrink(picture: ByteArray, side: int) -> ByteArray:
    """At most `side` pixels a side; colours count as much as they are opaque."""
    if max(picture.shape[:2]) <= side:
        return picture
    share = side / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * share)), max(1, round(picture.shape[0] * share))
    alpha = picture[..., 3:].astype(np.float32)
    premultiplied = cv2.resize(picture[..., :3] * (alpha / 255.0), size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)[..., None]
    color = premultiplied / np.maximum(small / 255.0, 1e-3)
    return np.dstack([np.clip(color + 0.5, 0, 255), np.clip(small + 0.5, 0, 255)]).astype(np.uint8)


def _to_grey(texels: ByteArray) -> ByteArray:
    """Luminance alone, with a linear mean of GREY_LEVEL where it is opaque."""
    light = LINEAR[texels[..., :3]].mean(axis=2)
    opaque = texels[..., 3] > 100
    mean = float(light[opaque].mean()) if opaque.any() else 1.0
    level = np.clip(light / max(mean, 1e-4), 0.25, 2.2) ** 0.8 * GREY_LEVEL
    grey = np.clip(level ** (1 / 2.2) * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.dstack([grey, grey, grey, texels[..., 3]])
