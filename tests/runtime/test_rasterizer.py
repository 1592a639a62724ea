import numpy as np
import pytest

from runtime import compiled, load_face_model, rasterizer
from runtime.pose import euler_to_rotation
from runtime.rasterizer import rasterize, surface_depth, vertex_normals

# A square of 20 px, and in front of its left half a narrower one.
VERTICES = np.array(
    [[10, 10, 0], [30, 10, 0], [30, 30, 0], [10, 30, 0], [5, 15, 5], [20, 15, 5], [20, 25, 5], [5, 25, 5]],
    dtype=np.float32,
)
TRIANGLES = np.array([[0, 2, 1], [0, 3, 2], [4, 6, 5], [4, 7, 6]], dtype=np.int32)


@pytest.fixture(autouse=True)
def in_numpy(monkeypatch):
    """What NumPy does; `tests/cpp_bindings` holds the compiled core against it."""
    monkeypatch.setattr(compiled, "cln_cpp", None)


def face(yaw=30.0, size=120):
    """The mean face in a square picture."""
    model = load_face_model()
    rotation = np.diag([1.0, -1.0, 1.0]) @ euler_to_rotation(yaw, 5, 10)
    return (model.mean @ rotation.T * size / 280 + [size / 2, size / 2, 0]).astype(np.float32), model.triangles


def test_nearer_surfaces_hide_farther_ones_and_values_are_linear():
    raster = rasterize(VERTICES, TRIANGLES, (40, 40))
    hit = raster.triangle
    assert hit[20, 12] in (2, 3) and hit[20, 25] in (0, 1) and hit[12, 12] in (0, 1) and hit[5, 5] == -1
    assert raster.mask.sum() == 21 * 21 + 11 * 5  # whole squares, edges included, no holes along diagonals
    rows, columns = np.nonzero(raster.mask)
    points = raster.interpolate(VERTICES)[raster.mask]
    assert np.abs(points - np.stack([columns, rows, raster.depth[raster.mask]], axis=1)).max() < 1e-3
    assert raster.depth[20, 12] == 5 and raster.depth[5, 5] == -np.inf and not raster.interpolate(VERTICES)[5, 5].any()


def test_each_pixel_shows_the_nearest_of_all_triangles_over_it():
    vertices, triangles = face()
    raster = rasterize(vertices, triangles, (120, 120))
    rows, columns = np.mgrid[:120, :120]
    depth = surface_depth(np.stack([columns.ravel(), rows.ravel()], axis=1), vertices, triangles).reshape(120, 120)
    assert ((depth > -np.inf) == raster.mask).mean() > 0.9999  # spans of pixels; points in triangles
    both = raster.mask & np.isfinite(depth)
    assert np.abs(depth[both] - raster.depth[both]).max() < 0.05


def test_order_of_triangles_and_chunks_do_not_matter(monkeypatch):
    whole = rasterize(VERTICES, TRIANGLES, (40, 40)).triangle
    monkeypatch.setattr(rasterizer, "_AT_ONCE", 7)
    chunked = rasterize(VERTICES, TRIANGLES[::-1], (40, 40)).triangle
    assert np.array_equal(np.where(chunked >= 0, 3 - chunked, -1) // 2, whole // 2)


def test_few_points_and_many_get_the_same_depth(monkeypatch):
    vertices, triangles = face(50)
    points = np.concatenate([vertices[::40, :2], [[np.nan, 5], [-1e9, 3]]]).astype(np.float32)
    few = surface_depth(points, vertices, triangles)
    monkeypatch.setattr(rasterizer, "_PAIRS_AT_ONCE", 0)
    assert np.array_equal(surface_depth(points, vertices, triangles), few) and np.isfinite(few[:-2]).all()
    assert (few[-2:] == -np.inf).all()


@pytest.mark.parametrize("shift", [-100, 100, 1e7, -1e30, np.nan, np.inf])
def test_a_mesh_outside_the_image_or_nowhere_draws_nothing(shift):
    moved = VERTICES + np.float32(shift)
    assert not rasterize(moved, TRIANGLES, (40, 40)).mask.any()
    assert (surface_depth(VERTICES, moved, TRIANGLES) == -np.inf).all()


def test_a_mesh_that_reaches_far_beyond_the_image_is_cut_off():
    large = (VERTICES - 20) * np.float32(1e4) + 20
    raster = rasterize(large, TRIANGLES, (40, 40))
    assert np.isin(raster.triangle[:, :20], (2, 3)).all() and np.isin(raster.triangle[:, 22:], (0, 1)).all()


def test_normals_point_at_the_viewer():
    assert np.allclose(vertex_normals(VERTICES, TRIANGLES), [0, 0, 1])
    vertices, triangles = face(0)
    normals = vertex_normals(vertices, triangles)
    nose = vertices[:, 2].argmax()
    assert normals[nose, 2] > 0.8 and np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)


def test_values_of_another_mesh_are_refused():
    with pytest.raises(ValueError, match=r"values: expected .*got"):
        rasterize(VERTICES, TRIANGLES, (40, 40)).interpolate(VERTICES[1:])
