"""AFLW (Köstinger et al., 2011): 21 points, the visible ones annotated; as it ships, and as 3DDFA's protocol cuts it.

As it ships, labels are in a SQLite file:

    DIR/data/aflw.sqlite   (or DIR/aflw.sqlite)
    DIR/data/flickr/0/…, 2/…, 3/…   (or DIR/flickr/…): images, as FaceImages.filepath names them

Tables read: Faces (face_id, file_id), FaceImages (file_id, filepath), FeatureCoords (face_id, feature_id 1..21, x, y);
where they say something of a face, FaceRect (face_id, x, y, w, h) and FacePose (face_id, yaw in radians). A point that
isn't there is hidden. A face is cropped at its rectangle, since the visible points of a profile don't span it, else at
its points. Faces with fewer than two visible points are left out. The database is the index: it needs no other.

The protocol's 21,080 crops of 120 pixels, which the published tables are measured on:

    DIR/test.configs/AFLW_GT_pts21.npy (N, 2, 21), AFLW_GT_pts68.npy (N, 2 or 3, 68): the source image's pixels, from 1;
                     an invisible point has -1 as its x; AFLW_GT_crop_roi_box.npy (N, 4): x0, y0, x1, y1 that the crop
                     was stretched from; AFLW_GT_crop_yaws.npy (N,) in degrees
    DIR/test.data/AFLW_GT_crop.list, DIR/test.data/AFLW_GT_crop/…

There a crop is the region itself, and errors are divided by `PointFace.length`: sqrt(w h) of the 68 fitted points' box.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import FileFormatError, InvalidInputError
from runtime.face_model import LANDMARKS
from runtime.files import read_npy
from runtime.roi import Roi
from training.data.landmarks import AFLW_21, PointFace
from training.data.points import PointFaces
from training.data.tables import read_text

_POINTS = len(AFLW_21.mixing)
_CROP = 120.0
_FACES = """
    SELECT Faces.face_id, FaceImages.filepath, FaceRect.x, FaceRect.y, FaceRect.w, FaceRect.h, FacePose.yaw
    FROM Faces JOIN FaceImages ON FaceImages.file_id = Faces.file_id
    LEFT JOIN FaceRect ON FaceRect.face_id = Faces.face_id LEFT JOIN FacePose ON FacePose.face_id = Faces.face_id
    GROUP BY Faces.face_id ORDER BY Faces.face_id
