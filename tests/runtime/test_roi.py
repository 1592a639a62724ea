import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import InvalidInputError, Roi, crop
from runtime.roi import crop_through, maps, rois_from_landmarks, to_image

coordinates = st.floats(-5000, 5000)
angles = st.floats(-400, 400)
rois = st.builds(Roi, center_x=coordinates, center_y=coordinates, side=st.floats(1, 4000), angle=angles)


@given(rois, st.integers(1, 512), st.tuples(coordinates, coordinates, coordinates))
def test_a_point_goes_to_the_crop_and_back(roi, size, point):
    there = roi.to_crop(np.array([point]), size)
    assert np.abs(roi.to_image(there, size) - point).max() < 1e-3


def test_many_regions_take_their_points_back_at_once():
    turned = Roi(center_x=-40, center_y=30, side=64, angle=-70)
    some = [Roi(center_x=900.5, center_y=-3, side=40), Roi(center_x=10, center_y=700, side=900), turned]
    points = np.random.default_rng(0).uniform(-10, 130, (3, 5, 3)).astype(np.float32)
    together = to_image(points, *maps(some, 120))
    assert together.dtype == np.float32 and to_image(points[:0], *maps([], 120)).shape == (0, 5, 3)
    for roi, given_, found in zip(some, points, together, strict=True):
        np.testing.assert_array_equal(found, roi.to_image(given_, 120))
        if roi.angle:
            continue
        # the middle of the crop is the region's centre, z is scaled alone
        center = np.array([roi.center_x, roi.center_y, 0])
        np.testing.assert_allclose(found, center + (given_ - [59.5, 59.5, 0]) * roi.side / 120, atol=1e-3)


def test_regions_of_many_faces_are_those_of_each():
    points = np.random.default_rng(1).uniform(-10, 130, (3, 5, 3)).astype(np.float32)
    for angle, face, roi in zip((0.0, 37.5, -170.0), points, rois_from_landmarks(points, (0, 37.5, -170)), strict=True):
        alone = Roi.from_landmarks(face, angle=angle)
        for name in ("center_x", "center_y", "side", "angle"):
            assert getattr(roi, name) == pytest.approx(getattr(alone, name), abs=1e-9)


@pytest.mark.parametrize("scale", [2.1, 3.7, 9.5])
def test_four_channels_give_the_bytes_of_three(monkeypatch, scale):
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    regions = [Roi(center_x=x, center_y=210, side=32 * scale) for x in (120, 395)]
    through_four = crop(image, regions, 32)

    def pass_on(pixels, code, dst=None):
        if dst is None:
            return pixels
        dst[:] = pixels

    monkeypatch.setattr("cv2.cvtColor", pass_on)
    np.testing.assert_array_equal(through_four, crop(image, regions, 32))


def test_a_positive_angle_turns_the_region_clockwise():
    roi = Roi(center_x=50, center_y=40, side=20, angle=90)
    # y points down, so clockwise: the crop's right is the image's bottom, its bottom the image's left
    np.testing.assert_allclose(roi.to_image(np.array([[19.5, 9.5], [9.5, 19.5]]), 20), [[50, 50], [40, 40]], atol=1e-9)


@given(rois, st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=5, unique=True), angles)
def test_the_region_of_landmarks_turns_with_them(roi, points, angle):
    upright = np.array(points)
    if np.ptp(upright, axis=0).max() < 1e-3:
        return
    region = Roi.from_landmarks(upright)
    turned = Roi.from_landmarks(Roi(center_x=0, center_y=0, side=1, angle=angle).to_image(upright, 1), angle=angle)
    # both see the points at the same places of their crops
    there = Roi(center_x=0, center_y=0, side=1, angle=angle).to_image(upright, 1)
    np.testing.assert_allclose(turned.to_crop(there, 100), region.to_crop(upright, 100), atol=1e-3 + 1e-3 / region.side)


@given(
    st.floats(-200, 300), st.floats(-200, 300), st.floats(4, 300), st.integers(4, 96), st.just(0.0) | st.floats(0, 360)
)
def test_crop_samples_what_to_image_says(center_x, center_y, side, size, angle):
    # On a ramp, bilinear sampling is exact and block averages shift nothing, so each crop pixel must show the value of
    # the image point that it maps to; outside, edge pixels are replicated.
    y, x = np.mgrid[0:120, 0:160]
    image = np.stack([x, 2 * y, 159 - x], axis=2).astype(np.uint8)
    roi = Roi(center_x=center_x, center_y=center_y, side=side, angle=angle)
    u, v = np.meshgrid(np.arange(size), np.arange(size))
    points = roi.to_image(np.stack([u, v], axis=2).astype(np.float64), size)
    # Where the region is averaged first, pixels near the border mix blocks with the replicated edge.
    margin = max(1, math.floor(side / size)) if side > 2 * size else 0
    inside = np.ones((size, size), dtype=bool)
    if margin:
        inside = ((points > margin) & (points < np.array([159, 119]) - 2 * margin)).all(axis=2)
    px, py = np.clip(points[..., 0], 0, 159), np.clip(points[..., 1], 0, 119)
    expected = np.stack([px, 2 * py, 159 - px], axis=2)
    error = np.abs(crop(image, [roi], size)[0] - expected)[inside]
    assert error.size == 0 or error.max() <= 1.5  # averaging and sampling each round


