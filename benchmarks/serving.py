"""`python -m benchmarks.serving`: requests/s and waiting times of the served model, beside the same work called here.

Closed loop: each of 1, 4, 16 clients sends its next request when the last is answered. Open loop: requests are sent at
random moments (exponential gaps) at a given rate, whether the last are answered or not, as users do; waiting counts
from the moment a request was due, so a server that falls behind cannot hide it. Local work: one process that decodes
and reconstructs one photograph after the other. Clients and server share this machine's cores, unless --server names
another machine's. Batch sizes are Triton's own counts.

    python -m benchmarks.serving --plot serving.png
    python -m benchmarks.serving ray --count 2000 --repeats 3     # a folder through Ray, beside `python -m runtime`
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.output import add_outputs, number, publish, run, table
from runtime.command import command
from runtime.errors import InvalidInputError
from runtime.image import decode_image
from runtime.items import images_in
from runtime.reconstructor import Reconstructor

CLIENTS = (1, 4, 16)
RATES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1)  # of the highest rate that the closed loop reached
SECONDS = 10.0
_SENDERS = 128  # requests of the open loop that may be under way at once
_ROOT = Path(__file__).parents[1]
_PHOTO = _ROOT / "examples" / "astronaut.jpg"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What came of one kind of load."""

    load: str
    offered: float | None  # requests/s that were due; None: as many as were answered
    rate: float  # requests/s answered
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int = 0
    batches: dict[int, int] = dataclasses.field(default_factory=dict)  # how many of each size

    @property
    def mean_batch(self) -> float | None:
        """Requests that shared a batch, on average over the requests' batches."""
        count = sum(self.batches.values())
        return sum(size * n for size, n in self.batches.items()) / count if count else None


def measured(load: str, waits: Sequence[float], seconds: float, **fields: Any) -> Load:
    """Percentiles of waiting times, in seconds."""
    parts = np.percentile(waits, (50, 95, 99)) if len(waits) else [math.nan] * 3  # none was answered
    p50, p95, p99 = (round(float(v) * 1e3, 3) for v in parts)
    return Load(load=load, rate=round(len(waits) / seconds, 2), p50_ms=p50, p95_ms=p95, p99_ms=p99, **fields)


class Local:
    """One process, one photograph after the other."""

    def __init__(self, photos: Sequence[bytes]) -> None:
        """Loads the engine and works once."""
        self._photos = cycle(photos)
        self._reconstruct = Reconstructor()
        self._waits: list[float] = []
        self._work()

    def _work(self) -> None:
        self._reconstruct(decode_image(next(self._photos), name="photo"))

    def work(self, seconds: float) -> None:
        """Goes on for some time."""
        ends = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < ends:
            self._work()
            self._waits.append(time.perf_counter() - begun)

    def result(self) -> Load:
        """Of all its work."""
        self._reconstruct.close()
        return measured("local, one process", self._waits, sum(self._waits), offered=None)


def closed_loop(ask: Callable[[bytes], Any], photos: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Each client asks again when it is answered."""
    ends = time.perf_counter() + seconds

    def client(first: int) -> list[float]:
        waits = []
        for photo in islice(cycle(photos), first, None):
            begun = time.perf_counter()
            if begun > ends:
                break
            ask(photo)
            waits.append(time.perf_counter() - begun)
        return waits

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        waits = [wait for own in pool.map(client, range(clients)) for wait in own]
    taken = time.perf_counter() - started
    return measured(f"{clients} client{'s' * (clients > 1)}", waits, taken, offered=None)


def open_loop(ask: Callable[[bytes], Any], photos: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Requests are due at random moments, `rate` a second on average."""
    gaps = np.random.default_rng(0).exponential(1 / rate, max(int(rate * seconds), 20))
    waits: list[float] = []
    failures: list[Exception] = []
    lock = threading.Lock()

    def send(photo: bytes, due: float) -> None:
        try:
            ask(photo)
        except Exception as error:  # counted: a server that refuses under load is a finding
            with lock:
                failures.append(error)
            return
        with lock:
            waits.append(time.perf_counter() - due)

    started = time.perf_counter()
    with ThreadPoolExecutor(_SENDERS) as pool:
        for photo, due in zip(cycle(photos), started + np.cumsum(gaps), strict=False):
            time.sleep(max(float(due) - time.perf_counter(), 0))
            pool.submit(send, photo, float(due))
    taken = time.perf_counter() - started
    return measured(f"{rate:.0f} requests/s", waits, taken, offered=round(rate, 2), failed=len(failures))


def load_test(url: str, photos: Sequence[bytes], seconds: float) -> list[Load]:
    """Local work, in turns with closed loops against a server; then open loops."""
    from serving.client import FaceClient

    here = Local(photos)
    results = []
    with FaceClient(url, timeout=60) as client:
        with ThreadPoolExecutor(max(CLIENTS)) as pool:  # all of its processes have worked once
            list(pool.map(client, islice(cycle(photos), 2 * max(CLIENTS))))
        for clients in CLIENTS:
            here.work(seconds / 2)
            results.append(_with_batches(client, partial(closed_loop, client, photos, clients, seconds)))
            here.work(seconds / 2)
        highest = max(result.rate for result in results)
        for part in RATES:
            results.append(_with_batches(client, partial(open_loop, client, photos, part * highest, seconds)))
    return [here.result(), *results]


def _with_batches(client: Any, work: Callable[[], Load]) -> Load:
    before = client.batch_sizes()
    result = work()
    after = client.batch_sizes()
    grown = {size: after[size] - before.get(size, 0) for size in after}
    return dataclasses.replace(result, batches={size: n for size, n in sorted(grown.items()) if n})


def server_table(results: Sequence[Load]) -> str:
    """The table in Markdown; its first row is local work."""
    base = results[0].rate
    rows = [
        [
            result.load,
            number(result.rate, 1),
            f"{result.rate / base:.2f} ×",
            *(number(value, 1) for value in (result.p50_ms, result.p95_ms, result.p99_ms)),
            f"{result.p99_ms / result.p50_ms:.1f} ×",
            number(result.mean_batch, 1),
            str(result.failed),
        ]
        for result in results
    ]
    return table(
        ("load", "requests/s", "over local", "p50 ms", "p95 ms", "p99 ms", "over p50", "mean batch", "failed"), rows
    )


def plot(results: Sequence[Load], path: Path, title: str) -> None:
    """Left, what closed loops reach beside local work; right, waiting times over the offered rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    base, closed, opened = results[0], results[1 : 1 + len(CLIENTS)], results[1 + len(CLIENTS) :]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    left.bar([str(n) for n in CLIENTS], [r.rate for r in closed], color="tab:blue")
    left.axhline(base.rate, color="black", linestyle="--", label="local, one process")
    left.set(
        xlabel="clients", ylabel="requests/s", title="closed loop", ylim=(0, 1.3 * max(r.rate for r in (base, *closed)))
    )
    left.legend()
    for name in ("p50", "p95", "p99"):
        right.plot([r.offered for r in opened], [getattr(r, f"{name}_ms") for r in opened], marker="o", label=name)
    right.axhline(base.p50_ms, color="black", linestyle="--", label="local p50")
    right.set(xlabel="offered requests/s", ylabel="ms until the answer", yscale="log", title="open loop")
    right.legend()
    figure.suptitle(title, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


@contextlib.contextmanager
def served(url: str | None, engine: Path) -> Iterator[str]:
    """A server's address: the given one, or one that runs here meanwhile."""
    from serving.local_server import LocalServer
    from serving.triton import write_repository

    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="models.") as folder:
        write_repository(engine, Path(folder))
        with LocalServer(Path(folder)) as server:
            yield server.grpc


