"""`python -m tests.hostile --count 20000`: damaged files at every reader, each in a process of its own with limits.

A reader may give a result or a `ClnError` or `OSError`. What must not be: a crash, more than 10 s, more than 2 GB, any
other exception. Samples are numbered, and the same in every run; those that fail are kept under --out.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from runtime.command import Exit, command
from runtime.errors import ClnError
from tests.hostile.mutations import mutate

SECONDS, BYTES = 10.0, 2 << 30
_ROOM = 4 << 30  # of addresses, above what the parent has: what asks for more gets a MemoryError
_ODD = "odd arrays"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a reader did with a sample."""

    outcome: str  # read, refused, or what must not be
    said: str
    seconds: float
    bytes: int


@dataclass(kw_only=True)
class Row:
    """Of one reader."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    bytes: int = 0


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=20_000, help="samples in all (default: 20000)")
    parser.add_argument("--start", type=int, default=0, help="number of the first sample (default: 0)")
    parser.add_argument("--only", help="one reader, by its name")
    parser.add_argument("--out", type=Path, default=Path("out/hostile"), help="where failing samples go")
    options = parser.parse_args(arguments)
    from tests.hostile.readers import odd_arrays, readers

    table = [reader for reader in readers() if options.only in (None, reader.name)]
    turns = [reader for reader in table for _ in range(reader.weight)]
    rows = {reader.name: Row() for reader in table}
    arrays = options.only in (None, _ODD)
    if arrays:
        rows[_ODD] = Row()
    started = time.perf_counter()
    for number in range(options.start, options.start + options.count):
        if arrays and (number % 20 == 0 or not turns):  # a hundred arrays each
            name, data = _ODD, b""
            verdict = watched(lambda folder, n=number: odd_arrays(n))
        else:
            reader = turns[number % len(turns)]
            name, data = reader.name, mutate(reader.seeds, np.random.default_rng([number, 7]))
            verdict = watched(lambda folder, r=reader, d=data: _read(r.read, folder / r.file, d))
        row = rows[name]
        row.counts[verdict.outcome] += 1
        row.seconds, row.bytes = max(row.seconds, verdict.seconds), max(row.bytes, verdict.bytes)
        if verdict.outcome not in ("read", "refused"):
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"{name.replace(' ', '_')}-{number}.bin").write_bytes(data)
            print(f"{name} {number}: {verdict.outcome}: {verdict.said}", flush=True)
        if sys.stderr.isatty():
            print(f"\r{number + 1 - options.start}/{options.count}", end="", file=sys.stderr)
    print(f"\n{options.count} samples in {time.perf_counter() - started:.0f} s")
    print("| reader | samples | read | refused | failed | longest, s | most memory, MB |\n| --- |" + " --- |" * 6)
    failed = 0
    for name, row in rows.items():
        good, refused = row.counts["read"], row.counts["refused"]
        failed += (bad := row.counts.total() - good - refused)
        cells = (name, row.counts.total(), good, refused, bad, f"{row.seconds:.1f}", row.bytes >> 20)
        print("| " + " | ".join(map(str, cells)) + " |")
    return Exit.SKIPPED if failed else Exit.DONE


def _read(read: Callable[[Path], object], path: Path, data: bytes) -> None:
    path.write_bytes(data)
    read(path)


def watched(work: Callable[[Path], object]) -> Verdict:
    """Runs `work` on an empty folder in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        ours, theirs = os.pipe()
        started = time.perf_counter()
        child = os.fork()
        if not child:
            os.close(ours)
            _child(work, Path(folder), theirs)
        os.close(theirs)
        ready = select.select([ours], [], [], SECONDS)[0]
        if not ready:
            os.kill(child, signal.SIGKILL)
        said = os.read(ours, 4096).decode(errors="replace") if ready else ""
        os.close(ours)
        _, status, used = os.wait4(child, 0)
        seconds = time.perf_counter() - started
    peak = used.ru_maxrss * 1024
    if not ready:
        outcome = "hang"
    elif os.WIFSIGNALED(status):
        outcome, said = "crash", f"signal {os.WTERMSIG(status)}"
    elif peak > BYTES:
        outcome = "memory"
    else:
        outcome, _, said = said.partition("\n")
    return Verdict(outcome=outcome or "crash", said=said, seconds=seconds, bytes=peak)


def _child(work: Callable[[Path], object], folder: Path, pipe: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1), os.dup2(null, 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc/self/statm") else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ROOM,) * 2)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        work(folder)
        said = "read"
    except (ClnError, OSError) as error:
        said = "refused" if "\n" not in str(error).strip() and len(str(error)) < 2000 else f"many lines\n{error}"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(where) if "site-packages" not in f.filename), where[-1])
        said = f"traceback\n{type(error).__name__}: {str(error)[:300]} ({Path(place.filename).name}:{place.lineno})"
    os.write(pipe, said.encode(errors="replace")[:4000])
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
