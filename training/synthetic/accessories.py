"""Things people wear: clothes, glasses, hats, scarves.

They are sheets in the model frame and go through the same z-buffer as the head, so they work from every side.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.head import Head
from training.synthetic.materials import CLOTH, GLOSSY
from training.synthetic.noise import chance, tile, uint8, uniform
from training.synthetic.sheets import MASK_HEIGHT, MASK_WIDTH, Sheet, grid_sheet, mesh_sheet, shell_points, tube

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
ByteArray = NDArray[np.uint8]

LOOK_CLOTH, LOOK_FRAME, LOOK_HAT, LOOK_SCARF = 1, 2, 3, 4
LOOKS = 5
LOOK_CARDS, LOOK_BROWS, LOOK_LASHES, LOOK_TEETH, LOOK_TONGUE, LOOK_FELT = range(LOOKS, LOOKS + 6)
"""Looks of meshes with a texture of their own, after those with patterns."""
TEXTURED_LOOKS = 6
_RIM_POINTS = 36


@dataclass(frozen=True, kw_only=True)
class Glasses:
    """Frame sheets, and lenses drawn last: `tint` (3,) is what they let through, `mirror` what they reflect."""

    frame: list[Sheet]
    lens_vertices: FloatArray
    lens_triangles: IntArray
    tint: FloatArray
    mirror: float


def pattern(rng: np.random.Generator) -> ByteArray:
    """A cloth pattern (MASK_HEIGHT, MASK_WIDTH): plain weave, stripes, checks, dots, print."""
    y, x = np.mgrid[0:MASK_HEIGHT, 0:MASK_WIDTH].astype(np.float32)
    kind = int(rng.integers(8))
    field = 0.15 * tile(rng, MASK_HEIGHT, MASK_WIDTH)
    period = uniform(rng, 6, 40)
    if kind == 0:
        field = field + 0.5 + 0.5 * np.sign(np.sin(y * 2 * np.pi / period))
    elif kind == 1:
        field = field + 0.5 + 0.5 * np.sign(np.sin(x * 2 * np.pi / period))
    elif kind == 2:
        field = field + 0.5 + 0.25 * (np.sign(np.sin(x * 2 * np.pi / period)) + np.sign(np.sin(y * 2 * np.pi / period)))
    elif kind == 3:
        field = field + (np.sin(x * 2 * np.pi / period) * np.sin(y * 2 * np.pi / period) > 0.5)
    elif kind == 4:
        field = field + (tile(rng, MASK_HEIGHT, MASK_WIDTH) > 0.4)
    else:
        field = field + 0.3
    return uint8(np.clip(field, 0, 1))


def clothes(rng: np.random.Generator, head: Head, vertices: FloatArray, normals: FloatArray, *, veiled: bool) -> Sheet:
    """A collar and shoulders: crew neck, V-neck, turtleneck, a wide opening; or, `veiled`, a headscarf's lower part."""
    chin = float(head.landmarks[8, 1])
    on_body = head.mean[:, 1] < chin - 5
    skin = head.skin_triangles
    triangles = skin[on_body[skin].all(axis=1)]
    used, local = np.unique(triangles, return_inverse=True)
    rest = head.mean[used]
    azimuth = np.arctan2(rest[:, 0], rest[:, 2] - head.axis_z + 15.0)
    top, span = chin - 5.0, 180.0
    uv = np.stack([np.clip(azimuth / (2 * np.pi) + 0.5, 0, 0.999), (top - rest[:, 1]) / span], axis=1)
    angle = np.linspace(-np.pi, np.pi, MASK_WIDTH, dtype=np.float32)
    collar = uniform(rng, 35, 85) if chance(rng, 0.8) else uniform(rng, 8, 30)
    front = np.clip(1 - np.abs(angle) / uniform(rng, 0.4, 1.2), 0, 1)
    line = collar + 14 * np.cos(angle) + uniform(rng, 0, 70) * front  # mm below `top`
    if veiled:
        line = 4.0 + 10 * np.cos(angle)
    rows = np.linspace(0, span, MASK_HEIGHT, dtype=np.float32)[:, None]
    mask = uint8(np.clip((rows - line[None]) / 6.0 + 0.5, 0, 1))
    thick = uniform(rng, 9, 16) if veiled else uniform(rng, 3, 9)
    folds = 2.5 * np.sin(rest[:, 0] * uniform(rng, 0.03, 0.09) + rest[:, 1] * uniform(rng, -0.08, 0.08))
    raised = vertices[used] + normals[used] * (thick + np.clip(folds, -2, 3))[:, None]
    return mesh_sheet(
        raised, local.reshape(-1, 3).astype(np.int32), material=CLOTH, look=LOOK_SCARF if veiled else LOOK_CLOTH,
        uv=uv, mask=mask, threshold=128, light=0.8,
    )  # fmt: skip


