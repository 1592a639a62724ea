"""Images with points in files beside them: Helen and LFPW (300-W's re-annotation), and a user's own folder.

Helen, LFPW   DIR/**/NAME.pts with NAME.jpg or NAME.png beside it (`trainset`, `testset`, or any folder). A .pts file:

                  version: 1
                  n_points: 68
                  { x y, one point a line }

              with iBUG's 68 points, pixels from 1 as Matlab counts.
own folder    DIR/*.jpg or .png, and one or more of
                  NAME.pts       as above
                  points.csv     file,x1,y1,…,x68,y68 one face a line, pixels from 0; an empty cell is an unknown point
                  boxes.csv      file,x,y,w,h: the tight face box (brows to chin, cheek to cheek) to crop at, for faces
                                 whose known points don't span the face
              An image without points has nothing to learn from: it is left out, and `notes` say so.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ClnError, FileFormatError, InvalidInputError
from runtime.face_model import LANDMARKS
from runtime.roi import Roi
from training.data.files import IMAGE_SUFFIXES, MAX_BAD_SHARE, Skipped, find_files, image_beside, read_index
from training.data.landmarks import PointFace


@dataclass(frozen=True, kw_only=True, eq=False)
class PointFaces:
    """The faces of a set."""

    faces: list[PointFace]
    bad: dict[str, str]
    """Labels that can't be read, and why."""
    notes: list[str]
    """What was left out though nothing is wrong with it."""


def load_pts(
    folder: str | os.PathLike[str], *, cache: Path | None = None, max_bad: float = MAX_BAD_SHARE
) -> PointFaces:
    """All faces of a folder of .pts files, its subfolders too.

    Raises:
        FileNotFoundError: No such folder.
        FileFormatError: No .pts in it, or more of them are bad than `max_bad`, a share.
    """
    directory = _folder(folder)
    files = find_files(directory, ".pts", deep=True)
    if not files:
        raise FileFormatError(
            f"{directory}: expected NAME.pts beside NAME.jpg or .png, got none; unpack the set there."
        )
    index = read_index(directory, "pts", files, _row, cache, max_bad)
    everything = np.ones(LANDMARKS, bool)
    faces = []
    for name, points, suffix in zip(index.names, index.arrays["points"], index.arrays["suffix"], strict=True):
        image = (directory / name).with_suffix(IMAGE_SUFFIXES[suffix])
        roi = Roi.from_landmarks(points)
        faces.append(PointFace(image_path=image, points=points, visible=everything, roi=roi))
    labelled = {file.name.rpartition(".")[0] for file in files}
    return PointFaces(faces=faces, bad=index.bad, notes=_unlabelled(directory, labelled, deep=True))


def load_own(folder: str | os.PathLike[str], *, max_bad: float = MAX_BAD_SHARE) -> PointFaces:
    """All faces of a user's own folder.

    Raises:
        FileNotFoundError: No such folder.
        FileFormatError: No labels in it, a table that can't be read, or more labels are bad than `max_bad`, a share.
    """
    directory = _folder(folder)
    boxes = {name: box for name, box in _table(directory / "boxes.csv", 4)}
    labels = [(name, row.reshape(-1, 2)) for name, row in _table(directory / "points.csv", 2 * LANDMARKS)]
    files = find_files(directory, ".pts")
    if not labels and not files:
        raise FileFormatError(
            f"{directory}: expected points.csv or NAME.pts files, got neither; images alone can't be learnt from."
        )
    skipped, faces = Skipped(total=len(labels) + len(files), limit=max_bad), []
    for file in files:
        try:
            path = directory / file.name
            labels.append((image_beside(path).name, read_pts(path)))
        except FileFormatError as error:
            skipped.add(file.name, str(error))
    for name, points in labels:
        try:
            faces.append(_face(directory / name, points, boxes.get(name)))
        except (ClnError, OSError) as error:
            skipped.add(name, str(error))
    labelled = {name.rpartition(".")[0] for name in (*(name for name, _ in labels), *(file.name for file in files))}
    return PointFaces(faces=faces, bad=skipped.reasons, notes=_unlabelled(directory, labelled))


def _unlabelled(directory: Path, labelled: set[str], *, deep: bool = False) -> list[str]:
    """A line for each image that no label is for, by its path without suffix."""
    images = find_files(directory, tuple({suffix.lower() for suffix in IMAGE_SUFFIXES}), deep=deep)
    names = [file.name for file in images if file.name.rpartition(".")[0] not in labelled]
    return [f"{name} is left out: it has no points" for name in names]


def read_pts(path: Path) -> NDArray[np.float64]:
    """The 68 points (68, 2) of a .pts file, 0-based.

    Raises:
        FileFormatError: It has another layout, another number of points, holds NaN, or all points are in one place.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    body = text.partition("{")[2].partition("}")
    try:
        points = np.array([[float(v) for v in line.split()] for line in body[0].splitlines() if line.strip()])
    except ValueError:
        points = np.zeros(0)
    if not body[1] or points.shape != (LANDMARKS, 2):
        raise FileFormatError(
            f"{path}: expected 'version, n_points: {LANDMARKS}, {{' and {LANDMARKS} lines 'x y', got {points.shape}."
        )
    if not np.isfinite(points).all():
        raise FileFormatError(f"{path}: a point is NaN or infinite; label it again.")
    _region(path, points)
    return points - 1.0


def _row(path: Path) -> dict[str, NDArray[Any]]:
    suffix = IMAGE_SUFFIXES.index(image_beside(path).suffix)
    return {"points": read_pts(path), "suffix": np.array(suffix, dtype=np.int32)}


def _face(image: Path, points: NDArray[np.float64], box: NDArray[np.float64] | None) -> PointFace:
    if not image.is_file():
        raise FileNotFoundError(f"{image}: expected this image, found none; check its name in the table")
    visible = np.asarray(np.isfinite(points).all(axis=1))
    roi = _region(image, points[visible], box)
    return PointFace(image_path=image, points=points, visible=visible, roi=roi)


def _region(path: Path, points: NDArray[np.float64], box: NDArray[np.float64] | None = None) -> Roi:
    """The region of a box, else of known points; the error names the file.

    Raises:
        FileFormatError: There are no points, all are in one place, or the box has no area.
    """
    try:
        return Roi.from_landmarks(points) if box is None else Roi.from_box(box)
    except InvalidInputError as error:
        raise FileFormatError(f"{path}: its label says no region ({error}); label it again.") from None


def _table(path: Path, width: int) -> list[tuple[str, NDArray[np.float64]]]:
    """Lines `file, number, …` of a CSV file; NaN for empty cells. No file is an empty table."""
    if not path.is_file():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, cells in enumerate(csv.reader(file), start=1):
            if not cells or (number == 1 and cells[0].strip() == "file"):
                continue
            try:
                values = np.array([float(cell) if cell.strip() else np.nan for cell in cells[1:]])
            except ValueError:
                values = np.zeros(0)
            if len(values) != width or np.isinf(values).any():
                raise FileFormatError(
                    f"{path}, line {number}: expected a file name and {width} numbers, got {len(cells)} cells."
                )
            rows.append((cells[0].strip(), values))
    return rows


def _folder(folder: str | os.PathLike[str]) -> Path:
    directory = Path(folder)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: expected a folder of images, found none; check the path.")
    return directory
