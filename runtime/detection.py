"""Face detection: photo in, boxes with six keypoints out, and the region that such a detection gives to the network.

Points and boxes are in image pixels (the centre of the top-left pixel is (0, 0); x right, y down) and may lie outside
of the image. A box is (x, y, w, h), x and y its top-left corner. Keypoints, (6, 2), left and right as seen in the image
of a frontal face: left eye, right eye, nose tip, mouth centre, left tragion (the notch before the ear), right tragion.

The built-in detector is MediaPipe's BlazeFace, full range (Bazarevsky et al., arXiv 1907.05047; Apache-2.0), in
`assets/face_detector.onnx`, which `tools/make_face_detector.py` makes. It sees a letterboxed view of 192 x 192 px, in
which each cell of 4 x 4 px votes for one face; votes that overlap are averaged, which keeps boxes steady.

Any object with `detect(image) -> list[Detection]` takes its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.engines.onnx import create_session
from runtime.errors import EngineUnavailableError, FileFormatError, InvalidInputError
from runtime.image import as_bgr
from runtime.roi import Roi, check_box

MODEL_PATH = Path(__file__).parent / "assets" / "face_detector.onnx"

_VIEW = 192  # side of the network's input
_CELL = 4  # side of one cell of its output grid
_SIGNATURE = {
    "image": ("tensor(uint8)", [1, _VIEW, _VIEW, 3]),
    "boxes": ("tensor(float)", [1, (_VIEW // _CELL) ** 2, 16]),
    "scores": ("tensor(float)", [1, (_VIEW // _CELL) ** 2, 1]),
}
_CANDIDATE = 0.5  # part of the score threshold that earns a small face a closer look
_SMALL = 1 / 6  # of the image's longer side: smaller boxes are looked at again from near
_WORK_SIZE = 960  # larger images are averaged down to about this size first: no view needs more

# BlazeFace's box keeps to eyes and nose and misses the jaw of a turned head: its centre is 16 % of the face off at
# best, the keypoints' weighted mean 7 %. The weights were fitted to the landmark boxes of a model's 68 points under
# random identities, expressions and poses (|yaw| <= 90 degrees), and rounded; the factor was measured on renders of
# heads with the detector's own keypoints, whose tragions lie further in than the ends of the jaw line.
_CENTER_WEIGHTS = np.array([-0.1, -0.1, 0.0, 0.5, 0.35, 0.35])
_BOX_PER_SPREAD = 3.1

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
    """The region to crop: an estimate of what `Roi.from_landmarks` would say.

    Its centre is a fixed weighted mean of the six keypoints, its side sqrt(2) * 3.1 times their root-mean-square
    distance from their mean. Both hold from profile to profile. A detection without keypoints gives `Roi.from_box`.
    """
    if detection.keypoints is None:
        return Roi.from_box(detection.box)
    points = detection.keypoints.astype(np.float64)
    center_x, center_y = (float(v) for v in _CENTER_WEIGHTS @ points)
    spread = float(np.sqrt(np.square(points - points.mean(axis=0)).sum(axis=1).mean()))
    return Roi(center_x=center_x, center_y=center_y, side=math.sqrt(2) * _BOX_PER_SPREAD * spread)


class BlazeFaceDetector:
    """The built-in detector, on ONNX Runtime's CPU provider; loads its model when first used.

    One pass finds faces from about 1/20 to 1/2 of the image's longer side. Where it finds none, a second look follows:
    one view of twice the image's size for faces that fill it, and, above 960 px, overlapping views of half its size for
    small ones. Small faces, likely or doubtful, are always looked at again from near, which settles their score and
    makes their keypoints precise.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.6,
        iou_threshold: float = 0.3,
        max_faces: int | None = None,
        thorough: bool = False,
        threads: int = 1,
        model_path: Path = MODEL_PATH,
    ) -> None:
        """Sets the options.

        Args:
            score_threshold: lowest score of a face, between 0 and 1.
            iou_threshold: boxes that overlap more (intersection over union) are one face.
            max_faces: at most so many, the best; None for all.
            thorough: take the second look always, for group photos (some 25 ms on one core).
            threads: CPU threads; 0 lets ONNX Runtime choose.
            model_path: another copy of `face_detector.onnx`.

        Raises:
            InvalidInputError: an option out of range.
        """
        if not (0 < score_threshold < 1 and 0 < iou_threshold <= 1):
            raise InvalidInputError(
                f"thresholds: expected score and IoU between 0 and 1, got {score_threshold} and {iou_threshold}"
            )
        if (max_faces is not None and max_faces < 1) or threads < 0:
            raise InvalidInputError(f"expected max_faces >= 1 or None and threads >= 0, got {max_faces} and {threads}")
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_faces = max_faces
        self.thorough = thorough
        self.threads = threads
        self.model_path = Path(model_path)

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """Faces in a uint8 (H, W, 3) BGR image, best first.

        Raises:
            InvalidInputError: the image is no image (see `as_bgr`).
            EngineUnavailableError: ONNX Runtime is not installed.
            FileNotFoundError, FileFormatError: the model file is missing, or no copy of `face_detector.onnx`.
        """
        source = as_bgr(image)
        block = _block(source.shape[1], source.shape[0])
        image = _average(source, block)
        height, width = image.shape[:2]
        candidate = self.score_threshold * _CANDIDATE
        votes = [self._look(image, _View.around(width, height, zoom=1), candidate)]
        points, scores = self._settle(image, votes)
        if self.thorough or not scores.size:
            views = [_View.around(width, height, zoom=2)]
            if max(source.shape[:2]) > _WORK_SIZE:
                views += _tiles(width, height)
            votes += [self._look(image, view, candidate) for view in views]
            points, scores = self._settle(image, votes)
        faces = zip((points + 0.5) * block - 0.5, scores, strict=True)
        return [_detection(face, score) for face, score in faces][: self.max_faces]

    def _settle(self, image: NDArray[np.uint8], votes: list[tuple[Points, Scores]]) -> tuple[Points, Scores]:
        """Faces of the views' votes, in pixels of `image`; doubtful small ones are kept if a closer look agrees."""
        points, scores = (np.concatenate(parts) for parts in zip(*votes, strict=True))
        candidates = zip(*_merge(points, scores, self.iou_threshold), strict=True)
        faces = [self._refine(image, face, score) for face, score in candidates]
        points = np.array([face for face, _ in faces]).reshape(-1, 8, 2)
        scores = np.array([score for _, score in faces])
        good = scores >= self.score_threshold
        return _merge(points[good], scores[good], self.iou_threshold)

    def _refine(self, image: NDArray[np.uint8], face: Points, score: float) -> tuple[Points, float]:
        """A face (8, 2) in pixels of `image`; one too small in its view for precise keypoints is seen again."""
        side = float((face[1] - face[0]).max())
        if side >= _SMALL * max(image.shape[:2]):
            return face, score
        center = np.clip(face[:2].mean(axis=0), 0, np.array(image.shape[1::-1]) - 1)
        left, top = np.floor(center - 2 * side).astype(int).tolist()
        view = _View(left=left, top=top, side=math.ceil(4 * side) + 1)
        points, scores = _merge(*self._look(image, view, self.score_threshold), self.iou_threshold)
        same = np.flatnonzero(_iou(face[:2], points[:, :2]) > self.iou_threshold)
        return (points[same[0]], float(scores[same[0]])) if same.size else (face, score)

    def _look(self, image: NDArray[np.uint8], view: _View, threshold: float) -> tuple[Points, Scores]:
        """Votes of one view, in pixels of `image`."""
        canvas, scale, origin = view.render(image)
        boxes, logits = self._session.run(["boxes", "scores"], {"image": canvas[np.newaxis]})
        points, scores = _decode(boxes[0], logits[0, :, 0], threshold)
        return points * scale + origin, scores

    @cached_property
    def _session(self) -> Any:
        try:
            session = create_session(
                self.model_path.read_bytes(),
                name=f"face detection ({self.model_path.name})",
                providers=["CPUExecutionProvider"],
                threads=self.threads or None,
            )
        except EngineUnavailableError as error:
            raise EngineUnavailableError(f"{error}, or pass the faces' boxes yourself") from None
        signature = {node.name: (node.type, node.shape) for node in [*session.get_inputs(), *session.get_outputs()]}
        if signature != _SIGNATURE:
            raise FileFormatError(
                f"{self.model_path}: expected the face detector, got a network with {signature}; "
                "reinstall the package, or make the file anew with tools/make_face_detector.py"
            )
        return session


