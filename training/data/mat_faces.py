"""300W-LP and AFLW2000-3D (Zhu et al., CVPR 2016): NAME.jpg with NAME.mat beside it, a Basel fit of each face.

Of each .mat: Pose_Para (1, 7), Shape_Para (199, 1), Exp_Para (29, 1) (see `training.data.basel_labels`), and the
landmarks: pt3d_68 (3, 68) in AFLW2000-3D, pt2d (2, 68) in 300W-LP; image pixels from 1, y down. Layouts:

    300W-LP       DIR/AFW, AFW_Flip, HELEN, HELEN_Flip, IBUG, IBUG_Flip, LFPW, LFPW_Flip, each with .jpg and .mat
    AFLW2000-3D   DIR with .jpg and .mat

The _Flip folders hold the mirrored images with labels of their own, which a model that can't mirror needs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.convert.mat_files import load_mat
from runtime.errors import FileFormatError
from runtime.face_model import LANDMARKS
from training.data.basel_labels import BaselLabels, linear_of_pose
from training.data.files import (
    MAX_BAD_SHARE,
    find_files,
    image_beside,
    image_height,
    labelled_image,
    numbers,
    read_index,
)

FOLDERS_300W_LP = {
    name + flip: count
    for name, count in (("AFW", 5207), ("HELEN", 37676), ("IBUG", 1786), ("LFPW", 16556))
    for flip in ("", "_Flip")
}
"""The parts of 300W-LP and how many samples each has."""
_SHAPES, _EXPRESSIONS = 199, 29


@dataclass(frozen=True, kw_only=True, eq=False)
class MatFaces:
    """The faces of a set: images and labels."""

    folder: Path
    images: list[Path]
    labels: BaselLabels
    landmarks: NDArray[np.float32]  # (N, 68, 2) image pixels, 0-based; NaN where the file has none
    bad: dict[str, str]
    """Label files that were left out, and why."""

    def labels_of(self, chosen: NDArray[np.int64]) -> BaselLabels:
        """Labels of some of the faces."""
        return self.labels[chosen]


def load_300w_lp(
    folder: str | os.PathLike[str], *, flips: bool = True, cache: Path | None = None, max_bad: float = MAX_BAD_SHARE
) -> MatFaces:
    """300W-LP, with or without its mirrored images.

    Raises:
        FileNotFoundError: No such folder.
        FileFormatError: None of its parts is there, or more labels are bad than `max_bad`, a share.
    """
    parts = [part for part in FOLDERS_300W_LP if flips or not part.endswith("_Flip")]
    return _load(Path(folder), "300w-lp" if flips else "300w-lp-unflipped", parts, cache, max_bad)


def load_aflw2000_faces(
    folder: str | os.PathLike[str], *, cache: Path | None = None, max_bad: float = MAX_BAD_SHARE
) -> MatFaces:
    """AFLW2000-3D with its Basel labels; `training.data.aflw2000` reads the landmarks alone, for evaluation.

    Raises:
        FileNotFoundError: No such folder.
        FileFormatError: It holds no .mat, or more of them are bad than `max_bad`, a share.
    """
    return _load(Path(folder), "aflw2000", ["."], cache, max_bad)


def read_labels(path: Path) -> dict[str, NDArray[Any]]:
    """The numbers of one .mat, for the index.

    Raises:
        FileFormatError: Its image is missing, it has another layout, or holds NaN.
    """
    content = load_mat(path)
    pose = numbers(path, content, "Pose_Para", 7)
    image = image_beside(path)
    if not pose[6] > 0:
        raise FileFormatError(f"{path}: expected a scale above 0 as the last entry of Pose_Para, got {pose[6]:g}.")
    return {
        "linear": linear_of_pose(pose),
        "translation": pose[3:6],
        "shape": numbers(path, content, "Shape_Para", _SHAPES).astype(np.float32),
        "expression": numbers(path, content, "Exp_Para", _EXPRESSIONS).astype(np.float32),
        "height": np.array(image_height(image), dtype=np.int32),
        "landmarks": _landmarks(path, content),
    }


def _load(folder: Path, kind: str, parts: list[str], cache: Path | None, max_bad: float) -> MatFaces:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected the data set's folder, found none; check the path.")
    files = find_files(folder, ".mat", parts=parts)
    if not files:
        where = "it" if parts == ["."] else f"{', '.join(parts)}"
        raise FileFormatError(
            f"{folder}: expected NAME.jpg and NAME.mat in {where}, got no .mat; unpack the set there."
        )
    index = read_index(folder, kind, files, read_labels, cache, max_bad)
    arrays = dict(index.arrays)
    landmarks = arrays.pop("landmarks")
    images = [labelled_image(folder / name) for name in index.names]
    return MatFaces(
        folder=folder,
        images=images,
        labels=BaselLabels(**arrays),
        landmarks=landmarks,
        bad=index.bad,
    )


def _landmarks(path: Path, content: dict[str, Any]) -> NDArray[np.float32]:
    for name, rows in (("pt3d_68", 3), ("pt2d", 2)):
        if name in content:
            return (numbers(path, content, name, (rows, LANDMARKS))[:2].T - 1.0).astype(np.float32)
    return np.full((LANDMARKS, 2), np.nan, np.float32)
