"""Photographs looked at from more sides: regions from labels, from a face detector, and from a first pass's landmarks.

Each photograph is read once. A face that the detector misses has no answer there: its error is NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.detection import FaceDetector, roi_from_detection
from runtime.errors import InvalidInputError
from runtime.face_model import LANDMARKS, FaceModel
from runtime.regions import Looks, asked_rois
from runtime.roi import Roi, crop
from training.data.aflw2000 import AnnotatedFace
from training.data.landmarks import PointFace, Scheme
from training.evaluation.accuracy import Accuracy, accuracy_of, nme_of, place, without_form
from training.evaluation.figures import WORST, Tile
from training.evaluation.fitting import fit_params
from training.evaluation.metrics import YawBins, bins_or_mean, ced, nme_visible
from training.evaluation.predictors import Predict
from training.evaluation.reading import Photographed, read_batches

Errors = NDArray[np.float64]
"""Of each face (F,), in percent."""


class Look(StrEnum):
    """A way to look at a face beside the one in the labels' region: where its region comes from."""

    DETECTOR = "detector"
    """From a face detector, with further looks at those that were off; a face that it missed has no answer."""
    FIRST_LOOK = "first_look"
    """The same without further looks."""
    SECOND_LOOK = "second_look"
    """From the labels, with further looks at those that were off by what the first one saw."""
    SECOND_PASS = "second_pass"
    """As a tracker has it: around the landmarks found in the labels' region, turned as the head is."""

    @property
    def detected(self) -> bool:
        """Whether it needs the detector to have found the face."""
        return self in (Look.DETECTOR, Look.FIRST_LOOK)


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Figures of a set of photographs; `None` for what was not looked at."""

    names: list[str]
    faces: Sequence[Photographed]
    rois: Sequence[Roi]
    """The labels' regions."""
    yaw: Errors
    """Degrees, NaN where the set says none."""
    truth: NDArray[np.float64]
    """The labels' points (F, K, 2), image pixels; anything where not visible."""
    visible: NDArray[np.bool_]
    """(F, K)."""
    answers: NDArray[np.float64]
    """The points as predicted in the labels' regions (F, K, 2)."""
    accuracy: Accuracy
    zero_coefficients: Errors
    fit_floor: Errors | None = None
    """Of the face model fitted to the labels themselves."""
    looks: Mapping[Look, Errors] = field(default_factory=dict)
    """Of each further look, NaN where a face has no answer; empty if there was no detector."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which faces the detector found (F,)."""
        if Look.DETECTOR not in self.looks:
            return np.ones(len(self.names), bool)
        return np.isfinite(self.looks[Look.DETECTOR])

    @property
    def missed(self) -> list[str]:
        """Names of the faces that the detector did not find."""
        return [name for name, found in zip(self.names, self.found, strict=True) if not found]

    def by_yaw(self, errors: Errors, chosen: NDArray[np.bool_] | None = None) -> YawBins:
        """Bins of one kind of errors, of the chosen faces."""
        mask = np.ones(len(errors), bool) if chosen is None else chosen
        return bins_or_mean(errors[mask], self.yaw[mask])

    def look_by_yaw(self, look: Look) -> YawBins:
        """Bins of one look's errors, of the faces that have an answer."""
        return self.by_yaw(self.looks[look], self.found if look.detected else None)

    def per_image(self) -> dict[str, dict[str, float | None]]:
        """Each kind of error by image; None where the face was missed."""
        kinds: dict[str, Errors | None] = {
            "fit_floor": self.fit_floor,
            "predicted": self.accuracy.errors,
            "zero_coefficients": self.zero_coefficients,
            **self.looks,
        }
        return {
            str(kind): {
                name: float(error) if np.isfinite(error) else None
                for name, error in zip(self.names, errors, strict=True)
            }
            for kind, errors in kinds.items()
            if errors is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """`Accuracy.to_dict`, and the further figures."""
        images, result = self.per_image(), self.accuracy.to_dict()
        further = {str(look): self.look_by_yaw(look) for look in self.looks}
        if self.fit_floor is not None:
            further["fit_floor"] = self.by_yaw(self.fit_floor)
        for kind, bins in further.items():
            result[kind] = {**dataclasses.asdict(bins), "per_image": images[kind]}
        if Look.DETECTOR in self.looks:
            result[Look.DETECTOR]["missed"] = self.missed
        return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """A network's answers to F faces: landmarks (F, 68, 3) in image pixels, NaN for a face without a region."""

    params: NDArray[np.float32]
    """Of the labels' regions (F, 62), in their crops' pixels."""
    landmarks: NDArray[np.float32]
    flat: NDArray[np.float32]
    """The same with all coefficients set to zero."""
    looks: Mapping[Look, NDArray[np.float32]]
    """Landmarks of further looks; empty without a detector."""


def view_faces(
    predict: Predict,
    size: int,
    face_model: FaceModel,
    faces: Sequence[Photographed],
    rois: Sequence[Roi],
    detector: FaceDetector | None,
    *,
    progress: bool = True,
) -> Views:
    """Answers in the labels' regions `rois`; with a detector in its regions too, and in the first pass's."""
    rows: list[NDArray[np.float32]] = []
    batches: list[dict[Look, NDArray[np.float32]]] = []
    for numbers, images in read_batches(faces, progress=progress):
        regions = [rois[number] for number in numbers]
        run = partial(_answers, predict, size, face_model, images)
        look_again = partial(_looked_again, run, size, face_model)
        params, landmarks = run(regions)
        rows.append(params)
        if detector is not None:
            found = detected_rois(detector, images, regions)
            first_look = run(found)
            batches.append(
                {
                    Look.DETECTOR: look_again(*first_look, found),
                    Look.FIRST_LOOK: first_look[1],
                    Look.SECOND_LOOK: look_again(params, landmarks, regions),
                    Look.SECOND_PASS: run(asked_rois(params, landmarks, regions, size))[1],
                }
            )
    params = np.concatenate(rows)
    return Views(
        params=params,
        landmarks=place(face_model, params, rois, size),
        flat=place(face_model, without_form(params), rois, size),
        looks={look: np.concatenate([batch[look] for batch in batches]) for look in Look} if batches else {},
    )


def _looked_again(
    run: Callable[[Sequence[Roi | None]], tuple[Any, Any]],
    size: int,
    face_model: FaceModel,
    params: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    regions: Sequence[Roi | None],
) -> NDArray[np.float32]:
    """Landmarks (B, 68, 3) as `Reconstructor` gives them of detected regions: seen again where those were off."""
    found = [number for number, roi in enumerate(regions) if roi is not None]
    rois = [roi for roi in regions if roi is not None]
    if not found:
        return landmarks
    looks = Looks(params[found], landmarks[found], rois, size, lambda own, at: place(face_model, own, at, size))
    while looks.again:
        better = {found[number]: roi for number, roi in looks.again.items()}
        looks.take(run([better.get(number) for number in range(len(regions))])[0][list(better)])
    result = landmarks.copy()
    result[found] = place(face_model, looks.params, looks.rois, size)
    return result


def predict_regions(
    predict: Predict, size: int, images: Sequence[NDArray[np.uint8]], rois: Sequence[Roi]
) -> NDArray[np.float32]:
    """Parameters (B, 62) of a region of each image, each in the frame of its crop."""
    return predict(region_crops(images, rois, size))


def region_crops(images: Iterable[NDArray[np.uint8]], rois: Sequence[Roi], size: int) -> NDArray[np.uint8]:
    """A crop of each image (B, S, S, 3), of its region."""
    return np.stack([crop(image, [roi], size)[0] for image, roi in zip(images, rois, strict=True)])


def _answers(
    predict: Predict,
    size: int,
    face_model: FaceModel,
    images: Sequence[NDArray[np.uint8]],
    rois: Sequence[Roi | None],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Params (B, 62) and landmarks (B, 68, 3), NaN where there is no region."""
    pairs = [(image, roi) for image, roi in zip(images, rois, strict=True) if roi is not None]
    chosen = np.array([roi is not None for roi in rois])
    params = np.full((len(rois), face_model.num_params), np.nan, np.float32)
    landmarks = np.full((len(rois), LANDMARKS, 3), np.nan, np.float32)
    if pairs:
        pictures, regions = zip(*pairs, strict=True)
        params[chosen] = predict_regions(predict, size, pictures, regions)
        landmarks[chosen] = place(face_model, params[chosen], regions, size)
    return params, landmarks


def detected_rois(
    detector: FaceDetector, images: Sequence[NDArray[np.uint8]], truths: Sequence[Roi]
) -> list[Roi | None]:
    """The region of the detection nearest to each true one; None if none has its centre within half the true side."""
    result: list[Roi | None] = []
    seen, rois = None, []
    for image, truth in zip(images, truths, strict=True):
        if image is not seen:  # faces of one photograph share its array
            seen, rois = image, [roi_from_detection(detection) for detection in detector.detect(image)]
        distances = [np.hypot(roi.center_x - truth.center_x, roi.center_y - truth.center_y) for roi in rois]
        nearest = int(np.argmin(distances)) if rois else -1
        result.append(rois[nearest] if rois and distances[nearest] < truth.side / 2 else None)
    return result


def study_photographs(
    predict: Predict,
    size: int,
    face_model: FaceModel,
    faces: Sequence[AnnotatedFace],
    detector: FaceDetector | None = None,
    label_yaw: Errors | None = None,
    *,
    fit: bool = False,
    progress: bool = True,
) -> Study:
    """Accuracy on annotated photographs.

    Args:
        predict: Crops to params.
        size: Side of the crops.
        face_model: Of the params.
        faces: The photographs and their labels.
        detector: Looks at its regions too, and at those of the first pass.
        label_yaw: Degrees (F,) to bin by as well.
        fit: Fit the face model to the labels, too: the floor under every network's error.
        progress: Show bars.
    """
    rois = [Roi.from_landmarks(face.landmarks) for face in faces]
    seen = view_faces(predict, size, face_model, faces, rois, detector, progress=progress)
    predicted, flat = nme_of(seen.landmarks, faces), nme_of(seen.flat, faces)
    floor = None
    if fit:
        bar = tqdm(faces, unit="face", desc="fitting", disable=None if progress else True)
        floor = nme_of(face_model.landmarks(np.stack([fit_params(face_model, face.landmarks) for face in bar])), faces)
    return Study(
        names=[face.stem for face in faces],
        faces=faces,
        rois=rois,
        yaw=np.array([face.yaw for face in faces]),
        truth=np.stack([face.landmarks[:, :2] for face in faces]),
        visible=np.ones(seen.landmarks.shape[:2], bool),
        answers=seen.landmarks[..., :2].astype(np.float64),
        accuracy=accuracy_of(faces, predicted, flat, seen.landmarks, seen.params, label_yaw),
        zero_coefficients=flat,
        fit_floor=floor,
        looks={look: nme_of(landmarks, faces) for look, landmarks in seen.looks.items()},
    )


def study_points(
    predict: Predict,
    size: int,
    face_model: FaceModel,
    faces: Sequence[PointFace],
    scheme: Scheme,
    detector: FaceDetector | None = None,
    *,
    progress: bool = True,
) -> Study:
    """Accuracy over the visible points (see `point_norm`); a face without any is left out.

    Args:
        predict: Crops to params.
        size: Side of the crops.
        face_model: Of the params.
        faces: Photographs labelled with points alone.
        scheme: What their points are.
        detector: Looks at its regions too, and at those of the first pass.
        progress: Show a bar.

    Raises:
        InvalidInputError: No face is left.
    """
    kept = [face for face in faces if face.visible.any()]
    if not kept:
        raise InvalidInputError("Expected faces with visible points, got none; check the set's labels.")
    rois = [face.roi for face in kept]
    seen = view_faces(predict, size, face_model, kept, rois, detector, progress=progress)
    truth, visible = np.stack([face.points for face in kept]), np.stack([face.visible for face in kept])
    sizes = np.array([point_norm(face) for face in kept])

    def points_of(landmarks: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(scheme.mixing.astype(np.float64) @ landmarks[..., :2])  # (F, K, 2)

    def errors_of(landmarks: NDArray[np.float32]) -> Errors:
        return nme_visible(points_of(landmarks), truth, visible, sizes)

    errors, flat = errors_of(seen.landmarks), errors_of(seen.flat)
    yaw = np.array([np.nan if face.yaw is None else face.yaw for face in kept])
    names = unique_names([face.image_path.stem for face in kept])
    accuracy = Accuracy(
        nme=bins_or_mean(errors, yaw),
        zero_coefficients=bins_or_mean(flat, yaw),
        per_image=dict(zip(names, errors.tolist(), strict=True)),
        faces=len(kept),
        points=len(scheme.mixing),
        ced=ced(errors),
        errors=errors,
    )
    return Study(
        names=names,
        faces=kept,
        rois=rois,
        yaw=yaw,
        truth=truth,
        visible=visible,
        answers=points_of(seen.landmarks),
        accuracy=accuracy,
        zero_coefficients=flat,
        looks={look: errors_of(landmarks) for look, landmarks in seen.looks.items()},
    )


def point_norm(face: PointFace) -> float:
    """Image pixels that a face's errors are divided by: what its set says, else sqrt(w * h) of its known points' box.

    Raises:
        InvalidInputError: That box has no area.
    """
    if face.length is not None:
        return face.length
    area = float(np.ptp(face.points[face.visible], axis=0).prod())
    if not area > 0:
        raise InvalidInputError(
            f"{face.image_path}: expected known points whose box has an area, got a flat one; label more points."
        )
    return float(np.sqrt(area))


def unique_names(names: Sequence[str]) -> list[str]:
    """The names; the second of one kind gets #2 after it, and so on."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result


def worst_tiles(study: Study, count: int = WORST) -> list[Tile]:
    """The faces with the largest errors in the labels' regions, worst first."""
    tiles = []
    for number in np.argsort(-study.accuracy.errors, kind="stable")[:count]:
        angle = "" if np.isnan(study.yaw[number]) else f", yaw {study.yaw[number]:.0f}"
        chosen = study.visible[number]
        tiles.append(
            Tile(
                image_path=study.faces[number].image_path,
                roi=study.rois[number],
                truth=study.truth[number][chosen],
                answer=study.answers[number][chosen],
                caption=f"{study.names[number]}: {study.accuracy.errors[number]:.2f} %{angle}",
            )
        )
    return tiles
