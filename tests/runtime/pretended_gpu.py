"""CUDA's runtime and a TensorRT over host memory, late where a GPU may be late and strict where a GPU would crash.

What is queued on a stream runs only when the stream is waited for: a host buffer that is used again too early, or a
stream that isn't waited for, shows in the results. Every address of a copy must lie in a living allocation, the host's
side of a copy that isn't waited for in pinned memory; while a thread records a stream, it may not allocate, free or
wait; a context may be recorded only after it ran with its shape, and runs with its own shape and memory alone.
"""

# ruff: noqa: N802 - the names are CUDA's

import ctypes
import functools
import shutil
import subprocess
import tempfile
import threading
import time
import types
from importlib import resources
from pathlib import Path

import numpy as np

from runtime.engines.gpu_crop import job_bytes

SUCCESS, OUT_OF_MEMORY, NOT_PERMITTED, INVALID = 0, 2, 800, 1
DEVICE, HOST, UNREGISTERED = 2, 1, 0


class PretendedGpu:
    """One GPU; its `cuda()` and `library()` are modules to put in place of the real ones."""

    def __init__(self, *, size: int, batch: int, capability: tuple[int, int] = (8, 9)) -> None:
        self.size, self.batch, self.capability = size, batch, capability
        self.memory: dict[int, tuple[ctypes.Array, str]] = {}
        self.streams: dict[int, list] = {1: []}  # what is queued on each; 1 is the legacy default stream
        self.events: dict[int, object] = {}
        self.graphs: dict[int, list] = {}
        self.recording: dict[int, tuple[int, list]] = {}  # stream: thread, what was recorded
        self.current = threading.local()
        self.lock = threading.RLock()
        self.number = 100
        self.calls: dict[str, tuple] = {}  # the latest arguments of each function, and how many values it gave
        self.log: list[tuple] = []
        self.plain: list[int] = []  # batch sizes that the network ran with, step by step
        self.works = self.capturable = self.serves = True
        self.fails: set[str] = set()  # functions that answer with an error
        self.frame_device, self.memory_limit = 0, 10**6
        self.tensors = {"crops": ("uint8", (-1, size, size, 3)), "params": ("float32", (-1, 62))}

    # CUDA

    def cuda(self) -> types.ModuleType:
        module = types.ModuleType("cuda.bindings.runtime")
        module.cudaError_t = types.SimpleNamespace(cudaSuccess=SUCCESS)
        module.cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        module.cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        module.cudaMemoryType = types.SimpleNamespace(
            cudaMemoryTypeUnregistered=UNREGISTERED, cudaMemoryTypeHost=HOST, cudaMemoryTypeDevice=DEVICE
        )
        module.cudaStreamNonBlocking, module.cudaEventDisableTiming = 1, 2
        module.cudaDeviceAttr = types.SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor=0, cudaDevAttrComputeCapabilityMinor=1
        )
        for name in functions():
            setattr(module, name, functools.partial(self._called, name))
        return module

    def _called(self, name, *arguments):
        if name == "cudaStreamSynchronize":
            time.sleep(2e-4)  # what a GPU takes, and what other threads have to get in between
        with self.lock:
            self.log.append((name, *arguments))
            answer = getattr(self, name)(*arguments)
            self.calls[name] = (arguments, len(answer))
            return (INVALID, *(None for _ in answer[1:])) if name in self.fails else answer

    def _new(self) -> int:
        self.number += 1
        return self.number

    def _records_here(self) -> bool:
        return any(thread == threading.get_ident() for thread, _ in self.recording.values())

    def cudaGetDeviceCount(self):
        return SUCCESS, 1

    def cudaGetDevice(self):
        return SUCCESS, getattr(self.current, "device", 0)

    def cudaSetDevice(self, device):
        self.current.device = device
        return (SUCCESS,)

    def cudaDeviceGetAttribute(self, attribute, device):
        return SUCCESS, self.capability[attribute]

    def cudaGetDeviceProperties(self, device):
        return SUCCESS, types.SimpleNamespace(name=b"A card\0\0")

    def cudaDriverGetVersion(self):
        return SUCCESS, 13020

    def cudaGetErrorString(self, error):
        return SUCCESS, {OUT_OF_MEMORY: b"out of memory", NOT_PERMITTED: b"not permitted"}.get(error, b"invalid")

    def cudaGetLastError(self):
        return (SUCCESS,)

    def cudaMalloc(self, size, kind="device"):
        if self._records_here():
            return NOT_PERMITTED, None
        if size > self.memory_limit:
            return OUT_OF_MEMORY, None
        block = ctypes.create_string_buffer(bytes([0xAB]) * size, size)  # no zeros: they would pass for content
        self.memory[ctypes.addressof(block)] = (block, kind)
        return SUCCESS, ctypes.addressof(block)

    def cudaMallocHost(self, size):
        return self.cudaMalloc(size, "pinned")

    def cudaFree(self, address, kind="device"):
        assert not self._records_here()
        for stream in self.streams:  # CUDA waits for all work before it frees
            self._drain(stream)
        assert self.memory.pop(address)[1] == kind
        return (SUCCESS,)

    def cudaFreeHost(self, address):
        return self.cudaFree(address, "pinned")

    def inside(self, address: int, count: int, kind: str) -> bool:
        return any(
            kind == own and start <= address and address + count <= start + len(block)
            for start, (block, own) in self.memory.items()
        )

    def cudaPointerGetAttributes(self, address):
        return SUCCESS, types.SimpleNamespace(type=DEVICE, device=self.frame_device)

    def queue(self, stream: int, step) -> None:
        if stream in self.recording:
            assert self.recording[stream][0] == threading.get_ident()
            self.recording[stream][1].append(step)
        else:
            self.streams[stream].append(step)

    def cudaMemcpyAsync(self, target, source, count, kind, stream):
        device, host = (target, source) if kind == 1 else (source, target)

        def copy():  # checked when it runs: a graph may outlive what it was recorded with
            assert self.inside(device, count, "device") and self.inside(host, count, "pinned")
            ctypes.memmove(target, source, count)

        assert self.inside(device, count, "device") and self.inside(host, count, "pinned")
        self.queue(stream, copy)
        return (SUCCESS,)

    def cudaMemcpy2DAsync(self, target, target_row, source, source_row, width, height, kind, stream):
        assert kind == 2 and self.inside(target, target_row * height, "pinned")

        def copy():
            for line in range(height):
                ctypes.memmove(target + line * target_row, source + line * source_row, width)

        self.queue(stream, copy)
        return (SUCCESS,)

    def cudaStreamCreate(self):
        stream = self._new()
        self.streams[stream] = []
        return SUCCESS, stream

    def cudaStreamCreateWithFlags(self, flags):
        return self.cudaStreamCreate()

    def cudaStreamDestroy(self, stream):
        assert not self.streams.pop(stream)
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream):
        if self._records_here():
            return (NOT_PERMITTED,)
        self._drain(stream)
        return (SUCCESS,)

    def _drain(self, stream, *, until=None) -> None:
        queued = self.streams[stream]
        while queued:
            step = queued.pop(0)
            if step is until:
                return
            step()

    def cudaEventCreateWithFlags(self, flags):
        event = self._new()
        self.events[event] = None
        return SUCCESS, event

    def cudaEventDestroy(self, event):
        del self.events[event]
        return (SUCCESS,)

    def cudaEventRecord(self, event, stream):
        def mark():
            pass

        self.events[event] = (stream, mark)
        self.queue(stream, mark)
        return (SUCCESS,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        producer, mark = self.events[event]
        self.queue(stream, lambda: self._drain(producer, until=mark))
        return (SUCCESS,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert stream != 1 and not self.streams[stream]
        if "cudaStreamBeginCapture" not in self.fails:
            self.recording[stream] = (threading.get_ident(), [])
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream):
        _, steps = self.recording.pop(stream)
        graph = self._new()
        if "cudaStreamEndCapture" not in self.fails:
            self.graphs[graph] = steps
        return SUCCESS, graph

    def cudaGraphInstantiate(self, graph, flags):
        executable = self._new()
        if "cudaGraphInstantiate" not in self.fails:
            self.graphs[executable] = list(self.graphs[graph])
        return SUCCESS, executable

    def cudaGraphLaunch(self, graph, stream):
        for step in self.graphs[graph]:
            self.queue(stream, step)
        return (SUCCESS,)

    def cudaGraphDestroy(self, graph):
        del self.graphs[graph]
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, graph):
        return self.cudaGraphDestroy(graph)

    def leftovers(self) -> dict:
        """What was made and not freed; empty once every engine is closed."""
        kept = {"memory": self.memory, "streams": self.streams.keys() - {1}, "events": self.events}
        return {name: held for name, held in (kept | {"graphs": self.graphs}).items() if held}

    # The crop's kernel: the real source, compiled for the processor

    def launch_crop(self, kernel, job, count, size, crops, stream) -> None:
        def cut():
            assert self.inside(job, job_bytes(count), "device")
            assert self.inside(crops, count * size * size * 3, "device")
            crop_on_processor(job, job + job_bytes(0), count, size, crops)

        with self.lock:
            self.queue(stream, cut)

    # TensorRT

    def library(self) -> types.ModuleType:
        module = types.ModuleType("tensorrt_rtx")
        gpu = self

        class Logger:
            ERROR, INTERNAL_ERROR = "error", "internal error"

        class Cache:
            data = b"fresh"

            def deserialize(self, data) -> bool:
                self.data = data + b"+"
                return True

            def serialize(self):
                return self.data

        class Config:
            dynamic_shapes_kernel_specialization_strategy = strategy = None

            def create_runtime_cache(self):
                return Cache()

            def set_runtime_cache(self, cache) -> bool:
                return True

            def set_execution_context_allocation_strategy(self, strategy) -> None:
                self.strategy = strategy

        class Engine:
            device_memory_size_v2, num_io_tensors = 512, 2

            def get_tensor_name(self, index):
                return list(gpu.tensors)[index]

            def get_tensor_dtype(self, name):
                return gpu.tensors[name][0]

            def get_tensor_shape(self, name):
                return gpu.tensors[name][1]

            def get_tensor_profile_shape(self, name, profile):
                return [(batch, *gpu.tensors[name][1][1:]) for batch in (1, 1, gpu.batch)]

            def create_runtime_config(self):
                return Config()

            def create_execution_context(self, config):
                given = (config.strategy, config.dynamic_shapes_kernel_specialization_strategy)
                assert given == ("user managed", "eager")
                return PretendedContext(gpu) if gpu.serves else None

        class Runtime:
            def __init__(self, logger) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, plan):
                if gpu.works:
                    return Engine()
                self.logger.log("error", "wrong\nversion")
                return None

        module.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user managed")
        module.DynamicShapesKernelSpecializationStrategy = types.SimpleNamespace(EAGER="eager")
        module.DataType = types.SimpleNamespace(UINT8="uint8", FLOAT="float32")
        module.ComputeCapability = types.SimpleNamespace(__members__={"NONE": 0, "SM75": 1, "SM89": 2, "SM120": 3})
        module.__version__, module.ILogger, module.Runtime = "1.8", Logger, Runtime
        return module


