"""`python -m benchmarks.stability --json OUT`: how steady, prompt and fast tracked faces are; clips with exact truth.

Parts (`--parts`, all by default):

    still      a still head with camera noise: jitter, the mean second difference of the landmarks, % of face size; with
               --mediapipe, that of its 478 points in VIDEO mode, too
    moving     heads that turn, nod, shift and talk: error of smoothed over raw landmarks (% of face size) and lag, the
               shift in time by which the yaw fits the truth best, on a turn of 90 degrees a second there and back
    leakage    blinks and speech of a still head: the rotation that they add, degrees, 95th percentile
    ids        20 crossings of two faces, one that leaves and returns, a scene cut, 60 s of a head within 60 degrees of
               yaw: ids that switched, frames in which a face that can be seen has no id
    turned     the photograph turned in its plane, every 15 degrees: error against the upright one's landmarks
    speed      one and four tracked faces of a 1280 x 720 frame in memory; with --mediapipe, MediaPipe's VIDEO mode on
               the same frames in the same run
    file       1080p file to NAME.jsonl, frames a second
    memory     with --hour: growth of resident memory over an hour of video, after the first minute

Face size is the square root of the area of the landmarks' box. Clips come from the face factory (`benchmarks.clips`).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import HEIGHT, WIDTH, Actor, Frame, State, Studio
from benchmarks.footprint import resident_mb
from benchmarks.machine import device, versions
from benchmarks.output import add_outputs, number, publish, run, table
from runtime import InvalidInputError, Reconstructor, read_image
from runtime.command import command
from runtime.smoothing import SETTINGS
from runtime.tracking import TrackedFace, Tracker
from training.evaluation.metrics import second_difference

PARTS = ("still", "moving", "leakage", "ids", "turned", "speed", "file")
_PHOTO = Path(__file__).parent.parent / "examples" / "astronaut.jpg"
_ACTORS = (12, 18, 33, 6, 29, 38)
_RAMP = 90.0  # degrees a second
_WARM = 10  # frames before figures count

Results = dict[str, Any]


def _size(landmarks: NDArray[Any]) -> float:
    return float(np.sqrt(np.ptp(landmarks[:, :2], axis=0).prod()))


def _error(face: NDArray[Any], truth: NDArray[Any]) -> float:
    return 100 * float(np.linalg.norm(face[:, :2] - truth[:, :2], axis=1).mean()) / _size(truth)


def _geodesic(a: NDArray[Any], b: NDArray[Any]) -> float:
    return math.degrees(math.acos(min(max((float(np.trace(a.T @ b)) - 1) / 2, -1.0), 1.0)))


def _tracked(
    reconstruct: Reconstructor, frames: Iterable[Frame], **options: Any
) -> Iterator[tuple[Frame, list[TrackedFace]]]:
    tracker = Tracker(reconstruct, **options)
    for frame in frames:
        yield frame, tracker(frame.image, frame.time)


def _by_setting(
    reconstruct: Reconstructor, frames: Sequence[Frame]
) -> dict[str, list[tuple[Frame, list[TrackedFace]]]]:
    return {name: list(_tracked(reconstruct, frames, max_faces=1, smoothing=name)) for name in SETTINGS}


def still(studio: Studio, reconstruct: Reconstructor, seconds: float, mediapipe: Path | None) -> Results:
    """Jitter by setting."""
    jitter: dict[str, list[float]] = {name: [] for name in SETTINGS}
    if mediapipe is not None:
        jitter["mediapipe"] = []
    for index in _ACTORS[:4]:
        frames = list(studio.clip([Actor(index=index, act=lambda _: State(yaw=8, pitch=-4))], seconds, seed=index))
        for name, pairs in _by_setting(reconstruct, frames).items():
            points = np.array([faces[0].landmarks[:, :2] for _, faces in pairs[_WARM:] if faces])
            jitter[name].append(100 * second_difference(points) / _size(frames[0].faces[0].landmarks))
        if mediapipe is not None:
            with _mediapipe(mediapipe) as call:
                seen = [faces[0] for faces in map(call, frames) if faces][_WARM:]
            points = np.array([[(point.x * WIDTH, point.y * HEIGHT) for point in face] for face in seen])
            jitter["mediapipe"].append(100 * second_difference(points) / _size(frames[0].faces[0].landmarks))
    return {f"jitter_{name}": float(np.mean(values)) for name, values in jitter.items()}


def _ramp(t: float) -> float:
    """Yaw that goes from -45 to 45 degrees in a second, and back, with half a second's rest at each end."""
    phase = t % 3.0
    there = min(max(phase - 0.25, 0.0), 1.0) - min(max(phase - 1.75, 0.0), 1.0)
    return _RAMP * (there - 0.5)


