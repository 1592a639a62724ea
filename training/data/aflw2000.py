"""AFLW2000-3D (Zhu et al., CVPR 2016): a folder of NAME.jpg with NAME.mat beside it.

Of each .mat: pt3d_68 (3, 68), image landmarks, Matlab's 1-based pixels, y down, hidden ones included; Pose_Para (1, 7)
= pitch, yaw, roll (radians), translation, scale. Landmarks are handed out 0-based, angles in degrees.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.convert.mat_files import load_mat
from runtime.errors import FileFormatError
from runtime.face_model import LANDMARKS
from training.data.files import find_files, image_beside, numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedFace:
    """One face of the set."""

    stem: str
    image_path: Path
    landmarks: NDArray[np.float64]  # (68, 3) image pixels, 0-based
    yaw: float
    pitch: float
    roll: float


def load_aflw2000(folder: str | os.PathLike[str]) -> list[AnnotatedFace]:
    """All faces of a folder, by name.

    Raises:
        FileNotFoundError: No such folder.
        FileFormatError: No .mat file in it, one without its image, or one of another layout.
    """
    directory = Path(folder)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: expected the folder of AFLW2000-3D, found none; check the path.")
    paths = [directory / file.name for file in find_files(directory, ".mat")]
    if not paths:
        raise FileFormatError(
            f"{directory}: expected NAME.jpg and NAME.mat files, got no .mat; unpack AFLW2000-3D there."
        )
    return [_load_face(path) for path in paths]


def _load_face(path: Path) -> AnnotatedFace:
    image = image_beside(path)
    content = load_mat(path)
    points = numbers(path, content, "pt3d_68", (3, LANDMARKS)).T
    pose = numbers(path, content, "Pose_Para", 7)
    if not np.ptp(points[:, :2], axis=0).all():
        raise FileFormatError(f"{path}: expected pt3d_68 whose box has an area, got a flat one; fetch the file again.")
    pitch, yaw, roll = (float(value) for value in np.degrees(pose[:3]))
    shifted = points - np.array([1.0, 1.0, 0.0])
    return AnnotatedFace(stem=path.stem, image_path=image, landmarks=shifted, yaw=yaw, pitch=pitch, roll=roll)
