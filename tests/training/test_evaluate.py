import dataclasses
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from benchmarks.yaw_sweep import sweep
from runtime.detection import Detection
from runtime.errors import FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import FaceModel, load_face_model
from runtime.files import sha256
from runtime.pose import decompose, euler_to_rotation, picture_angles, rotation_to_euler
from runtime.regions import is_off
from runtime.roi import Roi, on_grid
from tests.training.conftest import make_face_model
from tests.training.test_model import TINY
from training import evaluate
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.data.aflw2000 import AnnotatedFace, load_aflw2000
from training.data.landmarks import AFLW_21, IBUG_68, PointFace
from training.evaluation import photographs, sets
from training.evaluation import reading as reading_module
from training.evaluation import report as report_module
from training.evaluation.permutations import other_permutations
from training.evaluation.photographs import (
    Look,
    Study,
    point_norm,
    study_photographs,
    study_points,
    unique_names,
    view_faces,
    worst_tiles,
)
from training.evaluation.predictors import load_predictor
from training.evaluation.reading import read_batches
from training.evaluation.report import evaluate_data, evaluate_permutations
from training.evaluation.sets import read_yaws
from training.evaluation.tables import PROTOCOL, Row, markdown, model_rows, ratio, study_rows
from training.model import CLN

SIZE = 32
YAWS = {"a": 10.0, "b": -40.0, "c": 85.0, "d": 5.0}


@pytest.fixture
def folder(tmp_path: Path, face_model: FaceModel, make_params) -> Path:
    """Four images, each of another grey, with landmarks of known parameters, written as AFLW2000-3D writes them."""
    directory = tmp_path / "aflw"
    directory.mkdir()
    for number, (row, (stem, yaw)) in enumerate(zip(make_params(len(YAWS), size=200), YAWS.items(), strict=True)):
        cv2.imwrite(str(directory / f"{stem}.jpg"), np.full((200, 200, 3), 10 * number, np.uint8))
        points = face_model.landmarks(row).astype(np.float64) + np.array([1.0, 1.0, 0.0])  # Matlab counts from 1
        pose = np.array([[0.1, np.radians(yaw), 0.2, 0, 0, 0, 1e-3]])
        savemat(directory / f"{stem}.mat", {"pt3d_68": points.T, "Pose_Para": pose})
    return directory


def to_crop(params: np.ndarray, roi: Roi) -> np.ndarray:
    """Parameters of the image's frame in the frame of the region's crop."""
    linear, offset = roi.map(SIZE)
    pose = params[:12].reshape(3, 4).astype(np.float64)
    pose[:, 3] -= offset
    return np.concatenate([np.linalg.solve(linear, pose).ravel(), params[12:]]).astype(np.float32)


def test_labels_come_zero_based_and_in_degrees(folder: Path, face_model: FaceModel, make_params) -> None:
    faces = load_aflw2000(folder)
    assert [face.stem for face in faces] == list(YAWS)
    np.testing.assert_allclose([face.yaw for face in faces], list(YAWS.values()))
    np.testing.assert_allclose(faces[0].landmarks, face_model.landmarks(make_params(1, size=200)[0]), atol=1e-4)


def test_perfect_parameters_have_no_error_and_a_shift_has_its_own(
    folder: Path, face_model: FaceModel, make_params
) -> None:
    faces = load_aflw2000(folder)
    truth = make_params(len(YAWS), size=200)
    rois = [Roi.from_landmarks(face.landmarks) for face in faces]
    answers = np.stack([to_crop(row, roi) for row, roi in zip(truth, rois, strict=True)])
    perfect = study_photographs(lambda crops: answers, SIZE, face_model, faces, progress=False).accuracy
    assert max(perfect.per_image.values()) < 0.01
    assert perfect.zero_coefficients.mean > 1  # the mean face isn't these faces

    shifted = answers.copy()
    shifted[:, 3] += 2.0  # crop pixels to the right
    result = study_photographs(lambda crops: shifted, SIZE, face_model, faces, progress=False).accuracy
    for face, roi in zip(faces, rois, strict=True):
        width, height = np.ptp(face.landmarks[:, :2], axis=0)
        expected = 100 * 2.0 * roi.side / SIZE / np.sqrt(width * height)
        assert result.per_image[face.stem] == pytest.approx(expected, rel=1e-3)
    a, b, c, d = (result.per_image[stem] for stem in YAWS)
    assert result.nme.bins == pytest.approx(((a + d) / 2, b, c))
    assert result.nme.mean == pytest.approx(((a + d) / 2 + b + c) / 3)


