"""Photographs beside renders: the patches lie on the landmarks, upright, and mirrored where heads look right."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.command import Exit
from runtime.face_model import load_face_model
from runtime.pose import euler_to_rotation
from tools.compare_renders import PATCH, main, patches


def drawn(yaw: float, roll: float, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture with a dark dot on one landmark, and the landmarks."""
    model = load_face_model()
    points = model.unposed(np.zeros(50, np.float32))
    landmarks = (model.landmarks(points) @ euler_to_rotation(yaw, 0, roll).T)[:, :2] * [1.5, -1.5] + 200
    image = np.full((400, 400, 3), 160, np.uint8)
    cv2.circle(image, tuple(np.rint(landmarks[number]).astype(int)), 5, (0, 0, 0), -1)
    return image, landmarks


@pytest.mark.parametrize(("yaw", "roll", "number", "asked"), [(10, 0, 36, 36), (10, 40, 48, 48), (-10, 0, 45, 36)])
def test_a_landmark_is_in_the_middle_of_its_patch(yaw: float, roll: float, number: int, asked: int) -> None:
    image, landmarks = drawn(yaw, roll, number)
    (patch,) = patches(image, landmarks, yaw, [asked])
    dark = np.argwhere(patch.mean(axis=2) < patch.mean() - patch.std())
    np.testing.assert_allclose(dark.mean(axis=0), (PATCH - 1) / 2, atol=1)


def test_too_few_photographs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--photographs", str(tmp_path / "none"), "--out", str(tmp_path / "o.png")]
    assert main(options) != Exit.DONE
    assert "expected the folder of AFLW2000-3D" in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()
