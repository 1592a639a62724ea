"""`python -m export.parity CKPT.pth`: how far each step of the export departs from the trained network in eval mode.

Landmarks in crop pixels, parameters, and NME where faces have labels, in percentage points (the mean over the faces).

Faces are what counts: synthetic renders and the caller's own crops are gated. Noise has no face in it and drives
landmarks anywhere, so there the outputs need only be finite. Steps, in order:

    PyTorch eval -> reparameterized -> ONNX float32 -> float16-mixed in PyTorch -> ONNX float16-mixed -> INT8 (-> plan)

The float16 step is run in PyTorch as well, because ONNX Runtime's CPU kernels compute float16 graphs in float32: they
show that the graph is right, but neither rounding between layers nor overflow.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ClnError, InvalidInputError
from runtime.face_model import FaceModel, load_face_model
from runtime.manifest import INPUT, OUTPUT, Parity
from runtime.roi import Roi, crop

if TYPE_CHECKING:
    from training.model import CLN

FACES = 48
NOISE = 8
BATCH = 32  # crops at a time: all at once would need gigabytes
_SEED = 20  # of the rendered faces; training renders with others
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
LabelledFaces = tuple[NDArray[np.uint8], NDArray[np.float32]]  # crops (B, S, S, 3), true params (L, 62) of the first L


class ParityError(ClnError):
    """A step of the export departs from the network more than its gate allows."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a step may depart by, on faces: landmarks in pixels; NME in percentage points, where there are labels."""

    max_px: float = float("inf")
    p99_px: float = float("inf")
    delta_nme: float = float("inf")


FLOAT32_GATE = Gate(max_px=1e-3)
HALF_GATE = Gate(p99_px=0.15, delta_nme=0.01)
PLAN_FLOAT32_GATE = Gate(max_px=1e-2)  # the GPU sums in another order


@dataclass(frozen=True, kw_only=True)
class ParityCrops:
    """Crops uint8 (B, S, S, 3) to compare on. Without any faces, noise is what the gates look at.

    `labels` are the true params (L, 62) of the first L faces, L from 0 on.
    """

    faces: NDArray[np.uint8]
    noise: NDArray[np.uint8]
    labels: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 62), dtype=np.float32))

    @property
    def gated(self) -> NDArray[np.uint8]:
        """The crops that the gates look at."""
        return self.faces if len(self.faces) else self.noise


def parity_crops(size: int, rendered: LabelledFaces, folder: Path | None = None) -> ParityCrops:
    """Rendered faces, those of the photographs in `folder`, and noise, which is always the same.

    Raises:
        InvalidInputError: the folder holds no images.
    """
    faces, labels = rendered
    more = [] if folder is None else [_folder_crops(folder, size)]
    return ParityCrops(faces=np.concatenate([faces, *more]), noise=noise_crops(size), labels=labels)