def test_command_line_writes_the_report(
    folder: Path, tmp_path: Path, face_model: FaceModel, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "load_face_model", lambda path: face_model)
    model = CLN(TINY)
    checkpoint = Checkpoint(
        config=TINY,
        state_dict=model.state_dict(),
        face_model_name=face_model.name,
        face_model_sha256=face_model.sha256,
    )
    save_checkpoint(tmp_path / "ckpt.pth", checkpoint)
    (folder / "c.mat").unlink()
    report = tmp_path / "report.json"
    arguments = [str(tmp_path / "ckpt.pth"), "--data", f"aflw2000:{folder}", "--json", str(report)]
    assert evaluate.main(arguments) == 0
    assert "NME" in capsys.readouterr().out
    figures = json.loads(report.read_text())["nme_2d_68"]
    assert figures["bins"][2] is None and figures["mean"] == pytest.approx(np.mean(figures["bins"][:2]))
    assert set(figures["per_image"]) == {"a", "b", "d"}


def test_depth_pose_and_21_points_are_measured(folder: Path, face_model: FaceModel, make_params) -> None:
    faces = load_aflw2000(folder)
    truth = make_params(len(YAWS), size=200)
    faces = [
        dataclasses.replace(face, **dict(zip(("yaw", "pitch", "roll"), angles_of(row), strict=True)))
        for face, row in zip(faces, truth, strict=True)
    ]
    rois = [Roi.from_landmarks(face.landmarks) for face in faces]
    answers = np.stack([to_crop(row, roi) for row, roi in zip(truth, rois, strict=True)])
    far = answers.copy()
    far[:, 11] += 5.0  # depth's origin is nobody's
    perfect = study_photographs(lambda crops: far, SIZE, face_model, faces, progress=False).accuracy
    assert perfect.nme_3d.mean < 0.01 and perfect.nme_21.mean < 0.01 and perfect.pose.geodesic.mean < 0.05
    assert perfect.ced.area > 0.999 and perfect.by_label is None
    turned = answers.copy()
    turn = np.diag([1.0, -1.0, 1.0]) @ euler_to_rotation(0.0, 0.0, 7.0) @ np.diag([1.0, -1.0, 1.0])
    for row in turned:
        row[:12] = np.column_stack([turn @ row[:12].reshape(3, 4)[:, :3], row[:12].reshape(3, 4)[:, 3]]).ravel()
    result = study_photographs(
        lambda crops: turned, SIZE, face_model, faces, label_yaw=np.array([80.0, 80, 80, -3]), progress=False
    ).accuracy
    assert result.pose.geodesic.mean == pytest.approx(7.0, abs=0.05)
    values = list(result.per_image.values())
    assert result.by_label.bins == (values[3], None, pytest.approx(np.mean(values[:3])))
    assert result.to_dict()["nme_2d_68_by_label"]["mean"] == result.by_label.mean
    assert sum(result.nme.counts) == 4 and result.by_label.counts == result.by_label_3d.counts == (1, 0, 3)


def angles_of(params: np.ndarray) -> tuple[float, float, float]:
    return rotation_to_euler(decompose(params[:12].reshape(3, 4))[1])


@pytest.fixture
def point_faces(folder: Path, face_model: FaceModel, make_params) -> list[PointFace]:
    """The four images with AFLW's 21 points; the first face has three visible ones, the second none."""
    faces = []
    for face in load_aflw2000(folder):
        points = AFLW_21.mixing @ face.landmarks[:, :2]
        visible = np.ones(21, bool)
        roi = Roi.from_landmarks(face.landmarks)
        faces.append(PointFace(image_path=face.image_path, points=points, visible=visible, roi=roi, length=50.0))
    faces[0].visible[3:] = False
    faces[0].points[3:] = np.nan
    faces[1].visible[:] = False
    return [dataclasses.replace(face, yaw=yaw) for face, yaw in zip(faces, (10.0, 20.0, -70.0, None), strict=True)]


