"""`python -m serving.ray_batch SOURCE… --out URI`: the faces of millions of photographs, on a Ray cluster.

Sources are folders, globs, `.txt` lists of paths and single images or videos, on any file system that PyArrow opens;
results are Parquet files, a row a face (`serving.rows`), in a folder on any of them. Run again, it goes on where it
stopped: what has rows is left alone, and nothing gets two. Photographs that fail get a row that says why.

The photographs still to do are cut into parts; a part is one file of results, written whole or not at all. So Ray may
do a part again, when a worker dies, without leaving doubles; a photograph at which workers die gets an error row. Only
one run at a time may write into a folder.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.command import Exit, command, exit_status, print_error
from runtime.cores import usable_cores
from runtime.errors import ClnError, EngineUnavailableError, InvalidInputError
from runtime.face_model import load_face_model
from runtime.files import sha256
from runtime.image import IMAGE_SUFFIXES
from runtime.items import VIDEO_SUFFIXES
from runtime.manifest import Manifest
from runtime.savers import SAVERS, check_savers
from serving.lock import locked
from serving.ray_workers import BATCH, FILES, PartWorker, Recipe, is_video
from serving.results import forget_errors, part_name, photos_done
from serving.rows import Origin
from serving.storage import Place, find, place

PATIENCE = 600.0  # seconds without a finished part, after which the run is taken to stand still
_SHARES = 4  # a part is so much of what is left for a worker
_PART_SIZES = 16, 512  # photographs in a part, least and most
_SHOWN = 20  # skipped photographs that are named; all have their rows
_BUNDLED = Path(__file__).parents[1] / "runtime" / "assets" / "edge.onnx"
_BAR = 30  # characters
_OBJECT_STORE = 200 * 2**20  # bytes: photographs do not go through it


class StandStillError(ClnError, RuntimeError):
    """No part is finished, for longer than is plausible."""


@dataclass(kw_only=True)
class Summary:
    """What a run did."""

    photos: int = 0
    faces: int = 0
    empty: int = 0  # photographs without a face
    skipped: int = 0
    errors: list[str] = field(default_factory=list)  # the first of them
    seconds: float = 0.0
    faces_by_worker: dict[str, int] = field(default_factory=dict)
    seconds_by_worker: dict[str, float] = field(default_factory=dict)

    def add(self, part: Mapping[str, Any]) -> None:
        """Counts a finished part."""
        self.photos += int(part["photos"])
        self.faces += int(part["faces"])
        self.empty += int(part["empty"])
        self.skipped += int(part["skipped"])
        self.errors += str(part["errors"]).splitlines()[: _SHOWN - len(self.errors)]
        worker = str(part["worker"])
        self.faces_by_worker[worker] = self.faces_by_worker.get(worker, 0) + int(part["faces"])
        self.seconds_by_worker[worker] = self.seconds_by_worker.get(worker, 0.0) + float(part["seconds"])


def recipe_of(
    engine: Path | None, face_model: Path | None, out: Place, *, threads: int = 1, batch: int = BATCH
) -> tuple[Recipe, Manifest]:
    """What workers start from, once engine and face model are known to belong together.

    Raises:
        ClnError, FileNotFoundError: as `Reconstructor` does.
    """
    from runtime.engines.plans import read_plan_manifest
    from runtime.reconstructor import Reconstructor

    path = _BUNDLED if engine is None else engine
    if path.suffix == ".engine" and path.is_file():  # a plan needs its GPU, which this machine may not have
        manifest = read_plan_manifest(path, path.read_bytes())
        model = load_face_model(face_model)
    else:
        with Reconstructor(path, face_model=face_model, threads=1) as reconstruct:
            manifest, model = reconstruct.engine.manifest, reconstruct.face_model
    beside = [path.with_name(path.name + ".json"), path.with_suffix(".onnx")] if path.suffix == ".engine" else []
    own = [] if engine is None else [path, *(file for file in beside if file.is_file())]
    own += [] if face_model is None else [face_model]
    recipe = Recipe(
        engine=None if engine is None else path.name,
        face_model=None if face_model is None else face_model.name,
        files={file.name: file.read_bytes() for file in own},
        origin=Origin(
            engine_sha256=sha256(path.read_bytes()), face_model_sha256=model.sha256, manifest=manifest.to_json()
        ),
        out=out,
        roots=(),
        threads=threads,
        batch=batch,
    )
    return recipe, manifest


def cut(photos: Sequence[Place], workers: int, size: int | None = None) -> list[Sequence[Place]]:
    """The photographs in parts, large enough to be worth a file, the last ones small: all workers end together."""
    videos = [[photo] for photo in photos if is_video(photo)]
    photos = [photo for photo in photos if not is_video(photo)]
    least, most = _PART_SIZES
    parts: list[Sequence[Place]] = []
    start = 0
    while start < len(photos):
        step = size or min(max((len(photos) - start) // (workers * _SHARES), least), most)
        parts.append(photos[start : start + step])
        start += step
    return [*videos, *parts]


def run_parts(
    recipe: Recipe, parts: Sequence[Sequence[Place]], *, workers: int, on_gpu: bool, patience: float
) -> Iterator[Mapping[str, Any]]:
    """Works on the parts with Ray, which is running; yields what became of each as it is finished.

    Raises:
        StandStillError: no part was finished within `patience` seconds.
        ClnError, OSError: a worker cannot start, or results cannot be written.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    roots: dict[int, Place] = {}
    for part in parts:
        for photo in part:
            roots.setdefault(id(photo.filesystem), photo)
    number = {key: i for i, key in enumerate(roots)}
    rows = [
        {
            "name": part_name([photo.name for photo in part]),
            "roots": [number[id(photo.filesystem)] for photo in part],
            "paths": [photo.path for photo in part],
        }
        for part in parts
    ]
    files = ray.put(recipe.files) if recipe.files else None  # this process keeps it for workers that start again
    context = DataContext.get_current()
    context.enable_progress_bars = False
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        PartWorker,
        batch_size=1,
        fn_constructor_args=(dataclasses.replace(recipe, files={}, roots=tuple(roots.values())), files),
        compute=ActorPoolStrategy(size=workers),
        num_cpus=0 if on_gpu else 1,
        num_gpus=1 if on_gpu else 0,
    )
    yield from _watched(done.iter_rows(), patience)


