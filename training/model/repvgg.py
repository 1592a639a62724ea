"""RepVGG: three branches while it learns, one plain 3x3 convolution once it is fused (Ding et al., CVPR 2021).

A block is relu(BN(conv3x3(x)) + BN(conv1x1(x)) + BN(x)); the identity branch is there where the shapes allow it.
Folding is done in float64 with the running statistics, so a block in training mode can't be fused.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.errors import InvalidInputError
from training.config import StreamConfig


def fold_batch_norm(weight: Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold a batch norm into the bias-free convolution or linear layer before it.

    Args:
        weight: The layer's weight (O, I, k, k) or (O, I).
        norm: The batch norm over its O outputs.

    Returns:
        Weight, of the same shape, and bias (O,) of the one equivalent layer, in float64.

    Raises:
        InvalidInputError: The norm is in training mode, where its statistics are the batch's.
    """
    if norm.training:
        raise InvalidInputError("Fusing needs a model in eval mode, got one in training mode; call model.eval() first.")
    if norm.running_mean is None or norm.running_var is None:
        raise InvalidInputError("Fusing needs a batch norm with running statistics, got one without.")
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return weight.double() * scale.reshape(
        -1, *[1] * (weight.dim() - 1)
    ), norm.bias.double() - norm.running_mean.double() * scale


def plain_convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution with bias that is placed and shaped like `like`, with the given float64 weights."""
    convolution = nn.Conv2d(like.in_channels, like.out_channels, like.kernel_size, like.stride, like.padding)
    convolution = convolution.to(like.weight.device, like.weight.dtype)
    with torch.no_grad():
        convolution.weight.copy_(weight)
        convolution.bias.copy_(bias)
    return convolution


class RepVGGBlock(nn.Module):
    """(B, I, H, W) -> (B, O, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """The identity branch is there where `inputs == outputs` and `stride == 1`."""
        super().__init__()
        self.conv3 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.norm0 = nn.BatchNorm2d(outputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the branches, rectified."""
        # A pooling of single pixels does for the 1x1 convolution's stride; oneDNN's strided one corrupts memory in the
        # backward pass (torch 2.13, AVX-512, channels_last, 3 input channels). A slice would do too, but its gradient
        # is not channels_last, and all that is behind it then runs many times slower.
        step = self.conv3.stride[0]
        picked = x if step == 1 else functional.avg_pool2d(x, 1, step)
        y = self.norm3(self.conv3(x)) + self.norm1(self.conv1(picked))
        if self.norm0 is not None:
            y = y + self.norm0(x)
        return torch.relu(y)

    def fuse(self) -> nn.Sequential:
        """One 3x3 convolution with bias and a ReLU that compute the same; this block stays as it is.

        Raises:
            InvalidInputError: The block is in training mode.
        """
        weight, bias = fold_batch_norm(self.conv3.weight, self.norm3)
        weight1, bias1 = fold_batch_norm(self.conv1.weight, self.norm1)
        weight[:, :, 1:2, 1:2] += weight1
        bias += bias1
        if self.norm0 is not None:
            identity = torch.eye(weight.shape[0], dtype=torch.float64, device=weight.device)[:, :, None, None]
            weight0, bias0 = fold_batch_norm(identity, self.norm0)
            weight[:, :, 1:2, 1:2] += weight0
            bias += bias0
        return nn.Sequential(plain_convolution(self.conv3, weight, bias), nn.ReLU())


def repvgg_stream(config: StreamConfig, inputs: int = 3) -> nn.Sequential:
    """A stack of blocks; the first block of each stage halves the resolution."""
    blocks = []
    for width, count in zip(config.widths, config.blocks, strict=True):
        for index in range(count):
            blocks.append(RepVGGBlock(inputs, width, stride=2 if index == 0 else 1))
            inputs = width
    return nn.Sequential(*blocks)
