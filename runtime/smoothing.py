"""Smoothing of tracked faces over time: little jitter at rest, little lag in motion, the same at any frame rate.

The One Euro filter (Casiez, Roussel, Vogel, CHI 2012, algorithm 1), by time stamps, each part of a face in the measure
that makes one setting right for all: rotation on the rotation group (along the shortest turn, speed in radians per
second), position and size relative to the face (speed in region sides, or e-foldings, per second), expression
coefficients one by one in the deviations that they are given in. Shape coefficients are not filtered but averaged over
the track: a person has one. What a view shows of the shape is its weight: little in profile.

All faces of a frame are filtered at once: arrays have the faces along their first axis, times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidInputError

Array = NDArray[np.float64]

_MODEL_TO_CAMERA = np.diag([1.0, -1.0, 1.0])  # y up to y down
_JUMP = 2.0  # radians: a turn by more within a frame is no motion
_IDENTITY_VIEWS = 150.0  # frontal views that an averaged shape is worth at most: later ones still correct it


@dataclass(frozen=True, kw_only=True)
class Cutoffs:
    """One Euro's frequencies for one part of a face: Hz at rest, and Hz more for each unit of speed."""

    rest: float
    speed: float


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """How strongly each part is smoothed; see the module's docstring for the units."""

    rotation: Cutoffs
    position: Cutoffs
    size: Cutoffs
    expression: Cutoffs
    of_speed: float = 2.0  # Hz: cutoff of the speeds' own low-pass


SETTINGS: dict[str, Smoothing | None] = {
    "still": Smoothing(
        rotation=Cutoffs(rest=0.25, speed=13.0),
        position=Cutoffs(rest=0.25, speed=60.0),
        size=Cutoffs(rest=0.15, speed=22.0),
        expression=Cutoffs(rest=1.0, speed=1.2),
    ),
    "responsive": Smoothing(
        rotation=Cutoffs(rest=0.8, speed=20.0),
        position=Cutoffs(rest=0.8, speed=120.0),
        size=Cutoffs(rest=0.4, speed=40.0),
        expression=Cutoffs(rest=2.5, speed=2.5),
    ),
    "off": None,
}


def find_setting(smoothing: str | Smoothing | None) -> Smoothing | None:
    """The cutoffs of a setting by name: `still`, `responsive` or `off`; cutoffs and None pass.

    Raises:
        InvalidInputError: another name.
    """
    if smoothing is None or isinstance(smoothing, Smoothing):
        return smoothing
    if smoothing not in SETTINGS:
        raise InvalidInputError(f"smoothing: expected one of {', '.join(SETTINGS)}, got {smoothing!r}")
    return SETTINGS[smoothing]


@dataclass(kw_only=True)
class FilterState:
    """What the filter remembers of one face."""

    rotation: Array  # (3, 3)
    linear: Array  # (4 + E,): position in image pixels, logarithm of the size, expression
    turning: Array = field(default_factory=lambda: np.zeros(3))  # (3,): radians per second
    speed: Array = field(default_factory=lambda: np.zeros(0))  # (4 + E,)
    shape: Array = field(default_factory=lambda: np.zeros(0))  # (S,): averaged
    shape_weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Faces placed in the image: vertices = scale · diag(1, -1, 1) · rotation · (mean + …) + position."""

    rotation: Array  # (F, 3, 3), model frame to a camera frame with y up
    scale: Array  # (F,), image pixels per model unit
    position: Array  # (F, 3), image pixels
    shape: Array  # (F, S)
    expression: Array  # (F, E)

    def take(self, which: slice) -> Placed:
        """Some of the faces."""
        return Placed(**{name: values[which] for name, values in vars(self).items()})

    @staticmethod
    def join(parts: Sequence[Placed]) -> Placed:
        """The faces of several."""
        return Placed(**{name: np.concatenate([vars(p)[name] for p in parts]) for name in vars(parts[0])})


def place(params: NDArray[np.float32], linear: Array, offset: Array, shape_count: int) -> Placed:
    """Params (F, 12 + S + E) of crops, placed by their regions' maps `linear` (F, 3, 3) and `offset` (F, 3)."""
    values = params.astype(np.float64)
    matrix = linear @ values[:, :12].reshape(-1, 3, 4)
    u, singular, vt = np.linalg.svd(_MODEL_TO_CAMERA @ matrix[:, :, :3])
    u[:, :, 2] *= np.where(np.linalg.det(u @ vt) > 0, 1.0, -1.0)[:, np.newaxis]
    return Placed(
        rotation=u @ vt,
        scale=singular.mean(axis=1),
        position=matrix[:, :, 3] + offset,
        shape=values[:, 12 : 12 + shape_count],
        expression=values[:, 12 + shape_count :],
    )


def unplace(placed: Placed, linear: Array, offset: Array) -> NDArray[np.float32]:
    """The inverse of `place`: params (F, 12 + S + E) in the frames of the regions' crops."""
    matrix = np.empty((len(placed.scale), 3, 4))
    matrix[:, :, :3] = placed.scale[:, np.newaxis, np.newaxis] * (_MODEL_TO_CAMERA @ placed.rotation)
    matrix[:, :, 3] = placed.position - offset
    pose = np.linalg.solve(linear, matrix).reshape(-1, 12)
    return np.concatenate([pose, placed.shape, placed.expression], axis=1).astype(np.float32)


