"""What a network and a training run are made of: frozen, keyword-only dataclasses that a checkpoint carries.

Sources: CLN, BMVC 2022 suppl. (network, training recipe); what it leaves open is this project's reading. The runs
themselves are TOML files in `training/configs`: `load_config("edge")`, or a path. A file's tables are the fields here;
`base = "FILE.toml"`, relative to the file, takes all that it doesn't say from another one.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from runtime.errors import FileFormatError, InvalidInputError
from runtime.face_model import POSE_SIZE

CONFIGS = Path(__file__).parent / "configs"
_BASE = "base"
_Options = TypeVar("_Options")

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
        return int(2 ** len(self.widths))


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
        for name in ("input_size", "fusion_width", "heads", "mlp_ratio", "grid", "shape_count", "expression_count"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1, got {getattr(self, name)}.")
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
        return build(cls, values)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms (CLN, BMVC 2022 suppl.: 0.5 WPDC + 1 Wing) and Wing's constants.

    WPDC is a sum over the parameters, Wing a weighted mean over the landmarks' coordinates, both a mean over the batch;
    `training/configs/paper.toml` says what other reductions would make of 0.5 : 1.

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
    points: float = 1.0
    """Where faces with params and faces with points alone are mixed: weight of one of the latter."""
    anchor: float = 0.0
    """For labels that are points alone: weight of the square distance of whitened predictions from those of the network
    that the run started from."""

    def __post_init__(self) -> None:
        for name in ("wing_width", "wing_curvature"):
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.wpdc_vertices < 0:
            raise InvalidInputError(f"wpdc_vertices must be at least 0, got {self.wpdc_vertices}.")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges of the random changes to a training crop; each is drawn again for every sample.

    Regions come from three sources, as in use: the box of the true landmarks, turned at random; the detector, and the
    network itself (a second pass, a frame before), which both turn the head upright. Each source misplaces its regions
    by its own error (`benchmarks/regions.py` measures it). Lengths are shares of the region's side, intensities of the
    full range of 255. Labels that are points alone don't say how to turn upright: their regions are turned at random.
    """

    rotation: float = 12.0
    """Degrees, standard deviation; cut off at three times that."""
    wide_share: float = 0.0
    """Share of the samples with a box of the true landmarks that are turned by anything up to `wide_turn` instead: few
    photographs show a head lying down, but a network that never saw one is lost there."""
    wide_turn: float = 120.0
    """Degrees, uniform in plus or minus this."""
    zoom: float = 0.10
    """Natural logarithm of the region's side, uniform in plus or minus this."""
    shift: float = 0.06
    """Uniform in plus or minus this, along x and along y."""
    detector_share: float = 0.0
    """Share of samples in the detector's regions; what both shares leave is the box of the true landmarks."""
    detector_zoom: float = 0.11
    """Standard deviation, cut off at three times that, as all errors of this source and the next."""
    detector_shift: float = 0.045
    detector_turn: float = 8.0
    """Degrees from upright."""
    detector_outliers: float = 0.0
    """Share of the detector's regions that lie wrong by `outlier_size` times as much: a face in profile or half in the
    dark is found by a part of it."""
    outlier_size: float = 2.5
    own_share: float = 0.0
    """Share of samples in regions from the network's own answer."""
    own_zoom: float = 0.04
    own_shift: float = 0.02
    own_turn: float = 3.0
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
    context_share: float = 0.0
    """Share of the samples whose picture around the face is changed: blurred, another crop's or one colour, all around
    or on one side. What lies around rendered faces (hair, neck, clothes) says more of their pose than in photographs
    (`benchmarks/context.py` measures it). Only where labels are parameters."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run: the network, the loss, the optimiser and its schedule."""

    name: str
    model: CLNConfig
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.002
    weight_decay: float = 5e-4
    decay_norms_and_biases: bool = False
    """Let weight decay act on norms, biases and the position embedding as well."""
    momentum: float = 0.9
    batch_size: int = 256
    micro_batch: int = 0
    """Samples that go through the network at once, a divisor of `batch_size`: gradients of the others are added up
    before the weights move. 0 means each process's whole share of the batch. Batch norm sees one micro-batch."""
    steps: int = 50_000
    warmup_steps: int = 500
    schedule: Literal["cosine", "step"] = "cosine"
    """After the linear warm-up: half a cosine to zero, or `decay` times the rate at each of the `milestones`."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Shares of `steps`, rising."""
    decay: float = 0.2
    gradient_clip: float = 5.0
    ema_decay: float = 0.999
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "steps", "gradient_clip"):
            if getattr(self, name) <= 0:
                raise InvalidInputError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("seed", "momentum", "weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise InvalidInputError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise InvalidInputError(f"ema_decay must be from 0 to below 1, got {self.ema_decay}.")
        if self.micro_batch < 0 or (self.micro_batch and self.batch_size % self.micro_batch):
            raise InvalidInputError(
                f"micro_batch must be 0 or a divisor of batch_size {self.batch_size}, got {self.micro_batch}."
            )
        rising = (0.0, *self.milestones, 1.0)
        if any(low >= high for low, high in itertools.pairwise(rising)):
            raise InvalidInputError(f"milestones must be rising shares between 0 and 1, got {self.milestones}.")
        for name, known in (("optimizer", ("sgd", "adamw")), ("schedule", ("cosine", "step"))):
            if getattr(self, name) not in known:
                raise InvalidInputError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'.")

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`.

        Raises:
            InvalidInputError: A field is missing, unknown or out of range.
        """
        return build(cls, values)


def config_names() -> list[str]:
    """Names of the configs that come with the package, as `load_config` takes them."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.toml"))


def load_config(name: str) -> TrainConfig:
    """A config by its name in `training/configs`, or by its path, which ends in .toml.

    Raises:
        InvalidInputError: There is none of that name, or a key in it is unknown, missing or out of range.
        FileNotFoundError: There is no such file.
        FileFormatError: It is not TOML.
    """
    if name.endswith(".toml"):
        path = Path(name)
    elif name in config_names():
        path = CONFIGS / f"{name}.toml"
    else:
        near = difflib.get_close_matches(name, config_names(), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        names = ", ".join(config_names())
        raise InvalidInputError(f"Expected a .toml file or one of {names} as the config, got '{name}'.{hint}")
    try:
        return TrainConfig.from_dict(_read_tables(path))
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def _read_tables(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's tables over those of its base."""
    if path.resolve() in seen:
        raise InvalidInputError(f"'{_BASE}' leads back to {path.name}; a config can't rest on itself.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a config file, found none; check --config and '{_BASE}'.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: expected a TOML file, got one that can't be read ({error}).") from error
    base = values.pop(_BASE, None)
    if base is None:
        return values
    return _overlay(_read_tables(path.parent / str(base), (*seen, path.resolve())), values)


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _overlay(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def build(cls: type[_Options], values: Mapping[str, Any], prefix: str = "") -> _Options:
    """A dataclass of this module from plain types: dictionaries, lists or tuples, numbers, strings.

    Raises:
        InvalidInputError: A key is unknown (the message names the nearest right one), missing, of another type or out
            of range.
    """
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise InvalidInputError(f"unknown key '{prefix}{key}'; {_suggestion(cls, str(key), prefix)}")
    needed = [entry.name for entry in dataclasses.fields(cls) if _is_required(entry)]  # type: ignore[arg-type]
    missing = [f"{prefix}{name}" for name in needed if name not in values]
    if missing:
        raise InvalidInputError(f"expected the key {', '.join(missing)}, got none; add it.")
    return cls(**{key: _convert(hints[key], value, f"{prefix}{key}") for key, value in values.items()})


def _is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _suggestion(cls: type, key: str, prefix: str) -> str:
    """The nearest key of the same table, else of any, else all of the table's."""
    here = list(typing.get_type_hints(cls))
    near = difflib.get_close_matches(key, here, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{prefix}{near[0]}'?"
    everywhere = {name.rpartition(".")[2]: name for name in _dotted_names(TrainConfig)}
    near = difflib.get_close_matches(key, list(everywhere), n=1, cutoff=0.6)
    return f"did you mean '{everywhere[near[0]]}'?" if near else f"known here are {', '.join(here)}."


def _dotted_names(cls: Any, prefix: str = "") -> list[str]:
    names = []
    for name, hint in typing.get_type_hints(cls).items():
        names += _dotted_names(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else [f"{prefix}{name}"]
    return names


def _convert(hint: Any, value: Any, name: str) -> Any:
    """A plain value as the type that a field has."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return build(hint, value, f"{name}.")
    elif isinstance(hint, types.GenericAlias):  # a tuple: of one type throughout, or of a type for each place
        inner = hint.__args__
        if isinstance(value, list | tuple) and (inner[-1] is Ellipsis or len(value) == len(inner)):
            each = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
            return tuple(_convert(one, item, name) for one, item in zip(each, value, strict=True))
    elif typing.get_origin(hint) is Literal:
        if value in typing.get_args(hint):
            return value
        raise InvalidInputError(f"{name} must be one of {', '.join(typing.get_args(hint))}, got {value!r}.")
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint))
    raise InvalidInputError(f"{name}: expected {expected}, got {value!r}; change it.")
