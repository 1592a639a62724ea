"""Accuracy of a checkpoint or an engine: NME over 68 landmarks by bins of |yaw| (CLN, BMVC 2022 suppl., "Protocol").

Regions come from the ground-truth landmarks' box (`Roi.from_landmarks`), one crop per face, no averaging. Real labels
are Matlab's 1-based pixels; both sides are compared in this project's 0-based ones, which is the same as adding 1 to
ours. Yaw is the labels' fitted pose.

    python -m training.evaluate MODEL --data aflw2000:DIR --json OUT
    python -m training.evaluate MODEL --data aflw2000:DIR --data synthetic:2000 --table OUT.md [--onnx FILE.onnx]

`--json` holds the first data set's figures at its top, each further one's under its name. `--table` adds, for
photographs, the face model's fit floor, the built-in detector's regions and a second pass, and is in the JSON too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.detection import BlazeFaceDetector, FaceDetector, roi_from_detection
from runtime.errors import ClnError, FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import POSE_SIZE, FaceModel, load_face_model
from runtime.files import sha256, write_atomically
from runtime.image import read_image
from runtime.pose import decompose, rotation_to_euler
from runtime.roi import Roi, crop
from training.augment import aligned_crops
from training.checkpoint import load_checkpoint
from training.data.aflw2000 import AnnotatedFace, load_aflw2000
from training.data.samples import HELD_OUT_SEED, Samples, SyntheticSamples, image_size, parse_synthetic
from training.decoder import Decoder
from training.fitting import fit_params
from training.metrics import YawBins, by_yaw, nme
from training.model import CLN, reparameterize
from training.report import Row, markdown, model_rows, nme_row, ratio

logger = logging.getLogger(__name__)

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Crops uint8 (B, S, S, 3) -> params float32 (B, 62)."""
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """NME in percent."""

    nme: YawBins
    zero_coefficients: YawBins
    """The same with all shape and expression coefficients set to 0: what the predicted form is worth."""
    per_image: Mapping[str, float] = field(default_factory=dict)
    faces: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as `--json` writes them."""
        return {
            "nme_2d_68": {**dataclasses.asdict(self.nme), "per_image": dict(self.per_image)},
            "zero_coefficients": dataclasses.asdict(self.zero_coefficients),
            "faces": self.faces,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Photographs looked at from more sides: errors (F,) in percent, NaN for a face that the detector missed."""

    faces: Sequence[AnnotatedFace]
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
        return accuracy_of(self.faces, self.predicted, self.zero_coefficients)

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


