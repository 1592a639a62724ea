"""Where a run's samples come from: what `--data` names becomes samples to train on, and others that are held out."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import InvalidInputError, MismatchError
from runtime.face_model import FaceModel, load_face_model
from training.config import TrainConfig
from training.data.catalog import KINDS_WITH_PARAMS, KINDS_WITH_POINTS, hold_out, open_samples
from training.data.landmarks import LandmarkSamples
from training.data.samples import HELD_OUT_SEED, Samples, SyntheticSamples, image_size, parse_synthetic
from training.learning.distributed import ProcessGroup
from training.learning.mixture import Source


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How samples are opened."""

    held_out: int = 500
    """Faces that are kept from training, to evaluate on."""
    workers: int = os.cpu_count() or 1
    """Rendering processes, or decoding threads."""
    assets: Path | None = None
    """Folder of CC0 assets that synthetic faces are rendered with."""
    faces_seed: int = 0
    """Of the synthetic faces that are trained on; another one gives other faces."""


@dataclass(frozen=True, kw_only=True)
class DataShare:
    """One `--data`: a set, and its share of a batch, relative to the others'."""

    data: str
    """KIND:DIR or synthetic:N[:CACHE]."""
    share: float = 1.0

    @property
    def kind(self) -> str:
        """What stands before the first colon."""
        return self.data.partition(":")[0]

    @property
    def labels(self) -> str:
        """What its faces are labelled with: `params` or `points`."""
        return "points" if self.kind in KINDS_WITH_POINTS else "params"


def parse_data(text: str) -> DataShare:
    """`[SHARE@]KIND:DIR`: an @ before the first colon ends a share, one behind it belongs to the folder.

    Raises:
        InvalidInputError: The share is no positive number.
    """
    share, at, data = text.partition("@")
    if not at or ":" in share:
        return DataShare(data=text)
    try:
        value = float(share)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidInputError(f"Expected a positive number before the @ of --data {text}, got '{share}'; change it.")
    return DataShare(data=data, share=value)


def data_label(sets: Sequence[DataShare]) -> str:
    """What a checkpoint says of its data: no path in it."""
    labels = []
    for one in sets:
        kind, _, rest = one.data.partition(":")
        share = f"{one.share:g}@" if len(sets) > 1 else ""
        labels.append(f"{share}{kind}:{rest.partition(':')[0] if kind == 'synthetic' else Path(rest).resolve().name}")
    return " + ".join(labels)


def match_face_model(config: TrainConfig, face_model: FaceModel, *, with_params: bool = True) -> TrainConfig:
    """The config with as many coefficients as the face model has, and without flips where it can't mirror params."""
    counts: dict[str, Any] = {"shape_count": face_model.shape_count, "expression_count": face_model.expression_count}
    augment = config.augment
    if with_params and not face_model.can_mirror:
        augment = dataclasses.replace(augment, flip_probability=0.0)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **counts), augment=augment)


def open_sources(
    sets: Sequence[DataShare], options: SourceOptions, face_model: FaceModel, crop_size: int, processes: ProcessGroup
) -> list[Source]:
    """Samples to train on, and held-out ones, of each set; synthetic ones are rendered where they are missing.

    Args:
        sets: What `--data` names.
        options: How they are opened.
        face_model: That params are for.
        crop_size: The network's.
        processes: All its processes must call.

    Raises:
        InvalidInputError: A set can't be meant, or has too few samples.
        MismatchError: Its labels are another face model's.
        FileNotFoundError, FileFormatError: A data set's file is missing or damaged.
    """
    sources = []
    for one in sets:
        samples, held_out = _open(one.data, options, face_model, crop_size, processes)
        sources.append(Source(samples=samples, held_out=held_out, share=one.share, name=one.kind))
    return sources


def _open(
    data: str, options: SourceOptions, face_model: FaceModel, crop_size: int, processes: ProcessGroup
) -> tuple[Samples, Samples] | tuple[LandmarkSamples, LandmarkSamples]:
    size = image_size(crop_size)
    if data.startswith("synthetic"):
        return _open_synthetic(data, options, face_model, size, processes)
    kind, _, folder = data.partition(":")
    if kind not in KINDS_WITH_PARAMS + KINDS_WITH_POINTS or not folder:
        known = ", ".join(f"{name}:DIR" for name in KINDS_WITH_PARAMS + KINDS_WITH_POINTS)
        raise InvalidInputError(f"Expected synthetic:N[:CACHE] or one of {known} for --data, got '{data}'.")
    samples: Any = open_samples(data, face_model, size=size, threads=options.workers)
    try:
        kept, held_out = hold_out(kind, samples.image_paths, options.held_out, HELD_OUT_SEED)
    except InvalidInputError as error:
        raise InvalidInputError(f"{data}: {error}") from None
    return samples.part(kept), samples.part(held_out)


def _open_synthetic(
    data: str, options: SourceOptions, face_model: FaceModel, size: int, processes: ProcessGroup
) -> tuple[SyntheticSamples, SyntheticSamples]:
    """One process of each machine renders what is missing."""
    bundled = load_face_model()
    if face_model.sha256 != bundled.sha256:
        raise MismatchError(
            f"Expected the bundled face model '{bundled.name}' for synthetic faces, got '{face_model.name}'; omit "
            "--face-model, or give data that is labelled for it."
        )
    if options.faces_seed == HELD_OUT_SEED:
        raise InvalidInputError(
            f"Expected another --faces-seed than that of the faces held out, got {HELD_OUT_SEED}; give any other."
        )
    count, directory = parse_synthetic(data)

    def opened() -> tuple[SyntheticSamples, SyntheticSamples]:
        held_out = SyntheticSamples(options.held_out, directory, size=size, seed=HELD_OUT_SEED, assets=options.assets)
        seed, assets = options.faces_seed, options.assets
        return SyntheticSamples(count, directory, size=size, seed=seed, assets=assets), held_out

    if processes.local_rank == 0:
        for part in opened():
            part.fill(workers=options.workers)
    processes.wait()
    return opened()
