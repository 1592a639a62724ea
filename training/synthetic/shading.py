"""Colours the geometry buffer: one pass over the visible pixels, in the model frame, in linear BGR light.

A scene is one list of vertices and triangles with attributes; `Scene` below says which. What a triangle is made of
is its `material`; things that come in several looks within one picture (hair, cloth, frames) take their colours
from row `look` of `Palette`. Diffuse light is the per-vertex irradiance plus the key light behind a shadow map;
skin wraps the key light a little and lets it bleed into shadows, red most, which is what scattering below the surface
does, and shines in two lobes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.synthetic.compiled import compiled
from training.synthetic.light_pass import add_light
from training.synthetic.materials import (
    C_FLESH,
    C_IRIS,
    C_SCLERA,
    C_SKIN,
    C_TEETH,
    COVERS,
    DETAIL,
    EYE,
    EYE_REACH,
    EYE_SHADE,
    EYE_WET,
    FLESH,
    GLINT,
    GLINT_COSINE,
    GLOSS,
    HAIR,
    IRIS_COSINE,
    LIP_GLOSS,
    LIPS,
    MAPS,
    P_ALBEDO,
    P_GLOSS,
    P_NORMAL,
    P_OPEN,
    P_SHEEN,
    P_SHININESS,
    P_STRAND,
    P_SURFACE,
    PUPIL_COSINE,
    SHININESS,
    SKIN,
    SKIN_SHEEN,
    TEETH,
)
from training.synthetic.rasterizer import GeometryBuffer, texel

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
ByteArray = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Vertices (N) and triangles (T) of everything in the picture, in the model frame."""

    positions: FloatArray  # (N, 3)
    normals: FloatArray  # (N, 3)
    irradiance: FloatArray  # (N, 3)
    uv: FloatArray  # (N, 2)
    frame: FloatArray  # (N, 3) skin: tangent along u; eyes: direction in eyeball radii; hair: strand direction
    triangles: IntArray  # (T, 3)
    material: ByteArray  # (T,)
    look: ByteArray  # (T,)
    mask_of: IntArray  # (T,) see rasterizer.rasterize
    threshold: ByteArray  # (T,)
    one_sided: NDArray[np.bool_]  # (T,) back faces are not drawn
    casts_shadow: NDArray[np.bool_]  # (T,)
    texture_of: IntArray  # (T,) see rasterizer.rasterize
    base_uv: FloatArray  # (R, 2) of the head, the scene's first vertices
    seam_row: IntArray  # (H,) of the head, the scene's first triangles: those on a seam have corners of their own
    seam_uv: FloatArray  # (S, 3, 2)


@dataclass(frozen=True, kw_only=True)
class SkinPaint:
    """How a face is painted.

    A library of maps (L, h, w) and the boxes (L, 4: left, top, right, bottom) outside which they are empty; the rows
    chosen from it (MAPS,), their weights and other numbers (NUMBERS,), colours (COLORS, 3), the gaze (3,), and the
    normal (3,) of the place on the eyes that mirrors a lamp.
    """

    maps: ByteArray
    boxes: IntArray
    chosen: IntArray
    colors: FloatArray
    numbers: FloatArray
    gaze: FloatArray
    glint: FloatArray
    texture: ByteArray  # (h, w, 3) a skin in the base mesh's texture coordinates; empty: the plain tone
    texture_gain: FloatArray  # (3,) what the texture's linear colour is multiplied with
    eye: ByteArray  # (h, w, 3) a patch around an iris, `EYE_REACH` iris radii each way; empty: painted
    eye_gain: FloatArray  # (2, 3) what the patch's iris and its white are multiplied with


NO_TEXTURE = np.zeros((0, 0, 3), np.uint8)


