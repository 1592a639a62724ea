"""Maps of the face in the head's cylindrical texture: skin detail, spots, wrinkles, brows, lashes, beards, lips.

All maps are uint8 (TEXTURE_HEIGHT, TEXTURE_WIDTH). Coverage maps run from 0 to 255; signed maps (detail, relief,
folds) have their zero at 128. Every map is an item of a small library: item i of a kind depends on the library's
seed and i alone, is drawn when first asked for, and is kept. Places come from the head's own landmarks (iBUG
numbers), so a new head needs no new numbers here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.synthetic.head import (
    TEXTURE_HEIGHT,
    TEXTURE_WIDTH,
    Head,
    texture_azimuth,
    texture_height,
)
from training.synthetic.noise import chance, fractal, stream, tile, uint8, uniform
from training.synthetic.rasterizer import draw, empty_buffer

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

SKINS, BEARDS, BROWS, LASHES, FOLDS = 24, 28, 40, 12, 16
_SHAPE = (TEXTURE_HEIGHT, TEXTURE_WIDTH)
_SUBPIXEL = 3  # fractional bits of OpenCV's drawing coordinates
_UPPER_LIDS = ((36, 37, 38, 39), (42, 43, 44, 45))
_LOWER_LIDS = ((39, 40, 41, 36), (45, 46, 47, 42))


class SkinMaps:
    """The library of one head and seed: `texels` (MAPS, h, w) and `boxes` (MAPS, 4), filled row by row on demand.

    A box (left, top, right, bottom) says where its map is not empty. The methods return rows.
    """

    def __init__(self, head: Head, seed: int) -> None:
        """Makes nothing yet."""
        self._head = head
        self._seed = seed
        self._points = head.texture_landmarks()  # (68, 2)
        self._azimuth = texture_azimuth()[None, :]
        self._height = texture_height()[:, None]
        columns, rows = np.meshgrid(np.arange(TEXTURE_WIDTH), np.arange(TEXTURE_HEIGHT))
        self._grid = np.stack([columns, rows], axis=-1).astype(np.float32)
        self.texels = np.zeros((4 * SKINS + 2 * FOLDS + BEARDS + BROWS + LASHES + 3, *_SHAPE), np.uint8)
        self.boxes = np.zeros((len(self.texels), 4), np.int32)
        self._next = 0
        self._rows: dict[tuple[str, int], tuple[int, ...]] = {}

    def skin(self, index: int) -> tuple[int, ...]:
        """Rows of (detail, redness, spots, relief)."""
        return self._get("skin", index, self._skin)

    def folds(self, index: int) -> tuple[int, ...]:
        """Rows of (smile folds, forehead lines): grooves that an expression deepens."""
        return self._get("folds", index, self._folds)

    def beard(self, index: int) -> int:
        """Row of a beard."""
        return self._get("beard", index, self._beard)[0]

    def brows(self, index: int) -> int:
        """Row of a pair of eyebrows."""
        return self._get("brows", index, self._brows)[0]

    def lashes(self, index: int) -> int:
        """Row of lash lines."""
        return self._get("lashes", index, self._lashes)[0]

    def fixed(self) -> tuple[int, ...]:
        """Rows of (area around the eyes, upper lids, lips)."""
        return self._get("fixed", 0, lambda _: (self._eye_area(), self._lids(), uint8(self._lips)))

    def _get(self, kind: str, index: int, make: Callable[[int], tuple[ByteArray, ...]]) -> tuple[int, ...]:
        if (kind, index) not in self._rows:
            made = make(index)
            rows = tuple(range(self._next, self._next + len(made)))
            signed = (0, 3) if kind == "skin" else (0, 1) if kind == "folds" else ()
            for place, (row, texels) in enumerate(zip(rows, made, strict=True)):
                self.texels[row] = texels
                self.boxes[row] = _box(cv2.absdiff(texels, np.full_like(texels, 128 if place in signed else 0)))
            self._next += len(made)
            self._rows[kind, index] = rows
        return self._rows[kind, index]

    @cached_property
    def _lips(self) -> FloatArray:
        """Where the lips are, soft-edged."""
        head = self._head
        front = head.model_triangles[(head.part == 0) & ~head.inner[head.model_triangles].any(axis=1)]
        texture = head.to_texture(head.texture_vertices)
        return cv2.GaussianBlur(_paint(texture, front, head.lips), (0, 0), 0.8)

    def _eye_area(self) -> ByteArray:
        """Around the eyes: shadow, dark circles, make-up."""
        area = np.zeros(_SHAPE, np.float32)
        for ids in (range(36, 42), range(42, 48)):
            area += self._spot(self._points[list(ids)].mean(axis=0), 24.0, 13.0)
        return uint8(area)

    def _lids(self) -> ByteArray:
        """The upper lids up to the crease: eye shadow."""
        area = np.zeros(_SHAPE, np.float32)
        for ids in _UPPER_LIDS:
            line = self._points[list(ids)]
            raised = line - [0, 9.0]
            cv2.fillPoly(area, [_fixed(np.concatenate([line, raised[::-1]]))], 1.0, cv2.LINE_AA, _SUBPIXEL)
        return uint8(cv2.GaussianBlur(area, (0, 0), 2.5))

    def _spot(self, center: ArrayLike, width: float, height: float) -> FloatArray:
        offset = (self._grid - np.asarray(center, np.float32)) / np.array([width, height], np.float32)
        return np.exp(-(offset**2).sum(-1))

    def _skin(self, index: int) -> tuple[ByteArray, ...]:
        """(detail, redness, spots, relief)."""
        rng = stream(self._seed, 1, index)
        fine = rng.standard_normal(_SHAPE, dtype=np.float32)
        detail = tile_of(rng) * uniform(rng, 0.5, 1.0) + cv2.GaussianBlur(fine, (0, 0), 0.8) * uniform(rng, 0.3, 1.1)
        redness = np.clip(0.1 + tile_of(rng) * uniform(rng, 0.05, 0.25), 0, 1)
        flush = uniform(rng, 0.1, 0.9)
        for side in (36, 45):
            center = (self._points[side] + self._points[48 if side == 36 else 54]) / 2 + rng.normal(0, 3, 2)
            redness += flush * self._spot(center, uniform(rng, 18, 34), uniform(rng, 14, 26))
        redness += uniform(rng, 0, 0.8) * self._spot(self._points[30] + [0, 2], 13, 10)
        redness += uniform(rng, 0, 0.4) * self._spot(self._points[8] - [0, 12], 18, 10)
        relief = cv2.GaussianBlur(rng.standard_normal(_SHAPE, dtype=np.float32), (0, 0), uniform(rng, 0.8, 1.6)) * 0.12
        relief += self._age_lines(rng)
        return _signed(0.16 * detail), uint8(redness), self._spots(rng), _signed(0.16 * relief)

    def _spots(self, rng: np.random.Generator) -> ByteArray:
        """Freckles (many, small), or a few moles and blemishes."""
        spots = np.zeros(_SHAPE, np.float32)
        freckled = chance(rng, 0.3)
        low, high = self._points[19], self._points[8]
        for _ in range(int(rng.integers(60, 260) if freckled else rng.integers(0, 12))):
            center = (rng.normal(self._points[30, 0], 55), uniform(rng, low[1], high[1] - 10))
            radius = uniform(rng, 0.4, 1.1) if freckled else uniform(rng, 0.6, 2.2)
            cv2.circle(spots, _fixed_point(center), int(radius * 8), uniform(rng, 0.2, 1.0), -1, cv2.LINE_AA, _SUBPIXEL)
        return uint8(cv2.GaussianBlur(spots, (0, 0), 0.6))

    def _age_lines(self, rng: np.random.Generator) -> FloatArray:
        """Bags under the eyes, crow's feet and frown lines, as heights (grooves are negative)."""
        lines = np.zeros(_SHAPE, np.float32)
        depth = uniform(rng, 0, 1) ** 1.5
        for outer, inner, sign in ((36, 39, -1), (45, 42, 1)):
            below = self._points[[outer, 41 if outer == 36 else 46, inner]] + [0, uniform(rng, 6, 10)]
            _stroke(lines, below, -depth * 0.7, 1)
            for _ in range(int(rng.integers(2, 5))):
                start = self._points[outer] + [sign * uniform(rng, 4, 7), rng.normal(0, 3)]
                _stroke(
                    lines,
                    np.stack([start, start + np.array([sign * uniform(rng, 5, 12), rng.normal(0, 5)])]),
                    -depth,
                    1,
                )
            brow = self._points[21 if outer == 36 else 22]
            _stroke(lines, brow + np.array([[-sign * 3, 2], [-sign * 2, -12]]), -depth * uniform(rng, 0, 1), 1)
        return cv2.GaussianBlur(lines, (0, 0), 0.9) * 1.6

    def _folds(self, index: int) -> tuple[ByteArray, ...]:
        """(smile folds, forehead lines): grooves that an expression deepens."""
        rng = stream(self._seed, 2, index)
        smile, forehead = np.zeros(_SHAPE, np.float32), np.zeros(_SHAPE, np.float32)
        for wing, corner, sign in ((31, 48, -1), (35, 54, 1)):
            start = self._points[wing] + [sign * 4, -5]
            middle = (self._points[wing] + self._points[corner]) / 2 + [sign * uniform(rng, 9, 14), 0]
            end = self._points[corner] + [sign * uniform(rng, 6, 11), uniform(rng, -2, 9)]
            _stroke(smile, _bend(np.stack([start, middle, end])), -1.0, int(rng.integers(1, 3)))
        y = self._points[19, 1] - 14
        left, right = self._points[17, 0], self._points[26, 0]
        for _ in range(int(rng.integers(2, 6))):
            x = np.linspace(left + uniform(rng, -5, 25), right - uniform(rng, -5, 25), 24)
            wave = 2.5 * np.cos((x - x.mean()) / uniform(rng, 12, 22)) + np.cumsum(rng.normal(0, 0.3, 24))
            _stroke(forehead, np.stack([x, y + wave], axis=1), -uniform(rng, 0.4, 1.0), 1)
            y -= uniform(rng, 5, 9)
        width = uniform(rng, 1.3, 2.6)  # a line one pixel wide loses height in the blur: give it back
        blurred = [width * cv2.GaussianBlur(field, (0, 0), width) for field in (smile, forehead)]
        return _signed(0.45 * blurred[0]), _signed(0.45 * blurred[1])

    def _lashes(self, index: int) -> tuple[ByteArray, ...]:
        """Lash lines; the stronger items are mascara and eyeliner."""
        rng = stream(self._seed, 3, index)
        lashes = np.zeros(_SHAPE, np.float32)
        strong = uniform(rng, 0.6, 1.0)
        for upper, lower in zip(_UPPER_LIDS, _LOWER_LIDS, strict=True):
            line = _bend(self._points[list(upper)] + [0, -0.8])
            _stroke(lashes, line, strong, 2 if chance(rng, 0.4) else 1)
            _stroke(lashes, _bend(self._points[list(lower)] + [0, 1.0]), strong * uniform(rng, 0.1, 0.7), 1)
        crease = np.zeros(_SHAPE, np.float32)
        for upper in _UPPER_LIDS:
            _stroke(crease, _bend(self._points[list(upper)] + [0, -uniform(rng, 5, 9)]), uniform(rng, 0, 0.45), 1)
        soft = cv2.GaussianBlur(lashes, (0, 0), uniform(rng, 0.5, 0.9)) + cv2.GaussianBlur(crease, (0, 0), 1.2)
        return (uint8(soft),)

    def _brows(self, index: int) -> tuple[ByteArray, ...]:
        """Eyebrows, hair by hair."""
        rng = stream(self._seed, 4, index)
        brows = np.zeros(_SHAPE, np.float32)
        thickness, density = uniform(rng, 2.2, 6.5), int(rng.integers(110, 330))
        lift, arch = rng.normal(0.8, 1.4), rng.normal(0, 1.5)
        for ids, outwards in (((21, 20, 19, 18, 17), -1.0), ((22, 23, 24, 25, 26), 1.0)):
            line = self._points[list(ids)] + [0, lift]
            line[2:4, 1] -= arch
            line = _bend(line)
            along = rng.random(density) ** 0.9 * (len(line) - 1.001)
            whole = along.astype(int)
            spread = thickness * (1.0 - 0.6 * along / len(line)) * rng.normal(0, 0.4, density)
            base = line[whole] + (line[whole + 1] - line[whole]) * (along - whole)[:, None]
            base[:, 1] += spread
            turn = np.radians(uniform(rng, 50, 75)) * (1 - along / len(line)) + rng.normal(0, 0.25, density)
            length = uniform(rng, 2.5, 5.5)
            tip = base + length * np.stack([outwards * np.cos(turn), -np.sin(turn) - spread * 0.1], axis=1)
            for start, end in zip(base, tip, strict=True):
                _stroke(brows, np.stack([start, end]), 0.55, 1, add=True)
        return (uint8(cv2.GaussianBlur(brows, (0, 0), uniform(rng, 0.5, 1.1))),)

    def _beard(self, index: int) -> tuple[ByteArray, ...]:
        """Hair on lip, chin, cheeks and neck: shadow, stubble, moustache, goatee or full beard."""
        rng = stream(self._seed, 5, index)
        points, angle = self._head.landmarks, np.abs(self._azimuth)
        azimuth = np.abs(np.arctan2(points[:, 0], points[:, 2] - self._head.axis_z))
        edge = np.interp(
            angle,
            [0, azimuth[48] * 0.8, azimuth[48] * 1.4, azimuth[3], azimuth[1], azimuth[0] * 1.02],
            points[33, 1] + np.array([-5, -5, -12 - uniform(rng, 0, 14), -22 + uniform(rng, -6, 10), -14, 32]),
        )
        softness, floor = uniform(rng, 1.5, 6.0), points[8, 1] - uniform(rng, 8, 40)
        field = _step((edge - self._height) / softness) * _step((self._height - floor) / 6.0)
        field *= _step((azimuth[0] * 1.04 - angle) / 0.03)
        kind = rng.random()
        chin = _step((azimuth[48] * uniform(rng, 1.1, 1.6) - angle) / 0.04)
        if kind < 0.25:
            field = field * chin  # goatee with moustache
        elif kind < 0.4:
            field = field * chin * _step((self._height - points[51, 1] + 1.0) / 1.5)  # moustache
        elif kind < 0.5:
            field = field * chin * _step((points[57, 1] - 2.0 - self._height) / 2.0)  # chin alone
        lips = cv2.morphologyEx(self._lips, cv2.MORPH_CLOSE, np.ones((15, 5), np.uint8))  # with the gap between them
        field = field * (1 - np.clip(lips * 1.6, 0, 1))
        grain = cv2.GaussianBlur(
            rng.standard_normal(_SHAPE, dtype=np.float32), (0, 0), sigmaX=0.6, sigmaY=uniform(rng, 0.6, 2)
        )
        patchy = 0.85 + 0.25 * tile_of(rng)
        return (uint8(field * np.clip(patchy * (0.75 + 0.35 * grain / grain.std()), 0, 1)),)


