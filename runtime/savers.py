"""What is written of a photograph: a table of savers, of which `--save` takes some."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.drawing import draw_faces
from runtime.errors import InvalidInputError, nearest_name
from runtime.face import Face
from runtime.files import write_atomically
from runtime.results import Target


@dataclass(frozen=True, kw_only=True, eq=False)
class Photograph:
    """A photograph with its faces, as savers get it."""

    name: str
    image: NDArray[np.uint8]
    faces: Sequence[Face]
    notes: Sequence[str] = ()
    """What is wrong with the file though it could be read."""


Saver = Callable[[Photograph, Target], None]


def _json(photo: Photograph, target: Target) -> None:
    record = {"image": photo.name, "faces": [face.to_dict() for face in photo.faces]}
    if photo.notes:
        record["notes"] = list(photo.notes)
    write_atomically(target(".json"), json.dumps(record) + "\n")


def _picture(photo: Photograph, target: Target) -> None:
    picture = cv2.imencode(".png", draw_faces(photo.image, photo.faces))[1]
    write_atomically(target(".png"), picture.tobytes())


def _obj(photo: Photograph, target: Target) -> None:
    for i, face in enumerate(photo.faces):
        face.save_obj(target(f"_{i}.obj"))


def _ply(photo: Photograph, target: Target) -> None:
    for i, face in enumerate(photo.faces):
        face.save_ply(target(f"_{i}.ply"))


SAVERS: Mapping[str, Saver] = MappingProxyType({"json": _json, "picture": _picture, "obj": _obj, "ply": _ply})
DEFAULT_SAVERS = ("json", "picture", "obj", "ply")


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


def save(photo: Photograph, names: Sequence[str], target: Target) -> None:
    """Writes what the named savers make of a photograph."""
    for name in names:
        SAVERS[name](photo, target)
