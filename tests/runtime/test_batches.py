"""Folders of photographs: the same files as one by one, several at once, and never too many in memory."""

import json
import threading
import time

import cv2
import numpy as np
import pytest

from runtime import Reconstructor, batches
from runtime.__main__ import main
from runtime.engines import load_engine
from runtime.items import Item, images_in, with_stems
from runtime.results import LIST_NAME, Results
from tests.runtime.test_reconstructor import Recorder


@pytest.fixture
def folder(tmp_path):
    """Five photographs of different sizes, and what else lies about in folders."""
    path = tmp_path / "photos"
    path.mkdir()
    for i in range(5):
        image = np.full((60 + 10 * i, 80, 3), 40 * i, dtype=np.uint8)
        cv2.imwrite(str(path / f"photo{i}.{('png', 'JPG')[i % 2]}"), image)
    (path / "notes.txt").write_text("no image")
    (path / "more.png").mkdir()
    return path


def boxes_for(folder, counts=(1, 2, 0, 1, 3)):
    """So many boxes for each photograph."""
    names = sorted(path.name for path in folder.iterdir() if path.stem.startswith("photo"))
    return {name: [[10 + 5 * k, 10, 30, 40] for k in range(count)] for name, count in zip(names, counts, strict=True)}


def test_a_folder_gives_what_its_photos_give(folder, tmp_path, engine_file, capsys):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(boxes_for(folder)))
    photos = sorted(path for path in folder.iterdir() if path.stem.startswith("photo"))
    options = ["--engine", str(engine_file), "--boxes", str(boxes), "--save", "json,picture,obj,ply", "--out"]
    assert main([*map(str, photos), *options, str(tmp_path / "single")]) == 0
    capsys.readouterr()
    assert main([str(folder), "--batch", "3", *options, str(tmp_path / "many")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("7 faces in 5 files, ")
    assert "faces/s" in captured.out and captured.out.endswith("1 without a face, 0 skipped\n")
    files = sorted(path.name for path in (tmp_path / "single").iterdir() if path.name != LIST_NAME)
    assert files == sorted(path.name for path in (tmp_path / "many").iterdir() if path.name != LIST_NAME)
    assert len(files) == 5 * 2 + 7 * 2
    for name in files:
        assert (tmp_path / "single" / name).read_bytes() == (tmp_path / "many" / name).read_bytes(), name


def run_of(reconstruct, out, **options):
    results = Results(out)
    results.make_folder()
    return batches.Run(reconstruct=reconstruct, results=results, **options)


def items_of(paths):
    return with_stems([Item(path=path) for path in paths], lambda *_: True)


def test_faces_of_several_photos_share_a_call(folder, tmp_path, engine_file):
    engine = Recorder(load_engine(engine_file))
    items = items_of(images_in(folder))
    boxes = {item.path: boxes_for(folder)[item.path.name] for item in items}
    run = run_of(Reconstructor(engine), tmp_path / "out", batch=3, boxes=boxes)
    outcomes = list(batches.process(run, items))
    assert [outcome.photo for outcome in outcomes] == [item.path for item in items]
    assert [len(outcome.faces) for outcome in outcomes] == [1, 2, 0, 1, 3]
    assert engine.batches == [3, 3, 1]  # photos 0 and 1; 2, 3 and 4, whose four faces are one too many for a call


def test_settings_tell_apart_what_gives_other_results(tmp_path, engine_file):
    paths = [tmp_path / name for name in ("a.png", "b.png", "boxed.png", "c.mp4")]
    boxes = {paths[2]: [[1, 2, 3, 4]]}
    run = run_of(Reconstructor(engine_file), tmp_path / "out", boxes=boxes)
    same, again, boxed, video = (run.settings_of(item) for item in items_of(paths))
    other = run_of(run.reconstruct, tmp_path / "out", boxes=boxes, savers=("json",))
    changed, _, _, unchanged = (other.settings_of(item) for item in items_of(paths))
    assert same == again and len({same, boxed, video, changed}) == 4
    assert unchanged == video  # of which no saver writes anything


def test_skipped_files_are_named_with_their_reasons_at_the_end(folder, tmp_path, engine_file, capsys):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    (folder / "empty.png").write_bytes(b"")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(boxes_for(folder) | {"photo0.png": [[0, 0, 0, 5]]}))
    options = ["--engine", str(engine_file), "--boxes", str(boxes), "--out", str(tmp_path / "out")]
    assert main([str(folder), *options]) == 1
    captured = capsys.readouterr()
    assert "3 skipped" in captured.out
    lines = captured.err.splitlines()
    assert [line.startswith("error: skipped ") for line in lines] == [True] * 3
    assert "broken.jpg" in lines[0] and "empty.png" in lines[1] and "above 0" in lines[2]
    assert (tmp_path / "out" / "photo4.json").exists() and not (tmp_path / "out" / "photo0.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "--out", "{file}"], "xists"),  # a file is where the folder for the results should be
        (["{folder}", "--batch", "0", "--out", "{out}"], "--batch: expected at least 1"),
        (["{none}", "--out", "{out}"], "expected a folder with images"),
        (["{folder}/*.xyz", "--out", "{out}"], "expected files of this pattern"),
        (["{folder}", "--save", "jsn", "--out", "{out}"], "did you mean 'json'?"),
    ],
)
def test_what_stops_all_is_one_line(folder, tmp_path, engine_file, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "none").mkdir()
    paths = {"folder": folder, **{name: tmp_path / name for name in ("file", "none", "out")}}
    status = main([text.format(**paths) for text in arguments] + ["--engine", str(engine_file)])
    captured = capsys.readouterr()
    assert status == 2 and captured.err.count("\n") == 1 and message in captured.err