def tile_of(rng: np.random.Generator) -> FloatArray:
    """A texture-sized window of fractal noise."""
    return tile(rng, TEXTURE_HEIGHT, TEXTURE_WIDTH) if chance(rng, 0.7) else fractal(rng, *_SHAPE, cells=6)


def _signed(field: FloatArray) -> ByteArray:
    return uint8(128 / 255 + field)


def _box(texels: ByteArray) -> tuple[int, int, int, int]:
    left, top, width, height = cv2.boundingRect((texels > 1).view(np.uint8))
    return left - 1, top - 1, left + width, top + height


def _step(value: ArrayLike) -> FloatArray:
    return (1.0 / (1.0 + np.exp(-np.clip(np.asarray(value, np.float32), -30, 30)))).astype(np.float32)


def _bend(points: ArrayLike, count: int = 20) -> FloatArray:
    """A smooth curve (count, 2) through a few points: a cubic in the running index."""
    points = np.asarray(points, np.float64)
    t = np.linspace(-1, 1, len(points))
    fit = np.polynomial.polynomial.polyfit(t, points, min(3, len(points) - 1))
    return np.polynomial.polynomial.polyval(np.linspace(-1, 1, count), fit).T.astype(np.float32)


def _fixed(points: ArrayLike) -> NDArray[np.int32]:
    return np.rint(np.asarray(points) * (1 << _SUBPIXEL)).astype(np.int32)


