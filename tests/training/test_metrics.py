import numpy as np
import pytest

from runtime.errors import InvalidInputError
from training.metrics import by_yaw, nme

BOX = np.array([[0.0, 0.0, 5.0], [40.0, 10.0, -3.0], [20.0, 5.0, 0.0]])  # 40 x 10: sqrt(w * h) = 20


def test_nme_against_hand_worked_values() -> None:
    moved = BOX + np.array([3.0, 4.0, 100.0])  # 5 px each; depth doesn't count
    one = BOX.copy()
    one[0, 0] += 6.0  # 6 px on one of three points: 2 px in the mean
    np.testing.assert_allclose(nme(np.stack([BOX, moved, one]), np.stack([BOX] * 3)), [0.0, 25.0, 10.0])


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (np.zeros((1, 68, 3)), np.zeros((1, 21, 3)), "landmarks"),  # another number of points
        (np.zeros((68, 2)), np.zeros((68, 2)), "landmarks"),  # no batch
        (np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), "area"),  # a flat box
    ],
)
def test_nme_refuses_what_has_no_answer(predicted: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        nme(predicted, truth)


def test_bins_of_yaw_by_hand() -> None:
    result = by_yaw([1.0, 3.0, 10.0, 20.0, 60.0], [0.0, -30.0, 30.01, -60.0, 75.0])
    assert result.bins == (2.0, 15.0, 60.0)
    assert result.mean == pytest.approx(77 / 3)


def test_an_empty_bin_is_none_and_stays_out_of_the_mean() -> None:
    result = by_yaw([2.0, 4.0], [10.0, 80.0])
    assert result.bins == (2.0, None, 4.0)
    assert result.mean == 3.0
    assert by_yaw([], []).mean is None
