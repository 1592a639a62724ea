"""Faces as data: JSON, pickles, CSV, .pts."""

import csv
import dataclasses
import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from runtime import Face, FileFormatError, MismatchError, Roi, load_face_model
from runtime.face_data import faces_to_csv, landmarks_to_pts
from tests.runtime.faces import MODEL, posed


def test_json_gives_the_face_back_mesh_and_all():
    face = posed(30, -10, 5, angle=20.0, coefficients=np.linspace(-1, 1, 50))
    back = Face.from_dict(json.loads(json.dumps(face.to_dict())))
    assert np.array_equal(back.vertices, face.vertices) and np.array_equal(back.landmarks, face.landmarks)
    assert back.pose.yaw == face.pose.yaw and back.roi == face.roi and np.array_equal(back.visible, face.visible)
    assert back.to_dict() == face.to_dict() and Face.from_dict(face.to_dict(), MODEL).model is MODEL


def test_a_face_is_printed_in_a_line_and_takes_numpys_numbers():
    face = posed(30, -10, 5)
    assert repr(face).startswith("Face(box=(") and "yaw=30.0, pitch=-10.0" in repr(face) and len(repr(MODEL)) < 120
    place = {name: np.float32(value) for name, value in dataclasses.asdict(face.roi).items()}
    assert json.loads(json.dumps(dataclasses.replace(face, roi=Roi(**place)).to_dict()))["roi"] == pytest.approx(place)


def test_landmarks_that_a_filter_has_moved_stay_moved():
    face = posed()
    moved = dataclasses.replace(face, landmarks=face.landmarks + np.float32(0.5))
    assert np.allclose(Face.from_dict(moved.to_dict()).landmarks, moved.landmarks, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"face_model": "f" * 64}, MismatchError, "load its file first"),
        ({"params": None}, FileFormatError, "numbers"),
        ({"params": [0.0] * 61}, FileFormatError, r"'params' as finite numbers of shape \(62,\), got \(61,\)"),
        ({"params": [float("nan")] * 62}, FileFormatError, "finite"),
        ({"crop_size": 1.5}, FileFormatError, "crop_size"),
        ({"crop_size": True}, FileFormatError, "crop_size"),
        ({"roi": [1, 2, 3]}, FileFormatError, "'roi' with"),
        ({"roi": {"center_x": 1, "center_y": 1, "side": 0}}, FileFormatError, "region: expected"),
        ({"params": [1e39] * 62}, FileFormatError, "finite"),
        ({"crop_size": 10**400}, FileFormatError, "crop_size"),
        ({"box": "abcd"}, FileFormatError, "'box'"),
        ({"landmarks": [[1, 2]]}, FileFormatError, "'landmarks'"),
    ],
)
def test_json_that_is_no_face_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        Face.from_dict(posed().to_dict() | changes)


def test_json_of_older_versions_and_of_another_model_is_refused():
    old = posed().to_dict()
    del old["roi"]
    with pytest.raises(FileFormatError, match=r"expected 'roi' among its values, got .*; reconstruct"):
        Face.from_dict(old)
    other = dataclasses.replace(MODEL, sha256="0" * 64)
    with pytest.raises(MismatchError, match="pass the face model it was reconstructed with"):
        Face.from_dict(posed().to_dict(), other)
    with pytest.raises(FileFormatError, match="expected an object"):
        Face.from_dict([1])


def test_a_pickle_is_small_and_finds_its_model_again():
    face = posed(20)
    face.vertices, face.visible  # noqa: B018  what is cached stays out
    data = pickle.dumps(face)
    assert len(data) < 4000
    back = pickle.loads(data)
    assert np.array_equal(back.vertices, face.vertices) and back.model.sha256 == MODEL.sha256
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).vertices.sum())"
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert float(done.stdout) == pytest.approx(float(face.vertices.sum()), rel=1e-4)


def test_a_pickle_of_a_model_that_is_not_loaded_says_what_to_do():
    data = pickle.dumps(dataclasses.replace(posed(), model=dataclasses.replace(MODEL, sha256="1" * 64)))
    with pytest.raises(MismatchError, match=r"load its file first \(runtime.load_face_model\)"):
        pickle.loads(data)


def test_shared_arrays_are_read_only():
    face = posed()
    for array in (face.vertices, face.landmarks, face.params, face.visible, load_face_model().mean, face.triangles):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_poses_compare_and_hash():
    assert posed(20).pose == posed(20).pose != posed(21).pose and len({posed(20).pose, posed(20).pose}) == 1


def test_csv_has_a_row_for_each_face():
    faces = [posed(0), posed(75)]
    rows = list(csv.DictReader(io.StringIO(faces_to_csv(faces, image="a, b.jpg"))))
    assert [row["image"] for row in rows] == ["a, b.jpg"] * 2 and [row["face"] for row in rows] == ["0", "1"]
    assert [int(rows[1][f"visible{i + 1}"]) for i in range(68)] == faces[1].visible.astype(int).tolist()
    assert float(rows[1]["x31"]) == pytest.approx(float(faces[1].landmarks[30, 0]), abs=1e-3)
    assert float(rows[1]["yaw"]) == pytest.approx(75, abs=0.01) and None not in rows[0]


def test_pts_counts_from_one():
    lines = landmarks_to_pts(posed()).splitlines()
    assert lines[:3] == ["version: 1", "n_points: 68", "{"] and lines[-1] == "}" and len(lines) == 72
    assert np.allclose([float(v) for v in lines[3].split()], posed().landmarks[0, :2] + 1, atol=1e-3)
