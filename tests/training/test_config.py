import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path

import pytest

from runtime.errors import ClnError, FileFormatError, InvalidInputError
from training.config import TrainConfig, config_names, load_config
from training.learning.state import flatten, plain
from training.model.repvgg import repvgg_stream
from training.train import config_of, parse_arguments

ROWS = {  # the paper's ablation table: cdsda, cat, thumbnail
    "without_cdsda_and_cat": (False, False, True),
    "without_cdsda": (False, True, True),
    "without_cat_and_thumbnail": (True, False, False),
    "without_thumbnail": (True, True, False),
    "without_cat": (True, False, True),
    "cln": (True, True, True),
}


def test_every_config_is_named_for_its_file_and_survives_a_checkpoint() -> None:
    assert {"edge", "paper"} < set(config_names())
    for name in config_names():
        config = load_config(name)
        assert config.name == name
        assert TrainConfig.from_dict(config.to_dict()) == TrainConfig.from_dict(plain(config.to_dict())) == config


PAPER_SAYS = {
    "optimizer": "sgd",
    "learning_rate": 0.002,
    "batch_size": 256,
    "model.input_size": 224,
    "model.cdsda": True,
    "model.cat": True,
    "model.thumbnail": True,
    "model.shape_count": 40,
    "model.expression_count": 10,
    "loss.wpdc": 0.5,
    "loss.wing": 1.0,
}
OUR_READING_SHA256 = "99256a345f24638c94c754f03ba29fd3879d4f5c2a237408f0977d0a4a8111cc"
"""Of the other fields, as JSON: a reading may change, but only together with this line."""


def test_the_paper_s_recipe_is_stated_whole_and_is_the_paper_s() -> None:
    path = Path(__file__).parents[2] / "training" / "configs" / "paper.toml"
    text = path.read_text()
    stated = flatten(tomllib.loads(text))
    assert stated == flatten(plain(load_config("paper").to_dict()))  # nothing is left to a default
    assert {name: stated[name] for name in PAPER_SAYS} == PAPER_SAYS
    ours = {name: value for name, value in sorted(stated.items()) if name not in (*PAPER_SAYS, "name")}
    assert hashlib.sha256(json.dumps(ours).encode()).hexdigest() == OUR_READING_SHA256, ours
    marks = [line.partition("  # ")[2] for line in text.splitlines() if " = " in line.partition("#")[0]]
    assert all(mark.startswith(("paper, ", "our reading: ")) for mark in marks[1:])  # all but the name
    assert sum(mark.startswith("paper, ") for mark in marks) == len(PAPER_SAYS)


def test_the_paper_s_global_stream_is_repvgg_a0() -> None:
    stream = repvgg_stream(load_config("paper").model.global_stream)
    weights = sum(block.conv3.weight.numel() for block in stream)
    # 8,309,384 weights as deployed (Ding et al., CVPR 2021, table 2: 8.31 M): a 3x3 convolution with its bias for each
    # block, and a linear layer of 1280 x 1000 with its own.
    biases = sum(block.conv3.out_channels for block in stream)
    assert weights + biases + 1280 * 1000 + 1000 == 8_309_384


def test_six_ablations_differ_in_their_switches_only() -> None:
    names = [name for name in config_names() if name.startswith("ablation/")]
    assert {name.removeprefix("ablation/") for name in names} == set(ROWS)
    paper = load_config("paper").to_dict()
    for name in names:
        values = load_config(name).to_dict()
        switches = tuple(values["model"].pop(key) for key in ("cdsda", "cat", "thumbnail"))
        assert switches == ROWS[name.removeprefix("ablation/")]
        assert values == {**paper, "name": name, "model": {k: paper["model"][k] for k in values["model"]}}


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "my.toml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_a_file_says_only_what_it_changes(write) -> None:
    edge = Path(__file__).parents[2] / "training" / "configs" / "edge.toml"
    write(f"base = {str(edge)!r}\nname = 'mine'\n[model.global_stream]\nblocks = [1, 1, 1, 1, 1]")
    config = load_config(write("base = 'my.toml'\nsteps = 7\n[augment]\nerase_size = [0.1, 1]", "further.toml"))
    before = load_config("edge")
    assert (config.name, config.steps, config.model.global_stream.blocks) == ("mine", 7, (1, 1, 1, 1, 1))
    assert config.model.global_stream.widths == before.model.global_stream.widths
    assert config.augment == dataclasses.replace(before.augment, erase_size=(0.1, 1.0)) and config.loss == before.loss


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate = 1", "'lerning_rate'; did you mean 'learning_rate'"),
        ("[loss]\nwingg = 1", "'loss.wingg'; did you mean 'loss.wing'"),
        ("[model]\nwing = 1", "'model.wing'; did you mean 'loss.wing'"),  # the right key in the wrong table
        ("[model.local_stream]\ndepth = [1]", "known here are widths, blocks"),
        ("zzz = 1", "known here are name, model"),
        ("batch_size = 2.5", "batch_size: expected int, got 2.5"),
        ("batch_size = true", "batch_size: expected int"),
        ("model = 3", "model: expected CLNConfig"),
        ("optimizer = 'adam'", "sgd, adamw"),
        ("learning_rate = 0", "learning_rate must be positive"),
        ("weight_decay = -1.0", "weight_decay must be at least 0"),
        ("ema_decay = 1.0", "ema_decay must be from 0"),
        ("[model]\nheads = 0", "heads must be at least 1"),
        ("[loss]\nwing_curvature = 0.0", "wing_curvature must be positive"),
        ("[loss]\nwpdc_vertices = -1", "wpdc_vertices must be at least 0"),
        ("micro_batch = 48", "divisor of batch_size 64"),
        ("milestones = [0.8, 0.6]", "rising"),
        ("[augment]\nerase_size = [0.1]", "augment.erase_size"),
    ],
)
def test_a_key_that_cannot_be_meant_is_refused(write, text: str, message: str) -> None:
    edge = Path(__file__).parents[2] / "training" / "configs" / "edge.toml"
    with pytest.raises(InvalidInputError, match=r"my\.toml") as caught:
        load_config(write(f"base = {str(edge)!r}\n{text}"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("name = ", FileFormatError, "TOML"),
        ("name = 'x'", InvalidInputError, "the key model"),
        ("base = 'nowhere.toml'", FileNotFoundError, "nowhere.toml"),
        ("base = 'my.toml'", InvalidInputError, "itself"),
    ],
    ids=["no TOML", "a key missing", "no base", "a circle"],
)
def test_a_broken_file_is_refused(write, text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        load_config(write(text))


def test_a_name_that_is_no_config_is_refused_with_the_nearest() -> None:
    with pytest.raises(ClnError, match="Did you mean 'ablation/without_cat'"):
        load_config("ablation/without_cats")


def test_the_command_line_changes_a_config() -> None:
    line = [
        "--data",
        "synthetic:1",
        "--out",
        "x",
        "--config",
        "paper",
        "--no-cat",
        "--micro-batch",
        "32",
        "--seed",
        "5",
    ]
    config = config_of(parse_arguments(line))
    assert (config.model.cat, config.model.cdsda, config.micro_batch, config.seed) == (False, True, 32, 5)
    with pytest.raises(InvalidInputError, match="batch_size must be positive"):
        config_of(parse_arguments([*line, "--batch-size", "0"]))
    with pytest.raises(InvalidInputError, match="seed must be at least 0"):
        config_of(parse_arguments([*line, "--seed", "-1"]))
