"""The Python binding: the same answers as NumPy and OpenCV, from inside `runtime` too."""

import copy
import gc
import pickle
import threading
import time
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import Reconstructor, Roi, compiled, crop, load_face_model
from runtime.camera import Camera
from runtime.detection import BlazeFaceDetector, roi_from_detection
from runtime.face_model import FaceModel
from runtime.pose import euler_to_rotation
from runtime.rasterizer import rasterize, surface_depth, vertex_normals
from runtime.tracking import Tracker
from tests.cpp_bindings.conftest import FACE_MODEL, ROOT
from tests.runtime.faces import posed

MODEL = load_face_model()


@pytest.fixture
def without_binding(monkeypatch):
    monkeypatch.setattr(compiled, "cln_cpp", None)


def rows(rois):
    return np.array([(r.center_x, r.center_y, r.side, r.angle) for r in rois]).reshape(-1, 4)


def random_rois(rng, count):
    # From tiny to far larger than the image, inside and outside.
    center, side = rng.uniform(-150, 450, size=(count, 2)), np.exp(rng.uniform(0, 8, size=count))
    angle = np.where(np.arange(count) % 2, rng.uniform(-180, 180, size=count), 0)
    numbers = np.column_stack([center, side, angle]).tolist()
    return [Roi(center_x=x, center_y=y, side=s, angle=a) for x, y, s, a in numbers]


def make_params(count, seed=0):
    params = np.random.default_rng(seed).normal(size=(count, MODEL.num_params)).astype(np.float32)
    params[:, 3::4][:, :3] += 64
    return params


@pytest.mark.parametrize("size", [1, 16, 61, 128])
def test_crop_agrees_with_opencv_within_a_grey_level(cln_cpp, without_binding, size):
    rng = np.random.default_rng(size)
    image = rng.integers(0, 256, size=(240, 320, 3), dtype=np.uint8)
    rois = random_rois(rng, 60)
    expected, got = crop(image, rois, size), cln_cpp.crop(image, rows(rois), size)
    assert got.shape == expected.shape and got.dtype == np.uint8
    assert np.abs(got.astype(int) - expected).max() <= 1
    if size % 16 == 0:  # in other sizes, OpenCV's last columns have an arithmetic of their own
        assert (got != expected).mean() < 1e-5
    assert np.array_equal(cln_cpp.crop(image, rows(rois)[::2, :3].copy(), size), got[::2])


def test_crop_takes_any_memory_layout(cln_cpp):
    image = np.random.default_rng(0).integers(0, 256, size=(60, 80, 3), dtype=np.uint8)
    rois = rows([Roi(center_x=30, center_y=20, side=50)])
    turned = image[::-1], image[..., ::-1], image[:, ::-1], image[::2, 1::3]
    repeated = np.broadcast_to(image[:1], image.shape)
    for view in (image, *turned, np.asfortranarray(image), image[:1], image[:, :1], repeated):
        assert np.array_equal(cln_cpp.crop(view, rois, 24), cln_cpp.crop(view.copy(), rois, 24))
    bgra = np.dstack([image, image[..., 0]])
    assert np.array_equal(cln_cpp.crop(bgra, rois, 24), cln_cpp.crop(image, rois, 24))
    assert cln_cpp.crop(image[..., 0], rois, 24).shape == (1, 24, 24, 3)


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_decoding_agrees_with_numpy(cln_cpp, without_binding, count):
    params = make_params(count)
    model = cln_cpp.FaceModel(FACE_MODEL)
    assert (model.sha256, model.name, model.num_params) == (MODEL.sha256, MODEL.name, MODEL.num_params)
    fresh = copy.copy(MODEL)  # without a decoder made before
    for got, expected in (
        (model.vertices(params), fresh.vertices(params)),
        (model.vertices(params, threads=2), fresh.vertices(params)),
        (model.landmarks(params), fresh.landmarks(params)),
    ):
        assert got.shape == expected.shape and got.dtype == np.float32
        assert not count or np.abs(got - expected).max() < 1e-3


