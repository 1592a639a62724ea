"""Training: `python -m training.train --config edge --data synthetic:N[:CACHE] --out RUN_DIR`.

`--config` is a name in `training/configs` or a TOML file. RUN_DIR holds `run.json` (config, command, source revision),
`metrics.jsonl` (one object a line), `last.pth` (all that a resumed run needs) and `best.pth` (the checkpoint of the
averaged weights with the lowest NME on held-out faces of the same kind; those given with --val are only reported).
Data that is labelled with points alone fine-tunes the checkpoint given with --init (`training.learning.supervision`).
Several sets may be mixed in every batch, each with its share (`training.learning.mixture`):

    python -m training.train --init checkpoints/edge.pth --data 3@synthetic:100000 --data 1@points:DIR --out RUN_DIR

Ctrl-C or SIGTERM ends a run after the step in progress; `--resume` goes on, and ends with the weights of a run that was
never stopped (`training.learning.run`). Several processes: `training.learning.distributed`.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from runtime.command import Exit, command
from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel, load_face_model
from training.checkpoint import Checkpoint, load_checkpoint
from training.config import TrainConfig, config_names, load_config
from training.data.aflw2000 import load_aflw2000
from training.data.catalog import KINDS_WITH_PARAMS, KINDS_WITH_POINTS, report_skipped
from training.learning.distributed import ProcessGroup, join_process_group
from training.learning.forward import pick_device
from training.learning.run import Run, RunOptions
from training.learning.sources import DataShare, SourceOptions, data_label, match_face_model, open_sources, parse_data
from training.learning.state import open_run_folder

logger = logging.getLogger(__name__)

SWITCHES = ("cdsda", "cat", "thumbnail")
"""Parts of the network that the command line can leave out."""
_CHANGES = ("steps", "batch_size", "micro_batch", "learning_rate", "seed")
"""Fields of the config that the command line can change."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """A command line; `parse_arguments` makes it."""

    config: str | None
    data: Sequence[DataShare]
    out: Path
    init: Path | None = None
    resume: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the config's fields."""
    off: Sequence[str] = ()
    """Which of `SWITCHES` are off."""
    minutes: float | None = None
    threads: int = 1
    device: str = "auto"
    bf16: bool = False
    compile: bool = False
    face_model: str | None = None
    sources: SourceOptions = field(default_factory=SourceOptions)
    evaluate_every: int | None = None
    val: str | None = None

    @property
    def points_alone(self) -> bool:
        """Whether no set has params."""
        return all(one.labels == "points" for one in self.data)


def parse_arguments(arguments: Sequence[str] | None) -> TrainOptions:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__.partition("\n")[0])
    config_help = f"a TOML file, or one of {', '.join(config_names())} (default: edge; fine_tune for points alone; "
    config_help += "mixed for a mixture with --init)"
    parser.add_argument("--config", help=config_help)
    data_help = "synthetic:N[:CACHE], rendered before the first step if missing; or, with labels for a Basel model, "
    data_help += ", ".join(f"{kind}:DIR" for kind in KINDS_WITH_PARAMS)
    data_help += "; or, with points alone and --init, " + ", ".join(f"{kind}:DIR" for kind in KINDS_WITH_POINTS)
    data_help += ". Several are mixed in each batch, all alike or by shares: --data 3@synthetic:N --data 1@points:DIR"
    parser.add_argument("--data", required=True, action="append", metavar="[SHARE@]KIND:DIR", help=data_help)
    assets_help = "folder of CC0 assets to render synthetic faces with (default: none; see docs/data.md)"
    parser.add_argument("--assets", type=Path, help=assets_help)
    faces_seed_help = "of the synthetic faces, as --seed of training.data.samples (default: 0)"
    parser.add_argument("--faces-seed", type=int, default=0, help=faces_seed_help)
    parser.add_argument("--out", required=True, type=Path, help="the run's folder")
    init_help = "fine-tune: start with this checkpoint's network, weights and whitening"
    parser.add_argument("--init", type=Path, help=init_help)
    parser.add_argument("--resume", action="store_true", help="go on from the last state in --out")
    parser.add_argument("--steps", type=int, help="length of the schedule (default: the config's)")
    parser.add_argument("--minutes", type=float, help="stop after so long, as if interrupted")
    parser.add_argument("--batch-size", type=int, help="default: the config's")
    micro_help = "samples at once: gradients are added up to the batch's (default: the config's)"
    parser.add_argument("--micro-batch", type=int, help=micro_help)
    parser.add_argument("--learning-rate", type=float, help="default: the config's")
    parser.add_argument("--seed", type=int, help="default: the config's")
    threads_help = "default: one per core; give fewer where other work shares them, or each step waits for the slowest"
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help=threads_help)
    workers_help = "rendering processes, or decoding threads"
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help=workers_help)
    device_help = "default: auto, a GPU where there is one; there the streams run in mixed precision"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=device_help)
    bf16_help = "on the CPU, bfloat16 streams: faster where it has AVX512-BF16 (a GPU mixes precisions anyway)"
    parser.add_argument("--bf16", action="store_true", help=bf16_help)
    compile_help = "compile the step: some minutes before the first, then about an eighth more images a second on a CPU"
    parser.add_argument("--compile", action="store_true", help=compile_help)
    parser.add_argument("--face-model", help="default: the bundled one")
    held_out_help = "faces to evaluate on, kept from training (default: 500)"
    parser.add_argument("--held-out", type=int, default=500, help=held_out_help)
    every_help = "steps between evaluations (default: 1000; for points alone, a tenth of the run)"
    parser.add_argument("--evaluate-every", type=int, help=every_help)
    parser.add_argument("--val", help="aflw2000:DIR: photographs to report on; never used to choose a checkpoint")
    for switch in SWITCHES:
        parser.add_argument(f"--no-{switch}", action="store_true", help=f"ablation: without {switch}")
    given = parser.parse_args(arguments)
    return TrainOptions(
        config=given.config,
        data=[parse_data(text) for text in given.data],
        out=given.out,
        init=given.init,
        resume=given.resume,
        changes={name: value for name in _CHANGES if (value := getattr(given, name)) is not None},
        off=[name for name in SWITCHES if getattr(given, f"no_{name}")],
        minutes=given.minutes,
        threads=max(1, given.threads),
        device=given.device,
        bf16=given.bf16,
        compile=given.compile,
        face_model=given.face_model,
        sources=SourceOptions(
            held_out=given.held_out, workers=given.workers, assets=given.assets, faces_seed=given.faces_seed
        ),
        evaluate_every=given.evaluate_every,
        val=given.val,
    )


