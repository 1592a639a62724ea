"""What Ray's workers run: photographs in, rows of faces out.

    import ray
    from serving.ray_workers import FaceReconstruction

    photos = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    photos.map_batches(FaceReconstruction, batch_size=32, concurrency=2).write_parquet("s3://bucket/faces")

`python -m serving.ray_batch` does more: it goes on where it stopped, and leaves out nothing.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError, InvalidInputError
from runtime.files import sha256
from runtime.image import decode_image
from runtime.items import VIDEO_SUFFIXES
from runtime.reconstructor import Prepared, Reconstructor
from runtime.savers import Photograph, save
from serving.attempts import Attempt
from serving.rows import Origin, row_of, rows_of, table_of, to_bytes
from serving.storage import Place, StorageError

BATCH = 32  # faces in one call of the network
MAX_IMAGE_BYTES = 64 * 2**20  # of a file; larger ones get an error row
FILES = "files"  # folder of meshes and pictures among the results
_FETCHES = 4  # files that a worker reads at once: buckets answer slowly
_AHEAD = 8  # files that wait for being worked on
_TRIES = 3  # to read a file, with a pause that doubles
_PAUSE = 0.5  # seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ready:
    """A photograph on its way to the network."""

    name: str
    prepared: Prepared | None = None
    image: NDArray[np.uint8] | None = None  # kept where something is saved of it
    error: str | None = None


def rows_in_batches(
    reconstruct: Reconstructor,
    photos: Iterable[tuple[str, bytes | str]],
    *,
    batch: int = BATCH,
    save: Callable[[Photograph], None] | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each photograph, in their order, the network called for several of them together.

    Args:
        reconstruct: what does the work.
        photos: name and file content, or what is wrong with it as a text.
        batch: faces in one call of the network.
        save: is called with each photograph that has faces.
    """
    group: list[_Ready] = []
    count = 0
    for name, content in photos:
        ready = _prepare(reconstruct, name, content, keep=save is not None)
        group.append(ready)
        count += len(ready.prepared.rois) if ready.prepared else 0
        if max(count, len(group)) >= batch:
            yield from _finish(reconstruct, group, batch, save)
            group, count = [], 0
    yield from _finish(reconstruct, group, batch, save)


def _prepare(reconstruct: Reconstructor, name: str, content: bytes | str, *, keep: bool) -> _Ready:
    if isinstance(content, str):
        return _Ready(name=name, error=content)
    if len(content) > MAX_IMAGE_BYTES:
        return _Ready(name=name, error=_too_large(name, len(content)))
    try:
        image = decode_image(content, name=name)
        return _Ready(name=name, prepared=reconstruct.prepare(image), image=image if keep else None)
    except (FileFormatError, InvalidInputError) as error:
        return _Ready(name=name, error=str(error))
    except (cv2.error, MemoryError) as error:  # one photograph must not end the run
        problem = f"{name}: expected an image that can be worked on, got {type(error).__name__}: {error}"
        return _Ready(name=name, error=problem)


def _too_large(name: str, size: int) -> str:
    return f"{name}: expected at most {MAX_IMAGE_BYTES} bytes, got {size}; make it smaller"


def _finish(
    reconstruct: Reconstructor, group: Sequence[_Ready], batch: int, save: Callable[[Photograph], None] | None
) -> Iterator[list[dict[str, Any]]]:
    found = iter(reconstruct.reconstruct([item.prepared for item in group if item.prepared], batch=batch))
    for item in group:
        faces = next(found) if item.prepared else []
        if save is not None and faces and item.image is not None:
            save(Photograph(name=item.name, image=item.image, faces=faces))
        yield rows_of(item.name, faces, item.error)