def test_hidden_points_count_for_nothing(point_faces: list[PointFace], face_model: FaceModel, make_params) -> None:
    truth = make_params(len(YAWS), size=200)
    kept = [number for number in range(4) if number != 1]
    answers = np.stack([to_crop(truth[number], point_faces[number].roi) for number in kept])
    answers[:, 3] += 2.0 * SIZE / np.array([point_faces[number].roi.side for number in kept])  # 2 image pixels
    result = study_points(lambda crops: answers, SIZE, face_model, point_faces, AFLW_21)
    assert result.accuracy.faces == 3 and result.accuracy.points == 21
    assert list(result.accuracy.per_image) == ["a", "c", "d"]
    np.testing.assert_allclose(result.accuracy.errors, 100 * 2 / 50, atol=0.05)
    assert result.accuracy.nme.bins == pytest.approx((4.0, None, 4.0), abs=0.05)  # without a yaw in no bin
    assert not result.looks and result.missed == []  # nobody looked
    assert "nme_2d_21" in result.accuracy.to_dict()
    tiles = {tile.caption[0]: tile for tile in worst_tiles(result)}
    assert tiles.keys() == {"a", "c", "d"} and np.isfinite(tiles["a"].truth).all() and len(tiles["a"].truth) == 3
    without = [dataclasses.replace(face, yaw=None, length=None) for face in point_faces]
    answer = study_points(lambda crops: answers, SIZE, face_model, without, AFLW_21).accuracy
    assert answer.nme.bins == (None, None, None) and answer.nme.mean == pytest.approx(answer.errors.mean())
    assert point_norm(without[2]) == pytest.approx(np.sqrt(np.ptp(without[2].points, axis=0).prod()))


def test_faces_of_one_image_have_their_own_names() -> None:
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]


def test_yaw_labels_come_by_name_or_in_order(tmp_path: Path) -> None:
    (tmp_path / "yaw.txt").write_text("b.jpg, -40.5\na 10\n\nc 3\n")
    assert read_yaws(str(tmp_path / "yaw.txt"), ["a", "b"]).tolist() == [10.0, -40.5]
    np.save(tmp_path / "yaw.npy", np.array([1.0, 2.0]))
    assert read_yaws(str(tmp_path / "yaw.npy"), ["a", "b"]).tolist() == [1.0, 2.0]
    with pytest.raises(MismatchError, match=r"of 3 faces.* got 2"):
        read_yaws(str(tmp_path / "yaw.npy"), ["a", "b", "c"])
    with pytest.raises(MismatchError, match="for d"):
        read_yaws(str(tmp_path / "yaw.txt"), ["a", "d"])


def array_bytes(values: list, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values, dtype=object if pickled else None), allow_pickle=pickled)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("yaw.txt", b"a ten", "NAME DEGREES"),
        ("yaw.txt", b"a", "NAME DEGREES"),
        ("yaw.txt", b"\xff\xfe", "NAME DEGREES"),
        ("yaw.txt", b"a nan", "got nan for a"),
        ("yaw.npy", array_bytes([float("inf")]), "got inf for a"),
        ("yaw.npy", array_bytes(["a"]), "NAME DEGREES"),
        ("yaw.npy", array_bytes([{}], pickled=True), "allow_pickle=False"),
        ("yaw.npy", b"", "NAME DEGREES"),
    ],
    ids=["word", "no yaw", "not text", "nan", "infinity", "words", "pickle", "empty"],
)
def test_yaws_that_say_nothing_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        read_yaws(str(tmp_path / name), ["a"])


