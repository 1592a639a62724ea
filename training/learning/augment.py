"""The random changes of training crops: where a region lies, and how it looks.

All randomness comes from the generator that is handed in, which the training loop seeds for each part of a step; its
device is the images'. torchvision's v2 transforms are not used: they change a whole batch by one set of random numbers,
and each sample needs its own here, in the image and in a label of a kind that they don't know.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

from training.config import AugmentConfig
from training.crops import Jitter, crop_batch, crop_points, to_uint8
from training.data.landmarks import LandmarkLabels
from training.decoder import Decoder, pose_matrix

_GREY = (0.114, 0.587, 0.299)  # BT.601 weights of B, G, R
_SIDES = 16  # of the polygon around a face
_CONTEXT_GAP = 0.35  # of the landmarks' largest distance from their middle: how far from them a side may lie
_SEAM = 6.0  # pixels over which the picture around a face takes over
_MASK_CELL, _BLUR_CELL = 4, 16  # pixels: masks are drawn coarser by this, and blur is as coarse as this


def draw_jitter(batch: int, config: AugmentConfig, generator: torch.Generator, roll: Tensor | None = None) -> Jitter:
    """A random departure for each sample, by the error of the source that is drawn for its region.

    Args:
        batch: Number of samples.
        config: Shares and errors of the sources.
        generator: Of chance.
        roll: How far each head is turned in its image, radians clockwise (B,), for the sources that turn it upright.
    """
    from_box = _uniform(generator, 3, batch) * 2.0 - 1.0  # zoom, shift along x, along y
    estimated = _normal(generator, 4, batch).clamp(-3.0, 3.0)  # the same, and the turn
    chance = _uniform(generator, batch)
    flip = _uniform(generator, batch) < config.flip_probability
    by_detector = chance < config.detector_share
    by_network = ~by_detector & (chance < config.detector_share + config.own_share)

    def by_source(box: Tensor, error: Tensor, detector: float, own: float) -> Tensor:
        return torch.where(by_detector, error * detector, torch.where(by_network, error * own, box))

    wide, wide_turn, outlier = _uniform(generator, 3, batch)
    estimated[:3] *= torch.where(by_detector & (outlier < config.detector_outliers), config.outlier_size, 1.0)
    turn = torch.where(
        wide < config.wide_share,
        (wide_turn * 2.0 - 1.0) * math.radians(config.wide_turn),
        estimated[3] * math.radians(config.rotation),
    )
    if roll is not None:
        residual = by_source(turn, estimated[3], math.radians(config.detector_turn), math.radians(config.own_turn))
        upright = torch.where(flip, roll, -roll)  # a mirrored head leans the other way
        turn = torch.where(by_detector | by_network, upright + residual, turn)
    return Jitter(
        angle=turn,
        zoom=by_source(from_box[0] * config.zoom, estimated[0], config.detector_zoom, config.own_zoom).exp(),
        shift_x=by_source(from_box[1] * config.shift, estimated[1], config.detector_shift, config.own_shift),
        shift_y=by_source(from_box[2] * config.shift, estimated[2], config.detector_shift, config.own_shift),
        flip=flip,
    )


def roll_of(params: Tensor) -> Tensor:
    """How far heads are turned in their images, radians clockwise as seen (B,), of params (B, 62)."""
    up = pose_matrix(params)[:, :2, 1]  # where the model's y axis points: (0, -1) for an upright head
    return torch.atan2(up[:, 0], -up[:, 1])


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def augmented_crops(
    images: Tensor, params: Tensor, decoder: Decoder, size: int, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random crops uint8 (B, S, S, 3) with random looks, and their params."""
    jitter = draw_jitter(len(images), config, generator, roll_of(params))
    crops, labels = crop_batch(images, params, decoder, size, jitter)
    crops = change_context(crops, decoder.landmarks(labels)[..., :2], config, generator)
    return to_uint8(change_looks(crops, config, generator)), labels


def augmented_points(
    images: Tensor, labels: LandmarkLabels, size: int, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, LandmarkLabels]:
    """Random crops uint8 (B, S, S, 3) with random looks, the same with the looks they have, and their labels."""
    crops, moved = crop_points(images, labels, size, draw_jitter(len(images), config, generator))
    return to_uint8(change_looks(crops, config, generator)), to_uint8(crops), moved


