"""Faces followed through frames that are made of one photograph: turned, moved, covered, crossed."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import InvalidInputError, Reconstructor, crop, read_image
from runtime.detection import BlazeFaceDetector
from runtime.tracking import Tracker

pytest.importorskip("onnxruntime")

PHOTO = read_image(Path(__file__).parents[2] / "examples" / "astronaut.jpg")
FACE = np.array([225.0, 121.0])
RATE = 30


class CountingDetector:
    def __init__(self):
        self.detector, self.calls, self.glances = BlazeFaceDetector(), 0, 0

    def detect(self, image):
        self.calls += 1
        return self.detector.detect(image)

    @property
    def glance(self):
        self.glances += 1
        return self.detector.glance


@pytest.fixture(scope="module")
def reconstruct():
    with Reconstructor(threads=1) as reconstruct:
        yield reconstruct


@pytest.fixture(scope="module")
def truth(reconstruct):
    """The photograph's landmarks."""
    return reconstruct(PHOTO)[0].landmarks[:, :2]


def place(photo, center, *, angle=0.0, scale=1.0, size=(640, 480), below=None):
    """The photograph's face at `center`, an ellipse of it over `below` if given; and the affine matrix (2, 3)."""
    matrix = cv2.getRotationMatrix2D(tuple(FACE), -angle, scale)
    matrix[:, 2] += np.array(center) - FACE
    frame = cv2.warpAffine(photo, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    if below is not None:
        mask = np.zeros(frame.shape[:2], np.uint8)
        cv2.ellipse(mask, (int(center[0]), int(center[1])), (62, 85), 0, 0, 360, 255, -1)
        frame = np.where(mask[..., None] > 0, frame, below)
    return frame, matrix


def nme(landmarks, truth, matrix):
    expected = truth @ matrix[:, :2].T + matrix[:, 2]
    size = np.sqrt(np.ptp(truth, axis=0).prod()) * np.sqrt(np.linalg.det(matrix[:, :2]))
    return np.linalg.norm(landmarks[:, :2] - expected, axis=1).mean() / size


def test_a_face_is_followed_through_a_whole_turn_by_one_detection(truth):
    detector = CountingDetector()
    with Reconstructor(threads=1, detector=detector) as reconstruct:
        tracker, errors, rolls = Tracker(reconstruct, max_faces=1), [], []
        for i in range(61):
            frame, matrix = place(PHOTO, (320 + 2 * i, 240 - i), angle=6 * i)
            (face,) = tracker(frame, i / RATE)
            assert face.id == 0 and face.age == i
            errors.append(nme(face.landmarks, truth, matrix))
            rolls.append(face.pose.roll)
            assert face.raw.roi == face.face.roi and face.face.score > 0.5
    assert detector.calls == 1 and max(errors) < 0.04
    turned = np.unwrap(np.radians(rolls))
    assert np.degrees(turned[-1] - turned[0]) == pytest.approx(360, abs=6)


@pytest.mark.parametrize("way", [(110, 30), (-50, 90)])
def test_a_face_that_moves_on_while_frames_are_dropped_is_found_in_the_same_frame(reconstruct, truth, way):
    tracker, there = Tracker(reconstruct, max_faces=2), np.array([250.0, 200.0])
    for i in range(12):
        center = there if i < 8 else there + way
        frame, matrix = place(PHOTO, center, scale=0.6)
        faces = tracker(frame, i / RATE + (0.3 if i >= 8 else 0))
        assert [face.id for face in faces] == [0], i
        assert nme(faces[0].raw.landmarks, truth, matrix) < 0.04


def test_noise_moves_a_still_face_less_when_smoothed(reconstruct, truth):
    still, rng = place(PHOTO, (320, 240))[0], np.random.default_rng(0)
    tracker, smoothed, raw = Tracker(reconstruct, smoothing="still"), [], []
    for i in range(30):
        noisy = np.clip(still + rng.normal(0, 4, still.shape), 0, 255).astype(np.uint8)
        (face,) = tracker(noisy, i / RATE)
        smoothed.append(face.landmarks)
        raw.append(face.raw.landmarks)
    jitter = [np.abs(np.diff(np.array(p)[10:], axis=0)).mean() for p in (smoothed, raw)]
    assert jitter[0] < 0.3 * jitter[1]
    (off,) = Tracker(reconstruct, smoothing="off")(still, 0.0)
    assert np.array_equal(off.landmarks, off.raw.landmarks)


def test_a_covered_face_ends_and_keeps_its_id_only_for_a_while(reconstruct):
    frame, _ = place(PHOTO, (320, 240))
    covered = frame.copy()
    covered[130:350, 220:420] = (70, 90, 60)
    tracker, seen = Tracker(reconstruct, patience=1.0), {}
    for i in range(180):
        hidden = 20 <= i < 35 or 60 <= i < 130
        seen[i] = [face.id for face in tracker(covered if hidden else frame, i / RATE)]
    assert seen[19] == [0] and seen[21] == seen[34] == []
    assert seen[40] == [0]  # half a second later
    assert seen[62] == seen[129] == [] and seen[140] == [1]  # after more than two


def test_a_face_that_leaves_the_picture_and_a_cut_end_a_track(reconstruct):
    tracker = Tracker(reconstruct)
    for i in range(40):
        faces = tracker(place(PHOTO, (480 + 12 * i, 240))[0], i / RATE)
        assert len(faces) == 1 if i < 10 else True
    assert faces == []
    tracker.reset()
    other = cv2.flip(255 - PHOTO, 1) // 2
    ids = []
    for i in range(12):
        frame = place(PHOTO, (320, 240))[0] if i < 6 else place(other, (320, 240))[0]
        ids.append([face.id for face in tracker(frame, i / RATE)])
    assert ids[5] != [] and not set(ids[5]) & {number for some in ids[6:] for number in some}


def test_a_face_that_returns_after_seconds_keeps_its_id_and_another_s_does_not_get_it(reconstruct):
    other = np.clip(cv2.flip(PHOTO, 1) * np.array([0.9, 0.6, 0.45]), 0, 255).astype(np.uint8)
    shift = np.array([511 - 2 * FACE[0], 0])
    tracker, seen = Tracker(reconstruct), {}
    for i in range(150):
        x = 320 + 500 * min(max(min(i - 5, 145 - i) / 15, 0), 1)  # out of the picture, there for four seconds, and back
        away = place(other, np.array((200, 240)) - shift)[0] if 75 <= i < 110 else np.full((480, 640, 3), 90, np.uint8)
        seen[i] = {face.id for face in tracker(place(PHOTO, (x, 240), below=away)[0], i / RATE)}
    assert seen[0] == {0} and seen[60] == set()
    assert seen[105] == {1}  # another in between, near enough
    assert seen[149] == {0}


def test_crossing_faces_keep_their_ids_in_one_engine_call(reconstruct):
    engine, batches = reconstruct.engine, []

    class Recorder:
        manifest = engine.manifest

        def __call__(self, crops):
            batches.append(len(crops))
            return engine(crops)

    # another person: mirrored, darker, bluer
    other = np.clip(cv2.flip(PHOTO, 1) * np.array([0.9, 0.6, 0.45]), 0, 255).astype(np.uint8)
    shift = np.array([511 - 2 * FACE[0], 0])
    tracker, places = Tracker(Reconstructor(Recorder())), []
    for i in range(90):
        behind, front = (140 + 4 * i, 250), (500 - 4 * i, 235)
        frame = place(other, np.array(behind) - shift)[0]
        frame = place(PHOTO, front, below=frame)[0]
        places.append({face.id: float(face.landmarks[30, 0]) for face in tracker(frame, i / RATE)})
    start, end = places[10], places[-1]
    assert set(start) == set(end) and len(start) == 2
    left, right = sorted(start, key=start.get)
    assert end[left] > end[right]  # each went on its way
    assert max(batches) == 2 and sum(len(p) for p in places) > 150


def test_any_size_and_none(reconstruct):
    tracker = Tracker(reconstruct)
    assert tracker(np.zeros((1, 1, 3), np.uint8), 0.0) == []
    assert len(tracker(PHOTO, 0.5)) == 1
    assert len(tracker(cv2.resize(PHOTO, (300, 300)), 1.1)) <= 1
    assert tracker(np.zeros((480, 640), np.uint8), 2.0) == []


@pytest.mark.parametrize("time", [1.0, 0.5, float("nan"), float("inf")])
def test_a_time_that_is_not_later_is_refused(reconstruct, time):
    tracker = Tracker(reconstruct)
    tracker(PHOTO, 1.0)
    with pytest.raises(InvalidInputError, match=r"time stamp: expected seconds after .* got"):
        tracker(PHOTO, time)
    tracker.reset()
    if np.isfinite(time):
        assert len(tracker(PHOTO, time)) == 1


@pytest.mark.parametrize("options", [{"max_faces": 0}, {"patience": -1}, {"smoothing": "very"}])
def test_options_out_of_range_are_refused(reconstruct, options):
    with pytest.raises(InvalidInputError, match="expected"):
        Tracker(reconstruct, **options)


def test_frames_on_the_gpu_stay_there_but_for_the_detector_s_looks(reconstruct):
    engine, copies = reconstruct.engine, []

    class Frame:
        def __init__(self, array):
            self.array, self.shape = array, array.shape
            self.__cuda_array_interface__ = {"shape": array.shape}

    class GpuEngine:
        manifest, cuts_frames = engine.manifest, True

        def run_frame(self, image, rois):
            return engine(crop(image.array if isinstance(image, Frame) else image, rois, engine.manifest.input_size))

        def to_host(self, image):
            copies.append(len(copies))
            return image.array

    on_gpu, on_host = Tracker(Reconstructor(GpuEngine()), max_faces=1), Tracker(reconstruct, max_faces=1)
    for i in range(45):
        frame = place(PHOTO, (300 + i, 240))[0]
        (face,), (expected,) = on_gpu(Frame(frame), i / RATE), on_host(frame, i / RATE)
        assert np.abs(face.landmarks - expected.landmarks).max() < 0.5
    assert len(copies) <= 2  # the first frame's, and a look after a second
