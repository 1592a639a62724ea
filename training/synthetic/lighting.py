"""Light: nine spherical-harmonic coefficients for everything soft, and one key light that casts a shadow.

Directions point towards the light, in the frame of the thing that is lit (y up). Colours are linear BGR. Irradiance
is given so that a white surface under uniform light of intensity 1 has radiance 1. Source of the transfer idea:
Sloan et al., "Precomputed Radiance Transfer" (2002); of the basis constants: Ramamoorthi & Hanrahan, "An Efficient
Representation for Irradiance Environment Maps" (2001).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from training.synthetic.compiled import compiled
from training.synthetic.noise import chance, uniform
from training.synthetic.rasterizer import draw, empty_buffer

FloatArray = NDArray[np.float32]

_DIRECTIONS = 160
_VISIBILITY_SIZE = 256
_VISIBILITY_BIAS = 3.0  # mm
_BROAD = 3.0  # colour of a broad light that gives a white surface which faces it about the radiance 1
_BOUNCE = 0.45  # share of the light that skin returns to what lies in its hollows
# Zonal factors of the clamped cosine, divided by pi.
_COSINE = np.array([1.0, 2 / 3, 2 / 3, 2 / 3, 0.25, 0.25, 0.25, 0.25, 0.25], np.float32)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What each vertex makes of the nine coefficients: `irradiance` (N, 9) @ coefficients (9, 3) -> (N, 3)."""

    irradiance: FloatArray
    openness: FloatArray  # (N,) share of the upper half-space (cosine-weighted) that is not blocked

    @cached_property
    def bounced(self) -> FloatArray:
        """How much brighter (N, 1) hollows are for the light that their own walls return, again and again."""
        return (1 / (1 - _BOUNCE * (1 - self.openness.clip(0, 1))))[:, None].astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Lights:
    """The light of one picture, in the camera frame (x right, y up, z towards the camera)."""

    ambient: FloatArray  # (3,) from everywhere
    directions: FloatArray  # (K, 3) of broad lights
    colors: FloatArray  # (K, 3)
    key_direction: FloatArray  # (3,)
    key_color: FloatArray  # (3,)
    shadow_softness: float  # radius in shadow-map pixels
    shadow_strength: float

    @property
    def level(self) -> float:
        """About how bright white paper in this light is."""
        broad = float(self.colors.sum(axis=0).mean()) / (4 * np.pi) if len(self.colors) > 3 else 0.0
        return float(self.ambient.mean()) + broad + 0.5 * float(self.key_color.mean())


def harmonics(directions: FloatArray) -> FloatArray:
    """The nine real spherical harmonics (..., 9) of unit vectors (..., 3)."""
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    return np.stack(
        [
            np.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y, 1.092548 * y * z,
            0.315392 * (3 * z * z - 1), 1.092548 * x * z, 0.546274 * (x * x - y * y),
        ],
        axis=-1,
    )  # fmt: skip


def irradiance(normals: FloatArray, coefficients: FloatArray) -> FloatArray:
    """Unshadowed irradiance (N, 3) on surfaces with these normals."""
    return harmonics(normals) @ (_COSINE[:, None] * coefficients)


def sphere(count: int) -> FloatArray:
    """`count` directions spread evenly (a Fibonacci spiral)."""
    index = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * index / count), np.pi * (1 + 5**0.5) * index
    return np.stack([np.cos(turn) * np.sin(polar), np.cos(polar), np.sin(turn) * np.sin(polar)], axis=1).astype(
        np.float32
    )


def view_rotation(direction: FloatArray) -> FloatArray:
    """A rotation (3, 3) whose third row is `direction`: what an eye there sees as x, y and depth."""
    z = direction / np.linalg.norm(direction)
    x = np.cross([0.0, 1.0, 0.01], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z]).astype(np.float32)


def transfer(vertices: FloatArray, triangles: NDArray[np.int32], normals: FloatArray) -> Transfer:
    """Looks at the mesh from 160 sides and notes which vertices each side sees (about half a second)."""
    directions = sphere(_DIRECTIONS)
    center = (vertices.max(axis=0) + vertices.min(axis=0)) / 2
    scale = _VISIBILITY_SIZE / (2.04 * np.linalg.norm(vertices - center, axis=1).max())
    visible = np.zeros((len(vertices), _DIRECTIONS), np.float32)
    for k, direction in enumerate(directions):
        seen = (vertices - center) @ view_rotation(direction).T
        screen = np.ascontiguousarray(seen * scale)
        screen[:, :2] += _VISIBILITY_SIZE / 2
        buffer = empty_buffer(_VISIBILITY_SIZE)
        draw(screen, triangles, buffer)
        x, y = (np.clip(np.rint(screen[:, i]).astype(int), 0, _VISIBILITY_SIZE - 1) for i in (0, 1))
        visible[:, k] = screen[:, 2] + _VISIBILITY_BIAS * scale > buffer.depth[y, x]
    cosine = np.clip(normals @ directions.T, 0, None) * visible * (4.0 / _DIRECTIONS)  # (N, K), sums to 1 when open
    return Transfer(irradiance=(cosine @ harmonics(directions)).astype(np.float32), openness=cosine.sum(axis=1))


