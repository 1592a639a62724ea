"""TensorRT as an engine: what it refuses, and, with a pretended GPU, how it uses a real one."""

import ctypes
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from runtime import Reconstructor, Roi, crop, load_face_model
from runtime.engines import load_engine, tensorrt
from runtime.engines.tensorrt import Cuda, TensorRTEngine, check_compute_capability
from runtime.errors import EngineUnavailableError, FileFormatError, InvalidInputError
from runtime.files import sha256
from runtime.manifest import Manifest

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


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda plan: Path(f"{plan}.json").unlink(), r"expected its manifest face\.engine\.json beside it"),
        (lambda plan: plan.write_bytes(PLAN[:-1]), "got 599 bytes"),
        (lambda plan: plan.write_bytes(PLAN[:-1] + b"x"), "truncated, edited"),
        (lambda plan: Path(f"{plan}.json").write_text("{", encoding="utf-8"), "manifest in JSON"),
        (lambda plan: write_plan(plan.parent, builder="onnx"), "got one of 'onnx'"),
        (lambda plan: write_plan(plan.parent, batch_range=(1, 0)), "batch range"),
        (lambda plan: write_plan(plan.parent, plan_sha256=None), "sha256 None"),
    ],
    ids=["no manifest", "truncated", "edited", "broken manifest", "other builder", "no batch", "no hash"],
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
        with pytest.raises(EngineUnavailableError, match=rf"--compute-capability {gpu[0]}\.{gpu[1]}"):
            check_compute_capability(gpu, plan)


class PretendedGpu:
    """CUDA's runtime over host memory, and a TensorRT whose plan gives every crop's sum as its first parameter."""

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array] = {}
        self.streams: list[int] = []
        self.batches: list[int] = []
        self.works = True
        self.frame_device = 0

    def cuda(self) -> types.ModuleType:
        module = types.ModuleType("cuda.bindings.runtime")
        module.cudaError_t = types.SimpleNamespace(cudaSuccess=0)
        module.cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        module.cudaDeviceAttr = types.SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=9
        )
        module.cudaGetDeviceCount = lambda: (0, 1)
        module.cudaGetDevice = lambda: (0, 0)
        module.cudaDeviceGetAttribute = lambda attribute, device: (0, attribute)
        module.cudaGetErrorString = lambda error: (0, b"out of memory")
        module.cudaStreamCreate = lambda: (0, self.streams.append(7) or 7)
        module.cudaStreamDestroy = lambda stream: (self.streams.remove(stream) or 0,)
        module.cudaStreamSynchronize = lambda stream: (0,)
        module.cudaMalloc = self._allocate
        module.cudaFree = lambda address: (0 if self.memory.pop(address) else 1,)
        module.cudaMemcpyAsync = self._copy
        module.cudaMemcpy2D = self._copy_rows
        module.cudaPointerGetAttributes = lambda address: (0, types.SimpleNamespace(device=self.frame_device))
        return module

    def _copy_rows(self, target, target_row, source, source_row, width, height, kind):
        for line in range(height):
            ctypes.memmove(target + line * target_row, source + line * source_row, width)
        return (0,)

    def _allocate(self, size: int):
        if size > 10**6:
            return 2, None
        block = ctypes.create_string_buffer(size)
        address = ctypes.addressof(block)
        self.memory[address] = block
        return 0, address

    def _copy(self, target, source, count, kind, stream):
        device = target if kind == 1 else source
        assert count <= len(self.memory[device])  # beyond it, a GPU's memory would be overwritten
        ctypes.memmove(target, source, count)
        return (0,)

    def library(self) -> types.ModuleType:
        module = types.ModuleType("tensorrt_rtx")
        gpu = self

        class Logger:
            ERROR, INTERNAL_ERROR = "error", "internal error"

        class Context:
            def __init__(self) -> None:
                self.address: dict[str, int] = {}

            def set_tensor_address(self, name, address) -> bool:
                self.address[name] = address
                return True

            def set_input_shape(self, name, shape) -> bool:
                self.shape = shape
                return 1 <= shape[0] <= BATCH

            def execute_async_v3(self, stream) -> bool:
                gpu.batches.append(self.shape[0])
                count = int(np.prod(self.shape))
                crops = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self.address["crops"]))
                params = np.zeros((self.shape[0], 62), dtype=np.float32)
                params[:, 0] = crops.reshape(self.shape[0], -1).sum(axis=1)
                ctypes.memmove(self.address["params"], params.ctypes.data, params.nbytes)
                return gpu.works

        class Cache:
            data = b"fresh"

            def deserialize(self, data) -> bool:
                self.data = data + b"+"
                return True

            def serialize(self):
                return self.data

        class Engine:
            def create_runtime_config(self):
                return types.SimpleNamespace(create_runtime_cache=Cache, set_runtime_cache=lambda cache: None)

            def create_execution_context(self, config):
                return Context()

        class Runtime:
            def __init__(self, logger) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, plan):
                if gpu.works:
                    return Engine()
                self.logger.log("error", "wrong\nversion")
                return None

        module.__version__, module.ILogger, module.Runtime = "1.8", Logger, Runtime
        return module