def _watched(finished: Iterator[Mapping[str, Any]], patience: float) -> Iterator[Mapping[str, Any]]:
    """What `finished` yields, taken from it in another thread, so that waiting has an end."""
    results: queue.Queue[Any] = queue.Queue()

    def take() -> None:
        try:
            for part in finished:
                results.put(part)
            results.put(None)
        except BaseException as error:
            results.put(error)

    threading.Thread(target=take, name="ray", daemon=True).start()
    while True:
        try:
            item = results.get(timeout=patience)
        except queue.Empty:
            raise StandStillError(_still(patience)) from None
        if item is None:
            return
        if isinstance(item, BaseException):
            raise _cause(item) from None
        yield item


def _still(patience: float) -> str:
    import ray

    free, all_ = ray.available_resources(), ray.cluster_resources()
    return (
        f"no part was finished for {patience:.0f} s; free on the cluster: {free.get('CPU', 0):g} of "
        f"{all_.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} of {all_.get('GPU', 0):g} GPUs; end what else runs "
        "there, give fewer --workers or a longer --patience, and run again to go on"
    )


def _cause(error: BaseException) -> BaseException:
    """Ray wraps what a worker raises in several errors of its own."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ClnError | OSError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    lines = str(error).strip().splitlines()
    return EngineUnavailableError(f"Ray: {lines[-1] if lines else type(error).__name__}; run again to go on")


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[tuple[int, int]]:
    """Ray, on this machine or a cluster that runs; yields its CPUs and GPUs, and ends what was started.

    Raises:
        EngineUnavailableError: the package is missing, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # what is still under way at the end must not start Ray again
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineUnavailableError(f"ray: expected the package ({error}); run: pip install '.[serving]'") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    told_to_stop = signal.getsignal(signal.SIGTERM)
    own = {"num_cpus": usable_cores(), "object_store_memory": _OBJECT_STORE, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **({} if address else own))
    except Exception as error:  # Ray has no class of its own for these; a plain one when a node is slow to start
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineUnavailableError(f"Ray: cannot start or reach {address or 'a cluster here'}: {reason}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, told_to_stop)  # Ray's own ends the process, with its number for a status
    try:
        resources = ray.cluster_resources()
        yield int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    finally:
        ray.shutdown()


def fit_workers(asked: int | None, cpus: int, gpus: int, *, on_gpu: bool) -> int:
    """How many workers there is room for; each takes a CPU or a GPU of its own.

    Raises:
        InvalidInputError: fewer than one was asked for.
        EngineUnavailableError: there is room for none.
    """
    if asked is not None and asked < 1:
        raise InvalidInputError(f"--workers: expected at least 1, got {asked}")
    room, kind = (gpus, "GPU") if on_gpu else (cpus, "CPU")
    if room < 1:
        raise EngineUnavailableError(f"Ray: expected a cluster with a {kind}, got none; give another engine or cluster")
    if asked is not None and asked > room:
        print(f"{asked} workers asked for, {room} started: one a {kind}, or they would wait for ever")
    return min(asked or room, room)


@command(interrupted="what is done is kept; run again to go on")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = _parser().parse_args(arguments)
    for name in ("batch", "part", "patience"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise InvalidInputError(f"--{name}: expected more than 0, got {value}")
    out = place(options.out)
    recipe, manifest = recipe_of(options.engine, options.face_model, out, batch=options.batch)
    if names := [name for name in options.save.split(",") if name]:
        recipe = dataclasses.replace(recipe, save=check_savers(names))
    photos = find(options.sources, IMAGE_SUFFIXES + VIDEO_SUFFIXES)
    with locked(out):
        return _run(options, recipe, photos, on_gpu=manifest.builder != "onnx")


def _run(options: argparse.Namespace, recipe: Recipe, photos: Sequence[Place], *, on_gpu: bool) -> int:
    """Does what has no rows yet."""
    out = recipe.out
    if options.retry_errors:
        print(f"{forget_errors(out)} skipped photos are tried again")
    done = photos_done(out, recipe.origin)
    todo = [photo for photo in photos if photo.name not in done]
    if len(todo) < len(photos):
        print(f"{len(photos) - len(todo)} of {len(photos)} photos have rows in {out.name} already")
    if not todo:
        return Exit.DONE
    with cluster(options.address) as (cpus, gpus):
        workers = fit_workers(options.workers, cpus, gpus, on_gpu=on_gpu)
        parts = cut(todo, workers, options.part)
        workers = min(workers, len(parts))
        finished = run_parts(recipe, parts, workers=workers, on_gpu=on_gpu, patience=options.patience)
        summary = _count(finished, len(todo))
    return _tell(summary, out)


def _count(finished: Iterator[Mapping[str, Any]], total: int) -> Summary:
    """Adds up; a line that grows, on a terminal."""
    summary, started = Summary(), time.perf_counter()
    for part in finished:
        summary.add(part)
        summary.seconds = time.perf_counter() - started
        if sys.stderr.isatty():
            bar = ("#" * (_BAR * summary.photos // total)).ljust(_BAR, ".")
            left = (total - summary.photos) * summary.seconds / summary.photos
            rate = f"{summary.faces / summary.seconds:.1f} faces/s, {left:.0f} s left"
            text = f"\r[{bar}] {summary.photos}/{total} photos, {summary.faces} faces, {rate}"
            print(text.ljust(100), end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return summary


def _tell(summary: Summary, out: Place) -> int:
    print(
        f"{summary.faces} faces in {summary.photos} photos, {summary.faces / summary.seconds:.1f} faces/s over "
        f"{summary.seconds:.1f} s; {summary.empty} without a face, {summary.skipped} skipped; rows in {out.name}"
    )
    for worker, seconds in sorted(summary.seconds_by_worker.items()):
        faces = summary.faces_by_worker[worker]
        print(f"worker {worker}: {faces} faces, {faces / seconds:.1f} faces/s while at work")
    for error in summary.errors:
        print_error(f"skipped {error}")
    if summary.skipped > len(summary.errors):
        print_error(f"and {summary.skipped - len(summary.errors)} more; their rows say why, in the column 'error'")
    return exit_status(skipped=summary.skipped, total=summary.photos)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.ray_batch", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="folder, glob, .txt list of paths, image or video")
    add("--out", required=True, metavar="URI", help="folder for the results")
    add("--engine", type=Path, metavar="PATH", help=".onnx or .engine file (default: the bundled network)")
    add("--face-model", type=Path, metavar="FILE", help="face model (default: the bundled one)")
    add("--workers", type=int, metavar="N", help="default: one a CPU, or one a GPU with an .engine")
    add("--batch", type=int, default=BATCH, metavar="N", help="faces in one call of the network")
    add("--part", type=int, metavar="N", help="photographs in a file of results (default: 16 to 512)")
    add("--address", metavar="HOST:PORT", help="of a Ray cluster, or 'auto' (default: this machine)")
    add("--save", default="", metavar="A,B", help=f"write {', '.join(SAVERS)} of each photograph too, into OUT/{FILES}")
    add("--patience", type=float, default=PATIENCE, metavar="SECONDS", help="without progress, until the run gives up")
    add("--retry-errors", action="store_true", help="try skipped photographs again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
