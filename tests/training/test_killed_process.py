"""A run of two processes of which one is killed: it ends with a message, and goes on from its last state."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.killed_run import STEPS

ROOT = Path(__file__).parents[2]
LAUNCH = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("-m", "tests.training.killed_run"),
]


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*LAUNCH, *map(str, arguments)], cwd=ROOT, env=environment, start_new_session=True, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_which_goes_on_later(tmp_path: Path, victim: int) -> None:
    log = tmp_path / "run" / "metrics.jsonl"
    first = start(tmp_path)
    try:
        until = time.monotonic() + 120
        while not ((tmp_path / "run" / "last.pth").exists() and (tmp_path / f"pid{victim}").exists()):
            assert time.monotonic() < until and first.poll() is None
            time.sleep(0.02)
        os.kill(int((tmp_path / f"pid{victim}").read_text()), signal.SIGKILL)
        text = first.communicate(timeout=60)[0]  # not the two hours that a process waits for one that is slow
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert first.returncode != 0
    other = 1 - victim
    assert f"error: Process {other} of 2 lost the others" in text and "--resume" in text, text
    done = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert 0 < done[-1] < STEPS

    second = start(tmp_path, "--resume")
    text = second.communicate(timeout=200)[0]
    assert second.returncode == 0, text
    steps = [entry["step"] for entry in map(json.loads, log.read_text().splitlines()) if "total" in entry]
    assert steps == list(range(1, STEPS + 1))  # each once: those after the last state are done and logged again
