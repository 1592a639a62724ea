"""What an evaluation says: the accuracy on a data set, all that the table says of it, and the files of a report.

JSON holds the first set's figures at its top, each further one's under its name. A folder gets the table, the JSON, the
curves of cumulative error (PNG, CSV) and each photograph set's worst faces.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.detection import BlazeFaceDetector
from runtime.errors import InvalidInputError
from runtime.face_model import POSE_SIZE, FaceModel
from runtime.files import write_atomically
from training.checkpoint import load_checkpoint
from training.data.aflw2000 import load_aflw2000
from training.evaluation.accuracy import Accuracy, evaluate_synthetic
from training.evaluation.figures import DETECTED, ced_csv, ced_figures_csv, plot_ced, write_sheet
from training.evaluation.permutations import Permuted, other_permutations
from training.evaluation.photographs import Look, Study, study_photographs, study_points, worst_tiles
from training.evaluation.predictors import Predict, is_checkpoint, torch_predictor
from training.evaluation.sets import SetOptions, data_name, held_out_faces, kind_of, load_points, yaws_of
from training.evaluation.tables import (
    PredictionRow,
    Row,
    accuracy_rows,
    markdown,
    permutation_rows,
    prediction_rows,
    study_rows,
)
from training.model import reparameterize


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What is written; None is omitted."""

    title: str
    """Of the table."""
    json: Path | None = None
    table: Path | None = None
    folder: Path | None = None
    """Gets both, curves and sheets."""

    @property
    def full(self) -> bool:
        """Whether the table is asked for, which takes longer."""
        return self.table is not None or self.folder is not None


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What a report says of one data set."""

    name: str
    accuracy: Accuracy
    study: Study | None = None
    """Of photographs, where the table is asked for."""
    rows: list[Row] = field(default_factory=list)
    predictions: list[PredictionRow] = field(default_factory=list)
    """Rows for the paper's tables."""

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as `--json` writes them."""
        return (self.study or self.accuracy).to_dict()

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Errors (F,) by curve of the cumulative distribution; a face that the detector missed is a failure."""
        if self.study is None or Look.DETECTOR not in self.study.looks:
            return {self.name: self.accuracy.errors}
        return {self.name: self.accuracy.errors, f"{self.name}{DETECTED}": self.study.looks[Look.DETECTOR]}


def evaluate_data(
    predict: Predict, size: int, face_model: FaceModel, data: str, options: SetOptions | None = None
) -> Accuracy:
    """Accuracy on one data set; of `synthetic:N[:CACHE]` on held-out faces.

    Raises:
        InvalidInputError: There is no such kind of data.
    """
    return report_data(predict, size, face_model, data, options).accuracy


def report_data(
    predict: Predict,
    size: int,
    face_model: FaceModel,
    data: str,
    options: SetOptions | None = None,
    *,
    full: bool = False,
) -> DataReport:
    """Accuracy on one data set; if `full`, of photographs also in a face detector's regions, and in a second pass.

    Raises:
        InvalidInputError: There is no such kind of data.
    """
    options = options or SetOptions()
    (kind, folder), name = kind_of(data), data_name(data)
    if kind == "synthetic":
        accuracy = evaluate_synthetic(predict, size, face_model, held_out_faces(data, size, options))
        rows = accuracy_rows(name, f"NME, {accuracy.faces} held-out rendered faces", accuracy)
        return DataReport(name=name, accuracy=accuracy, rows=rows)
    detector = BlazeFaceDetector() if full else None
    if kind == "aflw2000":
        faces = load_aflw2000(folder)
        yaws = yaws_of(options.yaw_labels, faces)
        study = study_photographs(predict, size, face_model, faces, detector, yaws, fit=full)
        what = f"NME, {len(faces)} photographs"
    else:
        study = study_points(predict, size, face_model, *load_points(kind, folder), detector)
        what = f"NME, {study.accuracy.points} points, {study.accuracy.faces} faces"
    return DataReport(
        name=name,
        accuracy=study.accuracy,
        study=study if full else None,
        rows=study_rows(name, what, study, face_model.num_params - POSE_SIZE),
        predictions=prediction_rows(kind, name, study.accuracy),
    )


def evaluate_permutations(
    model: str, face_model: FaceModel, data: str, count: int, options: SetOptions | None = None
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
        nme = evaluate_data(predict, config.input_size, face_model, data, options).nme
        results.append(Permuted(order=config.evaluation_order, thumbnail_cell=config.thumbnail_cell, nme=nme))
    return results


def write_reports(
    files: ReportFiles, reports: Sequence[DataReport], permuted: Mapping[str, list[Permuted]], further: Sequence[Row]
) -> None:
    """All files that were asked for; `further` rows end the table."""
    rows = [row for one in reports for row in (*one.rows, *permutation_rows(one.name, permuted.get(one.name, [])))]
    rows += further
    content = report_content(reports, permuted, rows if files.full else [])
    studies = {one.name: one.study for one in reports if one.study is not None}
    images = {name: study.per_image() for name, study in studies.items()}
    missed = {name: study.missed for name, study in studies.items()}
    predictions = [row for one in reports for row in one.predictions]
    folder = files.folder
    for path in (files.json, folder and folder / "accuracy.json"):
        if path:
            write_atomically(path, json.dumps(content, indent=2) + "\n")
    for path in (files.table, folder and folder / "accuracy.md"):
        if path:
            write_atomically(path, markdown(files.title, rows, images, predictions, missed))
    if folder:
        errors = {name: values for one in reports for name, values in one.curves().items()}
        write_atomically(folder / "ced.csv", ced_csv(errors))
        write_atomically(folder / "ced_figures.csv", ced_figures_csv(errors))
        plot_ced(folder / "ced.png", errors)
        for name, study in studies.items():
            write_sheet(folder / f"worst_{name.replace(':', '_')}.jpg", worst_tiles(study))


def report_content(
    reports: Sequence[DataReport], permuted: Mapping[str, list[Permuted]], rows: Sequence[Row]
) -> dict[str, Any]:
    """What `--json` writes: the first set's figures at the top, each further one's under its name."""
    figures = [
        part.to_dict() | ({"permutations": list(map(dataclasses.asdict, tried))} if tried else {})
        for part, tried in ((part, permuted.get(part.name)) for part in reports)
    ]
    content = {**figures[0], **{part.name: one for part, one in zip(reports[1:], figures[1:], strict=True)}}
    if rows:
        content["table"] = [dataclasses.asdict(row) for row in rows]
    return content