def torch_predictor(model: CLN) -> Predict:
    """A predictor from a network, which must be in eval mode; it runs where the network is."""
    device = model.whitening_mean.device

    def predict(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(torch.from_numpy(crops).to(device)).cpu().numpy()

    return predict


def load_predictor(path: str | os.PathLike[str], face_model: FaceModel) -> tuple[Predict, int]:
    """A predictor and its crop size, from a checkpoint (.pth, evaluated fused) or an engine (.onnx, .engine).

    Raises:
        FileFormatError: The file is corrupt or foreign.
        MismatchError: It was made for another face model.
        EngineUnavailableError: The engine's library or device is missing.
    """
    if is_checkpoint(path):
        model = reparameterize(load_checkpoint(path, face_model).model())
        return torch_predictor(model), model.config.input_size
    from runtime.engines import load_engine

    engine = load_engine(path)
    if engine.manifest.face_model_sha256 != face_model.sha256:
        raise MismatchError(
            f"{os.fspath(path)}: expected the face model with sha256 {engine.manifest.face_model_sha256[:12]}, "
            f"got '{face_model.name}' ({face_model.sha256[:12]}); load the model the engine was built for."
        )
    return engine, engine.manifest.input_size


def finite(predict: Predict, name: str) -> Predict:
    """The same predictor; it raises a FileFormatError that names the file when it gives NaN or infinity."""

    def checked(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        params = predict(crops)
        if not np.isfinite(params).all():
            raise FileFormatError(f"{name}: expected finite parameters, got NaN or infinity; train or export it anew.")
        return params

    return checked


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name is a checkpoint's; otherwise it is an engine's."""
    return Path(path).suffix in (".pth", ".pt")


def evaluate_real(
    predict: Predict, size: int, face_model: FaceModel, faces: Sequence[AnnotatedFace], *, progress: bool = True
) -> Accuracy:
    """Accuracy on annotated photographs."""
    rois = [Roi.from_landmarks(face.landmarks) for face in faces]
    params = predict_faces(predict, size, faces, rois, progress=progress)
    errors, flat = (nme_of(place(face_model, form, rois, size), faces) for form in (params, without_form(params)))
    return accuracy_of(faces, errors, flat)


def study_photographs(
    predict: Predict, size: int, face_model: FaceModel, faces: Sequence[AnnotatedFace], detector: FaceDetector
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
        predicted=nme_of(landmarks, faces),
        zero_coefficients=nme_of(place(face_model, without_form(params), rois, size), faces),
        fit_floor=nme_of(face_model.landmarks(np.stack(fits)), faces),
        detector=by_detector,
        second_pass=run(faces, [Roi.from_landmarks(points) for points in landmarks]),
    )


def predict_faces(
    predict: Predict, size: int, faces: Sequence[AnnotatedFace], rois: Sequence[Roi], *, progress: bool = True
) -> NDArray[np.float32]:
    """Parameters (F, 62), each in the frame of its region's crop."""
    rows = []
    with tqdm(total=len(faces), unit="face", desc="evaluating", disable=None if progress else True) as bar:
        for start in range(0, len(faces), _BATCH):
            pairs = list(zip(faces, rois, strict=True))[start : start + _BATCH]
            rows.append(predict(np.stack([crop(read_image(face.image_path), [roi], size)[0] for face, roi in pairs])))
            bar.update(len(pairs))
    return np.concatenate(rows)


def place(face_model: FaceModel, params: NDArray[np.float32], rois: Sequence[Roi], size: int) -> NDArray[np.float32]:
    """Landmarks (F, 68, 3) in the images' pixels."""
    return np.stack([roi.to_image(face_model.landmarks(row), size) for roi, row in zip(rois, params, strict=True)])


def nme_of(landmarks: NDArray[np.floating], faces: Sequence[AnnotatedFace]) -> NDArray[np.float64]:
    """NME (F,) in percent of landmarks (F, 68, 3) in the images' pixels."""
    return nme(landmarks, np.stack([face.landmarks for face in faces]))


def accuracy_of(faces: Sequence[AnnotatedFace], errors: NDArray[np.float64], flat: NDArray[np.float64]) -> Accuracy:
    """Accuracy from each face's error (F,), as predicted and with the coefficients at 0."""
    yaw = [face.yaw for face in faces]
    names = {face.stem: float(error) for face, error in zip(faces, errors, strict=True)}
    return Accuracy(nme=by_yaw(errors, yaw), zero_coefficients=by_yaw(flat, yaw), per_image=names, faces=len(faces))


def detected_roi(detector: FaceDetector, face: AnnotatedFace) -> Roi | None:
    """The region of the detection nearest to the true one; None if none has its centre within half the true side."""
    truth = Roi.from_landmarks(face.landmarks)

    def distance(roi: Roi) -> float:
        return float(np.hypot(roi.center_x - truth.center_x, roi.center_y - truth.center_y))

    rois = [roi_from_detection(detection) for detection in detector.detect(read_image(face.image_path))]
    nearest = min(rois, key=distance, default=None)
    return nearest if nearest is not None and distance(nearest) < truth.side / 2 else None


def evaluate_synthetic(predict: Predict, size: int, face_model: FaceModel, samples: Samples) -> Accuracy:
    """Accuracy on rendered faces, cropped at their true landmarks' regions."""
    decoder = Decoder(face_model)
    errors, flat, yaw = [], [], []
    for start in range(0, len(samples), _BATCH):
        images, labels = samples.batch(np.arange(start, min(start + _BATCH, len(samples))))
        crops, truth = aligned_crops(images, labels, decoder, size)
        params = predict(crops.contiguous().numpy())
        points = face_model.landmarks(truth.numpy())
        errors.append(nme(face_model.landmarks(params), points))
        flat.append(nme(face_model.landmarks(without_form(params)), points))
        yaw += [yaw_of(row) for row in truth.numpy()]
    return Accuracy(
        nme=by_yaw(np.concatenate(errors), yaw), zero_coefficients=by_yaw(np.concatenate(flat), yaw), faces=len(samples)
    )


def without_form(params: NDArray[np.float32]) -> NDArray[np.float32]:
    """The parameters (..., 62) with all shape and expression coefficients 0: the mean face in the predicted pose."""
    result = params.copy()
    result[..., POSE_SIZE:] = 0.0
    return result


def yaw_of(params: NDArray[np.float32]) -> float:
    """Yaw in degrees of one face's parameters (62,)."""
    _, rotation, _ = decompose(params[:POSE_SIZE].reshape(3, 4))
    return rotation_to_euler(rotation)[0]


def evaluate_data(predict: Predict, size: int, face_model: FaceModel, data: str) -> Accuracy:
    """Accuracy on `aflw2000:DIR` or `synthetic:N[:CACHE]` (held-out samples).

    Raises:
        InvalidInputError: The data's name is neither.
    """
    if is_real(data):
        return evaluate_real(predict, size, face_model, load_aflw2000(data.partition(":")[2]))
    count, directory = parse_synthetic(data)
    samples = SyntheticSamples(count, directory, size=image_size(size), seed=HELD_OUT_SEED)
    samples.fill()
    return evaluate_synthetic(predict, size, face_model, samples)


def is_real(data: str) -> bool:
    """Whether `data` names photographs; otherwise it names rendered faces.

    Raises:
        InvalidInputError: It names neither.
    """
    kind, _, rest = data.partition(":")
    if kind not in ("aflw2000", "synthetic") or not rest:
        raise InvalidInputError(f"Expected aflw2000:DIR or synthetic:N[:CACHE] for --data, got '{data}'.")
    return kind == "aflw2000"


def data_name(data: str) -> str:
    """What a report calls a data set: no path in it, so that it reads the same on every machine."""
    if is_real(data):
        return f"aflw2000:{Path(data.partition(':')[2]).resolve().name}"
    return f"synthetic:{parse_synthetic(data)[0]}"


def tabulate(predict: Predict, size: int, face_model: FaceModel, data: str) -> tuple[Accuracy | Study, list[Row]]:
    """What the table says of one data set."""
    if not is_real(data):
        accuracy = evaluate_data(predict, size, face_model, data)
        return accuracy, accuracy_rows(data_name(data), f"NME, {accuracy.faces} held-out rendered faces", accuracy)
    faces = load_aflw2000(data.partition(":")[2])
    study = study_photographs(predict, size, face_model, faces, BlazeFaceDetector())
    return study, study_rows(data_name(data), study, face_model.num_params - POSE_SIZE)


def accuracy_rows(name: str, what: str, accuracy: Accuracy) -> list[Row]:
    """Rows of any data set."""
    nme, flat = accuracy.nme, accuracy.zero_coefficients
    return [
        nme_row(name, what, nme),
        nme_row(name, "NME with all coefficients set to zero", flat),
        Row(data=name, what="NME with zero coefficients / NME", value=ratio(flat.mean, nme.mean), unit=""),
    ]


def study_rows(name: str, study: Study, coefficients: int) -> list[Row]:
    """Rows of photographs."""
    found = study.found
    detector, same = study.by_yaw(study.detector, found), study.by_yaw(study.predicted, found)
    count = f"{found.sum()} of {len(found)} faces found"
    return [
        nme_row(name, f"fit floor, pose and {coefficients} coefficients", study.by_yaw(study.fit_floor)),
        *accuracy_rows(name, f"NME, {len(found)} photographs", study.accuracy),
        nme_row(name, f"NME, regions from the face detector ({count})", detector),
        Row(
            data=name,
            what="the same / NME with ground-truth regions, faces found",
            value=ratio(detector.mean, same.mean),
            unit="",
        ),
        nme_row(name, "NME, second pass on the first one's landmarks", study.by_yaw(study.second_pass)),
    ]


def describe(accuracy: Accuracy) -> str:
    """One line for people."""
    cells = ["-" if value is None else f"{value:.3f}" for value in (*accuracy.nme.bins, accuracy.nme.mean)]
    flat = "-" if accuracy.zero_coefficients.mean is None else f"{accuracy.zero_coefficients.mean:.3f}"
    return (
        f"NME % [0,30] {cells[0]}  (30,60] {cells[1]}  (60,90] {cells[2]}  mean {cells[3]}  "
        f"(zero coefficients {flat}; {accuracy.faces} faces)"
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="checkpoint (.pth) or engine (.onnx, .engine)")
    data_help = "aflw2000:DIR or synthetic:N[:CACHE]; may be given several times"
    parser.add_argument("--data", required=True, action="append", help=data_help)
    parser.add_argument("--face-model", help="the face model it was trained for (default: the bundled one)")
    parser.add_argument("--json", help="write the report to this file")
    parser.add_argument("--table", help="write a Markdown table to this file, with more figures (takes longer)")
    parser.add_argument("--onnx", help="the checkpoint's .onnx, to time for --table (default: MODEL if it is one)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> list[Accuracy]:
    """Evaluate and write what was asked for; accuracies in the data's order."""
    names = [data_name(data) for data in options.data]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"Expected data sets of different names, got {', '.join(names)}; rename a folder.")
    face_model = load_face_model(options.face_model)
    answer, size = load_predictor(options.model, face_model)
    predict = finite(answer, options.model)
    if options.table:
        onnx = timed_file(options.model, options.onnx)
        parts, rows = zip(*(tabulate(predict, size, face_model, data) for data in options.data), strict=True)
        table = [*(row for group in rows for row in group), *model_rows(options.model, onnx)]
        images = {name: part.per_image() for name, part in zip(names, parts, strict=True) if isinstance(part, Study)}
        write_atomically(options.table, markdown(f"Accuracy of {Path(options.model).name}", table, images))
    else:
        parts, table = [evaluate_data(predict, size, face_model, data) for data in options.data], []
    if options.json:
        content = {
            **parts[0].to_dict(),
            **{name: part.to_dict() for name, part in zip(names[1:], parts[1:], strict=True)},
        }
        if table:
            content["table"] = [dataclasses.asdict(row) for row in table]
        write_atomically(options.json, json.dumps(content, indent=2) + "\n")
    return [part.accuracy if isinstance(part, Study) else part for part in parts]


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
        accuracies = run(options)
    except (ClnError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    for data, accuracy in zip(options.data, accuracies, strict=True):
        print(f"{data_name(data)}: {describe(accuracy)}" if len(accuracies) > 1 else describe(accuracy))
    if options.table:
        print(f"wrote {options.table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
