"""Results in a folder: nothing in it that this program did not make is ever replaced.

A list in the folder, `.cln-results`, holds a line of JSON for each item that was done: where it lies, the SHA-256 of
its content and of the settings, and of each file that was made of it. So

- a file is ours only while its content is one that we wrote there: an edited result is its editor's;
- an item is finished where its content, the settings and all its results are as they were;
- results of an earlier run that a new one does not have (a face less) go, if they are ours.

An item's files are written into a folder beside them and renamed into place together, after its line was added: a run
that is killed leaves no half of an item, and nothing that the next run takes for somebody else's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import InvalidInputError
from runtime.files import sha256_of_file, write_all

LIST_NAME = ".cln-results"
_RESERVE = 64 * 1024  # bytes
_STAGE_PREFIX = ".cln-stage-"
_STALE_STAGE = 86_400  # seconds after which a killed run's folder is removed
Target = Callable[[str], Path]
"""Gives the path to write a result to, from the ending of its name: `target("_0.obj")`."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What was made of an item."""

    stem: str
    source: str  # the item's path, seen from the folder of results
    content: str  # SHA-256 of the item's file
    settings: str
    files: dict[str, str]  # SHA-256 by name


@dataclass(eq=False)
class _Known:
    entries: dict[str, Entry] = field(default_factory=dict)  # by stem
    contents: dict[str, set[str]] = field(default_factory=dict)  # all that we ever wrote under a name
    owners: dict[str, str] = field(default_factory=dict)  # the stem that a name belongs to


