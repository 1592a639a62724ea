"""Fine-tuning by points alone, from a folder of images to a better checkpoint."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from runtime.errors import FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import FaceModel
from tests.training.conftest import plausible_params
from tests.training.test_model import TINY
from tests.training.test_train import CONFIG, make_run
from training import train
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import LossConfig
from training.data.catalog import hold_out, photograph
from training.learning import log
from training.learning.distributed import ProcessGroup
from training.learning.run import Run, whitening
from training.learning.state import open_run_folder
from training.model import CLN

SIDE = 40
FINE_TUNE = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=0.02, loss=LossConfig(anchor=0.01))
assert make_run  # the fixture


@pytest.fixture
def folder(face_model: FaceModel, tmp_path: Path) -> Path:
    """Twelve pictures of noise with faces' points; in the first the jaw's are unknown."""
    place, rng = tmp_path / "mine", np.random.default_rng(0)
    place.mkdir()
    write_folder(place, face_model, plausible_params(12, size=SIDE), rng)
    return place


def write_folder(place: Path, face_model: FaceModel, params: np.ndarray, rng: np.random.Generator) -> None:
    lines = []
    for number, points in enumerate(face_model.landmarks(params)[:, :, :2]):
        cv2.imwrite(str(place / f"{number}.png"), rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        cells = [f"{value:.3f}" for value in points.ravel()]
        lines.append(",".join([f"{number}.png", *([""] * 34 + cells[34:] if number == 0 else cells)]))
    (place / "points.csv").write_text("\n".join(lines))


@pytest.fixture
def start(face_model: FaceModel, tmp_path: Path) -> Path:
    """A network that puts every face near the middle, yet a good way too far right."""
    torch.manual_seed(5)
    model = CLN(TINY)
    model.set_whitening(*whitening(torch.from_numpy(plausible_params(200, size=TINY.input_size, seed=9))))
    model.head.bias.data[3] = 2.0
    with torch.no_grad():
        for _ in range(30):  # the norms' statistics
            model(torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8))
    save_checkpoint(
        tmp_path / "start.pth",
        Checkpoint(
            config=TINY,
            state_dict=model.state_dict(),
            face_model_name=face_model.name,
            face_model_sha256=face_model.sha256,
        ),
    )
    return tmp_path / "start.pth"


@pytest.fixture
def open_run(face_model: FaceModel, folder: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run as the command line opens it; the configs are tiny ones."""
    monkeypatch.setattr(train, "load_face_model", lambda path=None: face_model)
    monkeypatch.setattr(log, "summary_writer", lambda folder: None)  # takes seconds to import
    monkeypatch.setattr(train, "load_config", lambda name: dataclasses.replace(FINE_TUNE, name=name))

    def opened(name: str = "run", *more: str, init: bool = True) -> Run:
        arguments = ["--data", f"points:{folder}", "--out", str(tmp_path / name), "--threads", "1", "--workers", "1"]
        arguments += ["--held-out", "4", "--device", "cpu", *(["--init", str(start)] if init else []), *more]
        return train.open_run(train.parse_arguments(arguments), ProcessGroup())

    return opened


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return {**run.model.state_dict(), **{f"average.{k}": v for k, v in run.average.model.state_dict().items()}}


def test_points_alone_make_a_better_checkpoint(open_run, face_model: FaceModel, start: Path) -> None:
    run = open_run("run", "--steps", "8", "--evaluate-every", "4")
    assert run.config.name == "fine_tune" and len(run.mixture) == 8
    assert run.train()
    lines = [json.loads(line) for line in (run.options.out / "metrics.jsonl").read_text().splitlines()]
    held_out = {line["step"]: line["held_out_nme"] for line in lines if "held_out_nme" in line}
    assert list(held_out) == [0, 4, 8]  # what is to be beaten comes first
    best = load_checkpoint(run.options.out / "best.pth", face_model)
    assert best.test["held_out_nme"] == min(held_out.values()) < 0.95 * held_out[0]
    assert best.training["data"] == "points:mine"
    assert torch.equal(best.whitening_mean, load_checkpoint(start).whitening_mean)


def test_the_anchor_holds_a_network_to_its_first_answers(open_run) -> None:
    ends = {}
    for anchor in (1e-6, 10.0):
        run = open_run(f"run{anchor}")
        run.mixture.supervisions[0]._loss.config = LossConfig(anchor=anchor)
        ends[anchor] = [float(run.train_step().terms["anchor"]) for _ in range(6)][-1]
    assert ends[10.0] < 0.5 * ends[1e-6]