def glasses(rng: np.random.Generator, head: Head, vertices: FloatArray) -> Glasses:
    """Spectacles or sunglasses resting on the nose and the ears."""
    points = vertices[head.landmark_vertices]
    eyes = points[36:42].mean(axis=0), points[42:48].mean(axis=0)  # the subject's right, left
    middle = (eyes[0] + eyes[1]) / 2
    plane = max(float(points[27, 2]) + 3.0, float(eyes[0][2]) + uniform(rng, 11, 15))
    reach = abs(float(eyes[1][0] - eyes[0][0])) / 2
    sun = chance(rng, 0.4)
    half = reach * (uniform(rng, 0.68, 0.92) if sun else uniform(rng, 0.62, 0.85))
    tall = half * (uniform(rng, 0.65, 0.95) if sun else uniform(rng, 0.5, 0.9))
    power, droop = uniform(rng, 2.0, 5.5), uniform(rng, -1, 5)
    width = uniform(rng, 0.5, 1.2) if chance(rng, 0.5) else uniform(rng, 1.2, 3.2)
    sheets, lenses = [], []
    for side, eye in ((-1.0, eyes[0]), (1.0, eyes[1])):
        center = np.array([middle[0] + side * (reach + 1.5), eye[1] - droop, plane], np.float32)
        rim = _rim(center, half, tall, power, wrap=uniform(rng, 2, 7))
        lenses.append(rim)
        sheets.append(_tube_sheet(rim, width, 1.2, closed=True))
        sheets.append(_tube_sheet(_temple(head, vertices, rim, side), width * 0.7, 1.2, closed=False))
    inner = [lenses[0][np.argmax(lenses[0][:, 0])], lenses[1][np.argmin(lenses[1][:, 0])]]
    lift = np.array([0, tall * 0.35, 1.5], np.float32)
    bridge = np.stack([inner[0] + lift * 0.6, (inner[0] + inner[1]) / 2 + lift, inner[1] + lift * 0.6])
    sheets.append(_tube_sheet(bridge, width * 0.8, 1.2, closed=False))
    fan = np.stack(
        [np.zeros(_RIM_POINTS, int), 1 + np.arange(_RIM_POINTS), 1 + (np.arange(_RIM_POINTS) + 1) % _RIM_POINTS], 1
    )
    discs = [np.concatenate([rim.mean(axis=0, keepdims=True) + np.array([[0, 0, 1.0]]), rim]) for rim in lenses]
    tint = (
        np.full(3, uniform(rng, 0.01, 0.25)) * (1 + rng.normal(0, 0.15, 3))
        if sun
        else np.full(3, uniform(rng, 0.88, 1.0))
    )
    return Glasses(
        frame=sheets,
        lens_vertices=np.concatenate(discs).astype(np.float32),
        lens_triangles=np.concatenate([fan, fan + _RIM_POINTS + 1]).astype(np.int32),
        tint=np.clip(tint, 0, 1).astype(np.float32),
        mirror=uniform(rng, 0.0, 0.3) if sun else uniform(rng, 0, 0.12) if chance(rng, 0.5) else 0.0,
    )


