"""The mean of several checkpoints: of what may be averaged, and what it keeps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runtime.command import Exit
from runtime.errors import MismatchError
from tests.training.test_model import TINY
from tools.average_checkpoints import average, main
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.model import CLN


def make(seed: int) -> Checkpoint:
    torch.manual_seed(seed)
    state = CLN(TINY).state_dict()
    return Checkpoint(
        config=TINY, state_dict=state, face_model_name="small", face_model_sha256="0" * 64, training={"steps": seed},
        test={"nme": 4.5}, command=f"train {seed}",
    )  # fmt: skip


def test_the_weights_are_the_mean_and_each_run_s_record_stays(tmp_path: Path) -> None:
    checkpoints = [make(seed) for seed in range(3)]
    paths = [tmp_path / f"{number}.pth" for number in range(3)]
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        save_checkpoint(path, checkpoint)
    assert main([*map(str, paths), "--out", str(tmp_path / "mean.pth")]) == Exit.DONE
    mean = load_checkpoint(tmp_path / "mean.pth")
    for name, tensor in mean.state_dict.items():
        parts = [checkpoint.state_dict[name] for checkpoint in checkpoints]
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (parts[0] + parts[1] + parts[2]) / 3)
    assert (mean.training, mean.test) == ({"mean_of": [{"steps": seed} for seed in range(3)]}, {})
    assert (
        mean.command
        == "train 0\ntrain 1\ntrain 2\npython -m tools.average_checkpoints 0.pth 1.pth 2.pth --out mean.pth"
    )


def test_other_networks_models_and_whitenings_are_not_averaged() -> None:
    first, second = make(0), make(1)
    with pytest.raises(MismatchError, match="face model"):
        average([first, replace(second, face_model_sha256="1" * 64)])
    with pytest.raises(MismatchError, match="one network"):
        average([replace(first, config=replace(TINY, heads=1)), second])
    moved = {**first.state_dict, "whitening_mean": first.state_dict["whitening_mean"] + 1}
    with pytest.raises(MismatchError, match="whitening_mean"):
        average([replace(first, state_dict=moved), second])
