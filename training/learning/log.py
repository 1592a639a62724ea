"""A run's figures: `metrics.jsonl`, TensorBoard's events, and what made the run (`run.json`)."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.files import write_atomically
from training.evaluation.accuracy import Accuracy
from training.learning.mixture import StepLosses

RECORD_NAME = "run.json"


class MetricsLog:
    """`metrics.jsonl`, and TensorBoard's events where it is installed."""

    def __init__(self, folder: Path, step: int, *, tensorboard: bool) -> None:
        """Open for a run that stands at `step`; lines of a lost future, after a crash, are dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # a full disk leaves half of the last one
        write_atomically(self.path, "".join(line for line in whole if json.loads(line)["step"] <= step))
        self.board = summary_writer(folder) if tensorboard else None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)


class NoLog(contextlib.nullcontext[None]):
    """Takes figures and keeps none."""

    def __enter__(self) -> NoLog:  # type: ignore[override]
        return self

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Nothing."""


def summary_writer(folder: Path) -> Any:
    """TensorBoard's writer of events, None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)


def source_revision() -> str | None:
    """The commit that the code is at, "-dirty" after it where files differ; None outside a git repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def loss_figures(losses: StepLosses, rate: float, throughput: float) -> dict[str, float]:
    """One log line of the training loss."""
    terms = {name: float(term) for name, term in {"total": losses.total, **losses.terms}.items()}
    return {**terms, "learning_rate": rate, "images_per_second": throughput}


def accuracy_figures(prefix: str, accuracy: Accuracy) -> dict[str, float]:
    """One log line of an evaluation; a bin without faces is left out."""
    cells: dict[str, float | None] = {
        "nme": accuracy.nme.mean,
        "nme_zero_coefficients": accuracy.zero_coefficients.mean,
        **{f"nme_bin{number}": value for number, value in enumerate(accuracy.nme.bins)},
    }
    return {f"{prefix}_{name}": value for name, value in cells.items() if value is not None}
