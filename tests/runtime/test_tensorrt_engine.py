"""TensorRT as an engine: what it refuses, and, with a pretended GPU, how it uses a real one."""

import dataclasses
import json
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime import MismatchError, Reconstructor, Roi, load_face_model
from runtime.engines import gpu_crop, load, load_engine, onnx, plans, tensorrt
from runtime.engines.cuda import Cuda
from runtime.engines.onnx import CUDA_PROVIDER, OnnxEngine
from runtime.engines.plans import PlanRefusedError, check_compute_capability
from runtime.engines.tensorrt import TensorRTEngine
from runtime.errors import EngineUnavailableError, FileFormatError, InvalidInputError
from runtime.files import sha256
from runtime.manifest import Manifest
from tests.runtime.conftest import make_manifest, write_engine
from tests.runtime.pretended_gpu import (
    CudaArrayFrame,
    DlpackFrame,
    PretendedGpu,
    compiler,
    crop_on_processor,
    functions,
    pretended_network,
)

SIZE, BATCH = 8, 4
PLAN = b"a plan" * 100


def no_gpu() -> bool:
    try:
        Cuda()
    except EngineUnavailableError:
        return True
    return False


def write_plan(folder: Path, **fields) -> Path:
    path = folder / "face.engine"
    path.write_bytes(PLAN)
    values = {
        "input_size": SIZE,
        "shape_count": 40,
        "expression_count": 10,
        "face_model": "points",
        "face_model_sha256": "0" * 64,
        "precision": "fp16-mixed",
        "builder": "tensorrt_rtx",
        "builder_version": "1.7",
        "compute_capabilities": ("8.0+",),
        "batch_range": (1, BATCH),
        "checkpoint_sha256": "1" * 64,
        "plan_sha256": sha256(PLAN),
        **fields,
    }
    (folder / "face.engine.json").write_text(Manifest(**values).to_json(), encoding="utf-8")
    return path


