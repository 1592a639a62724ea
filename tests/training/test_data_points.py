"""Readers of faces that are labelled with points alone: Helen, LFPW, a user's folder, AFLW."""

import re
import sqlite3
from contextlib import closing

import cv2
import numpy as np
import pytest
import torch

from runtime.errors import FileFormatError, InvalidInputError
from runtime.face_model import load_face_model
from runtime.files import cache_folder
from runtime.roi import Roi
from training.data.__main__ import main
from training.data.aflw import load_aflw, load_aflw_crops
from training.data.catalog import check, open_samples
from training.data.landmarks import AFLW_21, IBUG_68, LandmarkLabels
from training.data.points import load_own, load_pts, read_pts

SIDE = 120
MODEL = load_face_model()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_points(seed=0):
    """68 plausible points in a picture of SIDE pixels, from 0."""
    rng = np.random.default_rng(seed)
    pose = np.array([[0.4, 0, 0, 60], [0, -0.4, 0, 60], [0, 0, 0.4, 0]])
    return MODEL.landmarks(np.concatenate([pose.ravel(), rng.normal(0, 0.5, 50)]))[:, :2].astype(np.float64)


def write_image(path, points):
    """A black picture with a white 3 x 3 blot on each point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    for x, y in np.rint(points[np.isfinite(points).all(axis=1)]).astype(int):
        cv2.rectangle(image, (int(x) - 1, int(y) - 1), (int(x) + 1, int(y) + 1), (255, 255, 255), -1)
    cv2.imwrite(str(path), image)


def write_pts(path, points):
    lines = "".join(f"{x:.6f} {y:.6f}\n" for x, y in points + 1)
    path.write_text(f"version: 1\nn_points:  {len(points)}\n{{\n{lines}}}\n")


def write_helen(folder, count=4, suffix=".jpg"):
    for seed in range(count):
        image = folder / ("trainset" if seed % 2 else "testset") / f"{seed}_1{suffix}"
        write_image(image, make_points(seed))
        write_pts(image.with_suffix(".pts"), make_points(seed))
    return folder


def blots(image, points):
    """Mean brightness at points of an image (S, S, 3)."""
    x, y = np.rint(points.numpy()).astype(int).T
    return image.numpy()[y, x].mean()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_points_lie_on_their_place_in_the_crop(tmp_path, suffix):
    folder = write_helen(tmp_path / "helen", suffix=suffix)
    faces = load_pts(folder).faces
    np.testing.assert_allclose(faces[0].points, make_points(0), atol=1e-5)  # 1-based in the file
    samples = open_samples(f"helen:{folder}", MODEL, size=160, threads=1)
    images, labels = samples.batch(np.arange(4))
    assert images.shape == (4, 160, 160, 3) and labels.weights.all()
    for image, points in zip(images, labels.points, strict=True):
        assert blots(image, points) > 200
        region = Roi.from_landmarks(points.numpy())
        assert region.side == pytest.approx(160 / 1.25, rel=1e-4)
        assert region.center_x == pytest.approx(79.5, abs=1e-3)
    assert check(f"helen:{folder}").found == ["4 faces; images were not decoded, add --images for that"]
    (folder / "testset" / "0_1.pts").unlink()
    report = check(f"helen:{folder}")
    assert not report.problems and f"testset/0_1{suffix} is left out: it has no points" in report.found


def test_mirrored_labels_lie_on_the_mirrored_image(tmp_path):
    samples = open_samples(f"helen:{write_helen(tmp_path)}", MODEL, size=160)
    images, labels = samples.batch(np.arange(2))
    mirrored = labels.mirrored(160)
    for image, points in zip(images.flip(2), mirrored.points, strict=True):
        assert blots(image, points) > 200
    # The subject's right mouth corner stays left of the left one: names are exchanged with places.
    assert (mirrored.points[:, 48, 0] < mirrored.points[:, 54, 0]).all()
    torch.testing.assert_close(mirrored.mirrored(160).points, labels.points)


@pytest.mark.parametrize("scheme", [IBUG_68, AFLW_21], ids=lambda scheme: scheme.name)
def test_a_scheme_mirrors_as_the_face_model_does(scheme):
    """The mean face is symmetric, so each point mirrored is its partner."""
    points = scheme.mixing @ MODEL.at_landmarks(MODEL.mean)
    np.testing.assert_array_equal(scheme.mirror[scheme.mirror], np.arange(len(scheme.mirror)))
    assert np.abs(points[scheme.mirror] * [-1, 1, 1] - points).max() < 0.5  # mm
    assert scheme.mixing.sum(axis=1) == pytest.approx(1)


def test_labels_move_with_the_image():
    points = torch.rand(2, 68, 2) * 100
    labels = LandmarkLabels(scheme=IBUG_68, points=points, weights=torch.ones(2, 68))
    turn = torch.tensor([[[0.0, -2.0], [2.0, 0.0]]] * 2)
    moved = labels.moved(turn, torch.tensor([[1.0, 2.0]] * 2))
    torch.testing.assert_close(moved.points[..., 0], 1 - 2 * points[..., 1])
    torch.testing.assert_close(moved.points[..., 1], 2 + 2 * points[..., 0])


def write_aflw(folder, faces):
    """faces: (name, points (21, 2) with NaN where hidden, rectangle or None, yaw)."""
    (folder / "data").mkdir(parents=True)
    with closing(sqlite3.connect(folder / "data" / "aflw.sqlite")) as base:
        base.executescript("""
            CREATE TABLE Faces (face_id INTEGER PRIMARY KEY, file_id TEXT, db_id TEXT);
            CREATE TABLE FaceImages (image_id INTEGER PRIMARY KEY, db_id TEXT, file_id TEXT, filepath TEXT);
            CREATE TABLE FaceRect (face_id INTEGER, x INTEGER, y INTEGER, w INTEGER, h INTEGER);
            CREATE TABLE FacePose (face_id INTEGER, roll REAL, pitch REAL, yaw REAL);
            CREATE TABLE FeatureCoords (face_id INTEGER, feature_id INTEGER, x REAL, y REAL);
        """)
        for number, (name, points, box, yaw) in enumerate(faces, start=100):
            base.execute("INSERT INTO Faces VALUES (?, ?, 'aflw')", (number, f"{name}.jpg"))
            image = (f"{name}.jpg", f"0/{name}.jpg")
            base.execute("INSERT INTO FaceImages (db_id, file_id, filepath) VALUES ('aflw', ?, ?)", image)
            if box:
                base.execute("INSERT INTO FaceRect VALUES (?, ?, ?, ?, ?)", (number, *box))
                base.execute("INSERT INTO FacePose VALUES (?, 0, 0, ?)", (number, yaw))
            for feature, (x, y) in enumerate(points, start=1):
                if np.isfinite(x):
                    base.execute("INSERT INTO FeatureCoords VALUES (?, ?, ?, ?)", (number, feature, x, y))
            write_image(folder / "data" / "flickr" / "0" / f"{name}.jpg", points)
        base.commit()
    return folder


def aflw_points(seed):
    return AFLW_21.mixing.astype(np.float64) @ make_points(seed)


def test_aflw_is_read_from_its_database(tmp_path):
    hidden = aflw_points(1)
    hidden[:12:2] = np.nan
    folder = write_aflw(
        tmp_path,
        [
            ("a", aflw_points(0), (25, 30, 70, 60), 0.5),
            ("b", hidden, None, None),
            ("c", np.full((21, 2), np.nan), (1, 1, 5, 5), 0.0),
        ],
    )
    loaded = load_aflw(folder)
    assert len(loaded.faces) == 2 and "c.jpg" in loaded.notes[0]
    first, second = loaded.faces
    assert first.yaw == pytest.approx(np.degrees(0.5)) and second.yaw is None
    assert first.roi == Roi.from_box((25, 30, 70, 60)) and first.visible.all()
    assert second.visible.sum() == 15
    samples = open_samples(f"aflw:{folder}", MODEL, size=160)
    images, labels = samples.batch(np.arange(2))
    assert labels.weights.sum(dim=1).tolist() == [21, 15]
    assert torch.isfinite(labels.points).all()
    for image, points, weight in zip(images, labels.points, labels.weights, strict=True):
        assert blots(image, points[weight > 0]) > 200
    turned = labels.mirrored(160)
    for image, points, weight in zip(images.flip(2), turned.points, turned.weights, strict=True):
        assert blots(image, points[weight > 0]) > 200  # a hidden point's partner is hidden
    assert turned.weights[1, 1] != turned.weights[1, 0]
    # The scheme's points of 68 landmarks in the sample's frame are the labels themselves.
    wide = Roi(center_x=first.roi.center_x, center_y=first.roi.center_y, side=first.roi.side * 1.25)
    landmarks = torch.from_numpy(wide.to_crop(make_points(0), 160).astype(np.float32))[None]
    torch.testing.assert_close(labels.of(landmarks)[0][labels.weights[0] > 0], labels.points[0][labels.weights[0] > 0])
    report = check(f"aflw:{folder}", images=True)
    assert not report.problems and any("c.jpg" in line for line in report.found)


def write_aflw_crops(folder, count=3):
    """Crops of 120 pixels, stretched from boxes of 240 pixels' width and, in the first face, 180 pixels' height."""
    (folder / "test.configs").mkdir(parents=True)
    boxes, points, fitted = [], [], []
    for seed in range(count):
        inside = make_points(seed)
        write_image(folder / "test.data" / "AFLW_GT_crop" / f"{seed}.jpg", inside)
        box = np.array([50, 60, 290, 240 + 60 * (seed > 0)])
        source = (inside + 1) * (box[2:] - box[:2]) / 120 + box[:2]
        visible = AFLW_21.mixing @ source
        if seed == 1:
            visible[12] = -1, 452
        boxes.append(box)
        points.append(visible.T)
        fitted.append(source.T)
    for name, values in (("pts21", points), ("pts68", fitted), ("crop_roi_box", boxes), ("crop_yaws", [-70.0, 5, 95])):
        np.save(folder / "test.configs" / f"AFLW_GT_{name}.npy", np.array(values, np.float32))
    (folder / "test.data" / "AFLW_GT_crop.list").write_text("".join(f"{seed}.jpg\n" for seed in range(count)))
    return folder


def test_the_published_crops_of_aflw(tmp_path):
    folder = write_aflw_crops(tmp_path)
    faces = load_aflw_crops(folder).faces
    assert [face.yaw for face in faces] == [-70, 5, 95]
    assert [face.visible.sum() for face in faces] == [21, 20, 21]
    for seed, face in enumerate(faces):
        truth = AFLW_21.mixing @ make_points(seed)
        np.testing.assert_allclose(face.points[face.visible], truth[face.visible], atol=1e-3)
        assert face.length == pytest.approx(np.sqrt(np.ptp(make_points(seed), axis=0).prod()), rel=1e-5)
    images, labels = open_samples(f"aflw-3ddfa:{folder}", MODEL, size=150).batch(np.arange(3))
    assert images.shape == (3, 150, 150, 3) and labels.weights[1, 12] == 0
    # The margin of 1.25 shows the crop in the middle at its own scale: 15 pixels of replicated edge all round.
    torch.testing.assert_close(labels.points[0], torch.from_numpy(faces[0].points).float() + 15)
    assert not check(f"aflw-3ddfa:{folder}", images=True).problems
    boxes = folder / "test.configs" / "AFLW_GT_crop_roi_box.npy"
    whole = np.load(boxes)
    np.save(boxes, whole * [[1, 1, 1, 1], [1, 1, 1, 0.2], [1, 1, 1, 1]])
    assert "for 1.jpg" in check(f"aflw-3ddfa:{folder}").problems[0]
    np.save(boxes, whole)
    np.save(folder / "test.configs" / "AFLW_GT_crop_yaws.npy", np.zeros(2))
    assert "(3,)" in check(f"aflw-3ddfa:{folder}").problems[0]
    (folder / "test.configs" / "AFLW_GT_pts21.npy").unlink()
    assert "AFLW_GT_pts21" in check(f"aflw-3ddfa:{folder}").problems[0]


def test_another_database_is_refused(tmp_path):
    (tmp_path / "aflw.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(FileFormatError, match="can't be read"):
        load_aflw(tmp_path)
    (tmp_path / "aflw.sqlite").unlink()
    with pytest.raises(FileNotFoundError, match=r"aflw\.sqlite"):
        load_aflw(tmp_path)


def test_a_users_folder(tmp_path):
    unknown = make_points(1)
    unknown[:17] = np.nan
    for seed, name in enumerate(("a.png", "b.jpg", "c.jpg", "d.jpg")):
        write_image(tmp_path / name, make_points(seed))
    cells = ["" if np.isnan(value) else f"{value:.4f}" for value in unknown.ravel()]
    (tmp_path / "points.csv").write_text("file,x1,y1\n" + ",".join(["b.jpg", *cells]) + "\n")
    (tmp_path / "boxes.csv").write_text("file,x,y,w,h\nb.jpg,20,25,80,70\nd.jpg,1,2,30,40\n")
    write_pts(tmp_path / "a.pts", make_points(0))
    loaded = load_own(tmp_path)
    assert sorted(face.image_path.name for face in loaded.faces) == ["a.png", "b.jpg"]
    assert [note.split()[0] for note in loaded.notes] == ["c.jpg", "d.jpg"]  # one with nothing, one with a box
    known = next(face for face in loaded.faces if face.image_path.name == "b.jpg")
    assert known.roi == Roi.from_box((20, 25, 80, 70)) and known.visible.sum() == 51
    images, labels = open_samples(f"points:{tmp_path}", MODEL, size=96).batch(np.arange(2))
    assert sorted(labels.weights.sum(dim=1).tolist()) == [51, 68]
    for image, points, weight in zip(images, labels.points, labels.weights, strict=True):
        assert blots(image, points[weight > 0]) > 150


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b.jpg,1,2,3\n", "line 1.*136 numbers"),
        ("file,x1\nb.jpg," + ",".join(["x"] * 136), "line 2"),
        ("b.jpg," + ",".join(["inf"] * 136), "line 1"),
        ("b.jpg," + "," * 135, r"b\.jpg: its label says no region .*expected finite points"),
        ("b.jpg," + ",".join(["5"] * 136), r"b\.jpg: its label says no region"),
        ("none.jpg," + ",".join(["5", "6"] * 34 + ["7", "9"] * 34), "expected this image"),
    ],
    ids=["short", "text", "infinity", "no point", "one place", "no image"],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    write_image(tmp_path / "b.jpg", make_points())
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(FileFormatError, match=message):
        load_own(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nn_points: 2\n{\n1 2\n3 4\n}", r"\(2, 2\)"),
        ("version: 1\n", "68 lines"),
        ("{\n" + "1 nan\n" * 68 + "}", "NaN"),
        ("{\n" + "1 x\n" * 68 + "}", "68 lines"),
        ("{\n" + "1 2\n" * 68, "68 lines"),
        ("{\n" + "1 2\n" * 68 + "}", "says no region"),
    ],
)
def test_a_bad_pts_file_is_refused_and_named_by_the_check(tmp_path, capsys, text, message):
    folder = write_helen(tmp_path / "lfpw")
    bad = folder / "trainset" / "1_1.pts"
    bad.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        read_pts(bad)
    with pytest.raises(FileFormatError, match="1 of 4 files are bad"):
        load_pts(folder)
    assert main(["check", f"lfpw:{folder}"]) == 1
    output = capsys.readouterr().out
    assert output.count("problem:") == 1 and "1_1.pts" in output and "3 faces" in output


def test_the_check_command_ends_with_one_line_for_what_it_does_not_know(tmp_path, capsys):
    assert main(["check", f"faces:{tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "300w-lp" in error and error.count("\n") == 1
    assert main(["check", f"300w-lp:{tmp_path}"]) == 1
    assert "unpack the set there" in capsys.readouterr().out
    assert main(["check", f"synthetic:5:{tmp_path / 'none'}"]) == 1
    assert "nothing is rendered" in capsys.readouterr().out
    with pytest.raises(InvalidInputError, match="rendered"):
        open_samples("synthetic:5", MODEL, size=96)


HEADER = ["file", *(f"{axis}{i}" for i in range(68) for axis in "xy")]


def table(path, rows, *, separator=",", encoding="utf-8", header=HEADER, end="\n", more=""):
    lines = [separator.join(cells) + more for cells in ([header] if header else []) + rows]
    path.write_bytes((end.join(lines) + end).encode(encoding))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"header": None},
        {"header": ["FILE", *HEADER[1:]]},
        {"header": ["Bild", *(f"Punkt {h}" for h in HEADER[1:])]},
        {"encoding": "utf-8-sig"},
        {"encoding": "utf-16"},
        {"encoding": "cp1252"},
        {"encoding": "utf-16", "separator": "\t", "end": "\r\n"},  # "Unicode text"
        {"separator": ";", "end": "\r\n", "more": ";;"},
        {"separator": ";", "decimal": ","},
        {"separator": ",", "more": ",,,\n,,,,"},  # empty cells and lines
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, options):
    points = make_points(0)
    for name in ("ä.png", "b.png"):
        write_image(tmp_path / name, points)
    decimal = options.pop("decimal", ".")
    cells = [f"{value:.3f}".replace(".", decimal) for value in points.ravel()]
    table(tmp_path / "points.csv", [["ä.png", *cells], ["./b.png", *cells]], **options)
    loaded = load_own(tmp_path)
    assert [face.image_path.name for face in loaded.faces] == ["ä.png", "b.png"]
    assert all(np.abs(face.points - points).max() < 1e-3 for face in loaded.faces)


def test_each_face_of_an_image_gets_its_own_box(tmp_path):
    first, second = make_points(0), make_points(1) + np.array((200, 0))
    write_image(tmp_path / "a.png", first)
    rows = [["a.png", *(f"{v:.2f}" for v in points.ravel())] for points in (first, second)]
    table(tmp_path / "points.csv", rows)
    boxes = [[*points.min(axis=0), *np.ptp(points, axis=0)] for points in (second, first)]  # in another order
    table(tmp_path / "boxes.csv", [["a.png", *(f"{v:.2f}" for v in box)] for box in boxes], header=None)
    faces = load_own(tmp_path).faces
    assert [round(face.roi.center_x) for face in faces] == [
        round(points[:, [0]].min() / 2 + points[:, [0]].max() / 2) for points in (first, second)
    ]


def _one_box(folder, points):
    table(folder / "boxes.csv", [["a.png", "1", "2", "90", "90"]], header=None)
    cells = [f"{v:.2f}" for v in points.ravel()]
    table(folder / "points.csv", [["a.png", *cells], ["a.png", *cells[::-1]]])


def _box_elsewhere(folder, points):
    table(folder / "boxes.csv", [["a.png", "900", "900", "90", "90"]], header=None)
    table(folder / "points.csv", [["a.png", *(f"{v:.2f}" for v in points.ravel())]])


def _box_of_no_image(folder, points):
    table(folder / "boxes.csv", [["A.png", "1", "2", "90", "90"]], header=None)
    table(folder / "points.csv", [["a.png", *(f"{v:.2f}" for v in points.ravel())]])


def _twice(folder, points):
    write_pts(folder / "a.pts", points)
    table(folder / "points.csv", [["a.png", *(f"{v:.2f}" for v in points.ravel())]])


def _two_images(folder, points):
    write_pts(folder / "a.pts", points)
    write_image(folder / "a.jpg", points)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_one_box, "a.png: expected a box for each of its 2 faces in boxes.csv, got 1"),
        (_box_elsewhere, "a.png: expected a box around its points"),
        (_box_of_no_image, r"expected names of images in the folder, got 'A.png'; did you mean 'a.png'\?"),
        (_twice, "expected each face once, got a.png in points.csv too"),
        (_two_images, "expected one image beside it, found a.jpg and a.png"),
    ],
)
def test_labels_that_could_mean_two_things_are_bad_ones(tmp_path, make, message):
    points = make_points(0)
    write_image(tmp_path / "a.png", points)
    make(tmp_path, points)
    assert re.search(message, "\n".join(load_own(tmp_path, max_bad=1.0).bad.values()))


def test_an_index_that_can_not_be_kept_is_a_warning(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", make_points(0))
    write_pts(tmp_path / "a.pts", make_points(0))
    (tmp_path / "._a.pts").write_bytes(b"\0\5\x16\7")  # macOS leaves these
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.warns(UserWarning, match="is not kept") as warned:
        assert len(load_pts(tmp_path).faces) == 1
    assert len(warned) == 1


def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder("index") is None
