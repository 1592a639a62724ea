"""Coordinate attention transformer (CAT; CLN, BMVC 2022 suppl.): where along x and y, and how parts belong together.

Coordinate attention (Hou et al., CVPR 2021, arXiv 2103.02907) gates a feature map by its row and column means; one
pre-norm transformer encoder block then relates its cells. The paper names the parts; their order is our reading.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.model.repvgg import fold_batch_norm, plain_convolution


class CoordinateAttention(nn.Module):
    """(B, C, H, W) -> x * g_h * g_w, gates in (0, 1) from the means along the two directions."""

    def __init__(self, channels: int) -> None:
        """Gates for `channels` channels."""
        super().__init__()
        squeezed = max(8, channels // 32)
        self.squeeze = nn.Conv2d(channels, squeezed, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(squeezed)
        self.gate_h = nn.Conv2d(squeezed, channels, 1)
        self.gate_w = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate `x`."""
        height, width = x.shape[2:]
        rows = x.mean(dim=3, keepdim=True)  # (B, C, H, 1)
        columns = x.mean(dim=2, keepdim=True).transpose(2, 3)  # (B, C, W, 1)
        strip = functional.hardswish(self.norm(self.squeeze(torch.cat([rows, columns], dim=2))))  # (B, c, H + W, 1)
        along_h, along_w = strip.split([height, width], dim=2)
        return x * self.gate_h(along_h).sigmoid() * self.gate_w(along_w.transpose(2, 3)).sigmoid()

    def fuse(self) -> None:
        """Fold the batch norm into the convolution before it, in place."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.squeeze = plain_convolution(self.squeeze, *fold_batch_norm(self.squeeze.weight, self.norm))
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
        tokens = tokens + self.project(self._attend(self.norm1(tokens)))
        return tokens + self.mlp(self.norm2(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        _, count, width = tokens.shape
        # -1 stands for the batch alone: an exporter then sees one dynamic size and nothing else.
        qkv = self.qkv(tokens).reshape(-1, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0] * (width // self.heads) ** -0.5, qkv[1], qkv[2]  # (B, heads, T, C / heads)
        attention = (query @ key.transpose(2, 3)).softmax(dim=-1)
        return (attention @ value).transpose(1, 2).reshape(-1, count, width)


class CoordinateAttentionTransformer(nn.Module):
    """Coordinate attention, then an encoder block over position-embedded cells; (B, C, G, G) stays."""

    def __init__(self, width: int, grid: int, heads: int, mlp_ratio: int) -> None:
        """For maps of `width` channels and grid x grid cells."""
        super().__init__()
        self.gate = CoordinateAttention(width)
        self.position = nn.Parameter(torch.randn(1, grid * grid, width) * 0.02)
        self.encoder = EncoderBlock(width, heads, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Gate, relate, and give back a map of the same shape."""
        tokens = self.gate(x).flatten(2).transpose(1, 2)  # (B, T, C)
        tokens = self.encoder(tokens + self.position)
        return tokens.transpose(1, 2).reshape(-1, *x.shape[1:])
