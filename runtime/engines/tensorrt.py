"""TensorRT and TensorRT-RTX as one engine: one Python API, and the manifest says which of the two built a plan.

The GPU is CUDA's current one when the engine is made (choose with CUDA_VISIBLE_DEVICES). All work is queued on one
stream, the caller's if one is given, and each call waits for it. Calls from several threads take turns, for the
buffers are one engine's; threads that should not wait for each other take an engine each.

**CUDA graphs.** A batch size's first call runs step by step, which lets the library settle what a new shape puts off,
and is then recorded; later calls are one graph launch: the job's copy, crop kernel, network and result's copy. Where a
frame lies and which regions to cut stand in memory that the graph reads, so a graph never has to be changed. NVIDIA
advises one execution context for each captured graph, and shared activation memory; so it is here. TensorRT-RTX could
also capture by itself (`cuda_graph_strategy`), but only the network, not what is before and after it, and TensorRT
can't. Its shape-specialized kernels are therefore compiled at once (EAGER): a recording made while they are compiled in
the background (LAZY) would keep their slower stand-ins for good. A new batch size thus costs a compilation; `warmup`
has it done ahead, and what was compiled is kept in `X.engine.cache` where that can be written. Plans are not built with
REQUIRE_USER_ALLOCATION, which other tools' contexts would have to know of; whether one can be captured is asked.

**Frames in host memory.** What the regions need of a frame is copied through pinned memory and cut on the GPU. Of a
1080p frame (6.2 MB, half a millisecond over PCIe 3) a face 300 pixels wide needs 0.3 MB, gathered in 0.06 ms. Cut on a
core instead, it is 0.15 MB at 224 pixels, but takes OpenCV 0.3 ms: a third of the millisecond that a face may take.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtime.engines.gpu_crop as gpu_crop
from runtime.engines.base import Closing, check_crops
from runtime.engines.cuda import Cuda, Staging, stream_handle
from runtime.engines.cuda_graphs import GraphRecorder
from runtime.engines.plans import (
    NAMES,
    PlanRefusedError,
    check_compute_capability,
    check_plan_tensors,
    import_library,
    known_capabilities,
    logger,
    read_plan_manifest,
)
from runtime.errors import EngineUnavailableError, InvalidInputError
from runtime.files import write_atomically
from runtime.image import as_bgr
from runtime.manifest import INPUT, OUTPUT
from runtime.roi import Roi

MOST_BATCH_SIZES = 16  # that contexts and graphs are kept for; the one unused for longest makes room
_CROPS, _FRAME = "crops", "frame"  # what a batch starts from: cut already, or a frame's regions
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Batch:
    """What is kept for one batch size."""

    context: Any
    graphs: dict[str, Any] = field(default_factory=dict)  # by what the batch starts from; None: not to be had


class TensorRTEngine(Closing):
    """A plan on the GPU. Batches beyond the plan's largest are run in parts."""

    def __init__(self, path: str | os.PathLike[str], *, stream: Any = None) -> None:
        """Loads `path`.

        Args:
            path: a plan with its manifest beside it.
            stream: the CUDA stream to work on, as a handle or an object with `__cuda_stream__`; it must outlive the
                engine. Default: an own one.

        Raises:
            FileFormatError, EngineUnavailableError: as `runtime.engines.load_engine` does.
            PlanRefusedError: the library is here and so is a GPU, but they do not take this plan.
            InvalidInputError: `stream` is no stream.
        """
        file = Path(path)
        plan = file.read_bytes()
        self.manifest = read_plan_manifest(file, plan)
        self._cache_file = file.with_name(f"{file.name}.cache")
        self._cache: Any = None
        self._lock = threading.Lock()
        given = None if stream is None else stream_handle(stream)
        with contextlib.ExitStack() as resources:
            try:
                self._load(file, plan, resources)
                self._allocate(given, resources)
                self._try_where_unknown()
            except EngineUnavailableError as error:
                raise type(error)(f"{file}: {error}; {_way_out(file)}") from None
            self._resources = resources.pop_all()
        self._open = True

    def _load(self, file: Path, plan: bytes, resources: contextlib.ExitStack) -> None:
        manifest = self.manifest
        self._library = import_library(manifest.builder)
        self._cuda = Cuda()
        self._device = int(self._cuda.call("cudaGetDevice"))
        self._capability = self._cuda.compute_capability()
        check_compute_capability(self._capability, manifest.compute_capabilities)
        self._runtime = self._library.Runtime(logger(manifest.builder))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanRefusedError(
                f"expected a plan for this machine, but it was built by {NAMES[manifest.builder]} "
                f"{manifest.builder_version}, and {self._library.__version__} cannot load it "
                f"({logger(manifest.builder).reason()})"
            )
        check_plan_tensors(self._engine, self._library, manifest, file)
        self._make_context = self._context_maker()
        resources.callback(self._let_go)

    def _context_maker(self) -> Any:
        """A function that makes an execution context without memory of its own for activations."""
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.manifest.builder != "tensorrt_rtx":
            return functools.partial(self._engine.create_execution_context, strategy)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.dynamic_shapes_kernel_specialization_strategy = (
            self._library.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._cache.deserialize(self._cache_file.read_bytes())  # False where another GPU or version wrote it
        config.set_runtime_cache(self._cache)
        return functools.partial(self._engine.create_execution_context, config)

    def _allocate(self, stream: int | None, resources: contextlib.ExitStack) -> None:
        cuda, manifest = self._cuda, self.manifest
        size, largest = manifest.input_size, manifest.batch_range[1]
        if stream is None:
            # Not a non-blocking one: what others queue on the legacy default stream then comes before our work.
            stream = int(cuda.call("cudaStreamCreate"))
            resources.callback(cuda.call, "cudaStreamDestroy", stream)
        self._stream = stream
        self._event = cuda.call("cudaEventCreateWithFlags", cuda.runtime.cudaEventDisableTiming)
        resources.callback(cuda.call, "cudaEventDestroy", self._event)
        self._scratch_bytes = int(self._engine.device_memory_size_v2)
        self._scratch = cuda.device_memory(self._scratch_bytes, resources)
        self._recorder = GraphRecorder(cuda, resources)
        self._crops, self._params, self._job, self._frame = (
            self._staging(count, resources)
            for count in (largest * size * size * 3, largest * manifest.num_params * 4, gpu_crop.job_bytes(largest), 0)
        )
        self._batches: OrderedDict[int, _Batch] = OrderedDict()
        resources.callback(self._drop_batches)
        self._batch(manifest.batch_range[0])  # a plan that this GPU cannot run should fail here

    def _staging(self, size: int, resources: contextlib.ExitStack) -> Staging:
        staging = Staging(self._cuda, size)
        resources.callback(staging.close)
        return staging

    def _try_where_unknown(self) -> None:
        """Runs once on a GPU that TensorRT-RTX doesn't list: if it fails, let it be while others can take over."""
        known = known_capabilities(self._library)
        if known and "{}.{}".format(*self._capability) not in known:
            try:
                self._run(self.manifest.batch_range[0], _CROPS)
            except EngineUnavailableError as error:
                raise PlanRefusedError(str(error)) from None

    def _batch(self, count: int) -> _Batch:
        """What is kept for a batch size, made when first asked for."""
        if count not in self._batches:
            if len(self._batches) >= MOST_BATCH_SIZES:
                self._drop_batch(next(iter(self._batches)))
            self._batches[count] = _Batch(self._new_context(count))
        self._batches.move_to_end(count)
        return self._batches[count]

    def _new_context(self, count: int) -> Any:
        context = self._make_context()
        if context is None:
            reason = logger(self.manifest.builder).reason()
            raise PlanRefusedError(f"no execution context could be made ({reason})")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        for name, address in ((INPUT, self._crops.device), (OUTPUT, self._params.device)):
            self._require(context.set_tensor_address(name, address), f"has no tensor '{name}'")
        shape = (count, self.manifest.input_size, self.manifest.input_size, 3)
        self._require(context.set_input_shape(INPUT, shape), f"takes no crops of shape {shape}")
        return context

    def _drop_batches(self) -> None:
        for count in list(self._batches):
            self._drop_batch(count)

    def _drop_batch(self, count: int) -> None:
        for graph in self._batches.pop(count).graphs.values():
            if graph is not None:
                self._recorder.destroy(graph)

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Params (B, 12 + S + E) of crops uint8 (B, S, S, 3)."""
        with self._taken():
            check_crops(crops, self.manifest.input_size)
            params = np.empty((len(crops), self.manifest.num_params), dtype=np.float32)
            for part in self._parts(len(crops)):
                self._write(crops[part])
                params[part] = self._run(len(crops[part]), _CROPS)
            return params

    def timed(self, crops: NDArray[np.uint8]) -> dict[str, float]:
        """Milliseconds of one batch by stage: `host_to_device`, `network`, `device_to_host`; each is waited for.

        The stages run by themselves, not as a graph.

        Raises:
            InvalidInputError: the engine is closed, or the batch is empty or beyond the plan's largest.
        """
        with self._taken():
            check_crops(crops, self.manifest.input_size)
            count, largest = len(crops), self.manifest.batch_range[1]
            if not 1 <= count <= largest:
                raise InvalidInputError(f"crops: expected a batch of 1 to {largest} to time, got {count}")
            context = self._batch(count).context
            marks = [time.perf_counter()]
            self._write(crops)
            stages: dict[str, Callable[[], None]] = {
                "host_to_device": lambda: self._crops.upload(crops.size, self._stream),
                "network": lambda: self._execute(context, self._stream),
                "device_to_host": lambda: self._params.download(self._params_bytes(count), self._stream),
            }
            for stage in stages.values():
                stage()
                self._wait()
                marks.append(time.perf_counter())
            return {name: 1000 * (end - start) for name, start, end in zip(stages, marks[:-1], marks[1:], strict=True)}

    def run_frame(self, image: Any, rois: Sequence[Roi]) -> NDArray[np.float32]:
        """Params (B, 12 + S + E) of regions of a frame, cut and run on the GPU.

        Args:
            image: uint8 (H, W, 3) BGR on the GPU (`runtime.engines.gpu_crop`) or, as `as_bgr` takes it, in host memory.
                The stream that a frame's content is made on is waited for.
            rois: the regions.

        Raises:
            InvalidInputError: the frame has another form or is on another GPU, or the engine is closed.
            EngineUnavailableError: the kernel cannot be compiled, or the GPU fails.
        """
        with self._taken():
            params = np.empty((len(rois), self.manifest.num_params), dtype=np.float32)
            on_gpu = gpu_crop.is_on_gpu(image)
            frame = self._awaited(image) if on_gpu else None
            host = None if on_gpu else as_bgr(image)
            for part in self._parts(len(rois)):
                if host is not None:
                    size = self.manifest.input_size
                    frame = gpu_crop.stage_frame(host, rois[part], size, self._frame, self._stream)
                assert frame is not None
                gpu_crop.write_job(self._job.host, frame, rois[part])
                params[part] = self._run(len(rois[part]), _FRAME)
            return params

    def to_host(self, image: Any) -> NDArray[np.uint8]:
        """A copy in host memory of a frame on the GPU, for a detector that runs on the CPU. Raises as `run_frame`."""
        with self._taken():
            frame = self._awaited(image)
            row = 3 * frame.width
            self._frame.reserve(row * frame.height)
            target, kind = self._frame.host.ctypes.data, self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
            source, pitch = frame.address, frame.row_bytes
            self._cuda.call("cudaMemcpy2DAsync", target, row, source, pitch, row, frame.height, kind, self._stream)
            self._wait()
            return self._frame.host[: row * frame.height].reshape(frame.height, frame.width, 3).copy()

    def warmup(self, batch: int = 1) -> None:
        """Compiles, runs and records what calls with `batch` faces need, for crops and for frames, of no content."""
        size = self.manifest.input_size
        self(np.zeros((batch, size, size, 3), dtype=np.uint8))
        if self.cuts_frames:
            whole = Roi(center_x=(size - 1) / 2, center_y=(size - 1) / 2, side=size)
            self.run_frame(np.zeros((size, size, 3), dtype=np.uint8), [whole] * batch)

    @functools.cached_property
    def cuts_frames(self) -> bool:
        """Whether `run_frame` works: whether the kernel can be compiled here."""
        try:
            self._kernel()
        except EngineUnavailableError as error:
            _log.debug("frames in host memory are cut on the CPU: %s", error)
            return False
        return True

    def _kernel(self) -> Any:
        return gpu_crop.kernel_for("sm_{}{}".format(*self._capability))

    @contextlib.contextmanager
    def _taken(self) -> Iterator[None]:
        """The open engine, for one thread, on its GPU."""
        with self._lock:
            if not self._open:
                raise InvalidInputError("engine: expected an open one, got a closed one; load it again")
            with self._cuda.on_device(self._device):
                yield

    def _parts(self, count: int) -> Iterator[slice]:
        largest = self.manifest.batch_range[1]
        return (slice(start, start + largest) for start in range(0, count, largest))

    def _awaited(self, image: Any) -> gpu_crop.DeviceFrame:
        """A frame on the GPU; our stream waits for the one that it is made on, and the host doesn't."""
        frame = gpu_crop.device_frame(image, self._stream)
        gpu_crop.check_device(frame, self._cuda)
        if frame.stream is not None:
            self._cuda.call("cudaEventRecord", self._event, frame.stream)
            self._cuda.call("cudaStreamWaitEvent", self._stream, self._event, 0)
        return frame

    def _run(self, count: int, start: str) -> NDArray[np.float32]:
        """Params (count, 12 + S + E) from what stands in the crops' or the job's host memory; valid until the next."""
        batch = self._batch(count)
        work = functools.partial(self._queue, batch.context, start, count)
        graph = batch.graphs.get(start)
        try:
            if graph is not None:
                self._recorder.launch(graph, self._stream)
            else:
                work(self._stream)
        finally:
            self._wait()  # after a failure too: what was queued still uses the buffers
        if start not in batch.graphs:
            batch.graphs[start] = self._recorder.record(work, can_capture=self._capturable(batch.context))
        return self._params.host[: self._params_bytes(count)].view(np.float32).reshape(count, -1)

    def _capturable(self, context: Any) -> Any:
        """TensorRT-RTX tells whether a stream can be captured; TensorRT has to be tried."""
        return getattr(context, "is_stream_capturable", lambda stream: True)

    def _queue(self, context: Any, start: str, count: int, stream: int) -> None:
        size = self.manifest.input_size
        if start == _FRAME:
            self._job.upload(gpu_crop.job_bytes(count), stream)
            gpu_crop.launch_crop(self._kernel(), self._job.device, count, size, self._crops.device, stream)
        else:
            self._crops.upload(count * size * size * 3, stream)
        self._execute(context, stream)
        self._params.download(self._params_bytes(count), stream)

    def _execute(self, context: Any, stream: int) -> None:
        self._require(context.execute_async_v3(stream), "could not be run")

    def _write(self, crops: NDArray[np.uint8]) -> None:
        self._crops.host[: crops.size].reshape(crops.shape)[...] = crops

    def _params_bytes(self, count: int) -> int:
        return count * self.manifest.num_params * 4

    def _wait(self) -> None:
        self._cuda.call("cudaStreamSynchronize", self._stream)

    def _require(self, done: bool, complaint: str) -> None:
        if not done:
            raise EngineUnavailableError(
                f"the plan {complaint} ({logger(self.manifest.builder).reason()}); build it again"
            )

    def close(self) -> None:
        """Keeps what TensorRT-RTX compiled, and frees contexts, graphs, engine, memory and the own stream."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            self._keep_cache()
            with self._cuda.on_device(self._device):
                self._resources.close()

    def _let_go(self) -> None:
        self._make_context = self._cache = self._engine = self._runtime = None  # in this order: each needs the next

    def _keep_cache(self) -> None:
        if self._cache is None:
            return
        try:
            data = bytes(memoryview(self._cache.serialize()))
            if not self._cache_file.is_file() or self._cache_file.read_bytes() != data:
                write_atomically(self._cache_file, data)
        except (OSError, TypeError) as error:  # TypeError: nothing to serialize
            _log.debug("%s: not kept: %s", self._cache_file, error)


def _way_out(file: Path) -> str:
    onnx = file.with_suffix(".onnx")
    if onnx.is_file():
        return f"or load {onnx}, which needs no GPU"
    return "or load an .onnx file, which needs no GPU: python -m export.build_engine CHECKPOINT --onnx-only makes one"
