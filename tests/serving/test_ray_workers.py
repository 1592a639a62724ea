"""What Ray's workers do, called here without Ray."""

import dataclasses

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("onnxruntime")

import pyarrow.parquet as pq

from runtime import InvalidInputError, read_image
from serving import ray_workers
from serving.ray_batch import StandStillError, _cause, _watched, fit_workers, recipe_of
from serving.ray_workers import FaceReconstruction, PartWorker, fetched
from serving.results import part_name, photos_done
from serving.storage import StorageError, place
from tests.serving.conftest import EDGE, PHOTO


@pytest.fixture
def photos(tmp_path):
    """Two good ones, one of another suffix' content, an empty one, one that is missing and one that is too large."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("0.jpg", "4.jpg"):
        (folder / name).write_bytes(PHOTO.read_bytes())
    (folder / "1.jpg").write_bytes(b"\xff\xd8\xff no image")
    (folder / "2.jpg").write_bytes(b"")
    with (folder / "5.jpg").open("wb") as large:
        large.truncate(200 * 2**20)
    return [place(str(folder / f"{i}.jpg")) for i in range(6)]


def a_batch(places):
    name = part_name([p.name for p in places])
    columns = {"name": name, "roots": [0] * len(places), "paths": [p.path for p in places]}
    return {key: wrapped(value) for key, value in columns.items()}


def wrapped(value):
    column = np.empty(1, dtype=object)
    column[0] = np.array(value) if isinstance(value, list) else value
    return column


def test_a_part(photos, tmp_path, reconstruct):
    out = place(str(tmp_path / "out"))
    recipe, _ = recipe_of(EDGE, None, out, batch=2)
    recipe = dataclasses.replace(recipe, roots=(photos[0],))
    worker = PartWorker(recipe)
    for _ in range(2):  # a part that is done twice is there once
        told = worker(a_batch(photos))
        assert [told[key] for key in ("photos", "faces", "empty", "skipped")] == [[6], [2], [0], [4]]
        rows = pq.read_table(tmp_path / "out").to_pylist()
        assert [row["path"] for row in rows] == [photo.name for photo in photos]
    expected = reconstruct(read_image(PHOTO))[0]
    for row in (rows[0], rows[4]):
        np.testing.assert_array_equal(np.array(row["landmarks"], dtype=np.float32), expected.landmarks)
    for i, message in ((1, "cannot decode"), (2, "0 bytes"), (3, "found none"), (5, "at most")):
        assert message in rows[i]["error"] and photos[i].name in rows[i]["error"] and rows[i]["face"] is None
        assert message in told["errors"][0]
    assert photos_done(out, recipe.origin) == {photo.name for photo in photos}


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A video of ten frames in which the picture moves."""
    path = tmp_path_factory.mktemp("video") / "talk.mp4"
    image = read_image(PHOTO)[:480, :480]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (480, 480))
    for i in range(10):
        writer.write(np.roll(image, 2 * i, axis=1))
    writer.release()
    return path


def test_a_video(talk, tmp_path):
    pytest.importorskip("av")
    out = place(str(tmp_path / "out"))
    recipe, _ = recipe_of(None, None, out)
    cut_off = tmp_path / "cut.mp4"
    cut_off.write_bytes(talk.read_bytes()[:2000])
    for path, faces, skipped in ((talk, 10, 0), (cut_off, 0, 1)):
        video = place(str(path))
        told = PartWorker(dataclasses.replace(recipe, roots=(video,)))(a_batch([video]))
        assert [told[key] for key in ("photos", "faces", "skipped")] == [[1], [faces], [skipped]]
    (whole,) = (tmp_path / "out").glob(part_name([str(talk)]))
    rows = pq.read_table(whole).to_pylist()
    assert [(row["path"], row["frame"], row["id"]) for row in rows] == [
        (str(talk), i, rows[0]["id"]) for i in range(10)
    ]
    np.testing.assert_allclose([row["time"] for row in rows], np.arange(10) / 25, atol=1e-3)
    assert photos_done(out, recipe.origin) == {str(talk), str(cut_off)}


def test_files_besides_the_rows(photos, tmp_path):
    """Two photographs of one name, from two folders, keep their files apart."""
    out = place(str(tmp_path / "out"))
    other = tmp_path / "other" / "0.jpg"
    other.parent.mkdir()
    other.write_bytes(PHOTO.read_bytes())
    recipe, _ = recipe_of(None, None, out)
    both = [photos[0], place(str(other))]
    PartWorker(dataclasses.replace(recipe, roots=(photos[0],), save=("json", "ply")))(a_batch(both))
    names = sorted(file.name for file in (tmp_path / "out" / "files").iterdir())
    assert len(names) == 4 and [name.rpartition(".")[2] for name in names].count("ply") == 2
    assert photos_done(out, recipe.origin) == {photo.name for photo in both}


