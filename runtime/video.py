"""Videos and cameras as iterators of frames with time stamps, and the faces in them.

    for frame in read_video("talk.mp4"):             # a video file, or a folder of numbered images
        frame.image, frame.time

    for frame, faces in track("talk.mp4"):           # or any frames: read_camera(0), your own
        for face in faces:
            face.id, face.pose.yaw

Files are decoded by PyAV (the extra `video`), upright as their rotation flag says, with their own time stamps, so that
variable rates are right; cameras are opened by OpenCV. Times are in seconds, images uint8 (H, W, 3) BGR.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import EngineUnavailableError, FileFormatError, InvalidInputError
from runtime.image import read_image
from runtime.items import numbered_images
from runtime.reconstructor import Reconstructor
from runtime.tracking import TrackedFace, Tracker

_LAST_CAMERA = 9999
_SPARE = 2  # frames by which a file's own count may be too high


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFrame:
    """One frame: uint8 (H, W, 3) BGR, its number from 0, and its time in seconds."""

    image: NDArray[np.uint8]
    index: int
    time: float  # since the first frame
    start: float = 0.0  # the first frame's own time stamp in the file, which its sound's are to be held against


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file says of itself; None where it doesn't."""

    rate: float | None = None  # frames per second, on average
    frames: int | None = None


def track(
    frames: str | os.PathLike[str] | Iterable[VideoFrame],
    reconstruct: Reconstructor | None = None,
    **options: Any,
) -> Iterator[tuple[VideoFrame, list[TrackedFace]]]:
    """Each frame with its faces.

    Args:
        frames: a path as `read_video` takes it, or frames.
        reconstruct: what finds and reconstructs faces; default: one of the bundled network.
        options: of the `Tracker`.

    Raises:
        InvalidInputError, FileFormatError, FileNotFoundError: as `read_video` and `Tracker`.
    """
    source = read_video(frames) if isinstance(frames, str | os.PathLike) else frames
    with contextlib.ExitStack() as stack:
        own = reconstruct or stack.enter_context(Reconstructor())
        tracker = Tracker(own, **options)
        for frame in source:
            yield frame, tracker(frame.image, frame.time)


def video_info(path: str | os.PathLike[str], *, rate: float = 30.0) -> VideoInfo:
    """Rate and number of frames. Raises as `read_video`."""
    source = Path(path)
    if source.is_dir():
        return VideoInfo(rate=rate, frames=len(numbered_images(source)))
    with _open(source) as (_, stream):
        average = stream.average_rate or stream.guessed_rate
        count = stream.frames or None
        if count is None and stream.duration and average:
            count = round(float(stream.duration * stream.time_base * average))
        return VideoInfo(rate=float(average) if average else None, frames=count)


def read_video(path: str | os.PathLike[str], *, rate: float = 30.0) -> Iterator[VideoFrame]:
    """The frames of a video file, or of a folder of numbered images at `rate` per second.

    What can be read of a damaged or truncated file comes first; then follows the error.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: no video, one without pictures or cut off in the middle, frames that change size, or a time
            stamp that stands still or goes back.
        EngineUnavailableError: PyAV is not installed.
        InvalidInputError: a rate that is not above 0, or a folder without numbered images.
    """
    source = Path(path)
    if source.is_dir():
        yield from _checked(source, _read_images(source, rate))
    else:
        yield from _checked(source, _decode(source))


