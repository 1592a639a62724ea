"""Cross-domain self-shuffling data augmentation (CDSDA; CLN, BMVC 2022 suppl., "Self-shuffle").

The image is cut into grid x grid cells, the cells are shuffled, and one of them is emptied and holds a small thumbnail
of the whole image, so that what it hid is not lost. In training every sample has its own permutation and its own
emptied cell; in eval mode, and so in every exported graph, there is one fixed of each (our reading: a face gives one
answer).

An *order* (B, cells) says, for each place, which cell is shown there; the number `cells` stands for the thumbnail.

A line of pixels within a cell lies in one piece, so any order of the cells is a single look-up of lines.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def arrange(parts: Tensor, order: Tensor) -> Tensor:
    """Parts (B, P, N, ...) and an order (B, M), or (M,) for all samples alike -> (B, P, M, ...)."""
    if order.dim() == 1:
        return parts.index_select(2, order)
    samples = torch.arange(parts.shape[0], device=parts.device)[:, None]
    return parts.transpose(1, 2)[samples, order].transpose(1, 2)


def lines_of(order: Tensor, grid: int, height: int) -> Tensor:
    """An order of cells (..., grid * grid) as an order of their lines (..., grid * grid * height), `height` to a cell.

    Lines are counted as they lie in the image; those of the thumbnail come after them.
    """
    shown = order.unflatten(-1, (grid, 1, grid))
    line = torch.arange(height, device=order.device)[:, None]
    in_image = (shown // grid * height + line) * grid + shown % grid
    in_thumbnail = grid * grid * height + line
    return torch.where(shown == grid * grid, in_thumbnail, in_image).flatten(-3)


def shrink(image: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) -> the means of factor x factor pixels, (B, C, H / factor, W / factor)."""
    _, channels, height, width = image.shape
    # One axis at a time: CPU runtimes have no quick way to average over both.
    rows = image.reshape(-1, channels, height // factor, factor, width).mean(dim=3)
    return rows.reshape(-1, channels, height // factor, width // factor, factor).mean(dim=4)


class SelfShuffle(nn.Module):
    """Shuffle an image's cells; `restore` puts features of the shuffled image back to their places."""

    order: Tensor
    inverse: Tensor

    def __init__(self, grid: int, order: tuple[int, ...], thumbnail_cell: int, thumbnail: bool = True) -> None:
        """`order` and `thumbnail_cell` are the fixed ones of eval mode; without `thumbnail` the cell is left empty."""
        super().__init__()
        self.grid, self.thumbnail = grid, thumbnail
        fixed = torch.tensor(order)
        # A place keeps the right to its cell even when it shows the thumbnail: that is what `restore` goes by.
        self.register_buffer("inverse", torch.argsort(fixed), persistent=False)
        shown = fixed.clone()
        shown[thumbnail_cell] = grid * grid
        self.register_buffer("order", shown, persistent=False)

    def draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """Orders and inverse permutations (B, cells): random in training mode, the fixed ones (cells,) otherwise."""
        if not self.training:
            return self.order, self.inverse
        cells = self.grid * self.grid
        permutation = torch.rand(batch, cells, device=self.order.device).argsort(dim=1)
        emptied = torch.randint(cells, (batch, 1), device=self.order.device)
        return permutation.scatter(1, emptied, cells), permutation.argsort(dim=1)

    def forward(self, image: Tensor, order: Tensor) -> Tensor:
        """(B, C, S, S), normalised -> the same shape, shuffled; without thumbnail the emptied cell is mid-grey, 0."""
        small = shrink(image, self.grid)  # (B, C, s, s)
        return self._arrange(image, order, small if self.thumbnail else torch.zeros_like(small))

    def restore(self, features: Tensor, inverse: Tensor) -> Tensor:
        """Features (B, G, G, C) of a shuffled image, G a multiple of the grid -> the cells back in their places."""
        height, width, channels = features.shape[1:]
        rows = features.reshape(-1, 1, height, width * channels)
        return self._arrange(rows, inverse).reshape(-1, height, width, channels)

    def _arrange(self, planes: Tensor, order: Tensor, *thumbnail: Tensor) -> Tensor:
        count, height, width = planes.shape[1:]
        lines = planes.reshape(-1, count, height * self.grid, width // self.grid)
        shown = arrange(torch.cat([lines, *thumbnail], dim=2), lines_of(order, self.grid, height // self.grid))
        return shown.reshape(-1, count, height, width)