def test_a_resumed_run_goes_on_as_if_never_stopped_without_its_first_checkpoint(open_run, start: Path) -> None:
    torch.set_num_threads(1)
    whole = open_run("whole")
    for _ in range(5):
        whole.train_step()
    broken = open_run("broken")
    for _ in range(3):
        broken.train_step()
    broken.save()
    start.unlink()
    resumed = open_run("broken", "--resume", init=False)
    assert resumed.step == 3
    for _ in range(2):
        resumed.train_step()
    expected = weights_of(whole)
    for name, value in weights_of(resumed).items():
        assert torch.equal(value, expected[name]), name


def test_points_and_params_are_not_mixed_in_one_run(open_run, make_run, face_model: FaceModel) -> None:
    run = open_run()
    run.save()
    with pytest.raises(MismatchError, match=r"labelled with points, .* got params"):
        open_run_folder(run.options.out, FINE_TUNE, face_model, resume=True)
    other = make_run("other")
    other.save()
    with pytest.raises(MismatchError, match=r"labelled with params, .* got points"):
        open_run_folder(other.options.out, CONFIG, face_model, resume=True, labels=["points"])


def test_points_alone_need_a_trained_network(open_run) -> None:
    with pytest.raises(InvalidInputError, match=r"--init checkpoints/edge\.pth"):
        open_run(init=False)


def test_a_damaged_image_is_skipped_and_named_and_many_stop_the_run(
    open_run, folder: Path, face_model: FaceModel
) -> None:
    params = np.tile(plausible_params(20, size=SIDE), (10, 1))
    write_folder(folder, face_model, params, np.random.default_rng(0))
    run = open_run("run", "--steps", "2", "--batch-size", "98")  # an epoch
    kept = {path.name for path in run.mixture.sources[0].samples.image_paths}
    kinds = [next(n for n in range(200) if (f"{n}.png" in kept) == side) for side in (True, False)]
    for number in kinds:  # one to train on, one held out
        (folder / f"{number}.png").write_bytes(b"no image")
    assert run.train()
    report = "\n".join(train.report_skipped(run.mixture.sources[0].samples))
    assert report.startswith("2 of 200 samples were skipped") and all(f"{number}.png" in report for number in kinds)
    for number in range(100):
        (folder / f"{number}.png").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"3 of 200 .*more than 1%"):
        open_run("again").train()


def test_a_part_without_a_readable_image_ends_in_an_error(open_run, folder: Path, face_model: FaceModel) -> None:
    write_folder(folder, face_model, plausible_params(200, size=SIDE), np.random.default_rng(0))
    part = open_run().mixture.sources[0].samples.part(np.array([7]))
    part.image_paths[0].write_bytes(b"")
    with pytest.raises(FileFormatError, match="None of 1 samples"):
        part.batch(np.array([0]))


def test_a_photograph_s_faces_are_never_on_both_sides() -> None:
    images = [
        Path(f"{part}/AFW_{photo}_{face}_{render}.jpg")
        for part in ("AFW", "AFW_Flip")
        for photo, face, render in ((10, 1, 0), (10, 1, 13), (10, 2, 0), (7, 1, 0), (7, 1, 1), (3, 1, 0))
    ]
    for seed in range(20):
        kept, held_out = hold_out("300w-lp", images, 3, seed)
        sides = [{photograph("300w-lp", images[index]) for index in side} for side in (kept, held_out)]
        assert len(held_out) == 3 and not sides[0] & sides[1]
        missing = set(range(12)) - set(kept) - set(held_out)
        assert {photograph("300w-lp", images[index]) for index in missing} <= sides[1]
    with pytest.raises(InvalidInputError, match="photographs"):
        hold_out("300w-lp", images, 11, 0)  # the rest is of the same photographs


@pytest.mark.parametrize(
    ("kind", "image", "name"),
    [
        ("300w-lp", "IBUG_Flip/IBUG_image_003_1_0.jpg", "IBUG_image_003_1"),
        ("300w-lp-landmarks", "LFPW/LFPW_image_test_0001_14.jpg", "LFPW_image_test_0001"),
        ("3ddfa", "AFWFlip_AFW_1051618982_1_0_1.jpg", "AFW_1051618982_1"),
        ("3ddfa", "AFW_AFW_1051618982_1_12_7.jpg", "AFW_1051618982_1"),
        ("points", "DIR/frame_1.jpg", "DIR/frame_1.jpg"),  # a user's numbers mean what they mean
    ],
)
def test_samples_of_one_photograph_are_known_by_their_names(kind: str, image: str, name: str) -> None:
    assert photograph(kind, Path(image)) == name
