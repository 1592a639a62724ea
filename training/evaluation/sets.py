"""What is evaluated on: data sets by name, `KIND:DIR` or `synthetic:N[:CACHE]`, and yaws to bin by from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError, InvalidInputError, MismatchError
from runtime.files import read_npy
from training.data.aflw import load_aflw, load_aflw_crops
from training.data.aflw2000 import AnnotatedFace
from training.data.landmarks import AFLW_21, IBUG_68, PointFace, Scheme
from training.data.points import load_own, load_pts
from training.data.samples import HELD_OUT_SEED, SyntheticSamples, image_size, parse_synthetic

POINT_SETS = ("aflw", "aflw-3ddfa", "helen", "lfpw", "points")
KINDS = ("aflw2000", *POINT_SETS, "synthetic")


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """How data sets are read."""

    yaw_labels: str | None = None
    """For aflw2000: a file of further yaws to bin by (`read_yaws`)."""
    assets: Path | None = None
    """Folder of CC0 assets that synthetic faces are rendered with."""


def kind_of(data: str) -> tuple[str, str]:
    """`KIND:REST` -> both.

    Raises:
        InvalidInputError: There is no such kind.
    """
    kind, _, rest = data.partition(":")
    if kind not in KINDS or not rest:
        known = ", ".join(f"{name}:DIR" for name in KINDS[:-1])
        raise InvalidInputError(f"Expected {known} or synthetic:N[:CACHE] for --data, got '{data}'.")
    return kind, rest


def data_name(data: str) -> str:
    """What a report calls a data set: no path in it, so that it reads the same on every machine."""
    kind, rest = kind_of(data)
    if kind == "synthetic":
        return f"synthetic:{parse_synthetic(data)[0]}"
    return f"{kind}:{Path(rest).resolve().name}"


def load_points(kind: str, folder: str) -> tuple[list[PointFace], Scheme]:
    """The faces of a set that is labelled with points alone, and what its points are."""
    readers = {"aflw": load_aflw, "aflw-3ddfa": load_aflw_crops, "points": load_own}
    return readers.get(kind, load_pts)(folder).faces, AFLW_21 if kind.startswith("aflw") else IBUG_68


def held_out_faces(data: str, crop_size: int, options: SetOptions) -> SyntheticSamples:
    """Faces of `synthetic:N[:CACHE]` that are never trained on, rendered where they are missing."""
    count, directory = parse_synthetic(data)
    size = image_size(crop_size)
    samples = SyntheticSamples(count, directory, size=size, seed=HELD_OUT_SEED, assets=options.assets)
    samples.fill()
    return samples


def yaws_of(path: str | None, faces: Sequence[AnnotatedFace]) -> NDArray[np.float64] | None:
    """Yaws (F,) of a file, None without one."""
    return None if path is None else read_yaws(path, [face.stem for face in faces])


def read_yaws(path: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Degrees (F,) of the named faces, from lines "NAME DEGREES" or a .npy in the names' order.

    Raises:
        FileNotFoundError: There is no such file.
        FileFormatError: It is neither, or holds NaN.
        MismatchError: A face is missing in it.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: expected a file of yaws, found none; check the path.")
    try:
        if file.suffix == ".npy":
            values = np.asarray(read_npy(file), dtype=np.float64).ravel().tolist()
            given = dict(zip(names, values, strict=False))
            count = len(values)
        else:
            lines = [line.replace(",", " ").split() for line in file.read_text(encoding="utf-8-sig").splitlines()]
            given = {Path(name).stem: float(degrees) for name, degrees in filter(None, lines)}
            count = len(names)
    except ValueError as error:
        raise FileFormatError(
            f"{path}: expected lines 'NAME DEGREES', or a .npy of degrees, got neither ({error}); write it again."
        ) from error
    if count != len(names):
        raise MismatchError(
            f"{path}: expected a yaw for each of {len(names)} faces, in their names' order, got {count}; give the "
            "whole set, or lines 'NAME DEGREES'."
        )
    for name in names:
        if not np.isfinite(given.get(name, 0.0)):
            raise FileFormatError(f"{path}: expected degrees, got {given[name]} for {name}; put in its yaw.")
        if name not in given:
            raise MismatchError(
                f"{path}: expected a yaw for each of {len(names)} faces, got none for {name}; add its line."
            )
    return np.array([given[name] for name in names])
