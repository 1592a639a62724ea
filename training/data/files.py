"""What the readers share: finding label files, an index of what is in them, and images that may be damaged.

An index keeps the numbers of all label files in one file of the user's cache, so that the second start takes a second
and not minutes. It is made again when a label file was added, removed or changed (names, sizes and times are compared).

A bad file does not end a run: bad labels are left out when the index is made, and an image that can't be read gives its
place in the batch to the next sample. Each is named at the end (`Skipped.report`). Where more than 1 % of a set is bad,
something else is wrong, and the run stops.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import safetensors
from runtime.command import one_line
from runtime.errors import FileFormatError
from runtime.files import cache_folder, sha256
from runtime.image import IMAGE_SUFFIXES, read_image, upright_size
from runtime.roi import Roi, crop

logger = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.01
_INDEX_VERSION = 2
_NAMED = 10


@dataclass(eq=False)
class Skipped:
    """The bad files of a set of `total` samples, and why they are bad."""

    total: int
    limit: float = MAX_BAD_SHARE
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Count a file once.

        Raises:
            FileFormatError: A larger share of the set than `limit` is bad now.
        """
        self.reasons[name] = reason
        if len(self.reasons) > self.limit * self.total:
            raise FileFormatError(
                f"{len(self.reasons)} of {self.total} files are bad, more than {self.limit:.0%}; the last one: "
                f"{reason}. Run 'python -m training.data check' on the set."
            )

    def report(self) -> list[str]:
        """One line for the count and one for each of the first files; empty where nothing was skipped."""
        if not self.reasons:
            return []
        lines = [f"{len(self.reasons)} of {self.total} samples were skipped:"]
        lines += [f"  {reason}" for reason in list(self.reasons.values())[:_NAMED]]
        rest = len(self.reasons) - _NAMED
        return [*lines, f"  and {rest} more"] if rest > 0 else lines


