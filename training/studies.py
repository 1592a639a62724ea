"""Photographs looked at from more sides: those of AFLW2000-3D with fits and detections, those with points alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.detection import FaceDetector, roi_from_detection
from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel
from runtime.image import read_image
from runtime.roi import Roi
from training.accuracy import Accuracy, Predict, accuracy_of, nme_of, place, predict_faces, without_form
from training.charts import WORST, Tile
from training.data.aflw2000 import AnnotatedFace
from training.data.landmarks import PointFace, Scheme
from training.fitting import fit_params
from training.metrics import YawBins, by_yaw, ced, nme_visible


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Photographs looked at from more sides: errors (F,) in percent, NaN for a face that the detector missed."""

    faces: Sequence[AnnotatedFace]
    landmarks: NDArray[np.float32]
    """As predicted (F, 68, 3), image pixels."""
    params: NDArray[np.float32]
    label_yaw: NDArray[np.float64] | None = None
    predicted: NDArray[np.float64]
    zero_coefficients: NDArray[np.float64]
    fit_floor: NDArray[np.float64]
    """Of the face model fitted to the labels themselves."""
    detector: NDArray[np.float64]
    """With regions from a face detector."""
    second_pass: NDArray[np.float64]
    """With regions from the first pass's landmarks."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which faces the detector found (F,)."""
        return np.isfinite(self.detector)

    @property
    def accuracy(self) -> Accuracy:
        """The plain figures."""
        return accuracy_of(
            self.faces, self.predicted, self.zero_coefficients, self.landmarks, self.params, self.label_yaw
        )

    def by_yaw(self, errors: NDArray[np.float64], chosen: NDArray[np.bool_] | None = None) -> YawBins:
        """Bins of one kind of errors, of the chosen faces."""
        mask = np.ones(len(errors), bool) if chosen is None else chosen
        return by_yaw(errors[mask], np.array([face.yaw for face in self.faces])[mask])

    def per_image(self) -> dict[str, dict[str, float | None]]:
        """Each kind of error by image; None where the face was missed."""
        kinds = ("fit_floor", "predicted", "zero_coefficients", "detector", "second_pass")
        return {
            kind: {
                face.stem: float(error) if np.isfinite(error) else None
                for face, error in zip(self.faces, getattr(self, kind), strict=True)
            }
            for kind in kinds
        }

    def to_dict(self) -> dict[str, Any]:
        """`Accuracy.to_dict`, and the further figures."""
        images, result = self.per_image(), self.accuracy.to_dict()
        for kind in ("fit_floor", "second_pass", "detector"):
            bins = self.by_yaw(getattr(self, kind), self.found if kind == "detector" else None)
            result[kind] = {**dataclasses.asdict(bins), "per_image": images[kind]}
        result["detector"]["missed"] = [
            face.stem for face, found in zip(self.faces, self.found, strict=True) if not found
        ]
        return result


def study_photographs(
    predict: Predict,
    size: int,
    face_model: FaceModel,
    faces: Sequence[AnnotatedFace],
    detector: FaceDetector,
    label_yaw: NDArray[np.float64] | None = None,
) -> Study:
    """All that the table says of annotated photographs."""
    rois = [Roi.from_landmarks(face.landmarks) for face in faces]
    params = predict_faces(predict, size, faces, rois)
    landmarks = place(face_model, params, rois, size)

    def run(chosen: Sequence[AnnotatedFace], regions: Sequence[Roi]) -> NDArray[np.float64]:
        return nme_of(place(face_model, predict_faces(predict, size, chosen, regions), regions, size), chosen)

    detected = [detected_roi(detector, face) for face in tqdm(faces, unit="face", desc="detecting", disable=None)]
    pairs = [(face, roi) for face, roi in zip(faces, detected, strict=True) if roi is not None]
    by_detector = np.full(len(faces), np.nan)
    if pairs:
        by_detector[[roi is not None for roi in detected]] = run(*zip(*pairs, strict=True))
    fits = [fit_params(face_model, face.landmarks) for face in tqdm(faces, unit="face", desc="fitting", disable=None)]
    return Study(
        faces=faces,
        landmarks=landmarks,
        params=params,
        label_yaw=label_yaw,
        predicted=nme_of(landmarks, faces),
        zero_coefficients=nme_of(place(face_model, without_form(params), rois, size), faces),
        fit_floor=nme_of(face_model.landmarks(np.stack(fits)), faces),
        detector=by_detector,
        second_pass=run(faces, [Roi.from_landmarks(points) for points in landmarks]),
    )


