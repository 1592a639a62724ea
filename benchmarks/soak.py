"""`python -m benchmarks.soak --minutes 60`: does a long run stay level in memory, file handles and threads?

Rounds of what services do: photographs by one reconstructor, the same from several threads, engines opened and closed,
folders into files, a video tracked. After each round the process is measured; what grows steadily over the second half
is a leak.
"""

from __future__ import annotations

import argparse
import gc
import io
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.footprint import resident_mb
from runtime import InvalidInputError, Reconstructor, read_image
from runtime.batches import Run, process
from runtime.command import Exit, command, print_error
from runtime.files import write_atomically
from runtime.items import collect, with_stems
from runtime.results import Results

_PHOTO = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
_GROWTH_MB, _GROWTH_COUNT = 20.0, 3  # over the second half, that noise does not explain
_FEWEST = 8  # rounds to judge by


@dataclass(frozen=True, kw_only=True)
class Point:
    """The process after a round."""

    minutes: float
    memory_mb: float
    handles: int
    threads: int


def one_round(reconstruct: Reconstructor, folder: Path) -> None:
    """Photographs, threads, an engine opened and closed, a folder into files, a video."""
    photo = read_image(_PHOTO)
    boxes = [(172, 68, 105, 105)]
    for _ in range(5):
        reconstruct(photo)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: reconstruct(photo, boxes), range(20)))
    with Reconstructor(threads=1) as other:
        other(photo)
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    for level in range(3):
        cv2.imwrite(str(photos / f"{level}.png"), cv2.convertScaleAbs(photo, alpha=0.6 + 0.2 * level))
    results = Results(folder / "out")
    results.make_folder()
    items = with_stems(collect([photos]).items, lambda *_: True)
    run = Run(reconstruct=reconstruct, results=results, batch=4, again=True)
    for outcome in process(run, items):
        if outcome.error:
            raise InvalidInputError(outcome.error)
    from runtime.video import track

    frames = (np.roll(photo, 2 * i, axis=1) for i in range(10))
    video = folder / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 25, photo.shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    for _ in itertools.islice(track(video, reconstruct), 10):
        pass


def measure(started: float) -> Point:
    """The process now."""
    gc.collect()
    handles = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return Point(
        minutes=(time.perf_counter() - started) / 60,
        memory_mb=resident_mb() or 0.0,
        handles=handles,
        threads=len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else threading.active_count(),
    )


def leaks(points: Sequence[Point]) -> list[str]:
    """What grew over the second half: its last quarter's median against that of the quarter before."""
    if len(points) < _FEWEST:
        return [f"expected at least {_FEWEST} rounds to judge by, got {len(points)}; give more minutes"]
    half = points[len(points) // 2 :]
    found = []
    for name, allowed in (("memory_mb", _GROWTH_MB), ("handles", _GROWTH_COUNT), ("threads", _GROWTH_COUNT)):
        values = np.array([getattr(point, name) for point in half])
        growth = float(np.median(values[len(values) // 2 :]) - np.median(values[: len(values) // 2]))
        if growth > allowed:
            found.append(f"{name} grew by {growth:.1f} over the second half")
    return found


def plot(points: Sequence[Point], out: Path) -> None:
    """The curves as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, figsize=(8, 7), sharex=True)
    for axis, name, label in zip(
        axes, ("memory_mb", "handles", "threads"), ("resident, MB", "file handles", "threads"), strict=True
    ):
        axis.plot([point.minutes for point in points], [getattr(point, name) for point in points])
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.1 * max(getattr(point, name) for point in points) or 1)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    pyplot.close(figure)
    write_atomically(out, picture.getvalue())


@command(interrupted="nothing was judged")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status is 1 where something grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--out", type=Path, default=Path("out/soak.png"), help="the curves as a picture")
    options = parser.parse_args(arguments)
    started, points = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder, Reconstructor(threads=1) as reconstruct:
        while time.perf_counter() - started < 60 * options.minutes:
            one_round(reconstruct, Path(folder))
            points.append(measure(started))
    if not points:
        raise InvalidInputError(f"--minutes: expected more than 0, got {options.minutes:g}")
    plot(points, options.out)
    last, middle = points[-1], points[len(points) // 2]
    print(
        f"{len(points)} rounds in {last.minutes:.1f} min; half-way and at the end: {middle.memory_mb:.0f} and "
        f"{last.memory_mb:.0f} MB, {middle.handles} and {last.handles} handles, {middle.threads} and {last.threads} "
        f"threads; {options.out}"
    )
    found = leaks(points)
    for line in found:
        print_error(line)
    return Exit.SKIPPED if found else Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
