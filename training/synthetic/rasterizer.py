"""A small z-buffer on the CPU, compiled by numba: no graphics driver, the same bytes on every run.

Screen coordinates: pixels, the centre of the top-left pixel is (0, 0), x right, y down; depth: bigger = nearer. A
triangle mesh seen from outside, counter-clockwise with y up, is clockwise in (x right, y down): its doubled screen
area is negative.

The rasteriser writes a geometry buffer (triangle index and two barycentric weights per pixel); shading happens
later, once per visible pixel. Perspective is left to the vertices: inside a triangle everything is interpolated
linearly on the screen, since the triangles of a head are a few millimetres wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.synthetic.compiled import compiled

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
ByteArray = NDArray[np.uint8]

_FAR = np.float32(-1e9)


@dataclass(frozen=True, kw_only=True)
class GeometryBuffer:
    """What each pixel shows: depth (H, W), triangle (H, W; -1: none), weights (H, W, 2) of the first two corners."""

    depth: FloatArray
    triangle: IntArray
    weights: FloatArray


def empty_buffer(size: int) -> GeometryBuffer:
    """A square buffer with nothing in it."""
    return GeometryBuffer(
        depth=np.full((size, size), _FAR, np.float32),
        triangle=np.full((size, size), -1, np.int32),
        weights=np.zeros((size, size, 2), np.float32),
    )


def draw(screen: FloatArray, triangles: IntArray, buffer: GeometryBuffer) -> None:
    """Draws plain triangles, both sides, into `buffer`, in place."""
    count = len(triangles)
    rasterize(
        screen, triangles, np.zeros((len(screen), 2), np.float32), np.zeros(count, bool), np.full(count, -1, np.int32),
        np.zeros(count, np.uint8), np.zeros((1, 1, 1), np.uint8), np.full(count, -1, np.int32),
        np.zeros((1, 4), np.uint8), np.zeros((1, 3), np.int32), buffer.depth, buffer.triangle, buffer.weights,
    )  # fmt: skip


@compiled
def vertex_normals(vertices: FloatArray, triangles: IntArray) -> FloatArray:
    """Area-weighted unit normals (N, 3); zero for a vertex of no triangle."""
    normals = np.zeros_like(vertices)
    for i in range(triangles.shape[0]):
        a, b, c = triangles[i, 0], triangles[i, 1], triangles[i, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in (a, b, c):
            normals[k, 0] += x
            normals[k, 1] += y
            normals[k, 2] += z
    for i in range(normals.shape[0]):
        length = np.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2) + np.float32(1e-12)
        normals[i] /= length
    return normals


@compiled
def texel(u: float, v: float, table: IntArray, texture: int) -> int:
    """Where in the atlas a texture's nearest texel is; u and v wrap."""
    width, height = table[texture, 1], table[texture, 2]
    column = min(np.int32((u - np.floor(u)) * np.float32(width)), width - np.int32(1))
    row = min(np.int32((v - np.floor(v)) * np.float32(height)), height - np.int32(1))
    return table[texture, 0] + row * width + column


@compiled
def rasterize(
    screen: FloatArray,  # (N, 3) x, y, depth
    triangles: IntArray,  # (T, 3)
    uv: FloatArray,  # (N, 2), read by masked triangles alone
    one_sided: NDArray[np.bool_],  # (T,) back faces are left out
    mask_of: IntArray,  # (T,) index into masks, -1: none
    threshold: ByteArray,  # (T,) a masked pixel is drawn where its mask is at least this
    masks: ByteArray,  # (K, h, w)
    texture_of: IntArray,  # (T,) row of the atlas' table, -1: none; its alpha is dithered
    texels: ByteArray,  # (S, 4)
    table: IntArray,  # (K, 3) first texel, width, height
    depth: FloatArray,
    index: IntArray,
    weights: FloatArray,
) -> None:
    """Draws the triangles into (depth, index, weights), which are changed in place."""
    height, width = depth.shape
    mask_h, mask_w = np.int32(masks.shape[1]), np.int32(masks.shape[2])
    zero, one = np.float32(0.0), np.float32(1.0)
    for i in range(triangles.shape[0]):
        a, b, c = triangles[i, 0], triangles[i, 1], triangles[i, 2]
        x0, y0, x1, y1, x2, y2 = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        mask, texture = mask_of[i], texture_of[i]
        if area == zero or (one_sided[i] and area > zero):
            continue
        left, right = max(0, int(np.ceil(min(x0, x1, x2)))), min(width - 1, int(np.floor(max(x0, x1, x2))))
        top, bottom = max(0, int(np.ceil(min(y0, y1, y2)))), min(height - 1, int(np.floor(max(y0, y1, y2))))
        if left > right or top > bottom:
            continue
        inverse = one / area
        w1_x, w1_y, w2_x, w2_y = (y2 - y0) * inverse, (x0 - x2) * inverse, (y0 - y1) * inverse, (x1 - x0) * inverse
        z0, z1, z2 = screen[a, 2], screen[b, 2], screen[c, 2]
        for y in range(top, bottom + 1):
            py = np.float32(y) - y0
            for x in range(left, right + 1):
                px = np.float32(x) - x0
                w1, w2 = px * w1_x + py * w1_y, px * w2_x + py * w2_y
                w0 = one - w1 - w2
                if w0 < zero or w1 < zero or w2 < zero:
                    continue
                z = w0 * z0 + w1 * z1 + w2 * z2
                if z <= depth[y, x]:
                    continue
                if mask >= 0:
                    u = w0 * uv[a, 0] + w1 * uv[b, 0] + w2 * uv[c, 0]
                    v = w0 * uv[a, 1] + w1 * uv[b, 1] + w2 * uv[c, 1]
                    column = np.int32(u * np.float32(mask_w)) % mask_w  # sheets keep to 0 <= u
                    row = min(max(np.int32(v * np.float32(mask_h)), np.int32(0)), mask_h - np.int32(1))
                    if masks[mask, row, column] < threshold[i]:
                        continue
                if texture >= 0:
                    u = w0 * uv[a, 0] + w1 * uv[b, 0] + w2 * uv[c, 0]
                    v = w0 * uv[a, 1] + w1 * uv[b, 1] + w2 * uv[c, 1]
                    noise = (np.uint32(x) * np.uint32(73856093)) ^ (np.uint32(y) * np.uint32(19349663))
                    noise = (noise ^ (noise >> np.uint32(13))) * np.uint32(1274126177)
                    level = np.int32(40) + np.int32((noise >> np.uint32(16)) & np.uint32(127))
                    if np.int32(texels[texel(u, v, table, texture), 3]) < level:
                        continue
                depth[y, x] = z
                index[y, x] = i
                weights[y, x, 0] = w0
                weights[y, x, 1] = w1
