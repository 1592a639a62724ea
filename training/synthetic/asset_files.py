"""Reading MakeHuman's system assets and HDR environments: textures, meshes, and how meshes are bound to the base mesh.

Formats: Wavefront `.obj`; MakeHuman's `.mhclo`, which binds each vertex of an `.obj` to three vertices of `base.obj`
by weights and an offset in decimetres (or to a single vertex), the offset scaled along each axis by the distance
between two named vertices over a given one; textures as 8-bit pictures; Radiance `.hdr`. Pictures are BGR.
Every error is one line that names the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
ByteArray = NDArray[np.uint8]

BASE_VERTICES = 19158
_MAX_SIDE = 8192


@dataclass(frozen=True, kw_only=True)
class Binding:
    """An `.mhclo`.

    `vertices (N, 3)` of the base mesh, `weights (N, 3)`, `offsets (N, 3)` in decimetres; per axis two base vertices
    `scale_vertices (3, 2)` whose distance along it is `scale_lengths (3,)` decimetres where the offsets hold.
    """

    mesh: Path
    vertices: IntArray
    weights: FloatArray
    offsets: FloatArray
    scale_vertices: IntArray
    scale_lengths: FloatArray


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """An `.obj` with one texture coordinate per vertex.

    `vertex_of (N,)` its own vertex numbers (vertices on texture seams appear more than once) out of `vertices`, `uv (N,
    2)` with v downwards, `triangles (T, 3)`.
    """

    vertex_of: IntArray
    uv: FloatArray
    triangles: IntArray
    vertices: int


def read_texture(path: Path, *, alpha: bool) -> ByteArray:
    """A picture, uint8 (h, w, 3) or with `alpha` (h, w, 4).

    Raises:
        FileFormatError: It is missing, no 8-bit colour picture, has no alpha, or is transparent all over.
    """
    picture = cv2.imdecode(np.frombuffer(_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    channels = 4 if alpha else 3
    if picture is None:
        raise FileFormatError(
            f"{path}: expected a PNG or JPEG texture, got a file that cannot be decoded; fetch it again"
        )
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] < channels:
        got = "x".join(str(n) for n in picture.shape)
        wanted = "with an alpha channel" if alpha else "in colour"
        raise FileFormatError(f"{path}: expected an 8-bit texture {wanted}, got {picture.dtype} {got}; fetch it again")
    if alpha and not picture[..., 3].any():
        raise FileFormatError(f"{path}: expected a texture that shows something, got one with alpha 0 all over")
    if max(picture.shape) > _MAX_SIDE:
        raise FileFormatError(f"{path}: expected at most {_MAX_SIDE} pixels a side, got {max(picture.shape)}")
    return np.ascontiguousarray(picture[..., :channels])


def read_hdr(path: Path) -> FloatArray:
    """An equirectangular environment, linear BGR float32 (h, 2h, 3).

    Raises:
        FileFormatError: It is missing, no Radiance picture twice as wide as high, or not finite and positive.
    """
    picture = cv2.imdecode(np.frombuffer(_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.float32 or picture.ndim != 3:
        raise FileFormatError(f"{path}: expected a Radiance .hdr picture, got a file that cannot be read as one")
    if picture.shape[1] != 2 * picture.shape[0]:
        raise FileFormatError(f"{path}: expected an environment twice as wide as high, got {picture.shape[1::-1]}")
    if not np.isfinite(picture).all() or picture.min() < 0 or picture.max() <= 0:
        raise FileFormatError(f"{path}: expected finite light of at least 0, got NaN, infinity, or no light at all")
    return picture


def read_binding(path: Path) -> Binding:
    """An `.mhclo`.

    Raises:
        FileFormatError: It is missing, binds nothing, or holds numbers that are not finite or no base vertices.
    """
    rows: list[list[float]] = []
    scales: dict[str, tuple[int, int, float]] = {}
    mesh, reading = "", False
    for number, line in enumerate(_text(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if reading and _is_number(words[0]):
                rows.append(_bound(words))
            elif words[0] == "obj_file":
                mesh = words[1]
            elif words[0] in ("x_scale", "y_scale", "z_scale"):
                scales[words[0]] = int(words[1]), int(words[2]), float(words[3])
            else:
                reading = words[0] == "verts" or (reading and words[0] not in ("delete_verts", "weights"))
        except (ValueError, IndexError):
            raise FileFormatError(
                f"{path}: line {number}: expected an .mhclo entry, got '{line.strip()[:60]}'"
            ) from None
    if not mesh or not rows or len(scales) != 3:
        raise FileFormatError(
            f"{path}: expected obj_file, x_scale, y_scale, z_scale and bound vertices; some are missing"
        )
    table = np.array(rows, np.float64)
    named = np.array([scales[axis][:2] for axis in ("x_scale", "y_scale", "z_scale")])
    lengths = np.array([scales[axis][2] for axis in ("x_scale", "y_scale", "z_scale")])
    if not np.isfinite(table).all() or not np.isfinite(lengths).all() or (lengths <= 0).any():
        raise FileFormatError(f"{path}: expected finite weights, offsets and scales, got NaN, infinity or 0")
    vertices = np.concatenate([table[:, :3].ravel(), named.ravel()])
    if vertices.min() < 0 or vertices.max() >= BASE_VERTICES:
        raise FileFormatError(f"{path}: expected base vertices below {BASE_VERTICES}, got {int(vertices.max())}")
    return Binding(
        mesh=path.parent / mesh,
        vertices=table[:, :3].astype(np.int32),
        weights=table[:, 3:6].astype(np.float32),
        offsets=table[:, 6:].astype(np.float32),
        scale_vertices=named.astype(np.int32),
        scale_lengths=lengths.astype(np.float32),
    )


def read_mesh(path: Path) -> Mesh:
    """An `.obj` whose faces are triangles or quads with texture coordinates.

    Raises:
        FileFormatError: It is missing or not such a file, or a coordinate is not finite.
    """
    uv, corners, vertices = [], [], 0
    for number, line in enumerate(_text(path), 1):
        kind, _, rest = line.partition(" ")
        try:
            if kind == "v":
                vertices += 1
                if not all(np.isfinite(float(x)) for x in rest.split()[:3]):
                    raise ValueError
            elif kind == "vt":
                u, v = (float(x) for x in rest.split()[:2])
                uv.append((u, 1.0 - v))
            elif kind == "f":
                face = [corner.split("/")[:2] for corner in rest.split()]
                numbers = [(int(a) - 1, int(b) - 1) for a, b in face]
                corners += [(numbers[0], numbers[k], numbers[k + 1]) for k in range(1, len(numbers) - 1)]
        except ValueError:
            raise FileFormatError(
                f"{path}: line {number}: expected finite vertices and faces v/vt, got '{line.strip()[:60]}'"
            ) from None
    pairs = np.array(corners, np.int64).reshape(-1, 2)
    if (
        not len(pairs)
        or not np.isfinite(np.array(uv)).all()
        or pairs.min() < 0
        or (pairs.max(axis=0) >= (vertices, len(uv))).any()
    ):
        raise FileFormatError(f"{path}: expected faces of its own vertices and finite texture coordinates, got others")
    kinds, number = np.unique(pairs, axis=0, return_inverse=True)
    return Mesh(
        vertex_of=kinds[:, 0].astype(np.int32),
        uv=np.array(uv, np.float32)[kinds[:, 1]],
        triangles=np.ascontiguousarray(number.reshape(-1, 3), np.int32),
        vertices=vertices,
    )


def _bound(words: list[str]) -> list[float]:
    if len(words) == 1:
        vertex = float(int(words[0]))
        return [vertex, vertex, vertex, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    if len(words) != 9:
        raise ValueError
    return [float(int(word)) for word in words[:3]] + [float(word) for word in words[3:]]


def _is_number(word: str) -> bool:
    return word.lstrip("-").isdecimal()


def _text(path: Path) -> list[str]:
    return _bytes(path).decode("utf-8", errors="replace").splitlines()


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(
            f"{path}: expected a readable asset file, got: {error.strerror}; fetch it again"
        ) from None
    if data.startswith(b"version https://git-lfs"):
        raise FileFormatError(f"{path}: expected an asset file, got a Git LFS pointer to it; run: git lfs pull")
    if not data:
        raise FileFormatError(f"{path}: expected an asset file, got an empty one; fetch it again")
    return data
