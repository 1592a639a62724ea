"""What is evaluated: a checkpoint or an engine as a function from crops to params."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.errors import FileFormatError, MismatchError
from runtime.face_model import FaceModel
from training.checkpoint import load_checkpoint
from training.model import CLN, reparameterize

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Crops uint8 (B, S, S, 3) -> params float32 (B, 62)."""
ENGINE_SUFFIXES = (".onnx", ".engine")


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
        FileNotFoundError: There is no such file.
        FileFormatError: The file is corrupt or foreign.
        MismatchError: It was made for another face model.
        EngineUnavailableError: The engine's library or device is missing.
    """
    if not is_checkpoint(path) and Path(path).suffix not in ENGINE_SUFFIXES:
        raise FileFormatError(
            f"{os.fspath(path)}: expected a checkpoint (.pth) or an engine ({', '.join(ENGINE_SUFFIXES)}), got "
            f"'{Path(path).suffix}'; name the file that training or export wrote."
        )
    if not Path(path).is_file():
        what = "a checkpoint" if is_checkpoint(path) else "an engine file"
        raise FileNotFoundError(f"{os.fspath(path)}: expected {what}, found none; check the path.")
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
            raise FileFormatError(f"{name}: expected finite parameters, got NaN or infinity; train or export it again.")
        return params

    return checked


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name is a checkpoint's; otherwise it is an engine's."""
    return Path(path).suffix in (".pth", ".pt")
