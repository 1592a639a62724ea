"""The whole chain once, at full size: bundled checkpoint → ONNX and plan → faces of a real photograph."""

import json

import cv2
import numpy as np
import pytest

from export.build_engine import main as build_engine
from runtime import EngineUnavailableError, Manifest, Reconstructor, Roi, crop, read_image
from runtime.__main__ import main as reconstruct_files
from runtime.engines import load_engine
from runtime.results import LIST_NAME

PHOTO = "examples/astronaut.jpg"
# Read off the enlarged photo: chin, nose tip, outer and inner eye corners, mouth corners.
LANDMARKS = {
    8: (225, 178),
    30: (222, 128),
    36: (193, 101),
    39: (211, 103),
    42: (237, 105),
    45: (259, 103),
    48: (203, 140),
    54: (246, 140),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    assert build_engine(["checkpoints/edge.pth", "--out", str(folder / "edge.engine")]) == 0
    return folder


def test_the_checkpoint_becomes_a_plan_a_manifest_and_an_onnx_file_that_agree(built):
    manifest = Manifest.from_json((built / "edge.engine.json").read_text(), name="edge.engine.json")
    assert manifest.builder == "tensorrt_rtx" and manifest.precision == "fp16-mixed"
    assert manifest.plan_sha256 and (built / "edge.engine").stat().st_size > 100_000
    with load_engine(built / "edge.onnx") as fresh, Reconstructor() as bundled:
        assert fresh.manifest.precision == "fp32"
        assert fresh.manifest.checkpoint_sha256 == manifest.checkpoint_sha256
        crops = crop(read_image(PHOTO), [Roi(center_x=224, center_y=130, side=s) for s in (100, 140, 180)], 128)
        assert np.abs(fresh(crops) - bundled.engine(crops)).max() < 1e-3  # the bundled network is this checkpoint's


def test_a_plan_without_a_gpu_names_the_onnx_file_beside_it(built):
    try:
        load_engine(built / "edge.engine").close()
    except EngineUnavailableError as error:
        assert "edge.onnx" in str(error) and len(str(error).splitlines()) == 1


def test_the_photo_gives_the_face_where_it_is(built, tmp_path):
    assert reconstruct_files([PHOTO, "--engine", str(built / "edge.onnx"), "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "astronaut.json").read_text())
    (face,) = record["faces"]
    found = np.array(face["landmarks"])[list(LANDMARKS), :2]
    size = np.sqrt(np.prod(np.ptp(np.array(face["landmarks"])[:, :2], axis=0)))
    error = np.linalg.norm(found - list(LANDMARKS.values()), axis=1).mean() / size
    assert error < 0.06
    assert abs(face["pose"]["yaw"]) < 25 and abs(face["pose"]["roll"]) < 15
    assert {p.name for p in tmp_path.iterdir()} == {f"astronaut{s}" for s in (".json", "_faces.jpg")} | {LIST_NAME}
    assert cv2.imread(str(tmp_path / "astronaut_faces.jpg")).shape == read_image(PHOTO).shape