def rows_of_video(reconstruct: Reconstructor, path: Path, name: str) -> Iterator[dict[str, Any]]:
    """A row a face and frame of a video file; one that says so where it has none; last, why it could not be read on."""
    from runtime.video import track

    count = 0
    try:
        for frame, faces in track(path, reconstruct):
            for number, tracked in enumerate(faces):
                count += 1
                yield row_of(name, number, tracked.face, frame=frame.index, time=frame.time, track=tracked.id)
    except (FileFormatError, InvalidInputError, cv2.error, MemoryError) as error:
        yield from rows_of(name, [], " ".join(str(error).replace(str(path), name).split()))
        return
    if not count:
        yield from rows_of(name, [])


class FaceReconstruction:
    """For `Dataset.map_batches`: columns `path` and `bytes`, as `ray.data.read_binary_files` gives them, to rows.

    Each worker makes one and keeps its `Reconstructor`. `serving.rows` says what a row is.
    """

    def __init__(
        self,
        engine: str | os.PathLike[str] | None = None,
        *,
        face_model: str | os.PathLike[str] | None = None,
        threads: int = 1,
        batch: int = BATCH,
    ) -> None:
        """Loads the engine, as `Reconstructor` does.

        Args:
            engine: `.onnx` or `.engine`, a file that each worker's machine has; default: the bundled network.
            face_model: default: the bundled one.
            threads: of ONNX Runtime; there is one worker a core.
            batch: faces in one call of the network.

        Raises:
            ClnError, FileNotFoundError: as `Reconstructor` does.
        """
        cv2.setNumThreads(threads)
        self._reconstruct = Reconstructor(engine, face_model=face_model, threads=threads)
        self._batch = batch

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """The rows of a batch of photographs, as a PyArrow table.

        Raises:
            InvalidInputError: a column is missing.
        """
        if "path" not in batch or "bytes" not in batch:
            raise InvalidInputError(
                f"batch: expected the columns 'path' and 'bytes', got {sorted(batch)}; "
                "read with ray.data.read_binary_files(…, include_paths=True)"
            )
        photos = zip(map(str, batch["path"]), map(bytes, batch["bytes"]), strict=True)
        return table_of([row for rows in rows_in_batches(self._reconstruct, photos, batch=self._batch) for row in rows])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a worker needs to start: the files travel, so a worker's machine needs none."""

    engine: str | None  # file name; None: the bundled one
    face_model: str | None
    files: Mapping[str, bytes]
    origin: Origin
    out: Place  # folder of the results
    roots: Sequence[Place]  # one of each file system that photographs are on
    threads: int
    batch: int
    save: Sequence[str] = ()  # names of `runtime.savers` besides


