"""The benchmark of steadiness: its measures tell what they say."""

import numpy as np
import pytest

from benchmarks import stability
from benchmarks.clips import Actor, State, Studio


@pytest.mark.parametrize("late", [0.0, 0.04])
def test_the_lag_is_how_late_the_yaw_is(late):
    times = np.arange(0, 6, 1 / 30)
    yaws = np.array([0.9 * stability._ramp(t - late) + 2 for t in times])
    assert stability._lag(times, yaws) == pytest.approx(1000 * late, abs=1.5)


def test_a_clip_s_truth_moves_with_its_head():
    studio = Studio(noise=0.0)
    here, there = (
        next(studio.clip([Actor(index=12, act=lambda t, x=x: State(center=(x, 300), side=200))], 0.03))
        for x in (500, 560)
    )
    moved = there.faces[0].landmarks - here.faces[0].landmarks
    np.testing.assert_allclose(moved, np.tile([60, 0, 0], (68, 1)), atol=1e-3)
    shifted = np.roll(here.image, 60, axis=1)
    box = np.s_[220:380, 480:640]
    assert np.abs(there.image[box].astype(int) - shifted[box]).mean() < 1


def test_unknown_parts_are_refused(capsys):
    assert stability.main(["--parts", "all"]) == 2
    assert "--parts: expected still, moving" in capsys.readouterr().err