def edit_manifest(plan: Path, old: str, new: str) -> None:
    beside = Path(f"{plan}.json")
    beside.write_text(beside.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda plan: Path(f"{plan}.json").unlink(), r"expected its manifest face\.engine\.json beside it"),
        (lambda plan: plan.write_bytes(PLAN[:-1]), "got 599 bytes"),
        (lambda plan: plan.write_bytes(PLAN[:-1] + b"x"), "truncated, edited"),
        (lambda plan: Path(f"{plan}.json").write_text("{", encoding="utf-8"), "manifest in JSON"),
        (lambda plan: edit_manifest(plan, "fp16-mixed", "fp32"), "it was edited"),
        (lambda plan: edit_manifest(plan, "0" * 64, "2" * 64), "it was edited"),
        (lambda plan: write_plan(plan.parent, builder="onnx"), "got one of 'onnx'"),
        (lambda plan: write_plan(plan.parent, batch_range=(1, 0)), "batch range"),
        (lambda plan: write_plan(plan.parent, plan_sha256=None), "sha256 None"),
        (lambda plan: write_plan(plan.parent, compute_capabilities=("8",)), r'such as "8\.9", got \[\'8\'\]'),
    ],
    ids=[
        *("no manifest", "truncated", "edited", "broken manifest", "another precision", "another face model"),
        *("other builder", "no batch", "no hash", "capability"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, spoil, message):
    path = write_plan(tmp_path)
    spoil(path)
    with pytest.raises(FileFormatError, match=message):
        load_engine(path)


@pytest.mark.parametrize(("builder", "extra"), [("tensorrt_rtx", "cln[gpu]"), ("tensorrt", "cln[tensorrt]")])
def test_missing_library_names_what_to_install_and_the_onnx(tmp_path, monkeypatch, builder, extra):
    monkeypatch.setitem(sys.modules, builder, None)
    path = write_plan(tmp_path, builder=builder)
    with pytest.raises(EngineUnavailableError) as caught:
        load_engine(path)
    assert f"is not installed; run: pip install '{extra}'" in str(caught.value)
    assert "--onnx-only" in str(caught.value)
    path.with_suffix(".onnx").touch()
    with pytest.raises(EngineUnavailableError, match=r"or load .*face\.onnx, which needs no GPU"):
        load_engine(path)


@pytest.mark.skipif(not no_gpu(), reason="a GPU is here")
def test_no_gpu_names_the_onnx(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("cuda.bindings.runtime")
    path = write_plan(tmp_path)
    path.with_suffix(".onnx").touch()
    with pytest.raises(EngineUnavailableError, match=r"needs an NVIDIA GPU and its driver.*or load .*face\.onnx"):
        load_engine(path)


@pytest.mark.parametrize(
    ("gpu", "plan", "serves"),
    [
        ((8, 0), ("8.0+",), True),
        ((12, 1), ("8.0+",), True),
        ((7, 5), ("8.0+",), False),  # Turing must be asked for by name
        ((7, 5), ("7.5", "8.9"), True),
        ((8, 6), ("7.5", "8.9"), False),
    ],
)
def test_compute_capabilities(gpu, plan, serves):
    if serves:
        check_compute_capability(gpu, plan)
    else:
        with pytest.raises(PlanRefusedError, match=rf"--compute-capability {gpu[0]}\.{gpu[1]}"):
            check_compute_capability(gpu, plan)


@pytest.fixture
def gpu(monkeypatch):
    """A pretended GPU in place of a real one; its crop kernel needs a compiler."""
    pretended = PretendedGpu(size=SIZE, batch=BATCH)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", pretended.library())
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", pretended.cuda())
    monkeypatch.setattr(gpu_crop, "kernel_for", lambda architecture: architecture)
    monkeypatch.setattr(gpu_crop, "launch_crop", pretended.launch_crop)
    plans._make_logger.cache_clear()
    yield pretended
    plans._make_logger.cache_clear()
    assert not pretended.leftovers()


@pytest.fixture
def frames(gpu):
    """Random frames: `frames()`."""
    if compiler() is None:
        pytest.skip("no C++ compiler to run the kernel's arithmetic with")
    rng = np.random.default_rng(0)
    return lambda: rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)


def some_crops(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def rois_of(count):
    return [Roi(center_x=6 + 7 * i, center_y=20 - i, side=9 + 5 * i) for i in range(count)]


def expected_of(frame, rois):
    """The network's answers to crops that the kernel cut from the whole frame."""
    crops, job = np.zeros((len(rois), SIZE, SIZE, 3), np.uint8), np.zeros(gpu_crop.job_bytes(len(rois)), np.uint8)
    place = {"address": frame.ctypes.data, "height": len(frame), "width": frame.shape[1], "row_bytes": frame.strides[0]}
    gpu_crop.write_job(job, gpu_crop.DeviceFrame(**place), rois)
    regions = job.ctypes.data + gpu_crop.job_bytes(0)
    crop_on_processor(job.ctypes.data, regions, len(rois), SIZE, crops.ctypes.data)
    return pretended_network(crops)


def count_calls(gpu, name):
    return sum(call[0] == name for call in gpu.log)


@pytest.mark.parametrize(("count", "batches"), [(0, []), (1, [1]), (4, [4]), (10, [4, 2])])
def test_batches_are_split_run_once_and_then_replayed(tmp_path, gpu, count, batches):
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        for seed in range(3):  # other crops each time: a replay that kept its first input would show
            crops = some_crops(count, seed)
            params = engine(crops[:, :, ::-1])  # a view whose rows run backwards
            assert params.dtype == np.float32
            np.testing.assert_array_equal(params, pretended_network(crops[:, :, ::-1]))
        assert gpu.plain == batches  # each size went step by step only once
        assert count_calls(gpu, "cudaGraphLaunch") == 3 * -(-count // BATCH) - len(batches)


def test_results_of_one_call_outlive_the_next(tmp_path, gpu):
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        first = engine(some_crops(2))
        engine(some_crops(2, seed=1))
    np.testing.assert_array_equal(first, pretended_network(some_crops(2)))


@pytest.mark.parametrize(
    "obstacle", ["context", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_without_graphs_each_call_runs_step_by_step(tmp_path, gpu, caplog, obstacle):
    gpu.capturable = obstacle != "context"
    gpu.fails = {obstacle} - {"context"}
    with TensorRTEngine(write_plan(tmp_path)) as engine, caplog.at_level(logging.WARNING):
        for count in (1, 2, 1):
            np.testing.assert_array_equal(engine(some_crops(count)), pretended_network(some_crops(count)))
        gpu.fails = set()
    assert gpu.plain == [1, 2, 1]
    assert len(caplog.records) == 1 and "no CUDA graph could be made" in caplog.text


def test_work_that_fails_while_it_is_recorded_leaves_the_stream_usable(tmp_path, gpu, monkeypatch):
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        context = engine._batch(1).context
        ran = context.execute_async_v3
        monkeypatch.setattr(context, "execute_async_v3", lambda stream: stream not in gpu.recording and ran(stream))
        for _ in range(2):
            np.testing.assert_array_equal(engine(some_crops(1)), pretended_network(some_crops(1)))
        assert not gpu.recording


def test_kept_batch_sizes_are_bounded(tmp_path, gpu, monkeypatch):
    monkeypatch.setattr(tensorrt, "MOST_BATCH_SIZES", 2)
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        for count in (1, 2, 1, 3, 1, 2):
            np.testing.assert_array_equal(engine(some_crops(count)), pretended_network(some_crops(count)))
        assert gpu.plain == [1, 2, 3, 2]  # 2 had to go for 3, as it was unused for longest
        assert len(gpu.graphs) == 2


def test_close_frees_everything_and_ends_it(tmp_path, gpu):
    engine = TensorRTEngine(write_plan(tmp_path))
    engine(some_crops(3))
    assert gpu.leftovers().keys() == {"memory", "streams", "events", "graphs"}
    engine.close()
    engine.close()
    assert not gpu.leftovers()
    for use in (engine, engine.timed, lambda crops: engine.run_frame(crops[0], [])):
        with pytest.raises(InvalidInputError, match="closed"):
            use(some_crops(1))


def test_wrong_crops_are_refused_before_the_gpu_sees_them(tmp_path, gpu):
    with TensorRTEngine(write_plan(tmp_path)) as engine, pytest.raises(InvalidInputError, match="expected uint8"):
        engine(np.zeros((1, SIZE, SIZE + 1, 3), np.uint8))
    assert not gpu.plain


def test_failures_of_the_gpu_are_told_and_leave_nothing(tmp_path, gpu):
    gpu.memory_limit = 700
    with pytest.raises(EngineUnavailableError, match=r"cudaMalloc failed \(out of memory\).*--onnx-only"):
        TensorRTEngine(write_plan(tmp_path))
    assert not gpu.leftovers()
    gpu.memory_limit = 10**6
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        gpu.works = False
        with pytest.raises(EngineUnavailableError, match="the plan could not be run"):
            engine(some_crops(1))
        gpu.works = True
        np.testing.assert_array_equal(engine(some_crops(1)), pretended_network(some_crops(1)))
    gpu.works = False
    with pytest.raises(PlanRefusedError, match=r"TensorRT-RTX 1\.7, and 1\.8 cannot load it \(wrong version\)"):
        TensorRTEngine(write_plan(tmp_path))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"input_size": SIZE + 1}, r"\(9, 9, 3\).*got a plan with.*\(8, 8, 3\)"),
        ({"expression_count": 11}, r"\(63,\).*got a plan with.*\(62,\)"),
        ({"batch_range": (1, BATCH + 1)}, r"\('batch', 1, 5\).*got a plan with.*\('batch', 1, 4\)"),
    ],
)
def test_an_edited_manifest_is_noticed(tmp_path, gpu, edit, message):
    with pytest.raises(FileFormatError, match=rf"{message}.*the manifest was edited"):
        load_engine(write_plan(tmp_path, **edit))


def test_an_engine_for_another_face_model_is_refused_and_closed(tmp_path, gpu):
    with pytest.raises(MismatchError, match="built for face model 'points'"):
        Reconstructor(write_plan(tmp_path))


def test_compiled_code_is_kept_beside_the_plan(tmp_path, gpu):
    path = write_plan(tmp_path)
    for expected in (b"fresh", b"fresh+"):
        TensorRTEngine(path).close()
        assert (tmp_path / "face.engine.cache").read_bytes() == expected


def test_manifest_is_the_file_s(tmp_path, gpu):
    path = write_plan(tmp_path)
    with TensorRTEngine(path) as engine:
        assert json.loads(engine.manifest.to_json()) == json.loads((tmp_path / "face.engine.json").read_text())


@pytest.mark.parametrize("place", [CudaArrayFrame, DlpackFrame, np.asarray])
def test_frames_on_the_gpu_and_in_host_memory_give_the_same(tmp_path, gpu, frames, place):
    if place is DlpackFrame:
        pytest.importorskip("cuda.core")
    rois = rois_of(6)
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        for _ in range(3):
            frame = frames()
            image = place(frame)
            np.testing.assert_array_equal(engine.run_frame(image, rois), expected_of(frame, rois))
        assert gpu.plain == [4, 2]
        assert engine.run_frame(image, []).shape == (0, 62)
        if place is DlpackFrame:
            assert not image.held
        if place is not np.asarray:
            np.testing.assert_array_equal(engine.to_host(image), frame)


def test_faces_of_a_frame_wherever_it_is(tmp_path, gpu, frames, monkeypatch):
    frame, model = frames(), load_face_model()
    boxes = [(5 + 3 * i, 4, 12, 14) for i in range(6)]
    plan = write_plan(tmp_path, face_model_sha256=model.sha256)
    with Reconstructor(plan, face_model=model) as reconstruct:
        expected = expected_of(frame, [Roi.from_box(box) for box in boxes])
        for image in (frame, CudaArrayFrame(frame)):
            faces = reconstruct(image, boxes)
            np.testing.assert_array_equal([face.params for face in faces], expected)
            assert [face.box for face in faces] == boxes
            assert reconstruct(image, []) == []
        grey = reconstruct(frame[..., 0], boxes[:1])
        np.testing.assert_array_equal(
            grey[0].params, expected_of(np.repeat(frame[..., :1], 3, axis=2), [Roi.from_box(boxes[0])])[0]
        )
        seen = []
        detector = type("Detector", (), {"detect": lambda self, image: seen.append(image) or []})()
        monkeypatch.setattr(reconstruct, "_detector", detector)
        assert [reconstruct(image) for image in (frame, CudaArrayFrame(frame))] == [[], []]
        np.testing.assert_array_equal(seen, [frame, frame])
        gpu.frame_device = 1
        with pytest.raises(InvalidInputError, match="got it on GPU 1"):
            reconstruct(CudaArrayFrame(frame), boxes)


def test_without_the_kernel_frames_in_host_memory_are_cut_on_the_cpu(tmp_path, gpu, monkeypatch):
    def missing(architecture):
        raise EngineUnavailableError("no cuda-core")

    monkeypatch.setattr(gpu_crop, "kernel_for", missing)
    model = load_face_model()
    with Reconstructor(write_plan(tmp_path, face_model_sha256=model.sha256), face_model=model) as reconstruct:
        reconstruct.warmup()
        assert len(reconstruct(np.zeros((40, 50, 3), np.uint8), [(5, 4, 12, 14)])) == 1
        with pytest.raises(EngineUnavailableError, match="no cuda-core"):
            reconstruct(CudaArrayFrame(np.zeros((40, 50, 3), np.uint8)), [(5, 4, 12, 14)])


@pytest.mark.parametrize("interface", ["cuda array", "dlpack"])
def test_a_frame_s_own_stream_is_waited_for_on_the_gpu(tmp_path, gpu, frames, interface):
    if interface == "dlpack":
        pytest.importorskip("cuda.core")  # before anything is made that a skipped test would leave behind
    frame, rois = frames(), rois_of(2)
    gpu.streams[5] = []
    made = np.zeros_like(frame)
    if interface == "dlpack":
        gpu_fills = lambda stream: gpu.queue(stream, lambda: made.__setitem__(..., frame))  # noqa: E731
        image = DlpackFrame(made, produce=gpu_fills)
    else:
        image = CudaArrayFrame(made, stream=5)
        gpu.queue(5, lambda: image.rows.__setitem__((slice(None), slice(50)), frame))
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        np.testing.assert_array_equal(engine.run_frame(image, rois), expected_of(frame, rois))
        assert ("cudaStreamSynchronize", 5) not in gpu.log  # the host doesn't wait for it
        if interface == "dlpack":
            assert image.streams[-1] == engine._stream
    del gpu.streams[5]


class Stream:
    """As `cuda.core`, CuPy and torch show theirs."""

    def __cuda_stream__(self):
        return 0, 9


@pytest.mark.parametrize(("given", "handle"), [(9, 9), (Stream(), 9), (0, 1)])
def test_a_caller_s_stream_is_worked_on(tmp_path, gpu, frames, given, handle):
    model, frame = load_face_model(), frames()
    gpu.streams[9] = []
    plan = write_plan(tmp_path, face_model_sha256=model.sha256)
    with Reconstructor(plan, face_model=model, stream=given) as reconstruct:
        gpu.log.clear()
        for _ in range(2):
            reconstruct(frame, [(5, 4, 12, 14)])
            reconstruct.engine(some_crops(2))
        waited = {call[1] for call in gpu.log if call[0] == "cudaStreamSynchronize"}
        launched = {call[2] for call in gpu.log if call[0] == "cudaGraphLaunch"}
        recorded = {call[1] for call in gpu.log if call[0] == "cudaStreamBeginCapture"}
        assert waited == launched == {handle} and recorded and handle not in recorded
    assert gpu.streams.pop(9) == []  # still the caller's


@pytest.mark.parametrize("stream", ["7", -1, True, 1.5])
def test_what_is_no_stream_is_refused(tmp_path, gpu, stream):
    with pytest.raises(InvalidInputError, match="expected a CUDA stream's handle"):
        load_engine(write_plan(tmp_path), stream=stream)


def test_warmup_does_ahead_what_calls_put_off(tmp_path, gpu, frames):
    model, frame = load_face_model(), frames()
    with Reconstructor(write_plan(tmp_path, face_model_sha256=model.sha256), face_model=model) as reconstruct:
        reconstruct.warmup(2)
        assert gpu.plain == [2, 2]
        reconstruct(frame, [(5, 4, 12, 14), (9, 8, 12, 14)])
        reconstruct.engine(some_crops(2))
        assert gpu.plain == [2, 2]


def test_engines_in_several_threads_and_one_engine_for_several(tmp_path, gpu, frames):
    plan, rois, everyone_is_here = write_plan(tmp_path), rois_of(3), threading.Barrier(4, timeout=10)
    images = [frames() for _ in range(4)]

    def work(number, shared):
        engine = shared or TensorRTEngine(plan)
        everyone_is_here.wait()
        for seed in range(5):
            crops = some_crops(1 + (number + seed) % 4, seed=10 * number + seed)
            np.testing.assert_array_equal(engine(crops), pretended_network(crops))
            np.testing.assert_array_equal(engine.run_frame(images[number], rois), expected_of(images[number], rois))
        if shared is None:
            engine.close()

    with ThreadPoolExecutor(4) as pool, TensorRTEngine(plan) as one:
        for shared in (None, one):
            list(pool.map(work, range(4), [shared] * 4))


def test_a_library_s_reasons_are_those_of_the_thread_that_asks(gpu):
    logger = plans.logger("tensorrt_rtx")
    assert plans.logger("tensorrt_rtx") is logger
    with ThreadPoolExecutor(1) as pool:
        pool.submit(logger.log, "error", "of another engine").result()
    assert logger.reason() == "it gave no reason"
    logger.log("error", "of\nthis one")
    assert [logger.reason(), logger.reason()] == ["of this one", "it gave no reason"]


def test_an_engine_stays_on_its_gpu_and_leaves_the_caller_s_alone(tmp_path, gpu):
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        gpu.current.device = 3
        engine(some_crops(1))
        changes = [call[1] for call in gpu.log if call[0] == "cudaSetDevice"]
        assert changes == [0, 3] and gpu.current.device == 3


def test_stages_are_told_apart(tmp_path, gpu):
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        times = engine.timed(some_crops(2))
        assert list(times) == ["host_to_device", "network", "device_to_host"]
        assert all(value >= 0 for value in times.values())
        for count in (0, BATCH + 1):
            with pytest.raises(InvalidInputError, match=f"expected a batch of 1 to {BATCH}"):
                engine.timed(some_crops(count))


def test_a_frame_on_the_gpu_needs_a_plan(engine_file):
    with Reconstructor(engine_file) as reconstruct, pytest.raises(InvalidInputError, match=r"load a \.engine file"):
        reconstruct(CudaArrayFrame(np.zeros((40, 50, 3), np.uint8)), [(5, 5, 20, 20)])


def test_driver_and_gpu_have_names(gpu):
    assert Cuda().name() == "A card (compute capability 8.9)"
    assert Cuda().driver_version() == "13.2"


@pytest.fixture
def onnx_on_gpu(monkeypatch):
    """ONNX Runtime as if its CUDA provider were there and worked: `works(False)` for one that doesn't."""
    here = [CUDA_PROVIDER, "CPUExecutionProvider"]

    class Pretended(OnnxEngine):
        providers = here

        def __init__(self, path, *, providers, threads) -> None:
            assert providers == [CUDA_PROVIDER, "CPUExecutionProvider"]
            super().__init__(path, providers=providers[1:], threads=threads)

    monkeypatch.setattr(load, "OnnxEngine", Pretended)
    return lambda works: here.__setitem__(slice(None), here if works else here[1:])


def write_onnx_beside(plan, **changes):
    manifest = make_manifest(checkpoint_sha256="1" * 64, precision="fp16-mixed")
    return write_engine(plan.with_suffix(".onnx"), dataclasses.replace(manifest, **changes))


REFUSALS = {
    "another card": lambda gpu: setattr(gpu, "capability", (7, 5)),
    "another version": lambda gpu: setattr(gpu, "works", False),
    "no context": lambda gpu: setattr(gpu, "serves", False),
}


@pytest.mark.parametrize("refuse", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refused_plan_s_onnx_runs_on_the_gpu_instead(tmp_path, gpu, onnx_on_gpu, caplog, refuse):
    plan = write_plan(tmp_path)
    refuse(gpu)
    with pytest.raises(PlanRefusedError, match="--onnx-only"):  # there is none
        load_engine(plan)
    write_onnx_beside(plan)
    with caplog.at_level(logging.WARNING), load_engine(plan) as engine:
        assert engine.manifest.builder == "onnx"
        assert engine(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 62)
    assert len(caplog.records) == 1
    assert "face.onnx (fp16-mixed) with ONNX Runtime on the GPU instead" in caplog.text


def test_nothing_worse_takes_a_refused_plan_s_place(tmp_path, gpu, onnx_on_gpu):
    plan = write_plan(tmp_path)
    gpu.capability = (7, 5)
    write_onnx_beside(plan, checkpoint_sha256="2" * 64)
    with pytest.raises(PlanRefusedError, match="expected one of checkpoint 111111111111, got one of 222222222222"):
        load_engine(plan)
    write_onnx_beside(plan)
    onnx_on_gpu(works=False)  # ONNX Runtime then goes on with the CPU, in silence
    with pytest.raises(PlanRefusedError, match=r"got 7\.5"):
        load_engine(plan)


@pytest.mark.parametrize(
    ("platform", "there", "found"),
    [
        ("linux", {"libcuda.so.1"}, True),  # as drivers install it, without the name that ends in .so
        ("linux", {"nvcuda.dll"}, False),
        ("win32", {"nvcuda.dll"}, True),
        ("win32", set(), False),
    ],
)
def test_the_cuda_provider_is_chosen_where_the_loader_finds_the_driver(monkeypatch, platform, there, found):
    def find(name):
        if name not in there:
            raise OSError(f"{name}: no such file")

    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("ctypes.CDLL", find)
    providers = onnx._default_providers([CUDA_PROVIDER, "CPUExecutionProvider"])
    assert providers == ([CUDA_PROVIDER] if found else []) + ["CPUExecutionProvider"]


def test_without_onnx_runtime_s_cuda_provider_a_refusal_stays_one(tmp_path, gpu):
    onnxruntime = pytest.importorskip("onnxruntime")
    if CUDA_PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("it is here")
    plan = write_plan(tmp_path)
    write_onnx_beside(plan)
    gpu.capability = (7, 5)
    with pytest.raises(PlanRefusedError, match=r"got 7\.5.*or load .*face\.onnx"):
        load_engine(plan)


@pytest.mark.parametrize("runs", [True, False])
def test_a_card_that_the_library_does_not_list_is_tried_once(tmp_path, gpu, onnx_on_gpu, monkeypatch, runs):
    gpu.capability = (9, 0)  # later than the plan's "8.0+", and not in the library's list
    plan = write_plan(tmp_path)
    write_onnx_beside(plan)
    if not runs:
        monkeypatch.setattr("tests.runtime.pretended_gpu.PretendedContext.execute_async_v3", lambda self, stream: False)
    with load_engine(plan) as engine:
        assert engine.manifest.builder == ("tensorrt_rtx" if runs else "onnx")
        assert gpu.plain == ([1] if runs else [])


@pytest.mark.skipif(not no_gpu(), reason="a GPU is here, and made-up addresses would reach it")
def test_cuda_s_functions_are_called_as_they_are_made(tmp_path, gpu, frames):
    """Each is called once more with the arguments that it got, but in the real module: without a GPU, all refuse."""
    pretended = sys.modules.pop("cuda.bindings.runtime")
    real = pytest.importorskip("cuda.bindings.runtime")
    sys.modules["cuda.bindings.runtime"] = pretended
    gpu.streams[5] = []
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        gpu.current.device = 1
        for _ in range(2):
            engine.run_frame(CudaArrayFrame(frames(), stream=5), rois_of(1))
        engine.to_host(CudaArrayFrame(frames()))
    del gpu.streams[5]
    Cuda().name(), Cuda().driver_version()
    assert set(functions()) - gpu.calls.keys() == {"cudaGetLastError", "cudaGetErrorString"}
    objects = {  # the places of those arguments that are no numbers in the real module
        "cudaStreamBeginCapture": {1: real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal},
        "cudaDeviceGetAttribute": {0: real.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor},
        "cudaMemcpyAsync": {3: real.cudaMemcpyKind.cudaMemcpyHostToDevice},
        "cudaMemcpy2DAsync": {6: real.cudaMemcpyKind.cudaMemcpyDeviceToHost},
        "cudaGraphInstantiate": {0: real.cudaGraph_t()},
        "cudaGraphLaunch": {0: real.cudaGraphExec_t()},
        "cudaGraphExecDestroy": {0: real.cudaGraphExec_t()},
        "cudaGraphDestroy": {0: real.cudaGraph_t()},
        "cudaEventRecord": {0: real.cudaEvent_t()},
        "cudaEventDestroy": {0: real.cudaEvent_t()},
        "cudaStreamWaitEvent": {1: real.cudaEvent_t()},
    }
    for name, (arguments, values) in gpu.calls.items():
        given = [objects.get(name, {}).get(place, value) for place, value in enumerate(arguments)]
        assert len(getattr(real, name)(*given)) == values, name


def test_cuda_has_the_names_in_use():
    real = pytest.importorskip("cuda.bindings.runtime")
    made_up = PretendedGpu(size=SIZE, batch=BATCH).cuda()
    for name, value in vars(made_up).items():
        if name.startswith("cuda"):
            assert hasattr(real, name), name
            for member in vars(value) if type(value).__name__ == "SimpleNamespace" else ():
                assert hasattr(getattr(real, name), member), (name, member)
    assert (real.cudaStreamNonBlocking, real.cudaEventDisableTiming) == (1, 2)


def test_tensorrt_rtx_has_the_names_in_use():
    library = pytest.importorskip("tensorrt_rtx")
    names = {
        "Runtime": ["deserialize_cuda_engine"],
        "ICudaEngine": [
            *("num_io_tensors", "get_tensor_name", "get_tensor_dtype", "get_tensor_shape", "get_tensor_profile_shape"),
            *("device_memory_size_v2", "create_runtime_config", "create_execution_context"),
        ],
        "IRuntimeConfig": [
            *("set_execution_context_allocation_strategy", "dynamic_shapes_kernel_specialization_strategy"),
            *("create_runtime_cache", "set_runtime_cache"),
        ],
        "IRuntimeCache": ["deserialize", "serialize"],
        "IExecutionContext": [
            *("set_device_memory", "set_tensor_address", "set_input_shape", "is_stream_capturable", "execute_async_v3"),
        ],
        "ExecutionContextAllocationStrategy": ["USER_MANAGED"],
        "DynamicShapesKernelSpecializationStrategy": ["EAGER"],
        "DataType": ["UINT8", "FLOAT"],
        "ILogger": ["ERROR", "INTERNAL_ERROR"],
    }
    for kind, members in names.items():
        assert not [member for member in members if not hasattr(getattr(library, kind), member)], kind
    assert tuple(library.Dims((2, 3)))[1:] == (3,)
    assert plans.known_capabilities(library).keys() >= {"7.5", "8.6", "8.9", "12.0"}
