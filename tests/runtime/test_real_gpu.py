"""What only a real GPU can tell: a plan of the default network against ONNX Runtime and against itself."""

import contextlib
import dataclasses
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import numpy as np
import pytest

from runtime import Reconstructor, Roi, load_face_model
from runtime.engines import load_engine
from runtime.engines.cuda import Cuda, Staging
from runtime.engines.onnx import OnnxEngine
from runtime.engines.tensorrt import TensorRTEngine
from runtime.errors import EngineUnavailableError
from runtime.files import sha256

BATCH = 8


def no_gpu() -> str:
    try:
        Cuda()
    except EngineUnavailableError as error:
        return str(error)
    return ""


on_gpu = pytest.mark.skipif(bool(no_gpu()), reason=no_gpu())


@pytest.fixture(scope="module")
def onnx():
    with OnnxEngine(resources.files("runtime") / "assets" / "edge.onnx", providers=["CPUExecutionProvider"]) as engine:
        yield engine


@pytest.fixture(scope="module")
def plan(tmp_path_factory, onnx):
    pytest.importorskip("tensorrt_rtx")
    from export.plan import build_plan

    data = (resources.files("runtime") / "assets" / "edge.onnx").read_bytes()
    size = onnx.manifest.input_size
    built = build_plan(data, builder="tensorrt_rtx", input_size=size, max_batch=BATCH, compute_capabilities=())
    path = tmp_path_factory.mktemp("plan") / "edge.engine"
    path.write_bytes(built.data)
    manifest = dataclasses.replace(
        onnx.manifest,
        builder=built.builder,
        builder_version=built.builder_version,
        compute_capabilities=built.compute_capabilities,
        batch_range=(1, BATCH),
        plan_sha256=sha256(built.data),
    )
    path.with_suffix(".engine.json").write_text(manifest.to_json(), encoding="utf-8")
    return path


@pytest.mark.skipif(not no_gpu(), reason="a GPU is here")
def test_a_real_plan_gets_as_far_as_the_missing_gpu(plan):
    with pytest.raises(EngineUnavailableError, match="needs an NVIDIA GPU and its driver"):
        load_engine(plan)


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return np.repeat(np.repeat(rng.integers(0, 256, (27, 48, 3), dtype=np.uint8), 40, axis=0), 40, axis=1)


BOXES = [(200 + 180 * i, 150 + 40 * i, 120 + 30 * i, 130 + 30 * i) for i in range(6)]


class OnGpu:
    """A copy of a frame on the GPU, rows packed."""

    def __init__(self, frame, cuda, owner):
        staging = Staging(cuda, frame.nbytes)
        owner.callback(staging.close)
        staging.host[:] = frame.reshape(-1)
        staging.upload(frame.nbytes, 1)
        self.__cuda_array_interface__ = {
            **{"shape": frame.shape, "typestr": "|u1", "version": 3},
            **{"data": (staging.device, True), "strides": None, "stream": 1},
        }


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("count", [1, 3, BATCH, BATCH + 3])
def test_a_replayed_graph_gives_what_the_steps_give(plan, onnx, count, caplog):
    size, model = onnx.manifest.input_size, load_face_model()
    crops = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    with caplog.at_level(logging.WARNING), TensorRTEngine(plan) as engine:
        by_steps, replayed = engine(crops), engine(crops)
        np.testing.assert_array_equal(replayed, by_steps)
        other = engine(crops[:, ::-1])
        assert not np.array_equal(other, by_steps)
        difference = model.landmarks(by_steps) - model.landmarks(onnx(crops))
        assert np.linalg.norm(difference, axis=-1).max() < 0.15
        assert all(batch.graphs["crops"] is not None for batch in engine._batches.values())
    assert not caplog.records


@pytest.mark.gpu
@on_gpu
def test_a_frame_gives_the_same_wherever_it_is(plan, frame):
    with Reconstructor(plan) as reconstruct, contextlib.ExitStack() as owner:
        images = [frame, OnGpu(frame, Cuda(), owner)]
        first, *others = [reconstruct(image, BOXES) for image in images * 2]
        for faces in others:
            np.testing.assert_array_equal([face.params for face in faces], [face.params for face in first])
        np.testing.assert_array_equal(reconstruct.engine.to_host(images[1]), frame)
        with Reconstructor() as on_cpu:
            for face, expected in zip(first, on_cpu(frame, BOXES), strict=True):
                assert np.abs(face.landmarks - expected.landmarks).max() < 0.02 * face.roi.side


@pytest.mark.gpu
@on_gpu
def test_a_frame_of_pycuda(plan, frame):
    """As the README hands it: in the primary context, which is the one that CUDA's runtime uses."""
    pytest.importorskip("pycuda.autoprimaryctx")
    gpuarray = pytest.importorskip("pycuda.gpuarray")
    with Reconstructor(plan) as reconstruct:
        faces, expected = reconstruct(gpuarray.to_gpu(frame), BOXES), reconstruct(frame, BOXES)
        np.testing.assert_array_equal([face.params for face in faces], [face.params for face in expected])


@pytest.mark.gpu
@on_gpu
def test_a_frame_that_another_stream_is_still_making(plan, frame):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with Reconstructor(plan, stream=torch.cuda.Stream().cuda_stream) as reconstruct:
        expected = reconstruct(frame, BOXES)
        producer, wide = torch.cuda.Stream(), torch.randn(4096, 4096, device="cuda")
        given = torch.zeros(frame.shape, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(producer):
            for _ in range(20):
                wide = wide @ wide * 1e-3
            given.copy_(torch.from_numpy(frame).pin_memory(), non_blocking=True)
            faces = reconstruct(given, BOXES)
        np.testing.assert_array_equal([face.params for face in faces], [face.params for face in expected])


@pytest.mark.gpu
@on_gpu
def test_several_threads_with_an_engine_each(plan, onnx):
    size, ready = onnx.manifest.input_size, threading.Barrier(4, timeout=60)
    crops = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    with TensorRTEngine(plan) as engine:
        expected = engine(crops)

    def work(_):
        with TensorRTEngine(plan) as own:
            ready.wait()
            return [own(crops[: 1 + turn % 4]) for turn in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(work, range(4)):
            for params in results:
                np.testing.assert_allclose(params, expected[: len(params)], rtol=1e-3, atol=1e-2)


@pytest.mark.gpu
@on_gpu
def test_roi_s_beyond_the_frame_are_read_within_it(plan, frame):
    rois = [Roi(center_x=x, center_y=y, side=side) for x, y, side in ((-500, 40, 90), (1900, 1070, 3000), (9e5, 0, 10))]
    with TensorRTEngine(plan) as engine, contextlib.ExitStack() as owner:
        on_gpu_frame = OnGpu(frame, Cuda(), owner)
        np.testing.assert_array_equal(engine.run_frame(frame, rois), engine.run_frame(on_gpu_frame, rois))