def ray_test(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Seconds of whole commands, start and end included, in turns: Ray with two workers, and one local process."""
    results: list[dict[str, Any]] = []
    count = len(images_in(folder))
    for _ in range(repeats):
        for name, arguments in (
            ("python -m runtime", ("runtime", str(folder), "--save", "json")),
            ("python -m serving.ray_batch", ("serving.ray_batch", str(folder))),
        ):
            with tempfile.TemporaryDirectory(prefix="out.") as out:
                started = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-m", *arguments, "--out", out],
                    cwd=_ROOT,
                    capture_output=True,
                    text=True,
                    env=os.environ | {"RAY_worker_niceness": "0"},  # Ray's own is 15: other work would starve it
                )
                seconds = time.perf_counter() - started
            if done.returncode:
                raise RuntimeError(f"{name}: ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
            own = [line for line in done.stdout.splitlines() if "faces/s over" in line]
            work = float(own[0].split(" faces/s over ")[1].split(" s")[0]) if own else None
            results.append({"command": name, "photos": count, "seconds": round(seconds, 2), "work_seconds": work})
    return results


def ray_table(results: Sequence[dict[str, Any]]) -> str:
    """Medians, in Markdown."""
    medians: dict[str, tuple[float, float]] = {}
    for name in dict.fromkeys(result["command"] for result in results):
        own = [result for result in results if result["command"] == name]
        medians[name] = (
            float(np.median([r["photos"] / r["seconds"] for r in own])),
            float(np.median([r["photos"] / (r["work_seconds"] or np.nan) for r in own])),
        )
    (whole, work), *_ = medians.values()
    return table(
        ("command", "photos/s, whole command", "over", "photos/s, once started", "over"),
        [[n, number(a, 1), f"{a / whole:.2f} ×", number(b, 1), f"{b / work:.2f} ×"] for n, (a, b) in medians.items()],
    )


def copies(photos: Sequence[bytes], count: int, folder: Path) -> None:
    """`count` files, each of them one of the photographs."""
    for index, photo in enumerate(photos):
        (folder / f"{index:06}.jpg").write_bytes(photo)
    for index in range(len(photos), count):
        os.link(folder / f"{index % len(photos):06}.jpg", folder / f"{index:06}.jpg")


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return run(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    if options.seconds <= 0 or options.count < 1 or options.repeats < 1:
        raise InvalidInputError("--seconds, --count and --repeats: expected more than 0")
    files = [_PHOTO] if options.images is None else images_in(options.images)
    if not files:
        raise InvalidInputError(f"{options.images}: expected a folder with images, found none in it")
    photos = [file.read_bytes() for file in files]
    about = {"device": machine.device(), "versions": machine.versions(), "photos": len(photos)}
    if options.what == "ray":
        with tempfile.TemporaryDirectory(prefix="photos.") as folder:
            copies(photos, options.count, Path(folder))
            results = ray_test(Path(folder), options.repeats)
        publish(about | {"results": results}, ray_table(results), options)
        return
    with served(options.server, options.engine) as url:
        loads = load_test(url, photos, options.seconds)
    if options.plot is not None:
        plot(loads, options.plot, about["device"])
    publish(about | {"results": [dataclasses.asdict(load) for load in loads]}, server_table(loads), options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", nargs="?", choices=("server", "ray"), default="server")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs to send (default: the example)")
    parser.add_argument("--server", metavar="URL", help="of a running server (default: one is started here)")
    parser.add_argument("--engine", type=Path, default=_ROOT / "runtime" / "assets" / "edge.onnx")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load")
    parser.add_argument("--count", type=int, default=2000, help="photographs for Ray, copies of those given")
    parser.add_argument("--repeats", type=int, default=1, help="of the runs with and without Ray, in turns")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="draw a picture of the server's figures")
    add_outputs(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
