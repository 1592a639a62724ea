"""`python -m benchmarks.latency --engine PATH… --json OUT`: how long a face takes, stage by stage.

Stages: `detect` (the built-in detector on the frame), `crop` (regions cut from a 1080p frame), `host_to_device`,
`network` (the engine's call), `device_to_host`, `decode` (68 landmarks), `end_to_end` (image and boxes in, faces out).
Copies are apart for plans alone: other engines have them within `network`. Times are milliseconds per call of a whole
batch. All combinations take turns, round after round, so that a machine that drifts slows all of them alike: compare
within one run, by ratio.

Peers (`--peer X.onnx:120`: any graph with one float32 input (B, 3, 120, 120) or (B, 120, 120, 3)) and PyTorch
(`--torch CKPT`, eager, and with `--compile` compiled) have the stage `network` alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.footprint import Footprint, footprint
from benchmarks.machine import device, versions
from benchmarks.output import add_outputs, number, publish, run, table
from runtime import InvalidInputError, Reconstructor, Roi, crop, read_image
from runtime.command import command
from runtime.files import write_atomically

STAGES = ("detect", "crop", "host_to_device", "network", "device_to_host", "decode", "end_to_end")
PERCENTILES = (50, 95, 99)
_ROUNDS, _CALLS = 10, 20
_QUICK_ROUNDS, _QUICK_CALLS = 3, 5
_FRAME = (1080, 1920)
_FACE_SIZE = 200.0
_PHOTO = Path(__file__).parent.parent / "examples" / "astronaut.jpg"  # not there where only the packages are installed

Calls = dict[str, Callable[[], Any]]


class Case:
    """One thing to measure at one batch size and thread count: its stages, and the times they took."""

    def __init__(self, name: str, precision: str, batch: int, threads: int, calls: Calls) -> None:
        """`calls` are the stages; one whose call gives a dict of milliseconds stands for the stages in it."""
        self.name, self.precision, self.batch, self.threads = name, precision, batch, threads
        self.footprint: Footprint | None = None
        self._calls = calls
        self._times: dict[str, list[float]] = defaultdict(list)

    def measure(self, count: int, *, keep: bool) -> None:
        """Calls each stage `count` times; the first round is for warming up and not kept."""
        for name, call in self._calls.items():
            for _ in range(count):
                start = time.perf_counter()
                answer = call()
                taken = {name: 1000 * (time.perf_counter() - start)}
                for stage, value in (answer if isinstance(answer, dict) else taken).items():
                    if keep:
                        self._times[stage].append(value)

    def result(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        stages = [stage for stage in STAGES if stage in self._times]
        percentiles = {
            f"p{q}_ms": {stage: round(float(np.percentile(self._times[stage], q)), 4) for stage in stages}
            for q in PERCENTILES
        }
        p50 = percentiles["p50_ms"]
        row: dict[str, Any] = {
            "engine": self.name,
            "precision": self.precision,
            "batch": self.batch,
            "threads": self.threads,
            **percentiles,
            "faces_per_second": round(1000 * self.batch / p50.get("end_to_end", p50["network"]), 1),
        }
        return row | ({"footprint": dataclasses.asdict(self.footprint)} if self.footprint else {})


def engine_case(path: Path, batch: int, threads: int, frame: NDArray[np.uint8]) -> Case:
    """An engine file, all stages."""
    reconstruct = Reconstructor(path, threads=threads)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [_FRAME[1] - _FACE_SIZE, _FRAME[0] - _FACE_SIZE], (batch, 2))
    boxes = np.hstack([corners, np.full((batch, 2), _FACE_SIZE)])
    rois = [Roi.from_box(box) for box in boxes]
    engine, model, detector = reconstruct.engine, reconstruct.face_model, reconstruct.detector
    size = engine.manifest.input_size
    crops = crop(frame, rois, size)
    params = engine(crops)
    calls: Calls = {
        "crop": lambda: crop(frame, rois, size),
        "network": lambda: engine(crops),
        "decode": lambda: model.landmarks(params),
        "end_to_end": lambda: reconstruct(frame, boxes),
    }
    if batch == 1:
        calls = {"detect": lambda: detector.detect(frame), **calls}
    if (timed := getattr(engine, "timed", None)) is not None:
        calls["network"] = lambda: timed(crops)
    return Case(path.name, engine.manifest.precision, batch, threads, calls)


def peer_case(text: str, batch: int, threads: int) -> Case:
    """A foreign graph, `FILE.onnx:SIZE`; its network call alone."""
    from runtime.engines.onnx import create_session

    name, _, size = text.rpartition(":")
    path = Path(name)
    if not name or not size.isdigit() or not path.is_file():
        raise InvalidInputError(f"--peer: expected FILE.onnx:SIZE with a file that exists, got {text}")
    session = create_session(path.read_bytes(), name=name, threads=threads)
    (given,) = session.get_inputs()[:1]
    channels_first = given.shape[1] == 3
    shape = (batch, 3, int(size), int(size)) if channels_first else (batch, int(size), int(size), 3)
    if "float" not in given.type or [d for d in given.shape[1:] if isinstance(d, int)] != list(shape[1:]):
        raise InvalidInputError(f"--peer: expected an input of float32 {shape[1:]}, got {given.type} {given.shape}")
    feed = {given.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    return Case(path.name, "fp32", batch, threads, {"network": lambda: session.run(None, feed)})


def torch_cases(path: Path, batch: int, threads: int, *, compiled: bool) -> list[Case]:
    """A checkpoint in PyTorch, fused: eager, and compiled where asked for; on a GPU where there is one."""
    import torch

    from training.checkpoint import load_checkpoint
    from training.model import reparameterize

    where = "cuda" if torch.cuda.is_available() else "cpu"
    model = reparameterize(load_checkpoint(path).model()).to(where)
    size = model.config.input_size
    crops = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)

    def case(name: str, network: Any) -> Case:
        def call() -> None:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                network(crops.to(where)).cpu()

        return Case(f"{path.name} (PyTorch {name}, {where})", "fp32", batch, threads, {"network": call})

    modules = {"eager": model} | ({"compiled": torch.compile(model, dynamic=False)} if compiled else {})
    return [case(name, network) for name, network in modules.items()]


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all that the options name."""
    frame = _frame()
    cases: list[Case] = []
    for threads in options.threads:
        for batch in options.batch:
            cases += [engine_case(path, batch, threads, frame) for path in options.engine]
            cases += [peer_case(peer, batch, threads) for peer in options.peer]
            for path in options.torch:
                cases += torch_cases(path, batch, threads, compiled=options.compile)
    rounds, calls = (_QUICK_ROUNDS, _QUICK_CALLS) if options.quick else (_ROUNDS, _CALLS)
    with tqdm(total=(rounds + 1) * len(cases), desc="latency", disable=None) as bar:
        for number in range(rounds + 1):
            for case in cases:
                case.measure(calls, keep=number > 0)
                bar.update()
    if not options.quick:
        _add_footprints(cases, options)
    return {"device": device(), "versions": versions(), "results": [case.result() for case in cases]}


