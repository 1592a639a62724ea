"""Make one checkpoint of several: the mean of the weights that runs ended with, each run from the one before.

    python -m tools.average_checkpoints FIRST.pth … LAST.pth --out MEAN.pth

Weights that one run made of another's lie in one valley, and their mean is often better than each, most of all on other
data than they were trained on (Wortsman et al., "Model soups", ICML 2022). The checkpoint says how each was trained;
the figures must be measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from runtime.command import Exit, command
from runtime.errors import MismatchError
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="in the order in which they were made")
    parser.add_argument("--out", type=Path, required=True, help="where to write the new checkpoint")
    options = parser.parse_args(arguments)
    mean = average([load_checkpoint(path) for path in options.checkpoints])
    names = " ".join(path.name for path in options.checkpoints)
    told = f"{mean.command}\npython -m tools.average_checkpoints {names} --out {options.out.name}"
    save_checkpoint(options.out, replace(mean, command=told.strip()))
    return Exit.DONE


def average(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The mean of the checkpoints' weights, with each one's record and command; without figures.

    Raises:
        MismatchError: They are of different networks, face models or whitenings.
    """
    last = checkpoints[-1]
    for other in checkpoints[:-1]:
        if other.config != last.config or other.face_model_sha256 != last.face_model_sha256:
            raise MismatchError(
                "checkpoints: expected one network and one face model, got several; give runs that went on from each "
                "other (--init)."
            )
        for name in ("whitening_mean", "whitening_std"):
            if not torch.equal(other.state_dict[name], last.state_dict[name]):
                raise MismatchError(
                    f"checkpoints: expected the same {name}, got others; give runs that went on from each other."
                )
    state = {
        name: torch.stack([one.state_dict[name].double() for one in checkpoints]).mean(dim=0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in last.state_dict.items()
    }
    training = {"mean_of": [dict(one.training) for one in checkpoints]}
    commands = "\n".join(dict.fromkeys(line for one in checkpoints for line in one.command.splitlines()))
    return replace(last, state_dict=state, training=training, command=commands, test={})


if __name__ == "__main__":
    raise SystemExit(main())
