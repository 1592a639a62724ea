import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from runtime.errors import ClnError, EngineUnavailableError, FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import FaceModel
from tests.full_disk import full_disk
from tests.training.conftest import make_face_model
from tests.training.test_model import TINY
from training import train
from training.checkpoint import dump, load_checkpoint, load_plain
from training.config import AugmentConfig, LossConfig, TrainConfig, load_config
from training.data import samples as samples_module
from training.data.samples import SyntheticSamples, parse_synthetic
from training.learning import run as run_module
from training.learning import sources
from training.learning.distributed import ProcessGroup
from training.learning.forward import pick_device
from training.learning.interruption import interruption
from training.learning.log import MetricsLog
from training.learning.mixture import Source, StepLosses, step_indices
from training.learning.optimization import learning_rate
from training.learning.read_ahead import ReadAhead
from training.learning.run import Run, RunOptions, part_generator, part_seed, whitening
from training.learning.sources import match_face_model
from training.learning.state import STATE_NAME, open_run_folder
from training.model import CLN

CONFIG = TrainConfig(
    name="tiny", model=TINY, optimizer="adamw", batch_size=4, steps=6, warmup_steps=2, learning_rate=1e-3, ema_decay=0.9
)


class Memory:
    """Samples of noise in memory, two of each photograph."""

    size = 40

    def __init__(self, params: np.ndarray) -> None:
        self.params = params
        self.images = np.random.default_rng(0).integers(0, 256, (len(params), 40, 40, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.params)

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.images[indices]), torch.from_numpy(self.params[indices])

    @property
    def image_paths(self) -> list[Path]:
        return [Path(f"AFW_{index // 2}_1_{index}.jpg") for index in range(len(self))]

    def part(self, indices: np.ndarray) -> "Memory":
        return Memory(self.params[indices])


@pytest.fixture
def make_run(face_model: FaceModel, make_params, tmp_path: Path):
    def make(
        name: str,
        model: FaceModel = face_model,
        config: TrainConfig = CONFIG,
        *,
        resume: bool = False,
        **options: object,
    ) -> Run:
        run_options = RunOptions(
            out=tmp_path / name, log_every=1, evaluate_every=3, tensorboard=False, **{"command": "test", **options}
        )
        state = open_run_folder(run_options.out, config, model, resume=resume)
        samples, held_out = Memory(make_params(11, size=40)), Memory(make_params(5, size=40, seed=1))
        return Run(config, [Source(samples=samples, held_out=held_out)], model, run_options, state=state)

    return make


def test_stopping_and_resuming_ends_with_the_weights_of_an_unbroken_run(make_run) -> None:
    torch.set_num_threads(1)
    whole = make_run("whole")
    assert whole.train()
    broken = make_run("broken")
    broken.options = dataclasses.replace(broken.options, minutes=0.0)
    assert not broken.train()
    for _ in range(4):
        broken.train_step()
    broken.save()
    torch.manual_seed(99)
    resumed = make_run("broken", resume=True)
    assert resumed.step == 4
    assert resumed.train()
    for mine, expected in ((resumed.model, whole.model), (resumed.average.model, whole.average.model)):
        for name, value in expected.state_dict().items():
            assert torch.equal(mine.state_dict()[name], value), name


STILL = AugmentConfig(
    **dict.fromkeys([f.name for f in dataclasses.fields(AugmentConfig) if f.name != "erase_size"], 0.0)
)


def test_micro_batches_add_up_to_the_whole_batch_s_step(make_run) -> None:
    # Nothing random and the batch norms frozen: what is left is the sum of the gradients.
    model = dataclasses.replace(TINY, cdsda=False, realign=False)
    config = dataclasses.replace(
        CONFIG,
        model=model,
        optimizer="sgd",
        batch_size=8,
        augment=STILL,
        loss=LossConfig(wpdc_vertices=0),
        gradient_clip=1e9,  # clipping, as AdamW, would make any factor of the gradient good
        learning_rate=1e-5,
    )
    ends = {}
    for micro in (0, 2):
        run = make_run(f"micro{micro}", config=dataclasses.replace(config, micro_batch=micro))
        run.model.train = lambda mode=True, model=run.model: CLN.train(model, False)
        start = torch.cat([value.detach().flatten().clone() for value in run.model.parameters()])
        losses = [run.train_step() for _ in range(3)]
        end = torch.cat([value.detach().flatten() for value in run.model.parameters()])
        ends[micro] = (end - start, torch.stack([step.total for step in losses]))
    assert ends[0][0].norm() > 1e-5
    assert (ends[2][0] - ends[0][0]).norm() < 1e-4 * ends[0][0].norm()
    torch.testing.assert_close(ends[2][1], ends[0][1], rtol=1e-6, atol=0)


