"""Many photographs into files: reading, the network and writing at once, results in the order of the photographs.

Two threads read ahead (decoding, detection, crops), the caller's runs the network on the faces of several photographs
together, and others write, as many as cores are left (further ones would only wait for Python's lock). What is in hand
is bounded by its bytes, so that memory grows neither with the number of photographs nor, beyond two of them, with their
size.

What goes wrong with a photograph is that photograph's outcome, and the others go on.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.command import one_line
from runtime.cores import usable_cores
from runtime.errors import ClnError
from runtime.face import Face
from runtime.files import sha256
from runtime.image import decode_noted, read_bytes
from runtime.items import Item
from runtime.reconstructor import Prepared, Reconstructor
from runtime.results import Results, Target
from runtime.savers import DEFAULT_PARTS, DEFAULT_SAVERS, Photograph, save

RESULTS_VERSION = 1
"""Part of the settings: another version's results are not taken for finished."""
FOLDER_BATCH = 4
"""Faces in one call, of many photographs. Reading is what takes long, so what the network still has to do when the last
photograph is read should be little; larger calls gain nothing on a CPU."""
_READERS = min(2, usable_cores())  # one alone is what all others wait for: results take 1.2 times as long as reading
_AHEAD = 4  # photographs read before the network wants them
_WRITERS = max(min(4, usable_cores() - 1), 1)
_UNWRITTEN = 2 * _WRITERS  # photographs that may wait for being written
_IN_HAND = 768 << 20  # bytes of photographs in hand, from when on no further one is decoded
_TOGETHER = 256 << 20  # bytes of photographs that wait for a call of the network
_COPIES = 4  # of a decoded photograph, at most, while it is turned, drawn on and encoded


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an item."""

    photo: Path
    stem: str = ""
    faces: Sequence[Face] = ()
    finished: bool = False  # by an earlier run
    notes: tuple[str, ...] = ()
    summary: str | None = None  # of a video
    error: str | None = None  # why it was skipped


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """How items are worked on."""

    reconstruct: Reconstructor
    results: Results
    batch: int = 1
    boxes: Mapping[Path, Any] = field(default_factory=dict)
    """Face boxes of some photographs, by their path; the others go through the detector."""
    savers: Sequence[str] = DEFAULT_SAVERS
    parts: Sequence[str] = DEFAULT_PARTS
    """What is drawn into pictures."""
    again: bool = False
    """Whether photographs that are finished are done again."""
    video: Mapping[str, Any] = field(default_factory=dict)
    """Options of `track_file` for videos, as plain values."""
    progress: Callable[[Item, int, int | None], None] | None = None
    """Told of a video's frames that are done, and their number where it is known."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else the results depend on, as plain values."""

    def settings_of(self, item: Item) -> str:
        """A hash of all that the results of an item depend on, besides its content."""
        boxes = self.boxes.get(item.path)
        return self._without_boxes[item.is_video] if boxes is None else self._hash(item.is_video, boxes)

    @cached_property
    def _without_boxes(self) -> tuple[str, str]:  # of photographs, of videos
        return self._hash(False, None), self._hash(True, None)

    def _hash(self, is_video: bool, boxes: Any) -> str:
        values = {
            "version": RESULTS_VERSION,
            "engine": self.reconstruct.engine.manifest.to_json(),
            "savers": None if is_video else list(self.savers),
            "parts": None if is_video else list(self.parts),
            "boxes": boxes,
            "video": dict(self.video) if is_video else None,
            **self.settings,
        }
        return sha256(json.dumps(values, sort_keys=True).encode())


def process(run: Run, items: Sequence[Item]) -> Iterator[Outcome]:
    """Works on the items in their order; each one's outcome, once its files are written.

    Raises:
        ClnError: the engine fails.
    """
    for (is_video, is_bad), same in groupby(items, key=lambda item: (item.is_video, item.error is not None)):
        if is_bad:
            yield from (Outcome(photo=item.path, error=item.error) for item in same)
        elif is_video:
            yield from (_video(run, item) for item in same)
        else:
            yield from _photographs(run, list(same))


def _video(run: Run, item: Item) -> Outcome:
    """Follows a video's faces; of one that ends in an error, what was written before it stays, as not finished."""
    from runtime.video_files import track_file  # needs the extra `video`

    try:
        content, settings = item.content(), run.settings_of(item)
        if not run.again and run.results.is_finished(item.stem, content, settings):
            return Outcome(photo=item.path, stem=item.stem, finished=True)
        progress = run.progress and partial(run.progress, item)
        with run.results.stage() as folder:
            with run.results.room_for_a_line():
                told = track_file(run.reconstruct, item.path, folder, stem=item.stem, progress=progress, **run.video)
            cut = told.error and told.error.replace(os.fspath(folder), os.fspath(run.results.folder))
            made = settings if told.error is None else ""
            run.results.save(item.stem, item.path, content, made, partial(_move, folder, item.stem))
    except Exception as error:
        return Outcome(photo=item.path, error=_why(item, error))
    people = "1 person" if told.people == 1 else f"{told.people} people"
    summary = f"{told.frames} frames, {people}, {told.faces} faces"
    if cut is not None:
        cut = f"{cut if str(item.path) in cut else f'{item.path}: {cut}'} ({summary})"
    return Outcome(photo=item.path, stem=item.stem, summary=summary, error=cut)


