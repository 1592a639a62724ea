"""Frames on the GPU, and the kernel (`assets/crop.cu`) that cuts all regions of one into a batch.

A frame on the GPU is any object with DLPack's methods (torch, CuPy, JAX) or `__cuda_array_interface__` (PyCUDA, Numba):
uint8 (H, W, 3), BGR, its pixels packed; rows may have a pitch. Where an object has both, DLPack is asked: with it, the
producer makes our stream wait for its own work, also where (torch) the other interface doesn't tell on which stream
that is. The kernel is compiled by NVRTC, through `cuda-core`, for the GPU at hand.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.cuda import LEGACY_STREAM, Cuda, Staging
from runtime.errors import EngineUnavailableError, InvalidInputError
from runtime.image import MAX_SIDE
from runtime.roi import Roi

KERNEL = "crop"
_TILE = 16  # threads of a block along x and y
_DLPACK_ON_GPU = (2, 13)  # kDLCUDA, kDLCUDAManaged
_HEADER = np.dtype(
    [("pixels", np.uint64), ("row_bytes", np.int64), ("height", np.int32), ("width", np.int32)]
)  # crop.cu's struct Frame
_REGION_BYTES = 40  # centre x, centre y, side, cosine and sine of the angle


@dataclass(frozen=True, kw_only=True)
class DeviceFrame:
    """Where a frame lies on the GPU."""

    address: int  # of its top-left pixel
    height: int
    width: int
    row_bytes: int
    stream: int | None = None  # that its content is made on: to be waited for; None where that is settled
    owner: Any = None  # what keeps the memory alive


def is_on_gpu(image: Any) -> bool:
    """Whether `image` offers itself as memory of a GPU; a NumPy array, which has DLPack's methods too, doesn't."""
    return _has_dlpack_on_gpu(image) or getattr(image, "__cuda_array_interface__", None) is not None


def _has_dlpack_on_gpu(image: Any) -> bool:
    return hasattr(image, "__dlpack__") and int(image.__dlpack_device__()[0]) in _DLPACK_ON_GPU


def device_frame(image: Any, stream: int = LEGACY_STREAM) -> DeviceFrame:
    """The frame that an object on the GPU is; `stream` is the one that it will be used on.

    Raises:
        InvalidInputError: no uint8 (H, W, 3), or pixels that are not packed, or its owner doesn't hand it out.
        EngineUnavailableError: DLPack is all it has, and `cuda-core` is missing.
    """
    if _has_dlpack_on_gpu(image):
        return _from_dlpack(image, stream)
    interface = image.__cuda_array_interface__
    shape = tuple(interface["shape"])
    _check_form(interface["typestr"] in ("|u1", "<u1"), interface["typestr"], shape)
    strides = interface.get("strides") or (3 * shape[1], 3, 1)
    _check_strides(strides, shape[1])
    return DeviceFrame(
        address=int(interface["data"][0]),
        height=shape[0],
        width=shape[1],
        row_bytes=strides[0],
        stream=interface.get("stream"),
        owner=image,
    )


def _from_dlpack(image: Any, stream: int) -> DeviceFrame:
    try:
        view = importlib.import_module("cuda.core.utils").StridedMemoryView.from_dlpack(image, stream)
    except ImportError:
        raise EngineUnavailableError("frames on the GPU need cuda-core; run: pip install 'cln[gpu]'") from None
    except (BufferError, RuntimeError, ValueError, TypeError) as error:  # the producer's own, as the protocol has it
        raise InvalidInputError(
            f"frame on the GPU: expected one that can be handed out by DLPack, got {type(image).__name__}, which "
            f"refuses ({error}); detach or copy it first"
        ) from None
    _check_form(view.dtype == np.uint8, view.dtype, view.shape)
    strides = view.strides or (3 * view.shape[1], 3, 1)  # in elements, which are bytes
    _check_strides(strides, view.shape[1])
    return DeviceFrame(
        address=int(view.ptr), height=view.shape[0], width=view.shape[1], row_bytes=strides[0], owner=view
    )


def _check_form(is_uint8: bool, kind: Any, shape: tuple[int, ...]) -> None:
    if not is_uint8 or len(shape) != 3 or shape[2] != 3 or not all(0 < n <= MAX_SIDE for n in shape[:2]):
        raise InvalidInputError(
            f"frame on the GPU: expected uint8 (H, W, 3), BGR, sides of 1..{MAX_SIDE}, got {kind} {shape}; convert it"
        )


def _check_strides(strides: tuple[int, ...], width: int) -> None:
    if tuple(strides[1:]) != (3, 1) or strides[0] < 3 * width:
        raise InvalidInputError(
            f"frame on the GPU: expected packed BGR pixels, got strides {tuple(strides)}; make it contiguous"
        )


def check_device(frame: DeviceFrame, cuda: Cuda) -> None:
    """Makes sure that CUDA's current GPU can read a frame.

    Raises:
        InvalidInputError: it is on another one, or no memory of CUDA's.
    """
    memory, current = cuda.call("cudaPointerGetAttributes", frame.address), int(cuda.call("cudaGetDevice"))
    kinds = cuda.runtime.cudaMemoryType
    if memory.type == kinds.cudaMemoryTypeUnregistered:
        raise InvalidInputError(
            f"frame on the GPU: expected memory of CUDA's, got address {frame.address:#x}, which CUDA doesn't know; "
            "pass frames in host memory as NumPy arrays"
        )
    if memory.type == kinds.cudaMemoryTypeDevice and int(memory.device) != current:
        raise InvalidInputError(
            f"frame on the GPU: expected it on GPU {current}, where the engine is, got it on GPU {int(memory.device)}; "
            "copy it over"
        )


def job_bytes(count: int) -> int:
    """Size of a job of `count` regions: what `write_job` writes and the kernel reads."""
    return _HEADER.itemsize + count * _REGION_BYTES


def write_job(job: NDArray[np.uint8], frame: DeviceFrame, rois: Sequence[Roi]) -> None:
    """Writes a frame's place and the regions to cut from it into the bytes `job`."""
    origin = frame.address % 2**64  # of a staged part, the frame's corner may lie before all memory
    job[: _HEADER.itemsize].view(_HEADER)[0] = (origin, frame.row_bytes, frame.height, frame.width)
    regions = job[_HEADER.itemsize : job_bytes(len(rois))].view(np.float64).reshape(-1, 5)
    for region, roi in zip(regions, rois, strict=True):
        turn = math.radians(roi.angle)
        region[:] = roi.center_x, roi.center_y, roi.side, math.cos(turn), math.sin(turn)


