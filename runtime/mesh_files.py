"""Mesh files: Wavefront OBJ and binary PLY.

Vertices come in image pixels with y down; files are written in the y-up frame that mesh viewers expect: (x, -y, z). So
a face stands upright, looks along +z, and keeps its counter-clockwise outward winding. Colours are one a vertex: in PLY
as bytes, in OBJ as three numbers from 0 to 1 after the position, which MeshLab, Blender and trimesh read.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidInputError
from runtime.files import write_atomically


def write_obj(
    path: str | os.PathLike[str],
    vertices: NDArray[np.float32],
    triangles: NDArray[np.int32],
    *,
    uv: NDArray[np.float32] | None = None,
    colors: NDArray[np.uint8] | None = None,
) -> None:
    """Writes vertices (N, 3), triangles (T, 3) and, if given, uv (N, 2) and RGB colours uint8 (N, 3) as OBJ."""
    points = _check(vertices, triangles, colors)
    lines = [_rows("v %.4f %.4f %.4f", points)]
    if colors is not None:
        lines = [_rows("v %.4f %.4f %.4f %.4f %.4f %.4f", np.hstack([points, colors / 255]))]
    corners = np.asarray(triangles) + 1
    if uv is None:
        lines.append(_rows("f %d %d %d", corners))
    else:
        lines.append(_rows("vt %.6f %.6f", uv))
        lines.append(_rows("f %d/%d %d/%d %d/%d", np.repeat(corners, 2, axis=1)))
    write_atomically(path, "".join(lines))


def write_ply(
    path: str | os.PathLike[str],
    vertices: NDArray[np.float32],
    triangles: NDArray[np.int32],
    *,
    colors: NDArray[np.uint8] | None = None,
) -> None:
    """Writes vertices (N, 3), triangles (T, 3) and, if given, RGB colours uint8 (N, 3) as binary little-endian PLY."""
    points = _check(vertices, triangles, colors)
    names, fields = "property float x\nproperty float y\nproperty float z\n", [("xyz", "<f4", (3,))]
    if colors is not None:
        names += "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        fields.append(("rgb", "u1", (3,)))
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{names}"
        f"element face {len(triangles)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(points), dtype=fields)
    rows["xyz"] = points
    if colors is not None:
        rows["rgb"] = colors
    faces = np.empty(len(triangles), dtype=[("count", "u1"), ("corners", "<i4", (3,))])
    faces["count"] = 3
    faces["corners"] = triangles
    write_atomically(path, header.encode() + rows.tobytes() + faces.tobytes())


def _rows(line: str, values: NDArray[Any]) -> str:
    """All rows of numbers as text, by one formatting for all of them."""
    return (line + "\n") * len(values) % tuple(values.ravel().tolist())


def _check(
    vertices: NDArray[np.float32], triangles: NDArray[np.int32], colors: NDArray[np.uint8] | None
) -> NDArray[np.float32]:
    if vertices.ndim != 2 or vertices.shape[1] != 3 or triangles.ndim != 2 or triangles.shape[1] != 3:
        raise InvalidInputError(
            f"mesh: expected vertices (N, 3) and triangles (T, 3), got {vertices.shape} and {triangles.shape}"
        )
    if colors is not None and (colors.dtype != np.uint8 or colors.shape != vertices.shape):
        raise InvalidInputError(f"mesh: expected colours uint8 {vertices.shape}, got {colors.dtype} {colors.shape}")
    return np.asarray(vertices * np.array([1.0, -1.0, 1.0], dtype=np.float32), dtype=np.float32)