class PartWorker:
    """For `map_batches` with `batch_size=1`: works on a part's photographs or its video, and writes its Parquet file.

    A part's file appears whole or not at all, under a name that its photographs give; so a part that is done twice,
    because a worker died on the way, is there once. A photograph that ends its workers is named in its row
    (`serving.attempts`).
    """

    def __init__(self, recipe: Recipe, files: Any = None) -> None:
        """Loads the engine.

        Args:
            recipe: what to work with.
            files: Ray's reference to its files, where they don't come with it.
        """
        self._recipe = recipe
        cv2.setNumThreads(recipe.threads)
        if files is not None:
            import ray

            files = ray.get(files)
        with tempfile.TemporaryDirectory(prefix="cln.") as folder:
            for name, content in (files or recipe.files).items():
                (Path(folder) / name).write_bytes(content)
            engine, face_model = (
                None if name is None else Path(folder) / name for name in (recipe.engine, recipe.face_model)
            )
            self._reconstruct = Reconstructor(engine, face_model=face_model, threads=recipe.threads)
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """One row of what became of the part: its counts, seconds, and the first errors."""
        started = time.perf_counter()
        recipe = self._recipe
        places = [
            recipe.roots[root].at(path)
            for root, path in zip(batch["roots"][0].tolist(), batch["paths"][0].tolist(), strict=True)
        ]
        attempt = Attempt.begin(recipe.out, str(batch["name"][0]))
        if attempt.again or is_video(places[0]):
            photos = [self._alone(place, attempt) for place in places]
            attempt.working_on(None)  # what is next, writing, is no photograph's fault
        else:
            photos = list(self._together(places))
        rows = [row for rows in photos for row in rows]
        (recipe.out / str(batch["name"][0])).write(to_bytes(table_of(rows, recipe.origin)))
        attempt.done()
        errors = [row["error"] for row in rows if row["error"] is not None]
        faces = sum(row["face"] is not None for row in rows)
        return {
            "worker": [self._worker],
            "photos": [len(photos)],
            "faces": [faces],
            "empty": [sum(r[0]["face"] is None and r[0]["error"] is None for r in photos)],
            "skipped": [sum(r[-1]["error"] is not None for r in photos)],
            "errors": ["\n".join(" ".join(e.split()) for e in errors[:100])],
            "seconds": [time.perf_counter() - started],
        }

    def _together(self, places: Sequence[Place]) -> Iterator[list[dict[str, Any]]]:
        """The rows of each photograph."""
        save = self._save if self._recipe.save else None
        return rows_in_batches(self._reconstruct, fetched(places), batch=self._recipe.batch, save=save)

    def _alone(self, place: Place, attempt: Attempt) -> list[dict[str, Any]]:
        """The rows of a photograph or video, or of what it did to workers before."""
        if (problem := attempt.problem(place.name)) is not None:
            return rows_of(place.name, [], problem)
        attempt.working_on(place.name)
        return list(self._video(place)) if is_video(place) else next(self._together([place]))

    def _video(self, place: Place) -> Iterator[dict[str, Any]]:
        """The rows of a video, from a copy of it here where it lies elsewhere."""
        if not place.prefix:
            yield from rows_of_video(self._reconstruct, Path(place.path), place.name)
            return
        with tempfile.TemporaryDirectory(prefix="cln.") as folder:
            copy = Path(folder) / f"video{Path(place.path).suffix}"
            try:
                place.copy_to(copy)
            except (FileNotFoundError, StorageError) as error:
                yield from rows_of(place.name, [], str(error))
                return
            yield from rows_of_video(self._reconstruct, copy, place.name)

    def _save(self, photo: Photograph) -> None:
        """Meshes, pictures and the like, beside the rows; two photographs of one name do not share theirs."""
        stem = f"{Path(photo.name).stem}.{sha256(photo.name.encode())[:8]}"
        with tempfile.TemporaryDirectory(prefix="cln.") as folder:
            save(photo, self._recipe.save, lambda ending: Path(folder) / f"{stem}{ending}")
            for file in sorted(Path(folder).iterdir()):
                (self._recipe.out / FILES / file.name).write(file.read_bytes())


def is_video(place: Place) -> bool:
    """Whether a file is a video, by its suffix."""
    return place.path.lower().endswith(VIDEO_SUFFIXES)


def fetched(places: Sequence[Place]) -> Iterator[tuple[str, bytes | str]]:
    """Name and content of files, or what is wrong with it, in their order; a few are read ahead."""
    waiting: deque[Any] = deque()
    with ThreadPoolExecutor(_FETCHES, "fetch") as pool:
        for place in places:
            waiting.append((place.name, pool.submit(_fetch, place)))
            if len(waiting) > _AHEAD:
                name, future = waiting.popleft()
                yield name, future.result()
        for name, future in waiting:
            yield name, future.result()


def _fetch(place: Place) -> bytes | str:
    """A file's content, or why it has none; a file system that fails is asked again."""
    problem = ""
    for attempt in range(_TRIES):
        try:
            size = place.info().size
            if size is not None and size > MAX_IMAGE_BYTES:
                return _too_large(place.name, size)
            return place.read()
        except FileNotFoundError as error:
            return str(error)
        except StorageError as error:
            problem = str(error)
            time.sleep(_PAUSE * 2**attempt)
    return problem
