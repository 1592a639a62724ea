"""A training run: its steps, its evaluations, its files.

Each part of a step's batch (all of it, or `micro_batch` samples) seeds its generators from the run's seed and the
numbers of step and part, which also pick its samples. So it is all one whether a thread prepares batches ahead
(`training.learning.read_ahead`) or a step waits for its own; a resumed run ends with the weights of one that was never
stopped (the same machine and thread count given; on a GPU up to its rounding), and several processes
(`training.learning.distributed`) with those of one.

With a GPU the network, the batches and the losses are on it, and the streams run in mixed precision: bfloat16 where the
GPU has it, else float16 with a scaled loss. Head, losses and weights are float32 everywhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from runtime.errors import ClnError, FileFormatError, InvalidInputError
from runtime.face_model import FaceModel
from runtime.files import write_atomically
from training.checkpoint import Checkpoint, dump, save_checkpoint
from training.config import TrainConfig
from training.data.aflw2000 import AnnotatedFace
from training.evaluation.photographs import study_photographs
from training.evaluation.predictors import Predict, torch_predictor
from training.learning.distributed import ProcessGroup, gradients_kept
from training.learning.forward import Forward, compiled, stream_dtype
from training.learning.interruption import interruption
from training.learning.log import RECORD_NAME, MetricsLog, NoLog, accuracy_figures, loss_figures, source_revision
from training.learning.mixture import MixedBatch, Mixture, Source, StepLosses, mean_losses
from training.learning.optimization import Average, learning_rate, make_optimizer
from training.learning.read_ahead import ReadAhead
from training.learning.state import STATE_FORMAT, STATE_NAME, plain
from training.model import CLN

logger = logging.getLogger(__name__)

WHITENING_SAMPLES = 2000
_BAD_STEPS = 20
"""Steps with a gradient that isn't finite that are skipped in a row before the run gives up."""
_OF_CROPS = 0x5DEECE66D


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run needs beside its config; of it `device`, `bf16` and `compile` alone change a run's weights."""

    out: Path
    minutes: float | None = None
    """Stop after so many minutes as if interrupted."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    bf16: bool = False
    """On the CPU, autocast the streams to bfloat16; head, losses and weights stay in float32. A GPU always mixes."""
    compile: bool = False
    """Compile the step (torch.compile): minutes before the first one, then faster."""
    log_every: int = 50
    evaluate_every: int = 1000
    data: str = ""
    command: str = ""
    tensorboard: bool = True


class Run:
    """One training run: network, optimiser, average, and where they stand."""

    def __init__(
        self,
        config: TrainConfig,
        sources: Sequence[Source],
        face_model: FaceModel,
        options: RunOptions,
        photographs: list[AnnotatedFace] | None = None,
        state: Mapping[str, Any] | None = None,
        processes: ProcessGroup | None = None,
        start: Checkpoint | None = None,
    ) -> None:
        """Set up a new run, perhaps with a checkpoint's weights, or go on from a state (see `open_run_folder`).

        A run without any source of params needs one or the other.
        """
        self.config, self.options, self.face_model = config, options, face_model
        self.processes = processes or ProcessGroup()
        self.parts = config.batch_size // config.micro_batch if config.micro_batch else self.processes.size
        self.own_parts = self.processes.share(self.parts)
        if config.batch_size % self.parts:
            raise InvalidInputError(f"Expected a batch_size that is a multiple of {self.parts} processes.")
        self.photographs, self.fine_tunes = photographs, start is not None
        self.device = torch.device(options.device)
        self.stream_dtype = stream_dtype(self.device, bf16=options.bf16)
        # Float16 gradients vanish below 6e-8: the loss is scaled up, and the gradients back before they are clipped.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.stream_dtype == torch.float16)
        began = (start and start.state_dict) if state is None else state.get("start")
        self.mixture = Mixture(config, sources, face_model, self.device, self.parts, began)
        torch.manual_seed(config.seed)
        self.model = CLN(config.model).to(self.device, memory_format=torch.channels_last)
        if start is not None:
            self.model.load_state_dict(dict(start.state_dict))
        elif state is None:
            self.model.set_whitening(*label_statistics(self.mixture, config.seed))
        step_forward = Forward(self.model, self.stream_dtype)
        self.forward = self.processes.wrap(compiled(step_forward, self.device) if options.compile else step_forward)
        self.optimizer = make_optimizer(config, self.model)
        self.step, self.best, self.bad_steps = 0, math.inf, 0
        if state is None:
            self.average = Average(self.model, config.ema_decay)
        else:
            try:
                self._restore(state)
            except ClnError:
                raise
            except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise FileFormatError(
                    f"{self.options.out / STATE_NAME}: expected a whole training state, got one that is not ({error}); "
                    "start again."
                ) from error

    def train(self) -> bool:
        """Go on to the last step; False if interrupted before it."""
        started, first = time.monotonic(), self.step
        limit = math.inf if self.options.minutes is None else self.options.minutes * 60
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(interruption(patient=self.processes.size > 1))
            log = stack.enter_context(self._log())
            if self.fine_tunes and self.step == 0 and self.processes.leads:
                log.write(0, self.evaluate())  # what is to be beaten
            bar = tqdm(
                total=self.config.steps,
                initial=self.step,
                unit="step",
                disable=None if self.processes.leads else True,
                smoothing=0.05,
            )
            ahead = stack.enter_context(self._reading_ahead())
            while self.step < self.config.steps:
                if self.processes.any(stop.is_set or time.monotonic() - started >= limit):
                    break
                losses = self.train_step(ahead)
                bar.update()
                if self.step % self.options.log_every == 0:
                    rate = (self.step - first) * self.config.batch_size / (time.monotonic() - started)
                    self.processes.average([losses.total, *losses.terms.values()])
                    log.write(self.step, loss_figures(losses, learning_rate(self.config, self.step - 1), rate))
                if self.step % self.options.evaluate_every == 0 or self.step == self.config.steps:
                    if self.processes.leads:
                        log.write(self.step, self.evaluate())
                    self.save()
            bar.close()
            self.save()
        return self.step >= self.config.steps

    def train_step(self, ahead: ReadAhead[tuple[int, int], MixedBatch] | None = None) -> StepLosses:
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

    def prepare(self, key: tuple[int, int]) -> MixedBatch:
        """The batch of a step and one of its parts; any thread may call it."""
        return self.mixture.prepare(*key, part_generator(self.device, self.config.seed, *key))

    def evaluate(self) -> dict[str, float]:
        """Figures of the averaged weights; keeps the checkpoint when it is the best on held-out faces."""
        predict, size = torch_predictor(self.average.model), self.config.model.input_size
        figures = self._held_out_figures(predict)
        if self.photographs:
            real = study_photographs(predict, size, self.face_model, self.photographs, progress=False)
            figures |= accuracy_figures("photographs", real.accuracy)
        logger.info("step %d: %s", self.step, ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
        if figures["held_out_nme"] < self.best:
            self.best = figures["held_out_nme"]
            save_checkpoint(self.options.out / "best.pth", self.checkpoint(figures))
        return figures

    def _held_out_figures(self, predict: Predict) -> dict[str, float]:
        accuracies = self.mixture.accuracy(predict)
        if len(accuracies) == 1:
            return accuracy_figures("held_out", *accuracies.values())
        figures = {"held_out_nme": self.mixture.mean_nme(accuracies)}
        for name, accuracy in accuracies.items():
            figures |= accuracy_figures(f"held_out_{name}", accuracy)
        return figures

    def checkpoint(self, figures: Mapping[str, float]) -> Checkpoint:
        """The averaged weights with what belongs to them."""
        training = {
            "config": plain(self.config.to_dict()),
            "step": self.step,
            "samples": len(self.mixture),
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
        if not self.processes.leads:
            return
        state = {
            "format": STATE_FORMAT,
            "model_config": self.config.model.to_dict(),
            "config": plain(self.config.to_dict()),
            "face_model_sha256": self.face_model.sha256,
            "labels": self.mixture.labels,
            "start": self.mixture.state(),
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        write_atomically(self.options.out / STATE_NAME, dump(state))

    def _reading_ahead(self) -> ReadAhead[tuple[int, int], MixedBatch]:
        keys = ((step, part) for step in range(self.step, self.config.steps) for part in self.own_parts)
        return ReadAhead(self.prepare, keys)

    def _backward(self, batch: MixedBatch) -> StepLosses:
        """Add one part's share of the batch's gradient."""
        losses = self.mixture.losses(batch, self.forward, self.model)
        self.scaler.scale(losses.total / len(self.own_parts)).backward()
        return losses.detach()

    def _log(self) -> MetricsLog | NoLog:
        """Where the figures go: nowhere but in the first process."""
        if not self.processes.leads:
            return NoLog()
        record = {
            "config": plain(self.config.to_dict()),
            "command": self.options.command,
            "revision": source_revision(),
            "torch": torch.__version__,
            "device": self.options.device,
            "processes": self.processes.size,
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
        for weight, moments in self.optimizer.state.items():  # of a 1x1 convolution that is a linear layer now
            moments |= {name: m.view_as(weight) for name, m in moments.items() if m is not None and m.dim() == 4}
        self.scaler.load_state_dict(state.get("scaler") or self.scaler.state_dict())
        self.step, self.best = int(state["step"]), float(state["best"])

    def _apply(self, step: int, before: Sequence[Tensor]) -> None:
        """Move the weights, or leave all as it was `before` the step, the statistics of batch norm too."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        self.processes.average(statistics)
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


