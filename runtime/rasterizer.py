"""A depth buffer for triangle meshes: what pictures, maps, textures and visibility are all made with.

Pixel (x, y) shows the nearest triangle over its centre, the point (x, y) of `runtime.roi`'s numbering; bigger z is
nearer; both sides of a triangle are drawn. Inside a triangle everything is linear on the screen (a scaled-orthographic
camera). `cln_cpp` does the work where it is installed, else NumPy, span by span without a loop. OpenCV 5's
`triangleRasterize` takes as long as NumPy does here (2.8 against 2.4 ms for a face of 256 pixels), the compiled core a
tenth of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import compiled
from runtime.errors import InvalidInputError

_TOLERANCE = np.float32(1e-3)  # pixels: rounding must open no gap along an edge that two triangles share
_INSIDE = np.float32(-1e-5)  # of a weight: a vertex lies in its own triangles, whatever is rounded
_INFINITY = np.float32(np.inf)
_AT_ONCE = 1 << 22  # pixels filled at once: bounds the memory to some 200 MB


@dataclass(frozen=True, kw_only=True, eq=False)
class Raster:
    """What each pixel of an image (H, W) shows of a mesh."""

    vertices: NDArray[np.float32]  # (N, 3) the mesh, in the image's pixels
    triangles: NDArray[np.int32]  # (T, 3)
    triangle: NDArray[np.int32]  # (H, W) triangle numbers, -1 where there is none
    depth: NDArray[np.float32]  # (H, W) z, -infinity where there is none

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W): where the mesh is."""
        return np.asarray(self.triangle >= 0)

    def interpolate(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of the vertices (N, C) at each pixel: (H, W, C), 0 where the mesh is not."""
        given = np.ascontiguousarray(values, dtype=np.float32)
        if given.ndim != 2 or len(given) != len(self.vertices):
            raise InvalidInputError(f"values: expected shape ({len(self.vertices)}, C), got {given.shape}")
        if compiled.cln_cpp is not None:
            filled = compiled.cln_cpp.interpolate(self.vertices, self.triangles, self.triangle, given)
            return np.asarray(filled, dtype=np.float32)
        out = np.zeros((self.triangle.size, given.shape[1]), dtype=np.float32)
        hit = np.flatnonzero(self.triangle >= 0)
        number = self.triangle.ravel()[hit]
        planes, corner = self._planes(given)
        rows, columns = np.divmod(hit, self.triangle.shape[1])
        at = corner[number]
        plane = planes[number]  # (K, 3, C)
        right, down = (columns - at[:, 0])[:, None], (rows - at[:, 1])[:, None]
        out[hit] = plane[:, 0] + right * plane[:, 1] + down * plane[:, 2]
        return out.reshape(*self.triangle.shape, given.shape[1])

    def _planes(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Each triangle's values (T, 3, C): at its first corner, how much they grow along x and y; and the corner."""
        first, second, third = (self.vertices[self.triangles[:, k], :2] for k in range(3))
        base, u, v = (values[self.triangles[:, k]] for k in range(3))
        (ax, ay), (bx, by) = (second - first).T[..., None], (third - first).T[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (ax * by - bx * ay)
            along_x, along_y = (
                (by * (u - base) - ay * (v - base)) * inverse,
                (ax * (v - base) - bx * (u - base)) * inverse,
            )
        return np.stack([base, along_x, along_y], axis=1), first


def rasterize(vertices: NDArray[np.float32], triangles: NDArray[np.int32], shape: tuple[int, int]) -> Raster:
    """Draws a mesh, vertices (N, 3) in pixels and triangles (T, 3), into an image of (height, width).

    What lies outside is cut off; a triangle with a corner that is not finite is not drawn.
    """
    points = np.ascontiguousarray(vertices, dtype=np.float32)
    corners = np.ascontiguousarray(triangles, dtype=np.int32)
    height, width = shape
    if compiled.cln_cpp is not None:
        number, depth = compiled.cln_cpp.rasterize(points, corners, height, width)
    else:
        number, depth = _draw(points, corners, height, width)
    return Raster(vertices=points, triangles=corners, triangle=number, depth=depth)


def vertex_normals(vertices: NDArray[np.float32], triangles: NDArray[np.int32]) -> NDArray[np.float32]:
    """Unit normals (N, 3) of vertices in a y-down frame, pointing out of the surface; area-weighted."""
    points = np.ascontiguousarray(vertices, dtype=np.float32)
    if compiled.cln_cpp is not None:
        return np.asarray(compiled.cln_cpp.vertex_normals(points, np.ascontiguousarray(triangles, dtype=np.int32)))
    a, b, c = (points[triangles[:, k]] for k in range(3))
    # The y-down frame mirrors the model's, so a counter-clockwise triangle's outward normal is the negated product.
    u, v = (c - a).T, (b - a).T
    corners = triangles.ravel()
    sums = [
        np.bincount(corners, np.repeat(u[i] * v[j] - u[j] * v[i], 3), len(points)) for i, j in ((1, 2), (2, 0), (0, 1))
    ]
    normals = np.stack(sums, axis=1)
    return np.asarray(normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12), dtype=np.float32)


def surface_depth(
    points: NDArray[np.float32], vertices: NDArray[np.float32], triangles: NDArray[np.int32]
) -> NDArray[np.float32]:
    """The z (K,) of the nearest surface over each point (K, 2 or more), -infinity where there is none.

    The depth test without a grid's resolution: each triangle is asked at the very points.
    """
    at = np.ascontiguousarray(points, dtype=np.float32)
    mesh = np.ascontiguousarray(vertices, dtype=np.float32)
    if compiled.cln_cpp is not None:
        return np.asarray(compiled.cln_cpp.surface_depth(at, mesh, np.ascontiguousarray(triangles, dtype=np.int32)))
    depth = np.full(len(at), -_INFINITY, dtype=np.float32)
    point, triangle = _near(at, mesh, triangles)
    x, y, z = mesh.T
    a, b, c = np.ascontiguousarray(triangles[triangle].T)
    with np.errstate(invalid="ignore", divide="ignore"):
        ax, ay, bx, by = x[b] - x[a], y[b] - y[a], x[c] - x[a], y[c] - y[a]
        px, py = at[point, 0] - x[a], at[point, 1] - y[a]
        inverse = 1 / (ax * by - bx * ay)
        w1, w2 = (px * by - py * bx) * inverse, (ax * py - ay * px) * inverse
        over = z[a] + w1 * (z[b] - z[a]) + w2 * (z[c] - z[a])
        kept = np.flatnonzero((w1 >= _INSIDE) & (w2 >= _INSIDE) & (w1 + w2 <= 1 - _INSIDE) & np.isfinite(over))
    np.maximum.at(depth, point[kept], over[kept])
    return depth


def _near(
    points: NDArray[np.float32], vertices: NDArray[np.float32], triangles: NDArray[np.int32]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (point numbers, triangle numbers), those among which a point lies in the triangle at all.

    The points are sorted into upright strips and by y within each: a triangle meets a run of each strip it touches.
    """
    a, b, c = (vertices[:, :2][triangles[:, k]] for k in range(3))
    low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    known = np.flatnonzero(np.isfinite(points[:, :2]).all(axis=1))
    asked = np.flatnonzero(np.isfinite(low).all(axis=1) & np.isfinite(high).all(axis=1))
    if not len(known) or not len(asked):
        return known[:0], asked[:0]
    strips = int(np.sqrt(len(known))) + 1
    at = points[known, :2].astype(np.float64)
    corner, extent = at.min(axis=0), np.ptp(at, axis=0) + 1e-6

    def placed(xy: NDArray[Any]) -> NDArray[np.float64]:  # x in strips, y from 0 to almost 1
        return np.asarray((xy - corner) / extent * (strips, 0.999))

    place, low, high = placed(at), placed(low[asked]), placed(high[asked])
    keys = np.floor(place[:, 0]) + place[:, 1]
    order = np.argsort(keys)
    first, last = (np.clip(np.floor(side[:, 0]), -1, strips) for side in (low, high))
    inside = (high[:, 1] >= 0) & (low[:, 1] <= 1)
    touched = np.where(inside, last - first + 1, 0).astype(np.intp)
    triangle = np.repeat(np.arange(len(asked)), touched)
    strip = np.arange(len(triangle)) + np.repeat(first - (np.cumsum(touched) - touched), touched)
    keys = keys[order]
    start = np.searchsorted(keys, strip + np.clip(low[triangle, 1], 0, 1) - 1e-9, side="left")
    stop = np.searchsorted(keys, strip + np.clip(high[triangle, 1], 0, 0.9995) + 1e-9, side="right")
    counts = stop - start
    point = order[np.arange(counts.sum()) + np.repeat(start - (np.cumsum(counts) - counts), counts)]
    return known[point], asked[np.repeat(triangle, counts)]


def _draw(
    vertices: NDArray[np.float32], triangles: NDArray[np.int32], height: int, width: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Triangle numbers and depth (height, width): each row of each triangle is a span, each span a run of pixels."""
    number = np.full(height * width, -1, dtype=np.int32)
    depth = np.full(height * width, -_INFINITY, dtype=np.float32)
    drawn, row, left, right, start, slope = _spans(vertices, triangles, height, width)
    counts = right - left + 1
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        done = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, done + _AT_ONCE, side="right")), first + 1)
        part = slice(first, last)
        begin = ends[part] - counts[part] - done
        span = np.repeat(np.arange(last - first, dtype=np.int32), counts[part])
        step = np.arange(len(span), dtype=np.int32)
        pixel = step + (row[part] * width + left[part] - begin)[span]
        z = start[part][span] + slope[part][span] * (step - begin[span]).astype(np.float32)
        triangle = drawn[part][span]
        near = np.flatnonzero(z > depth[pixel])[::-1]
        # Where several write to a pixel, the last stays: the first triangle, as the order is reversed. Those nearer
        # than it write again, until none is.
        while len(near):
            pixel, z, triangle = pixel[near], z[near], triangle[near]
            depth[pixel] = z
            number[pixel] = triangle
            near = np.flatnonzero(z > depth[pixel])
        first = last
    return number.reshape(height, width), depth.reshape(height, width)


