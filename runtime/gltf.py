"""glTF 2.0: a face as one `.glb` file, with its texture and its expression modes as morph targets.

Frame: the face model's own, which is glTF's: y up, the face looks along +z, +x is the subject's left; metres, origin in
the middle of the face. The vertices are the neutral face of the subject's shape; the morph targets are the face model's
expression modes, `expression_0` and so on, and their weights the face's own coefficients: all at 0 is the neutral face.
The head's pose is not in the vertices; it stands in the mesh's `extras` (and see `runtime.camera`).

To stay small, morph targets are 16-bit and sparse (extension KHR_mesh_quantization, which three.js, Babylon.js, Blender
and Unity's glTFast read); positions, normals and texture coordinates are plain floats. The
attribute `_SEEN` of a vertex is 1 where the photograph shows it and 0 where the texture is mirrored or filled.

Needs `pygltflib` (`pip install 'cln[glb]'`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import EngineUnavailableError, InvalidInputError
from runtime.face_model import POSE_SIZE
from runtime.image import as_bgr
from runtime.rasterizer import vertex_normals
from runtime.texture import SEEN, TEXTURE_SIZE, Texture, shown_vertices, texture_coordinates, uv_texture

if TYPE_CHECKING:
    from runtime.face import Face

_FLOAT, _UNSIGNED_BYTE, _SHORT, _UNSIGNED_SHORT, _UNSIGNED_INT = 5126, 5121, 5122, 5123, 5125
_ARRAY, _ELEMENTS = 34962, 34963  # what a buffer view is for
_LARGEST_INDEX = 2**32 - 2  # 2^32 - 1 is glTF's mark for "start again"
_LONGEST = 2**32 - 1  # bytes: the header's length is 32-bit
_STILL = 8e-5  # metres: a vertex that a mode moves by less per unit stays out of its morph target
_JPEG_QUALITY = 88


def to_glb(
    face: Face,
    image: NDArray[np.uint8] | None = None,
    *,
    texture_size: int = TEXTURE_SIZE,
    texture: Texture | None = None,
) -> bytes:
    """The face as a `.glb` file.

    Args:
        face: the face.
        image: the photograph that it was found in, for the texture; without it the face is plain.
        texture_size: pixels.
        texture: of this face and image, where it is there already.

    Raises:
        InvalidInputError: nothing of the face is seen in the image; the mesh is larger than glTF's index type.
        EngineUnavailableError: pygltflib is not installed.
    """
    gltf = _library()
    vertices, triangles = _neutral(face), face.triangles
    check_size(len(vertices), len(triangles))
    buffer = _Buffer(gltf)
    up = np.array([1, -1, 1], dtype=np.float32)
    normals = vertex_normals(vertices * up, triangles) * up
    attributes = {
        "POSITION": buffer.add(vertices, _FLOAT, "VEC3", target=_ARRAY, bounds=True),
        "NORMAL": buffer.add(_unit(normals), _FLOAT, "VEC3", target=_ARRAY),
    }
    material = {}
    if image is not None:
        frame = as_bgr(image)
        texture = texture or uv_texture(face, frame, texture_size)
        seen = _padded((shown_vertices(face, frame) >= SEEN)[:, None].astype(np.uint8) * 255)
        attributes["TEXCOORD_0"] = buffer.add(texture_coordinates(face.model), _FLOAT, "VEC2", target=_ARRAY)
        attributes["_SEEN"] = buffer.add(seen, _UNSIGNED_BYTE, "SCALAR", target=_ARRAY)
        picture = cv2.imencode(".jpg", texture.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        material["baseColorTexture"] = gltf.TextureInfo(index=0)
        source = buffer.view(picture.tobytes())
    kind = _UNSIGNED_SHORT if len(vertices) <= 65535 else _UNSIGNED_INT
    corners = triangles.astype(np.uint16 if kind == _UNSIGNED_SHORT else np.uint32).ravel()
    indices = buffer.add(corners, kind, "SCALAR", target=_ELEMENTS)
    names = [f"expression_{k}" for k in range(face.model.expression_count)]
    targets = [gltf.Attributes(POSITION=buffer.add_moves(mode / 1000)) for mode in face.model.expression_basis]
    primitive = gltf.Primitive(
        attributes=gltf.Attributes(**attributes), indices=indices, material=0, targets=targets, mode=4
    )
    document = gltf.GLTF2(
        asset=gltf.Asset(version="2.0", generator="cln", copyright=face.model.license[:200] or None),
        extensionsUsed=["KHR_mesh_quantization"],
        extensionsRequired=["KHR_mesh_quantization"],
        scene=0,
        scenes=[gltf.Scene(nodes=[0])],
        nodes=[gltf.Node(mesh=0, name="face")],
        meshes=[
            gltf.Mesh(
                name="face",
                primitives=[primitive],
                weights=_expression(face).tolist(),
                extras={"targetNames": names, "pose": _pose(face), "faceModel": face.model.name},
            )
        ],
        materials=[
            gltf.Material(
                name="skin",
                doubleSided=True,
                alphaCutoff=None,
                pbrMetallicRoughness=gltf.PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=0.9, **material),
            )
        ],
        accessors=buffer.accessors,
        bufferViews=buffer.views,
    )
    if image is not None:
        document.images = [gltf.Image(bufferView=source, mimeType="image/jpeg", name="photograph")]
        document.textures = [gltf.Texture(source=0, sampler=0)]
        document.samplers = [gltf.Sampler(magFilter=9729, minFilter=9987, wrapS=33071, wrapT=33071)]
    return buffer.finish(document)


def check_size(vertices: int, triangles: int) -> None:
    """Refuses a mesh that glTF's 32-bit numbers cannot count.

    Raises:
        InvalidInputError: it is larger.
    """
    if vertices > _LARGEST_INDEX or 12 * triangles > _LONGEST:
        raise InvalidInputError(
            f"glb: expected at most {_LARGEST_INDEX} vertices and {_LONGEST // 12} triangles, got {vertices} and "
            f"{triangles}, more than its 32-bit numbers hold; reduce the mesh, or save .ply"
        )


def _library() -> Any:
    try:
        import pygltflib
    except ImportError:
        raise EngineUnavailableError(
            "glb: expected the package pygltflib, found none; pip install 'cln[glb]' or pip install pygltflib"
        ) from None
    return pygltflib


class _Buffer:
    """The binary part of a file, and the views and accessors of it."""

    def __init__(self, gltf: Any) -> None:
        self._gltf = gltf
        self._parts: list[bytes] = []
        self._length = 0
        self.views: list[Any] = []
        self.accessors: list[Any] = []

    def view(self, data: bytes, *, stride: int | None = None, target: int | None = None) -> int:
        """Adds bytes; the number of their view."""
        self.views.append(
            self._gltf.BufferView(
                buffer=0, byteOffset=self._length, byteLength=len(data), byteStride=stride, target=target
            )
        )
        padded = data + bytes(-len(data) % 4)
        self._parts.append(padded)
        self._length += len(padded)
        return len(self.views) - 1

    def add(self, values: NDArray[Any], kind: int, shape: str, *, target: int, bounds: bool = False) -> int:
        """Adds an array, one row a vertex or one number an index; the number of its accessor."""
        data = np.ascontiguousarray(values)
        stride = data.itemsize * data.shape[1] if target == _ARRAY else None
        accessor = self._gltf.Accessor(
            bufferView=self.view(data.tobytes(), stride=stride, target=target),
            componentType=kind,
            count=len(data),
            type=shape,
            normalized=kind == _UNSIGNED_BYTE or None,
        )
        if bounds:
            accessor.min, accessor.max = data.min(axis=0).tolist(), data.max(axis=0).tolist()
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def add_moves(self, moves: NDArray[np.float32]) -> int:
        """Adds a morph target, metres (N, 3): 16-bit steps of 1/32767 m, of the vertices that move."""
        gltf = self._gltf
        steps = np.clip(np.round(moves * 32767), -32767, 32767).astype(np.int16)
        moved = np.flatnonzero(np.abs(moves).max(axis=1) >= _STILL)
        if not len(moved):
            moved = np.array([0])  # a sparse accessor holds one value at least
        some = steps[moved]
        wide = len(moves) > 65535
        index = self.view(moved.astype(np.uint32 if wide else np.uint16).tobytes())
        values = self.view(some.tobytes())
        low, high = some.min(axis=0), some.max(axis=0)
        if len(moved) < len(moves):
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        self.accessors.append(
            gltf.Accessor(
                byteOffset=None,
                componentType=_SHORT,
                normalized=True,
                count=len(moves),
                type="VEC3",
                min=low.tolist(),
                max=high.tolist(),
                sparse=gltf.Sparse(
                    count=len(moved),
                    indices=gltf.AccessorSparseIndices(
                        bufferView=index, componentType=_UNSIGNED_INT if wide else _UNSIGNED_SHORT
                    ),
                    values=gltf.AccessorSparseValues(bufferView=values),
                ),
            )
        )
        return len(self.accessors) - 1

    def finish(self, document: Any) -> bytes:
        """The file."""
        document.buffers = [self._gltf.Buffer(byteLength=self._length)]
        document.set_binary_blob(b"".join(self._parts))
        data = b"".join(document.save_to_bytes())
        if len(data) > _LONGEST:
            raise InvalidInputError(f"glb: expected at most {_LONGEST} bytes, got {len(data)}; use a smaller texture")
        return data


def _neutral(face: Face) -> NDArray[np.float32]:
    """The vertices (N, 3), metres, with the subject's shape and no expression."""
    model = face.model
    neutral = model.unposed(face.params[POSE_SIZE : POSE_SIZE + model.shape_count])
    return np.asarray(model.vertices(neutral) / 1000, dtype=np.float32)


def _expression(face: Face) -> NDArray[np.float32]:
    return face.params[POSE_SIZE + face.model.shape_count :]


def _pose(face: Face) -> dict[str, float]:
    return {name: round(float(getattr(face.pose, name)), 4) for name in ("yaw", "pitch", "roll")}


def _unit(normals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit normals; straight ahead for a vertex of no triangle."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(np.where(length > 0.5, normals / np.maximum(length, 1e-12), [0, 0, 1]), dtype=np.float32)


def _padded(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows of bytes, filled up to four: glTF wants each vertex' value at a multiple of four bytes."""
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
