"""The 3DMM in torch, for the losses: the same file and the same frames as `runtime.face_model`, and differentiable.

params (B, 12 + S + E): row-major 3x4 matrix P (model millimetres to crop pixels), shape, then expression coefficients.
points = (mean + sum_k coefficient_k * mode_k) @ P[:, :3].T + P[:, 3], crop frame: x right, y down, z to the viewer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from runtime.face_model import POSE_SIZE, FaceModel


def pose_matrix(params: Tensor) -> Tensor:
    """The pose (B, 3, 4) that opens the parameters (B, 12 or more)."""
    return params[:, :POSE_SIZE].reshape(-1, 3, 4)


def pose_scale(params: Tensor) -> Tensor:
    """Scale of the pose in pixels per millimetre (B,): the quadratic mean of the singular values of P[:, :3]."""
    return (pose_matrix(params)[:, :, :3].square().sum(dim=(1, 2)) / 3.0).sqrt()


class Decoder(nn.Module):
    """Decodes landmarks, or any vertices, of a batch of parameters."""

    mean: Tensor
    modes: Tensor
    landmark_mean: Tensor
    landmark_modes: Tensor
    mirror_signs: Tensor

    def __init__(self, face_model: FaceModel) -> None:
        """Keep the model's mean (N, 3) and modes (S + E, N, 3) as buffers."""
        super().__init__()
        modes = np.concatenate([face_model.shape_basis, face_model.expression_basis])
        # A mirrored face has each coefficient times its sign. Where signs are unknown (0), a mirrored label is NaN, so
        # that it can't pass for a mean face.
        signs = np.concatenate([face_model.shape_mirror, face_model.expression_mirror])
        signs = np.where(signs == 0, np.float32("nan"), signs).astype(np.float32)
        self.register_buffer("mean", torch.tensor(face_model.mean))
        self.register_buffer("modes", torch.tensor(modes))
        self.register_buffer("landmark_mean", torch.tensor(face_model.at_landmarks(face_model.mean)))
        self.register_buffer("landmark_modes", torch.tensor(face_model.at_landmarks(modes)))
        self.register_buffer("mirror_signs", torch.tensor(signs))

    @property
    def vertex_count(self) -> int:
        """N, the model's number of vertices."""
        return self.mean.shape[0]

    def basis_of(self, vertices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean (V, 3) and modes (S + E, V, 3) of vertices (V,), by default of the 68 landmarks."""
        if vertices is None:
            return self.landmark_mean, self.landmark_modes
        return self.mean[vertices], self.modes[:, vertices]

    def model_points(self, params: Tensor, vertices: Tensor | None = None) -> Tensor:
        """Vertices (V,), the landmarks by default, in the model frame: (B, V, 3) millimetres."""
        mean, modes = self.basis_of(vertices)
        points = mean.flatten() + params[:, POSE_SIZE:] @ modes.flatten(1)
        return points.reshape(len(params), len(mean), 3)

    def place(self, params: Tensor, model_points: Tensor) -> Tensor:
        """Points (B, V, 3) of the model frame in the crop frame, by the pose of `params`."""
        pose = pose_matrix(params)
        return model_points @ pose[:, :, :3].transpose(1, 2) + pose[:, None, :, 3]

    def landmarks(self, params: Tensor) -> Tensor:
        """The 68 landmarks (B, 68, 3) in the crop frame."""
        return self.place(params, self.model_points(params))