def _rim(center: FloatArray, half: float, tall: float, power: float, wrap: float) -> FloatArray:
    """A superellipse whose outer end bends back by `wrap` mm."""
    t = np.linspace(0, 2 * np.pi, _RIM_POINTS, endpoint=False)
    x = half * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (2 / power)
    y = tall * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** (2 / power)
    outwards = np.sign(center[0]) * x / half
    return (center + np.stack([x, y, -wrap * np.clip(outwards + 0.3, 0, None) ** 2], axis=1)).astype(np.float32)


def _temple(head: Head, vertices: FloatArray, rim: FloatArray, side: float) -> FloatArray:
    """From the rim's outer end to the root of the ear, and down behind it."""
    ear = vertices[head.ears & (np.sign(head.mean[:, 0]) == side)]
    top = ear[np.argsort(ear[:, 1])[-12:]].mean(axis=0)
    outer = rim[np.argmax(rim[:, 0] * side)] + np.array([side * 1.0, 3.0, -1.0])
    root = np.array([top[0] - side * 2.0, top[1] - 1.0, top[2] + 4.0])
    tail = root + np.array([-side * 3.0, -22.0, -20.0])
    return np.stack([outer, 0.5 * (outer + root) + [side * 2.0, 1.0, 0.0], root, tail]).astype(np.float32)


def _tube_sheet(path: FloatArray, width: float, depth: float, *, closed: bool) -> Sheet:
    points, triangles = tube(path, width, depth, closed=closed)
    return mesh_sheet(points, triangles, material=GLOSSY, look=LOOK_FRAME, light=0.9)


def hat(rng: np.random.Generator, head: Head, carried: FloatArray) -> list[Sheet]:
    """Beanie, cap, brimmed hat or headscarf."""
    kind = rng.random()
    if kind < 0.25:
        return [
            _crown(rng, head, carried, front=uniform(rng, 16, 45), back=uniform(rng, -20, 30), rise=uniform(rng, 2, 16))
        ]
    if kind < 0.62:
        return _cap(rng, head, carried)
    if kind < 0.82:
        front = uniform(rng, 18, 40)
        crown = _crown(rng, head, carried, front=front, back=front - uniform(rng, 0, 10), rise=uniform(rng, 18, 45))
        return [
            crown,
            _brim(rng, head, carried, front, span=np.pi, length=uniform(rng, 35, 90), sag=uniform(rng, -0.3, 0.5)),
        ]
    return [_headscarf(rng, head, carried)]


def _edge(head: Head, azimuth: FloatArray, front: float, back: float) -> FloatArray:
    """Elevation of a hat's edge that sits `front` mm above the brows and `back` mm above the ears' tops at the back."""
    shell, brow, ear = head.shell, head.landmarks[19, 1], float(head.mean[head.ears, 1].max())
    height = np.interp(np.abs(azimuth), [0, np.pi / 2, np.pi], [brow + front, ear + 6 + 0.5 * max(back, 0), ear + back])
    return np.arctan2(height - shell.center[1], np.interp(np.abs(azimuth), [0, np.pi / 2, np.pi], [95, 76, 100]))


def _crown(
    rng: np.random.Generator, head: Head, carried: FloatArray, *, front: float, back: float, rise: float
) -> Sheet:
    shell = head.shell
    azimuth = np.linspace(-np.pi, np.pi, MASK_WIDTH, dtype=np.float32)
    elevation = np.linspace(shell.elevation[0], shell.elevation[-1], MASK_HEIGHT, dtype=np.float32)[:, None]
    tilt = rng.normal(0, 0.06) * np.sin(azimuth)
    mask = uint8(np.clip((elevation - (_edge(head, azimuth, front, back) + tilt)[None]) / 0.05 + 0.5, 0, 1))
    up = np.clip(np.sin(shell.elevation), 0, 1)[:, None]
    bumps = cv2.resize(np.ascontiguousarray(tile(rng, 96, 96)), shell.radius.shape[::-1], interpolation=cv2.INTER_AREA)
    offset = 5.0 + rise * up + uniform(rng, 0, 1.5) * bumps
    offset[:, -1] = offset[:, 0]
    points = shell_points(shell, carried, offset.astype(np.float32))
    return grid_sheet(points, material=CLOTH, look=LOOK_HAT, mask=mask, threshold=128, light=0.85)