def change_context(crops: Tensor, landmarks: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Change what lies around the faces of some crops (B, 3, S, S), given the landmarks' pixels (B, 68, 2).

    The face is a polygon around the landmarks, each side at a random distance of them, so that the seam doesn't tell
    where the face ends. Beyond it, all around or on one side, come the picture's own blur, another crop, or a colour.
    """
    chosen = _chosen(crops, config.context_share, generator)
    if not len(chosen):
        return crops
    count, size = len(chosen), crops.shape[-1]
    seen = crops[chosen]
    other = functional.avg_pool2d(seen, _BLUR_CELL)
    other = functional.interpolate(other, size=(size, size), mode="bilinear", align_corners=False)
    kind = _uniform(generator, count)
    exchanged = torch.nonzero(kind < 1 / 3).flatten()
    step = torch.randint(1, max(len(crops), 2), (1,), generator=generator, device=crops.device)
    other[exchanged] = crops[(chosen[exchanged] + step) % len(crops)]
    plain = torch.nonzero(kind > 2 / 3).flatten()
    other[plain] = _uniform(generator, len(plain), 3, 1, 1) * 255.0
    mask = _around(landmarks[chosen], size, generator)
    crops[chosen] = torch.lerp(seen, other, mask)
    return crops


def _around(landmarks: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """How much each pixel lies around the face of landmarks (B, 68, 2), 0 to 1: (B, 1, S, S)."""
    count, coarse = len(landmarks), size // _MASK_CELL
    axis = (torch.arange(coarse, device=landmarks.device) + 0.5) * (size / coarse) - 0.5
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 2)  # (P, 2) x, y
    angles = torch.arange(_SIDES, device=landmarks.device) * (2 * math.pi / _SIDES)
    normals = torch.stack([angles.cos(), angles.sin()])  # (2, K)
    middle = landmarks.mean(dim=1, keepdim=True)  # (B, 1, 2)
    extent = (landmarks - middle).norm(dim=2).amax(dim=1)[:, None]  # (B, 1)
    reach = (landmarks @ normals).amax(dim=1) + _uniform(generator, count, _SIDES) * (_CONTEXT_GAP * extent)  # (B, K)
    beyond = (pixels @ normals - reach[:, None]).amax(dim=2)  # (B, P) pixels
    mask = (beyond / _SEAM + 0.5).clamp(0, 1)
    way = _uniform(generator, count, 1) * (2 * math.pi)
    aside = ((pixels - middle) * torch.cat([way.cos(), way.sin()], dim=1)[:, None]).sum(dim=2)  # (B, P) pixels
    one_side = _uniform(generator, count, 1) < 0.5
    mask = torch.where(one_side, mask * (aside / _SEAM + 0.5).clamp(0, 1), mask).reshape(count, 1, coarse, coarse)
    return functional.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)


def change_looks(crops: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Light, colour, sharpness, noise and occlusion at random; float (B, 3, S, S), 0..255, in and out."""
    crops = _soften(crops, config, generator)
    crops = _relight(crops, config, generator)
    noisy = _chosen(crops, config.noise_probability, generator)
    strength = _uniform(generator, len(noisy), 1, 1, 1) * (255.0 * config.noise)
    crops[noisy] += _normal(generator, len(noisy), *crops.shape[1:]) * strength
    return _erase(crops, config, generator)


def _chosen(crops: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Indices of random samples of a batch: work on a few of them, not on all."""
    return torch.nonzero(_uniform(generator, len(crops)) < probability).flatten()


def _relight(crops: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    signed = _uniform(generator, len(crops), 6, 1, 1) * 2 - 1
    gain = (1 + config.contrast * signed[:, :1]) * (1 + config.colour * signed[:, 3:])
    unit = (crops / 255.0).clamp(0, 1).pow((config.gamma * signed[:, 1:2]).exp())
    unit = (unit - 0.5) * gain + 0.5 + config.brightness * signed[:, 2:3]
    weights = torch.tensor(_GREY, device=crops.device)[None, :, None, None]
    colourless = _chosen(crops, config.grey_probability, generator)
    unit[colourless] = (unit[colourless] * weights).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    return unit.mul_(255.0)


def _soften(crops: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Blur some samples, and take others down to a lower resolution and back, each its own."""
    size = crops.shape[-1]
    result = crops.clone()
    blurred = _chosen(crops, config.blur_probability, generator)
    if len(blurred):
        sharp = result[blurred]
        once = functional.avg_pool2d(functional.pad(sharp, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        result[blurred] = torch.lerp(sharp, once, _uniform(generator, len(blurred), 1, 1, 1))
    coarse = _chosen(crops, config.low_resolution_probability, generator)
    if len(coarse):
        sides = (size * (0.3 + 0.5 * _uniform(generator, len(coarse)))).int().clamp(min=8).tolist()
        along = torch.stack([_down_and_up(size, side) for side in sides])[:, None].to(crops.device)  # (b, 1, S, S)
        result[coarse] = along @ result[coarse] @ along.transpose(2, 3)
    return result


@functools.lru_cache(maxsize=256)
def _down_and_up(size: int, side: int) -> Tensor:
    """The matrix (S, S) that takes a line of pixels down to `side` of them, averaging, and back to its length."""
    lines = torch.eye(size, device="cpu")[None, None]  # each column is a line of its own
    down = functional.interpolate(lines, size=(side, size), mode="bilinear", antialias=True)
    return functional.interpolate(down, size=(size, size), mode="bilinear")[0, 0]


def _erase(crops: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Cover a random rectangle of some samples with a colour, half of them with noise on it."""
    chosen = _chosen(crops, config.erase_probability, generator)
    count, size = len(chosen), crops.shape[-1]
    low, high = config.erase_size
    extent = (low + (high - low) * _uniform(generator, count, 2)) * size
    middle = _uniform(generator, count, 2) * size
    axis = torch.arange(size, device=crops.device) + 0.5
    inside = (axis - middle[:, :, None]).abs() * 2 < extent[:, :, None]  # (b, 2, S)
    mask = (inside[:, 1, :, None] & inside[:, 0, None, :])[:, None]  # (b, 1, S, S)
    colour = _uniform(generator, count, 3, 1, 1) * 255.0
    grainy = 60.0 * (_uniform(generator, count, 1, 1, 1) < 0.5)
    crops[chosen] = torch.where(mask, colour + _normal(generator, count, 3, size, size) * grainy, crops[chosen])
    return crops
