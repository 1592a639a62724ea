"""What an export starts from: a checkpoint, the face model it belongs to, and the manifest that all its files share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.comparison import Comparison
from export.console import Progress, report_step
from export.faces import FACES, LabelledFaces, ParityCrops, parity_crops, rendered_faces
from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel, load_face_model
from runtime.files import sha256
from runtime.manifest import Manifest

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint
    from training.model import CLN


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """A trained network in eval mode, its face model, and the manifest that its files' manifests start from."""

    model: CLN
    face_model: FaceModel
    manifest: Manifest

    def render(self, indices: range, progress: Progress[int] = iter) -> LabelledFaces:
        """Rendered faces of the network's size, by their numbers."""
        return rendered_faces(self.manifest.input_size, self.face_model, progress(indices))

    def compare(self, crops: ParityCrops) -> Comparison:
        """The network's answers on `crops`, for later steps to be compared with."""
        return Comparison(self.model, crops, self.face_model)


def load_sources(checkpoint: Path, face_model: Path | None = None, *, max_batch: int) -> Sources:
    """Loads a checkpoint and its face model (default: the bundled one); `max_batch` is for the manifest.

    Raises:
        ClnError, FileNotFoundError: a file is missing, damaged, or does not belong to the other.
    """
    started = time.perf_counter()
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint}: expected a checkpoint, found none; train or fetch one")
    from training.checkpoint import load_checkpoint

    faces = load_face_model(face_model)
    content = load_checkpoint(checkpoint, faces)
    _check_counts(content, faces)
    manifest = _base_manifest(checkpoint, max_batch, content, faces)
    report_step("checkpoint", f"{checkpoint}, {manifest.input_size} px, face model '{faces.name}'", started)
    return Sources(model=content.model(), face_model=faces, manifest=manifest)


def compare_on_faces(sources: Sources, folder: Path | None = None, progress: Progress[int] = iter) -> Comparison:
    """The network on what every step is compared on: rendered faces, those of photographs in `folder`, and noise."""
    started = time.perf_counter()
    crops = parity_crops(sources.manifest.input_size, sources.render(range(FACES), progress), folder)
    comparison = sources.compare(crops)
    counts = f"{len(crops.faces)} of faces, {len(crops.noise)} of noise"
    report_step("crops", counts if len(crops.faces) else f"{counts}: noise is gated, for want of faces", started)
    return comparison


def _base_manifest(path: Path, max_batch: int, checkpoint: Checkpoint, face_model: FaceModel) -> Manifest:
    """The manifest of an ONNX file; a plan's replaces what differs."""
    import torch

    return Manifest(
        input_size=checkpoint.config.input_size,
        shape_count=checkpoint.config.shape_count,
        expression_count=checkpoint.config.expression_count,
        face_model=face_model.name,
        face_model_sha256=face_model.sha256,
        precision="fp32",
        builder="onnx",
        builder_version=f"torch {torch.__version__}",
        batch_range=(1, max_batch),
        checkpoint_sha256=sha256(path.read_bytes()),
        figures=_figures(checkpoint.test),
    )


def _check_counts(checkpoint: Checkpoint, face_model: FaceModel) -> None:
    got = (checkpoint.config.shape_count, checkpoint.config.expression_count)
    expected = (face_model.shape_count, face_model.expression_count)
    if got != expected:
        raise InvalidInputError(
            f"checkpoint: expected {expected} shape and expression coefficients, as face model "
            f"'{face_model.name}' has, got {got}; train it with that face model"
        )


def _figures(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested mapping under joined names: {"nme": {"mean": 3.5}} -> {"nme/mean": 3.5}."""
    figures: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            figures.update(_figures(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            figures[f"{prefix}{key}"] = float(value)
    return figures
