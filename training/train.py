"""Training: `python -m training.train --config edge --data synthetic:N[:CACHE] --out RUN_DIR`.

`--config` is a name in `training/configs` or a TOML file. RUN_DIR holds `run.json` (config, command, source revision),
`metrics.jsonl` (one object a line), `last.pth` (all that a resumed run needs) and `best.pth` (the checkpoint of the
averaged weights with the lowest NME on held-out faces of the same kind; those given with --val are only reported).
Data that is labelled with points alone fine-tunes the checkpoint given with --init (`training.learning.supervision`).
Ctrl-C or SIGTERM ends a run after the step in progress; `--resume` goes on. Each part of a step's batch (all of it, or
`micro_batch` samples) seeds its generators from the run's seed and the numbers of step and part, which also pick its
samples. So it is all one whether a thread prepares batches ahead (`training.learning.read_ahead`) or a step waits for
its own; a resumed run ends with the weights of one that was never stopped (the same machine and thread count given; on
a GPU up to its rounding), and several processes (`training.learning.distributed`) with those of one.

With --device cuda the network, the batches and the losses are on the GPU, and the streams run in mixed precision:
bfloat16 where the GPU has it, else float16 with a scaled loss. Head, losses and weights are float32 everywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from runtime.errors import ClnError, EngineUnavailableError, FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import FaceModel, load_face_model
from runtime.files import write_atomically
from training.checkpoint import Checkpoint, dump, load_checkpoint, load_plain, save_checkpoint
from training.config import TrainConfig, config_names, load_config
from training.data.aflw2000 import AnnotatedFace, load_aflw2000
from training.data.catalog import KINDS_WITH_PARAMS, KINDS_WITH_POINTS, hold_out, report_skipped
from training.data.catalog import open_samples as open_labelled
from training.data.landmarks import LandmarkSamples
from training.data.samples import HELD_OUT_SEED, Samples, SyntheticSamples, image_size, parse_synthetic
from training.evaluation.accuracy import Accuracy, evaluate_real, torch_predictor
from training.learning.distributed import Team, gradients_kept, join_team
from training.learning.losses import Losses, PointLosses
from training.learning.read_ahead import ReadAhead
from training.learning.supervision import Batch, ParamSupervision, Terms, supervise
from training.model import CLN

logger = logging.getLogger(__name__)

STATE_FORMAT = "cln.training_state"
STATE_NAME = "last.pth"
RECORD_NAME = "run.json"
WHITENING_SAMPLES = 2000
_BAD_STEPS = 20
"""Steps with a gradient that isn't finite that are skipped in a row before the run gives up."""
_OF_CROPS = 0x5DEECE66D
_MAY_CHANGE = ("name", "model", "steps", "augment")
"""Fields of a run's config that resuming doesn't compare; the network's own is checked apart."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run needs beside its config; of it only `device` and `bf16` change the weights that `steps` steps give."""

    out: Path
    minutes: float | None = None
    """Stop after so many minutes as if interrupted."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    bf16: bool = False
    """On the CPU, autocast the streams to bfloat16; head, losses and weights stay in float32. A GPU always mixes."""
    log_every: int = 50
    evaluate_every: int = 1000
    data: str = ""
    command: str = ""
    tensorboard: bool = True


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then the config's schedule: half a cosine to zero at the last step, or steps down."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    share = min(1.0, step / config.steps)
    if config.schedule == "step":
        return config.learning_rate * warm * config.decay ** sum(share >= mark for mark in config.milestones)
    return config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * share))


def step_indices(count: int, batch: int, seed: int, step: int, part: int = 0, parts: int = 1) -> NDArray[np.int64]:
    """The samples of one of a step's parts, or of the whole step.

    They are consecutive in one random permutation for each epoch, and sorted for the disk's sake.
    """
    size = batch // parts
    start = step * batch + part * size
    positions = np.arange(start, start + size)
    epochs = positions // count
    picked = [
        np.random.default_rng((seed, int(epoch))).permutation(count)[positions[epochs == epoch] % count]
        for epoch in np.unique(epochs)
    ]
    return np.sort(np.concatenate(picked))


def part_seed(seed: int, step: int, part: int = 0) -> int:
    """Make all that a part of a step draws a function of the run's seed, the step and the part."""
    return ((seed * 1_000_003 + step) * 2_654_435_761 + part * 7_778_742_049) % 2**63


