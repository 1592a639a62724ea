import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from runtime.errors import FileFormatError, MismatchError
from runtime.face_model import FaceModel
from tests.training.conftest import make_face_model
from tests.training.test_model import TINY, random_crops
from training.checkpoint import Checkpoint, dump, load_checkpoint, load_plain, save_checkpoint
from training.model import CLN


@pytest.fixture
def saved(tmp_path: Path, face_model: FaceModel) -> tuple[Path, CLN]:
    model = CLN(TINY).eval()
    model.set_whitening(torch.randn(62), torch.rand(62))
    path = tmp_path / "ckpt.pth"
    checkpoint = Checkpoint(
        config=TINY,
        state_dict=model.state_dict(),
        face_model_name=face_model.name,
        face_model_sha256=face_model.sha256,
        training={"steps": 3},
        test={"nme": 4.5},
        command="python -m training.train",
    )
    save_checkpoint(path, checkpoint)
    return path, model


def test_round_trip(saved: tuple[Path, CLN], face_model: FaceModel) -> None:
    path, model = saved
    checkpoint = load_checkpoint(path, face_model)
    crops = random_crops(TINY)
    assert torch.equal(checkpoint.model()(crops), model(crops))
    assert checkpoint.config == TINY
    assert torch.equal(checkpoint.whitening_mean, model.whitening_mean)
    assert (checkpoint.training, checkpoint.test) == ({"steps": 3}, {"nme": 4.5})


def test_another_face_model_is_refused(saved: tuple[Path, CLN]) -> None:
    with pytest.raises(MismatchError, match="small"):
        load_checkpoint(saved[0], make_face_model(seed=1))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: tuple[Path, CLN], keep: float) -> None:
    path, _ = saved
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(FileFormatError, match=str(path.name)):
        load_checkpoint(path)


def test_a_file_whose_pickle_ends_too_early_is_refused(saved: tuple[Path, CLN]) -> None:
    path, _ = saved
    with zipfile.ZipFile(path) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as damaged:
        for name, content in parts.items():
            damaged.writestr(name, b"\x80\x02." if name.endswith("data.pkl") else content)  # STOP alone
    with pytest.raises(FileFormatError, match=str(path.name)):
        load_checkpoint(path)


class Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.target),)


@pytest.mark.parametrize("bare", [True, False], ids=["pickle", "torch"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, bare: bool) -> None:
    bomb, path = Bomb(), tmp_path / "bomb.pth"
    bomb.target = str(tmp_path / "exploded")
    if bare:
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({"format": bomb}, path)
    with pytest.raises(FileFormatError):
        load_plain(path)
    assert not (tmp_path / "exploded").exists()


def without(key: str) -> dict:
    content = {"format": "cln.checkpoint", "format_version": 1, "config": TINY.to_dict(), "training": {}, "test": {}}
    content |= {"state_dict": CLN(TINY).state_dict(), "face_model": {"name": "a", "sha256": "b"}, "command": ""}
    del content[key]
    return content


@pytest.mark.parametrize(
    "content",
    [
        {"net": torch.zeros(2)},  # another project's
        {**without("test"), "test": {}, "format_version": 2},
        without("face_model"),
        without("config"),
        {**without("test"), "test": {}, "state_dict": {"head.weight": torch.zeros(1)}},
        {**without("test"), "test": {}, "config": {**TINY.to_dict(), "depth": 3}},
    ],
    ids=["foreign", "version", "no face model", "no config", "other weights", "unknown field"],
)
def test_foreign_and_incomplete_files_are_refused(tmp_path: Path, content: dict) -> None:
    path = tmp_path / "ckpt.pth"
    path.write_bytes(dump(content))
    with pytest.raises(FileFormatError, match=r"ckpt\.pth"):
        load_checkpoint(path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_what_wrappers_put_before_names_is_taken_off(tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in CLN(TINY).state_dict().items()}
    (tmp_path / "c.pth").write_bytes(dump({**without("test"), "test": {}, "state_dict": state}))
    assert load_checkpoint(tmp_path / "c.pth").state_dict.keys() == CLN(TINY).state_dict().keys()


def test_other_weights_are_refused_by_their_first_difference(tmp_path: Path) -> None:
    state = {f"net.{name}": tensor for name, tensor in CLN(TINY).state_dict().items()}
    (tmp_path / "c.pth").write_bytes(dump({**without("test"), "test": {}, "state_dict": state}))
    with pytest.raises(FileFormatError, match="don't fit its config: Missing key") as caught:
        load_checkpoint(tmp_path / "c.pth")
    assert len(str(caught.value)) < 600


def test_a_list_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(FileFormatError, match="dictionary"):
        load_plain(tmp_path / "list.pth")