def smooth(
    placed: Placed, states: list[FilterState | None], sides: Array, step: float, setting: Smoothing
) -> tuple[Placed, list[FilterState]]:
    """Faces, filtered, and the filter's new states; a face without a state is new and passes as it is.

    Args:
        placed: the faces of a frame.
        states: theirs after the frame before.
        sides: (F,), of their regions in image pixels: what positions are measured in.
        step: seconds since then.
        setting: the cutoffs.
    """
    values = np.concatenate([placed.position, np.log(placed.scale)[:, np.newaxis], placed.expression], axis=1)
    rows = [
        FilterState(rotation=r, linear=v, speed=np.zeros_like(v)) if state is None else state
        for state, r, v in zip(states, placed.rotation, values, strict=True)
    ]
    rotation, turning = _turn(placed.rotation, rows, step, setting)
    linear, speed = _follow(values, rows, sides, step, setting)
    shapes = [_averaged(row, s, r) for row, s, r in zip(rows, placed.shape, placed.rotation, strict=True)]
    after = [
        FilterState(rotation=r, linear=v, turning=w, speed=d, shape=s, shape_weight=weight)
        for r, v, w, d, (s, weight) in zip(rotation, linear, turning, speed, shapes, strict=True)
    ]
    filtered = Placed(
        rotation=rotation,
        scale=np.exp(linear[:, 3]),
        position=linear[:, :3],
        shape=np.array([s for s, _ in shapes]).reshape(placed.shape.shape),
        expression=linear[:, 4:],
    )
    return filtered, after


def _share(cutoff: Any, step: float) -> Any:
    """The weight of a new value in a low-pass of `cutoff` Hz, `step` seconds after the last one."""
    r = 2 * math.pi * cutoff * step
    return r / (r + 1)


def _turn(rotation: Array, rows: list[FilterState], step: float, setting: Smoothing) -> tuple[Array, Array]:
    before = np.array([row.rotation for row in rows]).reshape(-1, 3, 3)
    turning = np.array([row.turning for row in rows]).reshape(-1, 3)
    delta = rotation_vector(before.transpose(0, 2, 1) @ rotation)
    turning = turning + _share(setting.of_speed, step) * (delta / step - turning)
    cutoff = setting.rotation.rest + setting.rotation.speed * np.linalg.norm(turning, axis=1)
    share = np.where(np.linalg.norm(delta, axis=1) < _JUMP, _share(cutoff, step), 1.0)
    return before @ vector_rotation(share[:, np.newaxis] * delta), turning


def _follow(
    values: Array, rows: list[FilterState], sides: Array, step: float, setting: Smoothing
) -> tuple[Array, Array]:
    before = np.array([row.linear for row in rows]).reshape(values.shape)
    speed = np.array([row.speed for row in rows]).reshape(values.shape)
    unit = np.ones_like(values)
    unit[:, :3] = sides[:, np.newaxis]
    delta = values - before
    speed = speed + _share(setting.of_speed, step) * (delta / unit / step - speed)
    size = np.abs(speed)
    size[:, :3] = np.linalg.norm(speed[:, :2], axis=1)[:, np.newaxis]  # z follows x and y: its own speed is noise
    rest, gain = _cutoffs(setting, values.shape[1])
    return before + _share(rest + gain * size, step) * delta, speed


def _cutoffs(setting: Smoothing, count: int) -> tuple[Array, Array]:
    parts = [setting.position] * 3 + [setting.size] + [setting.expression] * (count - 4)
    return np.array([p.rest for p in parts]), np.array([p.speed for p in parts])


def _averaged(row: FilterState, shape: Array, rotation: Array) -> tuple[Array, float]:
    """The track's mean shape with this view in it, and its weight: a profile shows little of a face's width."""
    weight = 0.05 + max(float(rotation[2, 2]), 0.0) ** 2
    if row.shape_weight == 0:
        return shape, weight
    total = min(row.shape_weight + weight, _IDENTITY_VIEWS)
    return row.shape + weight / total * (shape - row.shape), total


def rotation_vector(rotation: Array) -> Array:
    """Axis times angle (F, 3), radians, of rotations (F, 3, 3)."""
    twice = np.stack(
        [
            rotation[:, 2, 1] - rotation[:, 1, 2],
            rotation[:, 0, 2] - rotation[:, 2, 0],
            rotation[:, 1, 0] - rotation[:, 0, 1],
        ],
        axis=1,
    )
    sine = np.linalg.norm(twice, axis=1) / 2
    angle = np.arctan2(sine, (np.trace(rotation, axis1=1, axis2=2) - 1) / 2)
    return np.asarray(twice * (np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 1.0) / 2)[:, np.newaxis])


def vector_rotation(vector: Array) -> Array:
    """The inverse of `rotation_vector` (Rodrigues' formula)."""
    angle = np.linalg.norm(vector, axis=1)
    axis = vector / np.maximum(angle, 1e-12)[:, np.newaxis]
    cross = np.zeros((len(vector), 3, 3))
    x, y, z = axis.T
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -z, y, -x
    cross[:, 1, 0], cross[:, 2, 0], cross[:, 2, 1] = z, -y, x
    sine, cosine = np.sin(angle)[:, np.newaxis, np.newaxis], np.cos(angle)[:, np.newaxis, np.newaxis]
    return np.asarray(np.eye(3) + sine * cross + (1 - cosine) * cross @ cross)
