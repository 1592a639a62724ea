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
import json
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
from runtime import ClnError, InvalidInputError, Reconstructor, Roi, crop, read_image
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
    """One table: p50 of each stage, p99 of the last, faces per second, memory."""
    header = f"{values['device']}; " + ", ".join(f"{k} {v}" for k, v in values["versions"].items())
    names = [stage for stage in STAGES if any(stage in row["p50_ms"] for row in values["results"])]
    columns = ["engine", "precision", "batch", "threads", *(f"{name}, ms" for name in names)]
    columns += ["p99, ms", "faces/s", "first face, s", "memory, MB", "growth, MB"]
    lines = [header, "", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for row in values["results"]:
        p50, p99 = row["p50_ms"], row["p99_ms"]
        cells = [row["engine"], row["precision"], str(row["batch"]), str(row["threads"])]
        cells += [_number(p50.get(name), 3) for name in names]
        cells += [_number(p99.get("end_to_end", p99["network"]), 3), _number(row["faces_per_second"], 0)]
        costs = row.get("footprint", {})
        cells += [
            _number(costs.get(key), digits)
            for key, digits in (("first_face_seconds", 2), ("resident_mb", 0), ("growth_mb", 2))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def plot(values: dict[str, Any], path: Path) -> None:
    """Milliseconds per face over the batch size, one line for each engine and thread count, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in values["results"]:
        time_ms = row["p50_ms"]["network"] / row["batch"]
        threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
        lines[f"{row['engine']}, {row['precision']}, {threads}"].append((row["batch"], time_ms))
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for label, points in lines.items():
        batches, times = zip(*sorted(points), strict=True)
        axes.plot(batches, times, marker="o", label=label)
    axes.set(xlabel="faces per call", ylabel="network, ms per face (p50)", title=values["device"], ylim=(0, None))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks := sorted({row["batch"] for row in values["results"]}), [str(tick) for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        if min(*options.batch, *options.threads, 1) < 1:
            raise InvalidInputError("--batch, --threads: expected numbers from 1 on")
        values = report(options)
        table = markdown(values)
        print(table)
        if options.json:
            write_atomically(options.json, json.dumps(values, indent=1) + "\n")
        if options.markdown:
            write_atomically(options.markdown, f"{table}\n")
        if options.plot:
            plot(values, options.plot)
    except (ClnError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


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
    add("--json", type=Path, metavar="OUT", help="write all figures there")
    add("--markdown", type=Path, metavar="OUT", help="write the table there")
    add("--plot", type=Path, metavar="OUT.png", help="draw milliseconds per face over the batch size")
    return parser


if __name__ == "__main__":
    sys.exit(main())
