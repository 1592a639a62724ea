"""From light to a photograph: exposure, white balance, tone, blur, resolution, noise, compression, picture edges.

In: linear BGR radiance (S, S, 3) with any scale. Out: uint8 BGR. Nothing here moves a pixel: labels stay true.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.noise import chance, uniform

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

_TONES = 4096
_BRIGHTEST = 4.0  # times the level that a plain curve maps to white


def develop(rng: np.random.Generator, light: FloatArray, face: NDArray[np.bool_]) -> ByteArray:
    """A photograph of `light`, exposed for the pixels in `face`."""
    picture = _expose(rng, light, face)
    picture = _color(rng, picture)
    picture = _blur(rng, picture)
    picture = _noise(rng, picture)
    developed = np.asarray(np.clip(picture * 255.0 + 0.5, 0, 255), np.uint8)
    if chance(rng, 0.65):
        low, high = (8, 30) if chance(rng, 0.12) else (28, 96)  # heavy compression now and then
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(low, high))]
        developed = cv2.imdecode(cv2.imencode(".jpg", developed, quality)[1], cv2.IMREAD_COLOR)
    return _picture_edge(rng, developed) if chance(rng, 0.22) else developed


def _expose(rng: np.random.Generator, light: FloatArray, face: NDArray[np.bool_]) -> FloatArray:
    """Exposure, white balance and tone curve; returns display values 0..1."""
    sample = light[face] if face.sum() > 50 else light.reshape(-1, 3)
    level = float(np.percentile(sample.mean(axis=1)[::4], 75)) + 0.01
    target = float(np.exp(rng.normal(np.log(0.45), 0.32)))
    if chance(rng, 0.07):
        target *= uniform(rng, 0.03, 0.3)  # so dark that little is left
    gain = target / level ** uniform(rng, 0.8, 1.0) * (1 + rng.normal(0, 0.05, 3))
    x = np.linspace(0, _BRIGHTEST, _TONES, dtype=np.float32)
    shoulder = uniform(rng, 0.0, 1.0)  # 0: clips hard, 1: rolls off as film does
    tone = (1 - shoulder) * np.minimum(x, 1) + shoulder * (1 - np.exp(-1.3 * x)) / (1 - np.exp(-1.3 * 1.8))
    tone = np.clip(tone, 0, 1) ** (1 / uniform(rng, 1.9, 2.5))
    if chance(rng, 0.75):
        bend = uniform(rng, -0.25, 0.85)  # contrast, by an s-curve
        tone = np.clip(tone + bend * (tone - 0.5) * tone * (1 - tone) * 4, 0, 1)
        tone = np.clip(tone * uniform(rng, 0.85, 1.08) + rng.normal(0, 0.03), 0, 1)
    index = np.clip(light * (gain * ((_TONES - 1) / _BRIGHTEST)).astype(np.float32), 0, _TONES - 1).astype(np.uint16)
    return tone.astype(np.float32)[index]


def _color(rng: np.random.Generator, picture: FloatArray) -> FloatArray:
    """Saturation, black and white (also with hard contrast), sepia, vignette."""
    if chance(rng, 0.13):
        grey = picture @ np.array([uniform(rng, 0.05, 0.3), uniform(rng, 0.4, 0.7), uniform(rng, 0.2, 0.4)], np.float32)
        if chance(rng, 0.4):
            grey = np.clip((grey - grey.mean()) * uniform(rng, 1.1, 1.9) + grey.mean() * uniform(rng, 0.6, 1.1), 0, 1)
        tint = np.array([0.8, 0.95, 1.05]) if chance(rng, 0.15) else np.ones(3)
        picture = np.ascontiguousarray(grey[..., None] * tint.astype(np.float32))
    elif chance(rng, 0.5):
        grey = picture.mean(axis=2, keepdims=True)
        picture = grey + (picture - grey) * np.float32(uniform(rng, 0.5, 1.4))
    if chance(rng, 0.1):
        y, x = np.mgrid[0 : len(picture), 0 : len(picture)].astype(np.float32) / len(picture) * 2 - 1
        picture = picture * (1 - uniform(rng, 0.1, 0.4) * (x * x + y * y))[..., None]
    return np.clip(picture, 0, 1).astype(np.float32)


def _blur(rng: np.random.Generator, picture: FloatArray) -> FloatArray:
    size = len(picture)
    kind = rng.random()
    if kind < 0.2:
        return cv2.GaussianBlur(picture, (0, 0), uniform(rng, 0.3, 1.5))
    if kind < 0.25:
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        turn, half = uniform(rng, 0, np.pi), (length - 1) / 2
        step = np.array([np.cos(turn), np.sin(turn)]) * half
        ends = [tuple(int(v) for v in np.rint(half + sign * step)) for sign in (-1, 1)]
        cv2.line(kernel, *ends, 1.0, 1)
        return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    if kind < 0.4:
        small = int(size * uniform(rng, 0.28, 0.85))
        shrunk = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        how = cv2.INTER_LINEAR if chance(rng, 0.6) else cv2.INTER_CUBIC
        return cv2.resize(shrunk, (size, size), interpolation=how)
    if kind < 0.68:  # sharpened, as cameras do
        soft = cv2.GaussianBlur(picture, (0, 0), 1.0)
        return picture + uniform(rng, 0.2, 1.0) * (picture - soft)
    return cv2.GaussianBlur(picture, (0, 0), uniform(rng, 0.35, 0.6))


def _noise(rng: np.random.Generator, picture: FloatArray) -> FloatArray:
    if chance(rng, 0.45):
        return picture
    strength = 0.045 * float(rng.random()) ** 3 + 0.002
    if chance(rng, 0.3):  # grain of one colour
        grain = rng.standard_normal(picture.shape[:2], dtype=np.float32)[..., None]
    else:
        grain = rng.standard_normal(picture.shape, dtype=np.float32)
    if chance(rng, 0.3):
        grain = cv2.GaussianBlur(grain, (0, 0), 0.8).reshape(grain.shape) * 2.0
    return picture + grain * np.float32(strength) * (np.float32(1.2) - picture)


def _picture_edge(rng: np.random.Generator, picture: ByteArray) -> ByteArray:
    """The face is near the photograph's edge: beyond it the crop repeats the last pixels, or is black."""
    size = len(picture)
    black = chance(rng, 0.7)
    first, sides = int(rng.integers(4)), int(rng.choice([1, 2, 3, 4], p=[0.55, 0.25, 0.12, 0.08]))
    turned = picture
    for side in range(4):
        turned = np.rot90(turned).copy()
        if (side - first) % 4 < sides:
            depth = int(size * uniform(rng, 0.02, 0.28 if sides == 1 else 0.18))
            turned[:depth] = 0 if black else turned[depth]
    return np.ascontiguousarray(turned)