def _fixed_point(point: ArrayLike) -> tuple[int, int]:
    x, y = _fixed(point)
    return int(x), int(y)


def _stroke(field: FloatArray, line: ArrayLike, value: float, thickness: int, *, add: bool = False) -> None:
    """Draws a polyline into `field`, in place; `add` lets strokes pile up."""
    fixed = _fixed(line)
    if not add:
        cv2.polylines(field, [fixed], False, value, thickness, cv2.LINE_8, _SUBPIXEL)
        return
    low = np.maximum(fixed.min(axis=0) // 8 - 2, 0)
    high = fixed.max(axis=0) // 8 + 3
    patch = field[low[1] : high[1], low[0] : high[0]]
    stroke = np.zeros(patch.shape, np.uint8)
    cv2.polylines(stroke, [fixed - low.astype(np.int32) * 8], False, 255, thickness, cv2.LINE_AA, _SUBPIXEL)
    patch += stroke * np.float32(value / 255.0)


def _paint(texture: FloatArray, triangles: NDArray[np.int32], value: FloatArray) -> FloatArray:
    """A per-vertex value drawn into the texture (its largest where surfaces overlap)."""
    size = max(_SHAPE)
    buffer = empty_buffer(size)
    screen = np.concatenate([texture, value[:, None]], axis=1).astype(np.float32)
    narrow = np.ascontiguousarray(triangles[np.ptp(texture[triangles, 0], axis=1) < TEXTURE_WIDTH / 2])
    draw(screen, narrow, buffer)
    return np.maximum(buffer.depth[: _SHAPE[0], : _SHAPE[1]], 0)
