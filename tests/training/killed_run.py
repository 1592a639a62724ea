"""What each process of `test_a_killed_process_ends_the_run` does, under torchrun: a run, or the rest of one."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from runtime.command import Exit, command
from tests.training.process_group_run import BATCH, make_run
from tests.training.test_train import CONFIG
from training.learning.distributed import join_process_group

STEPS = 60


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    out, *flags = sys.argv[1:] if arguments is None else arguments
    torch.set_num_threads(1)
    with join_process_group("cpu") as processes:
        config = dataclasses.replace(CONFIG, **BATCH | {"steps": STEPS})
        run = make_run(Path(out) / "run", config, processes, resume="--resume" in flags)
        (Path(out) / f"pid{processes.rank}").write_text(str(os.getpid()))
        return Exit.DONE if run.train() else Exit.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
