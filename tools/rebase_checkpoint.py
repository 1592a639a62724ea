"""Make a checkpoint of one face model into one of another with the same mesh, without training.

    python -m tools.rebase_checkpoint OLD.pth --from OLD.safetensors --to NEW.safetensors --out NEW.pth

The network's last layer is rewritten so that each face keeps its place and shape: the pose takes up what turns, shifts
and scales the old mean into the new one, and coefficients of the old model become those of the new one that give the
nearest vertices (least squares). Exact where the new modes span the old ones, as when landmarks or the frame moved. It
is where training for a changed face model starts from; the figures must be measured again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.command import command
from runtime.errors import MismatchError
from runtime.face_model import POSE_SIZE, FaceModel, load_face_model
from tools.face_model.modes import similarity
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

RIDGE = 1e-3
"""Of the mean squared length of a mode: keeps coefficients small where two modes nearly coincide."""


@command()
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the old checkpoint")
    parser.add_argument("--from", dest="old", type=Path, required=True, help="the face model it was trained for")
    parser.add_argument("--to", dest="new", type=Path, help="the new face model (default: the bundled one)")
    parser.add_argument("--out", type=Path, required=True, help="where to write the new checkpoint")
    options = parser.parse_args()
    old, new = load_face_model(options.old), load_face_model(options.new)
    save_checkpoint(options.out, rebase(load_checkpoint(options.checkpoint, old), old, new))
    return 0


def rebase(checkpoint: Checkpoint, old: FaceModel, new: FaceModel) -> Checkpoint:
    """The checkpoint for the new face model.

    Raises:
        MismatchError: The models differ in mesh or in their numbers of modes.
    """
    if old.mean.shape != new.mean.shape or old.num_params != new.num_params:
        raise MismatchError(
            f"face models: expected the same mesh and modes, got {len(old.mean)} vertices and {old.num_params} "
            f"parameters, and {len(new.mean)} and {new.num_params}; train again"
        )
    frame = change_of_frame(old, new)
    turn, shift = (torch.from_numpy(part).float() for part in change_of_basis(old, new, frame))
    state = dict(checkpoint.state_dict)
    std, mean = state["whitening_std"], state["whitening_mean"]
    placed = torch.from_numpy(np.kron(np.eye(3), np.linalg.inv(frame).T)).float()  # of a pose matrix's 12 numbers
    change = torch.block_diag(placed, turn)
    varies = std > 0  # a pose's depth is always the same
    inner = torch.where(varies[:, None], change * std / std[:, None], 0.0)
    for name in ("head.weight", "head.bias"):
        state[name] = inner @ state[name]
    state["whitening_mean"] = torch.where(varies, change @ mean, mean)
    state["whitening_mean"][POSE_SIZE:] += shift
    return replace(checkpoint, state_dict=state, face_model_name=new.name, face_model_sha256=new.sha256, test={})


def change_of_frame(old: FaceModel, new: FaceModel) -> NDArray[np.float64]:
    """The similarity (4, 4) that takes points of the old frame to the new one, by the two means."""
    before, after = old.mean.astype(np.float64), new.mean.astype(np.float64)
    scale, rotation, shift = similarity(before, after, np.ones(len(before)))
    frame = np.eye(4)
    frame[:3, :3], frame[:3, 3] = scale * rotation.T, shift
    return frame


def change_of_basis(
    old: FaceModel, new: FaceModel, frame: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`turn (K, K)` and `shift (K,)`: new coefficients = turn @ old ones + shift, with old points in the new frame."""
    moved_mean = old.mean.astype(np.float64) @ frame[:3, :3].T + frame[:3, 3]
    before, after = (
        np.concatenate([m.shape_basis, m.expression_basis]).astype(np.float64).reshape(m.num_params - POSE_SIZE, -1, 3)
        for m in (old, new)
    )
    before = (before @ frame[:3, :3].T).reshape(len(before), -1)
    after = after.reshape(len(after), -1)
    moved = (moved_mean - new.mean).ravel()
    normal = after @ after.T
    normal += RIDGE * np.trace(normal) / len(normal) * np.eye(len(normal))
    solved = np.linalg.solve(normal, after @ np.column_stack([before.T, moved]))
    return solved[:, :-1], solved[:, -1]


if __name__ == "__main__":
    raise SystemExit(main())