def test_the_runtime_uses_it_where_it_is_installed(cln_cpp, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, size=(240, 320, 3), dtype=np.uint8)
    rois, params = random_rois(np.random.default_rng(1), 8), make_params(3)

    def answers(module):
        monkeypatch.setattr(compiled, "cln_cpp", module)
        model = copy.copy(MODEL)
        return crop(image, rois, 32), model.vertices(params), model.landmarks(params[0])

    calls = []

    class Spy:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(cln_cpp, name)

    pythons, ours = answers(None), answers(Spy())
    assert {"crop", "Decoder"} <= set(calls)
    assert np.abs(pythons[0].astype(int) - ours[0]).max() <= 1
    for expected, got in zip(pythons[1:], ours[1:], strict=True):
        assert got.shape == expected.shape and np.abs(got - expected).max() < 1e-3


def test_a_face_model_that_has_decoded_can_still_be_pickled_and_copied(cln_cpp, monkeypatch):
    monkeypatch.setattr(compiled, "cln_cpp", cln_cpp)
    model = copy.copy(MODEL)
    params = make_params(1)
    expected = model.vertices(params)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert isinstance(twin, FaceModel) and np.array_equal(twin.vertices(params), expected)


def test_arrays_are_shared_and_outlive_their_model(cln_cpp):
    model = cln_cpp.FaceModel(FACE_MODEL)
    mean, triangles = model.mean, model.triangles
    assert np.shares_memory(mean, model.mean) and not mean.flags.writeable
    del model
    assert np.array_equal(mean, MODEL.mean) and np.array_equal(triangles, MODEL.triangles)


def test_other_threads_run_meanwhile(cln_cpp):
    params = make_params(4000)
    model = cln_cpp.FaceModel(FACE_MODEL)
    worker = threading.Thread(target=model.vertices, args=(params,))
    start = time.perf_counter()
    worker.start()
    ticks = 0
    while worker.is_alive() and time.perf_counter() - start < 30:
        time.sleep(0.0005)
        ticks += 1
    worker.join()
    assert ticks > 3  # none, if the GIL were held


def test_one_euro_filter(cln_cpp):
    smooth = cln_cpp.OneEuroFilter(2, min_cutoff=1.0, beta=0.01)
    noise = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    values = np.array([smooth.filter(i / 30, row) for i, row in enumerate(noise)])
    assert np.array_equal(values[0], noise[0])
    assert values[20:].std() < 0.6 * noise[20:].std()
    smooth.reset()
    assert np.array_equal(smooth.filter(0.0, noise[5]), noise[5])


@pytest.mark.parametrize("yaw", [0.0, 35.0, -80.0])
def test_the_rasteriser_draws_what_numpy_draws(cln_cpp, monkeypatch, yaw):
    rotation = np.diag([1.0, -1.0, 1.0]) @ euler_to_rotation(yaw, 10, 20)
    vertices = (MODEL.mean @ rotation.T * 0.9 + [120, 100, 0]).astype(np.float32)  # the chin is below the picture
    vertices[5], vertices[2000] = np.nan, 3e3
    answers = []
    for core in (cln_cpp, None):
        monkeypatch.setattr(compiled, "cln_cpp", core)
        raster = rasterize(vertices, MODEL.triangles, (150, 256))
        normals = vertex_normals(vertices, MODEL.triangles)
        depth = surface_depth(vertices[:, :2], vertices, MODEL.triangles)
        answers.append((raster, normals, raster.interpolate(MODEL.mean), raster.interpolate(normals, unit=True), depth))
    (raster, normals, colors, units, depth), (expected, normals_2, colors_2, units_2, depth_2) = answers
    same = raster.triangle == expected.triangle
    assert same.mean() > 0.999 and raster.mask.mean() > 0.3
    assert np.allclose(raster.depth[same], expected.depth[same], atol=0.02)  # slivers seen edge-on are steep
    assert np.nanmax(np.abs(normals - normals_2)) < 1e-3
    assert np.median(np.abs(colors - colors_2)[same]) < 1e-4 and np.mean(np.abs(colors - colors_2)[same] < 0.1) > 0.999
    assert np.nanmedian(np.abs(units - units_2)[same]) < 1e-4
    assert np.allclose(np.linalg.norm(units[raster.mask & np.isfinite(units[..., 0])], axis=1), 1, atol=1e-4)
    assert np.array_equal(np.isfinite(depth), np.isfinite(depth_2)) and np.isfinite(depth).mean() > 0.9
    assert np.allclose(depth, depth_2, rtol=1e-4, atol=1e-3)


FACES = [
    posed(0),
    posed(40, 10, -20, center=(400.0, 100.0), side=210.0, coefficients=np.linspace(-1, 1, 50)),
    posed(-75, -5, 5, center=(150.0, 300.0), angle=30.0),
]


