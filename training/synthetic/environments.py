"""Light and backgrounds from HDR environments: the brightest spot becomes the key light, all else is soft light.

A camera looks into the environment in some direction; light comes out in its frame (x right, y up, z towards the
camera), in the units of `lighting`: a white surface under uniform light of intensity 1 has radiance 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.lighting import Lights
from training.synthetic.noise import chance, uniform

FloatArray = NDArray[np.float32]

_SOFT_ROWS = 10  # the soft light's grid is this high and twice as wide
_KEY_ANGLE = 14.0  # degrees around the brightest spot that belong to the key light
_WIDTH = 512
_BRIGHTEST = 12.0  # of a background, whose mean is 1: what is above bleeds into its neighbours when it is resized


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A surrounding, in the world's frame (y up, the picture's middle column is -z).

    `picture (h, 2h, 3)` radiance whose mean is 1; soft lights `directions (K, 3)` and `colors (K, 3)`; the key light.
    """

    picture: FloatArray
    directions: FloatArray
    colors: FloatArray
    key_direction: FloatArray
    key_color: FloatArray


def prepare(picture: FloatArray) -> Environment:
    """An environment of an equirectangular picture (h, 2h, 3), any scale."""
    picture = cv2.resize(picture, (_WIDTH, _WIDTH // 2), interpolation=cv2.INTER_AREA)
    directions, area = _grid(_WIDTH // 2)
    picture = picture / np.float32((picture.mean(axis=2) * area).sum() / area.sum())
    brightness = cv2.blur(picture.mean(axis=2), (9, 9), borderType=cv2.BORDER_REPLICATE)
    middle = directions[np.unravel_index(int(brightness.argmax()), brightness.shape)]
    near = directions @ middle > np.cos(np.radians(_KEY_ANGLE))
    around = (directions @ middle > np.cos(np.radians(2 * _KEY_ANGLE))) & ~near
    level = np.median(picture[around], axis=0)
    extra = np.clip(picture - level, 0, None) * near[..., None]
    key = (extra * area[..., None]).sum(axis=(0, 1))
    weight = extra.mean(axis=2) * area
    direction = (directions * weight[..., None]).sum(axis=(0, 1)) + 1e-6 * middle
    soft, _ = _grid(_SOFT_ROWS)
    rest = cv2.resize((picture - extra) * area[..., None], (2 * _SOFT_ROWS, _SOFT_ROWS), interpolation=cv2.INTER_AREA)
    shrink = (_WIDTH // 2 / _SOFT_ROWS) ** 2
    return Environment(
        picture=np.minimum(picture, _BRIGHTEST).astype(np.float32),
        directions=soft.reshape(-1, 3),
        colors=(rest * shrink).reshape(-1, 3).astype(np.float32),
        key_direction=(direction / np.linalg.norm(direction)).astype(np.float32),
        key_color=(key / np.pi).astype(np.float32),
    )


def look_into(
    rng: np.random.Generator, environment: Environment, size: int
) -> tuple[Lights, FloatArray, Callable[[], FloatArray]]:
    """A head in a random place of the environment.

    Its light, the background (size, size, 3) behind it, and what draws what lies before it (size, size, 3): few wear
    glasses to mirror it.
    """
    yaw, pitch = uniform(rng, -np.pi, np.pi), float(np.clip(rng.normal(0.0, 0.2), -0.6, 0.6))
    roll = rng.normal(0, 0.06)
    to_camera = _turn(2, roll) @ _turn(0, pitch) @ _turn(1, yaw)  # world to camera
    mirror = np.array([-1.0 if chance(rng, 0.5) else 1.0, 1.0, 1.0], np.float32)
    saturation = uniform(rng, 0.3, 1.0)

    def muted(colors: FloatArray) -> FloatArray:
        grey = colors.mean(axis=-1, keepdims=True)
        return (grey + (colors - grey) * np.float32(saturation)).astype(np.float32)

    strength = np.float32(uniform(rng, 0.5, 1.3))
    key = strength * muted(environment.key_color)
    lights = Lights(
        ambient=np.zeros(3, np.float32),
        directions=((environment.directions @ to_camera.T) * mirror).astype(np.float32),
        colors=muted(environment.colors),
        key_direction=((to_camera @ environment.key_direction) * mirror).astype(np.float32),
        key_color=np.minimum(key, 6.0 * key / max(float(key.max()), 6.0)).astype(np.float32),
        shadow_softness=uniform(rng, 0.4, 3.0),
        shadow_strength=uniform(rng, 0.85, 1.0),
    )
    background = _seen(environment.picture, to_camera, mirror, size, angle=uniform(rng, 18, 80), ahead=-1.0)
    if chance(rng, 0.6):
        background = cv2.GaussianBlur(background, (0, 0), uniform(rng, 0.8, 6.0))
    before = functools.partial(_seen, environment.picture, to_camera, mirror, size, angle=110.0, ahead=1.0)
    return lights, background, before


def _seen(
    picture: FloatArray, to_camera: FloatArray, mirror: FloatArray, size: int, *, angle: float, ahead: float
) -> FloatArray:
    """What lies within `angle` degrees of the camera frame's z axis times `ahead`."""
    reach = np.tan(np.radians(angle) / 2)
    line = np.linspace(-reach, reach, size, dtype=np.float32)
    x, y = np.meshgrid(line, -line)
    rays = (np.stack([x, y, np.full_like(x, ahead)], axis=-1) * mirror) @ to_camera.astype(np.float32)
    rows, columns = picture.shape[:2]
    turn = np.arctan2(rays[..., 0], -rays[..., 2])
    lift = np.arctan2(rays[..., 1], np.hypot(rays[..., 0], rays[..., 2]))
    map_x = ((turn / (2 * np.pi) + 0.5) * columns - 0.5).astype(np.float32)
    map_y = ((0.5 - lift / np.pi) * rows - 0.5).astype(np.float32)
    seen = cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return seen.astype(np.float32)


def _grid(rows: int) -> tuple[FloatArray, FloatArray]:
    """Directions (rows, 2 rows, 3) of an equirectangular picture's pixels and their solid angles (rows, 2 rows)."""
    lift = (0.5 - (np.arange(rows) + 0.5) / rows) * np.pi
    turn = ((np.arange(2 * rows) + 0.5) / (2 * rows) - 0.5) * 2 * np.pi
    level = np.cos(lift)[:, None]
    directions = np.stack(
        np.broadcast_arrays(level * np.sin(turn), np.sin(lift)[:, None], -level * np.cos(turn)), axis=-1
    )
    area = np.broadcast_to(level * (np.pi / rows) ** 2, (rows, 2 * rows))
    return directions.astype(np.float32), area.astype(np.float32)


def _turn(axis: int, angle: float) -> FloatArray:
    """A rotation (3, 3) about one axis."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3, dtype=np.float32)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return turn