def part_generator(device: torch.device, seed: int, step: int, part: int = 0) -> torch.Generator:
    """What a part's crops are drawn with; other numbers than those that the network draws, from torch's own."""
    return torch.Generator(device).manual_seed(part_seed(seed, step, part) ^ _OF_CROPS)


def pick_device(name: str) -> str:
    """The device that `cpu`, `cuda` or `auto` stands for here.

    Raises:
        EngineUnavailableError: A GPU was asked for and PyTorch can't use one.
    """
    if name == "cuda" and not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        raise EngineUnavailableError(
            f"--device cuda: expected an NVIDIA GPU that PyTorch can use, found none (PyTorch {torch.__version__}, "
            f"{build}); install a CUDA build and the driver, or give --device cpu."
        )
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def stream_dtype(device: torch.device, *, bf16: bool) -> torch.dtype | None:
    """What the streams are autocast to, None for float32. Emulated bfloat16 (before Ampere) is slower than float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if bf16 else None


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The config's optimiser; norms, biases and the position embedding don't decay."""
    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 and not name.endswith("position")]
    rest = [p for name, p in model.named_parameters() if p.dim() <= 1 or name.endswith("position")]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)


class Average:
    """Exponential moving average of a network's weights and statistics."""

    def __init__(self, model: CLN, decay: float) -> None:
        """Start from the network's present weights."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: CLN, step: int) -> None:
        """Move towards the network; quicker in the first steps, which start from random weights."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for mine, its in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(its, share)
            else:
                mine.copy_(its)


class Forward(nn.Module):
    """A training step's way through the network, the streams autocast; several processes share its gradients."""

    def __init__(self, model: CLN, dtype: torch.dtype | None) -> None:
        """`dtype` is the streams', None for float32."""
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, crops: Tensor) -> Tensor:
        """Crops uint8 (B, S, S, 3) -> whitened parameters float32 (B, 62)."""
        with torch.autocast(crops.device.type, self.dtype, enabled=self.dtype is not None):
            features = self.model.features(crops)
        return self.model.head(features.float())