@pytest.fixture
def gpu(monkeypatch):
    pretended = PretendedGpu()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", pretended.library())
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", pretended.cuda())
    tensorrt.logger.cache_clear()
    yield pretended
    tensorrt.logger.cache_clear()


@pytest.mark.parametrize(("count", "batches"), [(0, []), (1, [1]), (4, [4]), (10, [4, 4, 2])])
def test_batches_are_split_and_come_back_in_order(tmp_path, gpu, count, batches):
    crops = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        params = engine(crops)
        flipped = engine(crops[:, :, ::-1])  # a view whose rows run backwards must be copied first
    assert params.dtype == np.float32
    assert params.shape == (count, 62)
    np.testing.assert_array_equal(params[:, 0], crops.reshape(count, -1).sum(axis=1) if count else [])
    np.testing.assert_array_equal(flipped, params)
    assert gpu.batches == batches * 2


def test_close_frees_everything_and_ends_it(tmp_path, gpu):
    engine = TensorRTEngine(write_plan(tmp_path))
    assert len(gpu.memory) == 2
    engine.close()
    engine.close()
    assert not gpu.memory
    assert not gpu.streams
    with pytest.raises(InvalidInputError, match="closed"):
        engine(np.zeros((1, SIZE, SIZE, 3), np.uint8))


def test_wrong_crops_are_refused_before_the_gpu_sees_them(tmp_path, gpu):
    with TensorRTEngine(write_plan(tmp_path)) as engine, pytest.raises(InvalidInputError, match="expected uint8"):
        engine(np.zeros((1, SIZE, SIZE + 1, 3), np.uint8))
    assert not gpu.batches


