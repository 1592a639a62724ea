"""What a run learns from: faces with params, or faces with points alone.

Either kind says how samples become crops with their truth, which a thread does ahead of the network; how what the
network makes of these becomes losses; and how good a network is on the faces held out.

Points in the picture leave depth open, and many a coefficient. So a run on points alone starts from a trained network,
whose whitening it keeps, and is held near that network's own answers (`LossConfig.anchor`): those to the crop before
its looks are changed, where they are best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel
from training.config import TrainConfig
from training.data.landmarks import LandmarkLabels, LandmarkSamples, PointFace
from training.data.samples import Samples
from training.decoder import Decoder
from training.evaluation.accuracy import Accuracy, evaluate_synthetic
from training.evaluation.photographs import study_points
from training.evaluation.predictors import Predict
from training.learning.augment import augmented_crops, augmented_points
from training.learning.losses import FaceLoss, Losses, PointLoss, PointLosses
from training.model import CLN, reparameterize


@dataclass(frozen=True, kw_only=True, eq=False)
class ParamBatch:
    """Crops uint8 (B, S, S, 3) and their params (B, 62)."""

    crops: Tensor
    truth: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PointBatch:
    """Crops uint8 (B, S, S, 3), the same before their looks were changed, and their points."""

    crops: Tensor
    plain: Tensor
    truth: LandmarkLabels


Batch = ParamBatch | PointBatch


class Supervision(Protocol):
    """One kind of labels."""

    labels: str
    """`params` or `points`."""
    samples: Samples | LandmarkSamples
    """What is trained on."""

    def prepare(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Some samples' crops, by the generator's random numbers, on its device; any thread may call it."""

    def losses(self, batch: Any, whitened: Tensor, model: CLN) -> Losses | PointLosses:
        """Losses of the whitened params (B, 62) that `model` made of what `prepare` gave."""

    def accuracy(self, predict: Predict) -> Accuracy:
        """How near the faces held out come."""

    def state(self) -> dict[str, Tensor]:
        """Weights that a resumed run needs beside its network's."""


class ParamSupervision:
    """Faces with params: WPDC and Wing against them."""

    labels = "params"

    def __init__(
        self, config: TrainConfig, samples: Samples, held_out: Samples, face_model: FaceModel, device: torch.device
    ) -> None:
        """For samples, and others that are held out."""
        self.samples = samples
        self._config, self._held_out, self._face_model, self.device = config, held_out, face_model, device
        self._decoder = Decoder(face_model).to(device)
        self._loss = FaceLoss(config.loss, self._decoder, config.model.input_size)

    def prepare(self, indices: NDArray[np.int64], generator: torch.Generator) -> ParamBatch:
        """See `Supervision`."""
        images, params = (tensor.to(self.device) for tensor in self.samples.batch(indices))
        size, augment = self._config.model.input_size, self._config.augment
        with torch.no_grad():
            crops, truth = augmented_crops(images, params, self._decoder, size, augment, generator)
        return ParamBatch(crops=crops, truth=truth)

    def losses(self, batch: ParamBatch, whitened: Tensor, model: CLN) -> Losses:
        """See `Supervision`."""
        return self._loss(whitened, batch.truth, model.whiten, model.dewhiten)

    def accuracy(self, predict: Predict) -> Accuracy:
        """See `Supervision`."""
        return evaluate_synthetic(predict, self._config.model.input_size, self._face_model, self._held_out)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class PointSupervision:
    """Faces with points alone: Wing against the known ones, and an L2 anchor to the starting network's answers."""

    labels = "points"

    def __init__(
        self,
        config: TrainConfig,
        samples: LandmarkSamples,
        held_out: LandmarkSamples,
        face_model: FaceModel,
        device: torch.device,
        start: Mapping[str, Tensor] | None,
    ) -> None:
        """For samples, others that are held out, and the weights of the network that the run started from, if any.

        Raises:
            InvalidInputError: There are none, and `loss.anchor` needs them.
        """
        self.samples = samples
        self._config, self._held_out, self._face_model, self.device = config, held_out, face_model, device
        self._faces: list[PointFace] | None = None
        self._loss = PointLoss(config.loss, Decoder(face_model).to(device), config.model.input_size)
        self._start = dict(start or {})
        self._starting: CLN | None = None
        if self._start:
            network = CLN(config.model)
            network.load_state_dict(self._start)
            self._starting = reparameterize(network.eval()).to(device)
        elif config.loss.anchor:
            raise InvalidInputError(
                "loss.anchor: expected --init CHECKPOINT, whose answers hold those of the network, got none; give one, "
                "or set it to 0."
            )

    def prepare(self, indices: NDArray[np.int64], generator: torch.Generator) -> PointBatch:
        """See `Supervision`."""
        images, labels = (part.to(self.device) for part in self.samples.batch(indices))
        size, augment = self._config.model.input_size, self._config.augment
        with torch.no_grad():
            crops, plain, truth = augmented_points(images, labels, size, augment, generator)
        return PointBatch(crops=crops, plain=plain, truth=truth)

    def losses(self, batch: PointBatch, whitened: Tensor, model: CLN) -> PointLosses:
        """See `Supervision`."""
        with torch.no_grad():
            # Without an anchor its term is 0, and nobody waits for the starting network.
            anchored = self._starting is not None and self._loss.config.anchor
            starting = self._starting.forward_whitened(batch.plain) if anchored else whitened.detach()
        return self._loss(whitened, batch.truth, starting, model.dewhiten)

    def accuracy(self, predict: Predict) -> Accuracy:
        """See `Supervision`; faces whose image can't be read are left out, and counted."""
        if self._faces is None:
            self._faces = self._held_out.readable()
        size, scheme = self._config.model.input_size, self._held_out.scheme
        return study_points(predict, size, self._face_model, self._faces, scheme, progress=False).accuracy

    def state(self) -> dict[str, Tensor]:
        """The starting network's weights."""
        return self._start


def supervise(
    config: TrainConfig,
    samples: Samples | LandmarkSamples,
    held_out: Samples | LandmarkSamples,
    face_model: FaceModel,
    device: torch.device,
    start: Mapping[str, Tensor] | None = None,
) -> Supervision:
    """The supervision that samples call for; `start` holds the weights that a run on points alone began with."""
    if isinstance(samples, LandmarkSamples):
        return PointSupervision(config, samples, held_out, face_model, device, start)
    return ParamSupervision(config, samples, held_out, face_model, device)
