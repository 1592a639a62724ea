"""Frames on the GPU: the kernel compiles for every architecture, and computes what the CPU's crop does.

Where there is no GPU, the kernel's source is compiled for the processor: the same arithmetic, thread after thread.
"""

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import EngineUnavailableError, InvalidInputError, Roi, crop
from runtime.engines.cuda import Cuda, Staging
from runtime.engines.gpu_crop import (
    DeviceFrame,
    check_device,
    compile_kernel,
    device_frame,
    is_on_gpu,
    job_bytes,
    kernel_for,
    launch_crop,
    stage_frame,
    write_job,
)
from tests.runtime.pretended_gpu import DlpackFrame, compiler, crop_on_processor

SIZE = 48
REGIONS = [
    (100.0, 80.0, 48.0),  # the crop's own scale
    (100.0, 80.0, 110.7),  # averaged over 2 x 2, whose means round half up
    (99.3, 81.7, 31.9),  # magnified
    (120.4, 60.2, 95.0),  # between one and two
    (90.0, 70.0, 171.3),  # averaged over 3 x 3
    (-3.0, 150.0, 120.0),  # across a corner
    (400.0, -300.0, 60.0),  # outside
    (100.0, 75.0, 20_000.0),  # far larger than the frame
    (101.3, 79.2, 61.0, 33.0),  # turned
    (95.3, 85.2, 120.0, -140.0),  # turned and averaged
    (150.0, 120.0, 330.0, 90.0),  # turned, averaged over 6 x 6, across a corner
]


def region(x, y, side, angle=0.0):
    return Roi(center_x=x, center_y=y, side=side, angle=angle)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_the_kernel_compiles(architecture):
    pytest.importorskip("cuda.core")
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        pathfinder.load_nvidia_dynamic_lib("nvrtc")
    except RuntimeError as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    assert len(compile_kernel(architecture).code) > 1000


def as_it_lies(frame):
    return DeviceFrame(address=frame.ctypes.data, height=len(frame), width=frame.shape[1], row_bytes=frame.strides[0])


@pytest.fixture
def kernel():
    """The kernel on the processor: `run(frame, regions, size)`, the frame an array or a `DeviceFrame`."""
    if compiler() is None:
        pytest.skip("no C++ compiler to run the kernel's arithmetic with")

    def run(frame, regions, size):
        rois = [region(*values) for values in regions]
        crops = np.zeros((len(rois), size, size, 3), np.uint8)
        job = np.zeros(job_bytes(len(rois)), np.uint8)
        write_job(job, as_it_lies(frame) if isinstance(frame, np.ndarray) else frame, rois)
        header = job_bytes(0)
        crop_on_processor(job.ctypes.data, job.ctypes.data + header, len(rois), size, crops.ctypes.data)
        return crops

    return run


def photograph():
    """Smooth, with edges and some noise: what a shift by a tenth of a pixel would change."""
    y, x = np.mgrid[:161, :203]
    waves = 128 + 80 * np.sin(x / 7.3)[..., None] * np.cos(y[..., None] / np.array([5.1, 9.7, 13.9]))
    waves[60:90, 80:120] = (250, 10, 130)
    return (waves + np.random.default_rng(0).normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8)


def is_rounding(difference):
    """Whether few pixels differ, by one: a mean of blocks that rounds the other way differs in one of eight."""
    return np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.02


@pytest.mark.parametrize("values", REGIONS)
def test_the_kernel_computes_what_the_cpu_does(kernel, values):
    frame = photograph()
    expected = crop(frame, [region(*values)], SIZE)
    difference = kernel(frame, [values], SIZE).astype(int) - expected
    assert is_rounding(difference)


def test_rows_with_a_pitch_and_several_regions(kernel):
    wide = np.random.default_rng(1).integers(0, 256, (161, 256, 3), dtype=np.uint8)
    frame = wide[:, :203]
    frame[...] = photograph()
    many = kernel(frame, REGIONS, SIZE)
    for i, values in enumerate(REGIONS):
        np.testing.assert_array_equal(many[i], kernel(photograph(), [values], SIZE)[0])