def _restless(studio: Studio, phase: float) -> Callable[[float], State]:
    def act(t: float) -> State:
        a = t + phase
        return State(
            yaw=round(45 * math.sin(1.9 * a), 1),
            pitch=round(10 * math.sin(1.3 * a), 1),
            roll=round(14 * math.sin(1.1 * a + 1), 1),
            center=(WIDTH / 2 + 180 * math.sin(1.5 * a), HEIGHT / 2 + 60 * math.sin(2.3 * a)),
            side=260 + 50 * math.sin(0.9 * a),
            expression=studio.mouth_open(0.8 * max(0.0, math.sin(9 * a))),
            opening=0.1 if a % 1.5 < 0.13 else 1.0,
        )

    return act


def moving(studio: Studio, reconstruct: Reconstructor, seconds: float) -> Results:
    """Error over raw, and lag at a fast turn."""
    results: Results = {}
    errors: dict[str, list[float]] = {name: [] for name in SETTINGS}
    raw: list[float] = []
    for index in _ACTORS[:3]:
        frames = list(studio.clip([Actor(index=index, act=_restless(studio, index))], seconds, seed=index))
        for name, pairs in _by_setting(reconstruct, frames).items():
            seen = [(frame.faces[0].landmarks, faces[0]) for frame, faces in pairs[_WARM:] if faces]
            errors[name].append(float(np.mean([_error(face.landmarks, truth) for truth, face in seen])))
            if name == "off":
                raw.append(float(np.mean([_error(face.raw.landmarks, truth) for truth, face in seen])))
    results |= {f"error_{name}": float(np.mean(values)) for name, values in errors.items()}
    results |= {f"error_{name}_over_raw": float(np.mean(errors[name]) / np.mean(raw)) for name in SETTINGS}
    lags: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for index in _ACTORS[:3]:
        ramp = Actor(index=index, act=lambda t: State(yaw=round(_ramp(t), 2)))
        frames = list(studio.clip([ramp], 6.0, seed=index))
        for name, pairs in _by_setting(reconstruct, frames).items():
            kept = [(frame.time, faces[0].pose.yaw) for frame, faces in pairs[_WARM:] if faces]
            lags[name].append(_lag(*np.array(kept).T))
    shift = float(np.mean(lags["off"]))  # of the network itself
    return results | {f"lag_ms_{name}": float(np.mean(values)) - shift for name, values in lags.items()}


def _lag(times: NDArray[Any], yaws: NDArray[Any]) -> float:
    """Milliseconds by which `yaws`, up to scale and offset, come after the ramp."""
    best = (math.inf, 0.0)
    for lag in np.arange(-0.05, 0.2, 0.001):
        wanted = np.array([_ramp(t - lag) for t in times])
        fit = np.polynomial.polynomial.polyfit(wanted, yaws, 1)
        residual = float(np.square(fit[0] + fit[1] * wanted - yaws).sum())
        best = min(best, (residual, float(lag)))
    return 1000 * best[1]


def leakage(studio: Studio, reconstruct: Reconstructor, seconds: float) -> Results:
    """Rotation that blinks and speech add."""
    found: dict[str, list[float]] = {}
    for index, kind in itertools.product(_ACTORS[:3], ("blink", "talk")):

        def act(t: float, kind: str = kind) -> State:
            closed = 1 - min(1.0, abs((t % 1.0) - 0.5) / 0.12) if kind == "blink" else 0.0
            mouth = max(0.0, math.sin(2 * math.pi * 2.0 * t)) if kind == "talk" else 0.0
            return State(opening=round(1 - closed, 1), expression=studio.mouth_open(round(mouth, 1)))

        frames = list(studio.clip([Actor(index=index, act=act)], seconds, seed=index))
        for name, pairs in _by_setting(reconstruct, frames).items():
            rotations = [faces[0].pose.rotation for _, faces in pairs[_WARM:] if faces]
            u, _, vt = np.linalg.svd(np.mean(rotations, axis=0))
            angles = [_geodesic(u @ vt, rotation) for rotation in rotations]
            found.setdefault(f"{kind}_degrees_{name}", []).append(float(np.percentile(angles, 95)))
    return {name: float(np.mean(values)) for name, values in found.items()}


