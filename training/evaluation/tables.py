"""The accuracy table: rows of figures as Markdown and as plain JSON types, a model file's size and its time per face.

Times are of the network alone, batch 1, ONNX Runtime's CPU provider with one thread, in milliseconds; sizes are in MB
of 10^6 bytes; errors in percent (`training.evaluation.metrics`), with None where there is no face to measure on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.engines import load_engine
from runtime.errors import InvalidInputError
from training.evaluation import published
from training.evaluation.accuracy import Accuracy
from training.evaluation.metrics import YAW_EDGES, PoseError, YawBins
from training.evaluation.permutations import Permuted
from training.evaluation.photographs import Look, Study
from training.evaluation.published import PublishedTable

MOST_IMAGES = 50
"""Sets of more images get no row for each of them in Markdown; JSON always names all."""
PROTOCOL = (
    "Protocol (CLN, BMVC 2022 suppl.): NME in % is the mean 2D distance over the 68 landmarks over sqrt(w h) of the "
    "ground-truth landmarks' box; bins are of |yaw| in degrees, the value is the mean of the bins that have faces, and "
    "of all faces where the set says no yaw; regions come from the ground-truth landmarks' box (on AFLW its rectangle, "
    "or the published crop), one pass, one crop per face, unless the row says otherwise. "
    "Of several detections the one nearest to the ground-truth region counts, if its centre is within that region's "
    "half side; a face without one is missed, and left out of the detector's row and of both sides of its ratio; a "
    "face whose detected region turns out to be off is looked at again, as in use: what both looks say is "
    "averaged unless the first region was far off. "
    "NME 3D counts each side's depth from its landmarks' mean, over the same sqrt(w h). AFLW's 21 points are "
    "means of the 68 (the jaw's for the ears, as 3DDFA's AFLW protocol has it); on AFLW the annotated ones count, over "
    "the length that the set's reader says. "
    "Pose errors are against the labels' fitted pose; Euler errors leave out faces with an angle beyond 99 degrees. "
    "Area and failures are of the cumulative error distribution up to 8 %. "
    "Time: the network alone, batch 1, prepared crop, one thread, median."
)
PerImage = Mapping[str, Mapping[str, float | None]]
"""Column -> image -> figure in percent."""
_LOW, _HIGH = YAW_EDGES
_BINS = (f"[0,{_LOW:.0f}]", f"({_LOW:.0f},{_HIGH:.0f}]", f"({_HIGH:.0f},90]")
_WARM_UP, _CALLS = 30, 600
_NUMBER_FORMATS = {"%": "{:.3f}", "": "{:.3f}", "°": "{:.2f}", "MB": "{:.2f}", "ms": "{:.2f}", "faces": "{:.0f}"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure."""

    data: str = ""
    """The data set's name; empty for a figure of the model alone."""
    what: str
    value: float | None
    unit: str = "%"
    """%, ° (degrees), MB, ms, faces, or nothing for a ratio or a share."""
    bins: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PredictionRow:
    """A row of ours for one of the paper's tables."""

    table: PublishedTable
    nme: YawBins
    data: str
    faces: int
    split: str = ""
    """Whose yaws it is binned by, where that needs to be said."""


def nme_row(data: str, what: str, nme: YawBins, unit: str = "%") -> Row:
    """A row of an error by bins of yaw."""
    return Row(data=data, what=what, value=nme.mean, bins=nme.bins, unit=unit)


def count_row(data: str, what: str, nme: YawBins, faces: int) -> Row:
    """A row of how many faces each bin of |yaw| has."""
    return Row(data=data, what=what, value=faces, bins=nme.counts if sum(nme.counts) else (), unit="faces")


def ratio(value: float | None, base: float | None) -> float | None:
    """`value` over `base`, None where either is missing or the base is 0."""
    return value / base if value is not None and base else None


def model_rows(model: str | os.PathLike[str], onnx: str | os.PathLike[str] | None) -> list[Row]:
    """Size of the model's file and of `onnx`, and the time per face of the latter; None leaves it out."""
    sizes = {Path(path): Path(path).stat().st_size / 1e6 for path in (model, onnx) if path is not None}
    rows = [Row(what=f"size of {path.name}", value=size, unit="MB") for path, size in sizes.items()]
    if onnx is None:
        return rows
    median, precision = time_per_face(onnx)
    what = f"time per face on one CPU core, ONNX Runtime, {precision}, {Path(onnx).name}"
    return [*rows, Row(what=what, value=median, unit="ms")]


def time_per_face(path: str | os.PathLike[str]) -> tuple[float, str]:
    """Median milliseconds of one face through an `.onnx` file, and the precision that its manifest states.

    Raises:
        InvalidInputError: It is not an .onnx file.
        FileFormatError, EngineUnavailableError, FileNotFoundError: As `runtime.engines.load_engine`.
    """
    if Path(path).suffix != ".onnx":
        raise InvalidInputError(f"{os.fspath(path)}: expected an .onnx file to time, got another suffix.")
    with load_engine(path, providers=["CPUExecutionProvider"], threads=1) as engine:
        size = engine.manifest.input_size
        crop = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        times = []
        for _ in range(_WARM_UP + _CALLS):
            start = time.perf_counter()
            engine(crop)
            times.append(time.perf_counter() - start)
        return 1000.0 * float(np.median(times[_WARM_UP:])), engine.manifest.precision


