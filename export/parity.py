"""Parity: how far each step of the export departs from the trained network in eval mode, in crop pixels.

Faces are what counts: synthetic renders and the caller's own crops are gated. Noise has no face in it and drives
landmarks anywhere, so there the outputs need only be finite. Steps, in order:

    PyTorch eval -> reparameterized -> ONNX float32 -> float16-mixed in PyTorch -> ONNX float16-mixed (-> plan)

The float16 step is run in PyTorch as well, because ONNX Runtime's CPU kernels compute float16 graphs in float32: they
show that the graph is right, but neither rounding between layers nor overflow.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ClnError, InvalidInputError
from runtime.face_model import FaceModel
from runtime.manifest import Parity
from runtime.roi import Roi, crop

if TYPE_CHECKING:
    from training.model import CLN

FACES = 24
NOISE = 8
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class ParityError(ClnError):
    """A step of the export departs from the network more than its gate allows."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a step may depart by: landmarks on faces, crop pixels."""

    max_px: float = float("inf")
    p99_px: float = float("inf")


FLOAT32_GATE = Gate(max_px=1e-3)
HALF_GATE = Gate(p99_px=0.15)
PLAN_FLOAT32_GATE = Gate(max_px=1e-2)  # the GPU sums in another order


@dataclass(frozen=True, kw_only=True)
class ParityCrops:
    """Crops uint8 (B, S, S, 3) to compare on. Without any faces, noise is what the gates look at."""

    faces: NDArray[np.uint8]
    noise: NDArray[np.uint8]

    @property
    def gated(self) -> NDArray[np.uint8]:
        """The crops that the gates look at."""
        return self.faces if len(self.faces) else self.noise


def parity_crops(size: int, folder: Path | None = None) -> ParityCrops:
    """Synthetic faces where they can be rendered, the images in `folder`, and noise; always the same.

    Raises:
        InvalidInputError: the folder holds no images.
    """
    faces = [synthetic_faces(size), *([] if folder is None else [_folder_crops(folder, size)])]
    return ParityCrops(faces=np.concatenate(faces), noise=noise_crops(size))


def noise_crops(size: int, count: int = NOISE) -> NDArray[np.uint8]:
    """Half of them white noise, half smooth blobs of colour."""
    generator = np.random.default_rng(0)
    white = generator.integers(0, 256, (count // 2, size, size, 3), dtype=np.uint8)
    coarse = generator.integers(0, 256, (count - count // 2, 5, 5, 3), dtype=np.uint8)
    roi = Roi(center_x=2.0, center_y=2.0, side=5.0)
    return np.concatenate([white, *(crop(image, [roi], size) for image in coarse)])


def synthetic_faces(size: int, count: int = FACES) -> NDArray[np.uint8]:
    """Renders of `training.synthetic`, or none where that cannot be imported."""
    if any(importlib.util.find_spec(name) is None for name in ("numba", "training.synthetic.factory")):
        return np.empty((0, size, size, 3), dtype=np.uint8)
    from training.synthetic.factory import FaceFactory

    factory = FaceFactory(size=size, seed=20)
    return np.stack([factory.sample(index).image for index in range(count)])


def _folder_crops(folder: Path, size: int) -> NDArray[np.uint8]:
    from runtime.image import read_image

    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InvalidInputError(f"{folder}: expected a folder with face crops as images, found no image there")
    return np.concatenate([_whole(read_image(file), size) for file in files])


def _whole(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    roi = Roi(center_x=(width - 1) / 2, center_y=(height - 1) / 2, side=float(min(height, width)))
    return crop(image, [roi], size)


class Comparison:
    """Compares steps with the network in eval mode; keeps its answers."""

    def __init__(self, model: CLN, crops: ParityCrops, face_model: FaceModel) -> None:
        """Runs `model`, in eval mode, on `crops`. Raises `ParityError` where it gives NaN or infinity."""
        self._crops, self._face_model = crops, face_model
        run = torch_run(model)
        self._truth, self._noise_truth = run(crops.gated), run(crops.noise)
        if not np.isfinite(self._truth).all() or not np.isfinite(self._noise_truth).all():
            raise ParityError("network: expected finite parameters in eval mode, got NaN or infinity; train it anew")

    def measure(self, step: str, run: Run, gate: Gate) -> Parity:
        """Figures of `run` on the gated crops.

        Raises:
            ParityError: `gate` is exceeded, or the step gives NaN or infinity on any crop.
        """
        params, noise = run(self._crops.gated), run(self._crops.noise)
        if not np.isfinite(params).all() or not np.isfinite(noise).all():
            raise ParityError(f"{step}: expected finite parameters, as the network gives, got NaN or infinity")
        distances = np.linalg.norm(self._landmarks(params) - self._landmarks(self._truth), axis=2)  # (B, 68)
        parity = Parity(
            step=step,
            max_params=float(np.abs(params - self._truth).max()),
            max_landmark_px=float(distances.max()),
            crops=len(params),
            p99_landmark_px=float(np.percentile(distances, 99)),
        )
        _check(parity, gate)
        return parity

    def _landmarks(self, params: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._face_model.landmarks(params).astype(np.float64)  # (B, 68, 3)


def _check(parity: Parity, gate: Gate) -> None:
    p99 = parity.p99_landmark_px or 0.0
    if parity.max_landmark_px > gate.max_px or p99 > gate.p99_px:
        limits = [f"max < {gate.max_px:g} px"] * (gate.max_px < float("inf"))
        limits += [f"99 % < {gate.p99_px:g} px"] * (gate.p99_px < float("inf"))
        raise ParityError(
            f"{parity.step}: expected landmarks as the network's ({', '.join(limits)}), got {parity_text(parity)}"
        )


def parity_text(parity: Parity) -> str:
    """The figures for one line of output."""
    return (
        f"landmarks max {parity.max_landmark_px:.2g} px, 99 % {parity.p99_landmark_px or 0.0:.2g} px, "
        f"parameters max {parity.max_params:.2g}, over {parity.crops} crops"
    )


def torch_run(model: CLN) -> Run:
    """A torch network as a function of NumPy crops."""
    import torch

    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(crops)).numpy(), dtype=np.float32)

    return run


def onnx_run(data: bytes, name: str | os.PathLike[str]) -> Run:
    """An ONNX graph in ONNX Runtime on the CPU."""
    from runtime.engines.onnx import create_session

    session: Any = create_session(data, name=os.fspath(name), providers=["CPUExecutionProvider"])

    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(session.run(["params"], {"crops": crops})[0], dtype=np.float32)

    return run
