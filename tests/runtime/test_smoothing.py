"""The filter of tracked faces: exact ways there and back, time stamps in place of frame numbers, settings by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import InvalidInputError, Roi, load_face_model
from runtime.pose import euler_to_rotation
from runtime.smoothing import (
    SETTINGS,
    Placed,
    find_setting,
    place,
    rotation_vector,
    smooth,
    unplace,
    vector_rotation,
)

_vectors = st.tuples(*[st.floats(-1.7, 1.7)] * 3)


@given(_vectors)
def test_a_rotation_vector_and_its_rotation_are_inverse(vector):
    rotation = vector_rotation(np.array([vector]))
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3)[None], atol=1e-12)
    np.testing.assert_allclose(rotation_vector(rotation)[0], vector, atol=1e-6)


def params_of(rotation, scale=0.7, shift=(60.0, 70.0, 3.0)):
    pose = np.c_[scale * np.diag([1, -1, 1]) @ rotation, shift]
    return np.r_[pose.ravel(), np.linspace(-1, 1, 50)].astype(np.float32)[None]


def test_a_face_is_placed_in_the_image_and_back():
    roi, model = Roi(center_x=300, center_y=200, side=250, angle=35), load_face_model()
    params = params_of(euler_to_rotation(30, -10, 5))
    maps = roi.map(128)
    placed = place(params, maps[0][None], maps[1][None], model.shape_count)
    # in the image, the head's own turn and the region's add up
    np.testing.assert_allclose(
        placed.rotation[0], euler_to_rotation(0, 0, 35) @ euler_to_rotation(30, -10, 5), atol=1e-6
    )
    assert placed.scale[0] == pytest.approx(0.7 * 250 / 128, rel=1e-6)
    np.testing.assert_allclose(placed.position[0], roi.to_image(params[0, 3:12:4].astype(float), 128), atol=1e-9)
    np.testing.assert_allclose(unplace(placed, maps[0][None], maps[1][None]), params, atol=1e-4)


def follow(values, rate, setting):
    """The filtered yaw, in degrees, of heads turned by `values` degrees, at a rate."""
    states, result = [None], []
    for value in values:
        placed = Placed(
            rotation=euler_to_rotation(value, 0, 0)[None],
            scale=np.ones(1),
            position=np.array([[value, 0.0, 0.0]]),
            shape=np.zeros((1, 2)),
            expression=np.full((1, 1), value),
        )
        after, states = smooth(placed, states, np.array([200.0]), 1 / rate, setting)
        result.append((-np.degrees(np.arcsin(after.rotation[0, 0, 2])), after.position[0, 0], after.expression[0, 0]))
    return np.array(result)


@pytest.mark.parametrize("name", ["still", "responsive"])
def test_the_frame_rate_does_not_matter(name):
    def path(rate):
        time = np.arange(0, 1.5, 1 / rate)
        return follow(20 * np.sin(3 * time), rate, SETTINGS[name])

    np.testing.assert_allclose(path(120)[:: 120 // 30], path(30), atol=1.6)


def test_still_holds_stiller_and_responsive_follows_sooner():
    noise = np.random.default_rng(0).normal(0, 0.5, 200)
    rest = {name: follow(noise, 30, SETTINGS[name])[30:].std(axis=0) for name in ("still", "responsive")}
    ramp = np.minimum(np.arange(60), 30) * 3.0  # 90 degrees a second
    late = {name: ramp[29] - follow(ramp, 30, SETTINGS[name])[29, 0] for name in ("still", "responsive")}
    assert (rest["still"] < 0.9 * rest["responsive"]).all() and (rest["responsive"] < 0.9 * noise[30:].std()).all()
    assert 0 < late["responsive"] < 3.6 and late["responsive"] < late["still"]  # 40 ms


def test_shape_is_averaged_with_profiles_counting_little():
    rng, states, shapes = np.random.default_rng(0), [None], []
    for i in range(100):
        profile = i % 2 == 1
        placed = Placed(
            rotation=euler_to_rotation(85 if profile else 0, 0, 0)[None],
            scale=np.ones(1),
            position=np.zeros((1, 3)),
            shape=rng.normal(4 if profile else 1, 0.3, (1, 3)),
            expression=np.zeros((1, 1)),
        )
        after, states = smooth(placed, states, np.array([200.0]), 1 / 30, SETTINGS["still"])
        shapes.append(after.shape[0])
    assert np.abs(shapes[-1] - 1.15).max() < 0.2


def test_an_unknown_setting_is_refused():
    assert find_setting("off") is None and find_setting(None) is None
    with pytest.raises(InvalidInputError, match="expected one of still, responsive, off"):
        find_setting("smooth")


def test_the_size_of_an_uneven_pose_is_the_mean_of_its_axes():
    params = np.zeros((1, 62), np.float32)
    params[0, [0, 5, 10]] = 1.0, -2.0, 6.0
    placed = place(params, np.eye(3)[np.newaxis] * 2.0, np.zeros((1, 3)), 40)
    assert placed.scale.tolist() == pytest.approx([6.0])
    np.testing.assert_allclose(placed.rotation[0], np.eye(3), atol=1e-6)
