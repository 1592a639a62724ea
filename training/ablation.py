"""The paper's ablation (CLN, BMVC 2022 suppl.): six networks by one recipe, and one table.

    python -m training.ablation --out RUNS --test aflw2000:DIR -- --data 300w-lp:DIR --face-model FILE
    python -m training.ablation --out RUNS --test synthetic:1000 --config edge -- --data synthetic:24000 --steps 3000

What follows `--` goes to `training.train`, for every row alike. A row's switches come from its config in
`training/configs/ablation`; `--config` lays them over another one than `paper`. Each row is trained into RUNS/NAME, in
a process of its own. Ctrl-C ends it with its state saved, and the same command goes on there: a row that is finished is
not trained again. RUNS/ablation.md and RUNS/ablation.json hold the last weights' NME on each `--test` set and what the
paper's rows reached on its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.command import Exit, command
from runtime.errors import ClnError, InvalidInputError, MismatchError
from runtime.face_model import load_face_model
from runtime.files import write_atomically
from training.checkpoint import load_plain
from training.config import CLNConfig, load_config
from training.evaluation.metrics import YawBins
from training.evaluation.predictors import torch_predictor
from training.evaluation.published import ABLATION, PublishedAblation
from training.evaluation.report import evaluate_data
from training.evaluation.sets import data_name
from training.learning.sources import data_label
from training.learning.state import STATE_NAME, check_recipe
from training.model import CLN, reparameterize
from training.train import SWITCHES, config_of
from training.train import parse_arguments as parse_training

_OWN = ("--config", "--out", "--resume", *(f"--no-{name}" for name in SWITCHES))
"""Options of `training.train` that are not for the user to give here."""


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """A command line; `parse_arguments` makes it."""

    out: Path
    test: Sequence[str]
    config: str
    rows: Sequence[str]
    processes: int
    training: Sequence[str]
    """What is for `training.train`."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row's figures."""

    row: PublishedAblation
    parameters: int
    """Of the network as deployed, its branches folded."""
    steps: int
    nme: dict[str, YawBins]
    """By test set."""


def training_arguments(row: PublishedAblation, options: AblationOptions) -> list[str]:
    """What `training.train` is started with, but for `--resume`."""
    model = load_config(f"ablation/{row.config}").model
    off = [f"--no-{name}" for name in SWITCHES if not getattr(model, name)]
    return ["--config", options.config, *off, "--out", str(options.out / row.config), *options.training]


def steps_done(row: PublishedAblation, options: AblationOptions) -> tuple[int, int]:
    """Steps that a row's run has made, and that it is meant to make.

    Raises:
        MismatchError: The run in its folder is of another recipe or another network.
        FileFormatError: Its state is corrupt.
    """
    config = config_of(parse_training(training_arguments(row, options)))
    path = options.out / row.config / STATE_NAME
    if not path.is_file():
        return 0, config.steps
    state = load_plain(path)
    check_recipe(path, state, config)
    for name in SWITCHES:
        if state["model_config"][name] != getattr(config.model, name):
            raise MismatchError(f"{path}: expected {name} {getattr(config.model, name)}; give an --out of its own.")
    return int(state["step"]), config.steps


def train_row(row: PublishedAblation, options: AblationOptions) -> None:
    """Train a row, or go on with it.

    Raises:
        KeyboardInterrupt: It was interrupted, its state saved.
        ClnError: The training failed; its own line says why.
    """
    done, wanted = steps_done(row, options)
    if done >= wanted:
        return
    print(f"{row.title}: {done} of {wanted} steps done", flush=True)
    launcher = [sys.executable, "-m"]
    if options.processes > 1:
        launcher += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes), "-m"]
    arguments = training_arguments(row, options) + (["--resume"] if done else [])
    process = subprocess.Popen([*launcher, "training.train", *arguments])
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal sent it to the training too, which saves its state and ends
        process.wait()
        raise
    if code:
        raise ClnError(f"{row.title}: the training ended with exit code {code}; see its error above.")
    done, wanted = steps_done(row, options)
    if done < wanted:  # stopped by SIGTERM, or by --minutes
        raise KeyboardInterrupt


