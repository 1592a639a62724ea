"""How weights move: the learning rate, the optimiser, the average of weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from training.config import TrainConfig
from training.model import CLN


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then the config's schedule: half a cosine to zero at the last step, or steps down."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    share = min(1.0, step / config.steps)
    if config.schedule == "step":
        return config.learning_rate * warm * config.decay ** sum(share >= mark for mark in config.milestones)
    return config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * share))


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The config's optimiser; norms, biases and the position embedding decay only if the config says so."""
    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 and not name.endswith("position")]
    rest = [p for name, p in model.named_parameters() if p.dim() <= 1 or name.endswith("position")]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": config.weight_decay if config.decay_norms_and_biases else 0.0},
    ]
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