class CropReader:
    """Reads the regions of images of a set, in a few threads (decoding leaves Python's lock alone)."""

    def __init__(self, total: int, *, threads: int | None = None, skipped: Skipped | None = None) -> None:
        """For `total` samples; by default one thread for each core, at most eight, and an own count of bad files."""
        self.skipped = skipped or Skipped(total=total)
        self._total = total
        self._threads = threads or min(8, os.cpu_count() or 1)
        self._pool: ThreadPoolExecutor | None = None

    def part(self, total: int) -> CropReader:
        """A reader of `total` samples of the set: bad files are counted with the whole set's."""
        return CropReader(total, threads=self._threads, skipped=self.skipped)

    def read(
        self, indices: NDArray[np.int64], locate: Callable[[int], tuple[Path, Roi]], size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Crops (B, size, size, 3) and whose they are (B,): a damaged image's place goes to the next sample.

        Raises:
            FileFormatError: More than 1 % of the set can't be read, or none of the samples.
        """
        images = np.empty((len(indices), size, size, 3), np.uint8)
        used = np.array(indices, dtype=np.int64)
        places = np.arange(len(indices))
        for _ in range(self._total):
            failed = []
            for place, error in zip(places, self._fill(images, used, places, locate), strict=True):
                if error is not None:
                    path = locate(int(used[place]))[0]
                    self.skipped.add(str(path), str(error))
                    logger.debug("skipped %s", error)
                    used[place] = (used[place] + 1) % self._total
                    failed.append(place)
            places = np.array(failed, dtype=np.int64)
            if not failed:
                return images, used
        raise FileFormatError(f"None of {self._total} samples can be read, {locate(0)[0]} first; fetch them again.")

    def _fill(
        self,
        images: NDArray[np.uint8],
        used: NDArray[np.int64],
        places: NDArray[np.int64],
        locate: Callable[[int], tuple[Path, Roi]],
    ) -> list[Exception | None]:
        def one(place: int) -> Exception | None:
            path, roi = locate(int(used[place]))
            try:
                images[place] = crop(read_image(path), [roi], images.shape[1])[0]
            except (FileFormatError, OSError) as error:
                return error
            return None

        if self._threads == 1 or len(places) == 1:
            return [one(place) for place in places]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)
        return list(self._pool.map(one, places))


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A label file: its path below the set's folder, and what tells a changed one."""

    name: str
    size: int
    modified: int


def find_files(
    folder: Path, suffix: str | tuple[str, ...], *, parts: Sequence[str] = (".",), deep: bool = False
) -> list[LabelFile]:
    """Files of a suffix, or of one of several, in the named parts of a folder, below them too where `deep`, by name."""
    found: list[LabelFile] = []
    waiting = [folder / part for part in parts if (folder / part).is_dir()]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    if deep and not entry.name.startswith("."):
                        waiting.append(Path(entry.path))
                elif entry.name.lower().endswith(suffix) and not entry.name.startswith("."):  # macOS' ._NAME
                    stat = entry.stat()
                    name = Path(entry.path).relative_to(folder).as_posix()
                    found.append(LabelFile(name=name, size=stat.st_size, modified=stat.st_mtime_ns))
    return sorted(found, key=lambda file: file.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """The good label files' names and numbers (one row each), and the bad ones' reasons."""

    names: list[str]
    arrays: dict[str, NDArray[Any]]
    bad: dict[str, str]


def read_index(
    folder: Path,
    kind: str,
    files: Sequence[LabelFile],
    read: Callable[[Path], dict[str, NDArray[Any]]],
    cache: Path | None = None,
    max_bad: float = MAX_BAD_SHARE,
) -> Index:
    """The index of label files: from the cache where it is as new as they are, else by `read` of each.

    Args:
        folder: The set's.
        kind: Names the reader; another one's index is not taken.
        files: Its label files.
        read: The numbers of one file, or a `FileFormatError`.
        cache: Where indices lie; by default the user's cache folder.
        max_bad: Share of the files that may be bad.

    Raises:
        FileFormatError: More of the files are bad, or all.
    """
    place = sha256(f"{kind} {folder.resolve()}".encode())[:16]
    where = cache or cache_folder("index")
    path = where / f"{kind}-{place}.safetensors" if where else None
    listing = "\n".join(f"{file.name} {file.size} {file.modified}" for file in files)
    fingerprint = sha256(f"{_INDEX_VERSION}\n{listing}".encode())
    index = (path and _cached(path, fingerprint)) or _build(folder, files, read, path, fingerprint)
    skipped = Skipped(total=len(files), limit=max_bad)
    for name, reason in index.bad.items():
        skipped.add(name, reason)
    return index


def _cached(path: Path, fingerprint: str) -> Index | None:
    try:
        tensors, metadata = safetensors.read(path)
        if metadata.get("fingerprint") != fingerprint:
            return None
        names = tensors.pop("names").tobytes().decode()
        return Index(names=names.split("\n"), arrays=tensors, bad=json.loads(metadata["bad"]))
    except (OSError, FileFormatError, KeyError, ValueError):
        return None  # a damaged cache is made again


def _build(
    folder: Path,
    files: Sequence[LabelFile],
    read: Callable[[Path], dict[str, NDArray[Any]]],
    path: Path | None,
    fingerprint: str,
) -> Index:
    from tqdm import tqdm

    names, rows, bad = [], [], {}
    for file in tqdm(files, unit="file", desc="reading labels", disable=None):
        try:
            rows.append(read(folder / file.name))
            names.append(file.name)
        except (FileFormatError, OSError) as error:
            bad[file.name] = one_line(error)
    if not rows:
        first = next(iter(bad.values()), "no label file")
        raise FileFormatError(f"{folder}: expected readable labels, got none ({first}).")
    arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    encoded = np.frombuffer("\n".join(names).encode(), dtype=np.uint8)
    if path is not None:
        try:
            safetensors.write(path, {**arrays, "names": encoded}, {"fingerprint": fingerprint, "bad": json.dumps(bad)})
        except OSError as error:  # it is only for speed
            warnings.warn(f"the index of {folder} is not kept ({one_line(error)}); it is made each time", stacklevel=2)
    return Index(names=names, arrays=arrays, bad=bad)


def images_of(folder: Path, *, deep: bool = False) -> list[LabelFile]:
    """The images of a folder, below it too where `deep`, by name."""
    return find_files(folder, IMAGE_SUFFIXES, deep=deep)


def image_beside(path: Path) -> Path:
    """The image of a label file: the same name with a suffix of an image, in any case.

    Raises:
        FileFormatError: There is none, or more than one.
    """
    stat = path.parent.stat()
    images = _images_by_stem(os.fspath(path.parent), stat.st_mtime_ns).get(path.stem, ())
    if not images:
        raise FileFormatError(
            f"{path}: expected its image {path.stem}.jpg or .png beside it, found none; copy it there."
        )
    if len(images) > 1:
        raise FileFormatError(f"{path}: expected one image beside it, found {' and '.join(images)}; keep one of them.")
    return path.with_name(images[0])


def labelled_image(path: Path) -> Path:
    """The image of a label file of an index; where it is gone since, a name that will be missed when it is read."""
    try:
        return image_beside(path)
    except (FileFormatError, OSError):
        return path.with_suffix(".jpg")


@lru_cache(maxsize=16)
def _images_by_stem(folder: str, modified: int) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
            found[stem] = (*found.get(stem, ()), name)
    return found


def image_height(path: Path) -> int:
    """Height of an upright image in pixels, as labels count it (`runtime.image`), mostly without decoding it.

    Raises:
        FileFormatError: The file can't be read.
    """
    return upright_size(path)[1]


def numbers(path: Path, content: dict[str, Any], name: str, shape: int | tuple[int | None, ...]) -> NDArray[np.float64]:
    """The finite numbers called `name` in a .mat file's content: of a shape, or flat where `shape` is their count.

    A row and a column are the same; a matrix is not its transpose. None stands for any length.

    Raises:
        FileFormatError: They are not there, of another shape or kind, or not finite.
    """
    value = content.get(name)
    fits = isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
    if isinstance(value, np.ndarray) and isinstance(shape, int):
        fits = fits and max(value.shape, default=0) == value.size == shape
    elif isinstance(value, np.ndarray) and isinstance(shape, tuple):
        fits = fits and value.ndim == len(shape)
        fits = fits and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
    if not fits or not isinstance(value, np.ndarray):
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else "nothing"
        wanted = f"{shape} numbers" if isinstance(shape, int) else f"shape {tuple(n or 'any' for n in shape)}"
        raise FileFormatError(f"{path}: expected {name} with {wanted}, got {got}; the set's own files have them so.")
    if not np.isfinite(value).all():
        raise FileFormatError(f"{path}: {name} holds NaN or infinity; fetch the file again.")
    array = np.asarray(value, dtype=np.float64)
    return array.ravel() if isinstance(shape, int) else array