NO_TEXELS, NO_TABLE = np.zeros((1, 4), np.uint8), np.zeros((1, 3), np.int32)
"""An atlas without a texture."""


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Looks of sheets.

    Colours (K, 2, 3): with a texture the first is its tint, else the two are mixed by a pattern (P, h, w) that repeats
    `repeat` (K, 2) times over uv; gloss (K,).
    """

    colors: FloatArray
    patterns: ByteArray
    repeat: FloatArray
    gloss: FloatArray
    texels: ByteArray  # the atlas' textures (S, 4) and their table (K, 3)
    table: IntArray


@dataclass(frozen=True, kw_only=True)
class KeyLight:
    """The key light in the model frame and its shadow map: rows of `projection` (3, 4) give map x, y and depth."""

    direction: FloatArray
    color: FloatArray
    projection: FloatArray
    depth: FloatArray
    softness: float
    strength: float


LINEAR = np.power(np.arange(256, dtype=np.float32) / 255.0, 2.2).astype(np.float32)
"""Display values 0..255 as linear light."""


def _up_and_left(gaze: FloatArray) -> FloatArray:
    """Two unit vectors (2, 3) across a gaze: towards the subject's left, and up."""
    left = np.cross([0.0, 1.0, 0.0], gaze)
    left /= np.linalg.norm(left) + 1e-9
    return np.stack([left, np.cross(gaze, left)]).astype(np.float32)