class HostStaging:
    """Staging whose GPU memory is the processor's, poisoned: what was not copied there shows."""

    def reserve(self, size):
        self.host, self.memory = np.zeros(size, np.uint8), np.full(size, 255, np.uint8)
        self.device = self.memory.ctypes.data

    def upload(self, size, stream):
        self.memory[:size] = self.host[:size]


_WHERE = st.floats(-120, 250)
_ANGLE = st.just(0.0) | st.floats(-180, 180)


@given(
    st.lists(
        st.tuples(_WHERE, _WHERE, st.floats(0.5, 400), st.just(0.0) | st.floats(-180, 180)), min_size=1, max_size=3
    )
)
def test_of_a_frame_in_host_memory_all_that_is_read_is_copied(regions):
    if compiler() is None:
        pytest.skip("no C++ compiler to run the kernel's arithmetic with")
    frame, size = np.random.default_rng(2).integers(0, 250, (61, 97, 3), dtype=np.uint8), 8
    rois = [region(*values) for values in regions]
    staging, results = HostStaging(), []
    for place in (as_it_lies(frame), stage_frame(frame, rois, size, staging, 7)):
        job, crops = np.zeros(job_bytes(len(rois)), np.uint8), np.zeros((len(rois), size, size, 3), np.uint8)
        write_job(job, place, rois)
        crop_on_processor(job.ctypes.data, job.ctypes.data + job_bytes(0), len(rois), size, crops.ctypes.data)
        results.append(crops)
    np.testing.assert_array_equal(*results)
    assert staging.memory.size <= frame.size


def test_a_small_face_of_a_large_frame_is_not_the_whole_frame():
    staging = HostStaging()
    stage_frame(np.zeros((1080, 1920, 3), np.uint8), [Roi(center_x=900, center_y=500, side=300)], 224, staging, 7)
    assert 300 * 300 * 3 <= staging.memory.size < 310 * 310 * 3


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


def test_frames_by_dlpack_alone():
    pytest.importorskip("cuda.core")
    wide = np.zeros((4, 9, 3), np.uint8)
    given = DlpackFrame(wide[:, :5])
    assert is_on_gpu(given) and is_on_gpu(DlpackFrame(wide, device=13))
    frame = device_frame(given, 7)
    assert (frame.address, frame.height, frame.width, frame.row_bytes) == (wide.ctypes.data, 4, 5, 27)
    assert frame.stream is None and given.streams[-1] == 7  # its producer makes stream 7 wait
    assert given.held == 1
    del frame
    assert given.held == 0


def test_host_memory_is_no_gpu_s_whatever_interfaces_it_has():
    class Pinned:
        def __dlpack_device__(self):
            return 3, 0

        __dlpack__ = None

    assert not any(is_on_gpu(image) for image in (np.zeros((4, 5, 3), np.uint8), Pinned(), [1], None))


def test_where_both_interfaces_are_dlpack_is_asked():
    pytest.importorskip("cuda.core")
    both = DlpackFrame(np.zeros((4, 5, 3), np.uint8))
    both.__cuda_array_interface__ = on_gpu().__cuda_array_interface__
    assert device_frame(both).address == both.frame.ctypes.data


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((3, 4, 5), np.uint8), "expected uint8"),
        (np.zeros((4, 5), np.uint8), "expected uint8"),
        (np.zeros((3, 4, 5), np.uint8).transpose(1, 2, 0), "make it contiguous"),
        (None, r"DLPack, got DlpackFrame, which refuses \(asks for grad\)"),
    ],
)
def test_frames_by_dlpack_of_another_form_are_refused(frame, message):
    pytest.importorskip("cuda.core")

    def refuse(stream):
        raise BufferError("asks for grad")

    image = DlpackFrame(frame) if frame is not None else DlpackFrame(np.zeros((4, 5, 3), np.uint8), produce=refuse)
    with pytest.raises(InvalidInputError, match=message):
        device_frame(image)
    assert image.held == 0


def test_dlpack_without_cuda_core_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core.utils", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'cln\[gpu\]'"):
        device_frame(DlpackFrame(np.zeros((4, 5, 3), np.uint8)))


