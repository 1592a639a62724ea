"""Many photographs into files: reading, the network and writing at once, results in the order of the photographs.

One thread reads ahead (decoding, detection, crops), the caller's runs the network on the faces of several photographs
together, and a few write (pictures and meshes cost more than all the rest). Each keeps a bounded number of photographs
in hand, so memory does not grow with their number.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.drawing import draw_landmarks, draw_mesh
from runtime.errors import FileFormatError, InvalidInputError
from runtime.face import Face
from runtime.files import write_atomically
from runtime.image import read_image
from runtime.reconstructor import Prepared, Reconstructor

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_AHEAD = 4  # photographs read before the network wants them
_WRITERS = min(4, os.cpu_count() or 1)
_UNWRITTEN = 2 * _WRITERS  # photographs that may wait for being written


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a photograph."""

    photo: Path
    faces: Sequence[Face] = ()
    error: str | None = None  # why it was skipped


@dataclass(frozen=True, kw_only=True, eq=False)
class _Read:
    """A photograph as the reading thread leaves it."""

    photo: Path
    image: NDArray[np.uint8] | None = None
    prepared: Prepared | None = None
    error: str | None = None


def photos_in(folder: Path) -> list[Path]:
    """The images of a folder, by name; its folders are left alone.

    Raises:
        InvalidInputError: there are none.
    """
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not photos:
        raise InvalidInputError(
            f"{folder}: expected a folder with images ({', '.join(IMAGE_SUFFIXES)}), found none in it; check the path"
        )
    return photos


def reconstruct_files(
    reconstruct: Reconstructor, photos: Sequence[Path], boxes: Mapping[Path, Any], out: Path, *, batch: int
) -> Iterator[Outcome]:
    """Writes NAME.json, NAME.png and NAME_i.obj, .ply into `out` for each photograph.

    Args:
        reconstruct: what does the work.
        photos: image files with different stems.
        boxes: face boxes of some of them; the others go through the detector.
        out: the folder; it is made where there is none.
        batch: faces in one call of the network.

    Yields:
        Each photograph's outcome, in their order, once its files are written.

    Raises:
        OSError: a file cannot be written.
        ClnError: the engine fails.
    """
    with ThreadPoolExecutor(1, "read") as reading, ThreadPoolExecutor(_WRITERS, "write") as writing:
        try:
            unwritten: deque[Future[Outcome]] = deque()
            for group in _groups(_read_ahead(reading, reconstruct, photos, boxes), batch):
                for item, faces in zip(group, _faces(reconstruct, group, batch), strict=True):
                    unwritten.append(writing.submit(_write, item, faces, out))
                while len(unwritten) > _UNWRITTEN:
                    yield unwritten.popleft().result()
            while unwritten:
                yield unwritten.popleft().result()
        finally:  # after an error or Ctrl-C: what has not begun does not begin
            reading.shutdown(wait=False, cancel_futures=True)
            writing.shutdown(wait=False, cancel_futures=True)


def _read_ahead(
    pool: ThreadPoolExecutor, reconstruct: Reconstructor, photos: Sequence[Path], boxes: Mapping[Path, Any]
) -> Iterator[_Read]:
    ahead: deque[Future[_Read]] = deque()
    for photo in photos:
        ahead.append(pool.submit(_read, reconstruct, photo, boxes.get(photo)))
        if len(ahead) > _AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _read(reconstruct: Reconstructor, photo: Path, boxes: Any) -> _Read:
    try:
        image = read_image(photo)
        return _Read(photo=photo, image=image, prepared=reconstruct.prepare(image, boxes))
    except (FileNotFoundError, FileFormatError, InvalidInputError) as error:
        return _Read(photo=photo, error=str(error))


def _groups(items: Iterator[_Read], batch: int) -> Iterator[list[_Read]]:
    """Photographs together until they have `batch` faces, or are that many: each holds its image in memory."""
    group: list[_Read] = []
    count = 0
    for item in items:
        group.append(item)
        count += len(item.prepared.rois) if item.prepared else 0
        if max(count, len(group)) >= batch:
            yield group
            group, count = [], 0
    if group:
        yield group


def _faces(reconstruct: Reconstructor, group: Sequence[_Read], batch: int) -> list[list[Face]]:
    prepared = [item.prepared for item in group if item.prepared]
    found = iter(reconstruct.reconstruct(prepared, batch=batch) if prepared else [])
    return [next(found) if item.prepared else [] for item in group]


def _write(item: _Read, faces: Sequence[Face], out: Path) -> Outcome:
    if item.image is None:
        return Outcome(photo=item.photo, error=item.error)
    stem = item.photo.stem
    record = {"image": item.photo.name, "faces": [face.to_dict() for face in faces]}
    write_atomically(out / f"{stem}.json", json.dumps(record) + "\n")
    picture = cv2.imencode(".png", draw_landmarks(draw_mesh(item.image, faces), faces))[1]
    write_atomically(out / f"{stem}.png", picture.tobytes())
    for i, face in enumerate(faces):
        face.save_obj(out / f"{stem}_{i}.obj")
        face.save_ply(out / f"{stem}_{i}.ply")
    return Outcome(photo=item.photo, faces=faces)