class Watched:
    """A reconstructor that finds one face in each image and tells what it is doing."""

    def __init__(self, engine_file):
        self.inner = Reconstructor(engine_file)
        self.engine = self.inner.engine
        self.read, self.ahead = 0, threading.Event()

    def prepare(self, image, boxes):
        self.read += 1
        if self.read == 3:
            self.ahead.set()
        return self.inner.prepare(image, [(5, 5, 20, 20)])

    def reconstruct(self, prepared, batch):
        self.waited = self.ahead.wait(20)  # photo 3 is read while the network works on photo 1
        return self.inner.reconstruct(prepared, batch=batch)


def many(folder, count):
    for i in range(count):
        cv2.imwrite(str(folder / f"many{i:03d}.png"), np.zeros((30, 30, 3), np.uint8))
    return items_of(sorted(folder.glob("many*.png")))


def test_reading_goes_on_while_the_network_works(tmp_path, engine_file):
    watched = Watched(engine_file)
    assert len(list(batches.process(run_of(watched, tmp_path / "out"), many(tmp_path, 4)))) == 4
    assert watched.waited


def test_slow_writing_holds_reading_back(tmp_path, engine_file, monkeypatch):
    watched, opened = Watched(engine_file), threading.Event()

    def slow(run, read, faces):
        opened.wait(60)
        return batches.Outcome(photo=read.item.path, faces=faces)

    monkeypatch.setattr(batches, "_write", slow)
    photos, outcomes = many(tmp_path, 60), []

    def run():
        outcomes.extend(batches.process(run_of(watched, tmp_path / "out", batch=2), photos))

    thread = threading.Thread(target=run)
    thread.start()
    before = -1
    while watched.read != before:  # until reading stands still
        before = watched.read
        time.sleep(0.3)
    held = watched.read
    opened.set()
    thread.join(60)
    assert 0 < held <= batches._AHEAD + batches._UNWRITTEN + 2 * 2 + 1
    assert [outcome.photo for outcome in outcomes] == [item.path for item in photos]


def test_room_is_given_in_the_photographs_order():
    hand, passed = batches._InHand(1), []
    threads = [threading.Thread(target=lambda n=n: (hand.wait_for_room(n), passed.append(n))) for n in (2, 1)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert passed == []  # there is room, but not for these
    hand.wait_for_room(0)
    for thread in threads:
        thread.join(10)
    assert sorted(passed) == [1, 2]


def test_large_photographs_are_few_in_hand(tmp_path, engine_file, monkeypatch):
    """Reading stands still at a number of bytes: photographs of any size, however many may wait by their number."""
    watched, opened = Watched(engine_file), threading.Event()
    photos = many(tmp_path, 12)
    monkeypatch.setattr(batches, "_IN_HAND", 2 * batches._COPIES * 30 * 30 * 3)
    monkeypatch.setattr(batches, "_TOGETHER", 1)
    watched.ahead.set()

    def slow(run, read, faces):
        opened.wait(60)
        return batches.Outcome(photo=read.item.path, faces=faces)

    monkeypatch.setattr(batches, "_write", slow)
    outcomes = []
    run = run_of(watched, tmp_path / "out", batch=8)
    thread = threading.Thread(target=lambda: outcomes.extend(batches.process(run, photos)))
    thread.start()
    time.sleep(0.5)
    held = watched.read
    opened.set()
    thread.join(60)
    assert 2 <= held <= 1 + batches._READERS and len(outcomes) == 12
