"""A run's folder and its state: what a resumed run goes on from, and whether it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import FaceModel
from training.checkpoint import load_plain
from training.config import TrainConfig

STATE_FORMAT = "cln.training_state"
STATE_NAME = "last.pth"
_MAY_CHANGE = ("name", "model", "steps", "augment")
"""Fields of a run's config that resuming doesn't compare; the network's own is checked apart."""


def open_run_folder(
    out: Path, config: TrainConfig, face_model: FaceModel, *, resume: bool, labels: Sequence[str] = ("params",)
) -> dict[str, Any] | None:
    """The state to resume from, or None for a new run: checked before any time is spent.

    Raises:
        FileNotFoundError: There is nothing to resume.
        FileFormatError: The state is corrupt.
        MismatchError: It belongs to another network, face model or kind of labels, or was made by another recipe.
        InvalidInputError: The face model doesn't fit the config, or a run is there that should not be resumed.
    """
    if face_model.num_params != config.model.num_params:
        raise InvalidInputError(
            f"Expected a face model with {config.model.num_params} parameters, got '{face_model.name}' with "
            f"{face_model.num_params}; change shape_count and expression_count in the config."
        )
    path = out / STATE_NAME
    if not resume:
        if path.exists():
            raise InvalidInputError(f"{path} is there already; give --resume, or another --out.")
        return None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an interrupted run's state, found none; omit --resume.")
    state = load_plain(path)
    if state.get("format") != STATE_FORMAT:
        raise FileFormatError(f"{path}: expected a training state, got {state.get('format')!r}.")
    missing = [
        name for name in ("model_config", "face_model_sha256", "model", "average", "optimizer") if name not in state
    ]
    if missing:
        raise FileFormatError(f"{path}: expected a whole training state, got one without {missing[0]}; start again.")
    if state["model_config"] != config.model.to_dict():
        raise MismatchError(f"{path} is of another network; give the --config it was started with.")
    if state["face_model_sha256"] != face_model.sha256:
        raise MismatchError(f"{path} is for another face model; give the one it was started with.")
    before, now = state.get("labels", "params"), " + ".join(labels)  # older states are of params
    if before != now:
        raise MismatchError(
            f"{path}: expected data that is labelled with {before}, as the run was started with, got {now}; give such "
            "data, or another --out with --init."
        )
    check_recipe(path, state, config)
    return state


def check_recipe(path: Path, state: Mapping[str, Any], config: TrainConfig) -> None:
    """Make sure that a run is resumed as it was started: loss, optimiser, learning rate, batch size and seed.

    The length of the schedule and the augmentation may change, as may the samples. States of older versions carry no
    recipe and are taken as they are.

    Raises:
        MismatchError: A field differs.
    """
    before, now = (flatten(values) for values in (state.get("config", {}), plain(config.to_dict())))
    changed = [
        name for name, value in before.items() if name.partition(".")[0] not in _MAY_CHANGE and value != now.get(name)
    ]
    if changed:
        differences = ", ".join(f"{name} {before[name]} (now {now.get(name)})" for name in changed)
        raise MismatchError(f"{path}: expected the recipe it was started with: {differences}; repeat its options.")


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what both JSON and a checkpoint keep."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, its keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
