"""Faces as data: JSON back to faces, CSV tables, and the `.pts` files that annotation tools read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import LANDMARKS, FaceModel, find_face_model
from runtime.image import MAX_SIDE
from runtime.roi import Roi

if TYPE_CHECKING:
    from runtime.face import Face

_LARGEST = float(np.finfo(np.float32).max)
_SAME = 1e-3  # pixels: landmarks in JSON are rounded; nearer than this, the params' own are meant


def fields_from_dict(values: Mapping[str, Any], model: FaceModel | None = None) -> dict[str, Any]:
    """A face's fields, checked; see `Face.from_dict`."""
    if not isinstance(values, Mapping):
        raise FileFormatError(f"face: expected an object as Face.to_dict gives it, got {type(values).__name__}")
    missing = [name for name in ("box", "score", "roi", "crop_size", "face_model", "params") if name not in values]
    if missing:
        raise FileFormatError(
            f"face: expected '{missing[0]}' among its values, got {', '.join(sorted(map(str, values))) or 'none'}; "
            "reconstruct the photograph again"
        )
    wanted = values["face_model"]
    if model is None:
        model = find_face_model(str(wanted))
    elif model.sha256 != wanted:
        raise MismatchError(
            f"face: expected one of face model '{model.name}' ({model.sha256[:12]}…), got one of {str(wanted)[:12]}…; "
            "pass the face model it was reconstructed with"
        )
    x, y, w, h = _numbers(values["box"], "box", (4,)).tolist()
    roi, size = values["roi"], values["crop_size"]
    if not isinstance(roi, Mapping) or not {"center_x", "center_y", "side"} <= set(roi):
        raise FileFormatError(f"face: expected 'roi' with center_x, center_y, side and angle, got {roi!r}")
    if type(size) is not int or not 1 <= size <= MAX_SIDE:
        raise FileFormatError(
            f"face: expected 'crop_size' as a whole number from 1 to {MAX_SIDE}, got {str(size)[:60]}"
        )
    place = {name: float(_numbers(roi.get(name, 0.0), name, ())) for name in ("center_x", "center_y", "side", "angle")}
    try:
        region = Roi(**place)
    except InvalidInputError as error:
        raise FileFormatError(f"face: {error}") from None
    params = _numbers(values["params"], "params", (model.num_params,)).astype(np.float32)
    landmarks = np.asarray(region.to_image(model.landmarks(params), size), dtype=np.float32)
    if "landmarks" in values:  # a filter may have moved them
        given = _numbers(values["landmarks"], "landmarks", (LANDMARKS, 3)).astype(np.float32)
        landmarks = landmarks if np.abs(given - landmarks).max() < _SAME else given
    score = float(_numbers(values["score"], "score", ()))
    return {
        "box": (x, y, w, h),
        "score": score,
        "roi": region,
        "crop_size": size,
        "params": params,
        "landmarks": landmarks,
        "model": model,
    }


def _numbers(value: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise FileFormatError(f"face: expected numbers in '{name}', got {str(value)[:60]!r}") from None
    if numbers.shape != shape or not (np.abs(numbers) <= _LARGEST).all():
        raise FileFormatError(f"face: expected '{name}' as finite numbers of shape {shape}, got {numbers.shape}")
    return numbers


def faces_to_csv(faces: Sequence[Face], *, image: str = "") -> str:
    """A table with a row for each face: image, number, box, score, pose, and x, y, z, visible of each landmark.

    Landmarks count from 1 as iBUG's figure does (x1 … visible68), in image pixels; z is relative; visible is 0 or 1.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = [f"{name}{i}" for i in range(1, LANDMARKS + 1) for name in ("x", "y", "z", "visible")]
    table.writerow(["image", "face", "box_x", "box_y", "box_w", "box_h", "score", "yaw", "pitch", "roll", *columns])
    for number, face in enumerate(faces):
        pose = (face.pose.yaw, face.pose.pitch, face.pose.roll)
        points = np.column_stack([np.round(face.landmarks.astype(np.float64), 3), face.visible]).ravel().tolist()
        cells = [f"{v:.3f}" for v in face.box] + [f"{face.score:.6f}"] + [f"{angle:.4f}" for angle in pose]
        table.writerow([image, number, *cells, *(f"{v:g}" if i % 4 == 3 else f"{v:.3f}" for i, v in enumerate(points))])
    return text.getvalue()


def landmarks_to_pts(face: Face) -> str:
    """The 68 landmarks as iBUG's `.pts` file: x and y, counted from 1 as its annotations are."""
    points = np.asarray(face.landmarks[:, :2], dtype=np.float64) + 1
    if not all(map(math.isfinite, points.ravel())):
        raise InvalidInputError("landmarks: expected finite points, got others")
    rows = "".join(f"{x:.3f} {y:.3f}\n" for x, y in points)
    return f"version: 1\nn_points: {LANDMARKS}\n{{\n{rows}}}\n"