def _cap(rng: np.random.Generator, head: Head, carried: FloatArray) -> list[Sheet]:
    front = uniform(rng, 22, 48)
    crown = _crown(rng, head, carried, front=front, back=front - uniform(rng, 10, 40), rise=uniform(rng, 6, 22))
    if chance(rng, 0.12):
        return [crown]  # worn backwards
    return [
        crown,
        _brim(rng, head, carried, front, span=1.05, length=uniform(rng, 50, 80), sag=uniform(rng, 0.05, 0.5)),
    ]


def _brim(
    rng: np.random.Generator, head: Head, carried: FloatArray, front: float, *, span: float, length: float, sag: float
) -> Sheet:
    """A brim around the front (span < pi) or all the way; `sag` is its slope downwards."""
    shell = head.shell
    columns, rows = 41, 6
    azimuth = np.linspace(-span, span, columns, dtype=np.float32)
    elevation = _edge(head, azimuth, front, front - 5).astype(np.float32)
    level = np.cos(elevation)
    direction = np.stack([level * np.sin(azimuth), np.sin(elevation), level * np.cos(azimuth)], -1)
    _, surface = shell.lookup(shell.center + direction, ears=False)
    edge = shell.center + direction * (surface + 5.0)[:, None]
    nearest = np.rint((azimuth + np.pi) / (2 * np.pi) * (len(shell.azimuth) - 1)).astype(int)
    edge += carried[len(shell.elevation) // 3, nearest]
    if span < 3:
        outward = np.stack([0.35 * np.sin(azimuth), -sag - 0.25 * np.sin(azimuth) ** 2, np.ones_like(azimuth)], -1)
        reach = length * np.sqrt(np.clip(1 - (azimuth / span) ** 2, 0, 1))
    else:
        wave = 0.15 * np.sin(2 * azimuth + uniform(rng, 0, 6))
        outward = np.stack([np.sin(azimuth), -sag + wave, np.cos(azimuth)], -1)
        reach = np.full(columns, length)
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    points = edge[None] + (t * reach[None])[..., None] * outward[None]
    return grid_sheet(points.astype(np.float32), material=CLOTH, look=LOOK_HAT, light=0.75)


def _headscarf(rng: np.random.Generator, head: Head, carried: FloatArray) -> Sheet:
    """Cloth around the whole head that leaves a window for the face."""
    shell = head.shell
    azimuth = np.linspace(-np.pi, np.pi, MASK_WIDTH, dtype=np.float32)
    elevation = np.linspace(shell.elevation[0], shell.elevation[-1], MASK_HEIGHT, dtype=np.float32)[:, None]
    top = float(np.arctan2(head.landmarks[19, 1] + uniform(rng, 8, 45) - shell.center[1], 95.0))
    middle, half_height = top - 0.95, 0.95
    window = (azimuth[None] / uniform(rng, 0.72, 1.0)) ** 2 + ((elevation - middle) / half_height) ** 2
    mask = uint8(np.clip((window - 1) / 0.12 + 0.5, 0, 1) * (elevation > -0.65))  # below, the cloth is `clothes`
    offset = 5.0 + 3.0 * np.abs(cv2.resize(np.ascontiguousarray(tile(rng, 96, 96)), shell.radius.shape[::-1]))
    offset[:, -1] = offset[:, 0]
    points = shell_points(shell, carried, offset.astype(np.float32), ears=True)
    return grid_sheet(points, material=CLOTH, look=LOOK_SCARF, mask=mask, threshold=128, light=0.85)
