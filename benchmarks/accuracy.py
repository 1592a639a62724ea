"""`python -m benchmarks.accuracy --engine PATH…`: NME of engines and checkpoints on the same faces, in one table.

NME in percent over 68 landmarks, by bins of |yaw|, with regions from the true landmarks (`training.evaluate` says
more, of one network). Faces: rendered ones that neither training nor calibration saw, or `--data aflw2000:DIR`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import versions
from runtime import ClnError, load_face_model
from runtime.files import write_atomically

_FACES = 200
_BINS = ("[0, 30]", "(30, 60]", "(60, 90]")


def report(engines: Sequence[Path], data: Sequence[str], face_model_path: Path | None = None) -> dict[str, Any]:
    """NME of each engine on each data set, as `training.evaluate` names them."""
    from training.evaluate import data_name, evaluate_data, finite, load_predictor

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
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    first: dict[str, float] = {}
    for row in values["results"]:
        mean = row["nme"]["mean_of_bins"]
        start = first.setdefault(row["data"], mean)
        cells = [row["engine"], row["precision"], row["data"], str(row["faces"])]
        cells += [_number(value) for value in (*row["nme"]["bins"], mean)]
        lines.append(f"| {' | '.join([*cells, f'{mean - start:+.3f}'])} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        values = report(options.engine, options.data or [f"synthetic:{_FACES}"], options.face_model)
        table = markdown(values)
        print(table)
        if options.json:
            write_atomically(options.json, json.dumps(values, indent=1) + "\n")
        if options.markdown:
            write_atomically(options.markdown, f"{table}\n")
    except (ClnError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--engine", nargs="+", type=Path, required=True, metavar="PATH", help=".onnx, .engine or .pth files")
    add("--data", action="append", help=f"synthetic:N or aflw2000:DIR; several times (default: synthetic:{_FACES})")
    add("--face-model", type=Path, help="face model (default: the bundled one)")
    add("--json", type=Path, metavar="OUT", help="write the figures there")
    add("--markdown", type=Path, metavar="OUT", help="write the table there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
