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
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.detection import BlazeFaceDetector
from runtime.errors import ClnError, FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import POSE_SIZE, FaceModel, load_face_model
from runtime.files import sha256, write_atomically
from training.checkpoint import load_checkpoint
from training.data.aflw import load_aflw, load_aflw_crops
from training.data.aflw2000 import AnnotatedFace, load_aflw2000
from training.data.landmarks import AFLW_21, IBUG_68, PointFace, Scheme
from training.data.points import load_own, load_pts
from training.data.samples import HELD_OUT_SEED, SyntheticSamples, image_size, parse_synthetic
from training.evaluation import published
from training.evaluation.accuracy import (
    Accuracy,
    Predict,
    evaluate_real,
    evaluate_synthetic,
    finite,
    is_checkpoint,
    load_predictor,
    torch_predictor,
)
from training.evaluation.figures import DETECTED, ced_csv, ced_figures_csv, plot_ced, write_sheet
from training.evaluation.metrics import PoseError
from training.evaluation.permutations import Permuted, other_permutations
from training.evaluation.photographs import Study, study_photographs, study_points, worst_tiles
from training.evaluation.tables import Ours, Row, count_row, markdown, model_rows, nme_row, ratio
from training.model import reparameterize

POINT_SETS = ("aflw", "aflw-3ddfa", "helen", "lfpw", "points")
KINDS = ("aflw2000", *POINT_SETS, "synthetic")


