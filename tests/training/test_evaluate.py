import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from runtime.errors import FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import FaceModel
from runtime.roi import Roi
from tests.training.conftest import make_face_model
from tests.training.test_model import TINY
from training import evaluate
from training.checkpoint import Checkpoint, save_checkpoint
from training.data.aflw2000 import load_aflw2000
from training.evaluate import evaluate_real
from training.model import CLN

SIZE = 32
YAWS = {"a": 10.0, "b": -40.0, "c": 85.0, "d": 5.0}


@pytest.fixture
def folder(tmp_path: Path, face_model: FaceModel, make_params) -> Path:
    """Four grey images with landmarks of known parameters, written as AFLW2000-3D writes them."""
    directory = tmp_path / "aflw"
    directory.mkdir()
    for row, (stem, yaw) in zip(make_params(len(YAWS), size=200), YAWS.items(), strict=True):
        cv2.imwrite(str(directory / f"{stem}.jpg"), np.full((200, 200, 3), 90, np.uint8))
        points = face_model.landmarks(row).astype(np.float64) + np.array([1.0, 1.0, 0.0])  # Matlab counts from 1
        pose = np.array([[0.1, np.radians(yaw), 0.2, 0, 0, 0, 1e-3]])
        savemat(directory / f"{stem}.mat", {"pt3d_68": points.T, "Pose_Para": pose})
    return directory


def to_crop(params: np.ndarray, roi: Roi) -> np.ndarray:
    """Parameters of the image's frame in the frame of the region's crop."""
    pose = params[:12].reshape(3, 4).copy() * (SIZE / roi.side)
    pose[:2, 3] += (SIZE - 1) / 2 - np.array([roi.center_x, roi.center_y]) * SIZE / roi.side
    return np.concatenate([pose.ravel(), params[12:]]).astype(np.float32)


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
    perfect = evaluate_real(lambda crops: answers, SIZE, face_model, faces, progress=False)
    assert max(perfect.per_image.values()) < 0.01
    assert perfect.zero_coefficients.mean > 1  # the mean face isn't these faces

    shifted = answers.copy()
    shifted[:, 3] += 2.0  # crop pixels to the right
    result = evaluate_real(lambda crops: shifted, SIZE, face_model, faces, progress=False)
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


def test_an_engine_is_taken_for_its_own_face_model_only(face_model: FaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimpleNamespace(manifest=SimpleNamespace(face_model_sha256=face_model.sha256, input_size=96))
    monkeypatch.setattr("runtime.engines.load_engine", lambda path: engine)
    assert evaluate.load_predictor("edge.onnx", face_model) == (engine, 96)
    with pytest.raises(MismatchError, match="small"):
        evaluate.load_predictor("edge.onnx", make_face_model(seed=1))


def damage_layout(folder: Path) -> None:
    savemat(folder / "b.mat", {"pt2d": np.zeros((2, 21)), "Pose_Para": np.zeros((1, 7))})


def damage_shape(folder: Path) -> None:
    savemat(folder / "b.mat", {"pt3d_68": np.zeros((3, 21)), "Pose_Para": np.zeros((1, 7))})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "b.jpg").unlink(), r"b\.jpg"),
        (lambda folder: (folder / "b.mat").write_bytes(b"not a mat file" * 20), r"b\.mat"),
        (damage_layout, "pt3d_68"),
        (damage_shape, "204"),
        (lambda folder: [path.unlink() for path in folder.glob("*.mat")], "unpack"),
    ],
    ids=["no image", "garbage", "no landmarks", "21 points", "empty"],
)
def test_a_broken_folder_is_refused(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(FileFormatError, match=message):
        load_aflw2000(folder)


def test_unknown_data_is_refused(face_model: FaceModel) -> None:
    with pytest.raises(InvalidInputError, match="aflw2000:DIR"):
        evaluate.evaluate_data(lambda crops: crops, SIZE, face_model, "pictures")