def random_lights(rng: np.random.Generator) -> Lights:
    """Indoor, outdoor, flash and low-key light."""
    ambient = uniform(rng, 0.12, 0.9) if chance(rng, 0.8) else uniform(rng, 0.02, 0.12)
    tint = 1 + rng.normal(0, 0.07, 3)
    directions = np.stack([_towards(rng, front=0.5, up=0.6) for _ in range(int(rng.integers(1, 4)))])
    strength = rng.uniform(0.0, 1.5, (len(directions), 1))
    if chance(rng, 0.2):  # a flash beside the lens
        direction, color = _unit(np.array([rng.normal(0, 0.1), abs(rng.normal(0, 0.15)), 1.0])), uniform(rng, 0.5, 1.6)
    else:
        direction, color = _towards(rng, front=0.25, up=0.45), uniform(rng, 0.0, 1.9)
    return Lights(
        ambient=(ambient * tint).astype(np.float32),
        directions=directions,
        colors=(strength * (1 + rng.normal(0, 0.14, (len(directions), 3)))).astype(np.float32),
        key_direction=direction,
        key_color=np.clip(color * (1 + rng.normal(0, 0.1, 3)), 0, None).astype(np.float32),
        shadow_softness=uniform(rng, 0.5, 4.0),
        shadow_strength=uniform(rng, 0.55, 1.0),
    )


def hard_lights(rng: np.random.Generator) -> Lights:
    """One light and next to nothing else: from a side, so that half a face is black, from behind, above or below."""
    ambient = uniform(rng, 0.005, 0.08)
    kind = rng.random()
    if kind < 0.6:  # from a side
        azimuth = (1 if chance(rng, 0.5) else -1) * uniform(rng, 0.9, 1.9)
        lift = rng.normal(0.2, 0.35)
    elif kind < 0.8:  # from behind: a rim of light around a dark face
        azimuth, lift, ambient = uniform(rng, 2.2, 4.1), uniform(rng, -0.1, 0.8), uniform(rng, 0.05, 0.2)
    else:  # from above or below
        azimuth, lift = uniform(rng, -0.6, 0.6), uniform(rng, 0.8, 1.4) * (1 if chance(rng, 0.75) else -1)
    key = np.array([np.cos(lift) * np.sin(azimuth), np.sin(lift), np.cos(lift) * np.cos(azimuth)])
    tint = 1 + rng.normal(0, 0.12, 3)
    return Lights(
        ambient=(ambient * (1 + rng.normal(0, 0.1, 3))).clip(0).astype(np.float32),
        directions=np.stack([_towards(rng, front=0.2, up=0.3)]),
        colors=(uniform(rng, 0.0, 0.25) * np.ones((1, 3))).astype(np.float32),
        key_direction=_unit(key),
        key_color=np.clip(uniform(rng, 0.8, 2.5) * tint, 0, None).astype(np.float32),
        shadow_softness=uniform(rng, 0.4, 2.0),
        shadow_strength=uniform(rng, 0.9, 1.0),
    )


def filled_in(rng: np.random.Generator, lights: Lights) -> Lights:
    """The same with a broad light from about where the camera is: photographers and rooms see to it that faces have it.

    Without it most light comes from above, and eyes and what is below the nose are dark.
    """
    direction = _unit(np.array([rng.normal(0, 0.5), rng.normal(0.05, 0.35), 1.0]))
    color = _BROAD * lights.level * uniform(rng, 0.05, 1.1) * (1 + rng.normal(0, 0.06, 3))
    return replace(
        lights,
        directions=np.concatenate([lights.directions, direction[None]]),
        colors=np.concatenate([lights.colors, color[None]]).astype(np.float32),
    )


def _unit(vector: NDArray[np.floating]) -> FloatArray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _towards(rng: np.random.Generator, *, front: float, up: float) -> FloatArray:
    """A direction on the camera's side of the head, more often from above."""
    vector = rng.normal(0, 1, 3)
    vector[2] = abs(vector[2]) * 0.9 + front if chance(rng, 0.9) else vector[2]
    vector[1] += up
    return _unit(vector)


@compiled
def shadow_lookup(depth: FloatArray, x: float, y: float, z: float, radius: float) -> float:
    """Share of nine taps around (x, y) of a light's depth map that see depth z: 1 = lit, 0 = in shadow."""
    height, width = depth.shape
    x, y = x + np.float32(0.5), y + np.float32(0.5)
    lit = np.float32(0.0)
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            column, row = np.int32(x + np.float32(dx) * radius), np.int32(y + np.float32(dy) * radius)
            if column < 0 or row < 0 or column >= width or row >= height or depth[row, column] <= z:
                lit += np.float32(1.0)
    return lit / np.float32(9.0)
