"""Mesh files: Wavefront OBJ and binary PLY.

Vertices come in image pixels with y down; files are written in the y-up frame that mesh viewers expect: (x, -y, z). So
a face stands upright, looks along +z, and keeps its counter-clockwise outward winding.
"""

from __future__ import annotations

import io
import os

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
) -> None:
    """Writes vertices (N, 3), triangles (T, 3) and, if given, uv (N, 2) as OBJ."""
    points = _check(vertices, triangles)
    text = io.StringIO()
    np.savetxt(text, points, fmt="v %.4f %.4f %.4f")
    corners = np.asarray(triangles) + 1
    if uv is None:
        np.savetxt(text, corners, fmt="f %d %d %d")
    else:
        np.savetxt(text, uv, fmt="vt %.6f %.6f")
        np.savetxt(text, np.repeat(corners, 2, axis=1), fmt="f %d/%d %d/%d %d/%d")
    write_atomically(path, text.getvalue())


def write_ply(path: str | os.PathLike[str], vertices: NDArray[np.float32], triangles: NDArray[np.int32]) -> None:
    """Writes vertices (N, 3) and triangles (T, 3) as binary little-endian PLY."""
    points = _check(vertices, triangles)
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(triangles)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.empty(len(triangles), dtype=[("count", "u1"), ("corners", "<i4", (3,))])
    faces["count"] = 3
    faces["corners"] = triangles
    write_atomically(path, header.encode() + points.astype("<f4").tobytes() + faces.tobytes())


def _check(vertices: NDArray[np.float32], triangles: NDArray[np.int32]) -> NDArray[np.float32]:
    if vertices.ndim != 2 or vertices.shape[1] != 3 or triangles.ndim != 2 or triangles.shape[1] != 3:
        raise InvalidInputError(
            f"mesh: expected vertices (N, 3) and triangles (T, 3), got {vertices.shape} and {triangles.shape}"
        )
    return np.asarray(vertices * np.array([1.0, -1.0, 1.0], dtype=np.float32), dtype=np.float32)
