"""Face detection: photo in, boxes with six keypoints out, and the region that such a detection gives to the network.

Points and boxes are in image pixels (the centre of the top-left pixel is (0, 0); x right, y down) and may lie outside
of the image. A box is (x, y, w, h), x and y its top-left corner. Keypoints, (6, 2), left and right as seen in the image
of a frontal face: left eye, right eye, nose tip, mouth centre, left tragion (the notch before the ear), right tragion.

The built-in detector is MediaPipe's BlazeFace, full range (Bazarevsky et al., arXiv 1907.05047; Apache-2.0), in
`assets/face_detector.onnx`, which `tools/make_face_detector.py` makes. It sees a letterboxed view of 192 x 192 px (of a
landscape picture 192 x 160), in which each cell of 4 x 4 px votes for one face; votes that overlap are averaged, which
keeps boxes steady.

Any object with `detect(image) -> list[Detection]` takes its place.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.engines.onnx import create_session
from runtime.errors import EngineUnavailableError, FileFormatError, InvalidInputError
from runtime.image import as_bgr
from runtime.pose import angle_between
from runtime.roi import Roi, check_box, crop, on_grid

MODEL_PATH = resources.files("runtime") / "assets" / "face_detector.onnx"

# Side of the network's input. With 160 a pass takes 0.70 times as long, but of faces from 1/20 to 1/8 of the image's
# longer side one look finds a fifth less: 170 in place of 212 of 400, development photographs of AFLW2000-3D shrunk.
_VIEW = 192
# The first look at a landscape sees so many rows alone, the picture at their bottom: a pass takes 0.86 times as long.
# How many faces it finds goes up and down with where the picture lies, the same every 32 px. Of 150 development
# photographs of AFLW2000-3D and 150 renders, at four sizes each (0.05 to 0.3 of the longer side), it finds, and found
# in the middle of 192 rows: in pictures of 4:3 724 and 683, of 3:2 733 and 697, of 16:9 724 and 729. Portraits lie best
# in the middle.
_LANDSCAPE = 160
_CELL = 4  # side of one cell of its output grid
_CANDIDATE = 0.5  # part of the score threshold that earns a small face a closer look
_SMALL = 1 / 6  # of the image's longer side: smaller boxes are looked at again from near
_WORK_SIZE = 960  # in larger images, small faces are searched for in tiles

# BlazeFace's box keeps to eyes and nose and misses the jaw of a turned head: its centre is 16 % of the face off at
# best, the keypoints' weighted mean 7 %. The weights were fitted to the landmark boxes of a model's 68 points under
# random identities, expressions and poses (|yaw| <= 90 degrees), and rounded; the factor was measured on renders of
# heads with the detector's own keypoints, whose tragions lie further in than the ends of the jaw line.
_CENTER_WEIGHTS = np.array([-0.1, -0.1, 0.0, 0.5, 0.35, 0.35])
_BOX_PER_SPREAD = 3.1
# Keypoints crowd together on some faces, ones that are very near or in profile mostly: of 1,706 renders one in sixty
# had a region of less than 0.6 of the side that it should have. The detector's box times 1.36 is right in the median,
# too, and four fifths of that are the least: the mean error in the first regions falls from 2.47 to 2.34 %.
_LEAST_PER_BOX = 0.8 * 1.36
# The head's vertical runs from between the eyes to the mouth, but leans over as the head turns, since the mouth lies
# further in front; so does the line from between the ears to the nose, and this part of it makes up for that: 2 to 5
# degrees are left from front to profile, where the eyes' own line errs by 4 to 11. Settled between the face model's
# geometry (0.15) and the keypoints on 300 development photographs of AFLW2000-3D (0.20 to 0.25).
_LEAN = 0.2
_TILTED = 20.0  # degrees: faces that seem turned by more in their view are looked at again, turned upright
_UPRIGHT = 8.0  # degrees: near enough
_TURNS = 3  # such looks at most
# What a picture turned by quarters shows, where the upright one showed nothing, must be surer by this: of such finds on
# renders, 12 of 22 were wrong below a score of 0.65, and 11 of 34 above.
_TURNED_SURER = 0.05

Points = NDArray[np.float64]  # (n, 8, 2): top-left and bottom-right corner of each box, then its six keypoints
Scores = NDArray[np.float64]  # (n,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Detection:
    """One face: box (x, y, w, h), score in 0..1, and keypoints (6, 2), or None from a detector that has none."""

    box: tuple[float, float, float, float]
    score: float
    keypoints: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        check_box(self.box)
        if self.keypoints is not None and (self.keypoints.shape != (6, 2) or not np.isfinite(self.keypoints).all()):
            raise InvalidInputError(f"keypoints: expected finite numbers of shape (6, 2), got {self.keypoints.shape}")


class FaceDetector(Protocol):
    """What the library asks of a detector."""

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """Faces in a uint8 (H, W, 3) BGR image, best first."""
        ...


def roi_from_detection(detection: Detection) -> Roi:
    """The region to crop: an estimate of what `Roi.from_landmarks` would say of the landmarks and the head's angle.

    It is turned by `head_angle`. Its centre is a fixed weighted mean of the six keypoints, its side sqrt(2) * 3.1 times
    their root-mean-square distance from their mean. Both hold from profile to profile. A detection without keypoints
    gives `Roi.from_box`.
    """
    if detection.keypoints is None:
        return Roi.from_box(detection.box)
    points = detection.keypoints.astype(np.float64)
    center_x, center_y = (float(v) for v in _CENTER_WEIGHTS @ points)
    spread = float(np.sqrt(np.square(points - points.mean(axis=0)).sum(axis=1).mean()))
    side = max(math.sqrt(2) * _BOX_PER_SPREAD * spread, _LEAST_PER_BOX * max(detection.box[2:]))
    return Roi(center_x=center_x, center_y=center_y, side=side, angle=head_angle(points))


def head_angle(keypoints: NDArray[Any]) -> float:
    """How far keypoints (6, 2) are turned in the image, degrees clockwise, -180..180; 0 for an upright head.

    Holds from profile to profile, where the line of the eyes says little.
    """
    down = keypoints[3] - keypoints[:2].mean(axis=0) - _LEAN * (keypoints[2] - keypoints[4:].mean(axis=0))
    return math.degrees(math.atan2(-down[0], down[1]))


class BlazeFaceDetector:
    """The built-in detector, on ONNX Runtime's CPU provider; loads its model when first used.

    One look finds faces from about 1/20 to 1/2 of the image's longer side, turned in the picture by up to about 60
    degrees. Where it finds none, others follow: one view of twice the image's size for faces that fill it, above 960 px
    overlapping views of half its size for small ones, and the picture turned by 90, 180 and 270 degrees, in which the
    score of a face must be higher by 0.05. Small faces, likely or doubtful, are always looked at again from near, which
    settles their score and makes their keypoints precise, and so are turned ones, in a view turned upright by what
    their keypoints say.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.6,
        iou_threshold: float = 0.3,
        max_faces: int | None = None,
        thorough: bool = False,
        quick: bool = False,
        threads: int = 1,
        model_path: Path | Traversable = MODEL_PATH,
    ) -> None:
        """Sets the options.

        Args:
            score_threshold: lowest score of a face, between 0 and 1.
            iou_threshold: boxes that overlap more (intersection over union) are one face.
            max_faces: at most so many, the best; None for all.
            thorough: take all looks always, for group photos (some 40 ms on one core).
            quick: take the first look alone, for videos: what it misses, it may find in the next frame.
            threads: CPU threads; 0 lets ONNX Runtime choose.
            model_path: another copy of `face_detector.onnx`.

        Raises:
            InvalidInputError: an option out of range.
        """
        if not (0 < score_threshold < 1 and 0 < iou_threshold <= 1):
            raise InvalidInputError(
                f"thresholds: expected score and IoU between 0 and 1, got {score_threshold} and {iou_threshold}"
            )
        if thorough and quick:
            raise InvalidInputError("expected thorough or quick, got both")
        if (max_faces is not None and max_faces < 1) or threads < 0:
            raise InvalidInputError(f"expected max_faces >= 1 or None and threads >= 0, got {max_faces} and {threads}")
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_faces = max_faces
        self.thorough, self.quick = thorough, quick
        self.threads = threads
        self.model_path = model_path if isinstance(model_path, Traversable) else Path(model_path)
        self._sessions: dict[int, Any] = {}  # by the rows of the view

    @cached_property
    def glance(self) -> BlazeFaceDetector:
        """The same detector, taking its first look alone: for videos, where the next frame is another chance."""
        other = copy.copy(self)  # sessions are shared by both
        other.thorough, other.quick = False, True
        return other

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """Faces in a uint8 (H, W, 3) BGR image, best first.

        Raises:
            InvalidInputError: the image is no image (see `as_bgr`).
            EngineUnavailableError: ONNX Runtime is not installed.
            FileNotFoundError, FileFormatError: the model file is missing, or no copy of `face_detector.onnx`.
        """
        image = as_bgr(image)
        height, width = image.shape[:2]
        candidate = _CANDIDATE * self.score_threshold
        first, top = _first_view(width, height)
        votes = self._look(image, first, candidate, top=top)
        points, scores = self._settle(image, votes)
        if self.quick or (scores.size and not self.thorough):
            return self._detections(points, scores)
        whole, wide = (_around(width, height, zoom) for zoom in (1, 2))
        views = [wide, *(_tiles(width, height) if max(width, height) > _WORK_SIZE else ())]
        votes += [vote for view in views for vote in self._look(image, view, candidate)]
        points, scores = self._settle(image, votes)
        if scores.size and not self.thorough:
            return self._detections(points, scores)
        votes = [vote for view in (whole, wide) for vote in self._look(image, view, candidate, turns=(1, 2, 3))]
        votes = [_away_from(points, vote) for vote in votes]  # a face that is found may look like others from aside
        turned, turned_scores = self._settle(image, votes)
        sure = turned_scores >= self.score_threshold + _TURNED_SURER
        points, scores = np.concatenate([points, turned[sure]]), np.concatenate([scores, turned_scores[sure]])
        return self._detections(*_merge(points, scores, self.iou_threshold))

    def _detections(self, points: Points, scores: Scores) -> list[Detection]:
        return [_detection(face, score) for face, score in zip(points, scores, strict=True)][: self.max_faces]

    def _settle(self, image: NDArray[np.uint8], votes: list[tuple[Points, Scores]]) -> tuple[Points, Scores]:
        """Faces of the looks' votes, in pixels of `image`; doubtful small ones are kept if a closer look agrees."""
        points, scores = (np.concatenate(parts) for parts in zip(*votes, strict=True))
        points, scores = _merge(points, scores, self.iou_threshold)
        sure = scores >= self.score_threshold
        doubtful = _away_from(points[sure], (points[~sure], scores[~sure]))
        candidates = [*zip(points[sure], scores[sure], strict=True), *zip(*doubtful, strict=True)]
        faces = [self._refine(image, face, score) for face, score in candidates]
        points = np.array([face for face, _ in faces]).reshape(-1, 8, 2)
        scores = np.array([score for _, score in faces])
        good = scores >= self.score_threshold
        return _merge(points[good], scores[good], self.iou_threshold)

    def _refine(self, image: NDArray[np.uint8], face: Points, score: float) -> tuple[Points, float]:
        """A face (8, 2) in pixels of `image`; seen again where it is too small or too turned for precise keypoints."""
        angle = _apparent_angle(face[2:])
        tilted = abs(angle) > _TILTED
        side = float((face[1] - face[0]).max())
        if not tilted and side >= _SMALL * max(image.shape[:2]):
            return face, score
        angle = angle if tilted else 0.0
        for _ in range(_TURNS if tilted else 1):
            center_x, center_y = np.clip(face[:2].mean(axis=0), 0, np.array(image.shape[1::-1]) - 1).tolist()
            view = on_grid(Roi(center_x=center_x, center_y=center_y, side=4 * max(side, 1.0), angle=angle))
            (votes,) = self._look(image, view, self.score_threshold)
            points, scores = _merge(*votes, self.iou_threshold)
            same = np.flatnonzero(_iou(face[:2], points[:, :2]) > self.iou_threshold)
            if not same.size:
                break
            face, score = points[same[0]], float(scores[same[0]])
            side = float((face[1] - face[0]).max())
            left = angle_between(head_angle(face[2:]), view.angle)
            if abs(left) < _UPRIGHT:
                break
            angle = view.angle + left
        return face, score

    def _look(
        self, image: NDArray[np.uint8], view: Roi, threshold: float, *, turns: Sequence[int] = (0,), top: int = 0
    ) -> list[tuple[Points, Scores]]:
        """Votes of one view, in pixels of `image`, for each number of quarter turns that it is looked at in.

        `top` rows of a view that is not turned are left out.
        """
        canvas = _render(image, view)[top:]
        found = []
        for turn in turns:
            turned = np.ascontiguousarray(np.rot90(canvas, turn))
            boxes, logits = self._session(len(turned)).run(["boxes", "scores"], {"image": turned[np.newaxis]})
            points, scores = _decode(boxes[0], logits[0, :, 0], threshold)
            points[..., 1] += top
            # The network measures from a pixel's corner, the library from its centre: hence the half.
            upright = Roi(center_x=(_VIEW - 1) / 2, center_y=(_VIEW - 1) / 2, side=_VIEW, angle=90 * turn)
            found.append((_placed(upright.to_image(points - 0.5, _VIEW), view), scores))
        return found

    def _session(self, rows: int) -> Any:
        """The network for views of so many rows."""
        if rows not in self._sessions:
            self._sessions[rows] = self._load(rows)
        return self._sessions[rows]

    def _load(self, rows: int) -> Any:
        cells = (rows // _CELL) * (_VIEW // _CELL)
        try:
            session = create_session(
                self.model_path.read_bytes(),
                name=f"face detection ({self.model_path.name})",
                providers=["CPUExecutionProvider"],
                threads=self.threads or None,
                sizes={"height": rows, "cells": cells},
            )
        except EngineUnavailableError as error:
            raise EngineUnavailableError(f"{error}, or pass the faces' boxes yourself") from None
        expected = {
            "image": ("tensor(uint8)", [1, rows, _VIEW, 3]),
            "boxes": ("tensor(float)", [1, cells, 16]),
            "scores": ("tensor(float)", [1, cells, 1]),
        }
        signature = {node.name: (node.type, node.shape) for node in [*session.get_inputs(), *session.get_outputs()]}
        if signature != expected:
            raise FileFormatError(
                f"{self.model_path}: expected the face detector, got a network with {signature}; "
                "reinstall the package, or make the file again with tools/make_face_detector.py"
            )
        return session


def _around(width: int, height: int, zoom: int) -> Roi:
    return Roi(center_x=(width - 1) / 2, center_y=(height - 1) / 2, side=zoom * max(width, height))


def _first_view(width: int, height: int) -> tuple[Roi, int]:
    """The whole image, and how many of the view's rows, all black, are left out."""
    if height > _LANDSCAPE / _VIEW * width:
        return _around(width, height, zoom=1), 0
    return Roi(center_x=(width - 1) / 2, center_y=height - (width + 1) / 2, side=width), _VIEW - _LANDSCAPE


def _tiles(width: int, height: int) -> list[Roi]:
    """Views of half the image's longer side that overlap by half or more."""
    side = -(-max(width, height) // 2)
    middles = []
    for length in (width, height):
        count = max(-(-2 * (length - side) // side), 0) + 1
        first, last = (0, length - side) if count > 1 else ((length - side) / 2,) * 2
        middles.append([v + (side - 1) / 2 for v in np.linspace(first, last, count).tolist()])
    return [Roi(center_x=x, center_y=y, side=side) for y in middles[1] for x in middles[0]]


def _render(image: NDArray[np.uint8], view: Roi) -> NDArray[np.uint8]:
    """The view as uint8 (192, 192, 3); what lies outside of the image is black, as in training."""
    canvas: NDArray[np.uint8] = crop(image, [view], _VIEW)[0]
    height, width = image.shape[:2]
    if view.reach <= 0.5 + min(view.center_x, view.center_y, width - 1 - view.center_x, height - 1 - view.center_y):
        return canvas  # it lies inside
    corners = np.array([(-0.5, -0.5), (width - 0.5, -0.5), (width - 0.5, height - 0.5), (-0.5, height - 0.5)])
    mask = np.zeros((_VIEW, _VIEW), np.uint8)
    outline = np.clip(view.to_crop(corners, _VIEW), -(10**6), 10**6)
    cv2.fillConvexPoly(mask, np.rint(outline * 16).astype(np.int32), 255, shift=4)
    return np.asarray(cv2.bitwise_and(canvas, canvas, mask=mask), dtype=np.uint8)


def _placed(points: Points, view: Roi) -> Points:
    """A view's faces in the image's pixels: their boxes stay upright and keep their size about their middles."""
    placed = view.to_image(points, _VIEW)
    half = np.abs(points[:, 1] - points[:, 0]) / 2 * (view.side / _VIEW)
    middle = placed[:, :2].mean(axis=1)
    placed[:, 0], placed[:, 1] = middle - half, middle + half
    return placed


def _apparent_angle(keypoints: NDArray[np.float64]) -> float:
    """The head's angle, or the eye line's where that says more: network and lines go wrong together past 60 degrees."""
    across = keypoints[1] - keypoints[0]
    angles = head_angle(keypoints), math.degrees(math.atan2(across[1], across[0]))
    near_profile = float(np.hypot(*across)) < 0.3 * float(np.linalg.norm(keypoints[3] - keypoints[:2].mean(axis=0)))
    return angles[0] if near_profile else max(angles, key=abs)


def _decode(boxes: NDArray[np.float32], logits: NDArray[np.float32], threshold: float) -> tuple[Points, Scores]:
    """Cells that vote for a face, in view pixels."""
    chosen = np.flatnonzero(logits > math.log(threshold / (1 - threshold)))
    chosen = chosen[(boxes[chosen, 2:4] > 0).all(axis=1)]
    points = boxes[chosen].astype(np.float64).reshape(-1, 8, 2)  # centre, size, six keypoints
    row, column = np.divmod(chosen, _VIEW // _CELL)
    anchors = (np.stack([column, row], axis=1) + 0.5) * _CELL
    half = points[:, 1] / 2
    center = points[:, 0] + anchors
    points[:, 2:] += anchors[:, np.newaxis]
    points[:, 0], points[:, 1] = center - half, center + half
    return points, 1 / (1 + np.exp(-logits[chosen].astype(np.float64)))


def _merge(points: Points, scores: Scores, iou_threshold: float) -> tuple[Points, Scores]:
    """Non-maximum suppression, best first, that averages by score the votes it removes (BlazeFace's paper, 3.4)."""
    faces, best = [np.empty((0, 8, 2))], []
    left = np.argsort(-scores, kind="stable")
    while left.size:
        same = _iou(points[left[0], :2], points[left, :2]) > iou_threshold
        same[0] = True
        group = left[same]
        faces.append(np.average(points[group], axis=0, weights=scores[group])[np.newaxis])
        best.append(scores[group[0]])
        left = left[~same]
    return np.concatenate(faces), np.array(best)


def _away_from(faces: Points, vote: tuple[Points, Scores]) -> tuple[Points, Scores]:
    """What of the votes lies on none of the faces: no middle inside the other's box."""
    points, scores = vote
    middles, sides = points[:, :2].mean(axis=1), points[:, 1] - points[:, 0]
    gaps = np.abs(middles[:, np.newaxis] - faces[:, :2].mean(axis=1))
    touching = (2 * gaps < np.maximum(sides[:, np.newaxis], faces[:, 1] - faces[:, 0])).all(axis=2).any(axis=1)
    return points[~touching], scores[~touching]


def _detection(points: Points, score: float) -> Detection:
    (x0, y0), (x1, y1) = points[:2].tolist()
    return Detection(box=(x0, y0, x1 - x0, y1 - y0), score=float(score), keypoints=points[2:].astype(np.float32))


def _iou(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[Any]:
    """Intersection over union of a box (2, 2) (top-left, bottom-right) with each of (n, 2, 2)."""
    overlap = np.clip(np.minimum(box[1], boxes[:, 1]) - np.maximum(box[0], boxes[:, 0]), 0, None).prod(axis=1)
    areas = (boxes[:, 1] - boxes[:, 0]).prod(axis=1)
    return np.asarray(overlap / (areas + (box[1] - box[0]).prod() - overlap))