class Run:
    """One training run: network, optimiser, average, and where they stand."""

    def __init__(
        self,
        config: TrainConfig,
        samples: Samples | LandmarkSamples,
        held_out: Samples | LandmarkSamples,
        face_model: FaceModel,
        options: RunOptions,
        photographs: list[AnnotatedFace] | None = None,
        state: Mapping[str, Any] | None = None,
        team: Team | None = None,
        start: Checkpoint | None = None,
    ) -> None:
        """Set up a new run, perhaps with a checkpoint's weights, or go on from a state (see `claim_folder`).

        Samples with points alone need one or the other.
        """
        self.config, self.options, self.face_model = config, options, face_model
        self.team = team or Team()
        self.parts = config.batch_size // config.micro_batch if config.micro_batch else self.team.size
        self.own_parts = self.team.share(self.parts)
        if config.batch_size % self.parts:
            raise InvalidInputError(f"Expected a batch_size that is a multiple of {self.parts} processes.")
        self.photographs, self.fine_tunes = photographs, start is not None
        self.device = torch.device(options.device)
        self.stream_dtype = stream_dtype(self.device, bf16=options.bf16)
        # Float16 gradients vanish below 6e-8: the loss is scaled up, and the gradients back before they are clipped.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.stream_dtype == torch.float16)
        began = (start and start.state_dict) if state is None else state.get("start")
        self.supervision = supervise(config, samples, held_out, face_model, self.device, began)
        torch.manual_seed(config.seed)
        self.model = CLN(config.model).to(self.device, memory_format=torch.channels_last)
        if start is not None:
            self.model.load_state_dict(dict(start.state_dict))
        elif state is None:
            self.model.set_whitening(*label_statistics(self.supervision, config.seed))
        self.forward = self.team.wrap(Forward(self.model, self.stream_dtype))
        self.optimizer = make_optimizer(config, self.model)
        self.step, self.best, self.bad_steps = 0, math.inf, 0
        if state is None:
            self.average = Average(self.model, config.ema_decay)
        else:
            self._restore(state)

    @property
    def samples(self) -> Samples | LandmarkSamples:
        """What is trained on."""
        return self.supervision.samples

    def train(self) -> bool:
        """Go on to the last step; False if interrupted before it."""
        started, first = time.monotonic(), self.step
        limit = math.inf if self.options.minutes is None else self.options.minutes * 60
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(interruption(patient=self.team.size > 1))
            log = stack.enter_context(self._log())
            if self.fine_tunes and self.step == 0 and self.team.leads:
                log.write(0, self.evaluate())  # what is to be beaten
            bar = tqdm(
                total=self.config.steps,
                initial=self.step,
                unit="step",
                disable=None if self.team.leads else True,
                smoothing=0.05,
            )
            ahead = stack.enter_context(self._reading_ahead())
            while self.step < self.config.steps:
                if self.team.any(stop.is_set or time.monotonic() - started >= limit):
                    break
                losses = self.train_step(ahead)
                bar.update()
                if self.step % self.options.log_every == 0:
                    rate = (self.step - first) * self.config.batch_size / (time.monotonic() - started)
                    self.team.average([value for value in vars(losses).values()])
                    log.write(self.step, loss_figures(losses, learning_rate(self.config, self.step - 1), rate))
                if self.step % self.options.evaluate_every == 0 or self.step == self.config.steps:
                    if self.team.leads:
                        log.write(self.step, self.evaluate())
                    self.save()
            bar.close()
            self.save()
        return self.step >= self.config.steps

    def train_step(self, ahead: ReadAhead[tuple[int, int], Batch] | None = None) -> Losses | PointLosses:
        """One step of the optimiser; the losses are of this process's parts of the batch, without gradient.

        Args:
            ahead: Where the parts' batches are prepared; here and now without it, with the same outcome.
        """
        step = self.step
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        before = [buffer.clone() for buffer in self.model.buffers()]
        losses = []
        for part in self.own_parts:
            batch = self.prepare((step, part)) if ahead is None else ahead.take((step, part))
            torch.manual_seed(part_seed(self.config.seed, step, part))
            with gradients_kept(self.forward, until_last=part == self.own_parts[-1]):
                losses.append(self._backward(batch))
        self._apply(step, before)
        self.step += 1
        return mean_losses(losses)

    def prepare(self, key: tuple[int, int]) -> Batch:
        """The batch of a step and one of its parts; any thread may call it."""
        step, part = key
        config = self.config
        indices = step_indices(len(self.samples), config.batch_size, config.seed, step, part, self.parts)
        return self.supervision.prepare(indices, part_generator(self.device, config.seed, step, part))

    def evaluate(self) -> dict[str, float]:
        """Figures of the averaged weights; keeps the checkpoint when it is the best on held-out faces."""
        predict, size = torch_predictor(self.average.model), self.config.model.input_size
        figures = accuracy_figures("held_out", self.supervision.accuracy(predict))
        if self.photographs:
            real = evaluate_real(predict, size, self.face_model, self.photographs, progress=False)
            figures |= accuracy_figures("photographs", real)
        logger.info("step %d: %s", self.step, ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
        if figures["held_out_nme"] < self.best:
            self.best = figures["held_out_nme"]
            save_checkpoint(self.options.out / "best.pth", self.checkpoint(figures))
        return figures

    def checkpoint(self, figures: Mapping[str, float]) -> Checkpoint:
        """The averaged weights with what belongs to them."""
        training = {
            "config": plain(self.config.to_dict()),
            "step": self.step,
            "samples": len(self.samples),
            "data": self.options.data,
            "device": self.options.device,
            "streams": str(self.stream_dtype or torch.float32).removeprefix("torch."),
        }
        return Checkpoint(
            config=self.config.model,
            state_dict=self.average.model.state_dict(),
            face_model_name=self.face_model.name,
            face_model_sha256=self.face_model.sha256,
            training=training,
            test=dict(figures),
            command=self.options.command,
        )

    def save(self) -> None:
        """Write the state that `--resume` reads. No generator's state: each step seeds its own."""
        if not self.team.leads:
            return
        state = {
            "format": STATE_FORMAT,
            "model_config": self.config.model.to_dict(),
            "config": plain(self.config.to_dict()),
            "face_model_sha256": self.face_model.sha256,
            "labels": self.supervision.labels,
            "start": self.supervision.state(),
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        write_atomically(self.options.out / STATE_NAME, dump(state))

    def _reading_ahead(self) -> ReadAhead[tuple[int, int], Batch]:
        keys = ((step, part) for step in range(self.step, self.config.steps) for part in self.own_parts)
        return ReadAhead(self.prepare, keys)

    def _backward(self, batch: Batch) -> Losses | PointLosses:
        """Add one part's share of the batch's gradient."""
        losses = self.supervision.losses(batch, self.forward, self.model)
        self.scaler.scale(losses.total / len(self.own_parts)).backward()
        return losses

    def _log(self) -> MetricsLog | NoLog:
        """Where the figures go: nowhere but in the team's first process."""
        if not self.team.leads:
            return NoLog()
        record = {
            "config": plain(self.config.to_dict()),
            "command": self.options.command,
            "revision": source_revision(),
            "torch": torch.__version__,
            "device": self.options.device,
            "processes": self.team.size,
        }
        write_atomically(self.options.out / RECORD_NAME, json.dumps(record, indent=2) + "\n")
        return MetricsLog(self.options.out, self.step, tensorboard=self.options.tensorboard)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if not all_finite([value for value in state["average"].values() if value.is_floating_point()]):
            raise FileFormatError(
                f"{self.options.out / STATE_NAME}: expected finite averaged weights, got NaN or infinity; start again."
            )
        self.average = Average(self.model, self.config.ema_decay)
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler") or self.scaler.state_dict())
        self.step, self.best = int(state["step"]), float(state["best"])

    def _apply(self, step: int, before: Sequence[Tensor]) -> None:
        """Move the weights, or leave all as it was `before` the step, the statistics of batch norm too."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        self.team.average(statistics)
        if not (bool(torch.isfinite(norm)) and all_finite(statistics)):
            for buffer, old in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(old)
            self.bad_steps += 1
            self.scaler.update()  # halves the scale, which may be all that is wrong
            logger.warning("step %d skipped: its gradient, or a statistic of batch norm, is not finite", step)
            if self.bad_steps >= _BAD_STEPS:
                raise InvalidInputError(f"{_BAD_STEPS} steps in a row had no finite gradient; lower the learning rate.")
            return
        self.bad_steps = 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model, step)


def label_statistics(supervision: ParamSupervision, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (62,) of some samples' labels as training will see them."""
    generator = part_generator(supervision.device, seed, -1)
    total = len(supervision.samples)
    count = min(total, WHITENING_SAMPLES)
    spread = np.arange(count) * total // count  # a set's parts lie one after the other
    chunks = (spread[start : start + 100] for start in range(0, count, 100))
    return whitening(torch.cat([supervision.prepare(chunk, generator).truth for chunk in chunks]))


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether there is neither NaN nor infinity in any of them."""
    return bool(torch.cat([tensor.flatten() for tensor in tensors]).isfinite().all())


def whitening(params: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (62,) of parameters (N, 62); a constant one (t_z) gets exactly 0 deviation."""
    mean, std = params.double().mean(dim=0), params.double().std(dim=0, correction=0)
    constant = std < 1e-6 * mean.abs().clamp(min=1.0)
    return mean.float(), torch.where(constant, torch.zeros_like(std), std).float()


def mean_losses(losses: Sequence[Terms]) -> Terms:
    """The mean of each term, without gradient."""
    kind = type(losses[0])
    terms = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: torch.stack([getattr(one, name).detach() for one in losses]).mean() for name in terms})


