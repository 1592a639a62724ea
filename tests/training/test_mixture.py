"""Renders with all labels and photographs with points alone, in one batch."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.errors import InvalidInputError, MismatchError
from runtime.face_model import FaceModel, load_face_model
from tests.training.conftest import plausible_params
from tests.training.test_model import TINY
from tests.training.test_supervision import FINE_TUNE, SIDE, folder, start, weights_of
from tests.training.test_train import Memory
from training import train
from training.config import LossConfig
from training.data.landmarks import AFLW_21, LandmarkSamples, PointFace
from training.data.samples import HELD_OUT_SEED, SyntheticSamples
from training.learning import log, sources
from training.learning.distributed import ProcessGroup
from training.learning.mixture import Mixture, Source, deal
from training.learning.run import Run
from training.learning.sources import DataShare, SourceOptions, open_sources, parse_data
from training.model import CLN

assert folder and start  # fixtures
CONFIG = dataclasses.replace(FINE_TUNE, batch_size=8, steps=6, loss=LossConfig())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("synthetic:100:DIR", DataShare(data="synthetic:100:DIR", share=1.0)),
        ("0.75@synthetic:100:DIR", DataShare(data="synthetic:100:DIR", share=0.75)),
        ("3@points:a@b/1@c", DataShare(data="points:a@b/1@c", share=3.0)),
        ("points:a@b", DataShare(data="points:a@b", share=1.0)),  # a folder's @ is no share's
    ],
)
def test_a_share_stands_before_the_kind(text: str, expected: DataShare) -> None:
    assert parse_data(text) == expected


@pytest.mark.parametrize(
    "text", ["0@points:x", "-1@points:x", "nan@points:x", "inf@points:x", "half@points:x", "@points:x"]
)
def test_a_share_that_is_no_positive_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="positive number before the @"):
        parse_data(text)


@pytest.mark.parametrize(
    ("count", "shares", "dealt"),
    [
        (64, [0.75, 0.25], [48, 16]),
        (64, [3, 1], [48, 16]),
        (7, [1, 1], [4, 3]),
        (9, [1, 1, 2], [2, 2, 5]),  # the largest remainder first
        (10, [1, 1, 1], [4, 3, 3]),
        (5, [9], [5]),
    ],
)
def test_a_batch_is_dealt_out_by_shares(count: int, shares: list[float], dealt: list[int]) -> None:
    assert deal(count, shares) == dealt


def test_a_source_without_a_face_in_a_batch_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="got 8, 0"):
        deal(8, [100, 1])


@pytest.fixture
def photographs(face_model: FaceModel, tmp_path: Path) -> LandmarkSamples:
    """AFLW's 21 points of six faces, every third one hidden."""
    import cv2

    from runtime.roi import Roi

    faces = []
    for number, points in enumerate(face_model.landmarks(plausible_params(6, size=SIDE, seed=3))[:, :, :2]):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((SIDE, SIDE, 3), 20 * number, np.uint8))
        roi = Roi(center_x=(SIDE - 1) / 2, center_y=(SIDE - 1) / 2, side=SIDE / 1.25)
        mixed = AFLW_21.mixing.astype(np.float64) @ points
        visible = np.arange(21) % 3 > 0
        faces.append(PointFace(image_path=path, points=mixed, visible=visible, roi=roi))
    return LandmarkSamples(faces, AFLW_21, size=SIDE, margin=1.25)


@pytest.fixture
def mix(face_model: FaceModel, photographs: LandmarkSamples):
    renders = Memory(plausible_params(11, size=SIDE))

    def made(config=CONFIG, parts: int = 1, shares: tuple[float, float] = (3, 1)) -> Mixture:
        both = [
            Source(samples=renders, held_out=renders, share=shares[0], name="synthetic"),
            Source(samples=photographs, held_out=photographs, share=shares[1], name="aflw"),
        ]
        return Mixture(config, both, face_model, torch.device("cpu"), parts)

    return made


def test_every_part_of_a_batch_has_each_source_s_share(mix) -> None:
    mixture = mix(parts=2)
    step = [mixture.indices(3, part) for part in range(2)]
    assert [[len(one) for one in part] for part in step] == [[3, 1], [3, 1]]
    picked = [
        np.concatenate([mixture.indices(step, part)[number] for step in range(33) for part in range(2)])
        for number in (0, 1)
    ]
    assert np.bincount(picked[0]).tolist() == [18] * 11 and np.bincount(picked[1]).tolist() == [11] * 6


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_face_counts_the_same_whatever_its_source(mix, weight: float) -> None:
    mixture = mix(dataclasses.replace(CONFIG, loss=LossConfig(points=weight)))
    batch = mixture.prepare(0, 0, torch.Generator().manual_seed(0))
    assert batch.crops.shape == (8, 32, 32, 3)
    torch.manual_seed(0)
    model = CLN(TINY).eval()
    losses = mixture.losses(batch, model.forward_whitened, model)
    rows = model.forward_whitened(batch.crops)
    params, points = mixture.supervisions
    torch.manual_seed(0)
    alone = [params.losses(batch.batches[0], rows[:6], model), points.losses(batch.batches[1], rows[6:], model)]
    expected = (6 * alone[0].wing.item(), 2 * weight * alone[1].total.item())
    wpdc = losses.terms["synthetic_wpdc"].item()  # by random vertices, so not the other call's
    assert losses.total.item() == pytest.approx((expected[0] + 6 * 0.5 * wpdc + expected[1]) / 8, rel=1e-5)
    assert losses.terms["aflw_wing"].item() == pytest.approx(alone[1].wing.item(), rel=1e-6) and alone[1].anchor == 0
    assert "total" not in losses.terms and set(losses.terms) > {"synthetic_wing", "aflw_anchor"}


