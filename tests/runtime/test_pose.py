import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.pose import decompose, euler_to_rotation, rotation_to_euler

turns = st.floats(-179, 179)


@given(st.floats(-89, 89), turns, turns)
def test_angles_survive_the_rotation_matrix(yaw, pitch, roll):
    rotation = euler_to_rotation(yaw, pitch, roll)
    assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.linalg.det(rotation) > 0
    assert rotation_to_euler(rotation) == pytest.approx((yaw, pitch, roll), abs=1e-5)


@given(st.sampled_from([-90.0, 90.0]), turns, turns)
def test_at_gimbal_lock_the_rotation_still_survives(yaw, pitch, roll):
    rotation = euler_to_rotation(yaw, pitch, roll)
    assert np.allclose(euler_to_rotation(*rotation_to_euler(rotation)), rotation, atol=1e-4)


@pytest.mark.parametrize(
    ("angles", "nose_x", "nose_y", "crown_x"),
    [
        ((30, 0, 0), -1, 0, 0),  # yaw > 0: the nose goes to the image's left
        ((0, 30, 0), 0, 1, 0),  # pitch > 0: the nose goes up
        ((0, 0, 30), 0, 0, 1),  # roll > 0: clockwise, the crown goes to the image's right
    ],
)
def test_signs(angles, nose_x, nose_y, crown_x):
    rotation = euler_to_rotation(*angles)
    nose, crown = rotation @ [0, 0, 1], rotation @ [0, 1, 0]
    assert np.sign(np.round(nose[:2], 9)).tolist() == [nose_x, nose_y]
    assert np.sign(np.round(crown[0], 9)) == crown_x


@given(st.floats(0.01, 10), st.floats(-80, 80), turns, turns)
def test_pose_matrix_comes_apart(scale, yaw, pitch, roll):
    rotation = euler_to_rotation(yaw, pitch, roll)
    pose = np.hstack([scale * np.diag([1, -1, 1]) @ rotation, [[1], [2], [0]]])
    found_scale, found_rotation, translation = decompose(pose)
    assert found_scale == pytest.approx(scale)
    assert np.allclose(found_rotation, rotation, atol=1e-9) and translation.tolist() == [1, 2, 0]


def test_the_scale_of_an_uneven_matrix_is_the_mean_of_its_axes():
    scale, rotation, shift = decompose(np.column_stack([np.diag([1.0, -2.0, 6.0]), [7.0, 8.0, 9.0]]))
    assert scale == pytest.approx(3.0) and shift.tolist() == [7.0, 8.0, 9.0]
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-12)


def test_a_mirrored_matrix_still_gives_a_rotation():
    scale, rotation, _ = decompose(np.column_stack([np.diag([3.0, 2.0, 1.0]), np.zeros(3)]))  # y up in a crop is none
    assert scale == pytest.approx(2.0) and np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation, np.diag([1.0, -1.0, -1.0]), atol=1e-12)  # the least certain axis gives way
