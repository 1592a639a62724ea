"""The built-in face detector on a photograph, its variations, and its failures."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import detection
from runtime.detection import MODEL_PATH, BlazeFaceDetector, Detection, FaceDetector, head_angle, roi_from_detection
from runtime.errors import EngineUnavailableError, FileFormatError, InvalidInputError
from runtime.face_model import load_face_model
from runtime.image import read_image
from runtime.pose import euler_to_rotation
from runtime.roi import Roi

pytest.importorskip("onnxruntime")

# Read off the enlarged photo: pupils, nose tip, middle of the mouth; and the face from brows to chin, jaw to jaw.
ASTRONAUT_POINTS = np.array([[203.0, 101.0], [247.0, 103.0], [225.0, 127.0], [222.0, 147.0]])
ASTRONAUT_FACE = Roi.from_landmarks([(180, 88), (270, 178)])


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_image(Path(__file__).parents[2] / "examples" / "astronaut.jpg")


@pytest.fixture(scope="module")
def detector() -> BlazeFaceDetector:
    return BlazeFaceDetector()


def pad(image: np.ndarray, top: int = 0, left: int = 0, bottom: int = 0, right: int = 0) -> np.ndarray:
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(60, 90, 120))


def test_photo_gives_one_face_with_keypoints_in_place(detector: BlazeFaceDetector, photo: np.ndarray) -> None:
    (face,) = detector.detect(photo)
    assert face.score > 0.8
    np.testing.assert_allclose(face.keypoints[:4], ASTRONAUT_POINTS, atol=6)
    x, y, w, h = face.box
    assert x < 190 and x + w > 260 and y < 95 and y + h > 165 and 85 < w < 135 and 85 < h < 135
    roi = roi_from_detection(face)
    offset = np.hypot(roi.center_x - ASTRONAUT_FACE.center_x, roi.center_y - ASTRONAUT_FACE.center_y)
    assert offset < 0.1 * ASTRONAUT_FACE.side
    assert 0.85 < roi.side / ASTRONAUT_FACE.side < 1.18


@pytest.mark.parametrize(
    ("change", "to_changed"),
    [
        pytest.param(lambda p: p[:, ::-1], lambda q: [511 - q[0], q[1]], id="mirrored, not contiguous"),
        pytest.param(lambda p: pad(p, right=1400), lambda q: q, id="very wide"),
        pytest.param(lambda p: pad(p, top=1100, left=3), lambda q: q + np.array([3, 1100]), id="very tall, odd size"),
        pytest.param(
            lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
            lambda q: q / 2 - 0.25,
            id="half",
        ),
        pytest.param(lambda p: cv2.resize(p, None, fx=5, fy=5), lambda q: q * 5 + 2, id="averaged by blocks"),
        pytest.param(
            lambda p: p[70:190, 160:285], lambda q: q - np.array([160, 70]), id="face fills the image: second look"
        ),
        pytest.param(
            lambda p: pad(p, top=1000, left=2000, bottom=700, right=900),
            lambda q: q + np.array([2000, 1000]),
            id="small: tiles",
        ),
    ],
)
def test_face_is_found_at_the_same_place_in_variations(detector, photo, change, to_changed) -> None:
    changed = change(photo)
    (face,) = detector.detect(changed)
    expected = np.array([to_changed(point) for point in ASTRONAUT_POINTS])
    scale = np.linalg.norm(expected[1] - expected[0]) / np.linalg.norm(ASTRONAUT_POINTS[1] - ASTRONAUT_POINTS[0])
    found = face.keypoints[:4]
    if expected[0, 0] > expected[1, 0]:  # mirrored: the left eye is the right one now
        expected = expected[[1, 0, 2, 3]]
    np.testing.assert_allclose(found, expected, atol=8 * scale)


def test_two_faces_best_first_and_max_faces(detector: BlazeFaceDetector, photo: np.ndarray) -> None:
    blurred = cv2.GaussianBlur(photo, (0, 0), 3)
    faces = detector.detect(np.hstack([blurred, photo]))
    assert len(faces) == 2
    assert faces[0].score >= faces[1].score
    assert sorted(face.box[0] > 512 for face in faces) == [False, True]
    (best,) = BlazeFaceDetector(max_faces=1).detect(np.hstack([blurred, photo]))
    assert best.box == faces[0].box


def test_thorough_search_finds_all_small_faces_of_a_group(photo: np.ndarray) -> None:
    row = np.hstack([cv2.resize(photo, (300, 300), interpolation=cv2.INTER_AREA)] * 4)
    faces = BlazeFaceDetector(thorough=True).detect(np.vstack([row] * 3))
    assert len(faces) == 12
    cells = {(int(f.box[0] + f.box[2] / 2) // 300, int(f.box[1] + f.box[3] / 2) // 300) for f in faces}
    assert len(cells) == 12


@pytest.mark.parametrize(
    ("center", "side", "angle", "black"),
    [
        ((49.5, 49.5), 100, 0, 0),  # the image itself
        ((49.5, 49.5), 70, 45, 0),  # a turned one, its corners just inside
        ((49.5, 49.5), 72, 45, 0.001),  # just outside
        ((45.5, 49.5), 100, 0, 0.04),  # each side alone
        ((53.5, 49.5), 100, 0, 0.04),
        ((49.5, 45.5), 100, 0, 0.04),
        ((49.5, 53.5), 100, 0, 0.04),
    ],
)
def test_a_view_is_black_where_it_lies_outside_of_the_image_and_there_alone(center, side, angle, black) -> None:
    view = Roi(center_x=center[0], center_y=center[1], side=side, angle=angle)
    canvas = detection._render(np.full((100, 100, 3), 255, np.uint8), view)
    assert set(np.unique(canvas)) <= {0, 255}
    part = float((canvas == 0).mean())
    assert part == pytest.approx(black, abs=0.005) and (part > 0) == (black > 0)


@pytest.mark.parametrize("size", [(192, 160), (640, 480), (1280, 720), (961, 641), (500, 100), (480, 640), (200, 200)])
def test_the_first_view_of_a_landscape_leaves_out_rows_that_hold_nothing_of_it(size) -> None:
    width, height = size
    view, top = detection._first_view(width, height)
    canvas = detection._render(np.full((height, width, 3), 255, np.uint8), view)
    assert top == (32 if width > height else 0)
    assert not canvas[:top].any()
    assert (canvas[top:, 96, 0] > 0).sum() == pytest.approx(192 * height / max(size), abs=1)


def test_cells_vote_where_the_score_is_high_and_the_box_has_an_area() -> None:
    boxes, logits = np.zeros((48 * 48, 16), np.float32), np.full(48 * 48, -9, np.float32)
    for cell, size, logit in ((50, (20, 30), 2), (60, (20, -1), 2), (70, (20, 30), -2), (2303, (8, 6), 4)):
        boxes[cell, 2:4], logits[cell] = size, logit
    points, scores = detection._decode(boxes, logits, 0.5)
    np.testing.assert_allclose(points[:, :2], [[[0, -9], [20, 21]], [[186, 187], [194, 193]]])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp([-2.0, -4.0])))


@pytest.mark.parametrize("size", [(300, 400), (1200, 1000), (1, 1), (1, 5000)])
def test_plain_grey_holds_no_face(detector: BlazeFaceDetector, size: tuple[int, int]) -> None:
    assert detector.detect(np.full((*size, 3), 128, np.uint8)) == []


def test_any_size_of_noise_passes_even_where_almost_all_is_called_a_face() -> None:
    eager = BlazeFaceDetector(score_threshold=0.05)
    random = np.random.default_rng(0)
    count = 0
    for height, width in [(1, 1), (1, 2), (2, 1), (3, 300), (700, 1), (40, 30), (37, 1500), (1000, 700)]:
        faces = eager.detect(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)
        assert all(np.isfinite(roi_from_detection(face).side) for face in faces)
        count += len(faces)
    assert count > 0


@pytest.mark.parametrize(
    "image",
    [np.zeros((64, 64, 3), np.float32), np.zeros((64, 64, 2), np.uint8), np.zeros((0, 64, 3), np.uint8), "photo.jpg"],
)
def test_what_is_no_image_is_refused(detector: BlazeFaceDetector, image: object) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        detector.detect(image)


@pytest.mark.parametrize(
    "options",
    [
        {"score_threshold": 0},
        {"iou_threshold": 1.5},
        {"max_faces": 0},
        {"threads": -1},
        {"thorough": True, "quick": True},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="got"):
        BlazeFaceDetector(**options)


@pytest.mark.parametrize(
    "data", [b"", b"not a network", MODEL_PATH.read_bytes()[:500_000]], ids=["empty", "text", "cut"]
)
def test_damaged_model_file_is_named(tmp_path: Path, photo: np.ndarray, data: bytes) -> None:
    path = tmp_path / "face_detector.onnx"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"face_detector\.onnx.*expected.*got"):
        BlazeFaceDetector(model_path=path).detect(photo)


def test_foreign_network_is_refused(tmp_path: Path, photo: np.ndarray) -> None:
    # "boxes" renamed inside the file, length kept: a valid network that is not ours.
    path = tmp_path / "other.onnx"
    path.write_bytes(MODEL_PATH.read_bytes().replace(b"boxes", b"boxed"))
    with pytest.raises(FileFormatError, match="a network with"):
        BlazeFaceDetector(model_path=path).detect(photo)


def test_missing_onnxruntime_says_what_to_install(monkeypatch: pytest.MonkeyPatch, photo: np.ndarray) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailableError, match=r"cln\[cpu\].*boxes"):
        BlazeFaceDetector().detect(photo)


def test_another_detector_needs_one_method_and_no_keypoints(photo: np.ndarray) -> None:
    class Fixed:
        def detect(self, image: np.ndarray) -> list[Detection]:
            return [Detection(box=(10, 20, 30, 40), score=1.0)]

    detector: FaceDetector = Fixed()
    (face,) = detector.detect(photo)
    assert roi_from_detection(face) == Roi.from_box((10, 20, 30, 40))


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((6, 2), np.nan)])
def test_detection_checks_its_keypoints(points: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="keypoints"):
        Detection(box=(0, 0, 1, 1), score=1.0, keypoints=points)


def test_roi_follows_shift_and_scale_of_the_keypoints(detector: BlazeFaceDetector, photo: np.ndarray) -> None:
    (face,) = detector.detect(photo)
    before = roi_from_detection(face)
    moved = Detection(box=face.box, score=face.score, keypoints=face.keypoints * 3 + np.float32([7, -9]))
    after = roi_from_detection(moved)
    assert (after.center_x, after.center_y, after.side) == pytest.approx(
        (before.center_x * 3 + 7, before.center_y * 3 - 9, before.side * 3), rel=1e-5
    )


def turned_photo(photo: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The photo turned clockwise on grey, and the affine matrix (2, 3) that its points went through."""
    matrix = cv2.getRotationMatrix2D((255.5, 255.5), -angle, 1.0)
    matrix[:, 2] += 200
    return cv2.warpAffine(photo, matrix, (912, 912), borderValue=(90, 90, 90)), matrix