class WorkerDiesError(BaseException):
    """As if the process had ended: nobody catches it."""


def test_a_photograph_that_ends_its_workers_is_named(photos, tmp_path, monkeypatch):
    """Twice alone, after once among others; the other photographs lose nothing."""
    deadly, real = photos[1].name, ray_workers.decode_image
    died = []

    def decode(content, *, name):
        if name == deadly:
            died.append(name)
            raise WorkerDiesError
        return real(content, name=name)

    monkeypatch.setattr(ray_workers, "decode_image", decode)
    out = place(str(tmp_path / "out"))
    recipe = dataclasses.replace(recipe_of(EDGE, None, out)[0], roots=(photos[0],))
    for _ in range(3):
        with pytest.raises(WorkerDiesError):
            PartWorker(recipe)(a_batch(photos))
    told = PartWorker(recipe)(a_batch(photos))
    assert [told[key] for key in ("photos", "faces", "skipped")] == [[6], [2], [4]] and len(died) == 3
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert "2 processes died" in rows[1]["error"] and deadly in rows[1]["error"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [part_name([p.name for p in photos])]


def test_a_death_with_another_cause_costs_nothing(photos, tmp_path, monkeypatch):
    """Workers that die while they write: the part is done again, whole, and no photograph is blamed."""
    out = place(str(tmp_path / "out"))
    recipe = dataclasses.replace(recipe_of(EDGE, None, out)[0], roots=(photos[0],))
    with monkeypatch.context() as killed:
        killed.setattr(ray_workers, "to_bytes", lambda table: (_ for _ in ()).throw(WorkerDiesError()))
        for _ in range(4):
            with pytest.raises(WorkerDiesError):
                PartWorker(recipe)(a_batch(photos[:1]))
    assert PartWorker(recipe)(a_batch(photos[:1]))["faces"] == [1]


def test_for_map_batches(reconstruct):
    convert = FaceReconstruction()
    table = convert({"path": np.array(["a", "b"]), "bytes": np.array([PHOTO.read_bytes(), b"no"], dtype=object)})
    good, bad = table.to_pylist()
    np.testing.assert_array_equal(np.float32(good["landmarks"]), reconstruct(read_image(PHOTO))[0].landmarks)
    assert (good["path"], bad["path"], bad["face"]) == ("a", "b", None) and "cannot decode" in bad["error"]
    with pytest.raises(InvalidInputError, match="include_paths"):
        convert({"bytes": np.array([b"no"], dtype=object)})


def test_a_file_system_that_fails_is_asked_again(photos, monkeypatch):
    monkeypatch.setattr(ray_workers, "_PAUSE", 0.0)
    answers = iter([StorageError("down"), StorageError("down"), None] + [StorageError("down")] * 3)

    def info(self):
        if (answer := next(answers)) is not None:
            raise answer
        return self.filesystem.get_file_info(self.path)

    monkeypatch.setattr(ray_workers, "_FETCHES", 1)
    monkeypatch.setattr(type(photos[0]), "info", info)
    (_, content), (_, error) = fetched([photos[0], photos[4]])
    assert content == PHOTO.read_bytes() and error == "down"


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "on_gpu", "workers"), [(None, 4, 0, False, 4), (9, 2, 0, False, 2), (1, 4, 2, True, 1)]
)
def test_workers_fit_the_machine(asked, cpus, gpus, on_gpu, workers):
    assert fit_workers(asked, cpus, gpus, on_gpu=on_gpu) == workers


def test_a_stand_still_is_noticed(monkeypatch):
    import threading

    monkeypatch.setattr("serving.ray_batch._still", lambda patience: "no part was finished")
    forever = threading.Event()

    def parts():
        yield {"part": 1}
        forever.wait()

    taken = _watched(parts(), 0.1)
    assert next(taken) == {"part": 1}
    with pytest.raises(StandStillError, match="no part"):
        next(taken)
    forever.set()


def test_errors_of_workers_come_through():
    inner = StorageError("disk full")
    outer = RuntimeError("ray's own, over\nmany lines")
    outer.cause = RuntimeError("wrapped")
    outer.cause.__cause__ = inner
    assert _cause(outer) is inner
    assert "many lines; run again" in str(_cause(RuntimeError("over\nmany lines")))
