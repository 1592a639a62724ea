"""`python -m benchmarks.latency --engine PATH… --json OUT`: how long a face takes, stage by stage.

Stages: `crop` (regions cut from a 1080p frame), `network` (the engine's call), `decode` (68 landmarks), `end_to_end`
(image and boxes in, faces out). Times are milliseconds per call of a whole batch. All combinations take turns, round
after round, so that a machine that drifts slows all of them alike: compare within one run, by ratio.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from runtime import ClnError, Reconstructor, Roi, crop
from runtime.files import write_atomically

STAGES = ("crop", "network", "decode", "end_to_end")
_ROUNDS, _CALLS = 10, 20
_FRAME = (1080, 1920)
_FACE_SIZE = 200.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        cases = [
            _Case(path, batch, threads)
            for path in options.engine
            for threads in options.threads
            for batch in options.batch
        ]
        rounds, calls = (3, 5) if options.quick else (_ROUNDS, _CALLS)
        for _ in tqdm(range(rounds + 1), desc="rounds", disable=None):
            for case in cases:
                case.measure(calls)
        for case in cases:
            case.drop_warm_up(calls)
        report = {"device": _device(), "versions": _versions(), "results": [case.result() for case in cases]}
    except (ClnError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_markdown(report))
    if options.json:
        write_atomically(options.json, json.dumps(report, indent=1) + "\n")
    return 0


class _Case:
    """One engine file at one batch size and thread count."""

    def __init__(self, path: Path, batch: int, threads: int) -> None:
        self.path, self.batch, self.threads = path, batch, threads
        self.reconstruct = Reconstructor(path, threads=threads)
        rng = np.random.default_rng(0)
        self.frame = rng.integers(0, 256, (*_FRAME, 3), dtype=np.uint8)
        corners = rng.uniform(0, [_FRAME[1] - _FACE_SIZE, _FRAME[0] - _FACE_SIZE], (batch, 2))
        self.boxes = np.hstack([corners, np.full((batch, 2), _FACE_SIZE)])
        self.times: dict[str, list[float]] = defaultdict(list)

    def measure(self, calls: int) -> None:
        rois = [Roi.from_box(box) for box in self.boxes]
        engine, model = self.reconstruct.engine, self.reconstruct.face_model
        size = engine.manifest.input_size
        crops = crop(self.frame, rois, size)
        params = engine(crops)
        stages: dict[str, Callable[[], Any]] = {
            "crop": lambda: crop(self.frame, rois, size),
            "network": lambda: engine(crops),
            "decode": lambda: model.landmarks(params),
            "end_to_end": lambda: self.reconstruct(self.frame, self.boxes),
        }
        for name, call in stages.items():
            self.times[name].extend(_milliseconds(call, calls))

    def drop_warm_up(self, calls: int) -> None:
        self.times = {name: values[calls:] for name, values in self.times.items()}

    def result(self) -> dict[str, Any]:
        manifest = self.reconstruct.engine.manifest
        percentiles = {
            f"p{q}_ms": {name: round(float(np.percentile(self.times[name], q)), 4) for name in STAGES}
            for q in (50, 95, 99)
        }
        return {
            "engine": self.path.name,
            "precision": manifest.precision,
            "batch": self.batch,
            "threads": self.threads,
            **percentiles,
            "faces_per_second": round(1000 * self.batch / percentiles["p50_ms"]["end_to_end"], 1),
        }


def _milliseconds(call: Callable[[], Any], calls: int) -> Iterator[float]:
    for _ in range(calls):
        start = time.perf_counter()
        call()
        yield 1000 * (time.perf_counter() - start)


def _device() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx-cu13"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _markdown(report: dict[str, Any]) -> str:
    lines = [f"{report['device']}; " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()), ""]
    lines += ["| engine | precision | batch | threads | " + " | ".join(f"{s}, ms" for s in STAGES) + " | faces/s |"]
    lines += ["| --- " * (5 + len(STAGES)) + "|"]
    for r in report["results"]:
        times = " | ".join(f"{r['p50_ms'][stage]:.3f}" for stage in STAGES)
        lines.append(
            f"| {r['engine']} | {r['precision']} | {r['batch']} | {r['threads']} | {times} "
            f"| {r['faces_per_second']:.0f} |"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--engine", nargs="+", type=Path, required=True, metavar="PATH", help=".onnx or .engine files")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], metavar="N", help="faces per call")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], metavar="N", help="ONNX Runtime's threads")
    parser.add_argument("--quick", action="store_true", help="few calls: a look, no figure to quote")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the full table there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
