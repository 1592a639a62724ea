"""What each process of `test_distributed` does, under torchrun: some steps, saved, resumed, and its weights written."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from tests.training.conftest import make_face_model, plausible_params
from tests.training.test_train import CONFIG, Memory
from training.config import TrainConfig
from training.learning.distributed import ProcessGroup, join_process_group
from training.learning.mixture import Source, mean_losses
from training.learning.run import Run, RunOptions
from training.learning.state import open_run_folder

BATCH = {"batch_size": 8, "micro_batch": 4, "steps": 4, "warmup_steps": 1}


def make_run(out: Path, config: TrainConfig, processes: ProcessGroup, *, resume: bool = False) -> Run:
    model = make_face_model()
    samples, held_out = Memory(plausible_params(11, size=40)), Memory(plausible_params(5, size=40, seed=1))
    options = RunOptions(out=out, log_every=1, evaluate_every=2, tensorboard=False, command="test")
    state = processes.broadcast(open_run_folder(out, config, model, resume=resume) if processes.leads else None)
    return Run(config, [Source(samples=samples, held_out=held_out)], model, options, state=state, processes=processes)


def train(out: Path, processes: ProcessGroup) -> tuple[list[float], Run]:
    """Two steps, then two more in a resumed run; the total loss of each over all processes."""
    import dataclasses

    config = dataclasses.replace(CONFIG, **BATCH)
    totals = []
    run = make_run(out, config, processes)
    for step in range(4):
        if step == 2:
            run.save()
            processes.wait()
            run = make_run(out, config, processes, resume=True)
        losses = mean_losses([run.train_step()])
        processes.average([losses.total])
        totals.append(float(losses.total))
    return totals, run


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    with join_process_group("cpu") as processes:
        totals, run = train(out / "run", processes)
        np.savez(out / f"weights{processes.rank}.npz", **{k: v.numpy() for k, v in run.model.state_dict().items()})
        stopped = processes.any(processes.rank == 1)  # one process asked is enough
        (out / f"rank{processes.rank}.json").write_text(json.dumps({"totals": totals, "stopped": stopped}))
        whole = make_run(out / "whole", run.config, processes)
        assert whole.train()


if __name__ == "__main__":
    main()