def source_revision() -> str | None:
    """The commit that the code is at, "-dirty" after it where files differ; None outside a git repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def loss_figures(losses: Losses | PointLosses, rate: float, throughput: float) -> dict[str, float]:
    """One log line of the training loss."""
    terms = {name: float(term.detach()) for name, term in vars(losses).items()}
    return {**terms, "learning_rate": rate, "images_per_second": throughput}


def accuracy_figures(prefix: str, accuracy: Accuracy) -> dict[str, float]:
    """One log line of an evaluation; a bin without faces is left out."""
    cells: dict[str, float | None] = {
        "nme": accuracy.nme.mean,
        "nme_zero_coefficients": accuracy.zero_coefficients.mean,
        **{f"nme_bin{number}": value for number, value in enumerate(accuracy.nme.bins)},
    }
    return {f"{prefix}_{name}": value for name, value in cells.items() if value is not None}


def claim_folder(
    out: Path, config: TrainConfig, face_model: FaceModel, *, resume: bool, labels: str = "params"
) -> dict[str, Any] | None:
    """The state to resume from, or None for a new run: checked before any time is spent.

    Raises:
        FileNotFoundError: There is nothing to resume.
        FileFormatError: The state is corrupt.
        MismatchError: It belongs to another network, face model or kind of labels, or was made by another recipe.
        InvalidInputError: The face model doesn't fit the config, or a run is there that should not be resumed.
    """
    if face_model.num_params != config.model.num_params:
        raise InvalidInputError(
            f"Expected a face model with {config.model.num_params} parameters, got '{face_model.name}' with "
            f"{face_model.num_params}; change shape_count and expression_count in the config."
        )
    path = out / STATE_NAME
    if not resume:
        if path.exists():
            raise InvalidInputError(f"{path} is there already; give --resume, or another --out.")
        return None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an interrupted run's state, found none; leave --resume away.")
    state = load_plain(path)
    if state.get("format") != STATE_FORMAT:
        raise FileFormatError(f"{path}: expected a training state, got {state.get('format')!r}.")
    if state["model_config"] != config.model.to_dict():
        raise MismatchError(f"{path} is of another network; give the --config it was started with.")
    if state["face_model_sha256"] != face_model.sha256:
        raise MismatchError(f"{path} is for another face model; give the one it was started with.")
    before = state.get("labels", "params")  # older states are of params
    if before != labels:
        raise MismatchError(
            f"{path}: expected data that is labelled with {before}, as the run was started with, got {labels}; give "
            "such data, or another --out with --init."
        )
    check_recipe(path, state, config)
    return state


def check_recipe(path: Path, state: Mapping[str, Any], config: TrainConfig) -> None:
    """Make sure that a run is resumed as it was started: loss, optimiser, learning rate, batch size and seed.

    The length of the schedule and the augmentation may change, as may the samples. States of older versions carry no
    recipe and are taken as they are.

    Raises:
        MismatchError: A field differs.
    """
    before, now = (flatten(values) for values in (state.get("config", {}), plain(config.to_dict())))
    changed = [
        name for name, value in before.items() if name.partition(".")[0] not in _MAY_CHANGE and value != now.get(name)
    ]
    if changed:
        differences = ", ".join(f"{name} {before[name]} (now {now.get(name)})" for name in changed)
        raise MismatchError(f"{path}: expected the recipe it was started with: {differences}; repeat its options.")


class MetricsLog:
    """`metrics.jsonl`, and TensorBoard's events where it is installed."""

    def __init__(self, folder: Path, step: int, *, tensorboard: bool) -> None:
        """Open for a run that stands at `step`; lines of a lost future, after a crash, are dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        kept = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in kept if json.loads(line)["step"] <= step]
        write_atomically(self.path, "".join(f"{line}\n" for line in kept))
        self.board = _summary_writer(folder) if tensorboard else None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)


class NoLog(contextlib.nullcontext[None]):
    """Takes figures and keeps none."""

    def __enter__(self) -> NoLog:  # type: ignore[override]
        return self

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Nothing."""


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)


