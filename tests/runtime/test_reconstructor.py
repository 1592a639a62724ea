import dataclasses
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from runtime import (
    EngineUnavailableError,
    FileFormatError,
    InvalidInputError,
    MismatchError,
    Reconstructor,
    Roi,
    load_face_model,
    read_image,
    safetensors,
)
from runtime.detection import Detection
from runtime.engines import load_engine
from runtime.pose import euler_to_rotation
from runtime.regions import LOOKS, Looks, is_off
from tests.runtime.conftest import SIZE, make_manifest, write_engine

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
IMAGE = np.zeros((200, 300, 3), dtype=np.uint8)
IMAGE[:, :150] = 10
IMAGE[:, 150:] = 50
BOXES = [(20, 40, 60, 80), (200, 60, 50, 50)]


class Recorder:
    """An engine that passes on to another and remembers the batches it saw."""

    def __init__(self, engine):
        self.engine, self.manifest, self.batches = engine, engine.manifest, []

    def __call__(self, crops):
        self.batches.append(len(crops))
        return self.engine(crops)

    def close(self):
        self.engine.close()


def test_faces_come_back_in_image_pixels_in_one_batch(engine_file):
    engine = Recorder(load_engine(engine_file))
    with Reconstructor(engine) as reconstruct:
        faces = reconstruct(IMAGE, BOXES)
    assert engine.batches == [2]
    for face, box, grey in zip(faces, BOXES, (10, 50), strict=True):
        side = max(box[2:]) * np.sqrt(2)
        assert face.box == box and face.score == 1 and face.roi.side == pytest.approx(side)
        middle = face.landmarks[[27, 28, 29, 30]].mean(axis=0)  # nose ridge: x = 0 in the model, tx = grey in the crop
        expected = box[0] + box[2] / 2 + (grey - (SIZE - 1) / 2) * side / SIZE
        assert middle[0] == pytest.approx(expected, abs=0.1)
        assert np.allclose(face.model.at_landmarks(face.vertices), face.landmarks, atol=1e-3)
        assert (face.pose.yaw, face.pose.pitch, face.pose.roll) == pytest.approx((0, 0, 0), abs=1e-4)
        assert face.pose.scale == pytest.approx(0.25 * side / SIZE)
        assert face.landmarks[8, 1] > face.landmarks[27, 1]  # chin below brows: y points down


def test_no_boxes_give_no_faces(engine_file):
    with Reconstructor(engine_file) as reconstruct:
        assert reconstruct(IMAGE, []) == [] and reconstruct(IMAGE, np.empty((0, 4))) == []


def test_any_detector_with_the_method_will_do(engine_file):
    class One:
        def detect(self, image):
            return [Detection(box=(20, 40, 60, 80), score=0.5)]

    with Reconstructor(engine_file, detector=One()) as reconstruct:
        (face,) = reconstruct(IMAGE)
    assert face.score == 0.5 and face.box == (20, 40, 60, 80)


class Reuses(Recorder):
    """An engine that answers in the same memory each time."""

    memory = np.zeros((8, 62), np.float32)

    def __call__(self, crops):
        self.memory[: len(crops)] = super().__call__(crops)
        return self.memory[: len(crops)]


class Finds:
    """A detector that always says the same."""

    def __init__(self, *boxes):
        self.boxes = boxes

    def detect(self, image):
        return [Detection(box=box, score=0.9) for box in self.boxes]


