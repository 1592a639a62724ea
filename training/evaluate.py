"""Accuracy of a checkpoint or an engine: NME over 68 landmarks by bins of |yaw| (CLN, BMVC 2022 suppl., "Protocol").

Regions come from the ground-truth landmarks' box (`Roi.from_landmarks`), one crop per face, no averaging. Real labels
are Matlab's 1-based pixels; both sides are compared in this project's 0-based ones, which is the same as adding 1 to
ours. Yaw is the labels' fitted pose. `python -m training.evaluate MODEL --data aflw2000:DIR --json OUT`.
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

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.errors import ClnError, InvalidInputError, MismatchError
from runtime.face_model import POSE_SIZE, FaceModel, load_face_model
from runtime.files import write_atomically
from runtime.image import read_image
from runtime.pose import decompose, rotation_to_euler
from runtime.roi import Roi, crop
from training.augment import aligned_crops
from training.checkpoint import load_checkpoint
from training.data.aflw2000 import AnnotatedFace, load_aflw2000
from training.data.samples import HELD_OUT_SEED, Samples, SyntheticSamples, image_size, parse_synthetic
from training.decoder import Decoder
from training.metrics import YawBins, by_yaw, nme
from training.model import CLN, reparameterize

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

    def to_json(self) -> str:
        """The report that `--json` writes."""
        report = {
            "nme_2d_68": {**dataclasses.asdict(self.nme), "per_image": dict(self.per_image)},
            "zero_coefficients": dataclasses.asdict(self.zero_coefficients),
            "faces": self.faces,
        }
        return json.dumps(report, indent=2) + "\n"


def torch_predictor(model: CLN) -> Predict:
    """A predictor from a network, which must be in eval mode."""

    def predict(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(torch.from_numpy(crops)).numpy()

    return predict


def load_predictor(path: str | os.PathLike[str], face_model: FaceModel) -> tuple[Predict, int]:
    """A predictor and its crop size, from a checkpoint (.pth, evaluated fused) or an engine (.onnx, .engine).

    Raises:
        FileFormatError: The file is corrupt or foreign.
        MismatchError: It was made for another face model.
        EngineUnavailableError: The engine's library or device is missing.
    """
    if Path(path).suffix in (".pth", ".pt"):
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


def evaluate_real(
    predict: Predict, size: int, face_model: FaceModel, faces: Sequence[AnnotatedFace], *, progress: bool = True
) -> Accuracy:
    """Accuracy on annotated photographs."""
    results: list[NDArray[np.float64]] = []
    bar = tqdm(total=len(faces), unit="face", desc="evaluating", disable=None if progress else True)
    for start in range(0, len(faces), _BATCH):
        group = faces[start : start + _BATCH]
        rois = [Roi.from_landmarks(face.landmarks) for face in group]
        crops = [crop(read_image(face.image_path), [roi], size)[0] for face, roi in zip(group, rois, strict=True)]
        params = predict(np.stack(crops))
        for face, roi, row in zip(group, rois, params, strict=True):
            points = [roi.to_image(face_model.landmarks(form), size) for form in (row, without_form(row))]
            results.append(nme(np.stack(points), np.stack([face.landmarks, face.landmarks])))
        bar.update(len(group))
    bar.close()
    errors, flat = np.stack(results).T
    yaw = [face.yaw for face in faces]
    names = {face.stem: float(error) for face, error in zip(faces, errors, strict=True)}
    return Accuracy(nme=by_yaw(errors, yaw), zero_coefficients=by_yaw(flat, yaw), per_image=names, faces=len(faces))


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
    kind, _, folder = data.partition(":")
    if kind == "aflw2000" and folder:
        return evaluate_real(predict, size, face_model, load_aflw2000(folder))
    if kind == "synthetic":
        count, directory = parse_synthetic(data)
        samples = SyntheticSamples(count, directory, size=image_size(size), seed=HELD_OUT_SEED)
        samples.fill()
        return evaluate_synthetic(predict, size, face_model, samples)
    raise InvalidInputError(f"Expected aflw2000:DIR or synthetic:N[:CACHE] for --data, got '{data}'.")


def describe(accuracy: Accuracy) -> str:
    """One line for people."""
    cells = ["-" if value is None else f"{value:.3f}" for value in (*accuracy.nme.bins, accuracy.nme.mean)]
    flat = "-" if accuracy.zero_coefficients.mean is None else f"{accuracy.zero_coefficients.mean:.3f}"
    return (
        f"NME % [0,30] {cells[0]}  (30,60] {cells[1]}  (60,90] {cells[2]}  mean {cells[3]}  "
        f"(zero coefficients {flat}; {accuracy.faces} faces)"
    )


def main(arguments: list[str] | None = None) -> int:
    """Evaluate from the command line; 0, or 2 after an error's one line."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="checkpoint (.pth) or engine (.onnx, .engine)")
    parser.add_argument("--data", required=True, help="aflw2000:DIR or synthetic:N[:CACHE]")
    parser.add_argument("--face-model", help="the face model it was trained for (default: the bundled one)")
    parser.add_argument("--json", help="write the report to this file")
    options = parser.parse_args(arguments)
    try:
        face_model = load_face_model(options.face_model)
        predict, size = load_predictor(options.model, face_model)
        accuracy = evaluate_data(predict, size, face_model, options.data)
        if options.json:
            write_atomically(options.json, accuracy.to_json())
    except (ClnError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(accuracy))
    return 0


if __name__ == "__main__":
    sys.exit(main())