def _add_footprints(cases: Sequence[Case], options: argparse.Namespace) -> None:
    for path in tqdm(options.engine, desc="memory", disable=None):
        found = footprint(path, threads=options.threads[0])
        for case in cases:
            if case.name == path.name and (case.batch, case.threads) == (options.batch[0], options.threads[0]):
                case.footprint = found


def _frame() -> NDArray[np.uint8]:
    """1080p: a photograph with one face in the middle of noise, or noise alone where the photograph is not there."""
    frame = np.random.default_rng(0).integers(0, 256, (*_FRAME, 3), dtype=np.uint8)
    if _PHOTO.is_file():
        photo = cv2.resize(read_image(_PHOTO), (_FRAME[0], _FRAME[0]))
        left = (_FRAME[1] - _FRAME[0]) // 2
        frame[:, left : left + _FRAME[0]] = photo
    return frame


def markdown(values: dict[str, Any]) -> str:
    """One table: p50 of each stage, p99 of the last, end to end over network, faces per second, memory."""
    header = f"{values['device']}; " + ", ".join(f"{k} {v}" for k, v in values["versions"].items())
    names = [stage for stage in STAGES if any(stage in row["p50_ms"] for row in values["results"])]
    columns = ["engine", "precision", "batch", "threads", *(f"{name}, ms" for name in names)]
    columns += ["p99, ms", "end_to_end / network", "faces/s", "… / one by one"]
    columns += ["first face, s", "memory, MB", "growth, MB"]
    rows = []
    for row in values["results"]:
        p50, p99 = row["p50_ms"], row["p99_ms"]
        cells = [row["engine"], row["precision"], str(row["batch"]), str(row["threads"])]
        cells += [number(p50.get(name), 3) for name in names]
        whole = p50["end_to_end"] / p50["network"] if "end_to_end" in p50 else None
        cells += [number(p99.get("end_to_end", p99["network"]), 3), number(whole, 2)]
        cells += [number(row["faces_per_second"], 0), number(_one_by_one(values["results"], row), 2)]
        costs = row.get("footprint", {})
        cells += [
            number(costs.get(key), digits)
            for key, digits in (("first_face_seconds", 2), ("resident_mb", 0), ("growth_mb", 2))
        ]
        rows.append(cells)
    return f"{header}\n\n{table(columns, rows)}"


