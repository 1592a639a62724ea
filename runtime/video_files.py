"""A video's results as files: NAME.mp4 (faces drawn, sound kept), NAME.jsonl (a line a frame), NAME.csv (a row a face).

One thread decodes, the caller's tracks, one draws and encodes; between them are queues of a few frames, so memory does
not grow with the video. Files are written beside their place and renamed into it at the end; after an error, what was
written so far is kept in the same way: the picture file consists of fragments, each of which can be played.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from runtime.command import one_line
from runtime.drawing import draw_faces
from runtime.errors import ClnError
from runtime.files import mode_of
from runtime.reconstructor import Reconstructor
from runtime.tracking import TrackedFace, Tracker
from runtime.video import VideoFrame, import_av, read_video, video_info

T = TypeVar("T")

_PIECE = 64 * 1024  # bytes
_AHEAD = 4  # frames that wait between threads
_TIME_BASE = Fraction(1, 90_000)
_FRAGMENTS = {  # of MP4: each is on the disk before the tables of many more frames can fill it
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "frag_duration": "200000",  # microseconds
    "flush_packets": "1",
}
_PARTS = ("contours", "axes", "id")
_ANGLES = ("yaw", "pitch", "roll")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VideoOutcome:
    """What became of a video; after an error, of its part before."""

    video: Path
    frames: int
    faces: int  # over all frames
    people: int  # ids
    error: str | None = None


def track_file(
    reconstruct: Reconstructor,
    video: Path,
    out: Path,
    *,
    stem: str | None = None,
    rate: float = 30.0,
    picture: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
    **options: Any,
) -> VideoOutcome:
    """Follows the faces of a video and writes NAME.jsonl, NAME.csv and, with `picture`, NAME.mp4 into `out`.

    Args:
        reconstruct: what finds and reconstructs the faces.
        video: a file, or a folder of numbered images at `rate` per second.
        out: the folder; it is made where there is none.
        stem: NAME; default: the video's own.
        rate: of a folder of images.
        picture: whether to write the video with the faces drawn.
        progress: called with the frames that are done and, where it is known, their number.
        options: of the `Tracker`.

    Raises:
        FileNotFoundError, FileFormatError, InvalidInputError: nothing could be read. Later errors are in the outcome.
        EngineUnavailableError: PyAV is missing.
    """
    info = video_info(video, rate=rate)
    tracker = Tracker(reconstruct, **options)
    out.mkdir(parents=True, exist_ok=True)
    frames = faces = 0
    people: set[int] = set()
    error: str | None = None
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(_in_thread(read_video(video, rate=rate))))
        first = next(source, None)
        assert first is not None  # a video without frames is an error of `read_video`
        tables = stack.enter_context(_Tables.open(out, stem or video.stem))
        pictures = (
            stack.enter_context(_Pictures.open(out / f"{stem or video.stem}.mp4", video, first, info.rate or rate))
            if picture
            else None
        )
        try:
            for frame in _chain(first, source):
                found = tracker(frame.image, frame.time)
                tables.write(frame, found)
                if pictures is not None:
                    pictures.put(frame, found)
                frames, faces = frames + 1, faces + len(found)
                people.update(face.id for face in found)
                if progress is not None:
                    progress(frames, info.frames)
        except (ClnError, OSError) as caught:
            error = one_line(caught)
        try:
            if pictures is not None:
                pictures.finish()
        except (ClnError, OSError) as caught:
            error = error or one_line(caught)
    return VideoOutcome(video=video, frames=frames, faces=faces, people=len(people), error=error)


def _chain(first: T, others: Iterable[T]) -> Iterator[T]:
    yield first
    yield from others


def _in_thread(items: Iterator[T]) -> Generator[T, None, None]:
    """The items, made by another thread, a few of them ahead; its errors come in their place."""
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put((kind, value), timeout=0.1)

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
        except BaseException as error:  # raised in the thread that asks
            put("error", error)
        else:
            put("end", None)

    thread = threading.Thread(target=work, name="decode", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()


def _write_whole(file: io.FileIO, data: bytes) -> None:
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Lines:
    """A text file of whole lines: one that cannot be written is taken back."""

    def __init__(self, file: Path, target: Path) -> None:
        self._file, self._target, self._good = io.FileIO(file, "wb"), target, 0

    def write(self, text: str) -> None:
        data = text.encode()
        try:
            _write_whole(self._file, data)
        except OSError as error:
            self._file.truncate(self._good)
            raise OSError(error.errno, error.strerror, str(self._target)) from None
        self._good += len(data)

    def close(self) -> None:
        self._file.close()


class _Tables:
    """NAME.jsonl and NAME.csv."""

    def __init__(self, lines: _Lines, rows: _Lines) -> None:
        self._lines, self._rows = lines, rows
        self._empty = True

    @classmethod
    @contextlib.contextmanager
    def open(cls, out: Path, stem: str) -> Iterator[_Tables]:
        with contextlib.ExitStack() as stack:
            targets = [out / f"{stem}{suffix}" for suffix in (".jsonl", ".csv")]
            files = [(stack.enter_context(_kept(target)), target) for target in targets]
            yield cls(*(stack.enter_context(contextlib.closing(_Lines(*pair))) for pair in files))

    def write(self, frame: VideoFrame, faces: list[TrackedFace]) -> None:
        line = {"frame": frame.index, "time": round(frame.time, 6), "faces": [_record(face) for face in faces]}
        self._lines.write(json.dumps(line, separators=(",", ":")) + "\n")
        if faces and self._empty:
            self._rows.write(",".join(_columns(len(faces[0].params))) + "\n")
            self._empty = False
        for face in faces:
            self._rows.write(",".join(map(str, _row(frame, face))) + "\n")


def _record(face: TrackedFace) -> dict[str, Any]:
    return {"id": face.id, **face.face.to_dict()}


def _columns(params: int) -> list[str]:
    """OpenFace's habit: one column for each number, named by what it is."""
    places = [f"{axis}_{i}" for axis in "xyz" for i in range(68)]
    head = ["frame", "face_id", "timestamp", "confidence", "box_x", "box_y", "box_width", "box_height"]
    return [*head, *(f"pose_{angle}" for angle in _ANGLES), *places, *(f"p_{i}" for i in range(params))]