def stage_frame(image: NDArray[np.uint8], rois: Sequence[Roi], size: int, staging: Staging, stream: int) -> DeviceFrame:
    """Starts copying to the GPU what crops of `rois` need of a frame in host memory (H, W, 3): one rectangle.

    The frame that comes back has the whole one's size and place, so that regions and averaging stay as they are; only
    the rectangle's pixels exist.
    """
    height, width = image.shape[:2]
    left, right = _span([roi.center_x for roi in rois], rois, size, width, min(height, width))
    top, bottom = _span([roi.center_y for roi in rois], rois, size, height, min(height, width))
    row_bytes = 3 * (right - left)
    count = (bottom - top) * row_bytes
    staging.reserve(count)
    staging.host[:count].reshape(bottom - top, right - left, 3)[...] = image[top:bottom, left:right]
    staging.upload(count, stream)
    origin = staging.device - top * row_bytes - 3 * left
    return DeviceFrame(address=origin, height=height, width=width, row_bytes=row_bytes, owner=staging)


def _span(centers: Sequence[float], rois: Sequence[Roi], size: int, length: int, most: int) -> tuple[int, int]:
    """First pixel and the one after the last that the kernel reads along one axis, for all regions together."""
    scale = np.array([roi.side for roi in rois]) / size
    reach = np.array([roi.reach for roi in rois])
    middles = np.asarray(centers)
    block = np.where(scale > 2, np.minimum(np.floor(scale), most), 1)
    blocks = np.ceil(length / block)
    # A block of margin for rounding, and one for the second tap; one block remains where a region misses the frame.
    first = np.clip(np.floor((middles - reach) / block) - 1, 0, blocks - 1)
    last = np.maximum(np.minimum(np.ceil((middles + reach) / block) + 2, blocks), first + 1)
    return int((first * block).min()), int(min((last * block).max(), length))


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
def kernel_for(architecture: str) -> Any:
    """The compiled kernel, ready to launch; raises as `compile_kernel` does."""
    code = compile_kernel(architecture)
    importlib.import_module("cuda.core").Device().set_current()  # the context that CUDA's runtime uses
    return code.get_kernel(KERNEL)


def launch_crop(kernel: Any, job: int, count: int, size: int, crops: int, stream: int) -> None:
    """Starts the kernel: cuts the `count` regions of the job at address `job` into `crops`, on a CUDA stream.

    Raises:
        EngineUnavailableError: the GPU refuses.
    """
    core = importlib.import_module("cuda.core")
    tiles = -(-size // _TILE)
    config = core.LaunchConfig(grid=(tiles, tiles, count), block=(_TILE, _TILE, 1))
    regions = job + _HEADER.itemsize
    try:
        core.Device().set_current()  # in a thread that has no context yet
        core.launch(core.Stream.from_handle(stream), config, kernel, job, regions, np.int32(size), crops)
    except Exception as error:  # cuda-core's class of CUDA's errors has no public name
        raise EngineUnavailableError(f"the kernel that cuts crops could not be started ({error})") from None