def _spans(
    vertices: NDArray[np.float32], triangles: NDArray[np.int32], height: int, width: int
) -> tuple[NDArray[Any], ...]:
    """Of each row of each triangle within the image: triangle number, y, first and last x, z at the first, dz/dx."""
    x, y, z = np.ascontiguousarray(vertices.T)
    a, b, c = np.ascontiguousarray(triangles.T)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        area = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])
        top, bottom = np.minimum(np.minimum(y[a], y[b]), y[c]), np.maximum(np.maximum(y[a], y[b]), y[c])
        top, bottom = np.clip(np.ceil(top), 0, height), np.clip(np.floor(bottom), -1, height - 1)
        drawn = np.flatnonzero((bottom >= top) & (area != 0) & np.isfinite(area)).astype(np.int32)
        a, b, c, top, inverse = a[drawn], b[drawn], c[drawn], top[drawn], 1 / area[drawn]
        rows = (bottom[drawn] - top + 1).astype(np.int32)
        along_x = ((y[c] - y[a]) * (z[b] - z[a]) - (y[b] - y[a]) * (z[c] - z[a])) * inverse
        along_y = ((x[b] - x[a]) * (z[c] - z[a]) - (x[c] - x[a]) * (z[b] - z[a])) * inverse
        # From top to bottom: the long edge a-c bounds each row on one side; a-b, and below b b-c, on the other.
        a, b = np.where(y[b] < y[a], b, a), np.where(y[b] < y[a], a, b)
        b, c = np.where(y[c] < y[b], c, b), np.where(y[c] < y[b], b, c)
        a, b = np.where(y[b] < y[a], b, a), np.where(y[b] < y[a], a, b)
        long, upper, lower = _slope(x, y, a, c), _slope(x, y, a, b), _slope(x, y, b, c)
        which = np.repeat(np.arange(len(drawn), dtype=np.int32), rows)
        row = np.arange(len(which), dtype=np.int32) + np.repeat((top - np.cumsum(rows) + rows).astype(np.int32), rows)
        top_x, down, under = x[a][which], row - y[a][which], row - y[b][which]
        one = top_x + down * long[which]
        other = x[b][which] + under * np.where(under < 0, upper[which], lower[which])
        left = np.clip(np.ceil(np.minimum(one, other) - _TOLERANCE), 0, width)
        right = np.clip(np.floor(np.maximum(one, other) + _TOLERANCE), -1, width - 1)
        start = z[a][which] + along_x[which] * (left - top_x) + along_y[which] * down
    kept = np.flatnonzero(right >= left)
    which, left, right = which[kept], left[kept].astype(np.int32), right[kept].astype(np.int32)
    return drawn[which], row[kept], left, right, start[kept].astype(np.float32), along_x[which]


def _slope(
    x: NDArray[np.float32], y: NDArray[np.float32], first: NDArray[np.int32], last: NDArray[np.int32]
) -> NDArray[np.float32]:
    """dx/dy of edges; 0 of level ones, which bound no row but their own."""
    height = y[last] - y[first]
    return np.asarray(np.where(height > 0, (x[last] - x[first]) / height, 0), dtype=np.float32)
