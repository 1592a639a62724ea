"""How near a network's or an engine's answers come to labels: errors of faces, and their figures.

Regions come from the ground-truth landmarks' box (`Roi.from_landmarks`), one crop per face, no averaging. Real labels
are Matlab's 1-based pixels; both sides are compared in this project's 0-based ones, which is the same as adding 1 to
ours. Yaw is the labels' fitted pose. NME is in percent, pose in degrees (`training.evaluation.metrics`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.face_model import POSE_SIZE, FaceModel
from runtime.pose import decompose, euler_to_rotation, rotation_to_euler
from runtime.roi import Roi
from training.crops import aligned_crops
from training.data.aflw2000 import AnnotatedFace
from training.data.landmarks import AFLW_21
from training.data.samples import Samples
from training.decoder import Decoder
from training.evaluation.metrics import Ced, PoseError, YawBins, by_yaw, ced, nme, nme_3d, nme_visible, pose_error
from training.evaluation.predictors import Predict
from training.evaluation.reading import BATCH


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Errors of one set of faces: NME in percent, angles in degrees; None for what the labels don't say."""

    nme: YawBins
    zero_coefficients: YawBins
    """The same with all shape and expression coefficients set to 0: what the predicted form is worth."""
    per_image: Mapping[str, float] = field(default_factory=dict)
    faces: int
    points: int = 68
    """Of how many points the labels are."""
    nme_3d: YawBins | None = None
    nme_21: YawBins | None = None
    """Of those of AFLW's 21 points that 68 landmarks can say."""
    by_label: YawBins | None = None
    """NME binned by other yaws than the fitted pose's."""
    by_label_3d: YawBins | None = None
    """NME 3D binned by them."""
    pose: PoseError | None = None
    ced: Ced | None = None
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)
    """NME of each face (F,)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as `--json` writes them."""
        result = {
            f"nme_2d_{self.points}": {**dataclasses.asdict(self.nme), "per_image": dict(self.per_image)},
            "zero_coefficients": dataclasses.asdict(self.zero_coefficients),
            "faces": self.faces,
        }
        if self.ced is not None:
            result["ced"] = dataclasses.asdict(self.ced)
        further = {"nme_3d_68": self.nme_3d, "nme_2d_21": self.nme_21, "nme_2d_68_by_label": self.by_label}
        further["nme_3d_68_by_label"] = self.by_label_3d
        result |= {name: dataclasses.asdict(bins) for name, bins in further.items() if bins is not None}
        if self.pose is not None:
            result["pose"] = {**dataclasses.asdict(self.pose), "mae": self.pose.mae}
        return result


def evaluate_synthetic(predict: Predict, size: int, face_model: FaceModel, samples: Samples) -> Accuracy:
    """Accuracy on rendered faces, cropped at their true landmarks' regions."""
    decoder = Decoder(face_model)
    answers, labels = [], []
    for start in range(0, len(samples), BATCH):
        images, params = samples.batch(np.arange(start, min(start + BATCH, len(samples))))
        crops, truth = aligned_crops(images, params, decoder, size)
        answers.append(predict(crops.contiguous().numpy()))
        labels.append(truth.numpy())
    predicted, true_params = np.concatenate(answers), np.concatenate(labels)
    truth_points, points = face_model.landmarks(true_params), face_model.landmarks(predicted)
    rotations = rotations_of(true_params)
    angles = np.array([rotation_to_euler(rotation) for rotation in rotations])
    errors, yaw = nme(points, truth_points), angles[:, 0]
    return Accuracy(
        nme=by_yaw(errors, yaw),
        zero_coefficients=by_yaw(nme(face_model.landmarks(without_form(predicted)), truth_points), yaw),
        faces=len(samples),
        nme_3d=by_yaw(nme_3d(points, truth_points), yaw),
        pose=pose_error(rotations_of(predicted), rotations, angles),
        ced=ced(errors),
        errors=errors,
    )


def accuracy_of(
    faces: Sequence[AnnotatedFace],
    errors: NDArray[np.float64],
    flat: NDArray[np.float64],
    landmarks: NDArray[np.float32],
    params: NDArray[np.float32],
    label_yaw: NDArray[np.float64] | None = None,
) -> Accuracy:
    """Accuracy from each face's error (F,), as predicted and with the coefficients at 0, landmarks and params."""
    angles = np.array([(face.yaw, face.pitch, face.roll) for face in faces])
    truth = np.stack([face.landmarks for face in faces])
    rotations = np.stack([euler_to_rotation(*row) for row in angles])
    yaw, depth = angles[:, 0], nme_3d(landmarks, truth)
    return Accuracy(
        nme=by_yaw(errors, yaw),
        zero_coefficients=by_yaw(flat, yaw),
        per_image={face.stem: float(error) for face, error in zip(faces, errors, strict=True)},
        faces=len(faces),
        nme_3d=by_yaw(depth, yaw),
        nme_21=by_yaw(nme_21(landmarks, truth), yaw),
        by_label=None if label_yaw is None else by_yaw(errors, label_yaw),
        by_label_3d=None if label_yaw is None else by_yaw(depth, label_yaw),
        pose=pose_error(rotations_of(params), rotations, angles),
        ced=ced(errors),
        errors=errors,
    )


def nme_21(landmarks: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """NME in percent (F,) of AFLW's 21 points made of 68 landmarks (F, 68, 3), all of them, over the 68 points' box."""
    mixing = AFLW_21.mixing.astype(np.float64)  # (21, 68)
    ours, theirs = mixing @ landmarks[..., :2], mixing @ truth[..., :2]
    size = np.sqrt(np.ptp(truth[..., :2], axis=1).prod(axis=1))
    return nme_visible(ours, theirs, np.ones(ours.shape[:2], bool), size)


def place(face_model: FaceModel, params: NDArray[np.float32], rois: Sequence[Roi], size: int) -> NDArray[np.float32]:
    """Landmarks (F, 68, 3) in the images' pixels."""
    return np.stack([roi.to_image(face_model.landmarks(row), size) for roi, row in zip(rois, params, strict=True)])


def nme_of(landmarks: NDArray[np.floating], faces: Sequence[AnnotatedFace]) -> NDArray[np.float64]:
    """NME (F,) in percent of landmarks (F, 68, 3) in the images' pixels."""
    return nme(landmarks, np.stack([face.landmarks for face in faces]))


def without_form(params: NDArray[np.float32]) -> NDArray[np.float32]:
    """The parameters (..., 62) with all shape and expression coefficients 0: the mean face in the predicted pose."""
    result = params.copy()
    result[..., POSE_SIZE:] = 0.0
    return result


def rotations_of(params: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rotation matrices (F, 3, 3) of parameters (F, 62)."""
    return np.stack([decompose(row[:POSE_SIZE].reshape(3, 4))[1] for row in params])


def yaw_of(params: NDArray[np.float32]) -> float:
    """Yaw in degrees of one face's parameters (62,)."""
    _, rotation, _ = decompose(params[:POSE_SIZE].reshape(3, 4))
    return rotation_to_euler(rotation)[0]
