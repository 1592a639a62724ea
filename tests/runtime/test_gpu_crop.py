"""Frames on the GPU: the kernel compiles for every architecture, and computes what the CPU's crop does.

Where there is no GPU, the kernel's source is compiled for the processor: the same arithmetic, thread after thread.
"""

import ctypes
import shutil
import subprocess
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pytest

from runtime import EngineUnavailableError, InvalidInputError, Roi, crop
from runtime.engines.gpu_crop import check_device, compile_kernel, device_frame, is_on_gpu, launch_crop
from runtime.engines.tensorrt import Cuda

SIZE = 48
REGIONS = [
    (100.0, 80.0, 48.0),  # the crop's own scale
    (99.3, 81.7, 31.9),  # magnified
    (120.4, 60.2, 95.0),  # between one and two
    (90.0, 70.0, 171.3),  # averaged over 3 x 3
    (-3.0, 150.0, 120.0),  # across a corner
    (400.0, -300.0, 60.0),  # outside
    (100.0, 75.0, 20_000.0),  # far larger than the frame
]


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_the_kernel_compiles(architecture):
    pytest.importorskip("cuda.core")
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        pathfinder.load_nvidia_dynamic_lib("nvrtc")
    except RuntimeError as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    assert len(compile_kernel(architecture).code) > 1000


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The kernel on the processor: `run(frame, regions, size)`."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to run the kernel's arithmetic with")
    folder = tmp_path_factory.mktemp("kernel")
    source = (resources.files("runtime") / "assets" / "crop.cu").read_text(encoding="utf-8")
    shim = "#include <cmath>\nusing std::floor; using std::fmax; using std::fmin;\n"
    shim += "#define __device__\n#define __global__\n"
    shim += "struct Index { int x, y, z; };\nstatic Index blockIdx, threadIdx, blockDim = {1, 1, 1};\n"
    loop = """
extern "C" void run(const unsigned char* frame, int height, int width, long long row_bytes, const double* regions,
                    int count, int size, unsigned char* crops) {
  for (blockIdx.z = 0; blockIdx.z < count; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < size; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < size; ++blockIdx.x) crop(frame, height, width, row_bytes, regions, size, crops);
}
"""
    (folder / "crop.cpp").write_text(shim + source + loop)
    command = [compiler, "-O2", "-shared", "-fPIC", "-ffp-contract=off", "-o", "crop.so", "crop.cpp"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "crop.so"))

    def run(frame, regions, size):
        crops = np.zeros((len(regions), size, size, 3), np.uint8)
        values = np.array(regions, np.float64)
        void = ctypes.c_void_p
        library.run(
            void(frame.ctypes.data),
            *frame.shape[:2],
            ctypes.c_longlong(frame.strides[0]),
            void(values.ctypes.data),
            len(values),
            size,
            void(crops.ctypes.data),
        )
        return crops

    return run


def photograph():
    """Smooth, with edges and some noise: what a shift by a tenth of a pixel would change."""
    y, x = np.mgrid[:161, :203]
    waves = 128 + 80 * np.sin(x / 7.3)[..., None] * np.cos(y[..., None] / np.array([5.1, 9.7, 13.9]))
    waves[60:90, 80:120] = (250, 10, 130)
    return (waves + np.random.default_rng(0).normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("region", REGIONS)
def test_the_kernel_computes_what_the_cpu_does(kernel, region):
    frame = photograph()
    expected = crop(frame, [Roi(center_x=region[0], center_y=region[1], side=region[2])], SIZE)
    difference = np.abs(kernel(frame, [region], SIZE).astype(int) - expected)
    assert difference.max() <= 6 and difference.mean() < 0.6  # OpenCV's bilinear weights have five bits


def test_rows_with_a_pitch_and_several_regions(kernel):
    wide = np.random.default_rng(1).integers(0, 256, (161, 256, 3), dtype=np.uint8)
    frame = wide[:, :203]
    frame[...] = photograph()
    many = kernel(frame, REGIONS, SIZE)
    for i, region in enumerate(REGIONS):
        np.testing.assert_array_equal(many[i], kernel(photograph(), [region], SIZE)[0])


def on_gpu(**changes):
    values = {"shape": (4, 5, 3), "typestr": "|u1", "data": (4096, False), "version": 3, **changes}
    return SimpleNamespace(__cuda_array_interface__=values)


def test_frames_are_taken_as_they_lie():
    assert is_on_gpu(on_gpu()) and not is_on_gpu(np.zeros((4, 5, 3), np.uint8))
    frame = device_frame(on_gpu(strides=(64, 3, 1), stream=7))
    assert (frame.address, frame.height, frame.width, frame.row_bytes, frame.stream) == (4096, 4, 5, 64, 7)
    assert device_frame(on_gpu(strides=None)).row_bytes == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"typestr": "<f4"}, "expected uint8"),
        ({"shape": (3, 4, 5)}, "expected uint8"),
        ({"shape": (4, 5)}, "expected uint8"),
        ({"shape": (0, 5, 3)}, "expected uint8"),
        ({"strides": (1, 4, 20)}, "make it contiguous"),  # channels first
        ({"strides": (-15, 3, 1)}, "make it contiguous"),
    ],
)
def test_frames_of_another_form_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        device_frame(on_gpu(**changes))


def test_a_frame_on_another_gpu_is_refused():
    answers = {"cudaPointerGetAttributes": SimpleNamespace(device=1), "cudaGetDevice": 0}
    cuda = SimpleNamespace(call=lambda name, *_: answers[name])
    with pytest.raises(InvalidInputError, match=r"expected it on GPU 0, .*got it on GPU 1"):
        check_device(device_frame(on_gpu()), cuda)
    answers["cudaGetDevice"] = 1
    check_device(device_frame(on_gpu()), cuda)


def no_gpu() -> str:
    try:
        Cuda()
    except EngineUnavailableError as error:
        return str(error)
    return ""


@pytest.mark.gpu
@pytest.mark.skipif(bool(no_gpu()), reason=no_gpu())
def test_a_gpu_computes_what_the_cpu_does():
    cuda, frame = Cuda(), photograph()
    regions = np.array(REGIONS, np.float64)
    crops = np.zeros((len(REGIONS), SIZE, SIZE, 3), np.uint8)
    kinds, stream = cuda.runtime.cudaMemcpyKind, cuda.call("cudaStreamCreate")
    places = [int(cuda.call("cudaMalloc", array.nbytes)) for array in (frame, regions, crops)]
    try:
        for array, place in zip((frame, regions), places, strict=False):
            cuda.call("cudaMemcpy", place, array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice)
        place = device_frame(on_gpu(shape=frame.shape, data=(places[0], True)))
        check_device(place, cuda)
        launch_crop(cuda, place, places[1], len(REGIONS), SIZE, places[2], int(stream))
        cuda.call("cudaStreamSynchronize", stream)
        cuda.call("cudaMemcpy", crops.ctypes.data, places[2], crops.nbytes, kinds.cudaMemcpyDeviceToHost)
    finally:
        for place in places:
            cuda.call("cudaFree", place)
        cuda.call("cudaStreamDestroy", stream)
    expected = crop(frame, [Roi(center_x=x, center_y=y, side=side) for x, y, side in REGIONS], SIZE)
    difference = np.abs(crops.astype(int) - expected)
    assert difference.max() <= 6 and difference.mean() < 0.6