"""
_COORDINATES = "SELECT face_id, feature_id, x, y FROM FeatureCoords"


def load_aflw(folder: str | os.PathLike[str]) -> PointFaces:
    """All faces, by number.

    Raises:
        FileNotFoundError: No such folder, or no database in it.
        FileFormatError: The database has other tables, or holds no face.
    """
    root = aflw_root(Path(folder))
    database = root / "aflw.sqlite"
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(_FACES).fetchall()
            coordinates = connection.execute(_COORDINATES).fetchall()
    except sqlite3.Error as error:
        raise FileFormatError(f"{database}: expected AFLW's database, got one that can't be read ({error}).") from None
    if not rows:
        raise FileFormatError(f"{database}: expected faces in it, got none; fetch the file again.")
    try:
        points = _points(coordinates)
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{database}: expected numbers in FeatureCoords, got others ({error}).") from None
    faces, notes = [], []
    for face_id, name, *numbers in rows:
        at = points.get(face_id, np.full((_POINTS, 2), np.nan))
        try:
            faces.append(_face(root / "flickr" / name, at, numbers))
        except (InvalidInputError, TypeError) as error:
            notes.append(f"{name}, face {face_id} is left out: {error}")
    return PointFaces(faces=faces, bad={}, notes=notes)


def load_aflw_crops(folder: str | os.PathLike[str]) -> PointFaces:
    """3DDFA's crops, in the list's order; points in the pixels of the crops.

    Raises:
        FileNotFoundError: A file is missing.
        FileFormatError: An array has another layout than the list.
    """
    root = Path(folder)
    listing = root / "test.data" / "AFLW_GT_crop.list"
    if not listing.is_file():
        raise FileNotFoundError(f"{listing}: expected the list of 3DDFA's AFLW crops, found none; give 3DDFA's folder.")
    names = read_text(listing).split()
    configs = root / "test.configs"
    points = _protocol_array(configs / "AFLW_GT_pts21.npy", len(names), (2, _POINTS))
    fitted = _protocol_array(configs / "AFLW_GT_pts68.npy", len(names), (None, LANDMARKS))
    boxes = _protocol_array(configs / "AFLW_GT_crop_roi_box.npy", len(names), (4,))
    for file, corners in (("crop_roi_box", boxes.reshape(-1, 2, 2)), ("pts68", np.moveaxis(fitted[:, :2], 2, 1))):
        flat = ~(np.ptp(corners, axis=1) > 0).all(axis=1)
        if flat.any():
            raise FileFormatError(
                f"{configs / f'AFLW_GT_{file}.npy'}: expected a box with an area for each face, got a flat one for "
                f"{names[int(flat.argmax())]}; fetch the file again."
            )
    yaws = _protocol_array(configs / "AFLW_GT_crop_yaws.npy", len(names), ())
    faces = []
    for name, at, all_68, box, yaw in zip(names, points, fitted, boxes, yaws, strict=True):
        scale = _CROP / (box[2:] - box[:2])
        extent = np.ptp(all_68[:2], axis=1)
        faces.append(
            PointFace(
                image_path=root / "test.data" / "AFLW_GT_crop" / name,
                # The crops' own pixels count from 1 too: (x - x0) * scale is one of those.
                points=(at.T - box[:2]) * scale - 1.0,
                visible=(at != -1).all(axis=0),
                roi=Roi(center_x=(_CROP - 1) / 2, center_y=(_CROP - 1) / 2, side=_CROP),
                yaw=float(yaw),
                length=float(np.sqrt(extent.prod() * scale.prod())),
            )
        )
    return PointFaces(faces=faces, bad={}, notes=[])


def _protocol_array(path: Path, count: int, shape: tuple[int | None, ...]) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected this file of 3DDFA's test.configs, found none; copy it there.")
    value = read_npy(path)
    expected = (count, *shape)
    fits = value.ndim == len(expected) and all(e in (None, n) for e, n in zip(expected, value.shape, strict=True))
    if not fits or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise FileFormatError(f"{path}: expected finite numbers {expected}, got {value.dtype} {value.shape}.")
    return np.asarray(value, dtype=np.float64)


def aflw_root(folder: Path) -> Path:
    """The folder that holds the database.

    Raises:
        FileNotFoundError: There is none.
    """
    root = next((root for root in (folder / "data", folder) if (root / "aflw.sqlite").is_file()), None)
    if root is None:
        raise FileNotFoundError(f"{folder}: expected data/aflw.sqlite in it, found none; give AFLW's own folder.")
    return root


def _points(coordinates: Iterable[tuple[int, int, float, float]]) -> dict[int, np.ndarray]:
    """(21, 2) of each face, NaN where a point isn't annotated."""
    points: dict[int, np.ndarray] = {}
    for face_id, feature, x, y in coordinates:
        if 1 <= feature <= _POINTS:
            points.setdefault(face_id, np.full((_POINTS, 2), np.nan))[feature - 1] = x, y
    return points


def _face(image: Path, points: np.ndarray, numbers: list[Any]) -> PointFace:
    *box, yaw = numbers
    visible = np.isfinite(points).all(axis=1)
    if visible.sum() < 2:
        raise InvalidInputError(f"expected at least two visible points, got {visible.sum()}")
    roi = Roi.from_landmarks(points[visible]) if None in box else Roi.from_box(box)
    degrees = None if yaw is None else float(np.degrees(yaw))
    return PointFace(image_path=image, points=points, visible=visible, roi=roi, yaw=degrees)
