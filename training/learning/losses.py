"""The losses: 0.5 WPDC + 1 Wing (CLN, BMVC 2022 suppl.), and Wing with pose and form taken apart (this project's).

WPDC (weighted parameter distance cost, 3DDFA, arXiv 1511.07212) is a weighted square distance of whitened parameters;
a parameter weighs what its own error alone would move vertices. Wing (arXiv 1711.06753) is taken of landmark
coordinates in crop pixels: on whitened parameters it would never leave its logarithmic branch.

Where labels are points alone: Wing of the known ones in x and y, and an L2 anchor to the answers of the network that
the run started from, as points in the picture leave depth and many a coefficient open.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.face_model import POSE_SIZE
from training.config import LossConfig
from training.data.landmarks import LandmarkLabels
from training.decoder import Decoder, pose_scale

DETAIL_LANDMARKS = tuple(range(36, 68))
"""Eyelids and lips, iBUG numbering: a few pixels there are an expression, elsewhere noise."""


def wing(error: Tensor, width: float, curvature: float) -> Tensor:
    """Wing of an error, element by element: width * ln(1 + |e| / curvature) below `width`, |e| - C beyond."""
    size = error.abs()
    offset = width - width * math.log(1.0 + width / curvature)
    # Both branches are finite everywhere, so `where` passes on no NaN from the branch it drops.
    near = width * torch.log1p(size.clamp(max=width) / curvature)
    return torch.where(size < width, near, size - offset)


def wpdc_weights(error: Tensor, truth: Tensor, decoder: Decoder, vertices: Tensor) -> Tensor:
    """WPDC's weights (B, 12 + S + E), the largest of each sample 1; without gradient.

    Args:
        error: Physical parameters' error (B, 12 + S + E).
        truth: True physical parameters; shape and scale are the sample's own.
        decoder: The face model.
        vertices: Vertices (V,) whose movement counts beside that of the 68 landmarks.
    """
    with torch.no_grad():
        points = torch.cat(
            [decoder.model_points(truth), decoder.model_points(truth, vertices)], dim=1
        )  # (B, 68 + V, 3)
        axis = points.square().sum(dim=1).sqrt()  # (B, 3): norm of all x, of all y, of all z
        shift = torch.full_like(axis[:, :1], math.sqrt(points.shape[1]))
        row = torch.cat([axis, shift], dim=1)  # (B, 4)
        depth_row = torch.cat([axis, torch.zeros_like(shift)], dim=1)  # t_z is a convention, not a measurement
        modes = torch.cat([decoder.basis_of()[1], decoder.basis_of(vertices)[1]], dim=1)  # (S + E, 68 + V, 3)
        mode_norms = modes.flatten(1).norm(dim=1)  # (S + E,)
        form = pose_scale(truth)[:, None] * mode_norms
        moved = error.abs() * torch.cat([row, row, depth_row, form], dim=1)
        return moved / moved.amax(dim=1, keepdim=True).clamp(min=torch.finfo(moved.dtype).tiny)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The terms of one batch, each a scalar, and their weighted sum."""

    total: Tensor
    wpdc: Tensor
    wing: Tensor
    disentangled: Tensor


@dataclass(frozen=True, kw_only=True)
class PointLosses:
    """The terms of one batch that is labelled with points alone, each a scalar, and their weighted sum."""

    total: Tensor
    wing: Tensor
    anchor: Tensor


def landmark_weights(config: LossConfig, decoder: Decoder) -> Tensor:
    """How much each of the 68 landmarks counts (68,)."""
    weights = torch.ones(len(decoder.landmark_mean), device=decoder.mean.device)
    if len(weights) > max(DETAIL_LANDMARKS):
        weights[list(DETAIL_LANDMARKS)] = config.detail_weight
    return weights