def _checked(source: Path, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """The frames as long as they keep their size and their times grow."""
    before: VideoFrame | None = None
    for frame in frames:
        if before is not None:
            told = f"{source}: frame {frame.index}: expected"
            if frame.image.shape != before.image.shape:
                sizes = [f"{f.image.shape[1]} x {f.image.shape[0]}" for f in (before, frame)]
                raise FileFormatError(f"{told} {sizes[0]} pixels as before, got {sizes[1]}; {_KEPT}")
            if frame.time <= before.time:
                raise FileFormatError(f"{told} a time after {before.time:.3f} s, got {frame.time:.3f} s; {_KEPT}")
        yield frame
        before = frame
    if before is None:
        raise FileFormatError(f"{source}: expected a video, found no frame in it; check the file")


_KEPT = "the frames before it count"


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its picture stream."""
    av = import_av()
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a video, found no file; check the path")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise FileFormatError(f"{path}: expected a video, got a file that cannot be read ({_reason(error)})") from None
    with container:
        if not container.streams.video:
            raise FileFormatError(f"{path}: expected a video, found no pictures in it; check the file")
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"  # threads by frame may hang for ever as a damaged file is closed
        yield container, stream


def _decode(path: Path) -> Iterator[VideoFrame]:
    av = import_av()
    with _open(path) as (container, stream):
        step = 1 / float(stream.average_rate or stream.guessed_rate or 30)
        first, last, index, hidden = None, -step, 0, 0
        try:
            for packet in container.demux(stream):
                hidden += packet.is_discard  # before the start of a video that was trimmed without encoding it again
                for frame in packet.decode():
                    now = frame.time if frame.time is not None else last + step
                    first = now if first is None else first
                    last = now
                    yield VideoFrame(image=_upright(frame), index=index, time=now - first, start=first)
                    index += 1
        except av.error.FFmpegError as error:
            if index == 0:
                raise FileFormatError(f"{path}: expected a video, found no frame in it ({_reason(error)})") from None
            promised = stream.frames - hidden
            missing = f"expected {promised} frames, " if index < promised - _SPARE else ""
            told = f"{path}: {missing}damaged after frame {index - 1} ({_reason(error)}); {_KEPT}"
            raise FileFormatError(told) from None
        promised = stream.frames - hidden
        if 0 < index < promised - _SPARE:
            raise FileFormatError(f"{path}: expected {promised} frames, found {index}; the file is cut off; {_KEPT}")


def _upright(frame: Any) -> NDArray[np.uint8]:
    image = frame.to_ndarray(format="bgr24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as np.rot90 turns
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _read_images(folder: Path, rate: float) -> Iterator[VideoFrame]:
    if not 0 < rate < 1e6:
        raise InvalidInputError(f"rate: expected frames per second above 0, got {rate}")
    for index, path in enumerate(numbered_images(folder)):
        yield VideoFrame(image=read_image(path), index=index, time=index / rate)


def read_camera(source: int | str | os.PathLike[str]) -> Iterator[VideoFrame]:
    """Frames of a camera, by its number, until it stops; or of a file, played as a camera would show it.

    A file is shown in real time: frames that come while the caller is busy are dropped.

    Raises:
        InvalidInputError: there is no such camera, or it stops.
        FileNotFoundError, FileFormatError: the file is missing, or no video.
    """
    return _capture(int(source)) if isinstance(source, int | np.integer) else _played(read_video(source))


def _capture(number: int) -> Iterator[VideoFrame]:
    if not 0 <= number <= _LAST_CAMERA:  # OpenCV takes others, and ends the process
        raise InvalidInputError(f"camera: expected a number from 0 to {_LAST_CAMERA}, got {number}")
    with _quiet():
        camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise InvalidInputError(f"camera {number}: expected a camera, found none; check its number and permissions")
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest
        started, index, last = time.monotonic(), 0, -1.0
        while True:
            alive, image = camera.read()
            if not alive:
                raise InvalidInputError(f"camera {number}: stopped after {index} frames; check its cable")
            last = max(time.monotonic() - started, last + 1e-6)
            yield VideoFrame(image=np.asarray(image, dtype=np.uint8), index=index, time=last)
            index += 1
    finally:
        camera.release()


def _played(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    started = None
    for frame in frames:
        now = time.monotonic()
        started = now if started is None else started
        early = frame.time - (now - started)
        if early < -0.02 and frame.index:
            continue
        if early > 0:
            time.sleep(early)
        yield frame


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV's own complaints about a camera that isn't there, unsaid: the error says it."""
    logging = getattr(cv2.utils, "logging", None)
    if logging is None:
        yield
        return
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def import_av() -> Any:
    """PyAV. Raises EngineUnavailableError where it is missing."""
    try:
        av = importlib.import_module("av")
    except ImportError:
        raise EngineUnavailableError("videos need PyAV; run: pip install 'cln[video]'") from None
    av.logging.set_level(av.logging.PANIC)  # FFmpeg's own lines; what matters comes as an error
    return av


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error)