def evaluate_row(row: PublishedAblation, options: AblationOptions) -> Result:
    """A finished row's figures: of the averaged weights after its last step, so that none is chosen by its result."""
    state = load_plain(options.out / row.config / STATE_NAME)
    face_model = load_face_model(parse_training(training_arguments(row, options)).face_model)
    model = CLN(CLNConfig.from_dict(state["model_config"]))
    model.load_state_dict(state["average"])
    fused = reparameterize(model.eval())
    predict, size = torch_predictor(fused), fused.config.input_size
    return Result(
        row=row,
        parameters=sum(weight.numel() for weight in fused.parameters()),
        steps=int(state["step"]),
        nme={data_name(data): evaluate_data(predict, size, face_model, data).nme for data in options.test},
    )


def markdown(rows: Sequence[Result], recipe: str) -> str:
    """The table."""
    columns = ["network", "million weights", *rows[0].nme, "paper: AFLW2000-3D", "paper: AFLW"]
    lines = [
        "# Ablation",
        "",
        f"NME %, mean of the bins by |yaw|; {rows[0].steps} steps each: {recipe}. The paper's columns (CLN, BMVC 2022 "
        "suppl.) are its networks' on its data.",
        "",
        f"| {' | '.join(columns)} |",
        "| --- " * len(columns) + "|",
    ]
    for result in rows:
        figures = [nme.mean for nme in result.nme.values()] + [result.row.aflw2000, result.row.aflw]
        cells = [result.row.title, f"{result.parameters / 1e6:.3f}"]
        cells += ["–" if figure is None else f"{figure:.3f}" for figure in figures]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def to_dict(rows: Sequence[Result], recipe: str) -> dict[str, Any]:
    """The table in plain types."""
    return {
        "recipe": recipe,
        "rows": [
            {
                "config": result.row.config,
                "parameters": result.parameters,
                "steps": result.steps,
                "nme": {name: dataclasses.asdict(nme) for name, nme in result.nme.items()},
                "published": {"aflw2000": result.row.aflw2000, "aflw": result.row.aflw},
            }
            for result in rows
        ],
    }


def recipe_of(options: AblationOptions) -> str:
    """The training in a few words, without a path."""
    training = parse_training(training_arguments(ABLATION[0], options))
    config = config_of(training)
    return f"config `{config.name}`, data {data_label(training.data)}, batch {config.batch_size}, seed {config.seed}"


def parse_arguments(arguments: Sequence[str] | None) -> AblationOptions:
    """The command line.

    Raises:
        InvalidInputError: An option there is not for the user to give.
    """
    names = [row.config for row in ABLATION]
    parser = argparse.ArgumentParser(
        prog="python -m training.ablation",
        description=__doc__.partition("\n")[0],
        epilog="After --: options of training.train, --data among them, for every row.",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the six runs and of the table")
    test_help = "KIND:DIR or synthetic:N[:CACHE], as training.evaluate takes them; may be given several times"
    parser.add_argument("--test", required=True, action="append", help=test_help)
    parser.add_argument("--config", default="paper", help="what the rows' switches are laid over (default: paper)")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="only these (default: all)")
    parser.add_argument("--processes", type=int, default=1, help="processes of each training, by torchrun (default: 1)")
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    training = given[split + 1 :]
    taken = [option for option in training if option.partition("=")[0] in _OWN]
    if taken:
        raise InvalidInputError(f"Expected options of the training that all rows share, got {taken[0]}; omit it.")
    return AblationOptions(**vars(parser.parse_args(given[:split])), training=training)


@command(interrupted="the same command goes on from here")
def main(arguments: Sequence[str] | None = None) -> int:
    """Train and compare from the command line; its exit status."""
    options = parse_arguments(arguments)
    rows = [row for row in ABLATION if row.config in options.rows]
    for row in rows:
        steps_done(row, options)  # a folder of another recipe is refused before hours are spent
    for row in rows:
        train_row(row, options)
    results = [evaluate_row(row, options) for row in rows]
    recipe = recipe_of(options)
    table = markdown(results, recipe)
    write_atomically(options.out / "ablation.json", json.dumps(to_dict(results, recipe), indent=2) + "\n")
    write_atomically(options.out / "ablation.md", table)
    print(table, end="")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