class Flag:
    """Whether the run was asked to stop."""

    is_set = False


@contextmanager
def interruption(*, patient: bool = False) -> Iterator[Flag]:
    """A flag that Ctrl-C or SIGTERM sets; a second one ends the process as usual, unless `patient`.

    Under `torchrun` each process may get one Ctrl-C twice, from the terminal and from the launcher, which ends by force
    what does not end in half a minute.
    """
    flag = Flag()
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.getsignal(name) for name in names}

    def ask(number: int, _: FrameType | None) -> None:
        flag.is_set = True
        if not patient:
            signal.signal(number, before[signal.Signals(number)])

    try:
        for name in names:
            signal.signal(name, ask)
        yield flag
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what both JSON and a checkpoint keep."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, its keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__.partition("\n")[0])
    config_help = f"a TOML file, or one of {', '.join(config_names())} (default: edge; fine_tune for points alone)"
    parser.add_argument("--config", help=config_help)
    data_help = "synthetic:N[:CACHE], rendered before the first step if missing; or, with labels for a Basel model, "
    data_help += ", ".join(f"{kind}:DIR" for kind in KINDS_WITH_PARAMS)
    data_help += "; or, with points alone and --init, " + ", ".join(f"{kind}:DIR" for kind in KINDS_WITH_POINTS)
    parser.add_argument("--data", required=True, help=data_help)
    assets_help = "folder of CC0 assets to render synthetic faces with (default: none; see docs/data.md)"
    parser.add_argument("--assets", type=Path, help=assets_help)
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
    parser.add_argument("--face-model", help="default: the bundled one")
    held_out_help = "faces to evaluate on, kept from training (default: 500)"
    parser.add_argument("--held-out", type=int, default=500, help=held_out_help)
    every_help = "steps between evaluations (default: 1000; for points alone, a tenth of the run)"
    parser.add_argument("--evaluate-every", type=int, help=every_help)
    parser.add_argument("--val", help="aflw2000:DIR: photographs to report on; never used to choose a checkpoint")
    for switch in ("cdsda", "cat", "thumbnail"):
        parser.add_argument(f"--no-{switch}", action="store_true", help=f"ablation: without {switch}")
    return parser.parse_args(arguments)