class _Ledger:
    """Which id each actor had, and in how many frames none."""

    def __init__(self) -> None:
        self.ids: dict[int, int] = {}
        self.switches = self.missed = self.visible = 0

    def note(self, frame: Frame, faces: list[TrackedFace]) -> None:
        for truth in frame.faces:
            self.visible += 1
            middle = truth.landmarks[:, :2].mean(axis=0)
            near = [f for f in faces if np.linalg.norm(f.landmarks[:, :2].mean(axis=0) - middle) < truth.side / 3]
            if not near:
                self.missed += 1
                continue
            face = min(near, key=lambda f: float(np.linalg.norm(f.landmarks[:, :2].mean(axis=0) - middle)))
            if self.ids.setdefault(truth.actor, face.id) != face.id:
                self.switches += 1
                self.ids[truth.actor] = face.id


def ids(studio: Studio, reconstruct: Reconstructor, seconds: float) -> Results:
    """Crossings, leaving and returning, a cut, a long restless clip."""
    results: Results = {"crossings": 0, "crossings_switched": 0}
    missed = visible = 0
    for number_, (first, second) in enumerate(itertools.islice(itertools.permutations(_ACTORS, 2), 20)):
        results["crossings"] += 1
        speed = 260 + 12 * number_

        def left(t: float, speed: float = speed) -> State:
            return State(center=(300 + speed * t, 350), side=230, yaw=15)

        def right(t: float, speed: float = speed) -> State:
            return State(center=(980 - speed * t, 370), side=250, yaw=-15)

        ledger = _Ledger()
        actors = [Actor(index=first, act=left), Actor(index=second, act=right)]
        for frame, faces in _tracked(reconstruct, studio.clip(actors, 680 / speed, seed=number_)):
            ledger.note(frame, faces)
        results["crossings_switched"] += int(ledger.switches > 0)
        missed, visible = missed + ledger.missed, visible + ledger.visible
    results["crossings_missed_percent"] = 100 * missed / visible

    def leaves(t: float) -> State:
        return State(center=(640 - 900 * max(0.0, math.sin(math.pi * t / 4)), 360))

    ledger = _Ledger()
    for frame, faces in _tracked(reconstruct, studio.clip([Actor(index=_ACTORS[0], act=leaves)], 4.0)):
        if all(truth.landmarks[:, 0].min() >= 0 for truth in frame.faces):
            ledger.note(frame, faces)
    results |= {"returned_with_another_id": ledger.switches, "returned_missed_frames": ledger.missed}
    ledger = _Ledger()
    for frame, faces in _tracked(reconstruct, _cut(studio)):
        ledger.note(frame, faces)
    results |= {"cut_ids_shared": int(len(set(ledger.ids.values())) < 2), "cut_missed_frames": ledger.missed}
    ledger = _Ledger()
    period = 4 * math.pi

    def long(t: float) -> State:
        a = round((t % period) * 30) / 30
        return State(
            yaw=round(60 * math.sin(1.0 * a), 1), pitch=round(12 * math.sin(1.5 * a), 1),
            roll=round(15 * math.sin(0.5 * a), 1), center=(640 + 250 * math.sin(0.5 * a), 360 + 60 * math.sin(1.5 * a)),
        )  # fmt: skip

    for frame, faces in _tracked(reconstruct, studio.clip([Actor(index=_ACTORS[1], act=long)], seconds), max_faces=1):
        ledger.note(frame, faces)
    return results | {
        "long_switches": ledger.switches,
        "long_missed_percent": 100 * ledger.missed / max(ledger.visible, 1),
    }


def _cut(studio: Studio) -> Iterator[Frame]:
    """Two seconds of one person, then two of another at the same place."""
    for which, index in enumerate(_ACTORS[:2]):
        for frame in studio.clip([Actor(index=index, act=lambda _: State())], 2.0, seed=index):
            faces = [
                type(face)(actor=which, landmarks=face.landmarks, rotation=face.rotation, side=face.side)
                for face in frame.faces
            ]
            yield Frame(image=frame.image, time=frame.time + 2.0 * which, faces=faces)


