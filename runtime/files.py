"""Files are written beside their place and renamed into it, so that a reader never sees half of one.

What is no plain file is written to as it stands: a pipe or a device gets the bytes, a link's target the content.
Hashes of files, and arrays of `.npy` files, are read here, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError

_reading_umask = threading.Lock()
_OWN_OUTPUT = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")
_CHUNK = 1 << 20


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes `data` (text as UTF-8) to `path`; on any failure the old file stays and no partial one is left.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; it carries `path` as its file name.
    """
    payload = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    try:
        if (number := _own_output(path)) is not None:
            write_all(number, payload)
        elif _is_special(path):
            with open(path, "ab", buffering=0) as file:
                write_all(file.fileno(), payload)
        else:
            _replace(Path(os.path.realpath(path)), payload)
    except OSError as error:
        if error.errno is None or error.filename == os.fspath(path):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _replace(target: Path, payload: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A short name of its own: the target's may already be as long as names can be.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".cln-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
        os.chmod(name, mode_of(target))
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_all(number: int, payload: bytes) -> None:
    """Writes all of it to a descriptor, which takes less at a time where the disk is nearly full."""
    rest = memoryview(payload)
    while rest:
        rest = rest[os.write(number, rest) :]


def _own_output(path: str | os.PathLike[str]) -> int | None:
    """The descriptor of this process that a name such as /dev/stdout stands for: it has its own place in a file."""
    found = _OWN_OUTPUT.fullmatch(os.path.abspath(path))
    if found is None:
        return None
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return {"stdout": 1, "stderr": 2}.get(found[1]) or int(found[2])


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether the name stands for a pipe, a device or a socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def cache_folder(name: str) -> Path | None:
    """The user's cache folder for something that is only for speed; nothing where the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cln" / name
    except RuntimeError:  # an unknown user, as containers have
        return None


def sha256(data: bytes) -> str:
    """SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a `.npy` file: no archive and nothing pickled, whatever the file begins with.

    Raises:
        FileFormatError: it holds something else, or is cut off.
    """
    try:
        with path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise FileFormatError(f"{path}: expected a NumPy array, got one that can't be read ({error})") from None


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits, read piece by piece."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def mode_of(target: Path) -> int:
    """The permissions of the file that is replaced, or those of a new one."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    with _reading_umask:  # it is read by changing it, for the whole process
        mask = os.umask(0)
        os.umask(mask)
    return mask
