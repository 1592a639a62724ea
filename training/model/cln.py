"""CLN, the Complementary Learning Network (BMVC 2022 suppl.): a crop of a face in, the 3DMM's parameters out.

Input: crops uint8 (B, S, S, 3), BGR. Output: params float32 (B, 62), physical: the row-major 3x4 pose matrix (model
millimetres to crop pixels), shape and expression coefficients. Cast, normalisation ((x - 127.5) / 128), layout,
self-shuffle and de-whitening are inside, so that no backend can do them differently.

    crops -> normalise -+-> global stream ------------------------+-> concat -> 1x1 conv -> CAT -> pool -> linear
                        +-> self-shuffle -> local stream (-> realign) -+                                (whitened)
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from runtime.errors import InvalidInputError
from training.config import CLNConfig
from training.model.attention import CoordinateAttention, CoordinateAttentionTransformer
from training.model.repvgg import RepVGGBlock, repvgg_stream
from training.model.shuffle import SelfShuffle


class CLN(nn.Module):
    """The network; `whitening_mean` and `whitening_std` (62,) are buffers, set with `set_whitening`."""

    whitening_mean: Tensor
    whitening_std: Tensor

    def __init__(self, config: CLNConfig) -> None:
        """A network with random weights."""
        super().__init__()
        self.config = config
        self.global_stream = repvgg_stream(config.global_stream)
        self.local_stream = repvgg_stream(config.local_stream)
        self.shuffle = (
            SelfShuffle(config.grid, config.evaluation_order, config.thumbnail_cell, config.thumbnail)
            if config.cdsda
            else None
        )
        joined = config.global_stream.widths[-1] + config.local_stream.widths[-1]
        self.fusion = nn.Linear(joined, config.fusion_width)
        self.cat: nn.Module = (
            CoordinateAttentionTransformer(config.fusion_width, config.token_grid, config.heads, config.mlp_ratio)
            if config.cat
            else nn.Identity()
        )
        cells = config.token_grid**2 if config.pooling == "flatten" else 1
        self.head = nn.Linear(config.fusion_width * cells, config.num_params)
        # Whitened parameters are of size one: starting near the mean face keeps the first steps quiet.
        nn.init.normal_(self.head.weight, std=0.1 * self.head.in_features**-0.5)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("whitening_mean", torch.zeros(config.num_params))
        self.register_buffer("whitening_std", torch.ones(config.num_params))
        self.register_load_state_dict_pre_hook(_take_older_weights)

    def set_whitening(self, mean: Tensor, std: Tensor) -> None:
        """Set the de-whitening; a standard deviation of 0 makes that parameter the constant `mean` (t_z is one)."""
        expected = self.whitening_mean.shape
        if mean.shape != expected or std.shape != expected or not bool((std >= 0).all()):
            raise InvalidInputError(
                f"Whitening needs a mean and a non-negative std of shape {tuple(expected)}, "
                f"got {tuple(mean.shape)} and {tuple(std.shape)}."
            )
        self.whitening_mean.copy_(mean)
        self.whitening_std.copy_(std)

    def whiten(self, params: Tensor) -> Tensor:
        """Physical (B, 62) -> whitened; a constant parameter becomes 0."""
        constant = self.whitening_std == 0
        scale = torch.where(constant, torch.ones_like(self.whitening_std), self.whitening_std)
        return torch.where(constant, torch.zeros_like(params), (params - self.whitening_mean) / scale)

    def dewhiten(self, whitened: Tensor) -> Tensor:
        """The inverse of `whiten`, always in float32: the pose entries outgrow half precision."""
        return whitened.float() * self.whitening_std + self.whitening_mean

    def normalise(self, crops: Tensor) -> Tensor:
        """Uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in about -1..1."""
        size = self.config.input_size
        if crops.dtype != torch.uint8 or crops.shape[1:] != (size, size, 3):
            raise InvalidInputError(
                f"Expected crops uint8 (B, {size}, {size}, 3), got {crops.dtype} {tuple(crops.shape)}; "
                "crop with runtime.roi.crop at the network's input size."
            )
        # The cast comes first: TensorRT takes uint8 into a cast and into nothing else.
        return (crops.float().permute(0, 3, 1, 2) - 127.5) * (1 / 128)

    def features(self, crops: Tensor) -> Tensor:
        """Crops uint8 (B, S, S, 3) -> what the last linear layer, `head`, sees."""
        image = self.normalise(crops)
        maps = torch.cat([_cells(self.global_stream(image)), self._local_features(image)], dim=3)  # (B, G, G, C)
        fused = self.fusion(maps.flatten(0, 2)).reshape(-1, *maps.shape[1:3], self.config.fusion_width)
        attended = self.cat(fused)
        if self.config.pooling == "average":
            return attended.mean(dim=(1, 2))
        return attended.permute(0, 3, 1, 2).flatten(1)  # channel by channel: so checkpoints' heads have it

    def forward_whitened(self, crops: Tensor) -> Tensor:
        """Crops uint8 (B, S, S, 3) -> whitened parameters float32 (B, 62), for the losses.

        The last layer runs in float32 even where the features come in half precision.
        """
        return self.head(self.features(crops).float())

    def forward(self, crops: Tensor) -> Tensor:
        """Crops uint8 (B, S, S, 3) -> physical parameters float32 (B, 62)."""
        return self.dewhiten(self.forward_whitened(crops))

    def _local_features(self, image: Tensor) -> Tensor:
        if self.shuffle is None:
            return _cells(self.local_stream(image))
        order, inverse = self.shuffle.draw(image.shape[0])
        features = _cells(self.local_stream(self.shuffle(image, order)))
        return self.shuffle.restore(features, inverse) if self.config.realign else features


def _take_older_weights(module: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Linear layers were 1x1 convolutions once: their weights (O, I, 1, 1) become (O, I)."""
    for name, layer in module.named_modules(prefix=prefix.removesuffix(".")):
        weight = weights.get(f"{name}.weight")
        if isinstance(layer, nn.Linear) and weight is not None and weight.shape[2:] == (1, 1):
            weights[f"{name}.weight"] = weight.flatten(1)


def _cells(maps: Tensor) -> Tensor:
    """What convolutions put out, (B, C, G, G), by cells, as all that follows them has it: (B, G, G, C)."""
    return maps.permute(0, 2, 3, 1)


def reparameterize(model: CLN) -> CLN:
    """A copy of plain convolutions that computes the same; the model stays as it is, and a fused one is only copied.

    Raises:
        InvalidInputError: The model is in training mode.
    """
    if model.training:
        raise InvalidInputError("Fusing needs a model in eval mode, got one in training mode; call model.eval() first.")
    fused = copy.deepcopy(model)
    _fuse_children(fused)
    return fused.eval().requires_grad_(False)


def _fuse_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, RepVGGBlock):
            setattr(module, name, child.fuse())
        else:
            if isinstance(child, CoordinateAttention):
                child.fuse()
            _fuse_children(child)
