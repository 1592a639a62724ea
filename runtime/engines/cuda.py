"""CUDA's runtime through `cuda-bindings`: error codes as errors, streams by handle, memory freed with its owner.

Addresses and stream handles are plain integers. Copies that the host doesn't wait for read and write pinned memory
alone: only there is such a copy truly asynchronous, and only there may a CUDA graph repeat it.

Why not `cuda-core`: it has streams, events, graphs and buffers, but no copies in two dimensions or of a part of a
buffer, and doesn't say which GPU another library's address belongs to; so these bindings would stay, and it would
become a second dependency of every plan, where now only kernels need it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import EngineUnavailableError, InvalidInputError

LEGACY_STREAM = 1  # CUDA's handle of the legacy default stream, where a plain 0 would be ambiguous


def has_driver() -> bool:
    """Whether CUDA's driver library is where the loader finds it, `LD_LIBRARY_PATH` included. Nothing is started."""
    names = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
    for name in names:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


class Cuda:
    """CUDA's runtime with its error codes as errors.

    Raises:
        EngineUnavailableError: no `cuda-bindings`, no driver or no GPU; from all methods, what CUDA says.
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

    @contextlib.contextmanager
    def on_device(self, device: int) -> Iterator[None]:
        """Makes a GPU the thread's current one for a while: a new thread starts on GPU 0, whatever the others use."""
        before = self.call("cudaGetDevice")
        if before == device:
            yield
            return
        self.call("cudaSetDevice", device)
        try:
            yield
        finally:
            self.call("cudaSetDevice", before)

    def device_memory(self, size: int, owner: contextlib.ExitStack) -> int:
        """Address of `size` bytes on the GPU, freed with `owner`."""
        address = int(self.call("cudaMalloc", max(size, 1)))
        owner.callback(self.call, "cudaFree", address)
        return address

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


class Staging:
    """As many bytes of pinned host memory as of GPU memory, copied to and fro on a stream; `close` frees both."""

    def __init__(self, cuda: Cuda, size: int = 0) -> None:
        """Allocates `size` bytes on each side."""
        self._cuda = cuda
        self._owner = contextlib.ExitStack()
        self.host: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self.device = 0
        if size:
            self.reserve(size)

    def reserve(self, size: int) -> None:
        """Makes room for `size` bytes; what was there is lost where it must grow, and no copy may be under way."""
        if size <= self.host.size:
            return
        self.close()
        with contextlib.ExitStack() as owner:
            self.device = self._cuda.device_memory(size, owner)
            address = int(self._cuda.call("cudaMallocHost", size))
            owner.callback(self._cuda.call, "cudaFreeHost", address)
            self.host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
            self._owner = owner.pop_all()

    def upload(self, size: int, stream: int) -> None:
        """Starts copying the first `size` bytes to the GPU."""
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda.call("cudaMemcpyAsync", self.device, self.host.ctypes.data, size, kind, stream)

    def download(self, size: int, stream: int) -> None:
        """Starts copying the first `size` bytes from the GPU."""
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda.call("cudaMemcpyAsync", self.host.ctypes.data, self.device, size, kind, stream)

    def close(self) -> None:
        """Frees the memory; nothing may use it any more."""
        self.host, self.device = np.empty(0, dtype=np.uint8), 0
        self._owner.close()


def stream_handle(stream: Any) -> int:
    """The handle of a stream that is given as one, or as an object with `__cuda_stream__` (`cuda.core`, CuPy, torch).

    Raises:
        InvalidInputError: it is neither.
    """
    if hasattr(stream, "__cuda_stream__"):
        _, stream = stream.__cuda_stream__()
    if isinstance(stream, bool) or not isinstance(stream, int) or stream < 0:
        raise InvalidInputError(
            f"stream: expected a CUDA stream's handle or an object with __cuda_stream__, got {stream!r}; "
            "pass for example torch.cuda.current_stream().cuda_stream"
        )
    return stream or LEGACY_STREAM
