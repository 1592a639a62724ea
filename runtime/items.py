"""The list of work that a command is given: photographs and videos, folders of them, and patterns, mixed.

Of a folder the files of known suffixes count, by name; its folders, hidden files (`.name`, among them macOS' `._name`)
and files of other kinds are left alone. What cannot be looked into is an item with an error, and the rest goes on.
Where sequences are asked for, each folder is one video instead: its images with numbers in their names, in their order.

Each item has a stem for the names of its results: its own file's; where two items would share one, the later gets its
full name, then its folder's name before it.
"""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.errors import InvalidInputError, nearest_name
from runtime.files import sha256, sha256_of_file
from runtime.image import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_NUMBERED = re.compile(r"(\d+)(?=\D*$)")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file to work on, or the folder of a sequence."""

    path: Path
    stem: str = ""
    is_sequence: bool = False  # a folder of numbered images, as one video
    error: str | None = None  # why nothing can be done with it

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix, or a sequence; anything else is tried as a photograph."""
        return self.is_sequence or self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def files(self) -> list[Path]:
        """What is read of it: its file, or the images of its sequence."""
        return numbered_images(self.path) if self.is_sequence else [self.path]

    def content(self) -> str:
        """SHA-256 of what is read of it; of a sequence, of the images' names and hashes."""
        if not self.is_sequence:
            return sha256_of_file(self.path)
        return sha256("".join(f"{file.name}\n{sha256_of_file(file)}\n" for file in self.files).encode())


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done, and what of the folders is left alone."""

    items: list[Item]
    left_alone: Counter[str] = field(default_factory=Counter)
    """Files of folders that are of other kinds, by suffix."""
    many: bool = False
    """Whether a folder or a pattern was given: what is done is then told as a sum."""


def collect(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    sequences: bool = False,
    leave_out: Callable[[Path], bool] = lambda _: False,
) -> Work:
    """The list of work.

    Args:
        inputs: files, folders and patterns (`photos/*.jpg`, for shells that leave them alone), in any mixture.
        sequences: whether each folder is one video of numbered images.
        leave_out: tells files that are no input, such as results of an earlier run in the same folder.
    """
    items: list[Item] = []
    left_alone: Counter[str] = Counter()
    many = False
    for given in inputs:
        path = Path(given)
        if path.is_dir() and sequences:
            items.append(_sequence(path, leave_out))
        elif path.is_dir():
            many = True
            items += _of_folder(path, left_alone, leave_out)
        elif not os.path.lexists(path) and glob.has_magic(os.fspath(given)):
            many = True
            items += _of_pattern(os.fspath(given), leave_out)
        else:
            items.append(Item(path=path))
    return Work(items=_once(items), left_alone=left_alone, many=many)


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, by name, without hidden ones."""
    return [path for path in _visible_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES]


def numbered_images(folder: Path) -> list[Path]:
    """The images of a folder that have numbers in their names, by the last number.

    Raises:
        InvalidInputError: there are none.
    """
    found = [(int(n[1]), path.name, path) for path in images_in(folder) if (n := _NUMBERED.search(path.stem))]
    if not found:
        raise InvalidInputError(f"{folder}: expected images with numbers in their names, found none; check the path")
    return [path for _, _, path in sorted(found)]


def _sequence(folder: Path, leave_out: Callable[[Path], bool]) -> Item:
    try:
        results = [path for path in numbered_images(folder) if leave_out(path)]
    except InvalidInputError as error:
        return Item(path=folder, error=str(error))
    except OSError as error:
        return Item(path=folder, error=f"{folder}: {error.strerror}; check its permissions")
    if results:
        expected = f"expected the images of a video alone, got {results[0].name}, a result of an earlier run"
        return Item(path=folder, error=f"{folder}: {expected}; move it elsewhere")
    return Item(path=folder, is_sequence=True)


def _visible_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _of_folder(folder: Path, left_alone: Counter[str], leave_out: Callable[[Path], bool]) -> list[Item]:
    try:
        files = _visible_files(folder)
    except OSError as error:
        return [Item(path=folder, error=f"{folder}: {error.strerror}; check its permissions")]
    known = {path for path in files if path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES}
    left_alone.update(path.suffix.lower() or "no suffix" for path in files if path not in known and not leave_out(path))
    items = [Item(path=path) for path in files if path in known and not leave_out(path)]
    if not items:
        expected = f"expected a folder with images ({', '.join(IMAGE_SUFFIXES)}), found none in it"
        return [Item(path=folder, error=f"{folder}: {expected}; check the path")]
    return items


def _of_pattern(pattern: str, leave_out: Callable[[Path], bool]) -> list[Item]:
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    items = [Item(path=path) for path in found if path.is_file() and not leave_out(path)]
    if not items:
        return [Item(path=Path(pattern), error=f"{pattern}: expected files of this pattern, found none; check it")]
    return items


def _once(items: Iterable[Item]) -> list[Item]:
    """The items without those that are the same file as one before."""
    return list({os.path.abspath(item.path): item for item in reversed(list(items))}.values())[::-1]


def with_stems(items: Iterable[Item], is_free: Callable[[str, Item], bool]) -> list[Item]:
    """The items with stems that differ, in lower case and composed too (file systems may not tell these apart).

    Args:
        items: what `collect` found.
        is_free: whether an earlier run's results of this stem are this item's own, or there are none.
    """
    taken: set[str] = set()
    named = []
    for item in items:
        if item.error is None:
            stem = next(s for s in _stems(item.path) if _folded(s) not in taken and is_free(s, item))
            taken.add(_folded(stem))
            item = replace(item, stem=stem)
        named.append(item)
    return named


def _stems(path: Path) -> Iterator[str]:
    path = Path(os.path.abspath(path))  # a folder may be given as `.`
    folder = path.parent.name
    yield path.stem
    yield path.name
    yield f"{folder}_{path.stem}"
    yield f"{folder}_{path.name}"
    number = 2
    while True:
        yield f"{path.stem}-{number}"
        number += 1


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def check_names(names: Iterable[str], items: Sequence[Item], *, source: Path) -> dict[str, Item]:
    """The item of each name: a file's name, or as much of its path as tells it from others.

    Raises:
        InvalidInputError: a name is none of the items', or of several.
    """
    by_name: dict[str, list[Item]] = {}
    for item in items:
        by_name.setdefault(_composed(item.path.name), []).append(item)
    found = {}
    for name in names:
        parts = Path(_composed(name)).parts
        same = by_name.get(parts[-1] if parts else "", [])
        fitting = [
            item for item in same if Path(_composed(os.fspath(item.path.absolute()))).parts[-len(parts) :] == parts
        ]
        if not fitting:
            raise InvalidInputError(
                f"{source}: expected names of the photographs that are given, got {nearest_name(name, by_name)}"
            )
        if len(fitting) > 1:
            raise InvalidInputError(
                f"{source}: expected names that tell the photographs apart, got '{name}' for "
                f"{fitting[0].path} and {fitting[1].path}; write the folder too"
            )
        found[name] = fitting[0]
    return found


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