def markdown(
    title: str,
    rows: Sequence[Row],
    per_image: Mapping[str, PerImage],
    ours: Sequence[PredictionRow] = (),
    missed: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The table, whom a detector missed, the paper's tables, and one of single images of each set that is small enough.

    Args:
        title: What the figures are of.
        rows: The figures.
        per_image: Figures of single images, by data set.
        ours: Rows for the paper's tables.
        missed: The faces that the detector missed, by data set.
    """
    head = ("data", "what", "value", *_BINS)
    cells = [(row.data, row.what, _value(row), *(_bin(row, number) for number in range(3))) for row in rows]
    parts = [f"# {title}", _table(head, cells), PROTOCOL]
    parts += [_missed(name, faces) for name, faces in (missed or {}).items() if faces]
    tables = {row.table.title: row.table for row in ours}
    parts += [part for table in tables.values() for part in _beside(table, [row for row in ours if row.table == table])]
    for name, columns in per_image.items():
        images = next(iter(columns.values()))
        if 0 < len(images) <= MOST_IMAGES:
            lines = [(stem, *(_number(column[stem], "%") for column in columns.values())) for stem in images]
            parts += [
                f"Single images of {name}, NME in %:",
                _table(("image", *(column.replace("_", " ") for column in columns)), lines),
            ]
    return "\n\n".join(parts) + "\n"


def _missed(name: str, faces: Sequence[str]) -> str:
    """A sentence."""
    rest = len(faces) - MOST_IMAGES
    more = f" and {rest} more (the JSON names all)" if rest > 0 else ""
    return f"Missed by the face detector in {name}: {', '.join(faces[:MOST_IMAGES])}{more}."


def _beside(table: PublishedTable, ours: Sequence[PredictionRow]) -> tuple[str, str]:
    """A heading and the paper's table with our rows."""
    named = [(row.method, row.bins, row.mean) for row in table.rows]
    added = [(_name(row), row.nme.bins, row.nme.mean) for row in ours]
    lines = [(method, *(_number(value, "%") for value in (*bins, mean))) for method, bins, mean in [*named, *added]]
    heading = f"{table.title} (other rows as CLN's supplement, BMVC 2022, gives them, of the whole set):"
    return heading, _table(("method", *_BINS, "mean"), lines)


def _name(row: PredictionRow) -> str:
    """Our row's name, with how many faces each bin has."""
    counts = f" ({' + '.join(map(str, row.nme.counts))})" if sum(row.nme.counts) else ""
    split = f", bins by {row.split}" if row.split else ""
    return f"**this model**, {row.faces} faces{counts} of {row.data}{split}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, rule, *lines)
    )


def _value(row: Row) -> str:
    return _number(row.value, row.unit) if row.value is None else f"{_number(row.value, row.unit)} {row.unit}".rstrip()


def _bin(row: Row, number: int) -> str:
    return _number(row.bins[number], row.unit) if row.bins else ""


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else _NUMBER_FORMATS[unit].format(value)


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
        nme_row(name, f"pose, mean absolute Euler error, mean of the bins ({pose.faces} faces)", pose.euler, "°"),
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
    if Look.DETECTOR in study.looks:
        found = study.found
        detector, same = study.look_by_yaw(Look.DETECTOR), study.by_yaw(study.accuracy.errors, found)
        rows += [
            nme_row(name, f"NME, regions from the face detector ({found.sum()} of {len(found)} faces found)", detector),
            Row(
                data=name,
                what="the same / NME with ground-truth regions, faces found",
                value=ratio(detector.mean, same.mean),
                unit="",
            ),
        ]
    others = {
        Look.FIRST_LOOK: "the face detector's regions without further looks",
        Look.SECOND_LOOK: "further looks where the first asks for them",
        Look.SECOND_PASS: "second pass on the first one's landmarks",
    }
    return rows + [
        nme_row(name, f"NME, {title}", study.look_by_yaw(look)) for look, title in others.items() if look in study.looks
    ]


def prediction_rows(kind: str, name: str, accuracy: Accuracy) -> list[PredictionRow]:
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
        PredictionRow(table=table, nme=nme, data=name, faces=accuracy.faces, split=split)
        for table, nme, split in tables
        if nme is not None
    ]


def permutation_rows(data: str, permuted: Sequence[Permuted]) -> list[Row]:
    """Rows of other permutations."""
    return [
        nme_row(data, f"NME, another fixed permutation of the self-shuffle ({number})", one.nme)
        for number, one in enumerate(permuted, start=1)
    ]
