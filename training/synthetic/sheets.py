"""Surfaces beside the head itself: hair, hats, cloth and frames are all `Sheet`s, in the model frame (mm).

A sheet is a triangle mesh with texture coordinates; a mask may cut it out (drawn where the mask reaches the
threshold). All masks and patterns of a picture have one size, (MASK_HEIGHT, MASK_WIDTH), so that they stack.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.synthetic.head import HeadShell
from training.synthetic.rasterizer import vertex_normals

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
ByteArray = NDArray[np.uint8]

MASK_HEIGHT, MASK_WIDTH = 128, 384


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A mesh: vertices, normals, strands (N, 3), uv (N, 2), triangles (T, 3); `light`: its share of soft light."""

    vertices: FloatArray
    normals: FloatArray
    uv: FloatArray
    strands: FloatArray
    triangles: IntArray
    material: int
    look: int
    mask: ByteArray | None = None
    threshold: int = 0
    light: float | FloatArray = 1.0
    casts_shadow: bool = True
    one_sided: bool = False
    texture: int = -1
    """Number in the atlas: gives colour and alpha."""


def mesh_sheet(
    vertices: FloatArray,
    triangles: IntArray,
    *,
    material: int,
    look: int,
    uv: FloatArray | None = None,
    mask: ByteArray | None = None,
    threshold: int = 0,
    light: float = 0.85,
    casts_shadow: bool = True,
) -> Sheet:
    """A sheet of any triangle mesh."""
    vertices = np.ascontiguousarray(vertices, dtype=np.float32)
    return Sheet(
        vertices=vertices,
        normals=vertex_normals(vertices, triangles),
        uv=np.zeros((len(vertices), 2), np.float32) if uv is None else uv.astype(np.float32),
        strands=np.zeros_like(vertices),
        triangles=triangles,
        material=material,
        look=look,
        mask=mask,
        threshold=threshold,
        light=light,
        casts_shadow=casts_shadow,
    )


def grid_sheet(
    points: FloatArray,
    *,
    material: int,
    look: int,
    mask: ByteArray | None = None,
    threshold: int = 0,
    light: float = 0.85,
    casts_shadow: bool = True,
    one_sided: bool = False,
    keep: NDArray[np.bool_] | None = None,
) -> Sheet:
    """A sheet of a grid of points (rows, columns, 3); uv spans the grid, strands run down the rows."""
    rows, columns = points.shape[:2]
    u, v = np.meshgrid(np.linspace(0, 0.9999, columns), np.linspace(0, 0.9999, rows))
    down = np.empty_like(points)
    down[1:-1], down[0], down[-1] = points[2:] - points[:-2], points[1] - points[0], points[-1] - points[-2]
    down /= np.sqrt((down * down).sum(-1, keepdims=True)) + 1e-6
    sheet = mesh_sheet(
        points.reshape(-1, 3),
        grid_triangles(rows, columns, keep),
        material=material,
        look=look,
        uv=np.stack([u.ravel(), v.ravel()], axis=1),
        mask=mask,
        threshold=threshold,
        light=light,
        casts_shadow=casts_shadow,
    )
    return replace(sheet, strands=down.reshape(-1, 3).astype(np.float32), one_sided=one_sided)


def grid_triangles(rows: int, columns: int, keep: NDArray[np.bool_] | None = None) -> IntArray:
    """A grid's triangles, outward if rows go down, columns to the subject's left; `keep` (rows - 1, columns - 1)."""
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    cells = np.stack([np.stack([a, c, b], -1), np.stack([b, c, d], -1)], axis=-2)  # (rows - 1, columns - 1, 2, 3)
    return np.ascontiguousarray(cells.reshape(-1, 3) if keep is None else cells[keep].reshape(-1, 3))


def shell_points(
    shell: HeadShell, carried: FloatArray, offset: FloatArray | float, *, ears: bool = False
) -> FloatArray:
    """Points (rows, columns, 3) `offset` mm outside the shell, moved by `carried` (rows, columns, 3)."""
    radius = (shell.radius_with_ears if ears else shell.radius) + offset
    return (shell.center + shell.directions * radius[..., None] + carried).astype(np.float32)


def tube(path: FloatArray, half_width: float, half_depth: float, *, closed: bool) -> tuple[FloatArray, IntArray]:
    """Vertices and triangles of a six-sided tube along `path` (N, 3); its depth lies along z, its width across."""
    ahead = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    if not closed:
        ahead[0], ahead[-1] = path[1] - path[0], path[-1] - path[-2]
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-6
    hint = np.where(np.abs(ahead[:, 2:]) > 0.7, [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]])
    side = np.cross(ahead, hint)
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-6
    deep = np.cross(side, ahead)
    turn = np.arange(7) * (np.pi / 3)  # the last side repeats the first
    ring = half_width * np.cos(turn)[:, None, None] * side + half_depth * np.sin(turn)[:, None, None] * deep
    points = path + ring  # (7, N, 3)
    if closed:
        points = np.concatenate([points, points[:, :1]], axis=1)
    return points.reshape(-1, 3).astype(np.float32), grid_triangles(7, points.shape[1])