def test_failures_of_the_gpu_are_told_and_leave_nothing(tmp_path, gpu):
    with pytest.raises(EngineUnavailableError, match=r"cudaMalloc failed \(out of memory\).*--onnx-only"):
        TensorRTEngine(write_plan(tmp_path, batch_range=(1, 10**6)))
    assert not gpu.memory
    assert not gpu.streams
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        gpu.works = False
        with pytest.raises(EngineUnavailableError, match="the plan could not be run"):
            engine(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    with pytest.raises(EngineUnavailableError, match=r"TensorRT-RTX 1\.7, and 1\.8 cannot load it \(wrong version\)"):
        TensorRTEngine(write_plan(tmp_path))


def test_compiled_code_is_kept_beside_the_plan(tmp_path, gpu):
    path = write_plan(tmp_path)
    for expected in (b"fresh", b"fresh+"):
        TensorRTEngine(path).close()
        assert (tmp_path / "face.engine.cache").read_bytes() == expected


def test_manifest_is_the_file_s(tmp_path, gpu):
    path = write_plan(tmp_path)
    with TensorRTEngine(path) as engine:
        assert json.loads(engine.manifest.to_json()) == json.loads((tmp_path / "face.engine.json").read_text())


class FrameOnGpu:
    """A frame in the pretended GPU's memory, its rows with a pitch."""

    def __init__(self, frame):
        self.rows = np.zeros((len(frame), frame.shape[1] + 3, 3), np.uint8)
        self.rows[:, : frame.shape[1]] = frame
        interface = {"shape": frame.shape, "typestr": "|u1", "data": (self.rows.ctypes.data, True), "version": 3}
        self.__cuda_array_interface__ = {**interface, "strides": (self.rows.strides[0], 3, 1), "stream": 5}


@pytest.fixture
def kernel(monkeypatch):
    """The crop's kernel as the CPU's crop, over the same addresses; what it was given."""
    given = []

    def launch(cuda, frame, regions, count, size, crops, stream):
        pixels = np.ctypeslib.as_array((ctypes.c_uint8 * (frame.row_bytes * frame.height)).from_address(frame.address))
        image = pixels.reshape(frame.height, frame.row_bytes)[:, : 3 * frame.width].reshape(frame.height, -1, 3)
        values = np.ctypeslib.as_array((ctypes.c_double * (3 * count)).from_address(regions)).reshape(-1, 3)
        rois = [Roi(center_x=x, center_y=y, side=side) for x, y, side in values]
        result = crop(image, rois, size)
        ctypes.memmove(crops, result.ctypes.data, result.nbytes)
        given.append((count, size, stream))

    monkeypatch.setattr(tensorrt.gpu_crop, "launch_crop", launch)
    return given


def test_a_frame_on_the_gpu_gives_what_it_gives_in_host_memory(tmp_path, gpu, kernel):
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    boxes = [(5 + 3 * i, 4, 12, 14) for i in range(6)]
    model = load_face_model()
    plan = write_plan(tmp_path, face_model_sha256=model.sha256)
    with Reconstructor(plan, face_model=model) as reconstruct:
        expected = reconstruct(frame, boxes)
        faces = reconstruct(FrameOnGpu(frame), boxes)
        assert kernel == [(4, SIZE, 7), (2, SIZE, 7)]  # split where the plan's largest batch ends
        assert reconstruct(FrameOnGpu(frame), []) == []
        np.testing.assert_array_equal(reconstruct.engine.to_host(FrameOnGpu(frame)), frame)
        for face, other in zip(faces, expected, strict=True):
            np.testing.assert_array_equal(face.params, other.params)
            assert face.box == other.box
        gpu.frame_device = 1
        with pytest.raises(InvalidInputError, match="got it on GPU 1"):
            reconstruct(FrameOnGpu(frame), boxes)
        reconstruct.warmup(2)
        assert gpu.batches[-1] == 2
    assert not gpu.memory


def test_stages_are_told_apart(tmp_path, gpu):
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        times = engine.timed(np.zeros((2, SIZE, SIZE, 3), np.uint8))
        assert list(times) == ["host_to_device", "network", "device_to_host"]
        assert all(value >= 0 for value in times.values())
        for count in (0, BATCH + 1):
            with pytest.raises(InvalidInputError, match=f"expected a batch of 1 to {BATCH}"):
                engine.timed(np.zeros((count, SIZE, SIZE, 3), np.uint8))


def test_a_frame_on_the_gpu_needs_a_plan(engine_file):
    with Reconstructor(engine_file) as reconstruct, pytest.raises(InvalidInputError, match=r"load a \.engine file"):
        reconstruct(FrameOnGpu(np.zeros((40, 50, 3), np.uint8)), [(5, 5, 20, 20)])


def test_driver_and_gpu_have_names(gpu):
    runtime = sys.modules["cuda.bindings.runtime"]
    runtime.cudaGetDeviceProperties = lambda device: (0, types.SimpleNamespace(name=b"A card\0\0"))
    runtime.cudaDriverGetVersion = lambda: (0, 13020)
    assert Cuda().name() == "A card (compute capability 8.9)"
    assert Cuda().driver_version() == "13.2"