def read_yaws(path: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Degrees (F,) of the named faces, from lines "NAME DEGREES" or a .npy in the names' order.

    Raises:
        FileNotFoundError: There is no such file.
        FileFormatError: It is neither, or holds NaN.
        MismatchError: A face is missing in it.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: expected a file of yaws, found none; check the path.")
    try:
        if file.suffix == ".npy":
            values = np.asarray(np.load(file, allow_pickle=False), dtype=np.float64).ravel().tolist()
            given = dict(zip(names, values, strict=False))
            count = len(values)
        else:
            lines = [line.replace(",", " ").split() for line in file.read_text(encoding="utf-8").splitlines()]
            given = {Path(name).stem: float(degrees) for name, degrees in filter(None, lines)}
            count = len(names)
    except (ValueError, EOFError) as error:
        raise FileFormatError(
            f"{path}: expected lines 'NAME DEGREES', or a .npy of degrees, got neither ({error}); write it anew."
        ) from error
    if count != len(names):
        raise MismatchError(
            f"{path}: expected a yaw for each of {len(names)} faces, in their names' order, got {count}; give the "
            "whole set, or lines 'NAME DEGREES'."
        )
    for name in names:
        if not np.isfinite(given.get(name, 0.0)):
            raise FileFormatError(f"{path}: expected degrees, got {given[name]} for {name}; put in its yaw.")
        if name not in given:
            raise MismatchError(
                f"{path}: expected a yaw for each of {len(names)} faces, got none for {name}; add its line."
            )
    return np.array([given[name] for name in names])


def evaluate_data(
    predict: Predict, size: int, face_model: FaceModel, data: str, *, yaw_labels: str | None = None,
    assets: Path | None = None,
) -> Accuracy:  # fmt: skip
    """Accuracy on one data set; of `synthetic:N[:CACHE]` on held-out samples, rendered with `assets`.

    Raises:
        InvalidInputError: There is no such kind of data.
    """
    kind, folder = kind_of(data)
    if kind == "aflw2000":
        faces = load_aflw2000(folder)
        return evaluate_real(predict, size, face_model, faces, label_yaw=yaws_of(yaw_labels, faces))
    if kind in POINT_SETS:
        return study_points(predict, size, face_model, *load_points(kind, folder)).accuracy
    count, directory = parse_synthetic(data)
    samples = SyntheticSamples(count, directory, size=image_size(size), seed=HELD_OUT_SEED, assets=assets)
    samples.fill()
    return evaluate_synthetic(predict, size, face_model, samples)


def yaws_of(path: str | None, faces: Sequence[AnnotatedFace]) -> NDArray[np.float64] | None:
    """Yaws (F,) of a file, None without one."""
    return None if path is None else read_yaws(path, [face.stem for face in faces])


def load_points(kind: str, folder: str) -> tuple[list[PointFace], Scheme]:
    """The faces of a set that is labelled with points alone, and what its points are."""
    readers = {"aflw": load_aflw, "aflw-3ddfa": load_aflw_crops, "points": load_own}
    return readers.get(kind, load_pts)(folder).faces, AFLW_21 if kind.startswith("aflw") else IBUG_68


def kind_of(data: str) -> tuple[str, str]:
    """`KIND:REST` -> both.

    Raises:
        InvalidInputError: There is no such kind.
    """
    kind, _, rest = data.partition(":")
    if kind not in KINDS or not rest:
        known = ", ".join(f"{name}:DIR" for name in KINDS[:-1])
        raise InvalidInputError(f"Expected {known} or synthetic:N[:CACHE] for --data, got '{data}'.")
    return kind, rest


def data_name(data: str) -> str:
    """What a report calls a data set: no path in it, so that it reads the same on every machine."""
    kind, rest = kind_of(data)
    if kind == "synthetic":
        return f"synthetic:{parse_synthetic(data)[0]}"
    return f"{kind}:{Path(rest).resolve().name}"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a report says of one data set."""

    name: str
    accuracy: Accuracy
    study: Study | None = None
    """Of photographs, where the table is asked for."""
    rows: list[Row] = field(default_factory=list)
    ours: list[Ours] = field(default_factory=list)
    """Rows for the paper's tables."""

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as `--json` writes them."""
        return (self.study or self.accuracy).to_dict()

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Errors (F,) by curve of the cumulative distribution; a face that the detector missed is a failure."""
        if self.study is None or self.study.detector is None:
            return {self.name: self.accuracy.errors}
        return {self.name: self.accuracy.errors, f"{self.name}{DETECTED}": self.study.detector}


def tabulate(
    predict: Predict, size: int, face_model: FaceModel, data: str, *, yaw_labels: str | None = None,
    assets: Path | None = None,
) -> Part:  # fmt: skip
    """All that the table says of one data set."""
    (kind, folder), name = kind_of(data), data_name(data)
    if kind == "synthetic":
        accuracy = evaluate_data(predict, size, face_model, data, assets=assets)
        rows = accuracy_rows(name, f"NME, {accuracy.faces} held-out rendered faces", accuracy)
        return Part(name=name, accuracy=accuracy, rows=rows)
    if kind == "aflw2000":
        faces = load_aflw2000(folder)
        yaws = yaws_of(yaw_labels, faces)
        study = study_photographs(predict, size, face_model, faces, BlazeFaceDetector(), yaws)
        what = f"NME, {len(faces)} photographs"
    else:
        study = study_points(predict, size, face_model, *load_points(kind, folder), BlazeFaceDetector())
        what = f"NME, {study.accuracy.points} points, {study.accuracy.faces} faces"
    return Part(
        name=name,
        accuracy=study.accuracy,
        study=study,
        rows=study_rows(name, what, study, face_model.num_params - POSE_SIZE),
        ours=ours_of(kind, name, study.accuracy),
    )


def ours_of(kind: str, name: str, accuracy: Accuracy) -> list[Ours]:
    """Our figures as rows of the paper's tables."""
    if kind.startswith("aflw-") or kind == "aflw":
        tables = [(published.AFLW_21, accuracy.nme, "")]
    elif kind == "aflw2000":
        both = accuracy.by_label is not None
        tables = [
            (published.AFLW2000_68, accuracy.nme, "fitted pose" if both else ""),
            (published.AFLW2000_68, accuracy.by_label, "the given yaws"),
            (published.AFLW2000_3D, accuracy.nme_3d, "fitted pose" if both else ""),
            (published.AFLW2000_3D, accuracy.by_label_3d, "the given yaws"),
        ]
    else:
        tables = []
    return [
        Ours(table=table, nme=nme, data=name, faces=accuracy.faces, split=split)
        for table, nme, split in tables
        if nme is not None
    ]


def accuracy_rows(name: str, what: str, accuracy: Accuracy) -> list[Row]:
    """Rows of any data set."""
    nme, flat = accuracy.nme, accuracy.zero_coefficients
    rows = [count_row(name, "faces by yaw", nme, accuracy.faces), nme_row(name, what, nme)]
    if accuracy.by_label is not None:
        rows.append(count_row(name, "faces by the given yaws", accuracy.by_label, accuracy.faces))
        rows.append(nme_row(name, "NME by the given yaws", accuracy.by_label))
    if accuracy.nme_21 is not None:
        rows.append(nme_row(name, "NME, AFLW's 21 points made of the 68", accuracy.nme_21))
    if accuracy.nme_3d is not None:
        rows.append(nme_row(name, "NME 3D, 68 points", accuracy.nme_3d))
    if accuracy.by_label_3d is not None:
        rows.append(nme_row(name, "NME 3D, 68 points, by the given yaws", accuracy.by_label_3d))
    rows += [
        nme_row(name, "NME with all coefficients set to zero", flat),
        Row(data=name, what="NME with zero coefficients / NME", value=ratio(flat.mean, nme.mean), unit=""),
    ]
    if accuracy.ced is not None:
        limit = f"{accuracy.ced.limit:g} %"
        rows += [
            Row(data=name, what=f"area under the CED up to {limit}", value=accuracy.ced.area, unit=""),
            Row(data=name, what=f"faces with NME above {limit}", value=accuracy.ced.failure_rate),
        ]
    return rows + ([] if accuracy.pose is None else pose_rows(name, accuracy.pose))


def pose_rows(name: str, pose: PoseError) -> list[Row]:
    """Rows of head pose."""
    angles = {"yaw": pose.yaw, "pitch": pose.pitch, "roll": pose.roll, "mean of the three": pose.mae}
    return [
        nme_row(name, "pose, geodesic error", pose.geodesic, "°"),
        *(
            Row(data=name, what=f"pose, mean absolute Euler error, {angle} ({pose.faces} faces)", value=value, unit="°")
            for angle, value in angles.items()
        ),
    ]


def study_rows(name: str, what: str, study: Study, coefficients: int) -> list[Row]:
    """Rows of photographs."""
    rows = accuracy_rows(name, what, study.accuracy)
    if study.fit_floor is not None:
        title = f"fit floor, pose and {coefficients} coefficients"
        rows.append(nme_row(name, title, study.by_yaw(study.fit_floor)))
    if study.detector is not None:
        found = study.found
        detector, same = study.by_yaw(study.detector, found), study.by_yaw(study.accuracy.errors, found)
        rows += [
            nme_row(name, f"NME, regions from the face detector ({found.sum()} of {len(found)} faces found)", detector),
            Row(
                data=name,
                what="the same / NME with ground-truth regions, faces found",
                value=ratio(detector.mean, same.mean),
                unit="",
            ),
        ]
    if study.second_pass is not None:
        rows.append(nme_row(name, "NME, second pass on the first one's landmarks", study.by_yaw(study.second_pass)))
    return rows


def evaluate_permutations(
    model: str, face_model: FaceModel, data: str, count: int, assets: Path | None = None
) -> list[Permuted]:
    """NME on a data set with `count` other permutations.

    Raises:
        InvalidInputError: The model is no checkpoint, or shuffles nothing.
    """
    if not is_checkpoint(model):
        raise InvalidInputError(f"--permutations: expected a checkpoint (.pth), got '{model}'; engines have one.")
    results = []
    for changed in other_permutations(load_checkpoint(model, face_model), count):
        predict, config = torch_predictor(reparameterize(changed.model())), changed.config
        nme = evaluate_data(predict, config.input_size, face_model, data, assets=assets).nme
        results.append(Permuted(order=config.evaluation_order, thumbnail_cell=config.thumbnail_cell, nme=nme))
    return results


def describe(accuracy: Accuracy) -> str:
    """One line for people."""
    cells = ["-" if value is None else f"{value:.3f}" for value in (*accuracy.nme.bins, accuracy.nme.mean)]
    flat = "-" if accuracy.zero_coefficients.mean is None else f"{accuracy.zero_coefficients.mean:.3f}"
    counts = f": {' + '.join(map(str, accuracy.nme.counts))}" if sum(accuracy.nme.counts) else ""
    return (
        f"NME % [0,30] {cells[0]}  (30,60] {cells[1]}  (60,90] {cells[2]}  mean {cells[3]}  "
        f"(zero coefficients {flat}; {accuracy.faces} faces{counts})"
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="checkpoint (.pth) or engine (.onnx, .engine)")
    data_help = f"{', '.join(f'{kind}:DIR' for kind in KINDS[:-1])} or synthetic:N[:CACHE]; may be given several times"
    parser.add_argument("--data", required=True, action="append", help=data_help)
    assets_help = "folder of CC0 assets that synthetic faces are rendered with (default: none)"
    parser.add_argument("--assets", type=Path, help=assets_help)
    parser.add_argument("--face-model", help="the face model it was trained for (default: the bundled one)")
    parser.add_argument("--json", help="write the report to this file")
    parser.add_argument("--table", help="write a Markdown table to this file, with more figures (takes longer)")
    report_help = "write table, JSON, CED curves (PNG, CSV) and the worst faces into this folder (takes longer)"
    parser.add_argument("--report", type=Path, help=report_help)
    parser.add_argument("--yaw-labels", help="for aflw2000: further yaws to bin by, 'NAME DEGREES' lines or a .npy")
    parser.add_argument("--permutations", type=int, default=0, help="other permutations to try of the self-shuffle")
    parser.add_argument("--onnx", help="the checkpoint's .onnx, to time for --table (default: MODEL if it is one)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> list[Part]:
    """Evaluate and write what was asked for; parts in the data's order."""
    names = [data_name(data) for data in options.data]
    check_options(options, names)
    face_model = load_face_model(options.face_model)
    answer, size = load_predictor(options.model, face_model)
    setting, yaws = (finite(answer, options.model), size, face_model), options.yaw_labels
    full = bool(options.table or options.report)
    if options.report:
        make_folder(options.report)
    onnx = timed_file(options.model, options.onnx) if full else None
    if full:
        parts = [tabulate(*setting, data, yaw_labels=yaws, assets=options.assets) for data in options.data]
    else:
        parts = [
            Part(name=name, accuracy=evaluate_data(*setting, data, yaw_labels=yaws, assets=options.assets))
            for name, data in zip(names, options.data, strict=True)
        ]
    permuted = {
        name: evaluate_permutations(options.model, face_model, data, options.permutations, options.assets)
        for name, data in zip(names, options.data, strict=True)
        if options.permutations
    }
    write_reports(options, parts, permuted, model_rows(options.model, onnx) if full else [])
    return parts


def check_options(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Make sure that every option has something to do.

    Raises:
        InvalidInputError: One has not, or two data sets have the same name.
    """
    if len(set(names)) < len(names):
        raise InvalidInputError(f"Expected data sets of different names, got {', '.join(names)}; rename a folder.")
    if options.yaw_labels and not any(kind_of(data)[0] == "aflw2000" for data in options.data):
        raise InvalidInputError(f"--yaw-labels: expected aflw2000:DIR as data, got {', '.join(names)}; omit it.")
    if options.onnx and not (options.table or options.report):
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


def write_reports(
    options: argparse.Namespace, parts: Sequence[Part], permuted: Mapping[str, list[Permuted]], further: list[Row]
) -> None:
    """All files that were asked for."""
    rows = [row for part in parts for row in (*part.rows, *permutation_rows(part, permuted.get(part.name, [])))]
    rows += further
    content = report_content(parts, permuted, rows if options.table or options.report else [])
    studies = {part.name: part.study for part in parts if part.study is not None}
    images = {name: study.per_image() for name, study in studies.items()}
    missed = {name: study.missed for name, study in studies.items()}
    ours = [row for part in parts for row in part.ours]
    folder = options.report
    for path in (options.json, folder and folder / "accuracy.json"):
        if path:
            write_atomically(path, json.dumps(content, indent=2) + "\n")
    for path in (options.table, folder and folder / "accuracy.md"):
        if path:
            title = f"Accuracy of {Path(options.model).name}"
            write_atomically(path, markdown(title, rows, images, ours, missed))
    if folder:
        errors = {name: values for part in parts for name, values in part.curves().items()}
        write_atomically(folder / "ced.csv", ced_csv(errors))
        write_atomically(folder / "ced_figures.csv", ced_figures_csv(errors))
        plot_ced(folder / "ced.png", errors)
        for name, study in studies.items():
            write_sheet(folder / f"worst_{name.replace(':', '_')}.jpg", worst_tiles(study))


def report_content(
    parts: Sequence[Part], permuted: Mapping[str, list[Permuted]], rows: Sequence[Row]
) -> dict[str, Any]:
    """What `--json` writes: the first set's figures at the top, each further one's under its name."""
    figures = [
        part.to_dict() | ({"permutations": list(map(dataclasses.asdict, tried))} if tried else {})
        for part, tried in ((part, permuted.get(part.name)) for part in parts)
    ]
    content = {**figures[0], **{part.name: one for part, one in zip(parts[1:], figures[1:], strict=True)}}
    if rows:
        content["table"] = [dataclasses.asdict(row) for row in rows]
    return content


def permutation_rows(part: Part, permuted: Sequence[Permuted]) -> list[Row]:
    """Rows of other permutations."""
    return [
        nme_row(part.name, f"NME, another fixed permutation of the self-shuffle ({number})", one.nme)
        for number, one in enumerate(permuted, start=1)
    ]


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
        raise MismatchError(f"{onnx}: expected an export of {model}, got one of another checkpoint; export it anew.")
    return onnx


def main(arguments: list[str] | None = None) -> int:
    """Evaluate from the command line; 0, or 2 after an error's one line, or 130 if interrupted."""
    options = parse_arguments(arguments)
    try:
        parts = run(options)
    except (ClnError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    for part in parts:
        line = describe(part.accuracy)
        print(f"{part.name}: {line}" if len(parts) > 1 else line)
    for written in (options.table, options.report):
        if written:
            print(f"wrote {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
