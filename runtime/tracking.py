"""`Tracker`: frames with time stamps in, faces with ids that stay out: steady, and at the cost of the network alone.

A face's region comes from the frame before, moved on by its speed; small wanderings of it are ignored, so that a still
head is cropped alike in every frame. The detector looks

- in every frame while there is no face (all its looks twice a second, else its first alone),
- twice a second for new faces while fewer than `max_faces` are tracked, ten times while one has just gone,
- at a tracked face alone, in a view turned upright: once a second, and whenever the face's looks change at once.

One such look takes some 3 ms: about 0.3 ms a frame at 30 frames/s with one face and room for more.

A track ends when its landmarks leave the picture, when the detector no longer sees a face there, when another track has
the same face, or when the scene changes. For `patience` seconds it is remembered: a face that is found again at a place
that it can have reached, and looks alike, keeps its id; any other gets a new one. For the first second the place says
much, and half of a face that comes out from behind something will do; later, the looks alone must tell people apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.engines.gpu_crop import is_on_gpu
from runtime.errors import InvalidInputError
from runtime.face import Face, Pose
from runtime.image import as_bgr
from runtime.pose import angle_between
from runtime.regions import is_off, own_rois
from runtime.roi import Roi, crop, maps, on_grid
from runtime.smoothing import FilterState, Placed, Smoothing, find_setting, place, smooth, unplace

if TYPE_CHECKING:
    from runtime.detection import Detection, FaceDetector
    from runtime.reconstructor import Reconstructor

Array = NDArray[np.float64]

_SEARCH = 0.5  # seconds between looks for new faces
_MISSING = 0.1  # ... while a face is missing
_CHECK = 1.0  # seconds between looks at a tracked face
_DOUBTFUL = 0.2  # ... after one that found nothing
_DOUBTS = 3  # looks in a row that may find nothing, as they do in profile
_REST = 0.02  # of its side: a region stays where it is while its face moves less; its size and turn likewise
_REST_ANGLE = 2.0  # degrees
_FAR, _FAR_TURNED = 0.15, 20.0  # of its side, degrees: a region that was off by more is cut again around its find
_SAME = 0.35  # of the side: middles that are nearer belong to one face
_INSIDE = 0.4  # part of the landmarks that must lie in the picture
_SMALLEST = 12.0  # pixels: side of the smallest region
_THUMB = 16  # side of the picture by which a face's looks are compared
_CHANGED = 0.7  # correlation with the last looks below which the detector is asked
_ALIKE = 0.5  # correlation with the looks over the track that a face found again at once must have
_ALIKE_LATER = 0.85  # ... after `_LATER`: of 12 rendered heads, one in a hundred others has more, all their own do
_SOON, _LATER = 1.0, 2.0  # seconds: in between, it rises; until `_LATER`, a missing face is searched for often
_ALIKE_AFTER_CUT = 0.9  # ... after a change of scene, where another face may take the place
_HESITATION = 0.35  # seconds for which a face that may be a missing one, but looks unlike it, is not called new
_GROWN = 1.5  # factor by which a region may grow or shrink within half a second
_SIZE_TIME = 0.5  # seconds
_CUT = 0.5  # correlation of two frames below which the scene has changed
_REACH = 3.0  # sides per second that a missing face may have moved


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackedFace:
    """One face of a frame: smoothed as `face`, and `raw`, as the network alone sees it."""

    id: int
    age: int  # frames since it was first seen
    face: Face
    raw: Face

    @property
    def params(self) -> NDArray[np.float32]:
        """Smoothed params (12 + S + E,), in the frame of `face.roi`'s crop."""
        return self.face.params

    @property
    def landmarks(self) -> NDArray[np.float32]:
        """Smoothed landmarks (68, 3), image pixels."""
        return self.face.landmarks

    @property
    def pose(self) -> Pose:
        """Smoothed head pose."""
        return self.face.pose


@dataclass(kw_only=True)
class _Track:
    """A face on its way through the frames."""

    id: int
    roi: Roi  # where the next frame is cut
    score: float
    age: int = 0
    seen: float = 0.0  # seconds
    checked: float = 0.0
    doubts: int = 0
    suspected: float = -math.inf  # since when a face is seen that may be this one
    cut: bool = False  # whether it ended with a scene
    center: tuple[float, float] | None = None  # of the region that the last landmarks gave
    speed: tuple[float, float] = (0.0, 0.0)  # pixels per second
    state: FilterState | None = None
    size: float = 0.0  # side of its region over the last half second
    recent: Array | None = None  # its looks: of late, and over the track
    known: Array | None = None