def test_parts_of_a_step_are_the_step_s_samples_and_draw_on_their_own() -> None:
    parts = [step_indices(50, 12, (0,), 3, part, 3) for part in range(3)]
    assert sorted(np.concatenate(parts)) == step_indices(50, 12, (0,), 3).tolist()
    drawn = []
    for part in range(3):
        torch.manual_seed(part_seed(7, 3, part))
        crops = part_generator(torch.device("cpu"), 7, 3, part)
        drawn += [float(torch.rand(())), float(torch.rand((), generator=crops))]
    assert len(set(drawn)) == 6


def test_a_full_disk_leaves_the_last_good_files(make_run, face_model: FaceModel) -> None:
    run = make_run("run")
    run.train_step()
    run.save()
    run.evaluate()
    before = {path: path.read_bytes() for path in run.options.out.iterdir()}
    run.train_step()
    run.best = np.inf
    for write in (run.save, run.evaluate):
        with full_disk(20_000), pytest.raises(OSError):
            write()
    assert {path: path.read_bytes() for path in run.options.out.iterdir()} == before
    assert make_run("run", resume=True).step == 1
    load_checkpoint(run.options.out / "best.pth", face_model)


def test_ctrl_c_ends_the_step_saves_and_can_be_resumed(make_run) -> None:
    run, steps = make_run("run"), []
    make_step = run.train_step

    def interrupted(ahead: ReadAhead) -> StepLosses:
        steps.append(run.step)
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return make_step(ahead)

    run.train_step = interrupted
    assert not run.train()
    assert steps == [0, 1, 2] and make_run("run", resume=True).step == 3


def test_a_run_folder_says_what_made_it(make_run) -> None:
    run = make_run("run")
    run.options = dataclasses.replace(run.options, minutes=0.0)
    run.train()
    record = json.loads((run.options.out / "run.json").read_text())
    assert TrainConfig.from_dict(record["config"]) == CONFIG
    assert record["command"] == "test" and record["processes"] == 1 and "revision" in record