@pytest.mark.parametrize("angle", [-30, 45, 75, 90, 120, 150, 180, 225, 285])
def test_a_turned_face_is_found_and_its_region_turned_upright(detector, photo: np.ndarray, angle: float) -> None:
    turned, matrix = turned_photo(photo, angle)
    (face,) = detector.detect(turned)
    eyes = ASTRONAUT_POINTS[1] - ASTRONAUT_POINTS[0]
    expected = ASTRONAUT_POINTS @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(face.keypoints[:4], expected, atol=0.25 * np.hypot(*eyes))
    off = roi_from_detection(face).angle - angle - roi_from_detection(detector.detect(photo)[0]).angle
    assert abs((off + 180) % 360 - 180) < 8


@pytest.mark.parametrize("score", [0.63, 0.67])
def test_a_face_that_only_a_turned_picture_shows_must_be_surer(detector, photo, score, monkeypatch) -> None:
    (found,) = detector.detect(photo)
    x, y, width, height = found.box
    face = np.concatenate([[[x, y], [x + width, y + height]], found.keypoints])[np.newaxis]

    def look(self, image, view, threshold, *, turns=(0,), top=0):
        return [(face, np.array([score])) if turn else (face[:0], np.empty(0)) for turn in turns]

    monkeypatch.setattr(BlazeFaceDetector, "_look", look)
    assert len(detector.detect(photo)) == (score > 0.65)