def labels_of(data: str) -> str:
    """What labels a `--data` has: `params` or `points`."""
    return "points" if data.partition(":")[0] in KINDS_WITH_POINTS else "params"


def config_of(options: argparse.Namespace) -> TrainConfig:
    """The named config with the command line's changes.

    Raises:
        InvalidInputError: There is no such config, or a number is out of range.
        FileNotFoundError, FileFormatError: As `load_config`.
    """
    config = load_config(options.config or ("fine_tune" if labels_of(options.data) == "points" else "edge"))
    off: dict[str, Any] = {name: False for name in ("cdsda", "cat", "thumbnail") if getattr(options, f"no_{name}")}
    names = ("steps", "batch_size", "micro_batch", "learning_rate", "seed")
    changes = {name: value for name in names if (value := getattr(options, name)) is not None}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **off), **changes)


def suited(config: TrainConfig, face_model: FaceModel, labels: str = "params") -> TrainConfig:
    """The config with as many coefficients as the face model has, and without flips where it can't mirror params."""
    counts: dict[str, Any] = {"shape_count": face_model.shape_count, "expression_count": face_model.expression_count}
    augment = config.augment
    if labels == "params" and not face_model.can_mirror:
        augment = dataclasses.replace(augment, flip_probability=0.0)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **counts), augment=augment)


def open_samples(
    options: argparse.Namespace, config: TrainConfig, face_model: FaceModel, team: Team
) -> tuple[Samples, Samples] | tuple[LandmarkSamples, LandmarkSamples]:
    """Samples to train on, and held-out ones.

    Raises:
        InvalidInputError: `--data` can't be meant, or has too few samples.
        MismatchError: Its labels are another face model's.
        FileNotFoundError, FileFormatError: A data set's file is missing or damaged.
    """
    size = image_size(config.model.input_size)
    if options.data.startswith("synthetic"):
        return _open_synthetic(options, face_model, size, team)
    kind, _, folder = options.data.partition(":")
    if kind not in KINDS_WITH_PARAMS + KINDS_WITH_POINTS or not folder:
        known = ", ".join(f"{name}:DIR" for name in KINDS_WITH_PARAMS + KINDS_WITH_POINTS)
        raise InvalidInputError(f"Expected synthetic:N[:CACHE] or one of {known} for --data, got '{options.data}'.")
    samples: Any = open_labelled(options.data, face_model, size=size, threads=options.workers)
    try:
        kept, held_out = hold_out(kind, samples.image_paths, options.held_out, HELD_OUT_SEED)
    except InvalidInputError as error:
        raise InvalidInputError(f"{options.data}: {error}") from None
    return samples.part(kept), samples.part(held_out)


