"""Coordinate attention transformer (CAT; CLN, BMVC 2022 suppl.): where along x and y, and how parts belong together.

Coordinate attention (Hou et al., CVPR 2021, arXiv 2103.02907) gates a feature map by its row and column means; one
pre-norm transformer encoder block then relates its cells. The paper names the parts; their order is our reading.

Maps are channels-last here, (B, H, W, C), and their cells tokens, (B, H * W, C): a 1x1 convolution, as any linear
layer, is then one matrix product over a flat list of them, its bias included, in every runtime.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.model.repvgg import fold_batch_norm


class CoordinateAttention(nn.Module):
    """(B, H, W, C) -> x * g_h * g_w, gates in (0, 1) from the means along the two directions."""

    def __init__(self, channels: int) -> None:
        """Gates for `channels` channels."""
        super().__init__()
        squeezed = max(8, channels // 32)
        self.squeeze = nn.Linear(channels, squeezed, bias=False)
        self.norm: nn.Module = nn.BatchNorm1d(squeezed)
        self.gate_h = nn.Linear(squeezed, channels)
        self.gate_w = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Gate `x`."""
        height, width, channels = x.shape[1:]
        strip = torch.cat([x.mean(dim=2), x.mean(dim=1)], dim=1).flatten(0, 1)  # (B * (H + W), C): rows, columns
        strip = functional.hardswish(self.norm(self.squeeze(strip)))
        along_h, along_w = strip.reshape(-1, height + width, strip.shape[1]).split([height, width], dim=1)
        gate_h = self.gate_h(along_h.flatten(0, 1)).sigmoid().reshape(-1, height, 1, channels)
        gate_w = self.gate_w(along_w.flatten(0, 1)).sigmoid().reshape(-1, 1, width, channels)
        return x * gate_h * gate_w

    def fuse(self) -> None:
        """Fold the batch norm into the layer before it, in place; once folded, nothing.

        Raises:
            InvalidInputError: The norm is in training mode.
        """
        if not isinstance(self.norm, nn.BatchNorm1d):
            return
        weight, bias = fold_batch_norm(self.squeeze.weight, self.norm)
        old = self.squeeze.weight
        self.squeeze = nn.Linear(old.shape[1], old.shape[0]).to(old.device, old.dtype)
        with torch.no_grad():
            self.squeeze.weight.copy_(weight)
            self.squeeze.bias.copy_(bias)
        self.norm = nn.Identity()


class EncoderBlock(nn.Module):
    """Pre-norm transformer encoder block over tokens (B, T, C): self-attention and an MLP, each residual."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        """Tokens of `width` channels; the MLP is `mlp_ratio` times as wide."""
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Relate every token to every other."""
        count, width = tokens.shape[1:]
        flat = tokens.reshape(-1, width)  # (B * T, C)
        flat = flat + self.project(self._attend(self.norm1(flat), count))
        return (flat + self.mlp(self.norm2(flat))).reshape(-1, count, width)

    def _attend(self, flat: Tensor, count: int) -> Tensor:
        width = flat.shape[1]
        # -1 stands for the batch alone: an exporter then sees one dynamic size and nothing else.
        qkv = self.qkv(flat).reshape(-1, count, 3 * self.heads, width // self.heads).transpose(1, 2)
        query, key, value = qkv.split(self.heads, dim=1)  # (B, heads, T, C / heads)
        attention = (query * (width // self.heads) ** -0.5 @ key.transpose(2, 3)).softmax(dim=-1)
        return (attention @ value).transpose(1, 2).reshape(-1, width)


class CoordinateAttentionTransformer(nn.Module):
    """Coordinate attention, then an encoder block over position-embedded cells; (B, G, G, C) stays."""

    def __init__(self, width: int, grid: int, heads: int, mlp_ratio: int) -> None:
        """For maps of `width` channels and grid x grid cells."""
        super().__init__()
        self.gate = CoordinateAttention(width)
        self.position = nn.Parameter(torch.randn(1, grid * grid, width) * 0.02)
        self.encoder = EncoderBlock(width, heads, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Gate, relate, and give back a map of the same shape."""
        x = self.gate(x) + self.position.reshape(1, *x.shape[1:])
        return self.encoder(x.flatten(1, 2)).reshape(-1, *x.shape[1:])  # over tokens (B, T, C)
