import numpy as np
import pytest

from runtime.mesh_files import write_obj, write_ply
from tests.runtime.test_rasterizer import TRIANGLES, VERTICES


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
