"""Hair: a fuzzy cap that hugs the scalp, and a mane that hangs from it.

Both are sheets over the head's shell (`head.HeadShell`: elevation rows, azimuth columns) in several layers, each
cut out by a mask of strands, so that edges fray and one sees through. The cap's thickness is measured from the
skin; the mane leaves the skull at each column's parting line and falls, kept outside the head. Positions are in the
model frame; they follow the sampled identity.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.head import Head, HeadShell, spherical
from training.synthetic.materials import HAIR
from training.synthetic.noise import chance, rgb, tile, uint8, uniform
from training.synthetic.sheets import MASK_HEIGHT, MASK_WIDTH, Sheet, grid_sheet, shell_points

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

LOOK_HAIR = 0
_MANE_ROWS = 26
_COLORS = (
    (12, 10, 9), (26, 19, 15), (44, 30, 21), (70, 46, 30), (104, 72, 44), (150, 112, 70), (196, 164, 112),
    (222, 196, 150),
    (116, 52, 26), (150, 148, 146), (214, 212, 208), (22, 20, 22), (34, 24, 20),
)  # fmt: skip
_SHARES = (0.1, 0.1, 0.11, 0.13, 0.12, 0.11, 0.07, 0.04, 0.05, 0.05, 0.04, 0.04, 0.04)
_DARK = (0, 1, 2, 11, 12, 0, 1, 2, 9)


def hair_color(rng: np.random.Generator, skin_darkness: float) -> FloatArray:
    """A natural hair colour (2, 3), dark and light strands, linear BGR; dark skin mostly goes with dark hair."""
    dark_only = chance(rng, 0.15 + 0.8 * skin_darkness)
    pick = _COLORS[int(rng.choice(_DARK))] if dark_only else _COLORS[int(rng.choice(len(_COLORS), p=_SHARES))]
    base = rgb(*pick) * (1 + rng.normal(0, 0.1, 3)).astype(np.float32)
    if chance(rng, 0.02):
        base = np.clip(rng.random(3) ** 2, 0.02, 1).astype(np.float32)  # dyed
    contrast = uniform(rng, 0.3, 0.75)
    return np.clip(np.stack([base * (1 - contrast), base * (1 + contrast) + 0.004]), 0.002, 0.9).astype(np.float32)


def strands(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Strand texture 0..1 running down the rows, a little wavy."""
    coarse = rng.standard_normal((max(2, height // 24), width), dtype=np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    field = cv2.GaussianBlur(field, (0, 0), sigmaX=uniform(rng, 0.5, 1.4), sigmaY=0.5)
    broad = cv2.resize(
        rng.standard_normal((3, width // 12), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    if chance(rng, 0.4):  # waves
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        swing = uniform(rng, 2, 9) * np.sin(rows * (2 * np.pi / uniform(rng, 16, 60)) + 2 * broad)
        field = cv2.remap(field, columns + swing, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    field = field / field.std() * 0.2 + broad * uniform(rng, 0.05, 0.2)
    return np.clip(0.5 + field, 0, 1)


def random_hair(
    rng: np.random.Generator, head: Head, carried: FloatArray, down: FloatArray, *, flat: bool, long: bool
) -> list[Sheet]:
    """Bald, cropped, short or medium hair, or if `long` tied or hanging, as sheets of the look `LOOK_HAIR`.

    `carried` (rows, columns, 3) is the shell's movement, `down` (3,) gravity in the model frame; `flat`: under a hat.
    """
    kind = uniform(rng, 0.55, 1) if long else uniform(rng, 0, 0.55)
    if kind < 0.07:
        return []
    cropped, tied, frizzy = kind < 0.17, kind > 0.92, 0.17 <= kind < 0.27
    long = long and not tied
    low, high = (1.5, 6) if cropped or tied else (20, 48) if frizzy else (5, 18) if long else (5, 36)
    thickness = min(uniform(rng, low, high), 4.0 if flat else high)
    line = _hairline(rng, head, head.shell.azimuth)
    mask = _cap_mask(rng, head, line, fringe=not (long or tied or frizzy) and chance(rng, 0.25))
    sheets = _cap(rng, head, carried, mask, line, thickness, frizzy=frizzy)
    if tied:
        sheets.append(_bun(rng, head, carried))
    return sheets + _mane(rng, head, carried, down, thickness) if long else sheets


def _bun(rng: np.random.Generator, head: Head, carried: FloatArray) -> Sheet:
    """Tied hair: a ball on the crown, a knot at the nape, or the start of a ponytail."""
    shell = head.shell
    row = int(np.interp(uniform(rng, 5, 75), np.degrees(shell.elevation[::-1]), np.arange(len(shell.elevation))[::-1]))
    radii = np.array([uniform(rng, 18, 38), uniform(rng, 18, 45), uniform(rng, 18, 40)], np.float32)
    center = shell.center + shell.directions[row, 0] * (shell.radius[row, 0] + 0.5 * radii[2]) + carried[row, 0]
    center[1] -= max(radii[1] - 30.0, 0.0)
    ball = spherical(np.linspace(np.pi / 2, -np.pi / 2, 12)[:, None], np.linspace(-np.pi, np.pi, 19)[None])
    points = center + ball * radii * (1 + 0.06 * _bumps(rng, 12, 19, 0))[..., None]
    return grid_sheet(points.astype(np.float32), material=HAIR, look=LOOK_HAIR, light=0.8)


def _hairline(rng: np.random.Generator, head: Head, azimuth: FloatArray) -> FloatArray:
    """Elevation in radians (columns,) above which hair grows."""
    landmarks, shell = head.landmarks, head.shell
    brow, eye, ear = landmarks[19, 1], landmarks[36, 1], float(head.mean[head.ears, 1].max())
    chin = landmarks[8, 1]
    front = brow + uniform(rng, 34, 62)
    recede = uniform(rng, 0, 22) if chance(rng, 0.3) else uniform(rng, -4, 8)
    sideburn, nape = eye - uniform(rng, 8, 38), chin - uniform(rng, -10, 10)
    over_face = [front, front + recede * 0.6, front + recede, front - 8, brow + 12, eye + 4, sideburn]
    heights = [*over_face, ear + 4, ear, eye - 30, chin + 22, nape]
    angles = np.radians([0, 18, 34, 48, 60, 70, 78, 87, 104, 122, 140, 180])
    line = np.interp(np.abs(azimuth), angles, heights)
    reach = np.interp(np.abs(azimuth), [0, np.pi / 2, np.pi], [95.0, 76.0, 100.0])
    return np.arctan2(line - shell.center[1], reach).astype(np.float32)


def _cap_mask(rng: np.random.Generator, head: Head, hairline: FloatArray, *, fringe: bool) -> ByteArray:
    """Likelihood of hair per (elevation, azimuth) of the shell; a layer further out asks for more of it."""
    shell = head.shell
    azimuth = np.linspace(-np.pi, np.pi, MASK_WIDTH, dtype=np.float32)
    elevation = np.linspace(shell.elevation[0], shell.elevation[-1], MASK_HEIGHT, dtype=np.float32)[:, None]
    line = np.interp(azimuth, shell.azimuth, hairline)
    if fringe:
        lowest = np.arctan2(head.landmarks[19, 1] + uniform(rng, -4, 26) - shell.center[1], 95.0)
        tilt = rng.normal(0, 0.12) * azimuth
        line = np.where(np.abs(azimuth) < uniform(rng, 0.6, 1.1), np.minimum(line, lowest + tilt), line)
    noise = tile(rng, MASK_HEIGHT, MASK_WIDTH)
    inside = (elevation - line[None]) / uniform(rng, 0.04, 0.14) + uniform(rng, 0.3, 1.4) * noise
    grown = 1.0 / (1.0 + np.exp(-np.clip(inside, -20, 20)))
    fine = 0.72 + 0.6 * (strands(rng, MASK_HEIGHT, MASK_WIDTH) - 0.5)
    if chance(rng, 0.1):  # thin on top
        grown *= np.clip(1.15 - 1.3 * np.clip(np.sin(elevation), 0, 1) ** 3 * uniform(rng, 0.4, 1.0), 0, 1)
    return uint8(np.clip(grown * fine * 1.25, 0, 1))


def _cap(
    rng: np.random.Generator,
    head: Head,
    carried: FloatArray,
    mask: ByteArray,
    hairline: FloatArray,
    thickness: float,
    *,
    frizzy: bool,
) -> list[Sheet]:
    shell = head.shell
    rows, columns = shell.radius.shape
    upward = np.clip(0.35 + 0.9 * np.sin(np.clip(shell.elevation + 0.25, 0, None)), 0.3, 1.0)[:, None]
    # Thin where it leaves the skin, at the sides and the nape more than over the forehead.
    above = (shell.elevation[:, None] - hairline[None]) / np.interp(
        np.abs(shell.azimuth), [0, 1.2, np.pi], [0.25, 0.6, 0.8]
    )
    taper = np.clip(above * (2.5 if frizzy else 1.0), 0.12, 1.0)
    bumps = uniform(rng, 0.05, 0.3) * _bumps(rng, rows, columns, 128)
    if frizzy or chance(rng, 0.35):
        bumps = bumps + uniform(rng, 0.1, 0.4) * _bumps(rng, rows, columns, 0)  # curls and tufts
    height = np.clip(thickness * upward * taper * (1 + bumps), 0.8, 45)
    if chance(rng, 0.35):  # swept to one side
        height *= 1 + 0.5 * np.sin(shell.azimuth + uniform(rng, -np.pi, np.pi))[None]
    small = cv2.resize(
        cv2.dilate(mask, np.ones((5, 5), np.uint8)), (columns - 1, rows - 1), interpolation=cv2.INTER_LINEAR
    )
    layers = 3 if thickness < 5 else 6
    sheets = []
    for layer in range(layers):
        depth = layer / max(layers - 1, 1)
        threshold = int(255 * (0.28 + 0.44 * depth))
        points = shell_points(shell, carried, 0.6 + height * (layer + 1) / layers)
        keep = small >= threshold - 40
        if keep.any():
            shadow = layer in (layers // 2, layers - 1)
            sheets.append(
                grid_sheet(
                    points, material=HAIR, look=LOOK_HAIR, mask=mask, threshold=threshold, light=0.35 + 0.55 * depth,
                    casts_shadow=shadow, one_sided=True, keep=keep,
                )
            )  # fmt: skip
    return sheets


def _bumps(rng: np.random.Generator, rows: int, columns: int, smooth: int) -> FloatArray:
    """Unevenness over the shell: a window of fractal noise `smooth` pixels wide, or fine tufts (0)."""
    if smooth:
        field = cv2.resize(
            np.ascontiguousarray(tile(rng, smooth, smooth)), (columns, rows), interpolation=cv2.INTER_AREA
        )
    else:
        field = cv2.GaussianBlur(rng.standard_normal((rows, columns), dtype=np.float32), (0, 0), 0.8) * 2.0
    field[:, -1] = field[:, 0]
    return field


def _strand_mask(rng: np.random.Generator) -> ByteArray:
    """Mane: solid at the root, frayed towards the tips; columns differ in length."""
    texture = strands(rng, MASK_HEIGHT, MASK_WIDTH)
    v = np.linspace(0, 1, MASK_HEIGHT, dtype=np.float32)[:, None]
    length = 0.84 + 0.2 * cv2.GaussianBlur(rng.standard_normal((1, MASK_WIDTH), dtype=np.float32), (0, 0), 1.2)
    end = 1.0 / (1.0 + np.exp(-np.clip((length - v) / 0.04, -20, 20)))
    return uint8(np.clip((0.45 + 0.9 * texture) * end, 0, 1))


def _mane(rng: np.random.Generator, head: Head, carried: FloatArray, down: FloatArray, thickness: float) -> list[Sheet]:
    """Two or three curtains over the cap."""
    shell = head.shell
    start = _mane_start(rng, head)
    length = _mane_length(rng, head)
    fall = 0.7 * np.array([0, -1, 0], np.float32) + 0.3 * down
    fall /= np.linalg.norm(fall)
    mask = _strand_mask(rng)
    flare, ears = uniform(rng, -0.05, 0.22), chance(rng, 0.85)
    wave, waves, phase = uniform(rng, 0, 7), uniform(rng, 1, 4), rng.uniform(0, 2 * np.pi, 2)
    rough = uniform(rng, 1.0, 6.0) * _bumps(rng, _MANE_ROWS, len(start), 96) + uniform(rng, 0, 2.5) * _bumps(
        rng, _MANE_ROWS, len(start), 0
    )
    lift = cv2.GaussianBlur(rng.normal(0, 3.0, (1, len(start))).astype(np.float32), (0, 0), 2.0)[0]
    lift[-1] = lift[0]
    sheets = []
    layers = 3
    for layer in range(layers):
        offset = 4.0 + (thickness + lift) * (0.45 + 0.55 * layer / (layers - 1))
        points = _curtain(shell, carried, start, length * (1 - 0.05 * layer), offset, fall, flare=flare, ears=ears)
        depth = np.linspace(0, 1, _MANE_ROWS, dtype=np.float32)[:, None]
        ripple = (
            wave
            * depth
            * np.sin(waves * depth * 2 * np.pi + phase[0] + 0.8 * np.sin(3 * shell.azimuth + phase[1])[None])
        )
        outward = np.stack([np.sin(shell.azimuth), np.zeros_like(shell.azimuth), np.cos(shell.azimuth)], -1)
        points = points + (ripple + rough * (0.3 + 0.7 * depth))[..., None] * outward[None]
        sheets.append(
            grid_sheet(
                points.astype(np.float32), material=HAIR, look=LOOK_HAIR, mask=mask,
                threshold=int(255 * (0.22 + 0.5 * layer / (layers - 1))), light=0.5 + 0.4 * layer / (layers - 1),
                casts_shadow=layer != 0,
            )
        )  # fmt: skip
    return sheets


def _mane_start(rng: np.random.Generator, head: Head) -> FloatArray:
    """Elevation (columns,) where the curtain begins: the parting over the front, the crown elsewhere."""
    azimuth = head.shell.azimuth
    part = uniform(rng, -0.5, 0.5)
    front = np.clip(1 - np.abs(azimuth - part) / 1.2, 0, 1)
    return (np.radians(86) - np.radians(28) * front).astype(np.float32)


def _mane_length(rng: np.random.Generator, head: Head) -> FloatArray:
    """Length in mm (columns,) of the hanging part, measured from the hairline or the skull's widest place."""
    azimuth = head.shell.azimuth
    side = uniform(rng, 60, 130) if chance(rng, 0.45) else uniform(rng, 130, 300)
    opening = uniform(rng, 0.75, 1.3)  # half-angle of the face's window
    fringe = uniform(rng, 20, 62) if chance(rng, 0.4) else 0.0
    uneven = rng.normal(0, 0.25)  # hair falling across one side of the face
    window = np.clip((np.abs(azimuth - uneven) - opening) / 0.12, 0, 1)
    return (fringe * (1 - window) + side * window).astype(np.float32)


def _curtain(
    shell: HeadShell, carried: FloatArray, start: FloatArray, length: FloatArray, offset: FloatArray, fall: FloatArray,
    *, flare: float, ears: bool,
) -> FloatArray:  # fmt: skip
    """Grid (_MANE_ROWS, columns, 3): over the skull from `start` to where it falls, then down by `length`."""
    azimuth = shell.azimuth
    over = _MANE_ROWS // 3
    release = np.interp(np.abs(azimuth), [0, 0.6, 1.1, np.pi], np.radians([38, 34, 16, 6])).astype(np.float32)
    t = np.linspace(0, 1, over, dtype=np.float32)[:, None]
    elevation = start[None] * (1 - t) + release[None] * t  # (over, columns)
    level = np.cos(elevation)
    directions = np.stack([level * np.sin(azimuth), np.sin(elevation), level * np.cos(azimuth)], axis=-1)
    _, surface = shell.lookup(shell.center + directions, ears=ears)
    skull = shell.center + directions * (surface + offset)[..., None]
    hang = np.linspace(0, 1, _MANE_ROWS - over + 1, dtype=np.float32)[1:, None] * length[None]  # (rest, columns)
    outward = np.stack([np.sin(azimuth), np.zeros_like(azimuth), np.cos(azimuth)], axis=-1)
    drop = skull[-1] + hang[..., None] * fall + (flare * hang)[..., None] * outward
    for _ in range(2):  # push what fell into the head back out
        distance, surface = shell.lookup(drop, ears=ears)
        inside = np.clip(surface + 0.7 * offset - distance, 0, None)
        drop = drop + inside[..., None] * (drop - shell.center) / distance[..., None]
    points = np.concatenate([skull, drop])
    row = (shell.elevation[0] - np.concatenate([elevation, np.repeat(release[None], len(hang), 0)])) / (
        shell.elevation[0] - shell.elevation[-1]
    )
    nearest = np.clip(np.rint(row * (len(shell.elevation) - 1)).astype(int), 0, len(shell.elevation) - 1)
    return (points + carried[nearest, np.arange(len(azimuth))[None]]).astype(np.float32)
