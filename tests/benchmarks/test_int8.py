"""What the INT8 figures are made of."""

import types

import cv2
import numpy as np
import pytest

from benchmarks.int8 import jitter, main
from export.equalization import noisy
from training.evaluation.metrics import second_difference


def test_second_difference_is_of_time():
    """A steady motion is no jitter; a point that jumps to and fro by 1 pixel has 2."""
    steady = np.arange(10.0)[:, None, None] * (1.0, 2.0) * np.ones((1, 3, 1))
    assert second_difference(steady) == pytest.approx(0)
    assert second_difference(np.stack([np.full((3, 2), (i % 2, 0.0)) for i in range(9)])) == pytest.approx(2)


def test_noise_has_its_deviation():
    grey = np.full((64, 64, 3), 128, np.uint8)
    values = noisy(grey, 4.0, np.random.default_rng(0)).astype(float)
    assert values.std() == pytest.approx(4.0, rel=0.05)
    assert values.mean() == pytest.approx(128, abs=0.2)


def test_jitter_is_in_percent_of_the_face_and_the_same_frames_for_all(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((80, 80, 3), 128, np.uint8))
    corners = np.array([(20.0, 20, 0), (60, 60, 0)])
    face = types.SimpleNamespace(image_path=tmp_path / "a.png", landmarks=corners)  # region: 40 * sqrt(2) pixels
    seen = []

    def network(crops):
        seen.append(crops)
        return np.arange(len(crops), dtype=np.float32) % 2

    model = types.SimpleNamespace(landmarks=lambda x: np.stack([x, 0 * x, 0 * x], axis=-1)[:, None])
    found = jitter([network, network], 32, model, [face], noise=3.0, frames=8)
    np.testing.assert_allclose(found, 100 * 2 * (40 * np.sqrt(2) / 32) / 40, rtol=1e-6)
    np.testing.assert_array_equal(*seen)
    assert np.ptp(seen[0].astype(int), axis=0).max() > 3  # frames differ


@pytest.mark.parametrize("options", [["--data", "points:x"], ["--data", "aflw2000:none"]])
def test_what_cannot_be_measured_is_one_line(options, capsys):
    assert main(options) == 2
    assert capsys.readouterr().err.count("\n") == 1
