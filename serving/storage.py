"""Folders, globs, lists and results on any file system that PyArrow opens: local, s3://, gs://, abfs://, hdfs://.

A file has one name for good, `Place.name` (the absolute path, or the URI without its options): results carry it, and by
it a later run knows what has been done.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, fs

from runtime.errors import ClnError, InvalidInputError

_CHUNK = 8 * 2**20  # bytes
LIST_SUFFIX = ".txt"  # of a file that holds one path a line
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_WILDCARDS = re.compile(r"[*?\[]")
_PATIENCE = "retry_limit_seconds", 15  # PyArrow's option of gs:// URIs; its default is a quarter of an hour
_APPEARS_WHOLE = ("s3", "gcs", "abfs")  # file systems in which a file is not seen until it is closed


class StorageError(ClnError, OSError):
    """A file system that cannot be reached, read or written."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A path on an open file system; it travels to other machines."""

    filesystem: Any  # pyarrow.fs.FileSystem
    path: str
    prefix: str  # what a path on it is called with in front: "" or "s3://"

    @property
    def name(self) -> str:
        """How messages and results call it."""
        return self.prefix + self.path

    def __truediv__(self, name: str) -> Place:
        """The place of a file in this folder."""
        return Place(filesystem=self.filesystem, path=f"{self.path.rstrip('/')}/{name}", prefix=self.prefix)

    def at(self, path: str) -> Place:
        """Another path on the same file system."""
        return Place(filesystem=self.filesystem, path=path, prefix=self.prefix)

    def info(self) -> Any:
        """PyArrow's `FileInfo`; its type says if there is nothing.

        Raises:
            StorageError: the file system cannot be reached.
        """
        return _tried(self.name, self.filesystem.get_file_info, self.path)

    def is_file(self) -> bool:
        """Whether a file is there."""
        return bool(self.info().type == fs.FileType.File)

    def files(self, *, recursive: bool = True) -> list[Any]:
        """PyArrow's `FileInfo` of the folder's files, hidden ones too, by name; none where there is no such folder.

        Raises:
            StorageError: the file system cannot be reached.
        """
        selector = fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        found = _tried(self.name, self.filesystem.get_file_info, selector)
        return sorted((info for info in found if info.type == fs.FileType.File), key=lambda info: str(info.path))

    def read(self) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: there is none.
            StorageError: it cannot be read.
        """
        with _tried(self.name, self.filesystem.open_input_stream, self.path) as stream:
            return bytes(_tried(self.name, stream.read))

    def copy_to(self, path: Path) -> None:
        """Copies a file of any size to this machine.

        Raises:
            FileNotFoundError, StorageError: as `read` does.
        """
        with path.open("wb") as target, _tried(self.name, self.filesystem.open_input_stream, self.path) as stream:
            while chunk := _tried(self.name, stream.read, _CHUNK):
                target.write(chunk)

    def open(self) -> Any:
        """A file for reading at any offset.

        Raises:
            FileNotFoundError, StorageError: as `read` does.
        """
        return _tried(self.name, self.filesystem.open_input_file, self.path)

    def move(self, target: Place) -> None:
        """Gives a file another name on the same file system.

        Raises:
            StorageError: it cannot be.
        """
        _tried(self.name, self.filesystem.move, self.path, target.path)

    def delete(self) -> None:
        """Removes a file.

        Raises:
            StorageError: it cannot be.
        """
        _tried(self.name, self.filesystem.delete_file, self.path)

    def write(self, data: Any) -> None:
        """Writes `data` so that no reader ever sees half of it; the file's folder is made.

        Raises:
            StorageError: it cannot be written.
        """
        folder, _, name = self.path.rpartition("/")
        if self.filesystem.type_name in _APPEARS_WHOLE:
            self._put(self.path, data)
            return
        _tried(self.name, self.filesystem.create_dir, folder, recursive=True)
        beside = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.part"
        try:
            self._put(beside, data)
            _tried(self.name, self.filesystem.move, beside, self.path)
        except BaseException:
            if self.filesystem.get_file_info(beside).type == fs.FileType.File:
                self.filesystem.delete_file(beside)
            raise

    def _put(self, path: str, data: Any) -> None:
        with _tried(self.name, self.filesystem.open_output_stream, path) as stream:
            _tried(self.name, stream.write, data)


def _tried(name: str, function: Any, *arguments: Any, **options: Any) -> Any:
    """Calls PyArrow; its errors become one line that names the place."""
    try:
        return function(*arguments, **options)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: expected a file, found none; check the path") from None
    except (OSError, ArrowException) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise StorageError(f"{name}: cannot be reached: {lines[0]}") from None


def place(location: str | os.PathLike[str]) -> Place:
    """A path or URI as a place.

    Raises:
        InvalidInputError: a URI that PyArrow has no file system for.
        StorageError: the file system cannot be opened.
    """
    text = os.fspath(location)
    if not text:
        raise InvalidInputError("path: expected a path or a URI, got an empty text")
    scheme = _URI.match(text)
    if scheme is None or scheme[1].lower() == "file":
        path = text if scheme is None else fs.FileSystem.from_uri(text)[1]
        return Place(filesystem=fs.LocalFileSystem(), path=Path(os.path.abspath(path)).as_posix(), prefix="")
    try:
        filesystem, path = fs.FileSystem.from_uri(_patient(text) if scheme[1].lower() in ("gs", "gcs") else text)
    except (ArrowException, ValueError) as error:
        raise InvalidInputError(
            f"{text}: expected a path, or a URI of a file system that PyArrow opens (s3://, gs://, abfs://, hdfs://, "
            f"file://), got one that it refuses: {str(error).splitlines()[0]}"
        ) from None
    except OSError as error:
        raise StorageError(f"{text}: cannot be reached: {(str(error).splitlines() or ['no reason'])[0]}") from None
    return Place(filesystem=filesystem, path=path, prefix=f"{scheme[1].lower()}://")


def _patient(uri: str) -> str:
    """With an end to its tries, so that a bucket that cannot be reached is told within a minute."""
    option, seconds = _PATIENCE
    return uri if f"{option}=" in uri else f"{uri}{'&' if '?' in uri else '?'}{option}={seconds}"


def find(sources: Sequence[str], suffixes: Sequence[str]) -> list[Place]:
    """The files that folders, globs, lists and single names stand for, each once, in their order.

    Args:
        sources: a folder (with all its folders), a glob (`**` goes through folders), a `.txt` file of one path a line
            (relative ones count from that file), or a file. Folders and globs leave out what is hidden (`.name`).
        suffixes: of the files that count in folders, lower case.

    Raises:
        InvalidInputError: a source without such files.
        FileNotFoundError, StorageError: nothing there, or it cannot be reached.
    """
    found: dict[str, Place] = {}
    for source in sources:
        start = place(source)
        count = len(found)
        for item in _expand(start, suffixes):
            found.setdefault(item.name, item)
        if len(found) == count and not any(_expand(start, suffixes)):
            raise InvalidInputError(
                f"{start.name}: expected image files ({', '.join(suffixes)}), found none; check the path"
            )
    return list(found.values())


def _expand(start: Place, suffixes: Sequence[str]) -> Iterator[Place]:
    kind = start.info().type
    if kind == fs.FileType.Directory:
        yield from (photo for photo in _seen(start) if photo.path.lower().endswith(tuple(suffixes)))
    elif kind == fs.FileType.File and start.path.lower().endswith(LIST_SUFFIX):
        yield from _listed(start)
    elif kind == fs.FileType.File:
        yield start
    elif (wildcard := _WILDCARDS.search(start.path)) is not None:
        folder = start.path[: wildcard.start()].rpartition("/")[0]
        pattern = _translate(start.path)
        yield from (photo for photo in _seen(start.at(folder)) if pattern.fullmatch(photo.path))
    else:
        raise FileNotFoundError(f"{start.name}: expected a folder, a glob, a list or an image, found none; check it")


def _seen(folder: Place) -> Iterator[Place]:
    """The files of a folder and its folders, without hidden ones."""
    paths = (str(info.path) for info in folder.files())
    return (folder.at(path) for path in paths if "/." not in path[len(folder.path.rstrip("/")) :])


def _listed(file: Place) -> Iterator[Place]:
    try:
        lines = file.read().decode().splitlines()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{file.name}: expected a list of paths as UTF-8 text, got other bytes") from None
    folder = file.at(file.path.rpartition("/")[0])
    is_rooted = file.path.startswith("/")
    known: dict[str, Place] = {}  # opening a file system for each line would be slow
    for line in filter(None, map(str.strip, lines)):
        scheme = _URI.match(line)
        if scheme is None:
            absolute = line if is_rooted else line.lstrip("/")  # in an object store: from the bucket on
            yield folder.at(absolute) if line.startswith("/") else folder / line
            continue
        if scheme[1].lower() not in ("s3", "gs"):
            yield place(line)
            continue
        path, _, options = line[scheme.end() :].partition("?")
        root = f"{scheme[0]}{path.partition('/')[0]}?{options}"
        if root not in known:
            known[root] = place(root)
        yield known[root].at(path)


def _translate(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: `*` and `?` stop at `/`, `**/` stands for any folders."""
    text = "".join(
        {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(part, part if part.startswith("[") else re.escape(part))
        for part in re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", pattern)
    )
    return re.compile(text.replace("[!", "[^"), re.DOTALL)