def test_a_run_leaves_its_figures_and_a_checkpoint(make_run, face_model: FaceModel) -> None:
    run = make_run("run", bf16=True)
    start = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.train()
    assert all(not torch.equal(a, b) for a, b in zip(start, run.model.parameters(), strict=True))
    lines = [json.loads(line) for line in (run.options.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert {"total", "wpdc", "wing"} <= lines[0].keys() and "held_out_nme" in lines[-1]
    checkpoint = load_checkpoint(run.options.out / "best.pth", face_model)
    assert checkpoint.test["held_out_nme"] == pytest.approx(min(line.get("held_out_nme", 1e9) for line in lines))
    assert checkpoint.command == "test"
    assert torch.equal(checkpoint.whitening_std, run.model.whitening_std)
    assert checkpoint.whitening_std[11] == 0


def test_the_best_checkpoint_stays_when_a_later_one_is_worse(make_run, face_model: FaceModel) -> None:
    run = make_run("run")
    first = run.evaluate()["held_out_nme"]
    with torch.no_grad():
        run.average.model.head.bias[3] += 5.0
    assert run.evaluate()["held_out_nme"] > first
    assert load_checkpoint(run.options.out / "best.pth", face_model).test["held_out_nme"] == first == run.best


def test_a_gradient_is_clipped_to_the_config_s_norm(make_run) -> None:
    config = dataclasses.replace(CONFIG, optimizer="sgd", gradient_clip=0.5, weight_decay=0.0, warmup_steps=0)
    run = make_run("run", config=config)
    before = torch.cat([value.detach().flatten().clone() for value in run.model.parameters()])
    run.train_step()
    moved = torch.cat([value.detach().flatten() for value in run.model.parameters()]) - before
    assert moved.norm() == pytest.approx(0.5 * learning_rate(config, 0), rel=1e-3)


def test_an_old_run_is_not_overwritten_and_another_one_is_not_resumed(make_run) -> None:
    make_run("run").save()
    with pytest.raises(InvalidInputError, match="--resume"):
        make_run("run")
    with pytest.raises(MismatchError, match="face model"):
        make_run("run", model=make_face_model(seed=1), resume=True)
    with pytest.raises(MismatchError, match="network"):
        other = dataclasses.replace(CONFIG, model=dataclasses.replace(TINY, cat=False))
        make_run("run", config=other, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate 0.001 .now 0.5."),
        ({"batch_size": 5}, "batch_size 4"),
        ({"loss": LossConfig(wing=3.0)}, "loss.wing 1.0"),
        ({"optimizer": "sgd"}, "optimizer adamw"),
        ({"warmup_steps": 3, "seed": 1}, "warmup_steps 2 .now 3., seed 0"),
    ],
    ids=["learning rate", "batch size", "loss", "optimiser", "two"],
)
def test_a_run_is_resumed_with_its_own_recipe_only(make_run, change: dict[str, object], message: str) -> None:
    make_run("run").save()
    with pytest.raises(MismatchError, match=message):
        make_run("run", config=dataclasses.replace(CONFIG, **change), resume=True)


def test_a_resumed_run_may_be_longer_and_of_an_older_version(make_run) -> None:
    run = make_run("run")
    run.train_step()
    run.save()
    longer = dataclasses.replace(CONFIG, steps=60, augment=AugmentConfig(noise=0.0))
    assert make_run("run", config=longer, resume=True).step == 1
    path = run.options.out / STATE_NAME
    old = {key: value for key, value in load_plain(path).items() if key not in ("config", "scaler")}
    path.write_bytes(dump(old))
    assert make_run("run", config=dataclasses.replace(CONFIG, learning_rate=0.5), resume=True).step == 1


def test_all_that_a_step_makes_is_on_the_run_s_device(make_run) -> None:
    # A tensor made without a device lands on the default one; here that is one that can't be mixed with the CPU's.
    config = dataclasses.replace(CONFIG, optimizer="sgd", loss=LossConfig(disentangled=0.5))
    run = make_run("run", config=config)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    with torch.device("meta"):
        run.train_step()
    assert run.bad_steps == 0
    assert all(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


@pytest.fixture
def half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU without bfloat16 does, on the CPU."""
    monkeypatch.setattr(run_module, "stream_dtype", lambda device, bf16: torch.float16)


def test_a_scaled_loss_makes_the_same_step(make_run, half_precision: None) -> None:
    config = dataclasses.replace(CONFIG, optimizer="sgd", gradient_clip=0.5)
    runs = {}
    for scale in (1.0, 1024.0):
        run = runs[scale] = make_run(f"run{scale}", config=config)
        start = {name: value.clone() for name, value in run.model.named_parameters()}
        run.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        run.train_step()
        assert run.bad_steps == 0
        runs[scale] = torch.cat([(value - start[name]).flatten() for name, value in run.model.named_parameters()])
    assert runs[1.0].norm() > 0
    assert (runs[1024.0] - runs[1.0]).norm() < 0.02 * runs[1.0].norm()


def test_a_scale_too_large_costs_a_step_and_is_kept_halved(make_run, half_precision: None) -> None:
    run = make_run("run")
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.train_step()
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert run.bad_steps == 1 and run.scaler.get_scale() == 2.0**99
    run.save()
    assert make_run("run", resume=True).scaler.get_scale() == 2.0**99


def test_a_missing_gpu_is_said_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    with pytest.raises(EngineUnavailableError, match="--device cpu"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU")
def test_a_gpu_trains_evaluates_and_resumes(make_run, face_model: FaceModel) -> None:
    config = dataclasses.replace(CONFIG, steps=3, loss=LossConfig(disentangled=0.5))
    run = make_run("run", config=config, device="cuda")
    start = [parameter.detach().clone() for parameter in run.model.parameters()]
    assert run.train() and run.bad_steps == 0
    assert all(p.is_cuda and not torch.equal(a, p) for a, p in zip(start, run.model.parameters(), strict=True))
    assert load_checkpoint(run.options.out / "best.pth", face_model).test["held_out_nme"] > 0
    longer = dataclasses.replace(config, steps=5)
    resumed = make_run("run", config=longer, resume=True, device="cuda")
    assert resumed.step == 3 and resumed.train()
    on_cpu = make_run("run", config=dataclasses.replace(config, steps=6), resume=True)  # a state is bound to no device
    assert on_cpu.step == 5 and on_cpu.train()


def test_nothing_to_resume_is_said_at_once(make_run) -> None:
    with pytest.raises(FileNotFoundError, match="--resume"):
        make_run("nowhere", resume=True)


def test_gradients_that_are_not_finite_change_nothing(make_run) -> None:
    run = make_run("run")
    samples = run.mixture.sources[0].samples
    samples.params = samples.params.copy()
    before = [value.clone() for value in (*run.model.state_dict().values(), *run.average.model.state_dict().values())]
    samples.params[:] = np.nan
    run.train_step()
    after = [*run.model.state_dict().values(), *run.average.model.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))  # the statistics of batch norm, too
    run.bad_steps = 19
    with pytest.raises(InvalidInputError, match="learning rate"):
        run.train_step()


@pytest.mark.parametrize("finite_gradient", [False, True])
def test_a_forward_pass_that_overflows_leaves_no_trace(
    make_run, face_model: FaceModel, monkeypatch: pytest.MonkeyPatch, finite_gradient: bool
) -> None:
    run = make_run("run")
    norm = run.model.global_stream[0].norm3
    losses = run.mixture.losses

    def overflowing(batch: object, forward: object, model: CLN) -> StepLosses:
        result = losses(batch, forward, model)
        norm.running_mean.data.fill_(torch.inf)  # as a float16 forward pass leaves it
        return result if finite_gradient else dataclasses.replace(result, total=result.total * torch.inf)

    with monkeypatch.context() as patch:
        patch.setattr(run.mixture, "losses", overflowing)
        run.train_step()
    assert run.bad_steps == 1
    for _ in range(3):
        run.train_step()
    figures = run.evaluate()
    assert np.isfinite(figures["held_out_nme"])
    best = load_checkpoint(run.options.out / "best.pth", face_model)
    assert all(value.isfinite().all() for value in best.state_dict.values())


def test_an_average_that_is_not_finite_is_not_resumed(make_run) -> None:
    run = make_run("run")
    run.average.model.global_stream[0].norm3.running_mean.fill_(torch.nan)
    run.save()
    with pytest.raises(FileFormatError, match="expected finite averaged weights"):
        make_run("run", resume=True)


def test_a_state_with_a_part_missing_is_not_resumed(make_run) -> None:
    run = make_run("run")
    run.save()
    path = run.options.out / STATE_NAME
    state = load_plain(path)
    for changed in ({"optimizer": {}}, {"step": "x"}):
        path.write_bytes(dump({**state, **changed}))
        with pytest.raises(FileFormatError, match="expected a whole training state"):
            make_run("run", resume=True)
    path.write_bytes(dump({name: value for name, value in state.items() if name != "average"}))
    with pytest.raises(FileFormatError, match="one without average"):
        make_run("run", resume=True)


def test_half_a_line_of_figures_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n{"step": 4, "to')  # as a full disk leaves it
    with MetricsLog(tmp_path, 4, tensorboard=False) as log:
        log.write(4, {"total": 1.0})
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [2, 4]


def test_batches_are_made_ahead_in_order_and_an_error_comes_when_its_turn_has() -> None:
    made: list[int] = []

    def make(key: int) -> int:
        made.append(key)
        if key == 3:
            raise ValueError("damaged")
        return 10 * key

    with ReadAhead(make, range(9), depth=2) as ahead:
        assert ahead.take(0) == 0 and ahead.take(1) == 10
        ahead._pool.submit(lambda: None).result(timeout=10)  # what was asked for before it is made
        assert made == [0, 1, 2, 3]  # two more than were taken
        assert ahead.take(2) == 20
        with pytest.raises(ValueError, match="damaged"):
            ahead.take(3)
        with pytest.raises(LookupError):
            ahead.take(7)


def test_an_epoch_shows_every_sample_once() -> None:
    picked = np.concatenate([step_indices(12, 4, (0,), step) for step in range(6)])
    assert np.bincount(picked).tolist() == [2] * 12
    assert sorted(picked[:12]) == list(range(12))
    assert (step_indices(12, 4, (0,), 1) == step_indices(12, 4, (0,), 1)).all()
    across = np.concatenate([step_indices(10, 4, (0,), step) for step in range(5)])  # a step may span two epochs
    assert np.bincount(across).tolist() == [2] * 10


def test_schedule_warms_up_and_ends_at_nothing() -> None:
    config = dataclasses.replace(load_config("edge"), steps=1000, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.1, rel=1e-3)
    assert learning_rate(config, 250) == pytest.approx(0.5 + 0.5**1.5)
    assert learning_rate(config, 500) == pytest.approx(0.5)
    assert learning_rate(config, 1000) == pytest.approx(0.0)


def test_a_step_schedule_falls_at_its_milestones() -> None:
    config = dataclasses.replace(
        CONFIG, schedule="step", steps=100, warmup_steps=10, learning_rate=1.0, milestones=(0.5, 0.8), decay=0.1
    )
    rates = [learning_rate(config, step) for step in (0, 9, 49, 50, 79, 80, 99)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_whitening_statistics_know_a_constant() -> None:
    params = torch.randn(500, 62) * 3 + 7
    params[:, 11] = 0
    mean, std = whitening(params)
    torch.testing.assert_close(mean[0], params[:, 0].mean())
    assert std[11] == 0 and std[0] == pytest.approx(3, rel=0.2)


def test_a_signal_sets_the_flag_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruption() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_team_s_processes_bear_a_signal_sent_twice() -> None:
    with interruption(patient=True) as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set


class Counting:
    """A factory that tells in each image which sample it is."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.rendered = size, seed, 0

    def sample(self, index: int) -> SimpleNamespace:
        self.rendered += 1
        image = np.full((self.size, self.size, 3), index % 256, np.uint8)
        return SimpleNamespace(image=image, params=np.full(62, index + self.seed, np.float32))


def test_cache_renders_once_grows_and_is_resumable(tmp_path: Path) -> None:
    made = []

    def factory(size: int, seed: int) -> Counting:
        made.append(Counting(size, seed))
        return made[-1]

    def cache(count: int, seed: int = 0) -> SyntheticSamples:
        return SyntheticSamples(count, tmp_path, size=8, seed=seed, version="t", make_factory=factory)

    cache(5).fill(progress=False)
    larger = cache(9)
    assert larger.missing().tolist() == [5, 6, 7, 8]
    with pytest.raises(InvalidInputError, match="fill"):
        larger.batch(np.array([6]))
    larger.fill(progress=False)
    assert [factory.rendered for factory in made] == [5, 4]
    images, params = cache(3).batch(np.array([0, 2]))
    assert images[:, 0, 0, 0].tolist() == [0, 2] and params[:, 0].tolist() == [0, 2]
    assert images.shape == (2, 8, 8, 3) and params.dtype == torch.float32
    assert len(cache(3, seed=4).missing()) == 3  # another seed's samples are others


def killing_factory(size: int, seed: int) -> SimpleNamespace:
    """Its process is ended as the system ends one that needs too much memory, or writes where the disk is full."""
    return SimpleNamespace(sample=lambda index: os.kill(os.getpid(), signal.SIGKILL))


def test_a_worker_that_dies_ends_the_rendering_with_one_line(tmp_path: Path) -> None:
    cache = SyntheticSamples(3, tmp_path, size=8, version="t", make_factory=killing_factory)
    with pytest.raises(ClnError, match="a rendering process ended by itself"):
        cache.fill(workers=1, progress=False)


def test_space_is_taken_before_it_is_written(tmp_path: Path, monkeypatch) -> None:
    """A sparse file behind a memory map ends the process with a bus error where the disk is full."""
    made = SyntheticSamples(300, tmp_path, size=64, version="t", make_factory=Counting)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(OSError, match=r"300 samples need 3.8 MB more, 1.0 MB are free"):
        made.fill(progress=False)
    assert (made.folder / "images.u8").stat().st_blocks * 512 < 1_000_000
    monkeypatch.undo()
    samples_module._reserve(made.folder, 300, 64)
    assert (made.folder / "images.u8").stat().st_blocks * 512 >= 300 * 64 * 64 * 3


def test_compiled_code_that_nowhere_can_be_kept_is_compiled_each_time(monkeypatch) -> None:
    from training.synthetic import compiled as module

    def unlocated(*, cache: bool = False, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
        return lambda function: function

    monkeypatch.setattr(module, "njit", unlocated)
    assert module.compiled(abs) is abs


@pytest.mark.parametrize("text", ["synthetic:0", "synthetic:", "synthetic:x", "folder:3", "synthetic"])
def test_data_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="synthetic:N"):
        parse_synthetic(text)


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch, face_model: FaceModel, make_params) -> list[FaceModel]:
    """A data set with params, in memory, and a tiny network; the face models that it is asked to suit."""
    models = [face_model]
    samples = Memory(make_params(9, size=40))
    for module in (train, sources):
        monkeypatch.setattr(module, "load_face_model", lambda path=None: models[-1])
    monkeypatch.setattr(train, "load_config", lambda name: dataclasses.replace(CONFIG, name=name))
    monkeypatch.setattr(sources, "open_samples", lambda text, model, size, threads: samples)
    return models


def test_labelled_data_is_parted_trained_on_and_named_without_its_path(
    labelled: list[FaceModel], tmp_path: Path
) -> None:
    arguments = ["--data", f"300w-lp:{tmp_path / 'LP'}", "--out", str(tmp_path / "run"), "--device", "cpu"]
    arguments += ["--threads", "1", "--held-out", "3", "--steps", "2"]
    run = train.open_run(train.parse_arguments(arguments), ProcessGroup())
    assert len(run.mixture) in (5, 6)  # three are held out, and their photographs' other faces
    assert train.main(arguments) == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pth")
    assert checkpoint.training["data"] == "300w-lp:LP" and checkpoint.training["samples"] == len(run.mixture)


def test_fine_tuning_starts_where_a_checkpoint_ended(labelled: list, make_run, tmp_path: Path, capsys) -> None:
    before = make_run("before", config=dataclasses.replace(CONFIG, model=dataclasses.replace(TINY, cat=False)))
    before.train()
    trained = load_checkpoint(before.options.out / "best.pth")
    arguments = ["--data", "300w-lp:x", "--held-out", "3", "--threads", "1", "--device", "cpu"]
    arguments += ["--init", str(before.options.out / "best.pth"), "--out", str(tmp_path / "after")]
    run = train.open_run(train.parse_arguments(arguments), ProcessGroup())
    assert run.config.model == trained.config and run.step == 0
    for name, value in trained.state_dict.items():
        assert torch.equal(run.model.state_dict()[name], value), name
        assert torch.equal(run.average.model.state_dict()[name], value), name
    with pytest.raises(InvalidInputError, match="--no-cdsda: expected a network that starts from nothing"):
        train.open_run(train.parse_arguments([*arguments, "--no-cdsda"]), ProcessGroup())
    labelled.append(make_face_model(seed=1))
    assert train.main(arguments) == 2
    assert "face model" in capsys.readouterr().err


def test_a_network_follows_its_face_model(labelled: list[FaceModel], face_model: FaceModel) -> None:
    other = dataclasses.replace(
        face_model,
        shape_basis=face_model.shape_basis[:30],
        shape_sigma=face_model.shape_sigma[:30],
        shape_mirror=np.zeros(30, np.float32),
    )
    config = match_face_model(CONFIG, other)
    assert config.model.num_params == 12 + 30 + 10 and config.augment.flip_probability == 0.0
    assert match_face_model(CONFIG, face_model) == CONFIG


def test_data_that_does_not_belong_is_refused(labelled: list[FaceModel], tmp_path: Path, capsys, monkeypatch) -> None:
    for data, message in (
        ("300w-lp:", "synthetic:N"),
        ("aflw:x", "--init checkpoints/edge.pth"),  # points alone
        ("300w-lp:x", "--held-out"),  # nine samples
    ):
        assert train.main(["--data", data, "--out", str(tmp_path / "run"), "--threads", "1"]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(train, "load_face_model", lambda path=None: make_face_model(seed=1) if path else labelled[0])
    arguments = ["--data", "synthetic:5", "--face-model", "other", "--out", str(tmp_path / "run"), "--threads", "1"]
    assert train.main(arguments) == 2
    assert "omit --face-model" in capsys.readouterr().err


def test_command_line_gives_one_line_and_2(capsys, tmp_path: Path) -> None:
    assert train.main(["--data", "nothing", "--out", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: Expected synthetic:N") and captured.err.count("\n") == 1
