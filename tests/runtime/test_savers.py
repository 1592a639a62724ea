"""Each kind of result, opened again with a reader of its own kind."""

import csv
import io
import json
import re

import cv2
import numpy as np
import pytest

from runtime import Face
from runtime.__main__ import main
from runtime.savers import SAVERS, Photograph, save
from tests.runtime.faces import MODEL, posed

IMAGE = np.random.default_rng(0).integers(60, 200, size=(200, 220, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    faces = [posed(20, center=(150.0, 120.0)), posed(-30, center=(50.0, 60.0), side=90.0)]
    photo = Photograph(name="p.jpg", image=IMAGE, faces=faces)
    save(photo, list(SAVERS), lambda ending: path / f"p{ending}")
    return path


def test_every_saver_writes_the_files_it_says(folder):
    expected = set()
    for saver in SAVERS.values():
        for ending in saver.endings.split(", "):
            expected |= {f"p{ending.replace('*', str(i))}" for i in ((0, 1) if "*" in ending else (0,))}
    assert {path.name for path in folder.iterdir()} == expected


def test_json_and_csv(folder):
    record = json.loads((folder / "p.json").read_text())
    face = Face.from_dict(record["faces"][1])
    rows = list(csv.DictReader(io.StringIO((folder / "p.csv").read_text())))
    assert len(rows) == 2 and float(rows[1]["x9"]) == pytest.approx(float(face.landmarks[8, 0]), abs=1e-3)
    assert (folder / "p_1.pts").read_text().count("\n") == 72


def test_pictures_and_maps(folder):
    assert cv2.imread(str(folder / "p_faces.jpg")).shape == IMAGE.shape
    depth = cv2.imread(str(folder / "p_depth.tif"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.float32 and depth.shape == IMAGE.shape[:2]
    assert np.nanmax(depth) == pytest.approx(MODEL.mean[:, 2].max(), abs=8) and np.isnan(depth).any()
    numbers = cv2.imread(str(folder / "p_triangles.png"), cv2.IMREAD_UNCHANGED)
    assert numbers.dtype == np.uint16 and np.array_equal(numbers > 0, np.isfinite(depth))
    assert numbers.max() <= len(MODEL.triangles)
    for name in ("normals", "pncc"):
        colors = cv2.imread(str(folder / f"p_{name}.png"))
        assert np.array_equal(colors.any(axis=2), np.isfinite(depth))
    assert cv2.imread(str(folder / "p_0_uv.png")).shape == (512, 512, 3)


def test_other_readers_open_the_depth(folder):
    tifffile = pytest.importorskip("tifffile")
    depth = tifffile.imread(folder / "p_depth.tif")
    expected = cv2.imread(str(folder / "p_depth.tif"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.float32 and np.array_equal(depth, expected, equal_nan=True)


def test_meshes_carry_colours(folder):
    trimesh = pytest.importorskip("trimesh")
    for suffix in ("obj", "ply"):
        mesh = trimesh.load(folder / f"p_0.{suffix}", process=False)
        assert len(mesh.faces) == len(MODEL.triangles) and mesh.visual.kind == "vertex"
        colors = mesh.visual.vertex_colors[:, :3].astype(int)
        assert 60 <= np.median(colors) <= 200 and len(np.unique(colors, axis=0)) > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save", "json,glbb"], "--save: expected some of json, picture, .*, got 'glbb'; did you mean 'glb'?"),
        (["--save", ","], "--save: expected some of .*, got none"),
        (["--draw", "mehs"], "draw: expected names of .*, got 'mehs'; did you mean 'mesh'?"),
        (["--draw", ""], "--draw: expected some of .*, got none"),
    ],
)
def test_unknown_names_are_one_line_with_the_nearest(tmp_path, capsys, arguments, message):
    status = main(["examples/astronaut.jpg", "--out", str(tmp_path / "o"), *arguments])
    err = capsys.readouterr().err
    assert status == 2 and err.count("\n") == 1 and not (tmp_path / "o").exists()
    assert re.search(message.replace("?", r"\?"), err)


def test_a_texture_of_nothing_is_that_photographs_error_alone(tmp_path):
    photo = Photograph(name="p.jpg", image=IMAGE, faces=[posed(center=(-4000.0, 0.0))])
    others = [name for name in SAVERS if name != "uv"]  # meshes are plain then
    save(photo, others, lambda ending: tmp_path / f"p{ending}")
    with pytest.raises(ValueError, match="texture: expected a face that the image shows"):
        save(photo, ["uv"], lambda ending: tmp_path / f"p{ending}")