def turned(reconstruct: Reconstructor) -> Results:
    """The photograph turned by every 15 degrees on grey."""
    photo = read_image(_PHOTO)
    reference, spread = _reference(reconstruct, photo)
    errors = {}
    for angle in range(0, 360, 15):
        matrix = cv2.getRotationMatrix2D((255.5, 255.5), -angle, 1.0)
        matrix[:, 2] += 200
        image = cv2.warpAffine(photo, matrix, (912, 912), borderValue=(90, 90, 90))
        faces = reconstruct(np.asarray(image, dtype=np.uint8))
        expected = reference @ matrix[:, :2].T + matrix[:, 2]
        size = _size(reference)
        found = [float(np.linalg.norm(f.landmarks[:, :2] - expected, axis=1).mean()) for f in faces]
        errors[angle] = 100 * min(found, default=math.inf) / size
    return {"turned_error": errors, "turned_worst": max(errors.values()), "upright_spread": spread}


def _reference(reconstruct: Reconstructor, photo: NDArray[np.uint8]) -> tuple[NDArray[Any], float]:
    """Landmarks of the upright photograph, the mean over regions as a detector's errors make them, and their spread."""
    box = np.array(reconstruct(photo)[0].box)
    boxes = [box + box[2] * np.array((dx - dg / 2, dy - dg / 2, dg, dg))
             for dx, dy, dg in itertools.product((-0.06, 0, 0.06), (-0.06, 0, 0.06), (-0.1, 0, 0.1))]  # fmt: skip
    points = np.array([face.landmarks[:, :2] for face in reconstruct(photo, boxes)])
    mean = points.mean(axis=0)
    return mean, 100 * float(np.linalg.norm(points - mean, axis=2).mean()) / _size(mean)


def speed(studio: Studio, reconstruct: Reconstructor, mediapipe: Path | None) -> Results:
    """Milliseconds a frame; all ways take turns frame by frame."""
    one = list(studio.clip([Actor(index=_ACTORS[0], act=_restless(studio, 0))], 3.0))
    spots = [(230 + 270 * i, 360) for i in range(4)]
    actors = [
        Actor(index=_ACTORS[i], act=lambda t, s=spot: State(center=(s[0] + 20 * math.sin(t), s[1]), side=200))
        for i, spot in enumerate(spots)
    ]
    four = list(studio.clip(actors, 3.0))
    ways: dict[str, tuple[list[Frame], Callable[[Frame], Any]]] = {}
    for name, frames, count in (("one", one, 1), ("one_of_four", one, 4), ("four", four, 4)):
        tracker = Tracker(reconstruct, max_faces=count)
        ways[name] = frames, lambda frame, tracker=tracker: tracker(frame.image, frame.time)
    with contextlib.ExitStack() as peers:
        if mediapipe is not None:
            ways["mediapipe"] = one, peers.enter_context(_mediapipe(mediapipe))
        times: dict[str, list[float]] = {name: [] for name in ways}
        counts: dict[str, int] = {}
        for i in range(len(one)):
            for name, (frames, call) in ways.items():
                started = time.perf_counter()
                answer = call(frames[i])
                times[name].append(1000 * (time.perf_counter() - started))
                counts[name] = len(answer)
    results: Results = {f"ms_{name}": float(np.median(values[_WARM:])) for name, values in times.items()}
    results |= {f"ms95_{name}": float(np.percentile(values[_WARM:], 95)) for name, values in times.items()}
    results["faces_in_last_frame"] = counts
    if mediapipe is not None:
        results["one_over_mediapipe"] = results["ms_one"] / results["ms_mediapipe"]
    return results


@contextlib.contextmanager
def _mediapipe(path: Path) -> Iterator[Callable[[Frame], Any]]:
    """MediaPipe's answer to a frame."""
    try:
        import mediapipe as mp
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError:
        raise InvalidInputError("--mediapipe: expected MediaPipe to be installed; run: pip install mediapipe") from None
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(path)), running_mode=vision.RunningMode.VIDEO, num_faces=1
    )
    with vision.FaceLandmarker.create_from_options(options) as landmarker:

        def call(frame: Frame) -> Any:
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB))
            return landmarker.detect_for_video(image, round(1000 * frame.time)).face_landmarks

        yield call


