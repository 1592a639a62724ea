"""One run at a time into a folder of results, on any file system: a small file that says who works there.

Object stores know no exclusive creation, so a run writes the file, waits a moment and reads back whose it is: of two
that start together, the later one's stands. A run that was killed leaves its file behind: on the same machine the next
one sees that its process is gone, and takes over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import ClnError
from serving.storage import Place

FILE = ".lock"
_MOMENT = 0.2  # seconds; longer than what another run needs from reading the file to writing its own


class LockedError(ClnError, RuntimeError):
    """Another run writes into the folder."""


@contextlib.contextmanager
def locked(folder: Place) -> Iterator[None]:
    """Keeps other runs out of a folder.

    Raises:
        LockedError: another run works there, or may: on another machine nobody can tell from here.
        StorageError: the folder cannot be read or written.
    """
    file = folder / FILE
    holder = _holder(file)
    if holder is not None and not _is_gone(holder):
        raise _refused(file, holder)
    pid = os.getpid()
    own = {"host": socket.gethostname(), "pid": pid, "born": _born(pid), "since": _now(), "token": uuid.uuid4().hex}
    file.write(json.dumps(own).encode())
    time.sleep(_MOMENT)
    if (holder := _holder(file)) != own:
        raise _refused(file, holder or {})
    try:
        yield
    finally:
        if _holder(file) == own:
            file.delete()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def _holder(file: Place) -> Mapping[str, Any] | None:
    """Who wrote the file; None without one. One that cannot be read is somebody's, too."""
    try:
        content = json.loads(file.read())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_gone(holder: Mapping[str, Any]) -> bool:
    """Whether the run that wrote it has surely ended: on this machine, a process that is no more."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int) or os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _born(pid) != holder.get("born")  # another process that was given its number


def _born(pid: int) -> str | None:
    """When a process of this machine was started; None where the system does not say (Linux does)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from the third field on
    except OSError:
        return None
    return f"{boot} {after[19]}"


def _refused(file: Place, holder: Mapping[str, Any]) -> LockedError:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, since {holder.get('since', '?')}"
    return LockedError(
        f"{file.name}: expected no other run into this folder, got one ({who}); wait for it or give another --out, "
        "and where that run is surely gone, delete the file"
    )