@dataclass(kw_only=True)
class _Found:
    """What the network says of a track in a frame."""

    roi: Roi  # that it was cut by
    params: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    placed: Placed  # of one face
    next_roi: Roi  # that its landmarks give
    inside: float  # part of the landmarks that lie in the picture
    looks: Array | None  # None for frames on the GPU


class Tracker:
    """Follows faces through the frames of one video or camera.

    Example:
        tracker = Tracker(Reconstructor())
        for frame in read_video("talk.mp4"):
            for face in tracker(frame.image, frame.time):
                print(face.id, face.pose.yaw)
    """

    def __init__(
        self,
        reconstruct: Reconstructor,
        *,
        max_faces: int = 4,
        smoothing: str | Smoothing | None = "responsive",
        patience: float = 5.0,
    ) -> None:
        """Sets the options.

        Args:
            reconstruct: its engine, face model and detector are used.
            max_faces: at most so many are tracked; 1 saves the looks for more.
            smoothing: `still`, `responsive` or `off` (`runtime.smoothing`), or own cutoffs.
            patience: seconds for which a face that is gone keeps its id.

        Raises:
            InvalidInputError: an option out of range.
        """
        if max_faces < 1 or not 0 <= patience < math.inf:
            raise InvalidInputError(f"expected max_faces >= 1 and patience >= 0, got {max_faces} and {patience}")
        self._reconstruct = reconstruct
        self._setting = find_setting(smoothing)
        self.max_faces, self.patience = max_faces, patience
        self._next_id = 0
        self.reset()

    def reset(self) -> None:
        """Forgets all faces and the time: the next frame starts another video. Ids go on."""
        self._tracks: list[_Track] = []
        self._missing: list[_Track] = []  # for up to `patience`
        self._time: float | None = None
        self._searched = self._searched_all = -math.inf
        self._sparse: Array | None = None

    def __call__(self, frame: Any, timestamp: float) -> list[TrackedFace]:
        """The faces of the next frame, by id.

        Args:
            frame: uint8 (H, W, 3) BGR, in host memory or, with a `.engine`, on the GPU, where it then stays but for the
                detector's looks. Its size may change.
            timestamp: seconds, later than the last one's; of any origin, at any rate.

        Raises:
            InvalidInputError: no image, or a time that isn't later.
        """
        time = float(timestamp)
        if not math.isfinite(time) or (self._time is not None and time <= self._time):
            raise InvalidInputError(
                f"time stamp: expected seconds after the last frame's {self._time}, got {timestamp}; "
                "call reset() for another video"
            )
        on_gpu = is_on_gpu(frame)
        image = frame if on_gpu else as_bgr(frame)
        step = 0.0 if self._time is None else time - self._time
        self._time = time
        cut = not on_gpu and self._scene_changed(image)
        self._missing = [track for track in self._missing if time - track.seen <= self.patience]
        found = self._run(image, [track.roi for track in self._tracks])
        self._judge(image, time, found, cut=cut)
        self._search(image, time, found)
        return self._finish(found, step)

    # Which faces are there

    def _lose(self, tracks: Sequence[_Track]) -> None:
        gone = {id(track) for track in tracks}
        self._missing += [track for track in self._tracks if id(track) in gone]
        self._tracks = [track for track in self._tracks if id(track) not in gone]

    def _scene_changed(self, image: NDArray[np.uint8]) -> bool:
        """Whether some hundred pixels of the frame have little to do with those of the frame before."""
        steps = [max(length // 24, 1) for length in image.shape[:2]]
        sparse = _standardized(image[np.newaxis, steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]])[0]
        before, self._sparse = self._sparse, sparse
        return before is not None and before.shape == sparse.shape and float(before @ sparse) < _CUT

    def _search(self, image: Any, time: float, found: list[_Found]) -> None:
        """Looks for new and missing faces, where it is time to, and adds them to `found`.

        Comes last: a face that was lost in this frame, as where frames were dropped, may be found elsewhere in it.
        """
        if len(self._tracks) >= self.max_faces:
            return
        hurry = any(time - track.seen < _LATER for track in self._missing)
        pause = (_MISSING if hurry else _SEARCH) if self._tracks else 0.0
        if time - self._searched < pause:
            return
        every = not self._tracks and time - self._searched_all >= _SEARCH
        detector = self._reconstruct.detector if every else self._glance
        self._searched = time
        if every:
            self._searched_all = time
        from runtime.detection import roi_from_detection

        host = self._to_host(image)
        seen = [(roi_from_detection(detection), detection) for detection in detector.detect(host)]
        seen = [(roi, d) for roi, d in seen if not any(_near(roi, one.next_roi) for one in found)]
        started = [self._start(host, roi, d, time) for roi, d in seen[: self.max_faces - len(self._tracks)]]
        new = [track for track in started if track is not None]
        for track, one in zip(new, self._run(image, [track.roi for track in new]), strict=True):
            if _holds(one) and not any(_near(one.next_roi, other.next_roi) for other in found):
                _remember(track, one.looks)
                track.seen = time
                self._tracks.append(track)
                found.append(one)
            elif track.age:
                self._missing.append(track)

    def _start(self, image: NDArray[np.uint8], roi: Roi, detection: Detection, time: float) -> _Track | None:
        """A new track, or the missing one that this is; none where that shows only in a moment."""
        looks = _looks(crop(image, [roi], self._reconstruct.engine.manifest.input_size))[0]
        candidates, doubtful = [], False
        for track in self._missing:
            way = math.hypot(roi.center_x - track.roi.center_x, roi.center_y - track.roi.center_y)
            alike = 1.0 if track.known is None else float(track.known @ looks)
            if way > roi.side * (0.5 + _REACH * (time - track.seen)) or _grown(track, roi) > _GROWN:
                continue
            if alike > (_ALIKE_AFTER_CUT if track.cut else _alike_enough(time - track.seen)):
                candidates.append((alike, track))
            elif not track.cut:  # half hidden still by what covered it?
                if time - track.suspected > 2 * _HESITATION:  # that was another time
                    track.suspected = time
                doubtful = doubtful or time - track.suspected < _HESITATION
        if doubtful and not candidates:
            return None
        if not candidates:
            self._next_id += 1
            return _Track(id=self._next_id - 1, roi=roi, score=detection.score, checked=time)
        track = max(candidates, key=lambda pair: pair[0])[1]
        self._missing.remove(track)
        return _Track(
            id=track.id, roi=roi, score=detection.score, age=track.age, seen=track.seen, checked=time,
            known=track.known, size=roi.side,
        )  # fmt: skip

    @property
    def _glance(self) -> FaceDetector:
        """The detector with its first look alone."""
        detector = self._reconstruct.detector
        return getattr(detector, "glance", detector)

    def _to_host(self, image: Any) -> NDArray[np.uint8]:
        engine: Any = self._reconstruct.engine
        return np.asarray(engine.to_host(image) if is_on_gpu(image) else image)

    # What the network says

    def _run(self, image: Any, rois: list[Roi]) -> list[_Found]:
        """All faces in one call; those whose region was far off once more."""
        found = self._see(image, rois)
        again = [i for i, one in enumerate(found) if _off(one.roi, one.next_roi)]
        better = self._see(image, [on_grid(found[i].next_roi) for i in again])
        for i, one in zip(again, better, strict=True):
            found[i] = one
        return found

    def _see(self, image: Any, rois: list[Roi]) -> list[_Found]:
        if not rois:
            return []
        reconstruct = self._reconstruct
        looks: Sequence[Array | None] = [None] * len(rois)
        size = reconstruct.engine.manifest.input_size
        if is_on_gpu(image):
            params = reconstruct.run(image, rois)
        else:
            crops = crop(image, rois, size)
            params = reconstruct.run(image, rois) if reconstruct.cuts_frames else reconstruct.engine(crops)
            looks = list(_looks(crops))
        linear, offset = maps(rois, size)
        landmarks = reconstruct.landmarks(params, linear, offset)
        placed = place(params, linear, offset, reconstruct.face_model.shape_count)
        next_rois = own_rois(placed.rotation, landmarks, rois)
        height, width = image.shape[:2]
        inside = ((landmarks[:, :, :2] >= 0) & (landmarks[:, :, :2] < (width, height))).all(axis=2).mean(axis=1)
        return [
            _Found(
                roi=roi,
                params=params[i],
                landmarks=landmarks[i],
                placed=placed.take(slice(i, i + 1)),
                next_roi=next_rois[i],
                inside=float(inside[i]),
                looks=looks[i],
            )
            for i, roi in enumerate(rois)
        ]

    def _judge(self, image: Any, time: float, found: list[_Found], *, cut: bool) -> None:
        """Ends the tracks whose face is gone; `found` keeps the others'."""
        alike = [_likeness(track, one.looks) for track, one in zip(self._tracks, found, strict=True)]
        lost = [not _holds(one) for one in found]
        for i, one in enumerate(found):  # two tracks of one face: it is the one's whose looks it has
            for k in range(i):
                if not (lost[i] or lost[k]) and _near(one.next_roi, found[k].next_roi):
                    lost[i if alike[i][1] <= alike[k][1] else k] = True
        for i, (track, one) in enumerate(zip(self._tracks, found, strict=True)):
            if lost[i]:
                continue
            changed = track.age > 0 and (alike[i][0] < _CHANGED or _grown(track, one.next_roi) > _GROWN)
            if changed and cut:  # a face there is another scene's
                lost[i] = track.cut = True
            elif changed or time - track.checked >= (_DOUBTFUL if track.doubts else _CHECK):
                others = [other.next_roi for k, other in enumerate(found) if k != i and not lost[k]]
                lost[i] = not self._confirm(image, track, one, others, time, changed=changed)
                if changed:
                    track.recent = None
            _remember(track, one.looks)
        self._lose([track for track, gone in zip(self._tracks, lost, strict=True) if gone])
        found[:] = [one for one, gone in zip(found, lost, strict=True) if not gone]
        for track in self._tracks:
            track.seen = time

    def _confirm(
        self, image: Any, track: _Track, found: _Found, others: list[Roi], time: float, *, changed: bool
    ) -> bool:
        """Whether the detector sees a face there that is no other track's; after a change at once, else in the end."""
        from runtime.detection import roi_from_detection

        roi = found.next_roi
        view = on_grid(replace(roi, side=2.2 * roi.side))
        picture = crop(self._to_host(image), [view], 192)[0]
        track.checked = time
        for detection in self._glance.detect(picture):
            seen = roi_from_detection(detection)
            x, y = view.to_image(np.array((seen.center_x, seen.center_y)), 192).tolist()
            seen = Roi(center_x=x, center_y=y, side=seen.side * view.side / 192)
            if _near(seen, roi) and not any(_near(seen, other) for other in others):
                track.doubts, track.score = 0, detection.score
                return True
        track.doubts += 1
        return not changed and track.doubts < _DOUBTS

    # What comes out

    def _finish(self, found: list[_Found], step: float) -> list[TrackedFace]:
        setting, tracks = self._setting, self._tracks
        if not found:
            return []
        rois = [one.roi for one in found]
        params, landmarks = np.array([one.params for one in found]), np.array([one.landmarks for one in found])
        raw = faces = self._faces(params, landmarks, rois)
        if setting is not None:
            placed = self._smoothed(Placed.join([one.placed for one in found]), rois, step, setting)
            linear, offset = maps(rois, self._reconstruct.engine.manifest.input_size)
            params = unplace(placed, linear, offset)
            faces = self._faces(params, self._reconstruct.landmarks(params, linear, offset), rois)
        result = [
            TrackedFace(id=track.id, age=track.age, face=face, raw=own)
            for track, face, own in zip(tracks, faces, raw, strict=True)
        ]
        for track, one in zip(tracks, found, strict=True):
            _move_on(track, one, step)
        return sorted(result, key=lambda face: face.id)

    def _faces(self, params: NDArray[np.float32], landmarks: NDArray[np.float32], rois: list[Roi]) -> list[Face]:
        low = landmarks[:, :, :2].min(axis=1)
        boxes = np.concatenate([low, landmarks[:, :, :2].max(axis=1) - low], axis=1).tolist()
        scores = [track.score for track in self._tracks]
        return self._reconstruct.faces(params, rois, [tuple(box) for box in boxes], scores, landmarks)

    def _smoothed(self, placed: Placed, rois: list[Roi], step: float, setting: Smoothing) -> Placed:
        sides = np.array([roi.side for roi in rois])
        states = [track.state for track in self._tracks]
        filtered, after = smooth(placed, states, sides, step or 1.0, setting)
        for track, state in zip(self._tracks, after, strict=True):
            track.state = state
        return filtered


def _off(roi: Roi, better: Roi) -> bool:
    return is_off(roi, better, way=_FAR, turn=_FAR_TURNED)


def _grown(track: _Track, roi: Roi) -> float:
    return max(roi.side / track.size, track.size / roi.side) if track.size else 1.0


def _alike_enough(gone: float) -> float:
    """The correlation that a face found again must have, `gone` seconds after it was seen last."""
    return _ALIKE + (_ALIKE_LATER - _ALIKE) * min(max((gone - _SOON) / (_LATER - _SOON), 0.0), 1.0)


def _near(roi: Roi, other: Roi) -> bool:
    way = math.hypot(roi.center_x - other.center_x, roi.center_y - other.center_y)
    return way < _SAME * max(roi.side, other.side)


def _holds(found: _Found) -> bool:
    """Whether what was found can be a face of the picture: inside of it, not tiny, and where it was looked for."""
    return found.inside >= _INSIDE and found.next_roi.side >= _SMALLEST and not _off(found.roi, found.next_roi)


def _standardized(pixels: NDArray[Any]) -> Array:
    """Pixels (F, …) as vectors (F, N) of mean 0, length 1 (0 where all are alike): products are correlations."""
    values = pixels.reshape(len(pixels), -1).astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    lengths = np.sqrt(np.einsum("fn,fn->f", values, values))
    return np.asarray(values / np.maximum(lengths, 1e-6)[:, np.newaxis])


def _looks(crops: NDArray[np.uint8]) -> Array:
    """The looks (F, 768) of faces' crops: small pictures of the inner three quarters, in colour, standardised."""
    size = crops.shape[1]
    block = max((3 * size + 2 * _THUMB) // (4 * _THUMB), 1)
    start = max(size - _THUMB * block, 0) // (2 * block) * block
    end = start + _THUMB * block
    thumbs = np.empty((len(crops), _THUMB, _THUMB, 3), np.uint8)
    for pixels, out in zip(crops, thumbs, strict=True):  # one C call per face
        cv2.resize(pixels[start:end, start:end], (_THUMB, _THUMB), dst=out, interpolation=cv2.INTER_AREA)
    return _standardized(thumbs)


def _likeness(track: _Track, looks: Array | None) -> tuple[float, float]:
    """Correlation of its looks with those of late, and with those over the track; 1 where nothing is known."""
    pair = [1.0 if known is None or looks is None else float(known @ looks) for known in (track.recent, track.known)]
    return pair[0], pair[1]


def _remember(track: _Track, looks: Array | None) -> None:
    if looks is None:
        return
    track.recent = looks if track.recent is None else _blend(track.recent, looks, 0.3)
    track.known = looks if track.known is None else _blend(track.known, looks, 0.03)


def _blend(old: Array, new: Array, share: float) -> Array:
    mixed = (1 - share) * old + share * new
    return np.asarray(mixed / max(math.sqrt(mixed @ mixed), 1e-6))


def _move_on(track: _Track, found: _Found, step: float) -> None:
    """Where the next frame is cut: where the face was, moved on by its speed; what moves little stays."""
    now, old = found.next_roi, found.roi
    center = now.center_x, now.center_y
    if track.center is not None and step > 0:
        moves = (center[0] - track.center[0]) / step, (center[1] - track.center[1]) / step
        track.speed = 0.5 * track.speed[0] + 0.5 * moves[0], 0.5 * track.speed[1] + 0.5 * moves[1]
    track.center = center
    track.age += 1
    share = 1 - math.exp(-step / _SIZE_TIME) if track.size else 1.0
    track.size = (track.size or now.side) * (now.side / (track.size or now.side)) ** share
    ahead = step * min(1.0, 0.25 * now.side / max(math.hypot(*track.speed) * step, 1e-9))
    x, y = center[0] + ahead * track.speed[0], center[1] + ahead * track.speed[1]
    way = math.hypot(x - old.center_x, y - old.center_y)
    rest = _REST * old.side
    go = max(0.0, 1 - rest / way) if way > 0 else 0.0
    grown = math.log(now.side / old.side)
    side = old.side * math.exp(math.copysign(max(0.0, abs(grown) - _REST), grown))
    turn = angle_between(now.angle, old.angle)
    angle = old.angle + math.copysign(max(0.0, abs(turn) - _REST_ANGLE), turn)
    roi = Roi(
        center_x=old.center_x + go * (x - old.center_x),
        center_y=old.center_y + go * (y - old.center_y),
        side=side,
        angle=angle_between(angle, 0.0),
    )
    track.roi = on_grid(roi)
