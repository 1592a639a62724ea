"""`python -m benchmarks.footprint ENGINE…`: seconds from `import runtime` to the first face, and resident memory.

Each engine has a process of its own: nothing that another has loaded counts. Memory is the process's resident set, in
MB of 10^6 bytes, after 1,000 faces, and its growth over the last 900 of them; it is known on Linux alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FACES, SETTLED = 1000, 100  # faces in all; those after which growth counts
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a process that uses one engine costs."""

    first_face_seconds: float
    resident_mb: float | None  # None where the system does not tell
    growth_mb: float | None


def footprint(engine: Path, *, threads: int = 1, faces: int = FACES) -> Footprint:
    """Measures in a new process. Raises `RuntimeError` with its words where that fails."""
    command = [sys.executable, "-m", "benchmarks.footprint", "--child", "--threads", str(threads)]
    done = subprocess.run(
        [*command, "--faces", str(faces), str(engine)], capture_output=True, text=True, check=False, env=os.environ
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise RuntimeError(f"{engine}: its footprint could not be measured ({lines[-1]})")
    return Footprint(**json.loads(done.stdout))


def measure(engine: Path, threads: int, faces: int) -> Footprint:
    """Measures in this process, which must not have imported `runtime`, or what it imports, before."""
    started = time.perf_counter()
    import numpy as np

    from runtime import Reconstructor

    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    boxes = [(200.0, 100.0, 200.0, 240.0)]
    reconstruct = Reconstructor(engine, threads=threads)
    reconstruct(frame, boxes)
    first = time.perf_counter() - started
    settled = None
    for count in range(1, faces):
        if count == SETTLED:
            settled = resident_mb()
        reconstruct(frame, boxes)
    end = resident_mb()
    growth = None if end is None or settled is None else round(end - settled, 3)
    return Footprint(first_face_seconds=round(first, 4), resident_mb=end, growth_mb=growth)


def resident_mb() -> float | None:
    """Resident set of this process."""
    if not _STATM.exists():
        return None
    return round(int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    if options.child:  # nothing of `runtime` before its clock starts
        print(json.dumps(vars(measure(options.engine[0], options.threads, options.faces))))
        return 0
    from runtime.command import command

    return command()(_report)(options)


def _report(options: argparse.Namespace) -> int:
    from runtime.command import print_error

    try:
        for engine in options.engine:
            result = footprint(engine, threads=options.threads, faces=options.faces)
            print(
                f"{engine}: first face after {result.first_face_seconds:.2f} s; {_mb(result.resident_mb)} resident "
                f"after {options.faces} faces, {_mb(result.growth_mb)} more than after {SETTLED}"
            )
    except RuntimeError as error:
        print_error(error)
        return 2
    return 0


def _mb(value: Any) -> str:
    return "unknown" if value is None else f"{value:.1f} MB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.footprint", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("engine", nargs="+", type=Path, metavar="ENGINE", help=".onnx or .engine files")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="ONNX Runtime's threads (default: 1)")
    parser.add_argument("--faces", type=int, default=FACES, metavar="N", help=f"faces in all (default: {FACES})")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
