"""Each conversion against the formula of the program it is for, written out here."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.conventions import to_aflw2000, to_gltf, to_opencv, to_threejs_euler, to_unity, to_unity_euler
from runtime.pose import euler_to_rotation

ANGLES = st.tuples(st.floats(-85, 85), st.floats(-85, 85), st.floats(-170, 170))


def about(axis, angle):
    """Right-handed turn about x, y or z, radians."""
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    r = np.eye(3)
    r[i, i] = r[j, j] = np.cos(angle)
    r[i, j], r[j, i] = -np.sin(angle), np.sin(angle)
    return r


def quaternion_matrix(x, y, z, w):
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@given(ANGLES)
def test_gltf_and_threejs(angles):
    rotation = euler_to_rotation(*angles)
    assert np.allclose(quaternion_matrix(*to_gltf(rotation)), rotation, atol=1e-7)
    x, y, z = to_threejs_euler(rotation)
    assert np.allclose(about(0, x) @ about(1, y) @ about(2, z), rotation, atol=1e-7)  # three.js: makeRotationFromEuler


@given(ANGLES)
def test_unity(angles):
    rotation = euler_to_rotation(*angles)
    mirror = np.diag([1, 1, -1])
    expected = mirror @ rotation @ mirror
    assert np.allclose(quaternion_matrix(*to_unity(rotation)), expected, atol=1e-7)
    x, y, z = np.radians(to_unity_euler(rotation))  # "z degrees, x degrees, and y degrees, in that order"
    assert np.allclose(about(1, y) @ about(0, x) @ about(2, z), expected, atol=1e-7)


@given(ANGLES)
def test_opencv_and_aflw2000(angles):
    rotation = euler_to_rotation(*angles)
    vector = cv2.Rodrigues(to_opencv(rotation))[0]
    point = np.array([10.0, 20.0, 30.0])
    seen = cv2.Rodrigues(vector)[0] @ point
    # Near half a turn, as faces from the front are, OpenCV's vector is 0.001 degrees off.
    assert np.allclose(seen, (rotation @ point) * [1, -1, -1], atol=2e-3)
    yaw, pitch, roll = angles
    assert np.allclose(to_aflw2000(rotation), np.radians([pitch, yaw, roll]), atol=1e-6)


def test_the_meaning_of_a_turn_to_the_images_left():
    left = euler_to_rotation(30, 0, 0)  # yaw > 0
    nose = np.array([0, 0, 1.0])
    assert (quaternion_matrix(*to_gltf(left)) @ nose)[0] < 0 and (to_opencv(left) @ nose)[0] < 0
    assert to_unity_euler(left)[1] > 0 > to_threejs_euler(left)[1] and to_aflw2000(left)[1] > 0


@pytest.mark.parametrize("angle", [90, -90])
def test_locked_angles_still_give_the_rotation(angle):
    rotation = euler_to_rotation(angle, 20, 10)
    x, y, z = to_threejs_euler(rotation)
    assert np.allclose(about(0, x) @ about(1, y) @ about(2, z), rotation, atol=1e-4)
    up = euler_to_rotation(0, angle, 25)
    x, y, z = np.radians(to_unity_euler(up))
    assert np.allclose(
        about(1, y) @ about(0, x) @ about(2, z), np.diag([1, 1, -1]) @ up @ np.diag([1, 1, -1]), atol=1e-4
    )


def test_what_is_no_rotation_is_refused():
    for wrong in (np.eye(3) * 2, np.diag([1, 1, -1]), np.eye(4), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="rotation: expected"):
            to_gltf(wrong)
