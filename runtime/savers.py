"""What is written of a photograph: a table of savers, of which `--save` takes some.

A saver writes one file for the photograph (`NAME.json`) or one for each face (`NAME_0.obj`, faces numbered as in the
JSON). What several of them need (a face's texture) is made once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime import maps
from runtime.drawing import DRAWERS, check_parts, draw_faces
from runtime.errors import InvalidInputError, nearest_name
from runtime.face import Face
from runtime.face_data import faces_to_csv, landmarks_to_pts
from runtime.files import write_atomically
from runtime.results import Target
from runtime.texture import Texture, is_shown, uv_texture, vertex_colors

DEFAULT_SAVERS = ("json", "picture")
DEFAULT_PARTS = ("mesh", "contours")
# A JPEG with full colour resolution, for lines of one pixel: a thirtieth of the time that a PNG takes.
_PICTURE = [
    cv2.IMWRITE_JPEG_QUALITY, 90,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip
_TIFF = [  # without the predictor for floats, which many readers lack
    cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_ADOBE_DEFLATE,
    cv2.IMWRITE_TIFF_PREDICTOR, cv2.IMWRITE_TIFF_PREDICTOR_NONE,
]  # fmt: skip
_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Photograph:
    """A photograph with its faces, as savers get it."""

    name: str
    image: NDArray[np.uint8]
    faces: Sequence[Face]
    notes: Sequence[str] = ()
    """What is wrong with the file though it could be read."""
    parts: Sequence[str] = DEFAULT_PARTS
    """What is drawn into its picture."""
    _textures: dict[int, Texture] = field(default_factory=dict)

    def texture(self, number: int) -> Texture:
        """The texture of a face; made once.

        Raises:
            InvalidInputError: nothing of it is seen.
        """
        if number not in self._textures:
            self._textures[number] = uv_texture(self.faces[number], self.image)
        return self._textures[number]

    def colors(self, number: int) -> NDArray[np.uint8] | None:
        """RGB of a face's vertices (N, 3); nothing where nothing of it is seen."""
        face = self.faces[number]
        return vertex_colors(face, self.image, texture=self.texture(number)) if is_shown(face, self.image) else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, kw_only=True)
class Saver:
    """One kind of result."""

    write: Callable[[Photograph, Target], None]
    endings: str
    """How the names of its files end, with `*` for a face's number."""
    about: str


def _json(photo: Photograph, target: Target) -> None:
    record = {"image": photo.name, "faces": [face.to_dict() for face in photo.faces]}
    if photo.notes:
        record["notes"] = list(photo.notes)
    write_atomically(target(".json"), json.dumps(record) + "\n")


def _picture(photo: Photograph, target: Target) -> None:
    _write_image(target("_faces.jpg"), draw_faces(photo.image, photo.faces, photo.parts), _PICTURE)


def _obj(photo: Photograph, target: Target) -> None:
    for i, face in enumerate(photo.faces):
        face.save_obj(target(f"_{i}.obj"), colors=photo.colors(i))


def _ply(photo: Photograph, target: Target) -> None:
    for i, face in enumerate(photo.faces):
        face.save_ply(target(f"_{i}.ply"), colors=photo.colors(i))


def _glb(photo: Photograph, target: Target) -> None:
    from runtime.gltf import to_glb

    for i, face in enumerate(photo.faces):
        texture = photo.texture(i) if is_shown(face, photo.image) else None
        data = to_glb(face, photo.image, texture=texture) if texture else to_glb(face)
        write_atomically(target(f"_{i}.glb"), data)


def _depth(photo: Photograph, target: Target) -> None:
    depth = maps.depth_map(photo.faces, photo.size)
    _write_image(target("_depth.tif"), depth, _TIFF)
    _write_image(target("_depth.png"), maps.depth_picture(depth), _FAST_PNG)


def _normals(photo: Photograph, target: Target) -> None:
    _write_image(target("_normals.png"), maps.normal_picture(maps.normal_map(photo.faces, photo.size)), _FAST_PNG)