def test_a_face_whose_detected_region_was_off_is_cut_again():
    photo = read_image(EXAMPLES / "astronaut.jpg")
    with Reconstructor() as reconstruct:
        (known,) = reconstruct(photo)
        low, high = known.landmarks[:, :2].min(axis=0), known.landmarks[:, :2].max(axis=0)
        right, off = ((*(low + shift), *(high - low)) for shift in (0.0, 0.15 * (high - low)))
        engine = Recorder(reconstruct.engine)
        found = {box: Reconstructor(engine, detector=Finds(box)) for box in (right, off)}
        (once,) = found[right](photo, [off])  # regions that are given stay
        assert engine.batches == [1] and once.roi == Roi.from_box(off)
        photographs = [found[right].prepare(photo, [off]), *(found[box].prepare(photo) for box in (off, right))]
        given, again, _ = (faces[0] for faces in found[off].reconstruct(photographs))
    assert engine.batches[1] == 3 and engine.batches[2] in (1, 2)
    assert np.array_equal(given.params, once.params) and given.roi == once.roi
    errors = [float(np.abs(face.landmarks - known.landmarks)[:, :2].mean()) for face in (once, again)]
    assert errors[1] < 0.6 * errors[0] and again.box == off
    assert abs(again.roi.center_x - known.roi.center_x) < 0.03 * known.roi.side


def test_further_looks_at_two_photographs_are_those_at_each():
    photo = read_image(EXAMPLES / "astronaut.jpg")
    with Reconstructor(detector=Finds((165, 72, 105, 105))) as reconstruct:  # off, but not far
        prepared = [reconstruct.prepare(image) for image in (photo, np.roll(photo, 4, axis=(0, 1)))]
        reusing = Reconstructor(Reuses(reconstruct.engine), detector=reconstruct.detector)
        alone = [reusing.reconstruct([one])[0][0] for one in prepared]
        together = [faces[0] for faces in reconstruct.reconstruct(prepared)]
    for one, both, first in zip(alone, together, prepared, strict=True):
        assert one.roi == both.roi != first.rois[0]
        np.testing.assert_allclose(one.landmarks, both.landmarks, atol=0.01)


def test_what_two_looks_say_of_a_face_is_averaged_unless_the_first_was_far_off():
    photo = read_image(EXAMPLES / "astronaut.jpg")
    with Reconstructor() as reconstruct:
        known = reconstruct(photo)[0].roi
        for way, turn, share in ((0.07, 9.0, 0.5), (0.12, 0.0, 0.0), (0.0, 30.0, 0.0)):
            first = dataclasses.replace(known, center_x=known.center_x + way * known.side, angle=known.angle + turn)
            once, looks = first_look(reconstruct, photo, first)
            (second,) = reconstruct.faces(seen := reconstruct.run(photo, [looks.again[0]]), [looks.again[0]])
            looks.take(seen)
            (both,) = reconstruct.faces(looks.params, looks.rois)
            expected = share * once.landmarks + (1 - share) * second.landmarks
            np.testing.assert_allclose(both.landmarks, expected, atol=0.02 * share * known.side / 10 + 1e-3)
            assert np.abs(once.landmarks - second.landmarks).max() > 0.01 * known.side


def first_look(reconstruct, photo, roi):
    params = reconstruct.run(photo, [roi])
    (face,) = reconstruct.faces(params, [roi])

    def decode(params, rois):
        return np.stack([face.landmarks for face in reconstruct.faces(params, rois)])

    return face, Looks(params, face.landmarks[None], [roi], face.crop_size, decode)


def test_a_face_far_off_is_looked_at_until_its_region_stays():
    photo = read_image(EXAMPLES / "astronaut.jpg")
    counts = []
    with Reconstructor() as reconstruct:
        known = reconstruct(photo)[0].roi
        for turn in range(-180, 180, 60):
            first = dataclasses.replace(known, center_y=known.center_y + 0.2 * known.side, angle=known.angle + turn)
            _, looks = first_look(reconstruct, photo, first)
            counts.append(1)
            while looks.again:
                looks.take(reconstruct.run(photo, list(looks.again.values())))
                counts[-1] += 1
            assert not is_off(looks.rois[0], known, way=0.08, turn=8.0), turn
    assert min(counts) == 2 and 3 <= max(counts) <= LOOKS


def test_a_face_that_no_region_fits_is_looked_at_no_more_than_four_times(engine_file):
    with Reconstructor(engine_file) as inner:
        engine = Recorder(inner.engine)
        found = Reconstructor(engine, detector=Finds((20, 40, 60, 80)))
        found.reconstruct([found.prepare(IMAGE), found.prepare(IMAGE, [(20, 40, 60, 80)])])
    assert engine.batches == [2, 1, 1, 1] and len(engine.batches) == LOOKS