def test_a_report_folder_holds_it_all(checkpoint: str, folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(report_module, "BlazeFaceDetector", lambda: SimpleNamespace(detect=lambda image: []))
    out = tmp_path / "report"
    arguments = [checkpoint, "--data", f"aflw2000:{folder}", "--report", str(out), "--permutations", "2"]
    assert evaluate.main(arguments) == 0
    names = {"accuracy.md", "accuracy.json", "ced.csv", "ced_figures.csv", "ced.png", "worst_aflw2000_aflw.jpg"}
    assert {path.name for path in out.iterdir()} == names
    content, text = json.loads((out / "accuracy.json").read_text()), (out / "accuracy.md").read_text()
    tried = content["permutations"]
    assert len(tried) == 2 and tried[0]["order"] != tried[1]["order"]
    ours = [f"{value:.3f}" for value in (*content["nme_2d_68"]["bins"], content["nme_2d_68"]["mean"])]
    assert "| CLN | 2.645 | 3.477 | 4.462 | 3.528 |" in text
    assert f"| **this model**, 4 faces (2 + 1 + 1) of aflw2000:aflw | {' | '.join(ours)} |" in text
    assert "| aflw2000:aflw | faces by yaw | 4 faces | 2 | 1 | 1 |" in text
    assert "Missed by the face detector in aflw2000:aflw: a, b, c, d." in text
    lines = (out / "ced.csv").read_text().splitlines()
    assert lines[0] == "nme_percent,aflw2000:aflw,aflw2000:aflw (detector)" and lines[1] == "0.00,0.000,0.000"
    assert lines[-1].startswith("8.00,") and lines[-1].endswith(",0.000")  # a missed face is a failure
    figures = (out / "ced_figures.csv").read_text().splitlines()[1].split(",")
    assert figures[:2] == ["aflw2000:aflw", "4"] and float(figures[3]) == pytest.approx(content["ced"]["failure_rate"])
    sheet = cv2.imread(str(out / "worst_aflw2000_aflw.jpg"))
    assert sheet.shape == (300, 4 * 256, 3)
    capsys.readouterr()


def test_other_permutations_are_fixed_and_change_the_answer(face_model: FaceModel) -> None:
    model = CLN(TINY)
    torch.nn.init.normal_(model.head.weight)
    base = Checkpoint(config=TINY, state_dict=model.state_dict(), face_model_name="a", face_model_sha256="b")
    first, again = list(other_permutations(base, 3)), list(other_permutations(base, 3))
    assert [one.config for one in first] == [one.config for one in again]
    crops = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    answers = [one.model()(crops) for one in (base, *first)]
    for number, answer in enumerate(answers):
        assert all(not torch.equal(answer, other) for other in answers[:number])
    for one in first:
        assert all(place != cell for place, cell in enumerate(one.config.evaluation_order))
    with pytest.raises(InvalidInputError, match="CDSDA"):
        next(other_permutations(dataclasses.replace(base, config=dataclasses.replace(TINY, cdsda=False)), 1))
    with pytest.raises(InvalidInputError, match="checkpoint"):
        evaluate_permutations("edge.onnx", face_model, "synthetic:3", 1)


def test_an_engine_is_taken_for_its_own_face_model_only(
    face_model: FaceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SimpleNamespace(manifest=SimpleNamespace(face_model_sha256=face_model.sha256, input_size=96))
    monkeypatch.setattr("runtime.engines.load_engine", lambda path: engine)
    path = tmp_path / "edge.onnx"
    path.touch()
    assert load_predictor(path, face_model) == (engine, 96)
    with pytest.raises(MismatchError, match="small"):
        load_predictor(path, make_face_model(seed=1))


def damage_layout(folder: Path) -> None:
    savemat(folder / "b.mat", {"pt2d": np.zeros((2, 21)), "Pose_Para": np.zeros((1, 7))})


def damage_flat(folder: Path) -> None:
    savemat(folder / "b.mat", {"pt3d_68": np.tile([[5.0], [6.0], [7.0]], 68), "Pose_Para": np.zeros((1, 7))})


def damage_shape(folder: Path) -> None:
    savemat(folder / "b.mat", {"pt3d_68": np.zeros((3, 21)), "Pose_Para": np.zeros((1, 7))})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "b.jpg").unlink(), r"b\.jpg"),
        (lambda folder: (folder / "b.mat").write_bytes(b"not a mat file" * 20), r"b\.mat"),
        (damage_layout, "pt3d_68"),
        (damage_shape, r"\(3, 68\), got float64 \(3, 21\)"),
        (damage_flat, r"b\.mat.*flat"),
        (lambda folder: [path.unlink() for path in folder.glob("*.mat")], "unpack"),
    ],
    ids=["no image", "garbage", "no landmarks", "21 points", "flat", "empty"],
)
def test_a_broken_folder_is_refused(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(FileFormatError, match=message):
        load_aflw2000(folder)


def test_unknown_data_is_refused(face_model: FaceModel) -> None:
    with pytest.raises(InvalidInputError, match="aflw2000:DIR"):
        evaluate_data(lambda crops: crops, SIZE, face_model, "pictures")


class FakeDetector:
    """Finds the true boxes moved by 10 % of their width; in the second picture none, in the third another face, too."""

    def __init__(self, faces: list) -> None:
        self.left = [face.landmarks[:, :2] for face in faces]

    def detect(self, image: np.ndarray) -> list[Detection]:
        low, high = self.left[0].min(axis=0), self.left[0].max(axis=0)
        number = 4 - len(self.left)
        self.left = self.left[1:]
        if number == 1:
            return [Detection(box=(low[0] + 400, low[1], *(high - low)), score=0.9)]  # not this face
        true = Detection(box=(low[0] + 0.1 * (high[0] - low[0]), low[1], *(high - low)), score=0.7)
        return [Detection(box=(low[0] + 60, low[1] + 60, 50.0, 50.0), score=0.9), true] if number == 2 else [true]


class Oracle:
    """Knows the true parameters, and the regions that it is shown of which image: each call is a pass."""

    def __init__(self, truth: np.ndarray, shift: float) -> None:
        self.truth, self.shift = truth, shift
        self.regions: list[list[Roi]] = []

    def crop(self, image: np.ndarray, rois: list[Roi], size: int) -> np.ndarray:
        self.pending.append((round(image[0, 0, 0] / 10), rois[0]))
        return np.zeros((1, size, size, 3), np.uint8)

    pending: list[tuple[int, Roi]]

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        seen, self.pending = self.pending, []
        self.regions.append([roi for _, roi in seen])
        answers = np.stack([to_crop(self.truth[number], roi) for number, roi in seen])
        if len(self.regions) == 1:
            answers[:, 3] += self.shift  # the first pass errs, crop pixels to the right
        return answers


@pytest.fixture
def oracle(make_params, monkeypatch: pytest.MonkeyPatch) -> Oracle:
    result = Oracle(make_params(len(YAWS), size=200), shift=2.0)
    result.pending = []
    monkeypatch.setattr(photographs, "crop", result.crop)
    return result


@pytest.fixture
def study(folder: Path, face_model: FaceModel, oracle: Oracle) -> tuple[Study, Oracle]:
    faces = load_aflw2000(folder)
    return study_photographs(oracle, SIZE, face_model, faces, FakeDetector(faces), fit=True), oracle


def test_a_study_takes_its_regions_from_where_it_says(study: tuple[Study, Oracle]) -> None:
    result, oracle = study
    labels, detected, again, looked, further, second = oracle.regions
    for face, roi in zip(result.faces, labels, strict=True):
        assert roi == Roi.from_landmarks(face.landmarks)
    for number, roi in zip((0, 2, 3), detected, strict=True):
        width = np.ptp(result.faces[number].landmarks[:, 0])
        assert roi.center_x == pytest.approx(labels[number].center_x + 0.1 * width)  # not the other face
    for number, roi in zip((0, 2, 3), again, strict=True):
        (angle,) = picture_angles(decompose(oracle.truth[number, :12])[1][None], [0.0])
        expected = Roi.from_landmarks(result.faces[number].landmarks, angle=angle)
        assert (roi.center_x, roi.center_y) == pytest.approx((expected.center_x, expected.center_y), abs=roi.side / 200)
    for face, row, roi, first in zip(result.faces, oracle.truth, second, labels, strict=True):
        (angle,) = picture_angles(decompose(row[:12])[1][None], [0.0])
        moved = np.add(face.landmarks, (2.0 * first.side / SIZE, 0.0, 0.0))
        expected = Roi.from_landmarks(moved, angle=angle)
        assert abs(angle) > 0.5 and roi.angle == pytest.approx(angle, abs=0.01)
        assert (roi.center_x, roi.center_y) == pytest.approx((expected.center_x, expected.center_y), abs=0.02)
        assert roi.side == pytest.approx(expected.side, rel=1e-3)
    pairs = list(zip(labels, second, strict=True))
    off, far = (np.array([is_off(*pair, way=w, turn=t) for pair in pairs]) for w, t in ((0.05, 8), (0.08, 20)))
    assert looked == [on_grid(own) for own, was_off in zip(second, off, strict=True) if was_off]
    # What both looks say is averaged, so that half of the first one's error is left; far off, the second stands alone,
    # and asks for another where the first one's error has put it.
    alone = [face for face, was_far in zip(result.faces, far, strict=True) if was_far]
    for face, roi in zip(alone, further, strict=True):
        expected = Roi.from_landmarks(face.landmarks, angle=roi.angle)
        assert (roi.center_x, roi.side) == pytest.approx((expected.center_x, expected.side), abs=0.5)
    assert far.any() and (off & ~far).any()
    left = np.where(far, 0.0, np.where(off, 0.5, 1.0))
    np.testing.assert_allclose(result.looks[Look.SECOND_LOOK], result.accuracy.errors * left, rtol=0.02, atol=1e-4)
    assert result.found.tolist() == [True, False, True, True]
    assert np.nanmax(result.looks[Look.DETECTOR]) < 0.01 < 1 < result.accuracy.errors.min()
    assert result.looks[Look.SECOND_PASS].max() < 0.01
    assert result.fit_floor.max() < 0.3 < result.zero_coefficients.min()


def test_a_missed_face_is_on_neither_side_of_the_ratio(study: tuple[Study, Oracle]) -> None:
    result = study[0]
    result.looks[Look.DETECTOR][[0, 2, 3]] = [3.0, 8.0, 5.0]  # |yaw| 10, 85, 5; missed: 40
    result.accuracy.errors[:] = [1.0, 100.0, 2.0, 2.0]
    rows = {row.what: row for row in study_rows("set", "NME, 4 photographs", result, 50)}
    detector = rows["NME, regions from the face detector (3 of 4 faces found)"]
    assert detector.bins == (4.0, None, 8.0) and detector.value == 6.0
    assert rows["the same / NME with ground-truth regions, faces found"].value == pytest.approx(6.0 / 1.75)
    assert rows["faces by yaw"].bins == (2, 1, 1) and rows["faces by yaw"].value == 4
    content = result.to_dict()
    assert content["detector"]["missed"] == result.missed == ["b"] and content["detector"]["per_image"]["b"] is None
    assert result.per_image()["predicted"] == {"a": 1.0, "b": 100.0, "c": 2.0, "d": 2.0}


def test_points_too_are_looked_at_in_the_detector_s_regions(
    folder: Path, face_model: FaceModel, oracle: Oracle
) -> None:
    photographs = load_aflw2000(folder)
    faces = [
        PointFace(
            image_path=face.image_path,
            points=face.landmarks[:, :2],
            visible=np.ones(68, bool),
            roi=Roi.from_landmarks(face.landmarks),
        )
        for face in photographs
    ]
    result = study_points(oracle, SIZE, face_model, faces, IBUG_68, FakeDetector(photographs))
    assert result.missed == ["b"] and len(oracle.regions) == 6
    assert np.nanmax(result.looks[Look.DETECTOR]) < 0.01 < 1 < result.accuracy.errors.min()
    assert result.looks[Look.SECOND_PASS].max() < 0.01
    rows = {row.what: row for row in study_rows("set", "NME", result, 50)}
    # Without yaws there are no bins: the value is the mean of the faces that were found.
    found = rows["NME, regions from the face detector (3 of 4 faces found)"]
    assert found.bins == (None, None, None) and found.value == pytest.approx(np.nanmean(result.looks[Look.DETECTOR]))
    expected = np.nanmean(result.looks[Look.DETECTOR]) / result.accuracy.errors[[0, 2, 3]].mean()
    assert rows["the same / NME with ground-truth regions, faces found"].value == pytest.approx(expected)
    assert rows["faces by yaw"].bins == () and "fit_floor" not in result.to_dict()


def test_a_photograph_is_read_once_and_few_are_held(
    folder: Path, face_model: FaceModel, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, looked = [], []

    def reading(path: Path) -> np.ndarray:
        read.append(path.stem)
        return np.zeros((200, 200, 3), np.uint8)

    monkeypatch.setattr(reading_module, "read_image", reading)
    faces = load_aflw2000(folder)
    twins = [faces[0], faces[0], *faces[1:]]  # two faces of one photograph
    detector = SimpleNamespace(detect=lambda image: looked.append(image) or [])
    view_faces(
        lambda crops: np.resize(oracle.truth, (len(crops), 62)),
        SIZE,
        face_model,
        twins,
        rois_of(twins),
        detector,
        progress=False,
    )
    assert read == ["a", "b", "c", "d"] and len(looked) == 4
    monkeypatch.setattr(reading_module, "_BATCH_BYTES", 2 * 200 * 200 * 3)
    assert [numbers for numbers, _ in read_batches(twins, progress=False)] == [[0, 1, 2], [3, 4]]
    monkeypatch.undo()
    (folder / "c.jpg").write_bytes((folder / "c.jpg").read_bytes()[:100])
    with pytest.raises(FileFormatError, match=r"c\.jpg.*fetch it again"):
        list(read_batches(twins, progress=False))


def rois_of(faces: list[AnnotatedFace]) -> list[Roi]:
    return [Roi.from_landmarks(face.landmarks) for face in faces]


def test_the_table_says_what_the_rows_say() -> None:
    rows = [
        Row(data="set", what="NME | all", value=3.5, bins=(3.0, None, 4.0)),
        Row(what="ratio", value=None, unit=""),
        Row(what="size", value=5.618, unit="MB"),
        Row(what="none found", value=None),
    ]
    text = markdown("Accuracy of x", rows, {"set": {"predicted": {"a": 1.0, "b": None}, "fit_floor": {"a": 2, "b": 3}}})
    assert text.splitlines()[2:8] == [
        "| data | what | value | [0,30] | (30,60] | (60,90] |",
        "| --- | --- | --- | --- | --- | --- |",
        "| set | NME \\| all | 3.500 % | 3.000 | – | 4.000 |",
        "|  | ratio | – |  |  |  |",
        "|  | size | 5.62 MB |  |  |  |",
        "|  | none found | – |  |  |  |",
    ]
    assert PROTOCOL in text.splitlines()
    assert text.endswith(
        "| image | predicted | fit floor |\n| --- | --- | --- |\n| a | 1.000 | 2.000 |\n| b | – | 3.000 |\n"
    )
    many = {str(number): 1.0 for number in range(51)}
    assert "image" not in markdown("t", rows, {"set": {"predicted": many}}).partition(PROTOCOL)[2]
    assert ratio(None, 1.0) is ratio(1.0, None) is ratio(1.0, 0.0) is None


def test_the_network_is_timed_alone_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Engine:
        manifest = SimpleNamespace(input_size=SIZE, precision="fp32")

        def __call__(self, crops: np.ndarray) -> None:
            calls.append(crops.shape)

        def __enter__(self) -> "Engine":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def load(path: Path, *, providers: list[str], threads: int) -> Engine:
        assert providers == ["CPUExecutionProvider"] and threads == 1
        return Engine()

    clock = iter(np.arange(10_000) * 0.004)  # 4 ms from each look at it to the next
    monkeypatch.setattr("training.evaluation.tables.load_engine", load)
    monkeypatch.setattr("training.evaluation.tables.time.perf_counter", lambda: next(clock))
    for name, size in (("m.pth", 3000), ("m.onnx", 2000)):
        (tmp_path / name).write_bytes(bytes(size))
    rows = model_rows(tmp_path / "m.pth", tmp_path / "m.onnx")
    assert [(row.value, row.unit) for row in rows[:2]] == [(0.003, "MB"), (0.002, "MB")]
    assert rows[2].value == pytest.approx(4.0) and rows[2].unit == "ms" and "fp32" in rows[2].what
    assert set(calls) == {(1, SIZE, SIZE, 3)}
    with pytest.raises(InvalidInputError, match=r"\.onnx"):
        model_rows(tmp_path / "m.pth", tmp_path / "m.pth")


@pytest.fixture
def checkpoint(tmp_path: Path, face_model: FaceModel, monkeypatch: pytest.MonkeyPatch) -> str:
    """An untrained network for the small face model, which stands in for the bundled one."""
    monkeypatch.setattr(evaluate, "load_face_model", lambda path: face_model)
    model = CLN(TINY)
    model.whitening_mean[[0, 5, 10, 3, 7]] = torch.tensor([0.2, -0.2, 0.2, 16.0, 16.0])  # an upright face, at least
    path = tmp_path / "ckpt.pth"
    content = Checkpoint(
        config=TINY, state_dict=model.state_dict(), face_model_name="small", face_model_sha256=face_model.sha256
    )
    save_checkpoint(path, content)
    return str(path)


class Rendered:
    """Rendered faces without a renderer."""

    def __init__(self, count: int, directory: Path, *, size: int, seed: int, assets: Path | None) -> None:
        self.params = self.make(count, size=size, seed=seed)
        self.size = size

    def fill(self) -> None: ...

    def __len__(self) -> int:
        return len(self.params)

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(indices), self.size, self.size, 3, dtype=torch.uint8), torch.from_numpy(
            self.params[indices]
        )


def test_command_line_writes_table_and_json_of_several_sets(
    checkpoint: str, folder: Path, tmp_path: Path, make_params, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(Rendered, "make", staticmethod(make_params), raising=False)
    monkeypatch.setattr(sets, "SyntheticSamples", Rendered)
    monkeypatch.setattr(report_module, "BlazeFaceDetector", lambda: SimpleNamespace(detect=lambda image: []))
    report, table = tmp_path / "report.json", tmp_path / "table.md"
    data = ["--data", f"aflw2000:{folder}", "--data", "synthetic:7"]
    assert evaluate.main([checkpoint, *data, "--json", str(report), "--table", str(table)]) == 0
    content, text = json.loads(report.read_text()), table.read_text()
    assert content["nme_2d_68"]["per_image"].keys() == YAWS.keys() and content["synthetic:7"]["faces"] == 7
    by_name = {(row["data"], row["what"]): row["value"] for row in content["table"]}
    assert by_name["aflw2000:aflw", "NME, 4 photographs"] == content["nme_2d_68"]["mean"]
    assert by_name["synthetic:7", "NME, 7 held-out rendered faces"] == content["synthetic:7"]["nme_2d_68"]["mean"]
    assert by_name["aflw2000:aflw", "NME, regions from the face detector (0 of 4 faces found)"] is None
    for row in content["table"]:
        digits = {"MB": 2, "°": 2, "faces": 0}.get(row["unit"], 3)
        assert row["value"] is None or f"| {row['what']} | {row['value']:.{digits}f}" in text
    assert str(tmp_path) not in text
    plain = tmp_path / "plain.json"
    assert evaluate.main([checkpoint, *data[:2], "--json", str(plain)]) == 0
    alone = json.loads(plain.read_text())
    assert alone["nme_2d_68"].keys() == {"bins", "mean", "counts", "per_image"}
    assert all(alone[key] == content[key] for key in alone)
    capsys.readouterr()


def test_command_line_gives_one_line_and_2(checkpoint: str, folder: Path, tmp_path: Path, capsys) -> None:
    good = ["--data", f"aflw2000:{folder}"]
    (tmp_path / "empty").mkdir()
    broken = load_checkpoint(checkpoint)
    broken.state_dict["whitening_mean"][0] = float("nan")
    save_checkpoint(tmp_path / "nan.pth", broken)
    (tmp_path / "foreign.onnx").write_bytes(b"no network")
    for arguments, message in (
        ([checkpoint, "--data", f"aflw2000:{tmp_path / 'nowhere'}"], "nowhere"),
        ([checkpoint, "--data", f"aflw2000:{tmp_path / 'empty'}"], "unpack"),
        ([checkpoint, "--data", "pictures"], "aflw2000:DIR"),
        ([checkpoint, "--data", "aflw2000:"], "aflw2000:DIR"),
        ([checkpoint, *good, *good], "different names"),
        ([checkpoint, *good, "--permutations", "-1"], "at least 0, got -1"),
        ([checkpoint, *good, "--onnx", "a.onnx"], "--table or --report"),
        ([checkpoint, *good, "--yaw-labels", "none.npy"], "none.npy"),
        ([checkpoint, "--data", "synthetic:5", "--yaw-labels", "none.npy"], "aflw2000:DIR"),
        ([str(folder / "a.jpg"), *good], ".pth"),
        ([checkpoint, *good, "--report", str(folder / "a.jpg")], "expected a folder"),
        ([str(tmp_path / "none.pth"), *good], "none.pth"),
        ([str(tmp_path / "none.engine"), *good], "none.engine"),
        ([str(tmp_path / "foreign.onnx"), *good], "foreign.onnx"),
        ([str(tmp_path / "nan.pth"), *good], "NaN"),
        ([checkpoint, *good, "--json", f"{checkpoint}/out.json"], "ckpt.pth"),
    ):
        assert evaluate.main(arguments) == 2, arguments
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and message in error


def test_only_the_checkpoint_s_own_export_is_timed(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = {"good.onnx": sha256(Path(checkpoint).read_bytes()), "other.onnx": "0" * 64}

    @contextmanager
    def load(path: str) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(manifest=SimpleNamespace(checkpoint_sha256=origin[path]))

    monkeypatch.setattr("runtime.engines.load_engine", load)
    assert evaluate.timed_file(checkpoint, "good.onnx") == "good.onnx"
    assert evaluate.timed_file(checkpoint, None) is None
    assert evaluate.timed_file("good.onnx", None) == "good.onnx"
    with pytest.raises(MismatchError, match="another checkpoint"):
        evaluate.timed_file(checkpoint, "other.onnx")


def test_a_sweep_turns_one_face_and_changes_nothing_else() -> None:
    yaws = np.array([-70.0, 0.0, 70.0])
    right = np.concatenate([(np.diag([1.0, -1.0, 1.0, 0.0])[:3] @ np.eye(4)).ravel(), np.zeros(50)]).astype(np.float32)
    result = sweep(lambda crops: np.stack([right] * len(crops)), 64, load_face_model(), 1, yaws)
    truth, predicted = result.yaw
    np.testing.assert_allclose(truth, yaws, atol=2.0)  # a near camera's best orthographic fit is a little off
    np.testing.assert_allclose(predicted, 0.0, atol=1e-9)
    assert (result.truth[:, 12:] == result.truth[0, 12:]).all() and result.truth[0, 12:].any()
    assert len(np.unique(result.crops, axis=0)) == 3
