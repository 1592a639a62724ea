import numpy as np
import pytest

from runtime.errors import InvalidInputError
from runtime.pose import euler_to_rotation
from training.evaluation.metrics import (
    bins_or_mean,
    by_yaw,
    ced,
    ced_curve,
    euler_errors,
    geodesic,
    nme,
    nme_3d,
    nme_visible,
    pose_error,
)

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
    assert result.bins == (2.0, None, 4.0) and result.counts == (1, 0, 1)
    assert result.mean == 3.0
    assert by_yaw([], []).mean is None


def test_nme_3d_against_hand_worked_values() -> None:
    moved = BOX + np.array([3.0, 4.0, 100.0])  # 5 px each: depth's origin doesn't count
    deep = BOX.copy()
    deep[:, 2] += [12.0, -6.0, -6.0]  # of mean 0: 24 / 3 = 8 px
    np.testing.assert_allclose(nme_3d(np.stack([BOX, moved, deep]), np.stack([BOX] * 3)), [0.0, 25.0, 40.0])
    with pytest.raises(InvalidInputError, match="landmarks"):
        nme_3d(BOX[None, :, :2], BOX[None, :, :2])


def test_nme_of_visible_points_by_hand() -> None:
    truth = np.array([[[0.0, 0.0], [np.nan, np.nan], [10.0, 0.0]], [[0.0, 0.0], [5.0, 5.0], [1.0, 1.0]]])
    predicted = np.array([[[3.0, 4.0], [9.0, 9.0], [10.0, 0.0]], [[0.0, 0.0], [5.0, 6.0], [1.0, 1.0]]])
    visible = np.array([[True, False, True], [False, True, False]])
    np.testing.assert_allclose(nme_visible(predicted, truth, visible, [50.0, 20.0]), [5.0, 5.0])
    with pytest.raises(InvalidInputError, match="visible"):
        nme_visible(predicted, truth, np.zeros((2, 3), bool), [50.0, 20.0])


def test_geodesic_is_the_angle_between() -> None:
    base = euler_to_rotation(20.0, -10.0, 35.0)
    turns = [(0, 0, 0), (0, 0, 1e-3), (0, 120, 0), (180, 0, 0)]
    turned = np.stack([base @ euler_to_rotation(*angles) for angles in turns])
    np.testing.assert_allclose(geodesic(turned, np.stack([base] * 4)), [0.0, 1e-3, 120.0, 180.0], atol=1e-9)


def test_euler_errors_know_both_names_of_a_rotation() -> None:
    rotations = np.stack([euler_to_rotation(*angles) for angles in ((10, 20, 30), (-5, 175, 0), (88, 1, 2))])
    angles = [(12.0, 19.0, 33.0), (-5.0, -175.0, 1.0), (93.0, 1.0, 2.0)]  # yaw 93 is 87 with pitch and roll turned
    expected = [(2.0, 1.0, 3.0), (0.0, 10.0, 1.0), (5.0, 0.0, 0.0)]
    np.testing.assert_allclose(euler_errors(rotations, angles), expected, atol=1e-6)


def test_euler_means_leave_out_what_has_no_angles() -> None:
    angles = np.array([(10.0, 0.0, 0.0), (0.0, 0.0, 120.0)])
    rotations = np.stack([euler_to_rotation(*row) for row in angles + 3.0 * np.eye(3)[:2]])
    result = pose_error(rotations, np.stack([euler_to_rotation(*row) for row in angles]), angles)
    assert (result.yaw, result.pitch, result.roll) == pytest.approx((3.0, 0.0, 0.0)) and result.faces == 1
    assert result.mae == pytest.approx(1.0) and result.geodesic.mean == pytest.approx(3.0, abs=0.01)
    assert result.euler.bins == (pytest.approx(1.0), None, None) and result.euler.counts == (1, 0, 0)
    nobody = pose_error(rotations[1:], rotations[1:], angles[1:])
    assert nobody.mae is None and nobody.faces == 0


def test_ced_by_hand() -> None:
    errors = [2.0, 4.0, 8.0, np.inf]  # a missed face
    figures = ced(errors)
    assert figures.area == pytest.approx((0.75 + 0.5 + 0 + 0) / 4) and figures.failure_rate == 25.0
    assert ced_curve([*errors, np.nan], [0.0, 2.0, 3.9, 8.0]).tolist() == [0.0, 20.0, 20.0, 60.0]
    thresholds = np.linspace(0, 8, 8001)
    assert np.trapezoid(ced_curve(errors, thresholds), thresholds) / 800 == pytest.approx(figures.area, abs=1e-3)


def test_a_face_without_a_yaw_is_in_no_bin() -> None:
    assert by_yaw([2.0, 9.0], [10.0, np.nan]).bins == (2.0, None, None)
    assert bins_or_mean(np.array([2.0, 9.0]), np.array([10.0, np.nan])).mean == 2.0
    assert bins_or_mean(np.array([2.0, 9.0]), np.full(2, np.nan)).mean == 5.5
    assert bins_or_mean(np.zeros(0), np.zeros(0)).mean is None
