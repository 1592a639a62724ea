import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.errors import InvalidInputError
from tests.training.process_group_run import train
from training.checkpoint import load_checkpoint
from training.learning.distributed import ProcessGroup, join_process_group

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def team_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    folder = tmp_path_factory.mktemp("processes")
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "tests.training.process_group_run",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_two_processes_make_the_steps_of_one(team_folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    ranks = [json.loads((team_folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    totals, run = train(tmp_path / "alone", ProcessGroup())
    assert ranks[0]["totals"] == ranks[1]["totals"]
    np.testing.assert_allclose(ranks[0]["totals"], totals, rtol=1e-5)
    weights = [dict(np.load(team_folder / f"weights{rank}.npz")) for rank in range(2)]
    for name, value in run.model.state_dict().items():
        assert np.array_equal(weights[0][name], weights[1][name]), name
        if value.is_floating_point() and "running" not in name:  # those are averaged, not gathered one after the other
            np.testing.assert_allclose(weights[0][name], value.numpy(), rtol=2e-3, atol=2e-5, err_msg=name)


def test_the_first_process_alone_logs_and_saves_and_one_can_stop_all(team_folder: Path) -> None:
    assert all(json.loads((team_folder / f"rank{rank}.json").read_text())["stopped"] for rank in range(2))
    assert sorted(path.name for path in (team_folder / "whole").iterdir()) == [
        "best.pth",
        "last.pth",
        "metrics.jsonl",
        "run.json",
    ]
    lines = [json.loads(line) for line in (team_folder / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4]
    totals = json.loads((team_folder / "rank0.json").read_text())["totals"]
    np.testing.assert_allclose([line["total"] for line in lines if "total" in line], totals, rtol=1e-5)
    assert json.loads((team_folder / "whole" / "run.json").read_text())["processes"] == 2
    assert load_checkpoint(team_folder / "whole" / "best.pth").training["step"] in (2, 4)


def test_parts_are_dealt_out_evenly() -> None:
    shares = [list(ProcessGroup(rank=rank, size=3).share(6)) for rank in range(3)]
    assert shares == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(InvalidInputError, match="multiple of 4"):
        ProcessGroup(rank=0, size=4).share(6)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_process_group("cpu") as processes:
        assert (
            processes == ProcessGroup() and processes.leads and processes.broadcast(3) == 3 and not processes.any(False)
        )