def functions() -> list[str]:
    """CUDA's functions that are pretended: all that the runtime uses."""
    return [name for name in dir(PretendedGpu) if name.startswith("cuda") and name != "cuda"]


class PretendedContext:
    """Gives every crop's sum as its first parameter, and the sum of what its pixels weigh by place as its second."""

    def __init__(self, gpu: PretendedGpu) -> None:
        self.gpu, self.address, self.ran = gpu, {}, False

    def set_device_memory(self, memory, size) -> None:
        assert size == 512 and self.gpu.inside(memory, size, "device")
        self.memory = memory

    def set_tensor_address(self, name, address) -> bool:
        self.address[name] = address
        return name in self.gpu.tensors

    def set_input_shape(self, name, shape) -> bool:
        self.shape, self.ran = shape, False
        return 1 <= shape[0] <= self.gpu.batch

    def is_stream_capturable(self, stream) -> bool:
        assert stream in self.gpu.streams
        return self.gpu.capturable

    def execute_async_v3(self, stream) -> bool:
        gpu, count = self.gpu, int(np.prod(self.shape))
        with gpu.lock:
            if stream in gpu.recording:
                assert self.ran, "recorded before it ran with this shape"
            else:
                gpu.plain.append(self.shape[0])
            self.ran = True
            gpu.queue(stream, lambda: self._execute(count))
        return gpu.works

    def _execute(self, count: int) -> None:
        memory = self.gpu
        assert memory.inside(self.address["crops"], count, "device") and memory.inside(self.memory, 512, "device")
        assert memory.inside(self.address["params"], self.shape[0] * 62 * 4, "device")
        crops = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self.address["crops"]))
        params = pretended_network(crops.reshape(self.shape))
        ctypes.memmove(self.address["params"], params.ctypes.data, params.nbytes)