def place(roi):
    return np.array([roi.center_x, roi.center_y, roi.side, roi.angle])


@pytest.mark.parametrize("face", FACES)
def test_visibility_and_metric_pose_are_pythons(cln_cpp, without_binding, face):
    model = cln_cpp.FaceModel(FACE_MODEL)
    landmarks, vertices = cln_cpp.visibility(model, face.params, place(face.roi), face.crop_size)
    assert np.array_equal(landmarks, face.visible) and (vertices == face.vertex_visibility).mean() > 0.999
    camera = Camera(600.0, 620.0, 250.0, 180.0)
    values = np.array([camera.fx, camera.fy, camera.cx, camera.cy])
    for pupils in (0.0, 55.0):
        got = cln_cpp.metric_pose(model, face.params, place(face.roi), face.crop_size, values, pupil_distance=pupils)
        expected = face.metric_pose(camera, scale_mm=pupils or None)
        assert np.allclose(got[0], expected.rotation, atol=1e-4)
        assert np.allclose(got[1], expected.translation, rtol=1e-3, atol=0.05)
        assert got[2] == pytest.approx(expected.scale, rel=1e-5) and got[3] == pytest.approx(expected.error, abs=1e-2)


@pytest.mark.parametrize(
    ("camera", "pupils", "message"),
    [
        ((np.nan, 1, 0, 0), 0, "camera: expected finite"),
        ((0, 500, 0, 0), 0, "focal lengths above 0"),
        ((500, 500, 1e5, 0), 0, "a centre within 10 focal lengths"),
        ((1, 1, 2, 2), 0, "within 80 degrees"),
        ((20, 20, 100, 90), 0, "before the camera, got a point"),
        ((500, 500, 0, 0), -1, "pupil distance: expected"),
        ((500, 500, 0, 0), np.nan, "pupil distance: expected"),
    ],
)
def test_cameras_that_are_none_are_refused_as_in_python(cln_cpp, camera, pupils, message):
    model, face = cln_cpp.FaceModel(FACE_MODEL), FACES[0]
    with pytest.raises(ValueError, match=message):
        cln_cpp.metric_pose(model, face.params, place(face.roi), 128, np.array(camera, dtype=float), pupils)


