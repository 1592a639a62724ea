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
                                 whose known points don't span the face; for all faces of an image or for none, a line
                                 each, in any order
              Tables may be as spreadsheets write them (`training.data.tables`).
              An image without points has nothing to learn from: it is left out, and `notes` say so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ClnError, FileFormatError, InvalidInputError, nearest_name
from runtime.face_model import LANDMARKS
from runtime.roi import Roi
from training.data.files import (
    MAX_BAD_SHARE,
    Skipped,
    find_files,
    image_beside,
    images_of,
    labelled_image,
    read_index,
)
from training.data.landmarks import PointFace
from training.data.tables import find_named, read_table, read_text


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
    for name, points in zip(index.names, index.arrays["points"], strict=True):
        image = labelled_image(directory / name)
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
    labels = _labels(directory / "points.csv")
    files = find_files(directory, ".pts")
    if not labels and not files:
        raise FileFormatError(
            f"{directory}: expected points.csv or NAME.pts files, got neither; images alone can't be learnt from."
        )
    boxes: dict[str, list[NDArray[np.float64]]] = {}
    for name, box in _optional_table(directory / "boxes.csv", 4):
        boxes.setdefault(name, []).append(box)
    skipped, faces = Skipped(total=len(labels) + len(files) + len(boxes), limit=max_bad), []
    of_image: dict[str, list[NDArray[np.float64]]] = {}
    for name, points in labels:
        of_image.setdefault(name, []).append(points)
    for file in files:
        try:
            image = image_beside(directory / file.name).name
            points = read_pts(directory / file.name)
            if image in of_image:
                raise FileFormatError(
                    f"{file.name}: expected each face once, got {image} in points.csv too; keep one of both."
                )
            of_image[image] = [points]
        except FileFormatError as error:
            skipped.add(file.name, str(error))
    for name, several in of_image.items():
        try:
            image = _image(directory, name)
            for points, box in zip(several, _boxes_of(name, several, boxes.get(name)), strict=True):
                faces.append(_face(image, points, box))
        except (ClnError, OSError) as error:
            skipped.add(name, str(error))
    for name in boxes.keys() - of_image.keys():
        if not find_named(directory, name).is_file():  # an image without points is noted below
            near = nearest_name(name, of_image)
            skipped.add(f"boxes.csv: {name}", f"boxes.csv: expected names of images in the folder, got {near}")
    labelled = {name.rpartition(".")[0] for name in (*of_image, *(file.name for file in files))}
    return PointFaces(faces=faces, bad=skipped.reasons, notes=_unlabelled(directory, labelled))


def _labels(path: Path) -> list[tuple[str, NDArray[np.float64]]]:
    """Names and points (68, 2) of points.csv; a line that is there twice counts once."""
    rows = _optional_table(path, 2 * LANDMARKS)
    once = {(name, row.tobytes()): (name, row.reshape(-1, 2)) for name, row in rows}
    return list(once.values())


def _boxes_of(
    name: str, faces: list[NDArray[np.float64]], boxes: list[NDArray[np.float64]] | None
) -> Sequence[NDArray[np.float64] | None]:
    """The box of each face of an image: of several, the one that lies nearest to its points.

    Raises:
        FileFormatError: They are not as many as the faces, or one holds none of its face's points.
    """
    if boxes is None:
        return [None] * len(faces)
    if len(boxes) != len(faces):
        raise FileFormatError(
            f"{name}: expected a box for each of its {len(faces)} faces in boxes.csv, got {len(boxes)}; "
            "give a line for each face, or none."
        )
    from scipy.optimize import linear_sum_assignment

    with np.errstate(invalid="ignore"):
        middles = np.array([np.nanmean(points, axis=0) if np.isfinite(points).any() else (0, 0) for points in faces])
        corners = np.array(boxes)
        away = np.linalg.norm(middles[:, None] - (corners[:, :2] + corners[:, 2:] / 2)[None], axis=2)
    order = linear_sum_assignment(np.nan_to_num(away, nan=1e9))[1]
    chosen = [boxes[i] for i in order]
    for points, (x, y, w, h) in zip(faces, chosen, strict=True):
        known = points[np.isfinite(points).all(axis=1)]
        if len(known) and not ((known >= (x, y)) & (known <= (x + w, y + h))).all(axis=1).any():
            raise FileFormatError(
                f"{name}: expected a box around its points, got x {x:g}, y {y:g}, {w:g} x {h:g}, which holds none."
            )
    return chosen


def _image(directory: Path, name: str) -> Path:
    image = find_named(directory, name)
    if not image.is_file():
        names = [file.name for file in images_of(directory)]
        raise FileNotFoundError(
            f"{image}: expected this image, found none; the table names {nearest_name(name, names)}"
        )
    return image


def _optional_table(path: Path, width: int) -> list[tuple[str, NDArray[np.float64]]]:
    """No file is an empty table."""
    return read_table(path, width) if path.is_file() else []


def _unlabelled(directory: Path, labelled: set[str], *, deep: bool = False) -> list[str]:
    """A line for each image that no label is for, by its path without suffix."""
    names = [file.name for file in images_of(directory, deep=deep) if file.name.rpartition(".")[0] not in labelled]
    return [f"{name} is left out: it has no points" for name in names]


def read_pts(path: Path) -> NDArray[np.float64]:
    """The 68 points (68, 2) of a .pts file, 0-based.

    Raises:
        FileFormatError: It has another layout, another number of points, holds NaN, or all points are in one place.
    """
    text = read_text(path)
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
    image_beside(path)
    return {"points": read_pts(path)}


def _face(image: Path, points: NDArray[np.float64], box: NDArray[np.float64] | None) -> PointFace:
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


def _folder(folder: str | os.PathLike[str]) -> Path:
    directory = Path(folder)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: expected a folder of images, found none; check the path.")
    return directory