class Results:
    """A folder of results; its methods may be called from several threads."""

    def __init__(self, folder: str | os.PathLike[str], *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
        """Reads the folder's list, where there is one.

        Args:
            folder: where the results go.
            overwrite: whether files that are not ours may be replaced.
            inputs: files that are never replaced, whatever `overwrite` says: what this run reads.

        Raises:
            OSError: the folder cannot be read, or is none.
        """
        self.folder = Path(folder)
        self._overwrite = overwrite
        self._inputs = {os.path.realpath(path) for path in inputs}
        self._lock = threading.Lock()
        self._known = _Known()
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder}: expected a folder for the results; a file exists there")
        self._read_list()

    def make_folder(self) -> None:
        """Makes the folder where there is none, and removes what killed runs left.

        Raises:
            OSError: it cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_stale_stages()

    def protect(self, inputs: Iterable[Path]) -> None:
        """Adds to the files that are never replaced."""
        self._inputs |= {os.path.realpath(path) for path in inputs}

    def made(self, path: Path) -> bool:
        """Whether a file is one of our results here, unchanged."""
        if os.path.realpath(path.parent) != os.path.realpath(self.folder) or path.name == LIST_NAME:
            return path.name == LIST_NAME
        return self._is_ours(path.name)

    def is_free(self, stem: str, source: Path) -> bool:
        """Whether there are no results of this stem, or they are of `source`, or of a file with its content."""
        entry = self._known.entries.get(stem)
        if entry is None or entry.source == self._place(source):
            return True
        with contextlib.suppress(OSError):
            return sha256_of_file(source) == entry.content
        return False

    def is_finished(self, stem: str, content: str, settings: str) -> bool:
        """Whether an item of this content was done with these settings, and all its results are still there."""
        entry = self._known.entries.get(stem)
        if entry is None or (entry.content, entry.settings) != (content, settings):
            return False
        return all(_content(self.folder / name) == digest for name, digest in entry.files.items())

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """A folder beside the results for files that take long to make, such as a video's; gone at the end."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix=_STAGE_PREFIX))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def room_for_a_line(self) -> Iterator[None]:
        """Keeps so much of the disk free meanwhile that what fills it can still be listed, and so stays.

        Raises:
            OSError: there is no room even for that.
        """
        with tempfile.TemporaryFile(dir=self.folder) as reserve:
            reserve.write(bytes(_RESERVE))
            reserve.flush()
            yield

    def save(self, stem: str, source: Path, content: str, settings: str, write: Callable[[Target], None]) -> list[str]:
        """Lets `write` make an item's files and moves them into place; their names.

        Raises:
            InvalidInputError: one of them would replace a file that is not ours.
            OSError: one cannot be written; no file of the item is left, and older results stay.
        """
        stage = Path(tempfile.mkdtemp(dir=self.folder, prefix=_STAGE_PREFIX))
        try:
            write(lambda ending: stage / f"{stem}{ending}")
            files = {path.name: sha256_of_file(path) for path in sorted(stage.iterdir())}
            entry = Entry(stem=stem, source=self._place(source), content=content, settings=settings, files=files)
            with self._lock:
                for name in files:
                    self._check(name, stem)
                before = self._known.entries.get(stem)
                self._append(entry)
                for name in files:
                    os.replace(stage / name, self.folder / name)
                if before is not None:
                    self._remove(before.files.keys() - files.keys())
            return list(files)
        except OSError as error:
            raise self._renamed(error, stage) from None
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def _renamed(self, error: OSError, stage: Path) -> OSError:
        """The error with the name that the file would have got."""
        name = error.filename if isinstance(error.filename, str) else None
        if error.errno is None or name is None:
            return error
        return OSError(error.errno, error.strerror, name.replace(os.fspath(stage), os.fspath(self.folder)))

    def _check(self, name: str, stem: str) -> None:
        path = self.folder / name
        if not os.path.lexists(path):
            return
        if os.path.realpath(path) in self._inputs:
            raise InvalidInputError(
                f"{path}: is a file that this run reads, and a result would replace it; give another --out"
            )
        if path.is_dir() and not path.is_symlink():
            raise InvalidInputError(f"{path}: is a folder, where a result would lie; move it, or give another --out")
        if self._overwrite:
            return
        if self._known.owners.get(name, stem) != stem:
            raise InvalidInputError(f"{path}: is a result of '{self._known.owners[name]}'; give another --out")
        if not self._is_ours(name):
            raise InvalidInputError(
                f"{path}: is there already, and is not what this program wrote; "
                "move it, give another --out, or allow it with --overwrite"
            )

    def _is_ours(self, name: str) -> bool:
        path, known = self.folder / name, self._known.contents.get(name)
        return bool(known) and not path.is_symlink() and path.is_file() and _content(path) in (known or ())

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            if self._is_ours(name) and os.path.realpath(self.folder / name) not in self._inputs:
                with contextlib.suppress(OSError):
                    (self.folder / name).unlink()

    def _place(self, source: Path) -> str:
        """Seen from the folder, so that both can move together."""
        try:
            return Path(os.path.relpath(source, self.folder)).as_posix()
        except ValueError:  # another drive
            return Path(os.path.abspath(source)).as_posix()

    def _append(self, entry: Entry) -> None:
        line = json.dumps(vars(entry)) + "\n"
        with open(self.folder / LIST_NAME, "ab", buffering=0) as file:  # a line that finds no room is an error
            write_all(file.fileno(), ("\n" + line if self._ends_in_half_a_line() else line).encode())
        self._take(entry)

    def _ends_in_half_a_line(self) -> bool:
        with open(self.folder / LIST_NAME, "rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def _take(self, entry: Entry) -> None:
        self._known.entries[entry.stem] = entry
        for name, digest in entry.files.items():
            self._known.contents.setdefault(name, set()).add(digest)
            self._known.owners[name] = entry.stem

    def _read_list(self) -> None:
        with contextlib.suppress(FileNotFoundError), open(self.folder / LIST_NAME, "rb") as file:
            for line in file:
                entry = _parse(line)
                if entry is not None:
                    self._take(entry)

    def _remove_stale_stages(self) -> None:
        for path in self.folder.glob(f"{_STAGE_PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_STAGE:
                    shutil.rmtree(path, ignore_errors=True)


def _content(path: Path) -> str | None:
    try:
        return sha256_of_file(path) if path.is_file() else None
    except OSError:
        return None


def _parse(line: bytes) -> Entry | None:
    """A line of the list, or nothing where it is damaged: what it listed then counts as somebody else's."""
    try:
        values: Any = json.loads(line)
        entry = Entry(**values)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (entry.stem, entry.source, entry.content, entry.settings)
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry.files, dict):
        return None
    plain = all(isinstance(v, str) and k == os.path.basename(k) and k.strip(".") for k, v in entry.files.items())
    return entry if plain else None  # never a name that leads out of the folder