class CudaArrayFrame:
    """A frame with `__cuda_array_interface__`, its rows with a pitch."""

    def __init__(self, frame: np.ndarray, stream: int | None = None) -> None:
        self.rows = np.zeros((len(frame), frame.shape[1] + 3, 3), np.uint8)
        self.rows[:, : frame.shape[1]] = frame
        interface = {"shape": frame.shape, "typestr": "|u1", "data": (self.rows.ctypes.data, True), "version": 3}
        self.__cuda_array_interface__ = {**interface, "strides": (self.rows.strides[0], 3, 1), "stream": stream}


class DlpackFrame:
    """A frame that DLPack alone hands out: the struct of DLPack 0.8, as most producers give it."""

    class _Tensor(ctypes.Structure):
        _fields_ = (
            ("data", ctypes.c_void_p),
            ("device", ctypes.c_int * 2),
            ("dimensions", ctypes.c_int),
            ("type", ctypes.c_uint8 * 4),
            ("shape", ctypes.POINTER(ctypes.c_int64)),
            ("strides", ctypes.POINTER(ctypes.c_int64)),
            ("byte_offset", ctypes.c_uint64),
            ("context", ctypes.c_void_p),
            ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        )

    def __init__(self, frame: np.ndarray, *, device: int = 2, produce=lambda stream: None) -> None:
        self.frame, self.device, self.produce = frame, device, produce
        self.streams: list[int] = []  # that it was asked for
        self.held = 0  # how many consumers have it now

    def __dlpack_device__(self):
        return self.device, 0

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        self.produce(stream)
        self.held += 1
        self.sizes = [(ctypes.c_int64 * self.frame.ndim)(*values) for values in (self.frame.shape, self.frame.strides)]
        self.tensor = self._Tensor(self.frame.ctypes.data, (self.device, 0), self.frame.ndim, (1, 8, 1, 0))
        self.tensor.shape, self.tensor.strides = self.sizes
        self.tensor.deleter = type(self.tensor.deleter)(self._let_go)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        self.name = b"dltensor"
        return new(ctypes.addressof(self.tensor), self.name, None)

    def _let_go(self, _) -> None:
        self.held -= 1


