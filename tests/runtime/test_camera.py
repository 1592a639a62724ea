"""Metric pose against heads projected in perspective, whose scaled-orthographic fit is made here, independently."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import Face, InvalidInputError, Reconstructor, Roi, read_image
from runtime.camera import Camera, metric_pose
from runtime.pose import euler_to_rotation
from tests.runtime.faces import MODEL, posed

FLIP = np.diag([1.0, -1.0, -1.0])
SIZE = 128
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def reconstruct():
    pytest.importorskip("onnxruntime")
    with Reconstructor(threads=1) as opened:
        yield opened


def seen_through(camera, rotation, translation, coefficients):
    """The face as a perfect network gives it: the best scaled-orthographic camera for what the lens projects."""
    params = MODEL.unposed(coefficients)
    points = np.concatenate([MODEL.landmarks(params), MODEL.vertices(params)[::7]]).astype(float)
    image = camera.project(points @ rotation.T + translation)
    roi = Roi.from_landmarks(image[:68])
    crop = roi.to_crop(image, SIZE)
    # Alternate: scale and shift for a rotation, then the nearest rotation by the depth that it gives (POSIT's way).
    centred, target = points - points.mean(axis=0), (crop - crop.mean(axis=0)) * [1, -1]
    turn = FLIP @ rotation
    for _ in range(500):
        flat = (centred @ turn.T)[:, :2]
        scale = (flat * target).sum() / (flat * flat).sum()
        full = np.column_stack([target / scale, (centred @ turn.T)[:, 2]])
        u, _, vt = np.linalg.svd(full.T @ centred)
        turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    pose = np.zeros((3, 4))
    pose[:, :3] = scale * np.diag([1.0, -1.0, 1.0]) @ turn
    pose[:2, 3] = crop.mean(axis=0) - (pose[:, :3] @ points.mean(axis=0))[:2]
    params[:12] = pose.ravel()
    landmarks = roi.to_image(MODEL.landmarks(params), SIZE)
    return Face(box=(0, 0, 1, 1), score=1.0, roi=roi, crop_size=SIZE, params=params, landmarks=landmarks, model=MODEL)


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1) / 2, -1, 1)))


CAMERA = Camera(900.0, 900.0, 639.5, 359.5)
POSES = [
    ((0, 0, 0), (0, 0, 600)),
    ((30, 10, 5), (0, 0, 350)),  # near: strong perspective
    ((-40, -15, 10), (250, 100, 450)),  # off-centre
    ((60, 5, -20), (-300, -80, 500)),
]


@pytest.mark.parametrize(("angles", "translation"), POSES)
def test_a_perfect_network_gives_the_true_pose_off_centre_too(angles, translation):
    rotation = FLIP @ euler_to_rotation(*angles)
    coefficients = np.concatenate([np.linspace(-1, 1, 40), np.linspace(1, -1, 10)])
    face = seen_through(CAMERA, rotation, np.array(translation, float), coefficients)
    pose = face.metric_pose(CAMERA)
    assert degrees_between(pose.rotation, rotation) < 0.1
    assert np.abs(pose.translation - translation).max() < 0.003 * np.linalg.norm(translation)
    assert np.allclose(pose.angles, angles, atol=0.2) and pose.scale == 1 and pose.error < 0.05


def test_a_known_distance_sets_the_scale():
    face = seen_through(CAMERA, FLIP @ euler_to_rotation(10, 0, 0), np.array([50.0, 20, 600]), np.zeros(50))
    eyes = [face.model_landmarks[36:42].mean(axis=0), face.model_landmarks[42:48].mean(axis=0)]
    average, child = (
        face.metric_pose(CAMERA),
        face.metric_pose(CAMERA, scale_mm=0.8 * np.linalg.norm(eyes[0] - eyes[1])),
    )
    assert child.scale == pytest.approx(0.8) and child.distance == pytest.approx(0.8 * average.distance, rel=1e-3)
    assert degrees_between(child.rotation, average.rotation) < 0.01
    mouth = np.linalg.norm(face.model_landmarks[48] - face.model_landmarks[54])
    again = face.metric_pose(CAMERA, scale_mm=float(mouth), between=([48], [54]))
    assert again.scale == pytest.approx(1)


def test_both_frames_put_the_face_where_the_image_shows_it():
    rotation, translation = FLIP @ euler_to_rotation(-20, 5, 0), np.array([120.0, -60, 700])
    face = seen_through(CAMERA, rotation, translation, np.zeros(50))
    pose = face.metric_pose(CAMERA)
    points = np.column_stack([face.model_landmarks, np.ones(68)])
    opencv = (points @ pose.opencv.T)[:, :3]
    assert np.abs(opencv - (face.model_landmarks @ rotation.T + translation)).max() < 2
    assert np.median(np.abs(CAMERA.project(opencv) - face.landmarks[:, :2])) < 2  # perspective is not in the landmarks
    metres = (points * [1e-3, 1e-3, 1e-3, 1] @ pose.gltf.T)[:, :3]
    assert np.allclose(metres * [1000, -1000, -1000], opencv) and (metres[:, 2] < 0).all()


def test_hidden_points_may_count_less():
    face = posed(60, center=(640.0, 360.0))
    full, some = metric_pose(face, CAMERA), metric_pose(face, CAMERA, hidden_weight=0.2)
    assert 0.01 < degrees_between(full.rotation, some.rotation) < 5


def test_a_camera_turned_to_a_region_has_it_upright_in_its_middle():
    roi = Roi(center_x=1100.0, center_y=650.0, side=90.0, angle=20.0)
    view = CAMERA.turned_to(roi, SIZE)
    assert np.allclose(view.turn @ view.turn.T, np.eye(3)) and np.linalg.det(view.turn) > 0
    points = np.array([300.0, 190, 600]) + np.random.default_rng(0).normal(0, 30, (20, 3))
    here = np.column_stack([view.camera.project(points @ view.turn.T), np.ones(20)]) @ view.homography.T
    np.testing.assert_allclose(here[:, :2] / here[:, 2:], CAMERA.project(points), atol=1e-6)
    middle, right, below = (view.homography @ [63.5 + x, 63.5 + y, 1] for x, y in ((0, 0), (9, 0), (0, 9)))
    middle, right, below = (point[:2] / point[2] for point in (middle, right, below))
    np.testing.assert_allclose(middle, [1100, 650], atol=1e-6)
    (ax, ay), (bx, by) = right - middle, below - middle
    assert np.degrees(np.arctan2(ay, ax)) == pytest.approx(20, abs=10)  # the lens bends right angles there
    assert abs(ax * by - ay * bx) == pytest.approx((9 * 90 / SIZE) ** 2, rel=0.01)


def test_heads_that_are_looked_at_again_stand_where_they_stand_whichever_way_the_camera_looks(reconstruct):
    picture = read_image(EXAMPLES / "astronaut.jpg")
    camera = Camera(600.0, 600.0, 255.5, 255.5)
    away = cv2.Rodrigues(np.array([-0.4, 0.4, 0.1]))[0]
    elsewhere = cv2.warpPerspective(picture, camera.matrix @ away @ np.linalg.inv(camera.matrix), (700, 700))
    poses = []
    for image in (picture, elsewhere):
        faces = reconstruct(image)
        (pose,) = reconstruct.metric_poses(image, faces, camera, scale_mm=60)
        assert degrees_between(pose.rotation, faces[0].metric_pose(camera).rotation) < 8
        poses.append(pose)
    assert degrees_between(poses[1].rotation, away @ poses[0].rotation) < 2
    np.testing.assert_allclose(poses[1].translation, away @ poses[0].translation, atol=0.02 * poses[0].distance)
    assert poses[0].error < 1
    assert reconstruct.metric_poses(picture, [], camera) == []
    mouth = reconstruct.metric_poses(picture, reconstruct(picture), camera, scale_mm=50, between=([48], [54]))
    assert mouth[0].distance != pytest.approx(poses[0].distance, rel=0.01)


def test_a_field_of_view_is_the_horizontal_one():
    camera = Camera.from_fov(90, (640, 480))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((320, 320, 319.5, 239.5))
    assert camera.project([[1000, 0, 1000]])[0] == pytest.approx((639.5, 239.5))
    assert np.allclose(camera.matrix @ [1, 0, 1], [639.5, 239.5, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Camera(float("nan"), 1, 0, 0), "camera: expected fx as a finite number"),
        (lambda: Camera(1, 1, 0, float("inf")), "camera: expected cy"),
        (lambda: Camera("500", 1, 0, 0), "camera: expected fx"),
        (lambda: Camera(0, 500, 0, 0), "focal lengths above 0"),
        (lambda: Camera(500, -500, 0, 0), "focal lengths above 0"),
        (lambda: Camera(500, 500, 1e5, 0), "camera: expected a centre within"),
        (lambda: Camera.from_fov(180, (1, 1)), "field of view: expected"),
        (lambda: Camera.from_fov(float("nan"), (1, 1)), "field of view: expected"),
        (lambda: Camera.from_fov(60, (0, 10)), "image size: expected"),
        (lambda: CAMERA.project([[0, 0, -1]]), "before the camera"),
        (lambda: CAMERA.project([[0, np.inf, 1]]), "before the camera"),
        (lambda: posed().metric_pose(CAMERA, scale_mm=0), "scale_mm: expected"),
        (lambda: posed().metric_pose(CAMERA, scale_mm=float("nan")), "scale_mm: expected"),
        (lambda: posed().metric_pose(CAMERA, scale_mm=60, between=([70], [3])), "landmark numbers below 68"),
        (lambda: posed().metric_pose(CAMERA, scale_mm=60, between=([], [3])), "landmark numbers below 68"),
        (lambda: posed().metric_pose(CAMERA, scale_mm=60, between=([3], [3])), "that lie apart"),
        (lambda: posed().metric_pose(Camera(1, 1, 2, 2)), "face: expected it within 80 degrees"),
        (lambda: posed().metric_pose(Camera(20, 20, 100, 90)), "face: expected it before the camera, got a point"),
        (lambda: posed(side=1e-6).metric_pose(Camera(1e6, 1e6, 0, 0)), None),
        (lambda: metric_pose(posed(), CAMERA, hidden_weight=2), "hidden_weight: expected"),
        (lambda: CAMERA.turned_to(Roi(center_x=9e3, center_y=0, side=10), SIZE), "face: expected it within 80 degrees"),
        (lambda: CAMERA.turned_to(Roi(center_x=2500, center_y=0, side=9e3), SIZE), "face: expected all of it within"),
        (lambda: broken().metric_pose(CAMERA), "they are damaged"),
    ],
)
def test_what_is_no_camera_or_face_is_refused(make, message):
    if message is None:
        assert np.isfinite(make().translation).all()  # very far, but somewhere
        return
    with pytest.raises(InvalidInputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def broken():
    face = posed()
    params = face.params.copy()
    params[:12] = np.inf
    return Face(
        box=face.box, score=1, roi=face.roi, crop_size=128, params=params, landmarks=face.landmarks, model=MODEL
    )
