import numpy as np
import pytest

from runtime.drawing import rasterize, vertex_normals
from runtime.mesh_files import write_obj, write_ply

# A square of 20 px, and in front of its left half a narrower one.
VERTICES = np.array(
    [[10, 10, 0], [30, 10, 0], [30, 30, 0], [10, 30, 0], [5, 15, 5], [20, 15, 5], [20, 25, 5], [5, 25, 5]],
    dtype=np.float32,
)
TRIANGLES = np.array([[0, 2, 1], [0, 3, 2], [4, 6, 5], [4, 7, 6]], dtype=np.int32)


def test_nearer_surfaces_hide_farther_ones():
    hit, weights = rasterize(VERTICES, TRIANGLES, (40, 40))
    assert hit[20, 12] in (2, 3) and hit[20, 25] in (0, 1) and hit[12, 12] in (0, 1) and hit[5, 5] == -1
    assert (hit >= 0).sum() == 21 * 21 + 11 * 5  # whole squares, edges included, no holes along diagonals
    drawn = hit >= 0
    points = np.einsum("kc,kcd->kd", weights[drawn], VERTICES[TRIANGLES[hit[drawn]]])
    rows, columns = np.nonzero(drawn)
    assert np.abs(points[:, :2] - np.stack([columns, rows], axis=1)).max() < 1e-3


def test_order_of_triangles_and_chunks_do_not_matter(monkeypatch):
    whole, _ = rasterize(VERTICES, TRIANGLES, (40, 40))
    monkeypatch.setattr("runtime.drawing._FRAGMENTS", 7)
    chunked, _ = rasterize(VERTICES, TRIANGLES[::-1], (40, 40))
    assert np.array_equal(np.where(chunked >= 0, 3 - chunked, -1) // 2, whole // 2)


def test_a_mesh_outside_the_image_draws_nothing():
    for shift in (-100, 100, 1e7):
        hit, _ = rasterize(VERTICES + np.float32(shift), TRIANGLES, (40, 40))
        assert (hit == -1).all()


def test_normals_point_at_the_viewer():
    assert np.allclose(vertex_normals(VERTICES, TRIANGLES), [0, 0, 1])


def test_mesh_files_stand_upright_and_keep_their_winding(tmp_path):
    write_obj(tmp_path / "m.obj", VERTICES, TRIANGLES, uv=VERTICES[:, :2] / 40)
    write_ply(tmp_path / "m.ply", VERTICES, TRIANGLES)
    lines = [line.split() for line in (tmp_path / "m.obj").read_text().splitlines()]
    vertices = np.array([line[1:] for line in lines if line[0] == "v"], dtype=float)
    faces = np.array([[c.split("/")[0] for c in line[1:]] for line in lines if line[0] == "f"], dtype=int) - 1
    data = (tmp_path / "m.ply").read_bytes()
    body = data[data.index(b"end_header\n") + 11 :]
    ply = np.frombuffer(body[: vertices.size * 4], dtype="<f4").reshape(-1, 3)
    assert np.array_equal(vertices, ply) and np.array_equal(vertices, VERTICES * [1, -1, 1])
    assert np.array_equal(faces, TRIANGLES) and len(body) == vertices.size * 4 + len(faces) * 13
    a, b, c = vertices[faces[0]]
    assert np.cross(b - a, c - a)[2] > 0  # counter-clockwise towards the viewer


def test_a_mesh_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mesh: expected .*got"):
        write_ply(tmp_path / "m.ply", VERTICES[:, :2], TRIANGLES)
