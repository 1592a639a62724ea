import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.errors import MismatchError
from training import ablation
from training.config import load_config
from training.evaluation.published import ABLATION

TINY = """
name = "tiny"
optimizer = "adamw"
batch_size = 2
steps = 2
[model]
input_size = 32
fusion_width = 8
heads = 2
[model.global_stream]
widths = [4, 8, 8]
blocks = [1, 1, 1]
[model.local_stream]
widths = [4, 8, 8]
blocks = [1, 1, 1]
"""


@pytest.fixture
def command(tmp_path: Path):
    """The command for two rows of a tiny network, on a few rendered faces."""
    config, samples = tmp_path / "tiny.toml", tmp_path / "samples"
    config.write_text(TINY)

    def build(*further: str) -> list[str]:
        arguments = ["--out", str(tmp_path / "runs"), "--test", f"synthetic:2:{samples}", "--config", str(config)]
        arguments += ["--rows", "without_cat", "cln", "--", "--data", f"synthetic:2:{samples}", "--held-out", "2"]
        return [*arguments, "--threads", "1", "--workers", "0", "--device", "cpu", *further]

    return build


def test_every_row_of_the_paper_is_a_config_of_its_own() -> None:
    switches = {row.config: load_config(f"ablation/{row.config}").model for row in ABLATION}
    assert len({tuple(getattr(model, name) for name in ablation.SWITCHES) for model in switches.values()}) == 6
    assert set(switches) == {path.stem for path in Path(ablation.__file__).parent.glob("configs/ablation/*.toml")}


def test_rows_are_trained_once_and_compared(command, tmp_path: Path, monkeypatch, capsys) -> None:
    started = []

    class InThisProcess:
        """The training's command, without the seconds that a new interpreter takes to import torch."""

        def __init__(self, arguments: list[str]) -> None:
            assert arguments[:3] == [sys.executable, "-m", "training.train"]
            started.append(arguments[3:])

        def wait(self) -> int:
            from training.train import main

            return main(started[-1])

    monkeypatch.setattr(ablation, "subprocess", SimpleNamespace(Popen=InThisProcess))
    assert ablation.main(command()) == 0
    assert [("--no-cat" in arguments, "--resume" in arguments) for arguments in started] == [(1, 0), (0, 0)]
    content = json.loads((tmp_path / "runs" / "ablation.json").read_text())
    rows = {row["config"]: row for row in content["rows"]}
    assert rows["cln"]["parameters"] > rows["without_cat"]["parameters"]
    assert rows["cln"]["steps"] == 2 and rows["cln"]["nme"]["synthetic:2"]["mean"] > 0
    table = (tmp_path / "runs" / "ablation.md").read_text()
    assert "| synthetic:2 | paper: AFLW2000-3D |" in table and str(tmp_path) not in table
    assert "| 3.528 | 4.652 |" in table
    assert ablation.main(command()) == 0 and len(started) == 2  # finished rows stay as they are
    assert ablation.main(command("--seed", "1")) == 2
    assert "expected the recipe it was started with: seed 0 (now 1)" in capsys.readouterr().err
    assert ablation.main(command("--steps", "3")) == 0
    assert ["--resume" in arguments for arguments in started] == [False, False, True, True]


def test_a_folder_of_another_row_is_refused(command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(ablation, "subprocess", SimpleNamespace(Popen=None))
    options = ablation.parse_arguments(command())
    rows = {row.config: row for row in ABLATION}
    from training.train import main

    assert main(ablation.training_arguments(rows["cln"], options)) == 0
    (tmp_path / "runs" / "cln").rename(tmp_path / "runs" / "without_cat")
    with pytest.raises(MismatchError, match="expected cat False"):
        ablation.steps_done(rows["without_cat"], options)


@pytest.mark.parametrize("taken", ["--config", "--out=x", "--no-cat", "--resume"])
def test_options_that_make_rows_unlike_are_refused(command, taken: str, capsys) -> None:
    assert ablation.main(command(taken)) == 2
    assert f"got {taken}; omit it" in capsys.readouterr().err


def test_a_failed_training_ends_it_in_one_line(command, monkeypatch, capsys) -> None:
    class Failing:
        def __init__(self, arguments: list[str]) -> None:
            pass

        def wait(self) -> int:
            return 2

    monkeypatch.setattr(ablation, "subprocess", SimpleNamespace(Popen=Failing))
    assert ablation.main(command()) == 2
    assert "exit code 2" in capsys.readouterr().err
