"""Drawing faces over a photo: the 68 landmarks as contours, and the mesh, shaded and half transparent.

Points are in image pixels as `runtime.roi` defines them. All functions return a new image and leave theirs alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.face import Face
from runtime.image import as_bgr

# iBUG's 68 points: first, last (inclusive), closed
CONTOURS = (
    (0, 16, False),  # jaw
    (17, 21, False),  # brows
    (22, 26, False),
    (27, 30, False),  # nose ridge
    (31, 35, False),  # nose base
    (36, 41, True),  # eyes
    (42, 47, True),
    (48, 59, True),  # outer lips
    (60, 67, True),  # inner lips
)
_CONTOUR_COLOR = (80, 255, 80)
_POINT_COLOR = (40, 40, 255)
_MESH_COLOR = np.array([235, 206, 170], dtype=np.float32)
_LIGHT = np.array([0.45, -0.5, 0.75], dtype=np.float32)  # crop frame: from the upper right, towards the viewer
_DOTS_FROM = 250  # pixels of a region's side: on smaller faces dots would hide what they mark
_SUBPIXEL_BITS = 4
_FRAGMENTS = 1 << 21  # candidates rasterised at once: bounds the memory to some 100 MB
# A point drawn with a 16-bit coordinate or more would overflow OpenCV's fixed point; it is far outside any image.
_FAR = 1 << 16


def draw_landmarks(image: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.uint8]:
    """Draws each face's 68 landmarks as contours, with dots where the face is large enough for them."""
    canvas = as_bgr(image).copy()
    for face in faces:
        thickness = max(1, round(face.roi.side / 300))
        xy = np.clip(face.landmarks[:, :2], -_FAR, _FAR)
        points = np.round(xy * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        for first, last, closed in CONTOURS:
            line = points[first : last + 1].reshape(-1, 1, 2)
            cv2.polylines(canvas, [line], closed, _CONTOUR_COLOR, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        if face.roi.side < _DOTS_FROM:
            continue
        # Dots as polylines of one point each: one call for all of them.
        cv2.polylines(
            canvas, list(points.reshape(-1, 1, 2)), True, _POINT_COLOR, 2 * thickness, cv2.LINE_AA, _SUBPIXEL_BITS
        )
    return canvas


def draw_mesh(image: NDArray[np.uint8], faces: Sequence[Face], *, opacity: float = 0.6) -> NDArray[np.uint8]:
    """Draws each face's mesh, shaded, over the image; nearer surfaces hide farther ones within a face."""
    canvas = as_bgr(image).copy()
    for face in faces:
        hit, weights = rasterize(face.vertices, face.triangles, canvas.shape[:2])
        rows, columns = np.nonzero(hit >= 0)
        corners = face.triangles[hit[rows, columns]]  # (K, 3)
        normals = vertex_normals(face.vertices, face.triangles)
        normal = np.einsum("kc,kcd->kd", weights[rows, columns], normals[corners])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        light = _LIGHT / np.linalg.norm(_LIGHT)
        shade = 0.1 + 0.9 * np.clip(normal @ light, 0, 1)
        under = canvas[rows, columns].astype(np.float32)
        mixed = (1 - opacity) * under + opacity * shade[:, None] * _MESH_COLOR
        canvas[rows, columns] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return canvas


def vertex_normals(vertices: NDArray[np.float32], triangles: NDArray[np.int32]) -> NDArray[np.float32]:
    """Unit normals (N, 3) of vertices in a y-down frame, pointing out of the surface; area-weighted."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    # The y-down frame mirrors the model's, so a counter-clockwise triangle's outward normal is the negated product.
    area = np.cross(c - a, b - a)
    sums = [np.bincount(triangles.ravel(), np.repeat(area[:, k], 3), len(vertices)) for k in range(3)]
    normals = np.stack(sums, axis=1)
    return np.asarray(normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12), dtype=np.float32)


def rasterize(
    vertices: NDArray[np.float32], triangles: NDArray[np.int32], shape: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Which triangle each pixel of an image (H, W) shows, with a depth buffer (bigger z is nearer).

    Returns:
        Triangle numbers int32 (H, W), -1 where there is none, and barycentric weights float32 (H, W, 3).
    """
    height, width = shape
    hit = np.full(height * width, -1, dtype=np.int32)
    weights = np.zeros((height * width, 3), dtype=np.float32)
    depth = np.full(height * width, -np.inf, dtype=np.float32)
    corners = vertices[triangles].astype(np.float64)  # (T, 3, 3)
    low = np.clip(np.ceil(corners[..., :2].min(axis=1)), 0, [width, height]).astype(np.int64)
    high = np.clip(np.floor(corners[..., :2].max(axis=1)) + 1, 0, [width, height]).astype(np.int64)
    extent = np.maximum(high - low, 0)
    counts = extent[:, 0] * extent[:, 1]  # candidate pixels of each triangle's bounding box
    last = np.cumsum(counts)
    start = 0
    while start < len(triangles):
        done = last[start - 1] if start else 0
        stop = max(int(np.searchsorted(last, done + _FRAGMENTS, side="right")), start + 1)
        part = np.arange(start, stop)
        pixel, triangle, bary = _fragments(part, counts[part], low, extent, corners, width)
        z = np.einsum("fc,fc->f", bary, corners[triangle, :, 2]).astype(np.float32)
        near = z > depth[pixel]
        order = np.flatnonzero(near)[np.argsort(z[near], kind="stable")]  # the nearest is assigned last, and stays
        pixel, triangle = pixel[order], triangle[order]
        depth[pixel], hit[pixel], weights[pixel] = z[order], triangle, bary[order]
        start = stop
    return hit.reshape(height, width), weights.reshape(height, width, 3)


def _fragments(
    part: NDArray[np.int64],
    counts: NDArray[np.int64],
    low: NDArray[np.int64],
    extent: NDArray[np.int64],
    corners: NDArray[np.float64],
    width: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Flat pixel numbers, triangle numbers and barycentric weights (F, 3) of all pixels inside the triangles `part`."""
    triangle = np.repeat(part, counts)
    within = np.arange(len(triangle)) - np.repeat(np.cumsum(counts) - counts, counts)
    x = low[triangle, 0] + within % np.maximum(extent[triangle, 0], 1)
    y = low[triangle, 1] + within // np.maximum(extent[triangle, 0], 1)
    a, b, c = (corners[triangle, k, :2] for k in range(3))
    area = _cross(b - a, c - a)
    inside = area != 0
    point = np.stack([x, y], axis=1)
    w1 = np.divide(_cross(point - a, c - a), area, out=np.zeros_like(area), where=inside)
    w2 = np.divide(_cross(b - a, point - a), area, out=np.zeros_like(area), where=inside)
    bary = np.stack([1 - w1 - w2, w1, w2], axis=1)
    keep = inside & (bary >= -1e-9).all(axis=1)  # rounding must open no gap along a shared edge
    return (y * width + x)[keep], triangle[keep], bary[keep]


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
