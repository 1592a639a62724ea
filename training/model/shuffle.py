"""Cross-domain self-shuffling data augmentation (CDSDA; CLN, BMVC 2022 suppl., "Self-shuffle").

The image is cut into grid x grid cells, the cells are shuffled, and one of them is emptied and holds a small thumbnail
of the whole image, so that what it hid is not lost. In training every sample has its own permutation and its own
emptied cell; in eval mode, and so in every exported graph, there is one fixed of each (our reading: a face gives one
answer).

An *order* (B, cells) says, for each place, which cell is shown there; the number `cells` stands for the thumbnail.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def cut(image: Tensor, grid: int) -> Tensor:
    """(B, C, H, W) -> its cells in reading order, (B, grid * grid, C, H / grid, W / grid)."""
    batch, channels, height, width = image.shape
    cells = image.reshape(batch, channels, grid, height // grid, grid, width // grid)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, channels, height // grid, width // grid)


def join(cells: Tensor, grid: int) -> Tensor:
    """The inverse of `cut`."""
    batch, _, channels, height, width = cells.shape
    rows = cells.reshape(batch, grid, grid, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(batch, channels, grid * height, grid * width)


def arrange(cells: Tensor, order: Tensor) -> Tensor:
    """Cells (B, N, C, h, w) and an order (B, M), or (M,) for all samples alike -> (B, M, C, h, w)."""
    if order.dim() == 1:
        return cells.index_select(1, order)
    return cells[torch.arange(cells.shape[0], device=cells.device)[:, None], order]


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
        cells = cut(image, self.grid)  # (B, N, C, s, s)
        small = functional.avg_pool2d(image, self.grid)[:, None]  # (B, 1, C, s, s)
        extra = small if self.thumbnail else torch.zeros_like(small)
        return join(arrange(torch.cat([cells, extra], dim=1), order), self.grid)

    def restore(self, features: Tensor, inverse: Tensor) -> Tensor:
        """Features (B, C, G, G) of a shuffled image, G a multiple of the grid -> the cells back in their places."""
        return join(arrange(cut(features, self.grid), inverse), self.grid)
