"""`python -m benchmarks.accuracy --engine PATH…`: NME of engines and checkpoints on the same faces, in one table.

NME in percent over 68 landmarks, by bins of |yaw|, with regions from the true landmarks (`training.evaluate` says
more, of one network). Faces: rendered ones that neither training nor calibration saw, or `--data aflw2000:DIR`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import versions
from benchmarks.output import add_outputs, number, publish, run, table
from runtime import load_face_model
from runtime.command import command

_FACES = 200
_BINS = ("[0, 30]", "(30, 60]", "(60, 90]")


def report(engines: Sequence[Path], data: Sequence[str], face_model_path: Path | None = None) -> dict[str, Any]:
    """NME of each engine on each data set, as `training.evaluate` names them."""
    from training.evaluation.predictors import finite, load_predictor
    from training.evaluation.report import evaluate_data
    from training.evaluation.sets import data_name

    face_model = load_face_model(face_model_path)
    results = []
    for path in tqdm(engines, desc="engines", disable=None):
        predict, size = load_predictor(path, face_model)
        manifest = getattr(predict, "manifest", None)
        precision = manifest.precision if manifest else "fp32"
        for name in data:
            found = evaluate_data(finite(predict, str(path)), size, face_model, name)
            results.append(
                {
                    "engine": path.name,
                    "precision": precision,
                    "data": data_name(name),
                    "faces": found.faces,
                    "nme": {"bins": list(found.nme.bins), "mean_of_bins": found.nme.mean},
                }
            )
    return {"versions": versions(), "results": results}


def markdown(values: dict[str, Any]) -> str:
    """One table; the last column is the difference from the first engine on the same data."""
    columns = ["engine", "precision", "data", "faces", *_BINS, "mean of bins", "less the first"]
    rows = []
    first: dict[str, float] = {}
    for row in values["results"]:
        mean = row["nme"]["mean_of_bins"]
        start = first.setdefault(row["data"], mean)
        cells = [row["engine"], row["precision"], row["data"], str(row["faces"])]
        cells += [number(value, 3) for value in (*row["nme"]["bins"], mean)]
        rows.append([*cells, f"{mean - start:+.3f}"])
    return table(columns, rows)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)

    def work() -> None:
        values = report(options.engine, options.data or [f"synthetic:{_FACES}"], options.face_model)
        publish(values, markdown(values), options)

    return run(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--engine", nargs="+", type=Path, required=True, metavar="PATH", help=".onnx, .engine or .pth files")
    add("--data", action="append", help=f"synthetic:N or aflw2000:DIR; several times (default: synthetic:{_FACES})")
    add("--face-model", type=Path, help="face model (default: the bundled one)")
    add_outputs(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
