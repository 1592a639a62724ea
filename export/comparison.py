"""How far a step of the export departs from the trained network in eval mode, and how far it may.

Landmarks in crop pixels, parameters, and NME where faces have labels, in percentage points (the mean over the faces).
Faces are what counts: synthetic renders and the caller's own crops are gated. Noise has no face in it and drives
landmarks anywhere, so there the outputs need only be finite.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.console import report_step
from export.errors import ParityError
from export.faces import ParityCrops
from runtime.face_model import FaceModel
from runtime.manifest import INPUT, OUTPUT, Parity

if TYPE_CHECKING:
    from training.model import CLN

BATCH = 32  # crops at a time: all at once would need gigabytes
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a step may depart by, on faces: landmarks in pixels; NME in percentage points, where there are labels."""

    max_px: float = float("inf")
    p99_px: float = float("inf")
    delta_nme: float = float("inf")


FLOAT32_GATE = Gate(max_px=1e-3)
HALF_GATE = Gate(p99_px=0.15, delta_nme=0.01)
PLAN_FLOAT32_GATE = Gate(max_px=1e-2)  # the GPU sums in another order


class Comparison:
    """Compares steps with the network in eval mode; keeps its answers."""

    def __init__(self, model: CLN, crops: ParityCrops, face_model: FaceModel) -> None:
        """Runs `model`, in eval mode, on `crops`. Raises `ParityError` where it gives NaN or infinity."""
        self.crops, self._face_model = crops, face_model
        run = torch_run(model)
        self._params, noise = run(crops.gated), run(crops.noise)
        if not np.isfinite(self._params).all() or not np.isfinite(noise).all():
            raise ParityError("network: expected finite parameters in eval mode, got NaN or infinity; train it again")
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

    def jitter(self, run: Run, frames: NDArray[np.uint8]) -> float:
        """Mean length, in pixels, of the landmarks' second difference over time, on still faces (B, T, S, S, 3)."""
        from training.evaluation.metrics import second_difference

        points = self._landmarks(run(frames.reshape(-1, *frames.shape[2:])))[..., :2]
        return second_difference(points.reshape(*frames.shape[:2], -1, 2))

    def measure(self, step: str, run: Run, gate: Gate, mismatch: Callable[[], str] | None = None) -> Parity:
        """Figures of `run` on the gated crops, which are reported, too.

        Args:
            step: what `run` is, for messages.
            run: the network after this step.
            gate: what it may depart by.
            mismatch: tells where the step first departs; asked only if the gate is exceeded.

        Raises:
            ParityError: `gate` is exceeded, or the step gives NaN or infinity on any crop.
        """
        started = time.perf_counter()
        params, noise = run(self.crops.gated), run(self.crops.noise)
        if not np.isfinite(params).all() or not np.isfinite(noise).all():
            where = f"; {mismatch()}" if mismatch else ""
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
        _check(parity, gate, mismatch)
        report_step(step, parity_text(parity), started)
        return parity

    def _landmarks(self, params: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._face_model.landmarks(params).astype(np.float64)  # (B, 68, 3)

    def _nme(self, points: NDArray[np.float64]) -> float:
        from training.evaluation.metrics import nme

        return float(nme(points[: len(self._labels)], self._labels).mean())


def _check(parity: Parity, gate: Gate, mismatch: Callable[[], str] | None) -> None:
    figures = (
        ("max", parity.max_landmark_px, gate.max_px, "px"),
        ("99 %", parity.p99_landmark_px or 0.0, gate.p99_px, "px"),
        ("|ΔNME|", abs(parity.delta_nme or 0.0), gate.delta_nme, "%"),
    )
    if any(value > limit for _, value, limit, _ in figures):
        limits = [f"{name} < {limit:g} {unit}" for name, _, limit, unit in figures if limit < float("inf")]
        where = f"; {mismatch()}" if mismatch else ""
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


def in_batches(run: Run, batch: int = BATCH) -> Run:
    """The same function, called with at most `batch` crops at a time."""

    def batched(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([run(crops[start : start + batch]) for start in range(0, len(crops), batch)])

    return batched
