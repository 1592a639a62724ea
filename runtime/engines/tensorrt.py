"""TensorRT and TensorRT-RTX as one engine: one Python API, and the manifest says which of the two built a plan.

A plan `X.engine` is raw, so that other tools can load it too; what it is stands beside it in `X.engine.json`, which is
read and checked first. GPU memory, streams and copies go through `cuda-bindings`; the GPU is CUDA's current one (choose
with CUDA_VISIBLE_DEVICES). TensorRT-RTX compiles a plan for the GPU at hand when it is loaded; what it compiled is kept
in `X.engine.cache` where that can be written, so that the next start is quick.

An engine belongs to one thread at a time: its buffers are its own, and are used again by the next call.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines import gpu_crop
from runtime.engines.base import Closing, check_crops
from runtime.errors import EngineUnavailableError, FileFormatError, InvalidInputError
from runtime.files import sha256, write_atomically
from runtime.manifest import Manifest
from runtime.roi import Roi

INPUT, OUTPUT = "crops", "params"
PACKAGES = {"tensorrt_rtx": "cln[gpu]", "tensorrt": "cln[tensorrt]"}
_NAMES = {"tensorrt_rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
_log = logging.getLogger(__name__)


class TensorRTEngine(Closing):
    """A plan on the GPU. Batches beyond the plan's largest are run in parts."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Loads `path`. Raises as `runtime.engines.load_engine` does."""
        file = Path(path)
        plan = file.read_bytes()
        self.manifest = read_plan_manifest(file, plan)
        self._cache_file = file.with_name(f"{file.name}.cache")
        self._cache: Any = None
        self._context: Any = None
        with contextlib.ExitStack() as resources:
            try:
                self._load(plan, resources)
            except EngineUnavailableError as error:
                raise EngineUnavailableError(f"{file}: {error}; {_way_out(file)}") from None
            self._resources = resources.pop_all()

    def _load(self, plan: bytes, resources: contextlib.ExitStack) -> None:
        manifest = self.manifest
        library = import_library(manifest.builder)
        self._cuda = Cuda()
        check_compute_capability(self._cuda.compute_capability(), manifest.compute_capabilities)
        self._runtime = library.Runtime(logger(manifest.builder))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineUnavailableError(
                f"expected a plan for this machine, but it was built by {_NAMES[manifest.builder]} "
                f"{manifest.builder_version}, and {library.__version__} cannot load it "
                f"({logger(manifest.builder).reason()})"
            )
        self._context = self._create_context()
        if self._context is None:
            raise EngineUnavailableError(f"no execution context could be made ({logger(manifest.builder).reason()})")
        size, count, batch = manifest.input_size, manifest.num_params, manifest.batch_range[1]
        self._stream = self._cuda.call("cudaStreamCreate")
        resources.callback(self._cuda.call, "cudaStreamDestroy", self._stream)
        self._buffers = {}
        for name, size_bytes in ((INPUT, batch * size * size * 3), (OUTPUT, batch * count * 4)):
            self._buffers[name] = int(self._cuda.call("cudaMalloc", size_bytes))
            resources.callback(self._cuda.call, "cudaFree", self._buffers[name])
            self._require(self._context.set_tensor_address(name, self._buffers[name]), f"has no tensor '{name}'")

    def _create_context(self) -> Any:
        if self.manifest.builder != "tensorrt_rtx":
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._cache.deserialize(self._cache_file.read_bytes())  # False where another GPU or version wrote it
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Params (B, 12 + S + E) of crops uint8 (B, S, S, 3)."""
        if self._context is None:
            raise InvalidInputError("engine: expected an open one, got a closed one; load it again")
        check_crops(crops, self.manifest.input_size)
        params = np.empty((len(crops), self.manifest.num_params), dtype=np.float32)
        largest = self.manifest.batch_range[1]
        for start in range(0, len(crops), largest):
            part = slice(start, start + largest)
            self._run(np.ascontiguousarray(crops[part]), params[part])
        return params

    def timed(self, crops: NDArray[np.uint8]) -> dict[str, float]:
        """Milliseconds of one batch by stage: `host_to_device`, `network`, `device_to_host`; each is waited for.

        Raises:
            InvalidInputError: the engine is closed, or the batch is empty or beyond the plan's largest.
        """
        if self._context is None:
            raise InvalidInputError("engine: expected an open one, got a closed one; load it again")
        check_crops(crops, self.manifest.input_size)
        if not 1 <= len(crops) <= self.manifest.batch_range[1]:
            raise InvalidInputError(
                f"crops: expected a batch of 1 to {self.manifest.batch_range[1]} to time, got {len(crops)}"
            )
        marks = [time.perf_counter()]

        def waited() -> None:
            self._cuda.call("cudaStreamSynchronize", self._stream)
            marks.append(time.perf_counter())

        params = np.empty((len(crops), self.manifest.num_params), dtype=np.float32)
        self._run(np.ascontiguousarray(crops), params, between=waited)
        marks.append(time.perf_counter())
        stages = ("host_to_device", "network", "device_to_host")
        return {name: 1000 * (end - start) for name, start, end in zip(stages, marks[:-1], marks[1:], strict=True)}

    def run_frame(self, image: Any, rois: Sequence[Roi]) -> NDArray[np.float32]:
        """Params (B, 12 + S + E) of regions of a frame on the GPU (`runtime.engines.gpu_crop`), cut and run there.

        A stream that the frame names as its maker's is waited for.

        Raises:
            InvalidInputError: the frame has another form or is on another GPU, or the engine is closed.
            EngineUnavailableError: the kernel cannot be compiled, or the GPU fails.
        """
        if self._context is None:
            raise InvalidInputError("engine: expected an open one, got a closed one; load it again")
        frame = gpu_crop.device_frame(image)
        gpu_crop.check_device(frame, self._cuda)
        if frame.stream is not None:
            self._cuda.call("cudaStreamSynchronize", frame.stream)
        params = np.empty((len(rois), self.manifest.num_params), dtype=np.float32)
        regions = np.array([(roi.center_x, roi.center_y, roi.side) for roi in rois], dtype=np.float64).reshape(-1, 3)
        size, largest, stream = self.manifest.input_size, self.manifest.batch_range[1], self._stream
        for start in range(0, len(rois), largest):
            part = regions[start : start + largest]
            self._set_batch((len(part), size, size, 3))
            target = self._region_buffer()
            to_device = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._cuda.call("cudaMemcpyAsync", target, part.ctypes.data, part.nbytes, to_device, stream)
            gpu_crop.launch_crop(self._cuda, frame, target, len(part), size, self._buffers[INPUT], int(stream))
            self._execute(params[start : start + largest])
        return params

    def to_host(self, image: Any) -> NDArray[np.uint8]:
        """A copy in host memory of a frame on the GPU, for a detector that runs on the CPU. Raises as `run_frame`."""
        frame = gpu_crop.device_frame(image)
        gpu_crop.check_device(frame, self._cuda)
        if frame.stream is not None:
            self._cuda.call("cudaStreamSynchronize", frame.stream)
        host = np.empty((frame.height, frame.width, 3), dtype=np.uint8)
        row, kind = 3 * frame.width, self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda.call("cudaMemcpy2D", host.ctypes.data, row, frame.address, frame.row_bytes, row, frame.height, kind)
        return host

    def _region_buffer(self) -> int:
        """Memory for the regions of the largest batch, made when first asked for."""
        if "regions" not in self._buffers:
            self._buffers["regions"] = int(self._cuda.call("cudaMalloc", self.manifest.batch_range[1] * 24))
            self._resources.callback(self._cuda.call, "cudaFree", self._buffers["regions"])
        return self._buffers["regions"]

    def _run(
        self, crops: NDArray[np.uint8], params: NDArray[np.float32], between: Callable[[], None] = lambda: None
    ) -> None:
        """One batch; both arrays are contiguous, and stay alive until the stream has been waited for."""
        self._set_batch(crops.shape)
        to_device = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda.call(
            "cudaMemcpyAsync", self._buffers[INPUT], crops.ctypes.data, crops.nbytes, to_device, self._stream
        )
        between()
        self._execute(params, between)

    def _set_batch(self, shape: tuple[int, ...]) -> None:
        self._require(self._context.set_input_shape(INPUT, shape), f"takes no crops of shape {shape}")

    def _execute(self, params: NDArray[np.float32], between: Callable[[], None] = lambda: None) -> None:
        """Runs the plan on what is in its input, fetches `params` and waits for them."""
        stream, to_host = self._stream, self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        started = self._context.execute_async_v3(int(stream))
        between()
        if started:
            source = self._buffers[OUTPUT]
            self._cuda.call("cudaMemcpyAsync", params.ctypes.data, source, params.nbytes, to_host, stream)
        self._cuda.call("cudaStreamSynchronize", stream)
        self._require(started, "could not be run")

    def _require(self, done: bool, complaint: str) -> None:
        if not done:
            raise EngineUnavailableError(
                f"the plan {complaint} ({logger(self.manifest.builder).reason()}); build it again"
            )

    def close(self) -> None:
        """Keeps what TensorRT-RTX compiled, and frees context, engine, buffers and stream."""
        if self._context is None:
            return
        self._keep_cache()
        self._context = self._engine = self._runtime = self._cache = None  # in this order: each needs the next
        self._resources.close()

    def _keep_cache(self) -> None:
        if self._cache is None:
            return
        try:
            data = bytes(memoryview(self._cache.serialize()))
            if not self._cache_file.is_file() or self._cache_file.read_bytes() != data:
                write_atomically(self._cache_file, data)
        except (OSError, TypeError) as error:  # TypeError: nothing to serialize
            _log.debug("%s: not kept: %s", self._cache_file, error)


class Cuda:
    """CUDA's runtime with its error codes as errors.

    Raises:
        EngineUnavailableError: no `cuda-bindings`, no driver or no GPU; from `call`, what CUDA says.
    """

    def __init__(self) -> None:
        """Finds CUDA and a GPU."""
        try:
            self.runtime: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            raise EngineUnavailableError(
                "running a plan needs cuda-bindings, which are not installed; run: pip install 'cln[gpu]'"
            ) from None
        error, count = self.runtime.cudaGetDeviceCount()
        if error != self.runtime.cudaError_t.cudaSuccess or not count:
            raise EngineUnavailableError(
                f"running a plan needs an NVIDIA GPU and its driver, and CUDA finds none here ({self._text(error)})"
            )

    def call(self, name: str, *args: Any) -> Any:
        """Calls a function of CUDA's runtime by name; its result without the error code, None where that is all."""
        error, *values = getattr(self.runtime, name)(*args)
        if error != self.runtime.cudaError_t.cudaSuccess:
            raise EngineUnavailableError(f"CUDA's {name} failed ({self._text(error)})")
        return values[0] if values else None

    def compute_capability(self) -> tuple[int, int]:
        """Of CUDA's current GPU, such as (8, 9)."""
        device = self.call("cudaGetDevice")
        attributes = self.runtime.cudaDeviceAttr
        major, minor = (
            int(self.call("cudaDeviceGetAttribute", attribute, device))
            for attribute in (
                attributes.cudaDevAttrComputeCapabilityMajor,
                attributes.cudaDevAttrComputeCapabilityMinor,
            )
        )
        return major, minor

    def name(self) -> str:
        """Of CUDA's current GPU, with its compute capability."""
        properties = self.call("cudaGetDeviceProperties", self.call("cudaGetDevice"))
        major, minor = self.compute_capability()
        text = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        return f"{text.rstrip(chr(0))} (compute capability {major}.{minor})"

    def driver_version(self) -> str:
        """Newest CUDA that the driver serves, such as "13.0"."""
        number = int(self.call("cudaDriverGetVersion"))
        return f"{number // 1000}.{number % 1000 // 10}"

    def _text(self, error: Any) -> str:
        _, text = self.runtime.cudaGetErrorString(error)
        return text.decode() if isinstance(text, bytes) else str(text)