def _open_synthetic(
    options: argparse.Namespace, face_model: FaceModel, size: int, team: Team
) -> tuple[SyntheticSamples, SyntheticSamples]:
    """One process of each machine renders what is missing."""
    bundled = load_face_model()
    if face_model.sha256 != bundled.sha256:
        raise MismatchError(
            f"Expected the bundled face model '{bundled.name}' for synthetic faces, got '{face_model.name}'; leave "
            "--face-model away, or give data that is labelled for it."
        )
    count, directory = parse_synthetic(options.data)

    def opened() -> tuple[SyntheticSamples, SyntheticSamples]:
        held_out = SyntheticSamples(options.held_out, directory, size=size, seed=HELD_OUT_SEED, assets=options.assets)
        return SyntheticSamples(count, directory, size=size, assets=options.assets), held_out

    if team.local_rank == 0:
        for part in opened():
            part.fill(workers=options.workers)
    team.wait()
    return opened()


def data_label(text: str) -> str:
    """What a checkpoint says of its data: no path in it."""
    kind, _, rest = text.partition(":")
    return f"{kind}:{rest.partition(':')[0] if kind == 'synthetic' else Path(rest).resolve().name}"


def starting_checkpoint(options: argparse.Namespace, face_model: FaceModel) -> Checkpoint | None:
    """The one that `--init` names.

    Raises:
        InvalidInputError: There is none, and the data's labels can't do without.
        FileNotFoundError, FileFormatError, MismatchError: As `load_checkpoint`.
    """
    if options.init:
        return load_checkpoint(options.init, face_model)
    if labels_of(options.data) == "points" and not options.resume:
        raise InvalidInputError(
            f"Expected --init CHECKPOINT with {options.data}, got none: points alone say too little of depth and shape "
            "to start from nothing; give a trained network, such as --init checkpoints/edge.pth."
        )
    return None


def open_run(options: argparse.Namespace, team: Team) -> Run:
    """The run that a command line asks for, its samples rendered."""
    face_model = load_face_model(options.face_model)
    labels = labels_of(options.data)
    config = suited(config_of(options), face_model, labels)
    start = starting_checkpoint(options, face_model)
    if start is not None:
        config = dataclasses.replace(config, model=start.config)
    state = claim_folder(options.out, config, face_model, resume=options.resume, labels=labels) if team.leads else None
    state = team.hand_out(state)
    photographs = None
    if options.val:
        kind, _, folder = options.val.partition(":")
        if kind != "aflw2000" or not folder:
            raise InvalidInputError(f"Expected aflw2000:DIR for --val, got '{options.val}'.")
        photographs = load_aflw2000(folder) if team.leads else None
    samples, held_out = open_samples(options, config, face_model, team)
    default_interval = max(1, config.steps // 10) if labels == "points" else 1000
    run_options = RunOptions(
        out=options.out,
        minutes=options.minutes,
        device=options.device,
        bf16=options.bf16,
        evaluate_every=options.evaluate_every or default_interval,
        data=data_label(options.data),
        command="python -m training.train " + " ".join(sys.argv[1:]),
    )
    return Run(config, samples, held_out, face_model, run_options, photographs, state, team, start)


def main(arguments: list[str] | None = None) -> int:
    """Train from the command line; 0, or 2 after an error's one line, or 130 if interrupted before the first step."""
    options = parse_arguments(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        options.device = pick_device(options.device)
        with join_team(options.device) as team:
            logging.basicConfig(level=logging.INFO if team.leads else logging.WARNING, format="%(asctime)s %(message)s")
            run = open_run(options, team)
            finished = run.train()
            for line in report_skipped(run.samples):
                logger.warning(line)
    except (ClnError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while samples are rendered; a run in progress takes it as its flag
        print("interrupted; what was rendered is kept", file=sys.stderr)
        return 130
    if finished:
        logger.info("done: best held-out NME %.3f %%, %s", run.best, options.out / "best.pth")
    else:
        logger.info("stopped at step %d; add --resume to go on", run.step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