def _pncc(photo: Photograph, target: Target) -> None:
    _write_image(target("_pncc.png"), maps.color_picture(maps.pncc_map(photo.faces, photo.size)), _FAST_PNG)


def _triangles(photo: Photograph, target: Target) -> None:
    numbers = maps.triangle_map(photo.faces, photo.size) + 1
    if numbers.max(initial=0) > 65535:
        raise InvalidInputError(
            f"triangles: expected at most 65535 in a 16-bit picture, got {numbers.max()}; use runtime.maps.triangle_map"
        )
    _write_image(target("_triangles.png"), numbers.astype(np.uint16), _FAST_PNG)


def _uv(photo: Photograph, target: Target) -> None:
    for i in range(len(photo.faces)):
        texture = photo.texture(i)
        _write_image(target(f"_{i}_uv.png"), texture.image, _FAST_PNG)
        _write_image(target(f"_{i}_uv_seen.png"), texture.seen, _FAST_PNG)


def _landmarks(photo: Photograph, target: Target) -> None:
    for i, face in enumerate(photo.faces):
        write_atomically(target(f"_{i}.pts"), landmarks_to_pts(face))


def _csv(photo: Photograph, target: Target) -> None:
    write_atomically(target(".csv"), faces_to_csv(photo.faces, image=photo.name))


def _write_image(path: object, image: NDArray[Any], options: Sequence[int]) -> None:
    file = str(path)
    ok, data = cv2.imencode(file[file.rindex(".") :], image, list(options))
    if not ok:
        raise InvalidInputError(f"{file}: expected an image that OpenCV can write, got {image.dtype} {image.shape}")
    write_atomically(file, data.tobytes())


SAVERS: Mapping[str, Saver] = MappingProxyType(
    {
        "json": Saver(write=_json, endings=".json", about="box, parameters, landmarks and pose of each face"),
        "picture": Saver(write=_picture, endings="_faces.jpg", about="the photograph with --draw's parts over it"),
        "obj": Saver(write=_obj, endings="_*.obj", about="mesh with colours, in image pixels"),
        "ply": Saver(write=_ply, endings="_*.ply", about="the same, binary"),
        "glb": Saver(write=_glb, endings="_*.glb", about="mesh in metres with texture and morph targets"),
        "depth": Saver(write=_depth, endings="_depth.tif, _depth.png", about="millimetres as float TIFF; a picture"),
        "normals": Saver(write=_normals, endings="_normals.png", about="red, green, blue: x, y (up), z from -1 to 1"),
        "pncc": Saver(write=_pncc, endings="_pncc.png", about="which point of the mean face each pixel shows"),
        "triangles": Saver(write=_triangles, endings="_triangles.png", about="triangle number + 1, 16-bit; 0: none"),
        "uv": Saver(write=_uv, endings="_*_uv.png, _*_uv_seen.png", about="texture, and which of it the camera saw"),
        "landmarks": Saver(write=_landmarks, endings="_*.pts", about="68 points as annotation tools read them"),
        "csv": Saver(write=_csv, endings=".csv", about="a row for each face: box, pose, landmarks, visibility"),
    }
)


def check_savers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once and in the table's order.

    Raises:
        InvalidInputError: one is none of the table's, or there is none.
    """
    for name in names:
        if name not in SAVERS:
            raise InvalidInputError(f"--save: expected some of {', '.join(SAVERS)}, got {nearest_name(name, SAVERS)}")
    if not names:
        raise InvalidInputError(f"--save: expected some of {', '.join(SAVERS)}, got none")
    return tuple(name for name in SAVERS if name in names)


def check_draw(names: Iterable[str]) -> tuple[str, ...]:
    """The parts of a picture, each once and in the order in which they are drawn.

    Raises:
        InvalidInputError: one is none of `DRAWERS`, or there is none.
    """
    parts = tuple(check_parts(names))
    if not parts:
        raise InvalidInputError(f"--draw: expected some of {', '.join(DRAWERS)}, got none")
    return parts


def save(photo: Photograph, names: Sequence[str], target: Target) -> None:
    """Writes what the named savers make of a photograph."""
    for name in names:
        SAVERS[name].write(photo, target)