def _row(frame: VideoFrame, face: TrackedFace) -> list[Any]:
    angles = [round(getattr(face.pose, angle), 4) for angle in _ANGLES]
    head = [frame.index, face.id, round(frame.time, 6), round(face.face.score, 4)]
    box = [round(v, 3) for v in face.face.box]
    points = [round(v, 3) for v in face.landmarks.T.ravel().tolist()]
    return [*head, *box, *angles, *points, *(round(v, 6) for v in face.params.tolist())]


@contextlib.contextmanager
def _kept(target: Path) -> Iterator[Path]:
    """A file beside `target` that takes its place at the end, after an error too: what is written of it counts."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".cln-", suffix=target.suffix)
    os.close(handle)
    file = Path(name)
    try:
        yield file
    finally:
        if file.stat().st_size:
            os.chmod(file, mode_of(target))
            os.replace(file, target)
        else:
            file.unlink()


def _check_room(file: Path) -> None:
    """Raises OSError if a piece more, as large as FFmpeg writes at once, does not go into a file; it stays as it is."""
    size = file.stat().st_size
    with io.FileIO(file, "ab") as end:
        try:
            _write_whole(end, bytes(_PIECE))
        finally:
            end.truncate(size)


class _Pictures:
    """NAME.mp4: frames with their faces drawn, encoded in another thread."""

    def __init__(
        self, container: Any, file: Path, target: Path, size: tuple[int, int], rate: float, sound: _Sound | None
    ) -> None:
        self._container, self._file, self._target, self._sound = container, file, target, sound
        self._size = size
        self._stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"preset": "veryfast", "crf": "20"}
        self._stream.codec_context.time_base = _TIME_BASE
        if sound is not None:
            sound.announce(container)
        self._waiting: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._error: BaseException | None = None
        self._whole = 0  # bytes of whole fragments
        self._thread = threading.Thread(target=self._work, name="encode", daemon=True)
        self._thread.start()

    @classmethod
    @contextlib.contextmanager
    def open(cls, target: Path, video: Path, first: VideoFrame, rate: float) -> Iterator[_Pictures]:
        av = import_av()
        height, width = first.image.shape[:2]
        size = max(width // 2 * 2, 2), max(height // 2 * 2, 2)  # H.264 counts colours by twos
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_kept(target))
            sound = stack.enter_context(_Sound.open(video, first.start))
            container = av.open(str(file), "w", format="mp4", options=_FRAGMENTS)
            pictures = cls(container, file, target, size, rate, sound)
            try:
                yield pictures
            finally:
                pictures.close()

    def put(self, frame: VideoFrame, faces: list[TrackedFace]) -> None:
        if self._error is not None:
            raise self._told(self._error)
        self._waiting.put((frame, faces))

    def finish(self) -> None:
        self.close()
        if self._error is not None:
            raise self._told(self._error)

    def close(self) -> None:
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _told(self, error: BaseException) -> BaseException:
        """FFmpeg's errors as the system's, with the file's name."""
        number = getattr(error, "errno", None)
        return error if number is None else OSError(number, getattr(error, "strerror", str(error)), str(self._target))

    def _work(self) -> None:
        import av

        item: Any = ()
        try:
            while (item := self._waiting.get()) is not None:
                frame, faces = item
                drawn = draw_faces(frame.image, [f.face for f in faces], _PARTS, ids=[f.id for f in faces])
                drawn = drawn[: self._size[1], : self._size[0]]
                if drawn.shape[1::-1] != self._size:  # a frame of one pixel
                    drawn = np.resize(drawn, (self._size[1], self._size[0], 3))
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="bgr24")
                picture.pts, picture.time_base = round(frame.time / _TIME_BASE), _TIME_BASE
                self._mux(picture)
                if self._sound is not None:
                    self._sound.copy(self._container, frame.time)
            self._mux(None)
            if self._sound is not None:
                self._sound.copy(self._container, float("inf"))
        except BaseException as error:  # raised in the thread that puts
            self._error = error
        try:
            self._container.close()
            _check_room(self._file)  # FFmpeg keeps a failure of its last write to itself
        except Exception as error:  # the last fragment of a full disk
            self._error = self._error or error
        if self._error is not None:
            os.truncate(self._file, self._whole)  # players refuse a file that ends in a fragment's head
        while item is not None:  # after an error before the end, so that nobody waits for ever
            item = self._waiting.get()

    def _mux(self, picture: Any) -> None:
        self._container.mux(self._stream.encode(picture))
        self._whole = self._file.stat().st_size


