"""Noise fields and random colours, the raw material of skin, hair, cloth and backgrounds.

Everything is drawn from a `numpy.random.Generator` that the caller seeds. Colours are BGR; "linear" means
proportional to light, "display" means sRGB-like, both in 0..1.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

_TILES = 24
_TILE_SIZE = 512
_TILE_SEED = 20240501  # the fields are the same for every factory: they are only cut up and mixed


def stream(seed: int, *path: int) -> np.random.Generator:
    """A generator of its own for (seed, path): library items and samples never share one."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=path))


def fractal(
    rng: np.random.Generator, height: int, width: int, *, cells: int, octaves: int = 5, gain: float = 0.6
) -> FloatArray:
    """Smooth noise of unit variance: octaves of bicubic value noise, the coarsest with `cells` across the width."""
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        across = cells * 2**octave
        grid = rng.standard_normal((max(2, across * height // width + 1), across + 1), dtype=np.float32)
        field += gain**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / (field.std() + 1e-6)


@lru_cache(maxsize=_TILES)
def _tile(kind: int) -> FloatArray:
    rng = stream(_TILE_SEED, kind)
    cells = int(rng.choice([2, 3, 5, 8]))
    return fractal(rng, _TILE_SIZE, _TILE_SIZE, cells=cells, octaves=6, gain=float(rng.uniform(0.45, 0.8)))


def tile(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """A random window (a view, at most 512 px a side) of one of a few ready-made fractal fields."""
    field = _tile(int(rng.integers(_TILES)))
    y, x = rng.integers(0, _TILE_SIZE - height + 1), rng.integers(0, _TILE_SIZE - width + 1)
    window = field[y : y + height, x : x + width]
    return window[:, ::-1] if rng.random() < 0.5 else window


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A Python float in [low, high)."""
    return low + (high - low) * float(rng.random())


def to_linear(display: NDArray[np.floating]) -> FloatArray:
    """Display values to linear light (gamma 2.2)."""
    return np.power(np.clip(display, 0.0, 1.0), 2.2, dtype=np.float32, casting="same_kind")


def rgb(red: int, green: int, blue: int) -> FloatArray:
    """A display colour given as one writes it (red, green, blue; 0..255), as linear BGR."""
    return to_linear(np.array([blue, green, red], np.float32) / 255.0)


def random_color(rng: np.random.Generator) -> FloatArray:
    """A linear BGR colour as things have them: often greyish or dark, sometimes vivid."""
    value = uniform(rng, 0.05, 1.0)
    saturation = uniform(rng, 0.0, 1.0) ** 1.6
    hue = rng.random(3)
    hue /= hue.max()
    return to_linear(value * (1.0 - saturation + saturation * hue))


def uint8(field: NDArray[np.floating]) -> NDArray[np.uint8]:
    """0..1 to 0..255, rounded and clipped."""
    return np.asarray(np.clip(field * 255.0 + 0.5, 0, 255), np.uint8)
