import cv2
import numpy as np
import pytest

from runtime import InvalidInputError
from runtime.maps import depth_map, depth_picture, normal_map, normal_picture, pncc_map, triangle_map
from tests.runtime.faces import MODEL, posed

SHAPE = (200, 220)


def test_depth_is_the_models_millimetres_towards_the_viewer():
    face = posed(0)
    depth = depth_map(face, SHAPE)
    nose = face.vertices[face.vertices[:, 2].argmax()]
    x, y = np.round(nose[:2]).astype(int)
    assert depth.dtype == np.float32 and depth.shape == SHAPE
    assert depth[y, x] == pytest.approx(MODEL.mean[:, 2].max(), abs=0.5) == pytest.approx(np.nanmax(depth), abs=0.5)
    assert np.isnan(depth[0, 0]) and np.isfinite(depth).mean() > 0.05


def test_a_crops_map_is_the_images_map_cut_out():
    face = posed(30, 10, center=(100.0, 100.0), side=128.0)  # one crop pixel is one image pixel, half a pixel apart
    in_image, in_crop = depth_map(face, SHAPE), depth_map(face, 128)
    matrix = np.float32([[1, 0, 36.5], [0, 1, 36.5]])
    cut = cv2.warpAffine(in_image, matrix, (128, 128), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    both = np.isfinite(cut) & np.isfinite(in_crop)
    assert both.sum() > 3000 and np.median(np.abs(cut - in_crop)[both]) < 0.1
    large = depth_map(face, 256)
    assert np.nanmax(large) == pytest.approx(np.nanmax(in_crop), abs=0.3)  # millimetres, whatever the size


def test_a_turned_regions_crop_shows_the_face_as_its_crop_does_in_the_image_too():
    upright, turned = posed(30, 10), posed(30, 10, angle=40)
    for make in (depth_map, normal_map):
        assert np.nanmax(np.abs(make(turned, 128) - make(upright, 128))) < 0.5
        assert np.nanmedian(np.abs(make(turned, 128) - make(upright, 128))) < 1e-3
    chin = turned.landmarks[8, :2]  # the face's down is the image's lower left: a turn clockwise
    x, y = np.round(chin + (turned.landmarks[27, :2] - chin) * 0.05).astype(int)
    assert normal_map(turned, SHAPE)[y, x, 0] < normal_map(upright, SHAPE)[y, x, 0] and chin[0] < 100


def test_normals_of_the_nose_and_the_cheeks():
    face = posed(0)
    normals = normal_map(face, SHAPE)
    shown = np.linalg.norm(normals, axis=2)
    assert np.allclose(shown[shown > 0], 1, atol=1e-3)
    subjects_left, forehead = face.landmarks[14, :2], (face.landmarks[27, :2] - (0, 40))
    x, y = np.round(subjects_left - (6, 0)).astype(int)
    assert normals[y, x, 0] > 0.5  # the viewer's right
    x, y = np.round(face.landmarks[8, :2] - (0, 2)).astype(int)
    assert normals[y, x, 1] < -0.3  # under the chin: downwards
    assert forehead[1] > 0 and normal_picture(normals)[0, 0].max() == 0


def test_pncc_says_which_point_of_the_mean_face_a_pixel_shows():
    face = posed(-25)
    code, numbers = pncc_map(face, SHAPE), triangle_map(face, SHAPE)
    x, y = np.round(face.landmarks[33, :2]).astype(int)
    here = code[y, x] * np.ptp(MODEL.mean, axis=0) + MODEL.mean.min(axis=0)
    assert np.linalg.norm(here - MODEL.mean[MODEL.triangles[numbers[y, x]]].mean(axis=0)) < 3
    assert numbers[0, 0] == -1 and not code[0, 0].any() and code.min() >= 0 and code.max() <= 1


def test_the_larger_face_is_in_front():
    near, far = posed(0, side=200.0), posed(0, side=60.0)
    alone = triangle_map(near, SHAPE)
    assert np.array_equal(triangle_map([near, far], SHAPE)[alone >= 0], alone[alone >= 0])


def test_no_face_and_wrong_shapes():
    np.testing.assert_array_equal(depth_map(posed(), np.int64(64)), depth_map(posed(), 64))
    assert np.isnan(depth_map([], (4, 5))).all() and not depth_picture(depth_map([], (4, 5))).any()
    for faces, shape in (([], 64), ([posed(), posed()], 64), (posed(), 0), (posed(), (3, 4, 5)), (posed(), (1e3, 5))):
        with pytest.raises(InvalidInputError, match="shape: expected"):
            depth_map(faces, shape)