def test_hidden_points_say_nothing(mix, photographs: LandmarkSamples) -> None:
    model, totals = CLN(TINY).eval(), []
    for away in (False, True):
        if away:
            for face in photographs.faces:
                face.points[~face.visible] = np.nan
        batch = mix().prepare(0, 0, torch.Generator().manual_seed(0))
        points = mix().supervisions[1].losses(batch.batches[1], model.forward_whitened(batch.batches[1].crops), model)
        totals.append(points.total.item())
    assert totals[0] == totals[1] and np.isfinite(totals[0])


@pytest.fixture
def open_run(face_model: FaceModel, folder: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run on faces with params and a folder of points, as the command line opens it; the configs are tiny ones."""
    open_samples = sources.open_samples

    def opened_set(text: str, model: FaceModel, **options: object) -> object:
        if text == "300w-lp:x":
            return Memory(plausible_params(11, size=SIDE))
        return open_samples(text, model, **options)

    monkeypatch.setattr(train, "load_face_model", lambda path=None: face_model)
    monkeypatch.setattr(log, "summary_writer", lambda folder: None)
    monkeypatch.setattr(train, "load_config", lambda name: dataclasses.replace(CONFIG, name=name))
    monkeypatch.setattr(sources, "open_samples", opened_set)

    def opened(name: str = "run", *more: str, init: bool = True, points: bool = True) -> Run:
        arguments = ["--data", "3@300w-lp:x", "--out", str(tmp_path / name), "--threads", "1", "--workers", "1"]
        arguments += ["--data", f"1@points:{folder}"] if points else []
        arguments += ["--held-out", "3", "--device", "cpu", *(["--init", str(start)] if init else []), *more]
        return train.open_run(train.parse_arguments(arguments), ProcessGroup())

    return opened


def test_a_mixture_is_trained_evaluated_and_resumed_as_one_run(open_run) -> None:
    torch.set_num_threads(1)
    whole = open_run("whole", "--evaluate-every", "3")
    assert whole.config.name == "mixed" and whole.train()
    lines = [json.loads(line) for line in (whole.options.out / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    mean = (6 * last["held_out_300w-lp_nme"] + 2 * last["held_out_points_nme"]) / 8
    assert last["held_out_nme"] == pytest.approx(mean) and lines[0]["step"] == 0
    assert whole.checkpoint({}).training["data"] == "3@300w-lp:x + 1@points:mine"
    broken = open_run("broken")
    for _ in range(4):
        broken.train_step()
    broken.save()
    resumed = open_run("broken", "--resume", init=False)
    assert resumed.step == 4 and resumed.train()
    expected = weights_of(whole)
    for name, value in weights_of(resumed).items():
        assert torch.equal(value, expected[name]), name
    with pytest.raises(MismatchError, match=r"params \+ points, .* got params;"):
        open_run("broken", "--resume", init=False, points=False)


def test_a_mixture_may_start_from_nothing_but_not_with_an_anchor(open_run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(init=False)
    assert run.config.name == "edge" and run.model.whitening_std[0] != 1.0
    run.train_step()
    anchored = dataclasses.replace(CONFIG, loss=LossConfig(anchor=0.1))
    monkeypatch.setattr(train, "load_config", lambda name: anchored)
    with pytest.raises(InvalidInputError, match="--init"):
        open_run("other", init=False)


def test_rendered_faces_of_another_seed_are_trained_on_and_never_those_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SyntheticSamples, "fill", lambda *_, **__: None)
    data = [parse_data(f"synthetic:3:{tmp_path}")]
    (source,) = open_sources(data, SourceOptions(held_out=2, faces_seed=7), load_face_model(), 128, ProcessGroup())
    assert (source.samples.seed, source.held_out.seed) == (7, HELD_OUT_SEED)
    with pytest.raises(InvalidInputError, match="another --faces-seed than that of the faces held out"):
        open_sources(data, SourceOptions(faces_seed=HELD_OUT_SEED), load_face_model(), 128, ProcessGroup())