def detected_roi(detector: FaceDetector, face: AnnotatedFace) -> Roi | None:
    """The region of the detection nearest to the true one; None if none has its centre within half the true side."""
    truth = Roi.from_landmarks(face.landmarks)

    def distance(roi: Roi) -> float:
        return float(np.hypot(roi.center_x - truth.center_x, roi.center_y - truth.center_y))

    rois = [roi_from_detection(detection) for detection in detector.detect(read_image(face.image_path))]
    nearest = min(rois, key=distance, default=None)
    return nearest if nearest is not None and distance(nearest) < truth.side / 2 else None


@dataclass(frozen=True, kw_only=True, eq=False)
class PointStudy:
    """Photographs labelled with points alone."""

    faces: Sequence[PointFace]
    scheme: Scheme
    answers: NDArray[np.float64]
    """The scheme's points as predicted (F, K, 2), image pixels."""
    accuracy: Accuracy


def study_points(
    predict: Predict, size: int, face_model: FaceModel, faces: Sequence[PointFace], scheme: Scheme
) -> PointStudy:
    """Accuracy over the visible points (see `point_norm`); a face without any is left out.

    Raises:
        InvalidInputError: No face is left.
    """
    kept = [face for face in faces if face.visible.any()]
    if not kept:
        raise InvalidInputError("Expected faces with visible points, got none.")
    rois = [face.roi for face in kept]
    params = predict_faces(predict, size, kept, rois)
    truth, visible = np.stack([face.points for face in kept]), np.stack([face.visible for face in kept])
    sizes = np.array([point_norm(face) for face in kept])
    answers, errors = [], []
    for form in (params, without_form(params)):
        points = scheme.mixing.astype(np.float64) @ place(face_model, form, rois, size)[..., :2]  # (F, K, 2)
        answers.append(points)
        errors.append(nme_visible(points, truth, visible, sizes))
    yaw = np.array([np.nan if face.yaw is None else face.yaw for face in kept])
    names = unique_names([face.image_path.stem for face in kept])
    accuracy = Accuracy(
        nme=bins_or_mean(errors[0], yaw),
        zero_coefficients=bins_or_mean(errors[1], yaw),
        per_image=dict(zip(names, errors[0].tolist(), strict=True)),
        faces=len(kept),
        points=len(scheme.mixing),
        ced=ced(errors[0]),
        errors=errors[0],
    )
    return PointStudy(faces=kept, scheme=scheme, answers=answers[0], accuracy=accuracy)


def point_norm(face: PointFace) -> float:
    """Image pixels that a face's errors are divided by: what its set says, else sqrt(w * h) of its known points' box.

    Raises:
        InvalidInputError: That box has no area.
    """
    if face.length is not None:
        return face.length
    area = float(np.ptp(face.points[face.visible], axis=0).prod())
    if not area > 0:
        raise InvalidInputError(f"{face.image_path}: expected known points whose box has an area, got a flat one.")
    return float(np.sqrt(area))


def bins_or_mean(errors: NDArray[np.float64], yaw: NDArray[np.float64]) -> YawBins:
    """By yaw; the plain mean of all faces where the set says no yaw."""
    result = by_yaw(errors, yaw)
    return result if result.mean is not None else dataclasses.replace(result, mean=float(errors.mean()))


def unique_names(names: Sequence[str]) -> list[str]:
    """The names; the second of one kind gets #2 after it, and so on."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result


def worst_tiles(result: Accuracy | Study | PointStudy, count: int = WORST) -> list[Tile]:
    """The faces with the largest errors, worst first; none of rendered ones."""
    if isinstance(result, Accuracy):
        return []
    accuracy, tiles = result.accuracy, []
    names = list(accuracy.per_image)
    for number in np.argsort(-accuracy.errors, kind="stable")[:count]:
        face = result.faces[number]
        if isinstance(result, Study):
            truth, answer = result.faces[number].landmarks, result.landmarks[number]
            roi, yaw = Roi.from_landmarks(truth), result.faces[number].yaw
        else:
            chosen = result.faces[number].visible
            truth, answer = result.faces[number].points[chosen], result.answers[number][chosen]
            roi, yaw = result.faces[number].roi, result.faces[number].yaw
        angle = "" if yaw is None else f", yaw {yaw:.0f}"
        caption = f"{names[number]}: {accuracy.errors[number]:.2f} %{angle}"
        tiles.append(Tile(image_path=face.image_path, roi=roi, truth=truth, answer=answer, caption=caption))
    return tiles