def test_a_large_face_does_not_alias():
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (800, 400))
    image = np.dstack([stripes] * 3)
    result = crop(image, [Roi(center_x=400, center_y=400, side=640)], 64)
    assert np.abs(result.astype(int) - 127).max() <= 1


@pytest.mark.parametrize(("scale", "low", "high"), [(1.9, 0, 255), (2.5, 127, 129), (3.0, 84, 171)])
def test_averaging_begins_at_twice_the_crop(scale, low, high):
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (200, 100))
    result = crop(np.dstack([stripes] * 3), [Roi(center_x=99.5, center_y=99.5, side=32 * scale)], 32)
    assert low <= result.min() and result.max() <= high and (scale > 2 or np.ptp(result) > 200)


@pytest.mark.parametrize(
    ("center", "side"),
    [((-9e8, 0), 10), ((0, 9e8), 1e3), ((1e6, -1e6), 9e8), ((50, 50), 1e-6)],
)
def test_regions_far_out_or_of_odd_size_give_the_edge(center, side):
    image = np.full((60, 80, 3), 77, dtype=np.uint8)
    assert (crop(image, [Roi(center_x=center[0], center_y=center[1], side=side)], 16) == 77).all()


@pytest.mark.parametrize("side", [70, 300, 1100])  # sampled directly, and of blocks
def test_through_a_homography_that_is_affine_a_crop_is_the_same(side):
    image = np.random.default_rng(0).integers(256, size=(700, 900, 3), dtype=np.uint8)
    roi = Roi(center_x=480.0, center_y=330.0, side=side, angle=25.0)
    homography = 3.0 * np.vstack([roi.matrix(64), [0, 0, 1]])
    through = crop_through(image, homography, side, 64)
    assert np.abs(through.astype(int) - crop(image, [roi], 64)[0]).max() <= 8  # OpenCV rounds places to 1/32 of a pixel


def test_several_regions_come_back_in_order_and_none_as_an_empty_batch():
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    image[:50] = 200
    top, bottom = Roi(center_x=50, center_y=20, side=20), Roi(center_x=50, center_y=80, side=20)
    batch = crop(image, [top, bottom], 8)
    assert (batch[0] == 200).all() and (batch[1] == 0).all()
    assert crop(image, [], 8).shape == (0, 8, 8, 3)


def test_region_of_landmarks_is_the_longer_side_times_root_two():
    roi = Roi.from_landmarks([(10, 20), (50, 100), (30, 40)])
    assert (roi.center_x, roi.center_y) == (30, 60)
    assert roi.side == pytest.approx(80 * math.sqrt(2))


def test_a_box_with_an_angle_is_turned_about_its_middle():
    upright, turned = Roi.from_box((10, 20, 40, 80)), Roi.from_box((10, 20, 40, 80, 30))
    assert upright.angle == 0 and turned == Roi(center_x=30, center_y=60, side=upright.side, angle=30)


@pytest.mark.parametrize(
    "image",
    [
        None,
        "photo.jpg",
        np.zeros((4, 4, 3)),  # float
        np.zeros((4, 4, 2), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
        np.zeros((2, 4, 4, 3), dtype=np.uint8),
        np.zeros((1, 40000, 3), dtype=np.uint8),
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(InvalidInputError, match=r"image: expected .*got"):
        crop(image, [Roi(center_x=1, center_y=1, side=2)], 8)


@pytest.mark.parametrize("channels", [None, 1, 4])
def test_grey_and_bgra_are_converted(channels):
    shape = (6, 6) if channels is None else (6, 6, channels)
    assert (crop(np.full(shape, 9, dtype=np.uint8), [Roi(center_x=3, center_y=3, side=4)], 4) == 9).all()


@pytest.mark.parametrize(
    "box",
    [
        (1, 2, 3),
        (0, 0, 0, 5),
        (0, 0, 5, -1),
        (0, math.nan, 1, 1),
        "box",
        None,
        (0, 0, math.inf, 1),
        [[1, 2, 3, 4]],
        (0, 0, 1, 1, math.nan),
        [1] * 6,
    ],
)
def test_what_is_no_box_is_refused(box):
    with pytest.raises(InvalidInputError, match=r"box: expected .*got"):
        Roi.from_box(box)