def _move(folder: Path, stem: str, target: Target) -> None:
    for path in folder.iterdir():
        os.replace(path, target(path.name.removeprefix(stem)))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Read:
    """A photograph as the reading thread leaves it."""

    item: Item
    content: str = ""
    settings: str = ""
    image: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()
    prepared: Prepared | None = None
    finished: bool = False
    error: str | None = None

    @property
    def bytes(self) -> int:
        return 0 if self.image is None else _COPIES * self.image.nbytes


class _InHand:
    """Counts the bytes of photographs that were decoded and are not written yet.

    They get room in their order: one that waits for a later one, which is written after it, would wait for ever.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes, self._open, self._next = limit, 0, True, 0
        self._changed = threading.Condition()

    def wait_for_room(self, number: int) -> None:
        """Returns once there is room, and the photographs before this one were given theirs."""
        with self._changed:
            self._changed.wait_for(lambda: (self._bytes < self._limit and number == self._next) or not self._open)
            self._next += 1
            self._changed.notify_all()

    def add(self, count: int) -> None:
        with self._changed:
            self._bytes += count
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()


def _photographs(run: Run, items: Sequence[Item]) -> Iterator[Outcome]:
    in_hand = _InHand(_IN_HAND)
    with ThreadPoolExecutor(_READERS, "read") as reading, ThreadPoolExecutor(_WRITERS, "write") as writing:
        try:
            unwritten: deque[Future[Outcome]] = deque()
            for group in _groups(_read_ahead(reading, run, items, in_hand), run.batch):
                for read, faces in zip(group, _faces(run, group), strict=True):
                    unwritten.append(writing.submit(_write, run, read, faces))
                    unwritten[-1].add_done_callback(_gives_back(in_hand, read.bytes))
                group.clear()
                while len(unwritten) > _UNWRITTEN:
                    yield unwritten.popleft().result()
            while unwritten:
                yield unwritten.popleft().result()
        finally:  # after an error or Ctrl-C: what has not begun does not begin
            in_hand.close()
            reading.shutdown(wait=False, cancel_futures=True)
            writing.shutdown(wait=False, cancel_futures=True)


def _gives_back(in_hand: _InHand, count: int) -> Callable[[Any], None]:
    return lambda _: in_hand.add(-count)


def _read_ahead(pool: ThreadPoolExecutor, run: Run, items: Sequence[Item], in_hand: _InHand) -> Iterator[_Read]:
    ahead: deque[Future[_Read]] = deque()
    for number, item in enumerate(items):
        ahead.append(pool.submit(_read, run, item, number, in_hand))
        if len(ahead) > _AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _read(run: Run, item: Item, number: int, in_hand: _InHand) -> _Read:
    in_hand.wait_for_room(number)
    try:
        data = read_bytes(item.path)
        content, settings = sha256(data), run.settings_of(item)
        if not run.again and run.results.is_finished(item.stem, content, settings):
            return _Read(item=item, finished=True)
        image, notes = decode_noted(data, name=str(item.path))
        prepared = run.reconstruct.prepare(image, run.boxes.get(item.path))
    except Exception as error:
        return _Read(item=item, error=_why(item, error))
    read = _Read(item=item, content=content, settings=settings, image=image, notes=notes, prepared=prepared)
    in_hand.add(read.bytes)
    return read


def _why(item: Item, error: Exception) -> str:
    """One line that names the item."""
    text = one_line(error)
    if not isinstance(error, ClnError | OSError | MemoryError):
        text = f"internal error: {type(error).__name__}: {text}; please report it"
    return text if str(item.path) in text else f"{item.path}: {text}"


def _groups(items: Iterator[_Read], batch: int) -> Iterator[list[_Read]]:
    """Photographs together until they have `batch` faces, or are that many, or hold much memory."""
    group: list[_Read] = []
    count = 0
    for item in items:
        group.append(item)
        count += len(item.prepared.rois) if item.prepared else 0
        if max(count, len(group)) >= batch or sum(read.bytes for read in group) >= _TOGETHER:
            yield group
            group, count = [], 0
    if group:
        yield group


def _faces(run: Run, group: Sequence[_Read]) -> list[list[Face] | str]:
    """The faces of each, or why there are none; where the network fails on all together, each is tried by itself."""
    prepared = [item.prepared for item in group if item.prepared]
    try:
        found = iter(run.reconstruct.reconstruct(prepared, batch=run.batch) if prepared else [])
        return [next(found) if item.prepared else [] for item in group]
    except (ClnError, MemoryError) as error:
        if len(group) == 1:
            return [_why(group[0].item, error)]
        return [faces for item in group for faces in _faces(run, [item])]


def _write(run: Run, read: _Read, faces: list[Face] | str) -> Outcome:
    item, error = read.item, read.error if isinstance(faces, list) else faces
    if read.finished:
        return Outcome(photo=item.path, stem=item.stem, finished=True)
    if error is not None or read.image is None or isinstance(faces, str):
        return Outcome(photo=item.path, error=error)
    photo = Photograph(name=item.path.name, image=read.image, faces=faces, notes=read.notes, parts=run.parts)
    try:
        run.results.save(item.stem, item.path, read.content, read.settings, partial(save, photo, run.savers))
    except Exception as problem:
        return Outcome(photo=item.path, error=_why(item, problem))
    return Outcome(photo=item.path, stem=item.stem, faces=faces, notes=read.notes)