def read_plan_manifest(file: Path, plan: bytes) -> Manifest:
    """The manifest beside a plan, checked against the plan's bytes.

    Raises:
        FileFormatError: it is missing or broken, or the plan isn't the one it was written for.
    """
    beside = file.with_name(f"{file.name}.json")
    if not beside.is_file():
        raise FileFormatError(
            f"{file}: expected its manifest {beside.name} beside it, found none; keep the two files together, or build "
            "the engine again with python -m export.build_engine"
        )
    manifest = Manifest.from_json(beside.read_bytes(), name=str(beside))
    if manifest.builder not in PACKAGES:
        raise FileFormatError(
            f"{beside}: expected a plan of {' or '.join(PACKAGES)}, got one of '{manifest.builder}'; build it again"
        )
    if not 1 <= manifest.batch_range[0] <= manifest.batch_range[1]:
        raise FileFormatError(f"{beside}: expected a batch range from 1 on, got {manifest.batch_range}; build it again")
    found = sha256(plan)
    if found != manifest.plan_sha256:
        raise FileFormatError(
            f"{file}: expected {beside.name}'s plan (sha256 {str(manifest.plan_sha256)[:12]}), got {len(plan)} bytes "
            f"of sha256 {found[:12]}; one of them is truncated, edited or from another build: fetch or build both again"
        )
    return manifest