def noise_crops(size: int, count: int = NOISE) -> NDArray[np.uint8]:
    """Half of them white noise, half smooth blobs of colour."""
    generator = np.random.default_rng(0)
    white = generator.integers(0, 256, (count // 2, size, size, 3), dtype=np.uint8)
    coarse = generator.integers(0, 256, (count - count // 2, 5, 5, 3), dtype=np.uint8)
    roi = Roi(center_x=2.0, center_y=2.0, side=5.0)
    return np.concatenate([white, *(crop(image, [roi], size) for image in coarse)])


def synthetic_faces(size: int, face_model: FaceModel, indices: range) -> LabelledFaces:
    """Renders of `training.synthetic`, or none where that cannot be imported, and their labels.

    The labels are params of the bundled face model: for another one there are none.
    """
    if any(importlib.util.find_spec(name) is None for name in ("numba", "training.synthetic.factory")):
        return np.empty((0, size, size, 3), dtype=np.uint8), np.empty((0, face_model.num_params), dtype=np.float32)
    from training.synthetic.factory import FaceFactory

    factory = FaceFactory(size=size, margin=1.0, seed=_SEED)
    samples = [factory.sample(index) for index in indices]
    known = samples if face_model.sha256 == load_face_model().sha256 else []
    labels = np.array([sample.params for sample in known], dtype=np.float32).reshape(-1, face_model.num_params)
    return np.stack([sample.image for sample in samples]), labels


def _folder_crops(folder: Path, size: int) -> NDArray[np.uint8]:
    from runtime.image import read_image
    from runtime.items import images_in

    files = images_in(folder)
    if not files:
        raise InvalidInputError(f"{folder}: expected a folder with face crops as images, found no image there")
    return np.concatenate([_faces(read_image(file), size) for file in files])


def _faces(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The faces that the runtime's detector finds, cut as the runtime cuts them, or else the whole image."""
    from runtime.detection import BlazeFaceDetector, roi_from_detection

    if found := BlazeFaceDetector().detect(image):
        return crop(image, [roi_from_detection(detection) for detection in found], size)
    height, width = image.shape[:2]
    roi = Roi(center_x=(width - 1) / 2, center_y=(height - 1) / 2, side=float(min(height, width)))
    return crop(image, [roi], size)


class Comparison:
    """Compares steps with the network in eval mode; keeps its answers."""

    def __init__(self, model: CLN, crops: ParityCrops, face_model: FaceModel) -> None:
        """Runs `model`, in eval mode, on `crops`. Raises `ParityError` where it gives NaN or infinity."""
        self.crops, self._face_model = crops, face_model
        run = torch_run(model)
        self._params, noise = run(crops.gated), run(crops.noise)
        if not np.isfinite(self._params).all() or not np.isfinite(noise).all():
            raise ParityError("network: expected finite parameters in eval mode, got NaN or infinity; train it anew")
        self._points = self._landmarks(self._params)
        self._labels = self._landmarks(crops.labels)

    def with_own_labels(self) -> Comparison:
        """The same with the network's own answers for labels, where there are none: ΔNME can only come out larger."""
        if len(self._labels):
            return self
        copied = copy.copy(self)
        copied._labels = self._points
        return copied

    @property
    def nme(self) -> float | None:
        """Of the network itself, percent; None without labels."""
        return self._nme(self._points) if len(self._labels) else None

    def landmark_px(self, run: Run) -> NDArray[np.float64]:
        """Distances (B, 68) of landmarks from the network's, on the gated crops."""
        return np.asarray(np.linalg.norm(self._landmarks(run(self.crops.gated)) - self._points, axis=2))

    def delta_nme(self, run: Run) -> float:
        """NME less the network's own, on the labelled faces."""
        return self._nme(self._landmarks(run(self.crops.gated))) - self._nme(self._points)

    def measure(self, step: str, run: Run, gate: Gate, departure: Callable[[], str] | None = None) -> Parity:
        """Figures of `run` on the gated crops.

        Args:
            step: what `run` is, for messages.
            run: the network after this step.
            gate: what it may depart by.
            departure: tells which layer departs; asked only if the gate is exceeded.

        Raises:
            ParityError: `gate` is exceeded, or the step gives NaN or infinity on any crop.
        """
        params, noise = run(self.crops.gated), run(self.crops.noise)
        if not np.isfinite(params).all() or not np.isfinite(noise).all():
            where = f"; {departure()}" if departure else ""
            raise ParityError(f"{step}: expected finite parameters, as the network gives, got NaN or infinity{where}")
        points = self._landmarks(params)
        distances = np.linalg.norm(points - self._points, axis=2)  # (B, 68)
        differences = np.abs(params - self._params)
        parity = Parity(
            step=step,
            max_params=float(differences.max()),
            mean_params=float(differences.mean()),
            max_landmark_px=float(distances.max()),
            mean_landmark_px=float(distances.mean()),
            crops=len(params),
            p99_landmark_px=float(np.percentile(distances, 99)),
            delta_nme=self._nme(points) - self._nme(self._points) if len(self._labels) else None,
        )
        _check(parity, gate, departure)
        return parity

    def _landmarks(self, params: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._face_model.landmarks(params).astype(np.float64)  # (B, 68, 3)

    def _nme(self, points: NDArray[np.float64]) -> float:
        from training.evaluation.metrics import nme

        return float(nme(points[: len(self._labels)], self._labels).mean())


def _check(parity: Parity, gate: Gate, departure: Callable[[], str] | None) -> None:
    figures = (
        ("max", parity.max_landmark_px, gate.max_px, "px"),
        ("99 %", parity.p99_landmark_px or 0.0, gate.p99_px, "px"),
        ("|ΔNME|", abs(parity.delta_nme or 0.0), gate.delta_nme, "%"),
    )
    if any(value > limit for _, value, limit, _ in figures):
        limits = [f"{name} < {limit:g} {unit}" for name, _, limit, unit in figures if limit < float("inf")]
        where = f"; {departure()}" if departure else ""
        raise ParityError(
            f"{parity.step}: expected landmarks as the network's ({', '.join(limits)}), got "
            f"{parity_text(parity)}{where}"
        )


def parity_text(parity: Parity) -> str:
    """The figures for one line of output."""
    delta = "" if parity.delta_nme is None else f"ΔNME {parity.delta_nme:+.2g} %, "
    return (
        f"landmarks max {parity.max_landmark_px:.2g} px, 99 % {parity.p99_landmark_px or 0.0:.2g} px, "
        f"mean {parity.mean_landmark_px or 0.0:.2g} px, {delta}parameters max {parity.max_params:.2g}, "
        f"mean {parity.mean_params or 0.0:.2g}, over {parity.crops} crops"
    )


def torch_run(model: CLN) -> Run:
    """A torch network as a function of NumPy crops."""
    import torch

    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(crops)).numpy(), dtype=np.float32)

    return in_batches(run)


def onnx_run(data: bytes, name: str | os.PathLike[str]) -> Run:
    """An ONNX graph in ONNX Runtime on the CPU."""
    from runtime.engines.onnx import create_session

    session: Any = create_session(data, name=os.fspath(name), providers=["CPUExecutionProvider"])

    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(session.run([OUTPUT], {INPUT: crops})[0], dtype=np.float32)

    return in_batches(run)


def in_batches(run: Run) -> Run:
    """The same function, called with at most `BATCH` crops at a time."""

    def batched(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([run(crops[start : start + BATCH]) for start in range(0, len(crops), BATCH)])

    return batched


if __name__ == "__main__":
    from export.ladder import main

    sys.exit(main())