def shade(
    buffer: GeometryBuffer, scene: Scene, paint: SkinPaint, palette: Palette, key: KeyLight, view: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Radiance (H, W, 3), linear BGR, and coverage (H, W); `view` (3,) points to the camera."""
    height, width = buffer.triangle.shape
    surface = np.zeros((height, width, P_SURFACE), np.float32)
    color = np.zeros((height, width, 3), np.float32)
    where = (buffer.triangle, buffer.weights, scene.triangles, scene.material)
    _paint_skin(
        *where, scene.normals, scene.frame, scene.uv, paint.maps, paint.boxes[paint.chosen], paint.chosen, paint.colors,
        paint.numbers, scene.base_uv, scene.seam_row, scene.seam_uv, paint.texture, paint.texture_gain, LINEAR, surface,
    )  # fmt: skip
    _paint_eyes_and_mouth(
        *where, scene.normals, scene.frame, scene.uv, paint.colors, paint.numbers, paint.gaze, paint.glint,
        _up_and_left(paint.gaze), paint.eye, paint.eye_gain, LINEAR, scene.texture_of, surface,
    )  # fmt: skip
    _paint_sheets(
        *where, scene.look, scene.normals, scene.uv, palette.colors, palette.patterns, palette.repeat, palette.gloss,
        scene.texture_of, palette.texels, palette.table, LINEAR, view, surface,
    )  # fmt: skip
    add_light(
        *where, scene.positions, scene.irradiance, scene.frame, surface, key.direction, key.color, key.projection,
        key.depth, np.float32(key.softness), np.float32(key.strength), view, color,
    )  # fmt: skip
    return color, (buffer.triangle >= 0).astype(np.float32)


@compiled
def _paint_skin(
    index: IntArray, weights: FloatArray, triangles: IntArray, material: ByteArray, normals: FloatArray,
    frames: FloatArray, uvs: FloatArray, maps: ByteArray, boxes: IntArray, chosen: IntArray,
    colors: FloatArray, numbers: FloatArray, base_uvs: FloatArray, seam_row: IntArray,
    seam_uv: FloatArray, texture: ByteArray, gain: FloatArray, linear: FloatArray, surface: FloatArray,
) -> None:  # fmt: skip
    """Colour, gloss and relief of the skin; every map is sampled bilinearly, u wraps."""
    high, wide = np.int32(texture.shape[0]), np.int32(texture.shape[1])
    zero, one = np.float32(0.0), np.float32(1.0)
    rows, columns = np.int32(maps.shape[1]), np.int32(maps.shape[2])
    albedo = np.zeros(3, np.float32)
    for y in range(index.shape[0]):
        for x in range(index.shape[1]):
            i = index[y, x]
            if i < 0 or material[i] != SKIN:
                continue
            a, b, c = triangles[i, 0], triangles[i, 1], triangles[i, 2]
            w0, w1 = weights[y, x, 0], weights[y, x, 1]
            w2 = one - w0 - w1
            tx = (w0 * uvs[a, 0] + w1 * uvs[b, 0] + w2 * uvs[c, 0]) * np.float32(columns) - np.float32(0.5)
            ty = (w0 * uvs[a, 1] + w1 * uvs[b, 1] + w2 * uvs[c, 1]) * np.float32(rows) - np.float32(0.5)
            fx, fy = tx - np.floor(tx), ty - np.floor(ty)
            ix, iy = np.int32(np.floor(tx)), np.int32(np.floor(ty))
            x0, x1 = ix % columns, (ix + np.int32(1)) % columns
            if iy >= rows:  # the shoulders reach below the texture: it goes on mirrored
                iy = max(np.int32(2) * rows - np.int32(1) - iy, np.int32(0))
            y0 = min(max(iy, np.int32(0)), rows - np.int32(1))
            y1 = min(max(iy + np.int32(1), np.int32(0)), rows - np.int32(1))
            for k in range(3):
                albedo[k] = colors[C_SKIN, k]
            if high > 0:
                torn = seam_row[i]
                if torn >= 0:
                    bx = w0 * seam_uv[torn, 0, 0] + w1 * seam_uv[torn, 1, 0] + w2 * seam_uv[torn, 2, 0]
                    by = w0 * seam_uv[torn, 0, 1] + w1 * seam_uv[torn, 1, 1] + w2 * seam_uv[torn, 2, 1]
                else:
                    bx = w0 * base_uvs[a, 0] + w1 * base_uvs[b, 0] + w2 * base_uvs[c, 0]
                    by = w0 * base_uvs[a, 1] + w1 * base_uvs[b, 1] + w2 * base_uvs[c, 1]
                bx, by = bx * np.float32(wide) - np.float32(0.5), by * np.float32(high) - np.float32(0.5)
                left, top = np.int32(np.floor(bx)), np.int32(np.floor(by))
                gx, gy = bx - np.float32(left), by - np.float32(top)
                left, top = (
                    min(max(left, np.int32(0)), wide - np.int32(2)),
                    min(max(top, np.int32(0)), high - np.int32(2)),
                )
                for k in range(3):
                    over = linear[texture[top, left, k]] * (one - gx) + linear[texture[top, left + 1, k]] * gx
                    under = linear[texture[top + 1, left, k]] * (one - gx) + linear[texture[top + 1, left + 1, k]] * gx
                    albedo[k] = (over + (under - over) * gy) * gain[k]
            lips, detail, along, down, groove = zero, one, zero, zero, zero
            for row in range(MAPS):
                if (
                    numbers[row] == zero
                    or x0 < boxes[row, 0]
                    or x0 > boxes[row, 2]
                    or y0 < boxes[row, 1]
                    or y0 > boxes[row, 3]
                ):
                    continue
                weight = numbers[row] * np.float32(1 / 255.0)
                item = chosen[row]
                t00, t01 = np.float32(maps[item, y0, x0]), np.float32(maps[item, y0, x1])
                t10, t11 = np.float32(maps[item, y1, x0]), np.float32(maps[item, y1, x1])
                upper, lower = t00 + (t01 - t00) * fx, t10 + (t11 - t10) * fx
                value = (upper + (lower - upper) * fy) * weight
                if row < COVERS:
                    for k in range(3):
                        albedo[k] += (colors[row, k] - albedo[k]) * value
                    if row == LIPS:
                        lips = value
                elif row == DETAIL:
                    detail += value - np.float32(0.5) * numbers[row]
                else:
                    along += np.float32(2.0) * weight * ((t01 - t00) * (one - fy) + (t11 - t10) * fy)
                    down += np.float32(2.0) * weight * (lower - upper)
                    groove += max(np.float32(0.5) * numbers[row] - value, zero)
            nx = w0 * normals[a, 0] + w1 * normals[b, 0] + w2 * normals[c, 0] - along * frames[a, 0]
            ny = w0 * normals[a, 1] + w1 * normals[b, 1] + w2 * normals[c, 1] + down
            nz = w0 * normals[a, 2] + w1 * normals[b, 2] + w2 * normals[c, 2] - along * frames[a, 2]
            scale = one / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-12))
            pixel = surface[y, x]
            pixel[P_NORMAL], pixel[P_NORMAL + 1], pixel[P_NORMAL + 2] = nx * scale, ny * scale, nz * scale
            for k in range(3):
                pixel[P_ALBEDO + k] = albedo[k] * detail
            oily = max(one + np.float32(2.0) * (detail - one), np.float32(0.3))
            pixel[P_GLOSS] = numbers[GLOSS] * oily + lips * numbers[LIP_GLOSS]
            pixel[P_SHININESS] = numbers[SHININESS]
            pixel[P_OPEN], pixel[P_SHEEN] = max(one - groove, np.float32(0.3)), numbers[SKIN_SHEEN]


@compiled
def _paint_eyes_and_mouth(
    index: IntArray, weights: FloatArray, triangles: IntArray, material: ByteArray, normals: FloatArray,
    frames: FloatArray, uvs: FloatArray, colors: FloatArray, numbers: FloatArray, gaze: FloatArray, glint: FloatArray,
    across: FloatArray, patch: ByteArray, patch_gain: FloatArray, linear: FloatArray, texture_of: IntArray,
    surface: FloatArray,
) -> None:  # fmt: skip
    """Eyeballs with iris and pupil, teeth with gaps, tongue and mouth cavity."""
    texels = patch.shape[0]
    zero, one = np.float32(0.0), np.float32(1.0)
    for y in range(index.shape[0]):
        for x in range(index.shape[1]):
            i = index[y, x]
            if i < 0 or material[i] < EYE or material[i] > FLESH or texture_of[i] >= 0:
                continue
            a, b, c = triangles[i, 0], triangles[i, 1], triangles[i, 2]
            w0, w1 = weights[y, x, 0], weights[y, x, 1]
            w2 = one - w0 - w1
            pixel = surface[y, x]
            pixel[P_OPEN] = one
            for k in range(3):
                pixel[P_NORMAL + k] = w0 * normals[a, k] + w1 * normals[b, k] + w2 * normals[c, k]
            if material[i] == EYE:
                dx, dy, dz = (
                    w0 * frames[a, 0] + w1 * frames[b, 0] + w2 * frames[c, 0],
                    w0 * frames[a, 1] + w1 * frames[b, 1] + w2 * frames[c, 1],
                    w0 * frames[a, 2] + w1 * frames[b, 2] + w2 * frames[c, 2],
                )
                length = np.sqrt(dx * dx + dy * dy + dz * dz) + np.float32(1e-6)
                cosine = (dx * gaze[0] + dy * gaze[1] + dz * gaze[2]) / length
                veins = min(max((np.float32(0.86) - cosine) * np.float32(1.2), zero), np.float32(0.5))
                rim = numbers[IRIS_COSINE]
                iris = min(max((cosine - rim) / np.float32(0.02) + np.float32(0.6), zero), one)
                ring = (one - cosine) / (one - rim)
                bright = np.float32(1.25) - np.float32(0.8) * ring * ring  # dark towards the limbus
                radius = np.sqrt(max(ring, zero))  # in iris radii
                lid = one - numbers[EYE_SHADE] * min(max(dy / length * np.float32(1.6) - np.float32(0.05), zero), one)
                for k in range(3):
                    white = colors[C_SCLERA, k] * (one - veins * (np.float32(0.35) if k == 2 else np.float32(0.9)))
                    pixel[P_ALBEDO + k] = (white + (colors[C_IRIS, k] * bright - white) * iris) * lid
                    if cosine > numbers[PUPIL_COSINE]:
                        pixel[P_ALBEDO + k] = np.float32(0.006)
                if texels > 0 and cosine > zero:
                    px = dx * across[0, 0] + dy * across[0, 1] + dz * across[0, 2]
                    py = dx * across[1, 0] + dy * across[1, 1] + dz * across[1, 2]
                    scale = min(radius, np.float32(EYE_REACH - 0.05)) / (np.sqrt(px * px + py * py) + np.float32(1e-6))
                    half = np.float32(0.5 * texels)
                    column = np.int32(half * (one + px * scale * np.float32(1 / EYE_REACH)))
                    row = np.int32(half * (one - py * scale * np.float32(1 / EYE_REACH)))
                    for k in range(3):
                        gained = patch_gain[1, k] + (patch_gain[0, k] - patch_gain[1, k]) * iris
                        pixel[P_ALBEDO + k] = linear[patch[row, column, k]] * gained * lid
                mirrored = (dx * glint[0] + dy * glint[1] + dz * glint[2]) / length
                wet = numbers[EYE_WET]  # surroundings, mirrored all over
                if mirrored > numbers[GLINT_COSINE]:
                    wet += numbers[GLINT]
                for k in range(3):
                    pixel[P_ALBEDO + k] += wet
                pixel[P_GLOSS], pixel[P_SHININESS] = np.float32(0.7), np.float32(320.0)
            elif material[i] == TEETH:
                tooth = abs(w0 * uvs[a, 0] + w1 * uvs[b, 0] + w2 * uvs[c, 0] - np.float32(0.5)) * np.float32(44.0)
                gap = abs(tooth - np.floor(tooth + np.float32(0.5)))
                dark = max(zero, one - gap * np.float32(9.0)) * np.float32(0.35)
                for k in range(3):
                    pixel[P_ALBEDO + k] = colors[C_TEETH, k] * (one - dark)
                pixel[P_GLOSS], pixel[P_SHININESS] = np.float32(0.3), np.float32(60.0)
            else:
                for k in range(3):
                    pixel[P_ALBEDO + k] = colors[C_FLESH, k]
                pixel[P_GLOSS], pixel[P_SHININESS] = np.float32(0.12), np.float32(40.0)


@compiled
def _paint_sheets(
    index: IntArray, weights: FloatArray, triangles: IntArray, material: ByteArray, look: ByteArray,
    normals: FloatArray, uvs: FloatArray, colors: FloatArray, patterns: ByteArray,
    repeat: FloatArray, gloss: FloatArray, texture_of: IntArray, texels: ByteArray, table: IntArray,
    linear: FloatArray, view: FloatArray, surface: FloatArray,
) -> None:  # fmt: skip
    """Hair, cloth and frames: two colours mixed by a pattern. Sheets have two sides: normals turn to the viewer."""
    one = np.float32(1.0)
    rows, columns = np.float32(patterns.shape[1]), np.float32(patterns.shape[2])
    for y in range(index.shape[0]):
        for x in range(index.shape[1]):
            i = index[y, x]
            if i < 0 or (material[i] < HAIR and texture_of[i] < 0):
                continue
            a, b, c = triangles[i, 0], triangles[i, 1], triangles[i, 2]
            w0, w1 = weights[y, x, 0], weights[y, x, 1]
            w2 = one - w0 - w1
            row = look[i]
            u = w0 * uvs[a, 0] + w1 * uvs[b, 0] + w2 * uvs[c, 0]
            v = w0 * uvs[a, 1] + w1 * uvs[b, 1] + w2 * uvs[c, 1]
            nx = w0 * normals[a, 0] + w1 * normals[b, 0] + w2 * normals[c, 0]
            ny = w0 * normals[a, 1] + w1 * normals[b, 1] + w2 * normals[c, 1]
            nz = w0 * normals[a, 2] + w1 * normals[b, 2] + w2 * normals[c, 2]
            scale = one / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-12))
            if nx * view[0] + ny * view[1] + nz * view[2] < np.float32(0.0):
                scale = -scale
            pixel = surface[y, x]
            pixel[P_NORMAL], pixel[P_NORMAL + 1], pixel[P_NORMAL + 2] = nx * scale, ny * scale, nz * scale
            if texture_of[i] >= 0:
                place = texel(u, v, table, texture_of[i])
                for k in range(3):
                    pixel[P_ALBEDO + k] = linear[texels[place, k]] * colors[row, 0, k]
                mixed = linear[texels[place, 1]] * np.float32(2.0)
            else:
                u, v = u * repeat[row, 0], v * repeat[row, 1]
                column, line = np.int32((u - np.floor(u)) * columns), np.int32((v - np.floor(v)) * rows)
                mixed = np.float32(patterns[row, line, column]) * np.float32(1 / 255.0)
                for k in range(3):
                    pixel[P_ALBEDO + k] = colors[row, 0, k] + (colors[row, 1, k] - colors[row, 0, k]) * mixed
            pixel[P_GLOSS], pixel[P_SHININESS], pixel[P_OPEN], pixel[P_STRAND] = (
                gloss[row],
                np.float32(30.0),
                one,
                mixed,
            )
