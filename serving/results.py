"""The folder of results: which photographs are done, and by what."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runtime.errors import MismatchError
from serving.attempts import is_mark
from serving.rows import PART, SUFFIX, Origin, to_bytes
from serving.storage import Place

_READERS = 8  # files that are looked at at once
_DAMAGED = ".damaged"

_log = logging.getLogger(__name__)


def part_name(names: Sequence[str]) -> str:
    """The file name of a part with these photographs: the same for the same ones."""
    return f"{PART}{hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:24]}{SUFFIX}"


def parts(out: Place) -> list[Place]:
    """The files of results in a folder."""
    names = ((info, info.path.rpartition("/")[2]) for info in out.files(recursive=False))
    return [out.at(info.path) for info, name in names if name.startswith(PART) and name.endswith(SUFFIX)]


def photos_done(out: Place, origin: Origin) -> set[str]:
    """The names of the photographs that have rows; a file that cannot be read is set aside, its photographs count not.

    Raises:
        MismatchError: there are results of another engine or face model, or no results of ours.
        StorageError: the folder cannot be read.
    """
    _sweep(out)
    with ThreadPoolExecutor(_READERS) as pool:
        return set().union(*pool.map(lambda part: _photos_in(part, origin), parts(out)))


def forget_errors(out: Place) -> int:
    """Takes what was skipped, or could not be read to its end, out of the results, to be tried again; how many."""
    count = 0
    for part in parts(out):
        table = _read(part)
        if table is None or table["error"].null_count == len(table):
            continue
        failed = pc.unique(table.filter(pc.is_valid(table["error"]))["path"])
        count += len(failed)
        kept = table.filter(pc.invert(pc.is_in(table["path"], value_set=failed)))
        if len(kept):
            part.write(to_bytes(kept))
        else:
            part.delete()
    return count


def _sweep(out: Place) -> None:
    """Removes what workers that were killed left half-written, and their marks."""
    for info in out.files(recursive=False):
        name = info.path.rpartition("/")[2]
        if is_mark(name) or (name.startswith(f".{PART}") and name.endswith(".part")):
            out.at(info.path).delete()


def _photos_in(part: Place, origin: Origin) -> set[str]:
    table = _read(part, columns=["path"])
    if table is None:
        aside = part.at(part.path + _DAMAGED)
        part.move(aside)
        _log.warning(
            "%s: no whole Parquet file; set aside as %s, its photographs are done again", part.name, aside.name
        )
        return set()
    found = Origin.read(table.schema)
    if found is None:
        raise MismatchError(f"{part.name}: expected results of this program, got another file; give another --out")
    for what in ("engine_sha256", "face_model_sha256"):
        expected, got = getattr(origin, what), getattr(found, what)
        if expected != got:
            which = what.removesuffix("_sha256").replace("_", " ")
            raise MismatchError(
                f"{part.name}: made by another {which} ({got[:12]}…), this run has {expected[:12]}…; "
                "give another --out, or the same engine and face model"
            )
    return set(table["path"].to_pylist())


def _read(part: Place, columns: list[str] | None = None) -> Any:
    """A file's table; None if it is damaged.

    Raises:
        StorageError: it cannot be reached.
    """
    try:
        with part.open() as file:
            return pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError):  # the file, or the way to it?
        content = pa.BufferReader(part.read())
    try:
        return pq.read_table(content, columns=columns)
    except (pa.ArrowException, OSError):
        return None
