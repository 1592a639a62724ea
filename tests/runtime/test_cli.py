import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from runtime.__main__ import main
from runtime.results import LIST_NAME
from tests.runtime.conftest import make_manifest, write_engine

PHOTO = "examples/astronaut.jpg"
BOX = [160, 60, 120, 140]


def run(capsys, *arguments):
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_photo_gives_json_picture_and_meshes(tmp_path, capsys, engine_file):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([BOX, BOX]))
    status, out, err = run(capsys, PHOTO, "--engine", engine_file, "--boxes", boxes, "--out", tmp_path / "o")
    assert status == 0 and err == "" and "2 faces" in out
    names = sorted(p.name for p in (tmp_path / "o").iterdir() if p.name != LIST_NAME)
    assert names == ["astronaut.json", "astronaut_faces.jpg"]
    record = json.loads((tmp_path / "o" / "astronaut.json").read_text())
    assert record["image"] == "astronaut.jpg" and len(record["faces"]) == 2
    face = record["faces"][0]
    assert {"box", "score", "params", "landmarks", "pose", "visible"} < set(face)
    assert set(face["pose"]) == {"yaw", "pitch", "roll"}
    assert face["box"] == BOX and len(face["params"]) == 62 and np.shape(face["landmarks"]) == (68, 3)
    photo, picture = cv2.imread(PHOTO), cv2.imread(str(tmp_path / "o" / "astronaut_faces.jpg"))
    assert picture.shape == photo.shape and (picture != photo).any(axis=2).mean() > 0.001


def test_a_photo_without_a_face_is_no_error_and_says_so(tmp_path, capsys, engine_file):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((240, 320, 3), 128, dtype=np.uint8))
    status, out, err = run(capsys, tmp_path / "grey.png", "--engine", engine_file, "--out", tmp_path / "o")
    assert status == 0 and "no face" in out and err == ""
    assert json.loads((tmp_path / "o" / "grey.json").read_text()) == {"image": "grey.png", "faces": []}


def test_each_error_is_one_line_with_status_1_and_the_rest_goes_on(tmp_path, capsys, engine_file):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    (tmp_path / "empty.png").write_bytes(b"")
    photos = [tmp_path / "none.jpg", tmp_path / "broken.jpg", tmp_path / "empty.png", PHOTO]
    status, out, err = run(capsys, *photos, "--engine", engine_file, "--out", tmp_path / "o")
    assert status == 1 and len(err.splitlines()) == 3 and "3 of 4 skipped" in out
    assert all(line.startswith("error: ") and "expected an image" in line for line in err.splitlines())
    assert (tmp_path / "o" / "astronaut.json").exists() and "astronaut" in out


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ("{", "JSON"),
        ("3", "expected"),
        ("[[1, 2, 3]]", "box"),
        ('{"astronaut.jpg": [[0, 0, 0, 0]]}', "above 0"),
        ('{"astronaut.jpg": 3}', "expected"),
        (None, "check the path"),
    ],
)
def test_bad_boxes_are_one_line_with_status_2(tmp_path, capsys, engine_file, boxes, message):
    path = tmp_path / "boxes.json"
    if boxes is not None:
        path.write_text(boxes)
    status, _, err = run(capsys, PHOTO, "--engine", engine_file, "--boxes", path, "--out", tmp_path / "o")
    assert status == 2 and len(err.splitlines()) == 1 and message in err


def test_an_engine_that_is_none_is_one_line_with_status_2(tmp_path, capsys):
    status, _, err = run(capsys, PHOTO, "--engine", tmp_path / "none.onnx", "--out", tmp_path / "o")
    assert status == 2 and len(err.splitlines()) == 1 and "expected an engine file" in err


def test_an_engine_for_another_face_model_is_one_line_with_status_2(tmp_path, capsys):
    engine = write_engine(tmp_path / "other.onnx", make_manifest(face_model_sha256="f" * 64))
    status, _, err = run(capsys, PHOTO, "--engine", engine, "--out", tmp_path / "o")
    assert status == 2 and len(err.splitlines()) == 1 and "built for face model" in err


def test_nothing_of_the_runtime_imports_torch():
    code = (
        "import pkgutil, importlib, sys, runtime\n"
        "for m in pkgutil.walk_packages(runtime.__path__, 'runtime.'): importlib.import_module(m.name)\n"
        "heavy = {'torch', 'training', 'export', 'onnx', 'scipy', 'onnxruntime', 'tensorrt', 'tensorrt_rtx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