class FaceLoss:
    """The training loss of whitened predictions against physical parameters."""

    def __init__(self, config: LossConfig, decoder: Decoder, input_size: int) -> None:
        """Losses for crops of `input_size` pixels."""
        self.config = config
        self.decoder = decoder
        self.to_reference = config.wing_reference_size / input_size
        weights = landmark_weights(config, decoder)
        axes = torch.tensor([1.0, 1.0, config.depth_weight], device=weights.device)
        weighting = weights[:, None] * axes  # (68, 3)
        self.weighting = weighting / weighting.sum()

    def __call__(
        self,
        whitened: Tensor,
        truth: Tensor,
        whiten: Callable[[Tensor], Tensor],
        dewhiten: Callable[[Tensor], Tensor],
    ) -> Losses:
        """Losses of whitened predictions (B, 62) against true physical parameters (B, 62)."""
        predicted = dewhiten(whitened)
        wpdc = self.wpdc(whitened, predicted, truth, whiten)
        landmarks = self.landmark_wing(predicted, predicted, truth)
        if self.config.disentangled:
            apart = self.landmark_wing(predicted, truth, truth) + self.landmark_wing(truth, predicted, truth)
        else:
            apart = torch.zeros_like(landmarks)
        total = self.config.wpdc * wpdc + self.config.wing * landmarks + self.config.disentangled * apart
        return Losses(total=total, wpdc=wpdc, wing=landmarks, disentangled=apart)

    def wpdc(self, whitened: Tensor, predicted: Tensor, truth: Tensor, whiten: Callable[[Tensor], Tensor]) -> Tensor:
        """Sum over the parameters, mean over the batch; the 68 landmarks and some random vertices weigh."""
        count, device = self.decoder.vertex_count, truth.device
        chosen = torch.randint(count, (self.config.wpdc_vertices,), device=device)
        weights = wpdc_weights(predicted.detach() - truth, truth, self.decoder, chosen)
        return (weights * (whitened - whiten(truth)).square()).sum(dim=1).mean()

    def landmark_wing(self, pose: Tensor, form: Tensor, truth: Tensor) -> Tensor:
        """Wing of the landmarks with one parameters' pose and another's shape and expression, weighted mean."""
        mixed = torch.cat([pose[:, :POSE_SIZE], form[:, POSE_SIZE:]], dim=1)
        error = (self.decoder.landmarks(mixed) - self.decoder.landmarks(truth)) * self.to_reference
        penalty = wing(error, self.config.wing_width, self.config.wing_curvature)  # (B, 68, 3)
        return (penalty * self.weighting).sum(dim=(1, 2)).mean()


class PointLoss:
    """The training loss of whitened predictions against points, for a run that starts from a trained network.

    Each known point counts the same, whichever sample it is of: one with few of them counts as little as it says.
    """

    def __init__(self, config: LossConfig, decoder: Decoder, input_size: int) -> None:
        """Losses for crops of `input_size` pixels."""
        self.config = config
        self.decoder = decoder
        self.to_reference = config.wing_reference_size / input_size
        self.weights = landmark_weights(config, decoder)

    def __call__(
        self, whitened: Tensor, labels: LandmarkLabels, starting: Tensor, dewhiten: Callable[[Tensor], Tensor]
    ) -> PointLosses:
        """Losses of whitened predictions (B, 62) against points, and against the starting network's answers (B, 62)."""
        points = self.point_wing(dewhiten(whitened), labels)
        anchor = (whitened - starting).square().sum(dim=1).mean()
        return PointLosses(total=self.config.wing * points + self.config.anchor * anchor, wing=points, anchor=anchor)

    def point_wing(self, predicted: Tensor, labels: LandmarkLabels) -> Tensor:
        """Wing of the known points in x and y; the weights of all points, known or not, add up to 1."""
        error = (labels.of(self.decoder.landmarks(predicted)) - labels.points) * self.to_reference
        penalty = wing(error, self.config.wing_width, self.config.wing_curvature).mean(dim=2)  # (B, K)
        weights = torch.from_numpy(labels.scheme.mixing).to(self.weights) @ self.weights  # (K,)
        return (penalty * labels.weights * (weights / weights.sum())).sum(dim=1).mean()
