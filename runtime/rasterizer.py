"""A depth buffer for triangle meshes: what pictures, maps, textures and visibility are all made with.

Pixel (x, y) shows the nearest triangle over its centre, the point (x, y) of `runtime.roi`'s numbering; bigger z is
nearer; both sides of a triangle are drawn. Inside a triangle everything is linear on the screen (a scaled-orthographic
camera). `cln_cpp` does the work where it is installed, else NumPy, in four steps: triangles are cut at their middle
corner into halves (`_halves`), halves into rows, called spans (`_spans`), spans into pixels, and of what is drawn on a
pixel the nearest stays (`_draw`). `_runs` is what cuts: it counts each piece's parts through, a few thousand at a time,
so that what is worked on stays in the processor's cache and small enough for the allocator to hand it out again (larger
arrays are fresh pages each time, which cost more than the arithmetic). OpenCV 5's `triangleRasterize` takes longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
_AT_ONCE = 1 << 13  # spans, or pixels, worked on at once: 32 or 64 kB an array
_GRID_COLUMNS = 4  # for each row of the grid that many points are sorted into
_SPAN = np.dtype([("first", np.int32), ("number", np.int32), ("z", np.float32), ("along_x", np.float32)])
"""A row of a triangle: its first pixel, counted row by row; one more than the triangle's number; z there; dz/dx."""
_NUMBERS = (1 << 28) - 1  # bits of a float64 that change less than half of a float32's last place
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
        channels = given.shape[1]
        out = np.empty((height, width, channels), dtype=np.float32)
        origin, along_x, along_y = self._planes(given)  # (T + 1, C')
        column = np.repeat(np.arange(width, dtype=np.float32), origin.shape[1])
        step = max(_AT_ONCE // width, 1)
        for first in range(0, height, step):
            number = self.triangle[first : first + step].astype(np.intp)
            row = np.arange(first, first + len(number), dtype=np.float32)[:, None]
            at_pixel, by_x, by_y = (
                plane.take(number, axis=0).reshape(len(number), -1) for plane in (origin, along_x, along_y)
            )
            at_pixel += np.multiply(by_x, column, out=by_x)
            at_pixel += np.multiply(by_y, row, out=by_y)
            at_pixel = at_pixel.reshape(*number.shape, -1)
            if unit:
                length = np.sqrt(np.maximum(np.square(at_pixel) @ np.ones(at_pixel.shape[2], dtype=np.float32), _TINY))
                for channel in range(channels):
                    np.divide(at_pixel[..., channel], length, out=out[first : first + step, :, channel])
            else:
                out[first : first + step] = at_pixel[..., :channels]
        return out

    def _planes(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(3, T + 1, C'): triangles' values at pixel (0, 0), and how much they grow along x and y; zeros.

        The zeros come last, where triangle -1 is looked up, and make channels 1, 2 or a multiple of 4: rows of 4, 8 or
        16 bytes are copied fastest.
        """
        corners = _columns(self.triangles)
        x, y = (axis.take(corners) for axis in _columns(self.vertices[:, :2]))  # (3, T)
        base, u, v = _columns(values).take(corners, axis=1).transpose(1, 0, 2)  # (C, T) each
        ax, ay, bx, by = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
        u, v = u - base, v - base
        width = len(base) if len(base) <= 2 else -(-len(base) // 4) * 4
        planes = np.zeros((3, len(self.triangles) + 1, width), dtype=np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (ax * by - bx * ay)
            along_x, along_y = (by * u - ay * v) * inverse, (ax * v - bx * u) * inverse
            for plane, value in zip(planes, (base - along_x * x[0] - along_y * y[0], along_x, along_y), strict=True):
                plane[:-1, : len(base)] = value.T
        return planes


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
    axes, corners = _columns(mesh), _columns(triangles)
    x, y = (axis.take(corners) for axis in axes[:2])  # (3, T)
    few = len(at) * len(triangles) <= _PAIRS_AT_ONCE  # fewer triangles than there are are asked at all
    with np.errstate(all="ignore"):
        planes = None if few else _planes(axes, corners)
        for point, triangle in _near(at, x, y):
            asked = _planes(axes, corners.take(triangle, axis=1)) if planes is None else planes.take(triangle, axis=1)
            left, top, near, ax, ay, bx, by, inverse, az, bz = asked
            px, py = at[:, 0].take(point) - left, at[:, 1].take(point) - top
            w1, w2 = (px * by - py * bx) * inverse, (ax * py - ay * px) * inverse
            over = near + w1 * az + w2 * bz
            kept = np.flatnonzero((w1 >= _INSIDE) & (w2 >= _INSIDE) & (w1 + w2 <= 1 - _INSIDE) & np.isfinite(over))
            np.maximum.at(depth, point.take(kept), over.take(kept))
    return depth


def _planes(axes: NDArray[np.float32], corners: NDArray[np.intp]) -> NDArray[np.float32]:
    """(10, T): a corner's x, y and z; what x and y grow by to the second and the third; 1 / area; what z grows by."""
    x, y, z = (axis.take(corners) for axis in axes)  # (3, T)
    ax, ay, bx, by = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
    return np.stack([x[0], y[0], z[0], ax, ay, bx, by, 1 / (ax * by - bx * ay), z[1] - z[0], z[2] - z[0]])


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
    """Triangle numbers and depth (height, width): triangles are cut into spans, a row each, and spans into pixels.

    A pixel keeps the greatest of the float64 that are drawn there. Each is z, a float32, with one more than the
    triangle's number in bits that a float32 lacks: it rounds back to z.
    """
    nearest = np.full(height * width, -np.inf)
    for spans, counts in _spans(vertices, triangles, height, width):
        for which, step in _runs(counts):
            span = spans.take(which)
            drawn = (span["z"] + span["along_x"] * step.astype(np.float32)).astype(np.float64)
            drawn.view(np.int64)[:] |= span["number"]
            np.fmax.at(nearest, span["first"] + step, drawn)
    depth, bits = nearest.astype(np.float32), nearest.view(np.int64)
    bits &= _NUMBERS
    bits -= 1
    return bits.astype(np.int32).reshape(height, width), depth.reshape(height, width)


def _spans(
    vertices: NDArray[np.float32], triangles: NDArray[np.int32], height: int, width: int
) -> Iterator[tuple[NDArray[np.void], NDArray[np.intp]]]:
    """The spans (`_SPAN`) of triangles, and how many pixels each has."""
    with np.errstate(all="ignore"):
        rows, halves = _halves(vertices, triangles, height)
        for which, down in _runs(rows):
            below = down.astype(np.float32)
            long, to_long, short, to_short, z, along_x, along_y, top = halves.take(which, axis=0).T
            one, other = long + below * to_long, short + below * to_short
            left = np.maximum(np.ceil(np.minimum(one, other) - _TOLERANCE), _ZERO)
            right = np.minimum(np.floor(np.maximum(one, other) + _TOLERANCE), np.float32(width - 1))
            spans = np.empty(len(which), dtype=_SPAN)
            spans["first"] = (down + top.astype(np.intp)) * width + left.astype(np.intp)
            spans["number"] = 1 + (which >> 1)
            spans["z"] = z + along_y * below + along_x * left
            spans["along_x"] = along_x
            yield spans, np.fmax(right - left + 1, _ZERO).astype(np.intp)  # 0 of NaN, too


def _halves(
    vertices: NDArray[np.float32], triangles: NDArray[np.int32], height: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Triangles (T, 3) cut at their middle corners: each half's rows lie between the long edge and a short one.

    Returns:
        How many rows of the image each meets, upper half, lower half, next triangle (2T,), 0 of what is not drawn; and
        (2T, 8): x of the long and of the short edge in the first row, each followed by its growth a row; z there, at
        x = 0; dz/dx; dz/dy; the first row.
    """
    x, y, z = _columns(vertices)
    a, b, c = _downwards(_columns(triangles), y)
    (xa, xb, xc), (ya, yb, yc), (za, zb, zc) = (axis.take([a, b, c]) for axis in (x, y, z))
    inverse = 1 / ((xb - xa) * (yc - ya) - (xc - xa) * (yb - ya))
    along_x = ((yc - ya) * (zb - za) - (yb - ya) * (zc - za)) * inverse
    along_y = ((xb - xa) * (zc - za) - (xc - xa) * (zb - za)) * inverse
    first, last = np.clip(np.ceil([ya, yb]), 0, height), np.clip([np.ceil(yb) - 1, np.floor(yc)], -1, height - 1)
    drawn = np.isfinite(inverse) & (inverse != 0)
    rows = np.where(drawn, np.maximum(last - first + 1, 0), 0).astype(np.intp)
    # A level edge bounds no row but its own.
    to_long = (xc - xa) / (yc - ya)
    to_short = [np.where(yb > ya, (xb - xa) / (yb - ya), 0), np.where(yc > yb, (xc - xb) / (yc - yb), 0)]
    halves = np.empty((len(triangles), 2, 8), dtype=np.float32)
    for half in (0, 1):
        top = first[half]
        edges = (xa + (top - ya) * to_long, to_long, xb + (top - yb) * to_short[half], to_short[half])
        for k, value in enumerate((*edges, za + along_y * (top - ya) - along_x * xa, along_x, along_y, top)):
            halves[:, half, k] = value
    return rows.T.ravel(), halves.reshape(-1, 8)


def _downwards(corners: NDArray[np.intp], y: NDArray[np.float32]) -> list[NDArray[np.intp]]:
    """Each triangle's corners (3, T) from top to bottom."""
    sorted_ = list(corners)
    for i, j in ((0, 1), (1, 2), (0, 1)):
        above, below = sorted_[i], sorted_[j]
        wrong = y.take(below) < y.take(above)
        sorted_[i], sorted_[j] = np.where(wrong, below, above), np.where(wrong, above, below)
    return sorted_


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