UNREGISTERED, HOST, DEVICE = 0, 1, 2


@pytest.mark.parametrize(
    ("kind", "owner", "message"),
    [
        (DEVICE, 1, None),
        (DEVICE, 0, r"expected it on GPU 1, .*got it on GPU 0"),
        (HOST, 0, None),  # pinned memory, which all GPUs can read
        (UNREGISTERED, -2, r"0x1000, which CUDA doesn't know"),
    ],
)
def test_a_frame_must_be_where_the_engine_can_read_it(kind, owner, message):
    answers = {"cudaPointerGetAttributes": SimpleNamespace(type=kind, device=owner), "cudaGetDevice": 1}
    kinds = SimpleNamespace(cudaMemoryTypeUnregistered=UNREGISTERED, cudaMemoryTypeDevice=DEVICE)
    cuda = SimpleNamespace(call=lambda name, *_: answers[name], runtime=SimpleNamespace(cudaMemoryType=kinds))
    with pytest.raises(InvalidInputError, match=message) if message else contextlib.nullcontext():
        check_device(device_frame(on_gpu()), cuda)


def test_cuda_core_has_what_the_launch_uses():
    core = pytest.importorskip("cuda.core")
    config = core.LaunchConfig(grid=(3, 3, 2), block=(16, 16, 1))
    assert (config.grid, config.block) == ((3, 3, 2), (16, 16, 1))
    assert callable(core.launch) and callable(core.Stream.from_handle) and callable(core.Device.set_current)


def test_a_launch_covers_all_pixels_and_tells_why_it_fails(monkeypatch):
    launched = []
    core = SimpleNamespace(
        Device=lambda: SimpleNamespace(set_current=lambda: None),
        LaunchConfig=lambda grid, block: (grid, block),
        Stream=SimpleNamespace(from_handle=lambda handle: ("stream", handle)),
        launch=lambda *arguments: launched.append(arguments),
    )
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    launch_crop("kernel", 1000, 3, 40, 5000, 7)
    assert launched == [(("stream", 7), ((3, 3, 3), (16, 16, 1)), "kernel", 1000, 1024, 40, 5000)]
    core.launch = lambda *arguments: 1 // 0
    with pytest.raises(EngineUnavailableError, match=r"could not be started \(integer division"):
        launch_crop("kernel", 1000, 3, 40, 5000, 7)


def no_gpu() -> str:
    try:
        Cuda()
    except EngineUnavailableError as error:
        return str(error)
    return ""


@pytest.mark.gpu
@pytest.mark.skipif(bool(no_gpu()), reason=no_gpu())
@pytest.mark.parametrize("host", [False, True], ids=["frame on the GPU", "frame in host memory"])
def test_a_gpu_computes_what_the_cpu_does(host):
    cuda, photo = Cuda(), photograph()
    rois = [region(*values) for values in REGIONS]
    kernel = kernel_for("sm_{}{}".format(*cuda.compute_capability()))
    with contextlib.ExitStack() as owner:
        stream = int(cuda.call("cudaStreamCreate"))
        owner.callback(cuda.call, "cudaStreamDestroy", stream)
        sizes = (photo.nbytes, job_bytes(len(rois)), len(rois) * SIZE * SIZE * 3)
        frame, job, crops = (Staging(cuda, size) for size in sizes)
        for staging in (frame, job, crops):
            owner.callback(staging.close)
        if host:
            place = stage_frame(photo, rois, SIZE, frame, stream)
        else:
            frame.host[:] = photo.reshape(-1)
            frame.upload(photo.nbytes, stream)
            place = device_frame(on_gpu(shape=photo.shape, data=(frame.device, True)))
            check_device(place, cuda)
        write_job(job.host, place, rois)
        job.upload(job.host.size, stream)
        launch_crop(kernel, job.device, len(rois), SIZE, crops.device, stream)
        crops.download(crops.host.size, stream)
        cuda.call("cudaStreamSynchronize", stream)
        result = crops.host.reshape(len(rois), SIZE, SIZE, 3).copy()
    difference = np.abs(result.astype(int) - crop(photo, rois, SIZE))
    assert is_rounding(difference)
