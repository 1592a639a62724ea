"""Frames that are on the GPU already, and the kernel (`assets/crop.cu`) that cuts all regions of one into a batch.

Any object with `__cuda_array_interface__` (CuPy, PyCUDA, Numba, torch on CUDA) is such a frame: uint8 (H, W, 3), BGR,
its pixels packed; rows may have a pitch. The kernel is compiled by NVRTC, through `cuda-core`, for the GPU at hand.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import EngineUnavailableError, InvalidInputError
from runtime.image import MAX_SIDE

if TYPE_CHECKING:
    from runtime.engines.tensorrt import Cuda

KERNEL = "crop"
_TILE = 16  # threads of a block along x and y


@dataclass(frozen=True, kw_only=True)
class DeviceFrame:
    """Where a frame lies on the GPU."""

    address: int
    height: int
    width: int
    row_bytes: int
    stream: int | None  # that its content is made on: to be waited for; None where it is complete


def is_on_gpu(image: Any) -> bool:
    """Whether `image` offers itself as memory of a GPU."""
    return getattr(image, "__cuda_array_interface__", None) is not None


def device_frame(image: Any) -> DeviceFrame:
    """The frame that an object with `__cuda_array_interface__` is.

    Raises:
        InvalidInputError: no uint8 (H, W, 3), or pixels that are not packed.
    """
    interface = image.__cuda_array_interface__
    shape, kind = tuple(interface["shape"]), interface["typestr"]
    if len(shape) != 3 or shape[2] != 3 or kind not in ("|u1", "<u1") or not all(0 < n <= MAX_SIDE for n in shape[:2]):
        raise InvalidInputError(
            f"frame on the GPU: expected uint8 (H, W, 3), BGR, sides of 1..{MAX_SIDE}, got {kind} {shape}; convert it"
        )
    height, width, _ = shape
    row, pixel, channel = interface.get("strides") or (3 * width, 3, 1)
    if (pixel, channel) != (3, 1) or row < 3 * width:
        raise InvalidInputError(
            f"frame on the GPU: expected packed BGR pixels, got strides {(row, pixel, channel)}; make it contiguous"
        )
    return DeviceFrame(
        address=int(interface["data"][0]), height=height, width=width, row_bytes=row, stream=interface.get("stream")
    )


def check_device(frame: DeviceFrame, cuda: Cuda) -> None:
    """Makes sure that a frame is on CUDA's current GPU.

    Raises:
        InvalidInputError: it is on another one.
    """
    owner, current = int(cuda.call("cudaPointerGetAttributes", frame.address).device), int(cuda.call("cudaGetDevice"))
    if owner != current:
        raise InvalidInputError(
            f"frame on the GPU: expected it on GPU {current}, where the engine is, got it on GPU {owner}; copy it over"
        )


def compile_kernel(architecture: str) -> Any:
    """The kernel for a GPU architecture such as `sm_89`, as `cuda-core`'s `ObjectCode`; needs no GPU.

    Raises:
        EngineUnavailableError: `cuda-core` or NVRTC is missing.
    """
    source = (resources.files("runtime") / "assets" / "crop.cu").read_text(encoding="utf-8")
    try:
        core = importlib.import_module("cuda.core")
        return core.Program(source, "c++", core.ProgramOptions(arch=architecture)).compile("cubin")
    except (ImportError, RuntimeError) as error:  # a missing libnvrtc is a RuntimeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineUnavailableError(
            f"frames on the GPU need cuda-core and NVRTC to compile their kernel ({reason}); "
            "run: pip install 'cln[gpu]'"
        ) from None


@functools.cache
def _kernel(architecture: str) -> Any:
    return compile_kernel(architecture).get_kernel(KERNEL)


def launch_crop(cuda: Cuda, frame: DeviceFrame, regions: int, count: int, size: int, crops: int, stream: int) -> None:
    """Starts cutting `count` regions (float64 (count, 3) at address `regions`) into `crops`, on a CUDA stream."""
    core = importlib.import_module("cuda.core")
    core.Device().set_current()  # the context that CUDA's runtime uses
    major, minor = cuda.compute_capability()
    tiles = -(-size // _TILE)
    config = core.LaunchConfig(grid=(tiles, tiles, count), block=(_TILE, _TILE, 1))
    arguments = (
        frame.address,
        np.int32(frame.height),
        np.int32(frame.width),
        np.int64(frame.row_bytes),
        regions,
        np.int32(size),
        crops,
    )
    core.launch(core.Stream.from_handle(stream), config, _kernel(f"sm_{major}{minor}"), *arguments)