def test_the_head_s_angle_is_right_up_to_profile() -> None:
    model, rng, errors = load_face_model(), np.random.default_rng(0), []
    for yaw in np.linspace(-85, 85, 18):
        rotation = euler_to_rotation(yaw, rng.uniform(-20, 20), rng.uniform(-30, 30))
        pose = np.c_[np.diag([1, -1, 1]) @ rotation, np.zeros(3)]
        points = model.landmarks(np.r_[pose.ravel(), np.zeros(50)].astype(np.float32))[:, :2]
        parts = [points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48:68].mean(axis=0)]
        # the detector's tragions lie further in than the ends of the jaw line
        parts += [0.7 * points[0] + 0.3 * points[36], 0.7 * points[16] + 0.3 * points[45]]
        errors.append(head_angle(np.array(parts)) - math.degrees(math.atan2(rotation[0, 1], rotation[1, 1])))
    assert np.abs(errors).max() < 8


def test_quick_takes_one_look_and_finds_what_that_shows(photo: np.ndarray) -> None:
    quick = BlazeFaceDetector(quick=True)
    close = photo[70:190, 160:285]  # fills the view: takes the second look
    assert len(quick.detect(photo)) == 1 and quick.detect(close) == [] and len(BlazeFaceDetector().detect(close)) == 1


def test_the_region_of_keypoints_by_hand() -> None:
    keypoints = np.array([[10, 0], [30, 0], [20, 10], [20, 24], [0, 6], [40, 6]], np.float32)
    roi = roi_from_detection(Detection(box=(0, 0, 40, 40), score=1.0, keypoints=keypoints))
    assert (roi.center_x, roi.center_y) == pytest.approx((20.0, 0.5 * 24 + 0.7 * 6))
    spread = np.sqrt(np.square(keypoints - keypoints.mean(axis=0)).sum(axis=1).mean())
    assert roi.side == pytest.approx(2**0.5 * 3.1 * spread) and roi.angle == pytest.approx(0.0)
    crowded = Detection(box=(-40, -20, 90, 100), score=1.0, keypoints=keypoints)
    assert roi_from_detection(crowded) == dataclasses.replace(roi, side=0.8 * 1.36 * 100)
