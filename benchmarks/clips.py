"""Clips of rendered heads with exact truth: one identity and one scene each, paths that are smooth over time.

The face factory renders the head, framed by its landmarks; here it is moved over a larger frame, covered by another,
and given what a camera adds: fresh noise in each frame, and motion blur. Times in seconds, angles in degrees, places in
pixels of the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime import load_face_model
from runtime.pose import decompose, euler_to_rotation
from training.synthetic.factory import FaceFactory

Array = NDArray[np.float64]

WIDTH, HEIGHT = 1280, 720
RATE = 30.0
_MARGIN = 1.9  # of the rendered picture around the landmarks' region
_SIZE = 416  # its side
_SEED = 5
_SPARE = 97  # pixels by which a field of noise is larger than a frame
NOISE = 3.0  # grey levels, of each pixel of each frame


@dataclass(frozen=True, kw_only=True)
class State:
    """How a head is at one time."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    center: tuple[float, float] = (WIDTH / 2, HEIGHT / 2)  # of the landmarks' region
    side: float = 260.0
    expression: tuple[float, ...] | None = None
    opening: float | None = None


@dataclass(frozen=True, kw_only=True)
class Actor:
    """One person of a clip: picture `index` of the factory, and what they do."""

    index: int
    act: Callable[[float], State | None]  # None: not in the picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """One face of a frame."""

    actor: int
    landmarks: NDArray[np.float32]  # (68, 3)
    rotation: Array  # (3, 3)
    side: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A frame and what is in it; hidden faces are not."""

    image: NDArray[np.uint8]
    time: float
    faces: list[Truth]


@dataclass(kw_only=True)
class Studio:
    """Renders clips; pictures of heads that were rendered before are kept."""

    noise: float = NOISE
    _factory: FaceFactory = field(default_factory=lambda: FaceFactory(size=_SIZE, margin=_MARGIN, seed=_SEED))
    _model: Any = field(default_factory=load_face_model)
    _kept: dict[Any, Any] = field(default_factory=dict)

    def clip(self, actors: list[Actor], seconds: float, *, rate: float = RATE, seed: int = 0) -> Iterator[Frame]:
        """Frames of actors, the later ones in front. The backdrop is the first one's."""
        rng = np.random.default_rng(seed)
        for number in range(round(seconds * rate)):
            time = number / rate
            image: NDArray[np.uint8] | None = None
            faces: list[Truth] = []
            for which, actor in enumerate(actors):
                state = actor.act(time)
                if state is None:
                    continue
                picture, pose, landmarks = self._head(actor.index, state)
                placed, truth = _put(picture, landmarks, pose, state, which)
                image, covered = _over(image, placed, state)
                faces = [face for face in faces if not covered(face)] + [truth]
            if image is None:
                image = np.full((HEIGHT, WIDTH, 3), 96, np.uint8)
            x, y = rng.integers(0, _SPARE, 2)
            grain = self._grain[y : y + HEIGHT, x : x + WIDTH]
            noisy = cv2.add(image, grain, dtype=cv2.CV_8U)
            yield Frame(image=np.asarray(noisy, dtype=np.uint8), time=time, faces=faces)

    @cached_property
    def _grain(self) -> NDArray[np.int16]:
        """Noise of more than a frame: each frame takes another part of it."""
        rng = np.random.default_rng(0)
        field_ = rng.standard_normal((HEIGHT + _SPARE, WIDTH + _SPARE, 3), dtype=np.float32)
        return np.rint(self.noise * field_).astype(np.int16)

    def _head(self, index: int, state: State) -> Any:
        key = index, round(state.yaw, 2), round(state.pitch, 2), round(state.roll, 2), state.expression, state.opening
        if key not in self._kept:
            rotation = euler_to_rotation(*key[1:4]).astype(np.float32)
            expression = None if state.expression is None else np.array(state.expression, np.float32)
            sample = self._factory.sample(index, rotation=rotation, expression=expression, opening=state.opening)
            if len(self._kept) > 400:
                self._kept.clear()
            self._kept[key] = sample.image, decompose(sample.params[:12])[1], self._model.landmarks(sample.params)
        return self._kept[key]

    def mouth_open(self, amount: float) -> tuple[float, ...]:
        """An expression (10,) whose lips are further apart than the mean face's, eyes alike."""
        return tuple(float(v) for v in amount * self._opening())

    def _opening(self) -> Array:
        model = self._model
        probes = np.tile(model.unposed(), (model.expression_count + 1, 1))
        probes[1:, -model.expression_count :] = np.eye(model.expression_count)
        points = model.landmarks(probes)
        moves = (points[1:] - points[0]).reshape(model.expression_count, -1)
        wish = np.zeros((68, 3))
        wish[[56, 57, 58, 65, 66, 67], 1] = -9.0  # mm: the lower lip
        wish[[6, 7, 8, 9, 10], 1] = -7.0  # the chin
        weight = np.ones((68, 3))
        weight[36:48] = 3.0
        w = weight.ravel()
        solved = np.linalg.solve((moves * w) @ moves.T + 20 * np.eye(len(moves)), (moves * w) @ wish.ravel())
        return np.asarray(solved)


def _put(
    picture: NDArray[np.uint8], landmarks: NDArray[np.float32], pose: Array, state: State, actor: int
) -> tuple[NDArray[np.uint8], Truth]:
    scale = state.side * _MARGIN / _SIZE
    shift = np.array(state.center) - scale * (_SIZE - 1) / 2
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    image = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    points = landmarks * scale
    points[:, :2] += shift
    truth = Truth(actor=actor, landmarks=points.astype(np.float32), rotation=pose, side=state.side)
    return np.asarray(image, dtype=np.uint8), truth


def _over(
    below: NDArray[np.uint8] | None, placed: NDArray[np.uint8], state: State
) -> tuple[NDArray[np.uint8], Callable[[Truth], bool]]:
    """`placed` in front of `below`, cut out as an ellipse with a soft edge; and whether it covers a face."""
    if below is None:
        return placed, lambda face: False
    x, y = state.center
    axes = 0.62 * state.side, 0.8 * state.side
    left, top = max(int(x - axes[0]), 0), max(int(y - axes[1]), 0)
    right, bottom = min(int(x + axes[0]) + 1, WIDTH), min(int(y + axes[1]) + 1, HEIGHT)
    if right > left and bottom > top:
        v, u = np.ogrid[top:bottom, left:right]
        distance = np.hypot((u - x) / axes[0], (v - y) / axes[1])
        cover = np.clip((1.0 - distance) / 0.06, 0, 1).astype(np.float32)[..., None]
        part = below[top:bottom, left:right]
        mixed = part + cover * (placed[top:bottom, left:right].astype(np.float32) - part)
        below[top:bottom, left:right] = np.rint(mixed).astype(np.uint8)

    def covered(face: Truth) -> bool:
        points = face.landmarks[:, :2]
        inside = np.hypot((points[:, 0] - x) / axes[0], (points[:, 1] - y) / axes[1]) < 1
        return bool(inside.mean() > 0.4)

    return below, covered