def pretended_network(crops: np.ndarray) -> np.ndarray:
    """What the pretended plan computes."""
    flat = crops.reshape(len(crops), int(np.prod(crops.shape[1:]))).astype(np.float64)
    params = np.zeros((len(crops), 62), dtype=np.float32)
    params[:, 0], params[:, 1] = flat.sum(axis=1), flat @ np.sin(np.arange(flat.shape[1]))
    return params


def compiler() -> str | None:
    return shutil.which("g++") or shutil.which("clang++")


def crop_on_processor(frame: int, regions: int, count: int, size: int, crops: int) -> None:
    """The kernel's source, run for every pixel one after another; takes addresses, as the kernel does."""
    pointer = ctypes.c_void_p
    _compiled().run(pointer(frame), pointer(regions), count, size, pointer(crops))


@functools.cache
def _compiled() -> ctypes.CDLL:
    source = (resources.files("runtime") / "assets" / "crop.cu").read_text(encoding="utf-8")
    shim = "#include <cmath>\nusing std::floor; using std::fmax; using std::fmin;\n"
    shim += "#define __device__\n#define __global__\n"
    shim += "struct Index { int x, y, z; };\nstatic thread_local Index blockIdx, threadIdx, blockDim = {1, 1, 1};\n"
    loop = """
extern "C" void run(const Frame* frame, const double* regions, int count, int size, unsigned char* crops) {
  for (blockIdx.z = 0; blockIdx.z < count; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < size; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < size; ++blockIdx.x) crop(frame, regions, size, crops);
}
"""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "crop.cpp").write_text(shim + source + loop)
        options = ["-O2", "-shared", "-fPIC", "-ffp-contract=off", "-o", "crop.so", "crop.cpp"]
        subprocess.run([compiler(), *options], cwd=folder, check=True)
        return ctypes.CDLL(f"{folder}/crop.so")
