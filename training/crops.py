"""From a batch of wider images to a batch of crops, image and label by one map. Pure torch.

Images uint8 (B, W, W, 3), BGR, with params (B, 62) in their pixel frame (0-based, x right, y down) become crops uint8
(B, S, S, 3) with params in the crop's frame. The crop is the landmarks' region (`runtime.roi`: the box's middle, sqrt 2
times its longer side) after a turn of the image, jittered; beyond its edges the image is mirrored (a smear, as the
runtime's replicated pixels are, would give a turn away). With points as labels it is the image's middle, W / MARGIN
pixels, whatever the turn: the known points need not span the face.

A map of the image is x' = A x + b with A = scale * rotation * (mirror); labels follow exactly (`transform_params`,
`LandmarkLabels.moved`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from runtime.face_model import POSE_SIZE
from training.data.landmarks import LandmarkLabels
from training.data.samples import MARGIN
from training.decoder import Decoder, pose_matrix

_ROI_FACTOR = math.sqrt(2.0)


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """How each sample's crop departs from its landmarks' region, tensors (B,)."""

    angle: Tensor
    """Radians the image is turned by, from x towards y (clockwise as seen)."""
    zoom: Tensor
    """Factor on the region's side: above 1, the face gets smaller."""
    shift_x: Tensor
    """Shift of the region as a share of its side."""
    shift_y: Tensor
    flip: Tensor
    """Bool: mirrored left to right."""


def no_jitter(batch: int, device: torch.device | None = None) -> Jitter:
    """The landmarks' region itself."""
    zero = torch.zeros(batch, device=device)
    return Jitter(angle=zero, zoom=zero + 1.0, shift_x=zero, shift_y=zero, flip=zero.bool())


def mirror_params(params: Tensor, width: int, decoder: Decoder) -> Tensor:
    """Params (B, 62) of the images mirrored left to right, x' = width - 1 - x: D P D with D = diag(-1, 1, 1)."""
    sign = torch.ones(3, 4, device=params.device)
    sign[0, 1:] = -1.0
    sign[1:, 0] = -1.0
    pose = pose_matrix(params) * sign
    shift = torch.zeros_like(pose)
    shift[:, 0, 3] = width - 1.0
    return torch.cat([(pose + shift).flatten(1), params[:, POSE_SIZE:] * decoder.mirror_signs], dim=1)


def transform_params(params: Tensor, rotation: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Params (B, 62) after x' = scale * rotation @ x + offset of the image.

    Args:
        params: Parameters in the frame before.
        rotation: Proper 2D rotations (B, 2, 2).
        scale: (B,); z scales too.
        offset: (B, 2).
    """
    pose = pose_matrix(params)
    plane = scale[:, None, None] * (rotation @ pose[:, :2])  # (B, 2, 4)
    plane = torch.cat([plane[:, :, :3], plane[:, :, 3:] + offset[:, :, None]], dim=2)
    depth = scale[:, None, None] * pose[:, 2:]
    return torch.cat([torch.cat([plane, depth], dim=1).flatten(1), params[:, POSE_SIZE:]], dim=1)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where each image's crop lies: x' = scale * rotation @ mirror(x) + offset, tensors of B rows."""

    rotation: Tensor  # (B, 2, 2)
    scale: Tensor  # (B,)
    offset: Tensor  # (B, 2)
    flip: Tensor  # bool (B,)


def turn(angle: Tensor) -> Tensor:
    """Rotation matrices (B, 2, 2) of angles (B,) from x towards y."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)


def place(center: Tensor, side: Tensor, size: int, jitter: Jitter) -> Placement:
    """The jittered crops of `size` pixels of regions, which are of the image after its mirroring and its turn.

    Args:
        center: Middles (B, 2).
        side: (B,).
        size: Of the crops.
        jitter: What was drawn.
    """
    side = side * jitter.zoom
    center = center + torch.stack([jitter.shift_x, jitter.shift_y], dim=1) * side[:, None]
    scale = size / side
    offset = (size - 1) / 2 - scale[:, None] * center
    return Placement(rotation=turn(jitter.angle), scale=scale, offset=offset, flip=jitter.flip)


def crop_batch(images: Tensor, params: Tensor, decoder: Decoder, size: int, jitter: Jitter) -> tuple[Tensor, Tensor]:
    """Crops float32 (B, 3, S, S), 0..255, and their params, of images uint8 (B, W, W, 3) and params (B, 62)."""
    params = torch.where(jitter.flip[:, None], mirror_params(params, images.shape[2], decoder), params)
    turned = decoder.landmarks(params)[:, :, :2] @ turn(jitter.angle).transpose(1, 2)
    low, high = turned.amin(dim=1), turned.amax(dim=1)
    placed = place((low + high) / 2, (high - low).amax(dim=1) * _ROI_FACTOR, size, jitter)
    return resample(images, placed, size), transform_params(params, placed.rotation, placed.scale, placed.offset)


def crop_points(images: Tensor, labels: LandmarkLabels, size: int, jitter: Jitter) -> tuple[Tensor, LandmarkLabels]:
    """Crops float32 (B, 3, S, S), 0..255, and their labels, of images uint8 (B, W, W, 3) and labels."""
    batch, width = len(images), images.shape[2]
    middle = torch.full((batch, 1, 2), (width - 1) / 2, device=images.device)  # a mirrored image's, too
    center = (middle @ turn(jitter.angle).transpose(1, 2))[:, 0]
    placed = place(center, torch.full((batch,), width / MARGIN, device=images.device), size, jitter)
    moved = labels.mirrored_where(jitter.flip, width).moved(
        placed.scale[:, None, None] * placed.rotation, placed.offset
    )
    return resample(images, placed, size), moved


def resample(images: Tensor, placed: Placement, size: int) -> Tensor:
    """Bilinear crops float32 (B, 3, S, S), 0..255, of images uint8 (B, W, W, 3)."""
    width = images.shape[2]
    axis = torch.arange(size, device=images.device, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(1, -1, 2)  # (1, S * S, 2)
    # Row vectors times the rotation are column vectors times its transpose, its inverse.
    source = ((grid - placed.offset[:, None]) / placed.scale[:, None, None]) @ placed.rotation
    x = torch.where(placed.flip[:, None], width - 1 - source[..., 0], source[..., 0])
    unit = (torch.stack([x, source[..., 1]], dim=-1) * 2 + 1) / width - 1  # pixel centres at half-integers
    pixels = images.permute(0, 3, 1, 2).float()
    unit = unit.reshape(-1, size, size, 2)
    return functional.grid_sample(pixels, unit, mode="bilinear", padding_mode="reflection", align_corners=False)


def to_uint8(crops: Tensor) -> Tensor:
    """Float (B, 3, S, S), 0..255 -> uint8 (B, S, S, 3), as the network takes them."""
    return crops.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def aligned_crops(images: Tensor, params: Tensor, decoder: Decoder, size: int) -> tuple[Tensor, Tensor]:
    """Crops uint8 (B, S, S, 3) at the landmarks' regions, and their params: what an evaluation sees."""
    crops, labels = crop_batch(images, params, decoder, size, no_jitter(len(images), images.device))
    return to_uint8(crops), labels
