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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from runtime.errors import FileFormatError, InvalidInputError
from runtime.image import decode_image
from runtime.reconstructor import Prepared, Reconstructor
from serving.rows import Origin, rows_of, table_of, to_bytes
from serving.storage import Place, StorageError

BATCH = 32  # faces in one call of the network
MAX_IMAGE_BYTES = 64 * 2**20  # of a file; larger ones get an error row
_FETCHES = 4  # files that a worker reads at once: buckets answer slowly
_AHEAD = 8  # files that wait for being worked on
_TRIES = 3  # to read a file, with a pause that doubles
_PAUSE = 0.5  # seconds


def rows_in_batches(
    reconstruct: Reconstructor, photos: Iterable[tuple[str, bytes | str]], *, batch: int = BATCH
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each photograph, in their order, the network called for several of them together.

    Args:
        reconstruct: what does the work.
        photos: name and file content, or what is wrong with it as a text.
        batch: faces in one call of the network.
    """
    group: list[tuple[str, Prepared | str]] = []
    count = 0
    for name, content in photos:
        prepared = content if isinstance(content, str) else _prepare(reconstruct, name, content)
        group.append((name, prepared))
        count += len(prepared.rois) if isinstance(prepared, Prepared) else 0
        if max(count, len(group)) >= batch:
            yield from _finish(reconstruct, group, batch)
            group, count = [], 0
    yield from _finish(reconstruct, group, batch)


def _prepare(reconstruct: Reconstructor, name: str, content: bytes) -> Prepared | str:
    if len(content) > MAX_IMAGE_BYTES:
        return f"{name}: expected at most {MAX_IMAGE_BYTES} bytes, got {len(content)}; make it smaller"
    try:
        return reconstruct.prepare(decode_image(content, name=name))
    except (FileFormatError, InvalidInputError) as error:
        return str(error)
    except (cv2.error, MemoryError) as error:  # one photograph must not end the run
        return f"{name}: expected an image that can be worked on, got {type(error).__name__}: {error}"


def _finish(
    reconstruct: Reconstructor, group: Sequence[tuple[str, Prepared | str]], batch: int
) -> Iterator[list[dict[str, Any]]]:
    found = iter(reconstruct.reconstruct([item for _, item in group if isinstance(item, Prepared)], batch=batch))
    for name, item in group:
        yield rows_of(name, next(found)) if isinstance(item, Prepared) else rows_of(name, [], item)


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


class PartWorker:
    """For `map_batches` with `batch_size=1`: works on a part's photographs, and writes its Parquet file.

    A part's file appears whole or not at all, under a name that its photographs give; so a part that is done twice,
    because a worker died on the way, is there once.
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
        photos = list(rows_in_batches(self._reconstruct, fetched(places), batch=recipe.batch))
        rows = [row for rows in photos for row in rows]
        (recipe.out / str(batch["name"][0])).write(to_bytes(table_of(rows, recipe.origin)))
        errors = [row["error"] for row in rows if row["error"] is not None]
        faces = sum(row["face"] is not None for row in rows)
        return {
            "worker": [self._worker],
            "photos": [len(photos)],
            "faces": [faces],
            "empty": [sum(r[0]["face"] is None and r[0]["error"] is None for r in photos)],
            "skipped": [len(errors)],
            "errors": ["\n".join(" ".join(e.split()) for e in errors[:100])],
            "seconds": [time.perf_counter() - started],
        }


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
                return f"{place.name}: expected at most {MAX_IMAGE_BYTES} bytes, got {size}; make it smaller"
            return place.read()
        except FileNotFoundError as error:
            return str(error)
        except StorageError as error:
            problem = str(error)
            time.sleep(_PAUSE * 2**attempt)
    return problem