class _Sound:
    """The sound of the video that is read, handed on packet by packet as far as the pictures are.

    `start` is the first picture's time in the file, which is 0 in the one that is written.
    """

    def __init__(self, container: Any, stream: Any, start: float) -> None:
        self._stream, self._start = stream, start
        self._packets = (packet for packet in container.demux(stream) if packet.dts is not None)
        self._next: Any = next(self._packets, None)
        self._target: Any = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, video: Path, start: float) -> Iterator[_Sound | None]:
        av = import_av()
        if video.is_dir():
            yield None
            return
        with av.open(str(video), metadata_errors="replace") as container:
            yield cls(container, container.streams.audio[0], start) if container.streams.audio else None

    def announce(self, container: Any) -> None:
        try:
            self._target = container.add_stream_from_template(self._stream)
        except Exception as error:  # MP4 doesn't take this kind of sound
            _log.warning("the sound cannot be kept in an MP4 file (%s)", error)

    def copy(self, container: Any, until: float) -> None:
        import av

        while self._target is not None and self._next is not None:
            packet = self._next
            if float(packet.dts * packet.time_base) - self._start > until:
                return
            shift = round(self._start / packet.time_base)
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            if packet.pts + (packet.duration or 0) > 0:  # else heard before the first frame
                packet.stream = self._target
                container.mux(packet)
            try:
                self._next = next(self._packets, None)
            except av.error.FFmpegError:  # cut off
                self._next = None
