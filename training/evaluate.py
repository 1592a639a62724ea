"""Accuracy of a checkpoint or an engine: NME by bins of |yaw| (CLN, BMVC 2022 suppl., "Protocol"), 3D NME, pose, CED.

    python -m training.evaluate MODEL --data aflw2000:DIR --json OUT
    python -m training.evaluate MODEL --data aflw2000:DIR --data aflw:DIR --report DIR [--onnx FILE.onnx]

Data sets: aflw2000:DIR; aflw-3ddfa:DIR and aflw:DIR (21 points, where annotated: the published crops, or AFLW as it
ships); helen:DIR and lfpw:DIR (68 points); points:DIR (your own folder); synthetic:N[:CACHE].
`training.evaluation.accuracy` says how regions, pixels and yaw are taken. aflw2000 is binned by fitted pose ([1312,
383, 305] faces of the whole set); the other split in use, by AFLW's labels ([1306, 462, 232]), comes with --yaw-labels
FILE: lines "NAME DEGREES", or a .npy of degrees in the names' order, as 3DDFA's AFLW2000-3D-new.pose.npy.

`--json` holds the first set's figures at its top ({"nme_2d_68": {"bins", "mean", "counts", "per_image"}, "nme_3d_68",
"pose", "ced", …}), each further one's under its name. `--table` adds, for photographs, the built-in detector's regions
and a second pass, for AFLW2000-3D the face model's fit floor, all in the JSON too, and the paper's rows. `--report`
writes all of it, CED curves and the worst faces into a folder. `--permutations N` tries a checkpoint with other fixed
self-shuffles, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.command import Exit, command
from runtime.errors import InvalidInputError, MismatchError
from runtime.face_model import load_face_model
from runtime.files import sha256
from training.evaluation.accuracy import Accuracy
from training.evaluation.predictors import finite, is_checkpoint, load_predictor
from training.evaluation.report import DataReport, ReportFiles, evaluate_permutations, report_data, write_reports
from training.evaluation.sets import KINDS, SetOptions, data_name, kind_of
from training.evaluation.tables import model_rows


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """A command line; `parse_arguments` makes it."""

    model: str
    data: Sequence[str]
    face_model: str | None
    sets: SetOptions
    files: ReportFiles
    permutations: int
    onnx: str | None


def parse_arguments(arguments: Sequence[str] | None) -> EvaluateOptions:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="checkpoint (.pth) or engine (.onnx, .engine)")
    data_help = f"{', '.join(f'{kind}:DIR' for kind in KINDS[:-1])} or synthetic:N[:CACHE]; may be given several times"
    parser.add_argument("--data", required=True, action="append", help=data_help)
    assets_help = "folder of CC0 assets that synthetic faces are rendered with (default: none)"
    parser.add_argument("--assets", type=Path, help=assets_help)
    parser.add_argument("--face-model", help="the face model it was trained for (default: the bundled one)")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument(
        "--table", type=Path, help="write a Markdown table to this file, with more figures (takes longer)"
    )
    report_help = "write table, JSON, CED curves (PNG, CSV) and the worst faces into this folder (takes longer)"
    parser.add_argument("--report", type=Path, help=report_help)
    parser.add_argument("--yaw-labels", help="for aflw2000: further yaws to bin by, 'NAME DEGREES' lines or a .npy")
    parser.add_argument("--permutations", type=int, default=0, help="other permutations to try of the self-shuffle")
    parser.add_argument("--onnx", help="the checkpoint's .onnx, to time for --table (default: MODEL if it is one)")
    given = parser.parse_args(arguments)
    return EvaluateOptions(
        model=given.model,
        data=given.data,
        face_model=given.face_model,
        sets=SetOptions(yaw_labels=given.yaw_labels, assets=given.assets),
        files=ReportFiles(
            title=f"Accuracy of {Path(given.model).name}", json=given.json, table=given.table, folder=given.report
        ),
        permutations=given.permutations,
        onnx=given.onnx,
    )


def run(options: EvaluateOptions) -> list[DataReport]:
    """Evaluate and write what was asked for; reports in the data's order."""
    names = [data_name(data) for data in options.data]
    check_options(options, names)
    face_model = load_face_model(options.face_model)
    answer, size = load_predictor(options.model, face_model)
    predict, full = finite(answer, options.model), options.files.full
    if options.files.folder:
        make_folder(options.files.folder)
    onnx = timed_file(options.model, options.onnx) if full else None
    reports = [report_data(predict, size, face_model, data, options.sets, full=full) for data in options.data]
    permuted = {
        name: evaluate_permutations(options.model, face_model, data, options.permutations, options.sets)
        for name, data in zip(names, options.data, strict=True)
        if options.permutations
    }
    write_reports(options.files, reports, permuted, model_rows(options.model, onnx) if full else [])
    return reports


def check_options(options: EvaluateOptions, names: Sequence[str]) -> None:
    """Make sure that every option has something to do.

    Raises:
        InvalidInputError: One has not, or two data sets have the same name.
    """
    if len(set(names)) < len(names):
        raise InvalidInputError(f"Expected data sets of different names, got {', '.join(names)}; rename a folder.")
    if options.sets.yaw_labels and not any(kind_of(data)[0] == "aflw2000" for data in options.data):
        raise InvalidInputError(f"--yaw-labels: expected aflw2000:DIR as data, got {', '.join(names)}; omit it.")
    if options.onnx and not options.files.full:
        raise InvalidInputError("--onnx: expected --table or --report, which show its time, got neither; add one.")
    if options.permutations < 0:
        raise InvalidInputError(f"--permutations: expected at least 0, got {options.permutations}.")


def make_folder(path: Path) -> None:
    """Make the report's folder: a place that can't be written is found before the work.

    Raises:
        InvalidInputError: It can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"--report: expected a folder, got {path} ({error.strerror}); name another.") from error


def timed_file(model: str, onnx: str | None) -> str | None:
    """The .onnx file whose time the table gives, if there is one.

    Raises:
        MismatchError: It was not exported from this checkpoint.
    """
    if onnx is None:
        return model if Path(model).suffix == ".onnx" else None
    from runtime.engines import load_engine

    with load_engine(onnx) as engine:
        origin = engine.manifest.checkpoint_sha256
    if is_checkpoint(model) and origin != sha256(Path(model).read_bytes()):
        raise MismatchError(f"{onnx}: expected an export of {model}, got one of another checkpoint; export it again.")
    return onnx


def describe(accuracy: Accuracy) -> str:
    """One line for people."""
    cells = ["-" if value is None else f"{value:.3f}" for value in (*accuracy.nme.bins, accuracy.nme.mean)]
    flat = "-" if accuracy.zero_coefficients.mean is None else f"{accuracy.zero_coefficients.mean:.3f}"
    counts = f": {' + '.join(map(str, accuracy.nme.counts))}" if sum(accuracy.nme.counts) else ""
    return (
        f"NME % [0,30] {cells[0]}  (30,60] {cells[1]}  (60,90] {cells[2]}  mean {cells[3]}  "
        f"(zero coefficients {flat}; {accuracy.faces} faces{counts})"
    )


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate from the command line; its exit status."""
    options = parse_arguments(arguments)
    reports = run(options)
    for one in reports:
        line = describe(one.accuracy)
        print(f"{one.name}: {line}" if len(reports) > 1 else line)
    for written in (options.files.table, options.files.folder):
        if written:
            print(f"wrote {written}")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
