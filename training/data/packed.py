"""3DDFA's packed training set: 300W-LP, augmented and cut into crops of 120 pixels, its labels in one array.

    DIR/train.configs/param_all_norm.pkl           float32 (N, 62), whitened      param_all_norm_val.pkl
                      param_whitening.pkl          param_mean, param_std (62,)
                      train_aug_120x120.list.train N lines, an image each         train_aug_120x120.list.val
    DIR/train_aug_120x120/…                        the crops

or all of it in DIR. Line i of the list and row i of the array belong together. De-whitened, a row is a row-major 3 × 4
matrix (Basel micrometres to pixels from 1, y up), 40 shape and 10 expression coefficients. The pickles are read without
running code (`runtime.convert.plain_pickle`). The array is the index: it needs no other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtime.convert.plain_pickle import read_plain_pickle
from runtime.errors import FileFormatError
from runtime.face_model import POSE_SIZE
from training.data.basel_labels import BaselLabels
from training.data.tables import read_text

_SIDE = 120
_SHAPES, _PARAMS = 40, 62


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedFaces:
    """Images and whitened labels."""

    images: list[Path]
    whitened: NDArray[np.float32]  # (N, 62)
    mean: NDArray[np.float64]  # (62,)
    std: NDArray[np.float64]  # (62,)

    def labels_of(self, chosen: NDArray[np.int64]) -> BaselLabels:
        """De-whitened labels of some of the faces."""
        rows = self.whitened[chosen].astype(np.float64) * self.std + self.mean
        pose = rows[:, :POSE_SIZE].reshape(-1, 3, 4)
        return BaselLabels(
            linear=pose[:, :, :3],
            translation=pose[:, :, 3],
            shape=rows[:, POSE_SIZE : POSE_SIZE + _SHAPES].astype(np.float32),
            expression=rows[:, POSE_SIZE + _SHAPES :].astype(np.float32),
            height=np.full(len(rows), _SIDE, np.int32),
        )


def load_packed(folder: str | os.PathLike[str], split: Literal["train", "val"] = "train") -> PackedFaces:
    """The training or the validation part.

    Raises:
        FileNotFoundError: A file is missing.
        FileFormatError: A pickle names code, has another layout, holds NaN, or has another length than the list.
    """
    root = Path(folder)
    configs = root / "train.configs" if (root / "train.configs").is_dir() else root
    part = "" if split == "train" else "_val"
    names = _list(configs / f"train_aug_120x120.list.{split}")
    whitened = _array(configs / f"param_all_norm{part}.pkl", None, (len(names), _PARAMS))
    statistics = configs / "param_whitening.pkl"
    pictures = root / "train_aug_120x120"
    return PackedFaces(
        images=[(pictures if pictures.is_dir() else root) / name for name in names],
        whitened=whitened.astype(np.float32, copy=False),
        mean=_array(statistics, "param_mean", (_PARAMS,)).astype(np.float64),
        std=_array(statistics, "param_std", (_PARAMS,)).astype(np.float64),
    )


def _list(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected 3DDFA's list of images, found none; copy it there.")
    names = read_text(path).split()
    if not names:
        raise FileFormatError(f"{path}: expected a file name a line, got an empty file; fetch it again.")
    return names


def _array(path: Path, key: str | None, shape: tuple[int, ...]) -> NDArray[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected this file of 3DDFA, found none; copy it there.")
    content = read_plain_pickle(path)
    value: Any = content if key is None else content.get(key) if isinstance(content, dict) else None
    what = f"'{key}' of shape" if key else "an array of shape"
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.shape != shape:
        raise FileFormatError(f"{path}: expected {what} {shape}, got {np.shape(value)}; do list and array match?")
    if not np.isfinite(value).all():
        raise FileFormatError(f"{path}: holds NaN or infinity; fetch the file again.")
    return value
