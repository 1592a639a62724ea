"""What a network and a training run are made of: frozen, keyword-only dataclasses that a checkpoint carries.

Sources: CLN, BMVC 2022 suppl. (network, training recipe); what it leaves open is this project's reading.
Two presets: `paper` (224 px, RepVGG-A0 widths, SGD) and `edge` (128 px, the network of the default checkpoint).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from runtime.errors import InvalidInputError
from runtime.face_model import POSE_SIZE

# One permutation of the 4x4 cells, drawn once and never changed: a face must give one answer. Entry i says which
# cell of the image is shown at place i; no cell stays where it was.
EVALUATION_ORDER = (5, 14, 8, 1, 10, 3, 13, 4, 15, 0, 7, 9, 2, 6, 11, 12)
THUMBNAIL_CELL = 6


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One RepVGG stream: the width and the number of blocks of each stage; every stage halves the resolution once."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks) or not self.widths or min(self.widths + self.blocks) < 1:
            raise InvalidInputError(
                "A stream needs one positive width and one positive block count for each stage, "
                f"got widths {self.widths} and blocks {self.blocks}; make the two tuples equally long."
            )

    @property
    def stride(self) -> int:
        """Input pixels a cell of the last feature map is apart."""
        return 2 ** len(self.widths)


@dataclass(frozen=True, kw_only=True)
class CLNConfig:
    """The network. `cdsda`, `cat` and `thumbnail` are the ablation switches of CLN, BMVC 2022 suppl."""

    input_size: int
    global_stream: StreamConfig
    local_stream: StreamConfig
    fusion_width: int
    heads: int
    mlp_ratio: int = 2
    pooling: Literal["average", "flatten"] = "average"
    realign: bool = False
    """Put the local stream's cells back to their places before fusion; the cell grid must divide the token grid."""
    cdsda: bool = True
    cat: bool = True
    thumbnail: bool = True
    grid: int = 4
    evaluation_order: tuple[int, ...] = EVALUATION_ORDER
    thumbnail_cell: int = THUMBNAIL_CELL
    shape_count: int = 40
    expression_count: int = 10

    def __post_init__(self) -> None:
        if self.global_stream.stride != self.local_stream.stride:
            raise InvalidInputError(
                f"Both streams must end on one grid, got strides {self.global_stream.stride} and "
                f"{self.local_stream.stride}; give them the same number of stages."
            )
        if self.input_size % self.global_stream.stride or self.input_size % self.grid:
            raise InvalidInputError(
                f"The input size must be a multiple of {self.global_stream.stride} (the streams' stride) and of "
                f"{self.grid} (the cell grid), got {self.input_size}."
            )
        if sorted(self.evaluation_order) != list(range(self.grid**2)):
            raise InvalidInputError(
                f"evaluation_order must be a permutation of 0..{self.grid**2 - 1}, got {self.evaluation_order}."
            )
        if not 0 <= self.thumbnail_cell < self.grid**2:
            raise InvalidInputError(f"thumbnail_cell must be in 0..{self.grid**2 - 1}, got {self.thumbnail_cell}.")
        if self.realign and self.token_grid % self.grid:
            raise InvalidInputError(
                f"realign needs a token grid that is a multiple of {self.grid}, got {self.token_grid}; switch it off."
            )
        if self.fusion_width % self.heads:
            raise InvalidInputError(f"fusion_width {self.fusion_width} must be a multiple of heads {self.heads}.")
        if self.pooling not in ("average", "flatten"):
            raise InvalidInputError(f"pooling must be 'average' or 'flatten', got {self.pooling!r}.")

    @property
    def token_grid(self) -> int:
        """Side of the streams' last feature map."""
        return self.input_size // self.global_stream.stride

    @property
    def num_params(self) -> int:
        """Length of the output vector: 12 pose entries, then shape, then expression coefficients."""
        return POSE_SIZE + self.shape_count + self.expression_count

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, so that a checkpoint can be loaded without running code."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLNConfig:
        """The inverse of `to_dict`.

        Raises:
            InvalidInputError: A field is missing, unknown or out of range.
        """
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        try:
            for stream in ("global_stream", "local_stream"):
                plain[stream] = StreamConfig(**{key: tuple(value) for key, value in plain[stream].items()})
            return cls(**plain)
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(f"Expected the fields of CLNConfig, got {sorted(values)}: {error}.") from error


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms (CLN, BMVC 2022 suppl.: 0.5 WPDC + 1 Wing) and Wing's constants.

    `disentangled` weighs this project's addition: Wing on landmarks decoded once with the true pose and the predicted
    coefficients, once the other way round, so that a small error of the face's form isn't drowned by one of its pose.
    """

    wpdc: float = 0.5
    wing: float = 1.0
    disentangled: float = 0.0
    wing_width: float = 10.0
    wing_curvature: float = 2.0
    wing_reference_size: int = 224
    """Crop size in pixels that `wing_width` and `wing_curvature` are stated for; errors are scaled to it."""
    detail_weight: float = 1.0
    """Weight of eyelid and lip landmarks relative to the others."""
    depth_weight: float = 0.5
    """Weight of a landmark's z relative to its x and y: depth is hardly seen in one image."""
    wpdc_vertices: int = 132
    """Random vertices that WPDC weighs beside the 68 landmarks."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges of the random changes to a training crop; each is drawn anew for every sample.

    The crop is the true landmarks' region, turned, then moved and scaled as a detector or a frame before would misplace
    it. Lengths are shares of the region's side, intensities of the full range of 255.
    """

    rotation: float = 12.0
    """Degrees, standard deviation; cut off at three times that."""
    zoom: float = 0.10
    """Natural logarithm of the region's side, uniform in plus or minus this."""
    shift: float = 0.06
    """Uniform in plus or minus this, along x and along y."""
    flip_probability: float = 0.5
    contrast: float = 0.25
    brightness: float = 0.12
    colour: float = 0.06
    gamma: float = 0.25
    grey_probability: float = 0.1
    blur_probability: float = 0.2
    low_resolution_probability: float = 0.2
    noise_probability: float = 0.25
    noise: float = 0.04
    erase_probability: float = 0.35
    erase_size: tuple[float, float] = (0.08, 0.4)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run: the network, the loss, the optimiser and its schedule (warm-up, then cosine to zero)."""

    name: str
    model: CLNConfig
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.002
    weight_decay: float = 5e-4
    momentum: float = 0.9
    batch_size: int = 256
    steps: int = 50_000
    warmup_steps: int = 500
    gradient_clip: float = 5.0
    ema_decay: float = 0.999
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return dataclasses.asdict(self)


def paper() -> TrainConfig:
    """224 px, RepVGG-A0 widths, SGD: the published recipe. The local stream's depth is this project's reading."""
    return TrainConfig(
        name="paper",
        model=CLNConfig(
            input_size=224,
            global_stream=StreamConfig(widths=(48, 48, 96, 192, 1280), blocks=(1, 2, 4, 14, 1)),
            local_stream=StreamConfig(widths=(48, 48, 96, 192, 1280), blocks=(1, 1, 2, 4, 1)),
            fusion_width=512,
            heads=8,
        ),
    )


def edge() -> TrainConfig:
    """128 px, narrow streams: the network of the default checkpoint, made for one CPU core."""
    return TrainConfig(
        name="edge",
        model=CLNConfig(
            input_size=128,
            global_stream=StreamConfig(widths=(16, 32, 64, 128, 192), blocks=(1, 2, 4, 4, 1)),
            local_stream=StreamConfig(widths=(16, 32, 48, 64, 96), blocks=(1, 1, 2, 2, 1)),
            fusion_width=144,
            heads=4,
            pooling="flatten",
            realign=True,
        ),
        loss=LossConfig(disentangled=0.5, detail_weight=2.0),
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.02,
        batch_size=64,
        steps=20_000,
        warmup_steps=300,
    )


PRESETS = {"paper": paper, "edge": edge}
