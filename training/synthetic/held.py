"""What comes between the camera and the face: hands, fruit, lollies, microphones, cups, phones, strands of hair.

Drawn over the finished light picture as lit height fields, with a soft shadow on what is behind them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.noise import chance, random_color, tile, uniform

FloatArray = NDArray[np.float32]

_JAW, _CHEEKS, _EYES, _MOUTH = (4, 6, 8, 10, 12), (2, 3, 13, 14, 31, 35), (36, 39, 42, 45, 27), (48, 51, 54, 57, 66)


def hold_in_front(
    rng: np.random.Generator, light: FloatArray, landmarks: FloatArray, skin: FloatArray, hair: FloatArray, level: float
) -> None:
    """Draws one thing over `light` (S, S, 3), in place.

    `landmarks (68, 2)` are the face's, in pixels; `skin` and `hair (3,)` are colours; `level` is how bright white paper
    would be.
    """
    kind = rng.random()
    reach = float(np.ptp(landmarks, axis=0).max())  # the face's size in pixels
    if kind < 0.4:
        _hand(rng, light, landmarks, skin, level, reach)
    elif kind < 0.65:
        _round_thing(rng, light, landmarks, level, reach)
    elif kind < 0.8:
        _flat_thing(rng, light, landmarks, level, reach)
    else:
        _hair_strands(rng, light, landmarks, hair, level, reach)


def _put(
    rng: np.random.Generator, light: FloatArray, height: FloatArray, color: FloatArray, level: float, *, gloss: float
) -> None:
    """Lights a height field in pixels (S, S; 0 or less: nothing there) and draws it with its shadow."""
    soft = uniform(rng, 0.4, 1.1)
    cover = cv2.GaussianBlur((height > 0).astype(np.float32), (0, 0), soft)
    smooth = cv2.GaussianBlur(np.maximum(height, 0), (0, 0), 1.2)
    down, across = np.gradient(smooth)
    length = np.sqrt(down * down + across * across + 1.0)
    turn, lift = uniform(rng, -np.pi, np.pi), uniform(rng, 0.3, 1.2)
    sun = np.array([np.cos(turn) * np.cos(lift), np.sin(turn) * np.cos(lift), np.sin(lift)])
    facing = np.clip((-across * sun[0] - down * sun[1] + sun[2]) / length, 0, None)
    ambient = uniform(rng, 0.25, 0.7)
    shade = level * (ambient * (0.5 + 0.5 / length) + (1.2 - ambient) * facing)
    body = color * shade[..., None] + gloss * level * (facing**24)[..., None]
    distance = uniform(rng, 1, 6)
    shadow = cv2.GaussianBlur(cover, (0, 0), distance)
    shadow = np.roll(shadow, (int(-sun[1] * distance), int(-sun[0] * distance)), axis=(0, 1))
    light *= 1 - uniform(rng, 0.1, 0.6) * shadow[..., None]
    light += cover[..., None] * (body.astype(np.float32) - light)


def _place(rng: np.random.Generator, landmarks: FloatArray, ids: tuple[int, ...], reach: float) -> FloatArray:
    return landmarks[int(rng.choice(ids))] + rng.normal(0, 0.06 * reach, 2).astype(np.float32)


def _hand(
    rng: np.random.Generator, light: FloatArray, landmarks: FloatArray, skin: FloatArray, level: float, reach: float
) -> None:
    """Palm, four fingers bent to a degree, a thumb and the forearm, which comes from outside the face."""
    ids = _JAW if chance(rng, 0.5) else _CHEEKS if chance(rng, 0.5) else _MOUTH if chance(rng, 0.6) else _EYES
    tip = _place(rng, landmarks, ids, reach)
    outwards = tip - landmarks.mean(axis=0) + np.array([0.0, 0.35 * reach])
    turn = float(np.arctan2(-outwards[1], -outwards[0])) + rng.normal(0, 0.5)  # where the fingers point
    size = reach * uniform(rng, 0.38, 0.6)  # of the open hand
    bent, spread = uniform(rng, 0.35, 1.0), uniform(rng, 0.02, 0.22)
    side = 1.0 if chance(rng, 0.5) else -1.0
    ahead, aside = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)]) * side
    wrist = tip - ahead * size * (0.55 + 0.45 * bent)
    bars = [(wrist - ahead * size * 3.0, wrist - ahead * size * 0.05, 0.17)]  # start, end, radius of size
    for finger in range(4):
        root = wrist + size * (ahead * (0.5 - 0.03 * abs(finger - 1)) + aside * 0.145 * (finger - 1.5))
        bars.append((wrist + size * (ahead * 0.1 + aside * 0.07 * (finger - 1.5)), root, 0.13))
        angle = turn + side * (finger - 1.5) * spread
        length = size * bent * (0.46, 0.52, 0.48, 0.36)[finger] * uniform(rng, 0.85, 1.1)
        bars.append((root, root + length * np.array([np.cos(angle), np.sin(angle)]), 0.072))
    thumb = turn - side * uniform(rng, 0.3, 1.0)
    root = wrist + size * (ahead * 0.12 - aside * 0.18)
    bars.append((root, root + size * 0.45 * np.array([np.cos(thumb), np.sin(thumb)]), 0.085))
    height = np.full(light.shape[:2], -1.0, np.float32)
    y, x = np.mgrid[0 : len(light), 0 : len(light)].astype(np.float32)
    for start, end, radius in bars:
        axis = end - start
        length = float(np.hypot(*axis)) + 1e-3
        axis = axis / length
        dx, dy = x - np.float32(start[0]), y - np.float32(start[1])
        along = np.clip(dx * axis[0] + dy * axis[1], 0, length)
        across = np.hypot(dx - along * axis[0], dy - along * axis[1])
        wide = radius * size
        np.maximum(height, np.sqrt(np.clip(wide * wide - across * across, 0, None)) - 0.3, out=height)
    tone = skin * np.float32(uniform(rng, 0.75, 1.15)) * np.array([0.92, 0.95, 1.05], np.float32)
    mottled = 1 + 0.07 * tile(rng, len(light), len(light))[..., None]
    _put(rng, light, height.astype(np.float32), tone * mottled, level, gloss=0.03)


def _round_thing(
    rng: np.random.Generator, light: FloatArray, landmarks: FloatArray, level: float, reach: float
) -> None:
    """Fruit, a ball, a lolly, a microphone: mostly at the mouth, often on a stick."""
    center = _place(rng, landmarks, _MOUTH if chance(rng, 0.75) else _CHEEKS, reach)
    radius = reach * uniform(rng, 0.05, 0.2)
    squeeze, turn = uniform(rng, 0.7, 1.0), uniform(rng, 0, np.pi)
    y, x = np.mgrid[0 : len(light), 0 : len(light)].astype(np.float32)
    dx, dy = x - center[0], y - center[1]
    u, v = dx * np.cos(turn) + dy * np.sin(turn), (dy * np.cos(turn) - dx * np.sin(turn)) / squeeze
    height = np.sqrt(np.clip(radius * radius - u * u - v * v, 0, None)) - 0.2
    color = np.ones((*light.shape[:2], 3), np.float32) * random_color(rng)
    if chance(rng, 0.3):  # a microphone's grid, or a pattern
        color *= (0.6 + 0.4 * np.sign(np.sin(u * 1.8) * np.sin(v * 1.8)))[..., None]
    color *= 1 + 0.12 * tile(rng, len(light), len(light))[..., None]
    if chance(rng, 0.55):
        end = center + np.array([rng.normal(0, 0.6), 1.0]) * reach
        stick = np.zeros(light.shape[:2], np.float32)
        width = max(1, int(radius * uniform(rng, 0.12, 0.7)))
        cv2.line(stick, tuple(int(k) for k in center), tuple(int(k) for k in end), float(width) / 2, width, cv2.LINE_AA)
        ball = height > 0
        color[~ball] = random_color(rng)
        height = np.maximum(height, cv2.GaussianBlur(stick, (0, 0), max(width / 3, 0.5)) - 0.1)
    _put(rng, light, height.astype(np.float32), color, level, gloss=uniform(rng, 0.0, 0.6))


def _flat_thing(rng: np.random.Generator, light: FloatArray, landmarks: FloatArray, level: float, reach: float) -> None:
    """A phone, a cup, a book, a sheet of paper, with print on it."""
    center = _place(rng, landmarks, _JAW + _CHEEKS + _MOUTH, reach)
    extent = np.array([uniform(rng, 0.1, 0.45), uniform(rng, 0.1, 0.5)]) * reach
    turn = uniform(rng, -40, 40)
    cover = np.zeros(light.shape[:2], np.float32)
    box = cv2.boxPoints((center.tolist(), extent.tolist(), turn))
    cv2.fillPoly(cover, [np.rint(box * 8).astype(np.int32)], 1.0, cv2.LINE_AA, 3)
    size = len(light)
    color = np.ones((size, size, 3), np.float32) * random_color(rng)
    other = random_color(rng)
    field = tile(rng, size, size)
    if chance(rng, 0.5):
        y, x = np.mgrid[0:size, 0:size].astype(np.float32)
        field = np.sin((y * np.cos(np.radians(turn)) - x * np.sin(np.radians(turn))) * uniform(rng, 0.3, 1.5)) + field
    color += np.clip(field * uniform(rng, 0.0, 0.5), 0, 1)[..., None] * (other - color)
    bulge = uniform(rng, 0.5, 12.0) * cv2.GaussianBlur(cover, (0, 0), uniform(rng, 1.0, 8.0)) * cover
    _put(rng, light, bulge.astype(np.float32), color, level, gloss=uniform(rng, 0.0, 0.3))


def _hair_strands(
    rng: np.random.Generator, light: FloatArray, landmarks: FloatArray, hair: FloatArray, level: float, reach: float
) -> None:
    """Locks that fall across brows, eyes and cheeks."""
    cover = np.zeros(light.shape[:2], np.float32)
    top = landmarks[17:27].mean(axis=0) + (landmarks[17:27].mean(axis=0) - landmarks[8]) * uniform(rng, 0.3, 0.6)
    down = landmarks[8] - top
    aside = np.array([-down[1], down[0]]) / (np.hypot(*down) + 1e-6)
    for _ in range(int(rng.integers(2, 6))):
        root = top + aside * rng.normal(0, 0.35) * reach
        end = root + down * uniform(rng, 0.4, 1.1) + aside * rng.normal(0, 0.3) * reach
        bow = (root + end) / 2 + aside * rng.normal(0, 0.15) * reach
        t = np.linspace(0, 1, 16)[:, None]
        for _ in range(int(rng.integers(3, 16))):
            jitter = rng.normal(0, 0.02, (3, 2)) * reach
            curve = (1 - t) ** 2 * (root + jitter[0]) + 2 * t * (1 - t) * (bow + jitter[1]) + t * t * (end + jitter[2])
            cv2.polylines(
                cover, [np.rint(curve * 8).astype(np.int32)], False, uniform(rng, 0.4, 1.0), 1, cv2.LINE_AA, 3
            )
    cover = cv2.GaussianBlur(cover, (0, 0), 0.5)[..., None] * uniform(rng, 0.6, 1.0)
    shade = level * uniform(rng, 0.4, 1.0) * (1 + 0.3 * tile(rng, len(light), len(light))[..., None])
    light += np.clip(cover, 0, 1).astype(np.float32) * ((hair * shade).astype(np.float32) - light)