def part_seed(seed: int, step: int, part: int = 0) -> int:
    """Make all that a part of a step draws a function of the run's seed, the step and the part."""
    return ((seed * 1_000_003 + step) * 2_654_435_761 + part * 7_778_742_049) % 2**63


def part_generator(device: torch.device, seed: int, step: int, part: int = 0) -> torch.Generator:
    """What a part's crops are drawn with; other numbers than those that the network draws, from torch's own."""
    return torch.Generator(device).manual_seed(part_seed(seed, step, part) ^ _OF_CROPS)


def label_statistics(mixture: Mixture, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (62,) of some params as training will see them, those of the first that has any.

    Raises:
        InvalidInputError: All labels are points alone.
    """
    supervision = mixture.with_params
    if supervision is None:
        raise InvalidInputError("Expected labels with params, or a trained network's whitening, got points alone.")
    generator = part_generator(supervision.device, seed, -1)
    total = len(supervision.samples)
    count = min(total, WHITENING_SAMPLES)
    spread = np.arange(count) * total // count  # a set's parts lie one after the other
    chunks = (spread[start : start + 100] for start in range(0, count, 100))
    return whitening(torch.cat([supervision.prepare(chunk, generator).truth for chunk in chunks]))


def whitening(params: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (62,) of parameters (N, 62); a constant one (t_z) gets exactly 0 deviation."""
    mean, std = params.double().mean(dim=0), params.double().std(dim=0, correction=0)
    constant = std < 1e-6 * mean.abs().clamp(min=1.0)
    return mean.float(), torch.where(constant, torch.zeros_like(std), std).float()


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether there is neither NaN nor infinity in any of them."""
    return bool(torch.cat([tensor.flatten() for tensor in tensors]).isfinite().all())