def import_library(builder: str) -> Any:
    """The module `tensorrt_rtx` or `tensorrt`.

    Raises:
        EngineUnavailableError: it is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(builder)
    except (ImportError, OSError) as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        raise EngineUnavailableError(f"{_NAMES[builder]} {reason}; run: pip install '{PACKAGES[builder]}'") from None


def check_compute_capability(gpu: tuple[int, int], plan: tuple[str, ...]) -> None:
    """Makes sure that a plan for compute capabilities such as "8.9" or "8.0+" (and later) serves a GPU.

    Raises:
        EngineUnavailableError: it doesn't.
    """
    for text in plan:
        major, minor = (int(part) for part in text.removesuffix("+").split("."))
        if gpu == (major, minor) or (text.endswith("+") and gpu > (major, minor)):
            return
    have = f"{gpu[0]}.{gpu[1]}"
    raise EngineUnavailableError(
        f"expected a GPU of compute capability {' or '.join(plan)}, got {have}; build the engine for it with "
        f"--compute-capability {have}"
    )


@functools.cache
def logger(builder: str) -> Any:
    """The one logger of a library (it takes no second one): all goes to `logging`, `reason()` gives the last error."""
    library = import_library(builder)

    class Logger(library.ILogger):  # type: ignore[misc, name-defined]  # the class exists only once the library is imported
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._last_error: str | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self._last_error = " ".join(message.split())
            _log.debug("%s: %s", builder, message)

        def reason(self) -> str:
            text, self._last_error = self._last_error, None
            return text or "it gave no reason"

    return Logger()


def _way_out(file: Path) -> str:
    onnx = file.with_suffix(".onnx")
    if onnx.is_file():
        return f"or load {onnx}, which needs no GPU"
    return "or load an .onnx file, which needs no GPU: python -m export.build_engine CHECKPOINT --onnx-only makes one"
