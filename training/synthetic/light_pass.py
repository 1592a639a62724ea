"""The last pass over a picture: light on what was painted (see `shading`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.synthetic.compiled import compiled
from training.synthetic.lighting import shadow_lookup
from training.synthetic.materials import (
    FLESH,
    HAIR,
    P_ALBEDO,
    P_GLOSS,
    P_NORMAL,
    P_OPEN,
    P_SHEEN,
    P_SHININESS,
    P_STRAND,
    SKIN,
    TEETH,
)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
ByteArray = NDArray[np.uint8]


@compiled
def add_light(
    index: IntArray, weights: FloatArray, triangles: IntArray, material: ByteArray, positions: FloatArray,
    irradiance: FloatArray, frames: FloatArray, surface: FloatArray, key_direction: FloatArray, key_color: FloatArray,
    key_projection: FloatArray, key_depth: FloatArray, softness: float, strength: float, view: FloatArray,
    out: FloatArray,
) -> None:  # fmt: skip
    """Adds up soft light, key light behind its shadow map, highlights and the sheen of grazed skin."""
    zero, one = np.float32(0.0), np.float32(1.0)
    half = key_direction + view
    half /= np.sqrt(half[0] * half[0] + half[1] * half[1] + half[2] * half[2]) + np.float32(1e-6)
    scatter = np.array([0.05, 0.1, 0.28], np.float32)
    bleed = np.array([1.15, 1.0, 0.65], np.float32)
    key_on = max(key_color[0], key_color[1], key_color[2]) > zero
    for y in range(index.shape[0]):
        for x in range(index.shape[1]):
            i = index[y, x]
            if i < 0:
                continue
            a, b, c = triangles[i, 0], triangles[i, 1], triangles[i, 2]
            w0, w1 = weights[y, x, 0], weights[y, x, 1]
            w2 = one - w0 - w1
            pixel = surface[y, x]
            nx, ny, nz = pixel[P_NORMAL], pixel[P_NORMAL + 1], pixel[P_NORMAL + 2]
            facing = nx * key_direction[0] + ny * key_direction[1] + nz * key_direction[2]
            lit, specular = zero, zero
            if key_on and facing > np.float32(-0.3):
                mx, my, mz = key_projection[0, 3], key_projection[1, 3], key_projection[2, 3]
                across = zero
                for k in range(3):
                    p = w0 * positions[a, k] + w1 * positions[b, k] + w2 * positions[c, k]
                    mx += key_projection[0, k] * p
                    my += key_projection[1, k] * p
                    mz += key_projection[2, k] * p
                    across += (w0 * frames[a, k] + w1 * frames[b, k] + w2 * frames[c, k]) * half[k]
                mz += np.float32(5.0) * (one - max(facing, zero))  # grazed surfaces must not shadow themselves
                shadow = strength * (one - shadow_lookup(key_depth, mx, my, mz, softness))
                if material[i] == TEETH or material[i] == FLESH:
                    shadow *= np.float32(0.6)  # light gets into a mouth by way of lips and tongue, too
                lit = one - shadow
                gloss = pixel[P_GLOSS]
                if material[i] == HAIR:
                    specular = (
                        gloss
                        * max(one - across * across, zero) ** np.float32(20.0)
                        * (np.float32(0.4) + pixel[P_STRAND])
                    )
                elif gloss > zero:
                    toward = max(nx * half[0] + ny * half[1] + nz * half[2], zero)
                    specular = gloss * toward ** pixel[P_SHININESS]
                    if material[i] == SKIN:  # a broad lobe, and a narrow one of the oil on it; both grow when grazed
                        narrow = toward ** (np.float32(5.0) * pixel[P_SHININESS])
                        away = one - max(view[0] * half[0] + view[1] * half[1] + view[2] * half[2], zero)
                        fresnel = one + np.float32(12.0) * away * away * away
                        specular = (np.float32(0.6) * specular + np.float32(0.9) * gloss * narrow) * fresnel
            grazing = one - max(nx * view[0] + ny * view[1] + nz * view[2], zero)
            rim = pixel[P_SHEEN] * grazing * grazing * grazing
            for k in range(3):
                wrap = scatter[k] if material[i] == SKIN else zero
                diffuse = max(facing + wrap, zero) / (one + wrap)
                through = lit
                if material[i] == SKIN and lit < one:  # light bleeds into a shadow's edge, red the furthest
                    through = lit ** bleed[k]
                ambient = (w0 * irradiance[a, k] + w1 * irradiance[b, k] + w2 * irradiance[c, k]) * pixel[P_OPEN]
                albedo = pixel[P_ALBEDO + k]
                out[y, x, k] = (albedo * diffuse * through + specular * lit) * key_color[k] + (albedo + rim) * ambient