def test_the_rasteriser_refuses_what_it_cannot_draw(cln_cpp):
    vertices, triangles = np.zeros((3, 3), dtype=np.float32), np.array([[0, 1, 2]], dtype=np.int32)
    number = np.full((2, 2), -1, dtype=np.int32)
    for call, message in (
        (lambda: cln_cpp.rasterize(vertices, triangles + 1, 4, 4), "triangles: expected"),
        (lambda: cln_cpp.rasterize(vertices, triangles - 1, 4, 4), "triangles: expected"),
        (lambda: cln_cpp.rasterize(vertices, triangles, 0, 4), "raster: expected"),
        (lambda: cln_cpp.rasterize(vertices, triangles, 4, 40000), "raster: expected"),
        (lambda: cln_cpp.interpolate(vertices, triangles, number, vertices[:2]), "interpolate: expected"),
        (lambda: cln_cpp.interpolate(vertices, triangles, number + 2, vertices), "interpolate: expected"),
        (lambda: cln_cpp.vertex_normals(vertices, triangles + 1), "triangles: expected"),
        (lambda: cln_cpp.surface_depth(vertices[:, :1].copy(), vertices, triangles), "points: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_what_is_wrong_is_refused_with_a_message(cln_cpp, tmp_path):
    image, rois = np.zeros((4, 4, 3), dtype=np.uint8), np.array([[1.0, 1.0, 2.0]])
    model = cln_cpp.FaceModel(FACE_MODEL)
    for call, message in (
        (lambda: cln_cpp.crop(np.zeros((4, 4, 2), dtype=np.uint8), rois, 4), "image: expected"),
        (lambda: cln_cpp.crop(np.zeros((2, 4, 4, 3), dtype=np.uint8), rois, 4), "image: expected"),
        (lambda: cln_cpp.crop(np.zeros((0, 4, 3), dtype=np.uint8), rois, 4), "image: expected"),
        (lambda: cln_cpp.crop(image, rois * np.nan, 4), "region: expected"),
        (lambda: cln_cpp.crop(image, rois, 0), "crop size: expected"),
        (lambda: model.vertices(np.zeros((1, 61), dtype=np.float32)), "params: expected"),
        (lambda: model.vertices(np.zeros((1, 62), dtype=np.float32), threads=0), "threads: expected"),
        (lambda: cln_cpp.Decoder(np.zeros((2, 4), dtype=np.float32)), "rows: expected"),
        (lambda: cln_cpp.OneEuroFilter(1, min_cutoff=0.0), "One Euro filter: expected"),
        (lambda: cln_cpp.OneEuroFilter(1).filter(0.0, np.zeros(2, dtype=np.float32)), "values: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError):
        cln_cpp.crop(image.astype(np.float32), rois, 4)
    damaged = tmp_path / "x.safetensors"
    damaged.write_bytes(Path(FACE_MODEL).read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        cln_cpp.FaceModel(damaged)
    with pytest.raises(FileNotFoundError, match="none"):
        cln_cpp.FaceModel(tmp_path / "none")


def test_the_package_carries_types(cln_cpp):
    folder = Path(cln_cpp.__file__).parent
    assert (folder / "py.typed").is_file()
    stubs = (folder / "_core.pyi").read_text()
    assert all(name in stubs for name in cln_cpp.__all__)


def test_a_tracker_whose_engine_knows_it_is_freed(cln_cpp):
    class Owner:
        def __init__(self):
            manifest = Reconstructor(threads=1).engine.manifest.to_json()
            self.tracker = cln_cpp.Tracker(FACE_MODEL, manifest, self.run, self.run, smoothing=0)

        def run(self, *given):
            raise NotImplementedError

    owner = weakref.ref(Owner())
    gc.collect()
    assert owner() is None


@pytest.mark.parametrize(("smoothing", "number"), [("responsive", 2), ("still", 1), ("off", 0)])
def test_the_tracker_gives_the_answers_of_python_s(cln_cpp, without_binding, smoothing, number):
    pytest.importorskip("onnxruntime")
    photo = cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))
    other = np.clip(cv2.flip(photo, 1) * np.array([0.9, 0.6, 0.45]), 0, 255).astype(np.uint8)
    detector = BlazeFaceDetector()
    reconstruct = Reconstructor(threads=1, detector=detector)

    def detect(image, thorough):
        found = (detector if thorough else detector.glance).detect(np.array(image))
        rois = [roi_from_detection(detection) for detection in found]
        rows_ = [(r.center_x, r.center_y, r.side, r.angle, d.score) for r, d in zip(rois, found, strict=True)]
        return np.array(rows_, dtype=np.float64).reshape(-1, 5)

    ours = Tracker(reconstruct, smoothing=smoothing, patience=1.0)
    theirs = cln_cpp.Tracker(
        FACE_MODEL, reconstruct.engine.manifest.to_json(), lambda crops: reconstruct.engine(np.array(crops)), detect,
        smoothing=number, patience=1.0,
    )  # fmt: skip
    seen = 0
    for i in range(40):
        frame = cv2.warpAffine(other, np.array([[1.0, 0, 3 * i - 110], [0, 1.0, 120]]), (640, 480))
        turn = cv2.getRotationMatrix2D((225.0, 121.0), 4.0 * i, 1.0)
        turn[:, 2] += (200 - 3 * i, 130)
        mask = np.zeros((480, 640), np.uint8)
        cv2.ellipse(mask, (int(425 - 3 * i), 251), (62, 85), 0, 0, 360, 255, -1)
        frame[mask > 0] = cv2.warpAffine(photo, turn, (640, 480))[mask > 0]
        if 25 <= i < 28:
            frame[:] = 100  # nothing there
        expected, got = ours(frame, i / 25), theirs.track(frame, i / 25)
        assert [(face.id, face.age) for face in expected] == [(face[0], face[1]) for face in got]
        for face, (_, _, score, params, landmarks, raw) in zip(expected, got, strict=True):
            # A byte of a crop that differs is worth a thousandth of a pixel, a region that differs a tenth.
            assert np.abs(face.landmarks - landmarks).max() < 0.01 and np.abs(face.raw.landmarks - raw).max() < 0.01
            assert np.abs(face.params - params).max() < 0.01 and score == pytest.approx(face.face.score, abs=1e-6)
            seen += 1
    assert seen > 40
    with pytest.raises(ValueError, match="time stamp: expected seconds after"):
        theirs.track(frame, 0.0)
