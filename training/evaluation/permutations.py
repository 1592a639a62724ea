"""Does it matter which fixed permutation the self-shuffle has in eval mode? A checkpoint with others.

Training draws a new permutation for every sample, so another fixed one should give the same accuracy but for noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from runtime.errors import InvalidInputError
from training.checkpoint import Checkpoint
from training.evaluation.metrics import YawBins


@dataclass(frozen=True, kw_only=True)
class Permuted:
    """The NME on one data set with another fixed permutation of the self-shuffle."""

    order: tuple[int, ...]
    thumbnail_cell: int
    nme: YawBins


def other_permutations(checkpoint: Checkpoint, count: int) -> Iterator[Checkpoint]:
    """The checkpoint with other fixed permutations, always the same ones; no cell stays where it was.

    Raises:
        InvalidInputError: The network shuffles nothing.
    """
    config = checkpoint.config
    if not config.cdsda:
        raise InvalidInputError("--permutations: expected a network with CDSDA, got one without; omit it.")
    random, cells = np.random.default_rng(0), config.grid**2
    for _ in range(count):
        order = random.permutation(cells)
        while (order == np.arange(cells)).any():
            order = random.permutation(cells)
        changed = dataclasses.replace(
            config, evaluation_order=tuple(order.tolist()), thumbnail_cell=int(random.integers(cells))
        )
        yield dataclasses.replace(checkpoint, config=changed)
