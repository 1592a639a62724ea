"""What a run learns from: one source of labelled faces, or several, each with its share of every batch.

Renders know everything of a face, photographs what somebody marked in them. In a mixture every part of a batch holds
faces of each source, in the same numbers; they go through the network together, and each source's faces have the loss
that their labels allow. The losses add up as their faces do, so a face counts the same whatever its source, but for
`LossConfig.points`, the weight of a face that is labelled with points alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel
from training.config import TrainConfig
from training.data.landmarks import LandmarkSamples
from training.data.samples import Samples
from training.evaluation.accuracy import Accuracy
from training.evaluation.predictors import Predict
from training.learning.supervision import Batch, ParamSupervision, supervise
from training.model import CLN


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Labelled faces to learn from."""

    samples: Samples | LandmarkSamples
    held_out: Samples | LandmarkSamples
    """Faces that are kept from training."""
    share: float = 1.0
    """Of a batch, relative to the other sources'."""
    name: str = "data"
    """In a log."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedBatch:
    """All crops of a part of a batch, uint8 (B, S, S, 3), source by source, and each source's batch."""

    crops: Tensor
    batches: tuple[Batch, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepLosses:
    """A batch's loss and its terms, scalars; in a mixture a term's name has its source's before it."""

    total: Tensor
    terms: Mapping[str, Tensor]

    def detach(self) -> StepLosses:
        """The same, without gradient."""
        return StepLosses(total=self.total.detach(), terms={name: term.detach() for name, term in self.terms.items()})


def mean_losses(losses: Sequence[StepLosses]) -> StepLosses:
    """The mean of each term."""
    names = losses[0].terms
    return StepLosses(
        total=torch.stack([one.total for one in losses]).mean(),
        terms={name: torch.stack([one.terms[name] for one in losses]).mean() for name in names},
    )


def deal(count: int, shares: Sequence[float]) -> list[int]:
    """`count` faces dealt out by shares, the largest remainders first.

    Raises:
        InvalidInputError: A source would get none.
    """
    exact = np.array(shares, dtype=np.float64) / sum(shares) * count
    dealt = np.floor(exact).astype(int)
    dealt[np.argsort(dealt - exact, kind="stable")[: count - dealt.sum()]] += 1
    if min(dealt) < 1:
        raise InvalidInputError(
            f"Expected a share of at least one of the {count} faces that go through the network at once for each "
            f"--data, got {', '.join(map(str, dealt))}; give larger shares, or a larger batch_size or micro_batch."
        )
    return dealt.tolist()


class Mixture:
    """The sources of a run, and what they teach."""

    def __init__(
        self,
        config: TrainConfig,
        sources: Sequence[Source],
        face_model: FaceModel,
        device: torch.device,
        parts: int,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        """For a batch in `parts` parts; `start` holds the weights that a run with an anchor began with."""
        self.sources = tuple(sources)
        self._config, self._parts = config, parts
        self._counts = deal(config.batch_size // parts, [source.share for source in sources])
        self.supervisions = [
            supervise(config, source.samples, source.held_out, face_model, device, start) for source in sources
        ]
        repeated = Counter(source.name for source in sources)
        self._names = [
            source.name if repeated[source.name] == 1 else f"{source.name}_{number}"
            for number, source in enumerate(sources, start=1)
        ]
        counts = [count / sum(self._counts) for count in self._counts]
        self._weights = [
            share * (config.loss.points if supervision.labels == "points" and len(sources) > 1 else 1.0)
            for share, supervision in zip(counts, self.supervisions, strict=True)
        ]

    def __len__(self) -> int:
        """Number of samples of all sources."""
        return sum(len(source.samples) for source in self.sources)

    @property
    def labels(self) -> str:
        """What each source's faces are labelled with."""
        return " + ".join(supervision.labels for supervision in self.supervisions)

    @property
    def with_params(self) -> ParamSupervision | None:
        """The first source whose labels are params."""
        return next((one for one in self.supervisions if isinstance(one, ParamSupervision)), None)

    def indices(self, step: int, part: int) -> list[NDArray[np.int64]]:
        """Which samples of each source a part of a step has."""
        seed = self._config.seed
        return [
            step_indices(
                len(source.samples), count * self._parts, (seed, number) if number else (seed,), step, part, self._parts
            )
            for number, (source, count) in enumerate(zip(self.sources, self._counts, strict=True))
        ]

    def prepare(self, step: int, part: int, generator: torch.Generator) -> MixedBatch:
        """A part's crops, by the generator's random numbers, on its device; any thread may call it."""
        pairs = zip(self.supervisions, self.indices(step, part), strict=True)
        batches = tuple(supervision.prepare(indices, generator) for supervision, indices in pairs)
        crops = batches[0].crops if len(batches) == 1 else torch.cat([batch.crops for batch in batches])
        return MixedBatch(crops=crops, batches=batches)

    def losses(self, batch: MixedBatch, forward: Callable[[Tensor], Tensor], model: CLN) -> StepLosses:
        """Losses of what `prepare` gave; `forward` is the training step's way through `model`, to whitened params."""
        rows = forward(batch.crops).split([len(one.crops) for one in batch.batches])
        total, terms = batch.crops.new_zeros((), dtype=torch.float32), {}
        for supervision, one, whitened, weight, name in zip(
            self.supervisions, batch.batches, rows, self._weights, self._names, strict=True
        ):
            losses = supervision.losses(one, whitened, model)
            total = total + weight * losses.total
            prefix = f"{name}_" if len(rows) > 1 else ""
            terms |= {
                f"{prefix}{field.name}": getattr(losses, field.name)
                for field in dataclasses.fields(losses)
                if field.name != "total"
            }
        return StepLosses(total=total, terms=terms)

    def accuracy(self, predict: Predict) -> dict[str, Accuracy]:
        """How near each source's held-out faces come, by its name."""
        pairs = zip(self._names, self.supervisions, strict=True)
        return {name: supervision.accuracy(predict) for name, supervision in pairs}

    def mean_nme(self, accuracies: Mapping[str, Accuracy]) -> float:
        """The NME that chooses the best checkpoint: the sources' mean, each by its share of a batch."""
        values = [accuracies[name].nme.mean for name in self._names]
        return float(np.average([np.nan if value is None else value for value in values], weights=self._counts))

    def state(self) -> dict[str, Tensor]:
        """Weights that a resumed run needs beside its network's."""
        return next((state for one in self.supervisions if (state := one.state())), {})


def step_indices(
    count: int, batch: int, seed: Sequence[int], step: int, part: int = 0, parts: int = 1
) -> NDArray[np.int64]:
    """The samples of one of a step's parts, or of the whole step.

    They are consecutive in one random permutation for each epoch, and sorted for the disk's sake.
    """
    size = batch // parts
    start = step * batch + part * size
    positions = np.arange(start, start + size)
    epochs = positions // count
    picked = [
        np.random.default_rng((*seed, int(epoch))).permutation(count)[positions[epochs == epoch] % count]
        for epoch in np.unique(epochs)
    ]
    return np.sort(np.concatenate(picked))
