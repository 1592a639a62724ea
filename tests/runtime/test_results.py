"""Runs over files as people have them: what is kept, what is skipped, what is done again."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.__main__ import main
from runtime.files import write_atomically
from runtime.items import Item, collect, with_stems
from runtime.results import LIST_NAME, Results


@pytest.fixture
def run(engine_file, tmp_path, capsys, monkeypatch):
    """Runs the command with two boxes for each photograph; status, standard output and error."""

    def call(*arguments, boxes=((5, 5, 20, 20), (9, 9, 20, 20))):
        from runtime import Reconstructor

        prepare = Reconstructor.prepare
        with monkeypatch.context() as patched:
            patched.setattr(Reconstructor, "prepare", lambda self, image, given=None: prepare(self, image, list(boxes)))
            status = main([*map(str, arguments), "--engine", str(engine_file)])
        return status, *capsys.readouterr()

    return call


def photo(path, level=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((40, 40, 3), level, np.uint8))
    return path


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != LIST_NAME}


def test_photographs_in_the_folder_of_results_and_other_programs_files_stay(tmp_path, run):
    photo(tmp_path / "a.jpg"), photo(tmp_path / "b.jpg"), photo(tmp_path / "me.jpg"), photo(tmp_path / "me_faces.jpg")
    (tmp_path / "b.json").write_text("a day of labelling")
    before = content(tmp_path)
    everything = ("--out", tmp_path, "--save", "json,picture,obj,ply")
    status, _, err = run(tmp_path, *everything)
    after = content(tmp_path)
    assert status == 1 and before.items() <= after.items() and {"a.json", "a_faces.jpg", "a_1.obj"} <= after.keys()
    assert f"{tmp_path / 'b.json'}: is there already" in err
    assert f"{tmp_path / 'me_faces.jpg'}: is a file that this" in err
    assert not {"b_faces.jpg", "b_0.obj", "me.json"} & after.keys()  # all of an item's results, or none
    status, out, _ = run(tmp_path, *everything)  # a_faces.jpg is a result now, and no photograph
    assert status == 1 and "0 faces in 4 files" in out and content(tmp_path) == after
    assert run(tmp_path, *everything, "--overwrite")[0] == 1  # me_faces.jpg still
    assert content(tmp_path)["me_faces.jpg"] == before["me_faces.jpg"]
    assert json.loads((tmp_path / "b.json").read_text())["faces"]


def test_an_edited_result_is_its_editors(tmp_path, run):
    image, out = photo(tmp_path / "a.png"), tmp_path / "o"
    assert run(image, "--out", out)[0] == 0
    (out / "a.json").write_text("corrected by hand")
    status, _, err = run(image, "--out", out)
    assert status == 2 and "a.json" in err and (out / "a.json").read_text() == "corrected by hand"


def test_fewer_faces_leave_no_stale_meshes_but_other_files(tmp_path, run):
    image, out = photo(tmp_path / "a.png"), tmp_path / "o"
    meshes = ("--out", out, "--save", "json,picture,obj,ply")
    assert run(image, *meshes)[0] == 0
    (out / "a_1.ply").write_text("edited")
    (out / "a_2.obj").write_text("of another program")
    photo(image, 90)
    assert run(image, *meshes, boxes=[(5, 5, 20, 20)])[0] == 0
    assert content(out).keys() == {"a.json", "a_faces.jpg", "a_0.obj", "a_0.ply", "a_1.ply", "a_2.obj"}


@pytest.mark.parametrize(
    ("change", "done_again"),
    [
        (lambda image, out: None, False),
        (lambda image, out: os.utime(image, (1, 1)), False),  # another time, the same content
        (lambda image, out: photo(image, 90), True),
        (lambda image, out: (out / "a_faces.jpg").unlink(), True),
        (lambda image, out: "--again", True),
        (lambda image, out: ("--save", "json"), True),
    ],
)
def test_a_second_run_does_what_is_not_finished(tmp_path, run, change, done_again):
    image, out = photo(tmp_path / "a.png"), tmp_path / "o"
    assert run(image, "--out", out)[0] == 0
    more = change(image, out)
    more = [more] if isinstance(more, str) else more if isinstance(more, tuple) else []
    status, text, _ = run(image, "--out", out, *more)
    assert status == 0 and ("finished before" not in text) == done_again


def test_folders_with_the_same_names_keep_all_results_over_runs(tmp_path, run):
    first, second = photo(tmp_path / "x" / "a.png", 10), photo(tmp_path / "y" / "a.png", 200)
    other, out = photo(tmp_path / "x" / "a.jpg", 90), tmp_path / "o"
    assert run(first.parent, second.parent, "--out", out, "--save", "json")[0] == 0
    assert content(out).keys() == {"a.json", "a.png.json", "y_a.json"}  # of x/a.jpg, x/a.png, y/a.png
    before = content(out)
    assert run(second, "--out", tmp_path / "o", "--save", "json")[0] == 0 and content(out) == before
    assert "finished before" in run(other, "--out", out, "--save", "json")[1]


def test_stems_differ_where_file_systems_may_not_tell_them_apart():
    paths = [Path("d/A.png"), Path("d/a.jpg"), Path("d/e\u0301.png"), Path("d/\u00e9.png"), Path("d/a.jpg.png")]
    stems = [item.stem for item in with_stems([Item(path=path) for path in paths], lambda *_: True)]
    assert stems == ["A", "a.jpg", "e\u0301", "\u00e9.png", "a.jpg.png"]


def test_a_name_that_is_too_long_is_its_own_error(tmp_path, run):
    images, out = tmp_path / "i", tmp_path / "o"
    for stem in ("b" * 245, "a" * 251, "c"):  # of 245 bytes all results still have names
        photo(images / "x.png").rename(images / f"{stem}.png")
    status, text, err = run(images, "--out", out, "--save", "json,picture,obj,ply")
    assert status == 1 and "1 skipped" in text and "a" * 251 in err and "too long" in err
    assert {"c.json", "b" * 245 + "_1.ply"} <= content(out).keys()


def test_what_of_a_folder_is_no_photograph_is_counted_and_hidden_files_are_not(tmp_path, run):
    for name in ("a.JFIF", "b.jpe"):
        photo(tmp_path / "i" / "x.jpg").rename(tmp_path / "i" / name)
    for name in ("notes.txt", "._a.jpg", ".DS_Store"):
        (tmp_path / "i" / name).write_bytes(b"\0\5\x16\7")
    status, out, err = run(tmp_path / "i", "--out", tmp_path / "o")
    assert (status, err) == (0, "") and "in 2 files" in out and "1 other file left alone (1 .txt)" in out


def test_a_pattern_and_a_file_that_is_named_twice(tmp_path):
    for name in ("a.png", "b.png", "c.jpg"):
        photo(tmp_path / name)
    work = collect([tmp_path / "a.png", str(tmp_path / "*.png"), tmp_path])
    assert [item.path.name for item in work.items] == ["a.png", "b.png", "c.jpg"] and work.many


def test_a_list_that_was_tampered_with_leads_nowhere(tmp_path):
    (tmp_path / "o").mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"x")
    digest = __import__("hashlib").sha256(b"x").hexdigest()
    entry = {"stem": "a", "source": "a.png", "content": "", "settings": "", "files": {"../victim": digest}}
    (tmp_path / "o" / LIST_NAME).write_text(json.dumps(entry) + "\n[" * 100_000 + "\nnull\n{}\n")
    Results(tmp_path / "o").save("a", tmp_path / "a.png", "", "", lambda target: target(".json").write_text(""))
    assert victim.exists()


def test_no_result_takes_a_folders_place_and_no_input_goes_with_old_results(tmp_path, run):
    photo(tmp_path / "a.jpg")
    assert run(tmp_path / "a.jpg", "--out", tmp_path)[0] == 0
    (tmp_path / "a_0.obj").mkdir()
    before = content(tmp_path)
    status, _, err = run(tmp_path / "a.jpg", "--out", tmp_path, "--save", "json,obj", "--again", "--overwrite")
    assert status == 2 and "a_0.obj: is a folder" in err and content(tmp_path) == before
    status, *_ = run(tmp_path / "a.jpg", tmp_path / "a_faces.jpg", "--out", tmp_path, "--save", "json")
    assert status == 0 and (tmp_path / "a_faces.jpg").is_file()  # a result of the first run, and an input of this one


def test_a_sequence_does_not_take_its_own_pictures_for_frames(tmp_path, run):
    photo(tmp_path / "f_1.jpg"), photo(tmp_path / "f_2.jpg")
    assert run(tmp_path, "--out", tmp_path)[0] == 0
    status, _, err = run(tmp_path, "--sequence", "--out", tmp_path, "--no-video")
    assert status == 2 and "got f_1_faces.jpg, a result of an earlier run" in err


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_name_that_is_no_utf8_has_results_of_every_kind(tmp_path, run):
    name = os.fsdecode(b"caf\xe9")
    photo(tmp_path / "a.jpg").rename(tmp_path / f"{name}.jpg")
    assert run(tmp_path / f"{name}.jpg", "--out", tmp_path / "out", "--save", "json,csv")[0] == 0
    assert {f"{name}.json", f"{name}.csv"} <= content(tmp_path / "out").keys()


def test_half_a_line_at_the_end_spoils_none_of_the_next(tmp_path):
    (tmp_path / LIST_NAME).write_text('{"stem": "a')
    Results(tmp_path).save("b", tmp_path / "b.png", "1", "2", lambda target: target(".json").write_text(""))
    assert Results(tmp_path).is_finished("b", "1", "2")


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
class TestSpecialFiles:
    def test_a_links_target_gets_the_content_and_keeps_its_permissions(self, tmp_path):
        (tmp_path / "real").write_text("old")
        (tmp_path / "real").chmod(0o640)
        (tmp_path / "link").symlink_to("real")
        write_atomically(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
        assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640

    def test_a_pipe_gets_the_bytes(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        got = []
        reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
        reader.start()
        write_atomically(tmp_path / "pipe", b"x" * 200_000)
        reader.join(20)
        assert got == [b"x" * 200_000] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)

    @pytest.mark.parametrize("to_file", [False, True])
    def test_standard_output_gets_the_bytes(self, tmp_path, to_file):
        code = "from runtime.files import write_atomically as w; print(1, flush=True); w('/dev/stdout', 'x'); print(2)"
        with open(tmp_path / "log", "w+") as log:
            out = subprocess.run([sys.executable, "-c", code], stdout=log if to_file else subprocess.PIPE, check=True)
        assert ((tmp_path / "log").read_bytes() if to_file else out.stdout) == b"1\nx2\n"

    def test_a_full_disk_is_reported_with_the_files_name(self):
        with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
            write_atomically("/dev/full", b"x")