def file(studio: Studio, reconstruct: Reconstructor) -> Results:
    """A 1080p file to JSON lines."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "clip.mp4"
        frames = [frame.image for frame in studio.clip([Actor(index=_ACTORS[0], act=_restless(studio, 0))], 2.0)]
        _write(video, [cv2.resize(image, (1920, 1080)) for image in frames], 5)
        from runtime.video_files import track_file

        started = time.perf_counter()
        outcome = track_file(reconstruct, video, Path(folder) / "out", picture=False, max_faces=1)
        seconds = time.perf_counter() - started
    return {
        "file_frames_per_second": outcome.frames / seconds,
        "file_faces": outcome.faces,
        "file_frames": outcome.frames,
    }


def _write(path: Path, images: Sequence[NDArray[Any]], repeats: int) -> None:
    """A video of the images, there and back `repeats` times."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "ultrafast", "crf": "23"}
        for image in itertools.chain.from_iterable((*images, *images[::-1]) for _ in range(repeats)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")))
        container.mux(stream.encode(None))


def memory(studio: Studio, reconstruct: Reconstructor, minutes: float) -> Results:
    """Growth of resident memory after the first minute of video, decoding included."""
    from runtime.video import read_video

    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "clip.mp4"
        frames = [frame.image for frame in studio.clip([Actor(index=_ACTORS[0], act=_restless(studio, 0))], 2.0)]
        _write(video, [cv2.resize(image, (640, 360)) for image in frames], 5)
        tracker, done, first, last = Tracker(reconstruct, max_faces=1), 0, 0.0, 0.0
        while done < minutes * 1800:
            start = done
            for frame in read_video(video):
                tracker(frame.image, (start + frame.index) / 30)
                done += 1
                if done == 1800:
                    first = _resident()
            last = _resident()
    return {"memory_growth_mb": last - first, "memory_frames": done}


def _resident() -> float:
    resident = resident_mb()
    if resident is None:
        raise InvalidInputError("--hour: expected a system that tells a process's memory (Linux), got another")
    return resident


def _measure(options: argparse.Namespace) -> None:
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        raise InvalidInputError(f"--parts: expected {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    if options.hour is not None and options.hour <= 1:
        raise InvalidInputError(
            f"--hour: expected more than the minute that growth is counted from, got {options.hour:g}"
        )
    studio, results = Studio(), {}
    seconds = 2.0 if options.quick else 4.0
    with Reconstructor(options.engine, threads=options.threads) as reconstruct:
        work: dict[str, Callable[[], Results]] = {
            "still": lambda: still(studio, reconstruct, seconds, options.mediapipe),
            "moving": lambda: moving(studio, reconstruct, seconds),
            "leakage": lambda: leakage(studio, reconstruct, seconds),
            "ids": lambda: ids(studio, reconstruct, 6.0 if options.quick else 60.0),
            "turned": lambda: turned(reconstruct),
            "speed": lambda: speed(studio, reconstruct, options.mediapipe),
            "file": lambda: file(studio, reconstruct),
        }
        for name in options.parts:
            print(f"{name} …", file=sys.stderr)
            results[name] = work[name]()
        if options.hour:
            results["memory"] = memory(studio, reconstruct, options.hour)
    values = {"engine": str(options.engine or "bundled"), "device": device(), "versions": versions(), **results}
    publish(values, table(("part", "figure", "value"), _rows(results)), options)


def _rows(results: dict[str, Results]) -> list[list[str]]:
    rows = []
    for part, figures in results.items():
        for name, value in figures.items():
            if isinstance(value, dict):
                text = ", ".join(f"{k}: {v:.2f}" if isinstance(v, float) else f"{k}: {v}" for k, v in value.items())
            else:
                text = str(value) if isinstance(value, int) else number(value, 3)
            rows.append([part, name, text])
    return rows


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stability", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--engine", type=Path, metavar="PATH", help="engine file (default: the bundled network)")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), metavar="PART", help="only these")
    parser.add_argument("--mediapipe", type=Path, metavar="FILE.task", help="MediaPipe's face landmarker, to compare")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of ONNX Runtime")
    parser.add_argument("--hour", type=float, metavar="MINUTES", help="measure memory over so many minutes of video")
    parser.add_argument("--quick", action="store_true", help="shorter clips")
    add_outputs(parser)
    options = parser.parse_args(arguments)
    return run(lambda: _measure(options))


if __name__ == "__main__":
    sys.exit(main())