def test_grey_images_are_converted_and_boxes_may_reach_out(engine_file):
    with Reconstructor(engine_file) as reconstruct:
        assert len(reconstruct(IMAGE[..., 0], [(-50, -50, 60, 60), (290, 190, 400, 300)])) == 2


@pytest.mark.parametrize("box", [(9000, 9000, 100, 100), (-50, -50, 40, 40), (310, 0, 90, 20, 0), (295, 9, 90, 20, 90)])
def test_a_box_wholly_outside_is_refused(engine_file, box):
    """The last one would reach in, were it not turned."""
    outside = pytest.raises(InvalidInputError, match=r"box 1: expected a box that overlaps the image of 300 x 200")
    with Reconstructor(engine_file) as reconstruct, outside:
        reconstruct(IMAGE, [(5, 5, 50, 50), box])


@pytest.mark.parametrize("boxes", [[(1, 2, 3)], [(0, 0, 0, 1)], [(0, 0, np.nan, 1)], [None], 7, "boxes", (1, 2, 3, 4)])
def test_bad_boxes_are_refused(engine_file, boxes):
    with Reconstructor(engine_file) as reconstruct, pytest.raises(InvalidInputError, match=r"box.*expected .*got"):
        reconstruct(IMAGE, boxes)


@pytest.mark.parametrize("crops", [None, np.zeros((1, SIZE, SIZE, 3)), np.zeros((SIZE, SIZE, 3), dtype=np.uint8)])
def test_bad_crops_are_refused(engine_file, crops):
    with load_engine(engine_file) as engine, pytest.raises(InvalidInputError, match=r"crops: expected .*got"):
        engine(crops)


def test_an_engine_for_another_face_model_is_refused(tmp_path, engine_file):
    tensors, metadata = safetensors.read("runtime/assets/face_model.safetensors")
    other = tmp_path / "other.safetensors"
    safetensors.write(other, tensors | {"mean": tensors["mean"] * np.float32(1.01)}, metadata)
    with pytest.raises(MismatchError, match=r"built for face model .*got"):
        Reconstructor(engine_file, face_model=other)
    assert Reconstructor(engine_file, face_model=load_face_model()).face_model.num_params == 62