def config_of(options: TrainOptions) -> TrainConfig:
    """The named config with the command line's changes.

    Raises:
        InvalidInputError: There is no such config, or a number is out of range.
        FileNotFoundError, FileFormatError: As `load_config`.
    """
    mixed = options.init is not None and any(one.labels == "points" for one in options.data)
    usual = "fine_tune" if options.points_alone else "mixed" if mixed else "edge"
    config = load_config(options.config or usual)
    off: dict[str, Any] = dict.fromkeys(options.off, False)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **off), **options.changes)


def starting_checkpoint(options: TrainOptions, face_model: FaceModel) -> Checkpoint | None:
    """The one that `--init` names.

    Raises:
        InvalidInputError: There is none, and the data's labels can't do without.
        FileNotFoundError, FileFormatError, MismatchError: As `load_checkpoint`.
    """
    if options.init:
        return load_checkpoint(options.init, face_model)
    if options.points_alone and not options.resume:
        raise InvalidInputError(
            f"Expected --init CHECKPOINT with {options.data[0].data}, got none: points alone say too little of depth "
            "and shape to start from nothing; give a trained network, such as --init checkpoints/edge.pth."
        )
    return None


def open_run(options: TrainOptions, processes: ProcessGroup) -> Run:
    """The run that a command line asks for, its samples rendered."""
    face_model = load_face_model(options.face_model)
    config = match_face_model(config_of(options), face_model, with_params=not options.points_alone)
    start = starting_checkpoint(options, face_model)
    if start is not None:
        if options.off:
            raise InvalidInputError(
                f"--no-{options.off[0]}: expected a network that starts from nothing, got --init, whose network stays "
                "as it is; omit one of them."
            )
        config = dataclasses.replace(config, model=start.config)
    state = None
    if processes.leads:
        labels = [one.labels for one in options.data]
        state = open_run_folder(options.out, config, face_model, resume=options.resume, labels=labels)
    state = processes.broadcast(state)
    photographs = None
    if options.val:
        kind, _, folder = options.val.partition(":")
        if kind != "aflw2000" or not folder:
            raise InvalidInputError(f"Expected aflw2000:DIR for --val, got '{options.val}'.")
        photographs = load_aflw2000(folder) if processes.leads else None
    sources = open_sources(options.data, options.sources, face_model, config.model.input_size, processes)
    fine_tunes = start is not None or options.points_alone
    run_options = RunOptions(
        out=options.out,
        minutes=options.minutes,
        device=options.device,
        bf16=options.bf16,
        compile=options.compile,
        evaluate_every=options.evaluate_every or (max(1, config.steps // 10) if fine_tunes else 1000),
        data=data_label(options.data),
        command="python -m training.train " + " ".join(sys.argv[1:]),
    )
    return Run(config, sources, face_model, run_options, photographs, state, processes, start)


@command(interrupted="what was rendered is kept")  # a run in progress takes Ctrl-C as its flag
def main(arguments: Sequence[str] | None = None) -> int:
    """Train from the command line; its exit status."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    options = dataclasses.replace(options, device=pick_device(options.device))
    with join_process_group(options.device) as processes:
        logging.basicConfig(
            level=logging.INFO if processes.leads else logging.WARNING, format="%(asctime)s %(message)s"
        )
        run = open_run(options, processes)
        finished = run.train()
        for source in run.mixture.sources:
            for line in report_skipped(source.samples):
                logger.warning(line)
    if finished:
        logger.info("done: best held-out NME %.3f %%, %s", run.best, options.out / "best.pth")
    else:
        logger.info("stopped at step %d; add --resume to go on", run.step)
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
