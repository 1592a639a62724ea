"""Checkpoints: `torch.save` of plain types and tensors alone, loaded with `weights_only=True`: none can run code.

Fields: format version, network config, state dict (the whitening's mean and std are buffers in it), name and sha256 of
the face model, the run's config and figures, the test figures, the command line that made it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.errors import ClnError, FileFormatError, MismatchError
from runtime.face_model import FaceModel
from runtime.files import write_atomically
from training.config import CLNConfig
from training.model import CLN

FORMAT = "cln.checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network with what belongs to it."""

    config: CLNConfig
    state_dict: Mapping[str, Tensor]
    face_model_name: str
    face_model_sha256: str
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained: the run's config, steps, data, figures."""
    test: Mapping[str, Any] = field(default_factory=dict)
    """Figures on held-out data."""
    command: str = ""

    @property
    def whitening_mean(self) -> Tensor:
        """Mean of the parameters over the training samples (62,)."""
        return self.state_dict["whitening_mean"]

    @property
    def whitening_std(self) -> Tensor:
        """Their standard deviation (62,); 0 marks a constant."""
        return self.state_dict["whitening_std"]

    def model(self) -> CLN:
        """A new network with these weights, in eval mode on the CPU.

        Raises:
            FileFormatError: The weights don't fit the config.
        """
        network = CLN(self.config)
        try:
            network.load_state_dict(dict(self.state_dict))
        except RuntimeError as error:
            first = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
            raise FileFormatError(f"its weights don't fit its config: {first[:300]}") from error
        return network.eval()

    def check_face_model(self, face_model: FaceModel) -> None:
        """Make sure that the parameters mean what `face_model` takes them for.

        Raises:
            MismatchError: It was trained for another face model.
        """
        if face_model.sha256 != self.face_model_sha256:
            raise MismatchError(
                f"Expected face model '{self.face_model_name}' (sha256 {self.face_model_sha256[:12]}), got "
                f"'{face_model.name}' (sha256 {face_model.sha256[:12]}); load the model the checkpoint was trained for."
            )


def save_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a reader sees the old file or the whole new one, never a part."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": checkpoint.config.to_dict(),
        "state_dict": {name: tensor.detach().cpu() for name, tensor in checkpoint.state_dict.items()},
        "face_model": {"name": checkpoint.face_model_name, "sha256": checkpoint.face_model_sha256},
        "training": dict(checkpoint.training),
        "test": dict(checkpoint.test),
        "command": checkpoint.command,
    }
    write_atomically(path, dump(content))


def load_checkpoint(path: str | os.PathLike[str], face_model: FaceModel | None = None) -> Checkpoint:
    """Read a checkpoint; with a face model, make sure it is the one it was trained for.

    Raises:
        FileNotFoundError: There is no such file.
        FileFormatError: The file is truncated, of another format or version, or holds more than plain data.
        MismatchError: It was trained for another face model.
    """
    content = load_plain(path)
    if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(
            f"{os.fspath(path)}: expected format '{FORMAT}' version {FORMAT_VERSION}, got "
            f"'{content.get('format')}' version {content.get('format_version')}; train or convert it again."
        )
    try:
        for name in ("training", "test"):
            if not isinstance(content[name], Mapping):
                raise TypeError(f"{name} is no dictionary")
        if not isinstance(content["face_model"]["sha256"], str):
            raise TypeError("the face model's sha256 is no text")
        checkpoint = Checkpoint(
            config=CLNConfig.from_dict(content["config"]),
            state_dict=_without_prefix(content["state_dict"]),
            face_model_name=content["face_model"]["name"],
            face_model_sha256=content["face_model"]["sha256"],
            training=content["training"],
            test=content["test"],
            command=content["command"],
        )
        checkpoint.model()
    except (KeyError, TypeError, AttributeError, RuntimeError, ClnError) as error:
        raise FileFormatError(f"{os.fspath(path)}: not a whole checkpoint ({error}); train it again.") from error
    if face_model is not None:
        checkpoint.check_face_model(face_model)
    return checkpoint


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without what wrappers (DataParallel, torch.compile) put before all names."""
    names = list(state)
    for prefix in ("module.", "_orig_mod.") * 2:
        if names and all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def dump(content: Mapping[str, Any]) -> bytes:
    """Plain types and tensors as the bytes of a torch file."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def load_plain(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a dictionary of plain types and tensors from a torch file, on the CPU, running nothing.

    Raises:
        FileNotFoundError: There is no such file.
        FileFormatError: The file is truncated, foreign, or holds more than plain data.
    """
    data = Path(path).read_bytes()
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever a broken file makes it trip over
        reason = str(error).split("\n")[0].partition(". ")[0]  # torch's next sentence advises to unpickle anything
        raise FileFormatError(
            f"{os.fspath(path)}: expected a torch file of plain data and tensors, got {len(data)} bytes that can't be "
            f"read as one ({reason}); fetch or train it again."
        ) from error
    if not isinstance(content, dict):
        raise FileFormatError(f"{os.fspath(path)}: expected a dictionary, got {type(content).__name__}.")
    return content