def test_files_that_are_no_engine_are_refused(tmp_path, engine_file):
    with pytest.raises(FileNotFoundError, match="expected an engine file"):
        load_engine(tmp_path / "none.onnx")
    with pytest.raises(InvalidInputError, match=r"\.onnx or \.engine"):
        load_engine(tmp_path / "network.pth")
    data = engine_file.read_bytes()
    for content in (b"", b"junk" * 100, data[: len(data) // 2]):
        engine_file.write_bytes(content)
        with pytest.raises(FileFormatError, match="ONNX"):
            load_engine(engine_file)
    with pytest.raises(FileFormatError, match="manifest"):
        load_engine(write_engine(tmp_path / "bare.onnx", None))
    with pytest.raises(FileFormatError, match="graph's face"):
        load_engine(write_engine(tmp_path / "size.onnx", make_manifest(input_size=SIZE * 2)))


def test_an_engine_that_was_handed_over_stays_open(engine_file):
    crops = np.zeros((1, SIZE, SIZE, 3), dtype=np.uint8)
    with load_engine(engine_file) as engine:
        with Reconstructor(engine):
            pass
        other = dataclasses.replace(load_face_model(), sha256="f" * 64)
        with pytest.raises(MismatchError):
            Reconstructor(engine, face_model=other)
        assert engine(crops).shape == (1, 62)
    with Reconstructor(engine_file) as reconstruct:
        own = reconstruct.engine
    with pytest.raises(InvalidInputError, match="closed"):
        own(crops)


def test_onnx_runtime_leaves_nothing_in_the_home_folder(engine_file, tmp_path):
    """It would keep a device id and a telemetry store there."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": "", "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import sys; from runtime.engines import load_engine; load_engine(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(engine_file)], check=True, env=environment)
    assert not list(home.rglob("*"))


def test_a_closed_engine_says_so(engine_file):
    engine = load_engine(engine_file)
    engine.close()
    engine.close()
    with pytest.raises(InvalidInputError, match="closed"):
        engine(np.zeros((1, SIZE, SIZE, 3), dtype=np.uint8))


def test_a_missing_library_is_named_with_the_way_out(engine_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'cln\[cpu\]'"):
        load_engine(engine_file)
    monkeypatch.undo()
    with pytest.raises(EngineUnavailableError, match="Nowhere"):
        load_engine(engine_file, providers=["NowhereExecutionProvider"])


@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [
        (1, None, 1),
        (3, None, 3),
        (64, None, 4),  # a machine with many cores
        (64, "max 100000", 4),  # a container without a limit
        (64, "250000 100000", 2),  # one that may use two and a half cores
        (64, "50000 100000", 1),
        (2, "400000 100000", 2),
        (64, "of another form", 4),
    ],
)
def test_threads_by_default_are_the_cores_one_may_use(engine_file, monkeypatch, tmp_path, cores, quota, expected):
    onnxruntime = pytest.importorskip("onnxruntime")
    seen = []
    make = onnxruntime.InferenceSession
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    limit = tmp_path / "cpu.max"
    if quota is not None:
        limit.write_text(f"{quota}\n")
    monkeypatch.setattr("runtime.cores._QUOTA", limit)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda data, options, **given: seen.append(options.intra_op_num_threads) or make(data, options, **given),
    )
    load_engine(engine_file)
    load_engine(engine_file, threads=2)
    assert seen == [expected, 2]


def test_prepared_images_come_back_apart(engine_file):
    engine = Recorder(load_engine(engine_file))
    with Reconstructor(engine) as reconstruct:
        prepared = [reconstruct.prepare(IMAGE, boxes) for boxes in (BOXES, [], BOXES[:1])]
        faces = reconstruct.reconstruct(prepared)
        split = reconstruct.reconstruct(prepared, batch=2)
        assert reconstruct.reconstruct([]) == []
    assert engine.batches == [3, 2, 1]
    assert [[face.box for face in some] for some in faces] == [BOXES, [], BOXES[:1]]
    for one, other in zip(chain(*faces), chain(*split), strict=True):
        np.testing.assert_array_equal(one.landmarks, other.landmarks)


@pytest.mark.parametrize("angle", [90, -90, 180])
def test_a_turned_picture_with_a_turned_box_gives_the_same_face_turned(angle):
    # Turning by quarters loses no pixel: the same crop, the points turned, and a pose whose roll says so.
    photo = read_image(EXAMPLES / "astronaut.jpg")
    turned = np.ascontiguousarray(np.rot90(photo, -angle // 90))  # rot90 goes the other way round
    turn = Roi(center_x=255.5, center_y=255.5, side=512, angle=angle)
    x, y = turn.to_image(np.array([224.5, 121.0]), 512)
    with Reconstructor() as reconstruct:
        (face,) = reconstruct(photo, [(224.5 - 52, 121.0 - 52, 104, 104)])
        (found,) = reconstruct(turned, [(x - 52, y - 52, 104, 104, angle)])
    np.testing.assert_allclose(found.landmarks, turn.to_image(face.landmarks, 512), atol=0.01)
    np.testing.assert_allclose(found.pose.rotation, euler_to_rotation(0, 0, angle) @ face.pose.rotation, atol=1e-3)
    # The rotation is the picture's: it takes the model's points to the mesh.
    model = face.model_vertices
    expected = (model - model.mean(axis=0)) @ found.pose.rotation.T * found.pose.scale * (1, -1, 1)
    assert np.abs(found.vertices - found.vertices.mean(axis=0) - expected).max() < 0.05 * face.roi.side
