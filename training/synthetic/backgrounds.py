"""Backgrounds made from noise and shapes: walls, rooms, foliage, sky, lights out of focus, other people.

No photograph is shipped or needed. Item i of the library depends on (seed, i) alone; a sample takes a random window
of one item, flips, tints and blurs it. Items are display BGR, uint8 (ITEM, ITEM, 3).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.noise import chance, fractal, stream, tile, to_linear, uint8, uniform

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

ITEM = 320
ITEMS = 64


class Backgrounds:
    """The library of one seed."""

    def __init__(self, seed: int) -> None:
        """Makes nothing yet."""
        self._seed = seed
        self.item = lru_cache(maxsize=None)(self._item)

    def sample(self, rng: np.random.Generator, size: int) -> FloatArray:
        """A background (size, size, 3), linear BGR."""
        if chance(rng, 0.12):
            return _plain(rng, size)
        item = self.item(int(rng.integers(ITEMS)))
        side = int(ITEM * uniform(rng, 0.35, 1.0))
        y, x = rng.integers(0, ITEM - side + 1, 2)
        window = item[y : y + side, x : x + side]
        window = window[:, ::-1] if chance(rng, 0.5) else window
        picture = cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
        if chance(rng, 0.5):
            picture = cv2.GaussianBlur(picture, (0, 0), uniform(rng, 0.6, 7.0))
        tint = (1 + rng.normal(0, 0.08, 3)) * uniform(rng, 0.4, 1.15)
        return to_linear(picture.astype(np.float32) * (tint / 255.0).astype(np.float32))

    def _item(self, index: int) -> ByteArray:
        rng = stream(self._seed, 6, index)
        makers: tuple[Callable[[np.random.Generator], FloatArray], ...] = (
            _mottled, _foliage, _room, _room, _outdoors, _bokeh, _people, _shapes,
        )  # fmt: skip
        picture = makers[index % len(makers)](rng)
        grain = cv2.GaussianBlur(rng.standard_normal(picture.shape[:2], dtype=np.float32), (0, 0), 0.7)
        picture = picture + uniform(rng, 0, 0.05) * grain[..., None]
        if chance(rng, 0.4):
            picture = cv2.GaussianBlur(picture, (0, 0), uniform(rng, 1.0, 5.0))
        return uint8(picture)


def _display_color(rng: np.random.Generator) -> FloatArray:
    """Mostly muted, warm or grey, as rooms and streets are."""
    value = uniform(rng, 0.03, 0.95)
    hue = np.array([uniform(rng, 0.55, 1.0), uniform(rng, 0.75, 1.0), uniform(rng, 0.8, 1.0)])
    if chance(rng, 0.15):
        hue = 0.2 + 0.8 * rng.random(3)
    return (value * hue / hue.max()).astype(np.float32)


def _plain(rng: np.random.Generator, size: int) -> FloatArray:
    """Studio paper, a wall, or the black around a flash."""
    base = _display_color(rng) if chance(rng, 0.6) else np.full(3, rng.choice([0.0, 0.02, 0.9, 1.0]), np.float32)
    x, y = np.meshgrid(np.linspace(-1, 1, size, dtype=np.float32), np.linspace(-1, 1, size, dtype=np.float32))
    shade = 1 + uniform(rng, -0.4, 0.4) * x + uniform(rng, -0.4, 0.4) * y - uniform(rng, 0, 0.4) * (x * x + y * y)
    return to_linear(base * shade[..., None] + np.float32(0.01) * tile(rng, size, size)[..., None])


def _field(rng: np.random.Generator, cells: int, gain: float = 0.6) -> FloatArray:
    return fractal(rng, ITEM, ITEM, cells=cells, gain=gain)


def _ramp(field: FloatArray, colors: FloatArray) -> FloatArray:
    """Noise to colours through a palette (K, 3)."""
    position = np.clip(field * 0.25 + 0.5, 0, 1) * (len(colors) - 1)
    return np.stack([np.interp(position, np.arange(len(colors)), colors[:, k]) for k in range(3)], axis=-1).astype(
        np.float32
    )


def _mottled(rng: np.random.Generator) -> FloatArray:
    colors = np.stack([_display_color(rng) for _ in range(int(rng.integers(2, 5)))])
    return _ramp(_field(rng, int(rng.integers(2, 9)), uniform(rng, 0.4, 0.85)) * uniform(rng, 0.5, 2.0), colors)


def _foliage(rng: np.random.Generator) -> FloatArray:
    green = np.array([uniform(rng, 0.1, 0.3), uniform(rng, 0.3, 0.6), uniform(rng, 0.15, 0.45)], np.float32)
    colors = np.stack([green * 0.12, green * 0.5, green, np.clip(green * 1.7 + 0.1, 0, 1)])
    picture = _ramp(_field(rng, int(rng.integers(8, 24)), 0.8) * 1.4, colors)
    for _ in range(int(rng.integers(0, 200))):
        center, size = rng.uniform(0, ITEM, 2), uniform(rng, 3, 11)
        color = (green * uniform(rng, 0.3, 2.0)).tolist()
        cv2.ellipse(
            picture,
            (center.tolist(), (size, size * uniform(rng, 0.3, 0.7)), uniform(rng, 0, 180)),
            color,
            -1,
            cv2.LINE_AA,
        )
    return picture


def _room(rng: np.random.Generator) -> FloatArray:
    """A lit wall with frames, shelves, windows, edges."""
    y, x = np.mgrid[0:ITEM, 0:ITEM].astype(np.float32) / ITEM
    light = 1 + uniform(rng, -0.5, 0.5) * x + uniform(rng, -0.5, 0.5) * y + 0.08 * _field(rng, 3)
    picture = np.ones((ITEM, ITEM, 3), np.float32) * _display_color(rng)
    for _ in range(int(rng.integers(2, 22))):
        low = rng.uniform(-0.2, 1.0, 2) * ITEM
        extent = rng.uniform(0.03, 0.6, 2) ** 1.3 * ITEM
        high = low + extent * ([0.25, 1.6] if chance(rng, 0.4) else [1.0, 1.0])
        corners = [tuple(int(v) for v in corner) for corner in (low, high)]
        color = (_display_color(rng) * uniform(rng, 0.3, 1.3)).tolist()
        cv2.rectangle(picture, *corners, color, -1)
        if chance(rng, 0.5):
            cv2.rectangle(picture, *corners, (_display_color(rng) * 0.6).tolist(), int(rng.integers(1, 6)))
    if chance(rng, 0.3):  # a rotated camera or a slanted wall
        turn = cv2.getRotationMatrix2D((ITEM / 2, ITEM / 2), uniform(rng, -20, 20), 1.3)
        picture = cv2.warpAffine(picture, turn, (ITEM, ITEM), borderMode=cv2.BORDER_REFLECT)
    return picture * light[..., None]


def _outdoors(rng: np.random.Generator) -> FloatArray:
    """Sky above, ground or buildings below."""
    y = np.linspace(0, 1, ITEM, dtype=np.float32)[:, None, None]
    sky = np.array([uniform(rng, 0.6, 1.0), uniform(rng, 0.55, 0.9), uniform(rng, 0.4, 0.9)], np.float32)
    clouds = np.clip(_field(rng, 3) * uniform(rng, 0, 0.3), 0, 1)[..., None]
    picture = sky * (0.75 + 0.35 * y) * (1 - clouds) + clouds
    ground = _foliage(rng) if chance(rng, 0.5) else _mottled(rng)
    horizon = uniform(rng, 0.2, 0.9) + uniform(rng, 0, 0.08) * _field(rng, 4)[ITEM // 2]
    below = 1 / (1 + np.exp(-np.clip((y[..., 0] - horizon[None]) * ITEM / 1.5, -30, 30)))
    picture = picture * (1 - below[..., None]) + ground * below[..., None]
    for _ in range(int(rng.integers(0, 7))):
        x, width, top = (uniform(rng, -0.1, 1) * ITEM, uniform(rng, 0.05, 0.3) * ITEM, uniform(rng, 0.1, 0.8) * ITEM)
        cv2.rectangle(picture, (int(x), int(top)), (int(x + width), ITEM), _display_color(rng).tolist(), -1)
    return picture.astype(np.float32)


def _bokeh(rng: np.random.Generator) -> FloatArray:
    picture = _mottled(rng) * uniform(rng, 0.05, 0.5)
    for _ in range(int(rng.integers(8, 60))):
        disc = np.zeros_like(picture)
        center = tuple(int(v) for v in rng.uniform(0, ITEM, 2))
        cv2.circle(disc, center, int(uniform(rng, 4, 26)), np.clip(rng.random(3) + 0.3, 0, 1).tolist(), -1, cv2.LINE_AA)
        picture += disc * uniform(rng, 0.1, 0.7)
    return np.clip(picture, 0, 1)


def _people(rng: np.random.Generator) -> FloatArray:
    """Blurred heads and shoulders behind."""
    picture = _room(rng) if chance(rng, 0.5) else _mottled(rng)
    for _ in range(int(rng.integers(1, 7))):
        x, y, size = uniform(rng, 0, ITEM), uniform(rng, 0, ITEM), uniform(rng, 14, 60)
        skin = np.array([0.45, 0.6, 0.85], np.float32) * uniform(rng, 0.35, 1.1)
        hair, cloth = _display_color(rng) * 0.4, _display_color(rng)
        cv2.ellipse(picture, ((x, y + size * 2.3), (size * 3.4, size * 3.2), 0), cloth.tolist(), -1, cv2.LINE_AA)
        cv2.ellipse(picture, ((x, y - size * 0.2), (size * 1.5, size * 1.9), 0), hair.tolist(), -1, cv2.LINE_AA)
        cv2.ellipse(picture, ((x, y + size * 0.1), (size * 1.15, size * 1.55), 0), skin.tolist(), -1, cv2.LINE_AA)
        for side in (-0.27, 0.27):
            eye = ((x + side * size, y), (size * 0.2, size * 0.1), 0)
            cv2.ellipse(picture, eye, (skin * 0.3).tolist(), -1, cv2.LINE_AA)
        cv2.ellipse(
            picture,
            ((x, y + size * 0.5), (size * 0.4, size * 0.12), 0),
            (skin * [0.5, 0.5, 0.8]).tolist(),
            -1,
            cv2.LINE_AA,
        )
    return cv2.GaussianBlur(picture, (0, 0), uniform(rng, 0.8, 4.0))


def _shapes(rng: np.random.Generator) -> FloatArray:
    picture = _mottled(rng)
    for _ in range(int(rng.integers(3, 24))):
        color = np.clip(_display_color(rng) * 1.2, 0, 1).tolist()
        center, extent, angle = rng.uniform(0, ITEM, 2), rng.uniform(0.03, 0.5, 2) * ITEM, uniform(rng, 0, 180)
        if chance(rng, 0.5):
            box = cv2.boxPoints((center.tolist(), extent.tolist(), angle))
            cv2.fillPoly(picture, [box.astype(np.int32)], color, cv2.LINE_AA)
        else:
            cv2.ellipse(picture, (center.tolist(), extent.tolist(), angle), color, -1, cv2.LINE_AA)
    return picture