@dataclass(frozen=True, kw_only=True)
class _View:
    """A square of the image that the network looks at; what lies outside of the image is black, as in training."""

    left: int
    top: int
    side: int

    @classmethod
    def around(cls, width: int, height: int, zoom: int) -> _View:
        side = max(width, height) * zoom
        return cls(left=(width - side) // 2, top=(height - side) // 2, side=side)

    def render(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
        """The view as uint8 (192, 192, 3), and scale (2,) and origin (2,) that take its points back to image pixels.

        The network measures from a pixel's corner, the library from its centre: hence the half.
        """
        start = np.array([self.left, self.top])
        size = np.array(image.shape[1::-1])
        first, last = np.maximum(start, 0), np.minimum(start + self.side, size)
        low = np.rint((first - start) * _VIEW / self.side).astype(int)
        low = np.minimum(low, _VIEW - 1)
        high = np.maximum(np.rint((last - start) * _VIEW / self.side).astype(int), low + 1)
        scale = (last - first) / (high - low)
        part = image[first[1] : last[1], first[0] : last[0]]
        interpolation = cv2.INTER_AREA if scale.max() > 1 else cv2.INTER_LINEAR
        canvas = np.zeros((_VIEW, _VIEW, 3), np.uint8)
        canvas[low[1] : high[1], low[0] : high[0]] = cv2.resize(
            part, (high - low).tolist(), interpolation=interpolation
        )
        return canvas, scale, first - low * scale - 0.5


def _block(width: int, height: int) -> int:
    return max(min(max(width, height) // _WORK_SIZE, width, height), 1)


def _average(image: NDArray[np.uint8], block: int) -> NDArray[np.uint8]:
    """Means over blocks of n x n pixels; the incomplete last row and column of blocks are left out."""
    if block == 1:
        return image
    height, width = (length // block for length in image.shape[:2])
    whole = image[: height * block, : width * block]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _tiles(width: int, height: int) -> list[_View]:
    """Views of half the image's longer side that overlap by half or more."""
    side = -(-max(width, height) // 2)
    starts = []
    for length in (width, height):
        count = max(-(-2 * (length - side) // side), 0) + 1
        first, last = (0, length - side) if count > 1 else ((length - side) // 2,) * 2
        starts.append([round(v) for v in np.linspace(first, last, count)])
    return [_View(left=left, top=top, side=side) for top in starts[1] for left in starts[0]]


def _decode(boxes: NDArray[np.float32], logits: NDArray[np.float32], threshold: float) -> tuple[Points, Scores]:
    """Cells that vote for a face, in view pixels."""
    chosen = np.flatnonzero((logits > math.log(threshold / (1 - threshold))) & (boxes[:, 2:4] > 0).all(axis=1))
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


def _detection(points: Points, score: float) -> Detection:
    (x0, y0), (x1, y1) = points[:2].tolist()
    return Detection(box=(x0, y0, x1 - x0, y1 - y0), score=float(score), keypoints=points[2:].astype(np.float32))


def _iou(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[Any]:
    """Intersection over union of a box (2, 2) (top-left, bottom-right) with each of (n, 2, 2)."""
    overlap = np.clip(np.minimum(box[1], boxes[:, 1]) - np.maximum(box[0], boxes[:, 0]), 0, None).prod(axis=1)
    areas = (boxes[:, 1] - boxes[:, 0]).prod(axis=1)
    return np.asarray(overlap / (areas + (box[1] - box[0]).prod() - overlap))