def _one_by_one(results: Sequence[dict[str, Any]], row: dict[str, Any]) -> float | None:
    """How often faster than in calls of one face; None where those were not measured."""
    for other in results:
        if other["batch"] == 1 and all(other[key] == row[key] for key in ("engine", "precision", "threads")):
            return float(row["faces_per_second"] / other["faces_per_second"])
    return None


def plot(values: dict[str, Any], path: Path) -> None:
    """Milliseconds per face over the batch size as a PNG: a panel for each thread count, a colour for each engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter

    results = values["results"]
    threads = sorted({row["threads"] for row in results})
    batches = sorted({row["batch"] for row in results})
    size = (max(4.5 * len(threads), 7.0), 5.0 + 0.25 * len({row["engine"] for row in results}))
    figure, panels = pyplot.subplots(1, len(threads), sharey=True, squeeze=False, figsize=size, layout="constrained")
    for axes, count in zip(panels[0], threads, strict=True):
        _draw_lines(axes, [row for row in results if row["threads"] == count])
        axes.set(title="1 thread" if count == 1 else f"{count} threads", xlabel="faces per call", yscale="log")
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("ms per face (p50)")
    figure.suptitle(values["device"])
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
    write_atomically(path, picture.getvalue())


def _draw_lines(axes: Any, results: Sequence[dict[str, Any]]) -> None:
    """The network as a solid line, and dashed, in the same colour, end to end where that was measured."""
    colors: dict[str, Any] = {}
    for stage, style in (("network", "-"), ("end_to_end", "--")):
        lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for row in results:
            if stage in row["p50_ms"]:
                per_face = row["p50_ms"][stage] / row["batch"]
                lines[f"{row['engine']}, {row['precision']}"].append((row["batch"], per_face))
        for engine, points in lines.items():
            label = f"{engine}: {stage.replace('_', ' ')}"
            (line,) = axes.plot(*zip(*sorted(points), strict=True), style, marker=".", label=label)
            line.set_color(colors.setdefault(engine, line.get_color()))


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)

    def work() -> None:
        if min(*options.batch, *options.threads, 1) < 1:
            raise InvalidInputError("--batch, --threads: expected numbers from 1 on")
        values = report(options)
        publish(values, markdown(values), options)
        if options.plot:
            plot(values, options.plot)

    return run(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--engine", nargs="+", type=Path, required=True, metavar="PATH", help=".onnx or .engine files")
    add("--batch", nargs="+", type=int, default=[1], metavar="N", help="faces per call (default: 1)")
    add("--threads", nargs="+", type=int, default=[1], metavar="N", help="threads of the network (default: 1)")
    add("--peer", nargs="+", default=[], metavar="X.onnx:120", help="foreign graphs and the side of their input")
    add("--torch", nargs="+", type=Path, default=[], metavar="CKPT", help="checkpoints, for PyTorch as a baseline")
    add("--compile", action="store_true", help="with --torch: torch.compile too (a minute more)")
    add("--quick", action="store_true", help="few calls and no memory: a look, no figure to quote")
    add_outputs(parser)
    add("--plot", type=Path, metavar="OUT.png", help="draw milliseconds per face over the batch size")
    return parser


if __name__ == "__main__":
    sys.exit(main())
