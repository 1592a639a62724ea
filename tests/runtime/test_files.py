import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors.numpy

from runtime import FileFormatError, Manifest
from runtime import safetensors as ours
from runtime.files import write_atomically
from runtime.manifest import Parity

TENSORS = {
    "b": np.arange(6, dtype=np.float16).reshape(2, 3),
    "a": np.array([[1, 2]], dtype=np.int32),
    "c": np.arange(3, dtype=np.uint8),
}
MANIFEST = Manifest(
    input_size=128,
    shape_count=40,
    expression_count=10,
    face_model="test",
    face_model_sha256="0" * 64,
    precision="fp32",
    builder="onnx",
    builder_version="1",
    batch_range=(1, 64),
    checkpoint_sha256="1" * 64,
    parity=(Parity(step="ONNX FP32", max_params=1e-6, max_landmark_px=1e-5, crops=32),),
    figures={"nme": 3.0},
)


def test_the_reference_library_reads_what_we_write_and_the_other_way_round(tmp_path):
    ours.write(tmp_path / "x", TENSORS, {"k": "v"})
    theirs = safetensors.numpy.load_file(tmp_path / "x")
    safetensors.numpy.save_file(TENSORS, tmp_path / "y", {"k": "v"})
    back, metadata = ours.read(tmp_path / "y")
    assert metadata == {"k": "v"} and set(theirs) == set(back) == set(TENSORS)
    for key, value in TENSORS.items():
        for read in (theirs[key], back[key]):
            assert read.dtype == value.dtype and np.array_equal(read, value)


def test_bytes_are_the_same_each_time(tmp_path):
    """A face model is known by its file's hash; the package itself writes metadata in another order each time."""
    metadata = {key: key.upper() for key in "hgfedcba"}
    ours.write(tmp_path / "x", TENSORS, metadata)
    ours.write(tmp_path / "y", dict(reversed(TENSORS.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert ours.read(tmp_path / "x")[1] == metadata


def test_every_truncation_of_a_container_is_refused(tmp_path):
    ours.write(tmp_path / "x", TENSORS, {})
    data = (tmp_path / "x").read_bytes()
    for length in range(len(data)):
        with pytest.raises(FileFormatError):
            ours.parse(data[:length])


def _container(header: object, body: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"x": 1},
        {"x": {"dtype": "F32", "shape": [2]}},
        {"x": {"dtype": "object", "shape": [2], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {"__metadata__": {"k": 1}},
    ],
)
def test_an_inconsistent_container_is_refused(header):
    with pytest.raises(FileFormatError):
        ours.parse(_container(header))


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    target = tmp_path / "x"
    write_atomically(target, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and target.read_text() == "old"


def test_manifest_survives_json():
    assert Manifest.from_json(MANIFEST.to_json(), name="m") == MANIFEST


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format": "other"}, "format"),
        ({"version": 99}, "version 1, got 99"),
        ({"input_size": "128"}, "input_size"),
        ({"input_size": True}, "input_size"),
        ({"input_size": 0}, "input size"),
        ({"batch_range": [1]}, "batch_range"),
        ({"parity": [{"step": "x"}]}, "lacks"),
        ({"precison": "fp16"}, "precison"),
        ({"precision": None}, "precision"),
    ],
)
def test_an_edited_manifest_is_refused(edit, message):
    values = json.loads(MANIFEST.to_json()) | edit
    with pytest.raises(FileFormatError, match=message):
        Manifest.from_json(json.dumps(values), name="m")


@pytest.mark.parametrize(
    "edit",
    [
        {"precision": "fp16-mixed"},
        {"face_model_sha256": "2" * 64},
        {"figures": {"nme": 2.0}},
        {"parity": []},
        {"sha256": "0" * 64},
    ],
)
def test_a_manifest_carries_its_own_hash(edit):
    """Values that would each pass for themselves, put in place of others."""
    values = json.loads(MANIFEST.to_json()) | edit
    with pytest.raises(FileFormatError, match="edited or is from an older version"):
        Manifest.from_json(json.dumps(values), name="m")


def test_a_reformatted_manifest_is_the_same_and_one_without_a_hash_is_refused_where_it_must_have_one():
    values = json.loads(MANIFEST.to_json())
    values["figures"]["nme"] = 3  # as other tools write 3.0
    assert Manifest.from_json(json.dumps(values, sort_keys=True), name="m", sealed=True) == MANIFEST
    del values["sha256"]
    assert Manifest.from_json(json.dumps(values), name="m") == MANIFEST
    with pytest.raises(FileFormatError, match=r"\(none is given\)"):
        Manifest.from_json(json.dumps(values), name="m", sealed=True)


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 100_000, b"\xff"])
def test_what_is_no_manifest_is_refused(text):
    with pytest.raises(FileFormatError):
        Manifest.from_json(text, name="m")


def test_files_written_in_several_threads_leave_the_process_s_umask(tmp_path, monkeypatch):
    real = os.umask

    def slow(mask):
        before = real(mask)
        time.sleep(0.01)
        return before

    monkeypatch.setattr(os, "umask", slow)
    before = real(0o022)
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: write_atomically(tmp_path / name, b"x"), "ab"))
        assert real(0o022) == 0o022
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    finally:
        real(before)
