"""A depth buffer for triangle meshes: what pictures, maps, textures and visibility are all made with.

Pixel (x, y) shows the nearest triangle over its centre, the point (x, y) of `runtime.roi`'s numbering; bigger z is
nearer; both sides of a triangle are drawn. Inside a triangle everything is linear on the screen (a scaled-orthographic
camera). `cln_cpp` does the work where it is installed, else NumPy: a few thousand spans of pixels at a time, so that
what is worked on stays in the processor's cache and small enough for the allocator to hand it out again (larger arrays
are fresh pages each time, which cost more than the arithmetic). OpenCV 5's `triangleRasterize` takes longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import compiled
from runtime.errors import InvalidInputError

_TOLERANCE = np.float32(1e-3)  # pixels: rounding must open no gap along an edge that two triangles share
_INSIDE = np.float32(-1e-5)  # of a weight: a vertex lies in its own triangles, whatever is rounded
_INFINITY = np.float32(np.inf)
_ZERO = np.float32(0)
_TINY = np.float32(1e-30)
_AT_ONCE = 1 << 14  # spans, or pixels, worked on at once: 64 or 128 kB an array
_GRID_COLUMNS = 4  # for each row of the grid that many points are sorted into
_PAIRS_AT_ONCE = 1 << 20  # points times triangles that are compared without sorting them first


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

    def interpolate(self, values: NDArray[np.float32], *, unit: bool = False) -> NDArray[np.float32]:
        """Values of the vertices (N, C) at each pixel: (H, W, C), 0 where the mesh is not.

        `unit` scales those of each pixel to length 1.
        """
        given = np.ascontiguousarray(values, dtype=np.float32)
        if given.ndim != 2 or len(given) != len(self.vertices):
            raise InvalidInputError(f"values: expected shape ({len(self.vertices)}, C), got {given.shape}")
        if compiled.cln_cpp is not None:
            filled = compiled.cln_cpp.interpolate(self.vertices, self.triangles, self.triangle, given, unit)
            return np.asarray(filled, dtype=np.float32)
        height, width = self.triangle.shape
        out = np.zeros((height, width, given.shape[1]), dtype=np.float32)
        planes = self._planes(given)
        column, row = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        step = max(_AT_ONCE // width, 1)
        for first in range(0, height, step):
            rows = slice(first, first + step)
            plane = planes.take(self.triangle[rows], axis=1)  # (2 + 3C, h, W)
            at_corner, along_x, along_y = plane[2:].reshape(3, -1, *plane.shape[1:])
            along_x *= column - plane[0]
            along_y *= row[rows] - plane[1]
            at_corner += along_x
            at_corner += along_y
            if unit:
                at_corner /= np.sqrt(np.maximum(np.square(at_corner).sum(axis=0), _TINY))
            out[rows] = at_corner.transpose(1, 2, 0)
        return out

    def _planes(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(2 + 3C, T + 1): triangles' first corners, the values there, and how much they grow along x and y; zeros.

        The zeros come last, where triangle -1 is looked up.
        """
        corners = _columns(self.triangles)
        x, y = (axis.take(corners) for axis in _columns(self.vertices[:, :2]))  # (3, T)
        base, u, v = _columns(values).take(corners, axis=1).transpose(1, 0, 2)  # (C, T) each
        ax, ay, bx, by = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
        u, v = u - base, v - base
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (ax * by - bx * ay)
            along_x, along_y = (by * u - ay * v) * inverse, (ax * v - bx * u) * inverse
        planes = np.concatenate([x[:1], y[:1], base, along_x, along_y])
        return np.pad(planes, ((0, 0), (0, 1)))


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
    corners = _columns(triangles)
    a, b, c = _columns(points).take(corners, axis=1).transpose(1, 0, 2)  # (3, T) each
    # The y-down frame mirrors the model's, so a counter-clockwise triangle's outward normal is the negated product.
    u, v = c - a, b - a
    across = [u[i] * v[j] - u[j] * v[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    normals = np.array([sum(np.bincount(corner, n, len(points)) for corner in corners) for n in across])
    return np.asarray((normals / (np.sqrt(np.square(normals).sum(axis=0)) + 1e-12)).T, dtype=np.float32, order="C")


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
    corners = _columns(triangles)
    x, y, z = (axis.take(corners) for axis in _columns(mesh))  # (3, T)
    with np.errstate(all="ignore"):
        ax, ay, bx, by = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
        planes = np.stack([x[0], y[0], z[0], ax, ay, bx, by, 1 / (ax * by - bx * ay), z[1] - z[0], z[2] - z[0]])
        for point, triangle in _near(at, x, y):
            left, top, near, ax, ay, bx, by, inverse, az, bz = planes.take(triangle, axis=1)
            px, py = at[:, 0].take(point) - left, at[:, 1].take(point) - top
            w1, w2 = (px * by - py * bx) * inverse, (ax * py - ay * px) * inverse
            over = near + w1 * az + w2 * bz
            kept = np.flatnonzero((w1 >= _INSIDE) & (w2 >= _INSIDE) & (w1 + w2 <= 1 - _INSIDE) & np.isfinite(over))
            np.maximum.at(depth, point.take(kept), over.take(kept))
    return depth


def _near(
    points: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs (point numbers, triangle numbers), those among which a point lies in the triangle at all.

    Of many points and corners' x and y (3, T); a pair comes once. Many points are sorted into a grid first, its cells
    row by row, so that a triangle's bounds are a run of points in each row of the grid that they touch.
    """
    px, py = points[:, 0], points[:, 1]
    if len(points) * x.shape[1] <= _PAIRS_AT_ONCE:
        low_x, high_x, low_y, high_y = x.min(axis=0), x.max(axis=0), y.min(axis=0), y.max(axis=0)
        px, py = px[:, None], py[:, None]
        yield np.divmod(
            np.flatnonzero((low_x <= px) & (high_x >= px) & (low_y <= py) & (high_y >= py)), np.intp(x.shape[1] or 1)
        )
        return
    known = np.flatnonzero(np.isfinite(px) & np.isfinite(py))
    if not len(known):
        return
    rows = int(np.sqrt(len(known))) + 1
    columns = _GRID_COLUMNS * rows
    column, left, right = _cells(px[known], x, columns)
    row, top, bottom = _cells(py[known], y, rows)
    cell = row * columns + column
    order = known[np.argsort(cell)]
    starts = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=rows * columns))])
    touched = np.where(right >= left, np.maximum(bottom - top + 1, 0), 0)
    for triangle, step in _runs(touched):
        line = (step + top.take(triangle)) * columns
        start, stop = starts.take(line + left.take(triangle)), starts.take(line + right.take(triangle) + 1)
        for which, step in _runs(stop - start):
            yield order.take(start.take(which) + step), triangle.take(which)


def _cells(
    at: NDArray[np.float32], corners: NDArray[np.float32], count: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Of one axis: the cells of points (K,), and the first and last that triangles' corners (3, T) span; none is -1."""
    first, last = at.min(), at.max()

    def cell(values: NDArray[np.float32], low: int, high: int) -> NDArray[np.intp]:
        place = np.floor((values - first) * (np.float32(count) / max(last - first, _TINY)))
        return np.asarray(np.nan_to_num(np.clip(place, low, high), nan=high).astype(np.intp))

    lowest, highest = corners.min(axis=0), corners.max(axis=0)
    spanned = (highest >= first) & (lowest <= last)
    return (
        cell(at, 0, count - 1),
        cell(lowest, 0, count - 1),
        np.where(spanned, cell(highest, 0, count - 1), -1),
    )


def _draw(
    vertices: NDArray[np.float32], triangles: NDArray[np.int32], height: int, width: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Triangle numbers and depth (height, width): each row of each triangle is a span, each span a run of pixels."""
    number = np.full(height * width, -1, dtype=np.int32)
    depth = np.full(height * width, -_INFINITY, dtype=np.float32)
    for triangle, first, counts, start, slope in _spans(vertices, triangles, height, width):
        for span, step in _runs(counts):
            pixel = first.take(span)
            pixel += step
            z = slope.take(span)
            z *= step.astype(np.float32)
            z += start.take(span)
            drawn = triangle.take(span)
            # Where several write to a pixel the last stays: of equals the first triangle, as they come backwards.
            # Those nearer than what stayed write again, until none is.
            nearer = z >= depth.take(pixel)
            while nearer.any():
                if not nearer.all():
                    some = np.flatnonzero(nearer)
                    pixel, z, drawn = pixel.take(some), z.take(some), drawn.take(some)
                depth[pixel] = z
                number[pixel] = drawn
                nearer = z > depth.take(pixel)
    return number.reshape(height, width), depth.reshape(height, width)


def _spans(
    vertices: NDArray[np.float32], triangles: NDArray[np.int32], height: int, width: int
) -> Iterator[tuple[NDArray[Any], ...]]:
    """Of each row of each triangle, the last first: triangle, first pixel, number of pixels, z at the first, dz/dx."""
    with np.errstate(all="ignore"):
        rows, edges = _edges(vertices, triangles[::-1], height)
        for which, down in _runs(rows):
            below = down.astype(np.float32)
            long, to_long, upper, to_upper, lower, to_lower, side, z, along_x, along_y, x, top = edges.take(
                which, axis=1
            )
            one = long + below * to_long
            other = np.minimum(upper + below * to_upper, lower + below * to_lower) * side
            left = np.maximum(np.ceil(np.minimum(one, other) - _TOLERANCE), _ZERO)
            right = np.minimum(np.floor(np.maximum(one, other) + _TOLERANCE), np.float32(width - 1))
            counts = np.fmax(right - left + 1, _ZERO).astype(np.intp)  # 0 of NaN, too
            start = z + along_y * below + along_x * (left - x)
            first = (down + top.astype(np.intp)) * width + left.astype(np.intp)
            yield (len(rows) - 1 - which).astype(np.int32), first, counts, start, along_x


def _edges(
    vertices: NDArray[np.float32], triangles: NDArray[np.int32], height: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """How many rows of the image each triangle (T, 3) meets, and what bounds its spans.

    From top to bottom, the long edge bounds a triangle on one side; on the other do the two that meet in its middle
    corner, whichever lies further in. These two are mirrored where that is the left side, so that the smaller x counts.

    Returns:
        The rows (T,), 0 of what is not drawn; and (12, T): x of the long, the upper and the lower edge at the first
        row, each followed by its growth a row; 1 or -1 by which the latter two are mirrored; z at the top corner's x in
        the first row; dz/dx; dz/dy; the top corner's x; the first row.
    """
    x, y, z = _columns(vertices)
    corners = _columns(triangles)
    a, b, c = y.take(corners)
    order = _DOWNWARDS.take(np.packbits([b < a, c < b, c < a], axis=0, bitorder="little")[0], axis=1)
    corners = corners.ravel().take(order * corners.shape[1] + np.arange(corners.shape[1]))
    (xa, xb, xc), (ya, yb, yc), (za, zb, zc) = x.take(corners), y.take(corners), z.take(corners)
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    inverse = 1 / area
    along_x = ((yc - ya) * (zb - za) - (yb - ya) * (zc - za)) * inverse
    along_y = ((xb - xa) * (zc - za) - (xc - xa) * (zb - za)) * inverse
    top, bottom = np.clip(np.ceil(ya), 0, height), np.clip(np.floor(yc), -1, height - 1)
    drawn = np.isfinite(area) & np.isfinite(inverse)
    rows = np.where(drawn, np.maximum(bottom - top + 1, 0), 0).astype(np.intp)
    side = np.copysign(np.float32(1), area)
    down = top - ya
    to_long, to_upper, to_lower = (xc - xa) / (yc - ya), (xb - xa) / (yb - ya) * side, (xc - xb) / (yc - yb) * side
    # A level edge bounds no row but its own, which the others bound as well.
    upper = np.where(yb > ya, xa * side + down * to_upper, _INFINITY)
    lower = np.where(yc > yb, xb * side + (top - yb) * to_lower, _INFINITY)
    to_upper, to_lower = np.where(yb > ya, to_upper, 0), np.where(yc > yb, to_lower, 0)
    long, z = xa + down * to_long, za + along_y * down
    return rows, np.stack([long, to_long, upper, to_upper, lower, to_lower, side, z, along_x, along_y, xa, top])


def _downwards() -> NDArray[np.intp]:
    """(3, 8): how to sort three numbers a, b, c, by (b < a) + 2 (c < b) + 4 (c < a)."""
    table = np.zeros((3, 8), dtype=np.intp)
    for order in permutations(range(3)):
        a, b, c = (order.index(k) for k in range(3))
        table[:, (b < a) + 2 * (c < b) + 4 * (c < a)] = order
    return table


_DOWNWARDS = _downwards()


def _runs(counts: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Runs of so many each, one after another: the run's number, and the place in it, from 0.

    In parts of `_AT_ONCE`, or of a single run that is longer.
    """
    ends = np.cumsum(counts)
    starts = ends - counts
    first, done = 0, 0
    while first < len(ends):
        last = max(int(np.searchsorted(ends, done + _AT_ONCE, side="right")), first + 1)
        run = np.repeat(np.arange(first, last), counts[first:last])
        first, before, done = last, done, int(ends[last - 1])
        step = np.arange(before, done)
        step -= starts.take(run)
        yield run, step


def _columns(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows (N, C) as (C, N), each column by itself in memory; indices in the type that indexing needs no copy of."""
    return rows.T.astype(np.intp if rows.dtype.kind == "i" else rows.dtype, order="C")
