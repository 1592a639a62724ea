"""Where photographs are found, and files of results that are whole or not there."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq
from pyarrow import fs

from runtime import FileFormatError, InvalidInputError, MismatchError, read_image
from serving import lock
from serving.lock import LockedError, locked
from serving.ray_batch import cut
from serving.results import forget_errors, part_name, parts, photos_done
from serving.rows import SCHEMA, Origin, face_of, rows_of, table_of, to_bytes
from serving.storage import Place, StorageError, find, place
from tests.serving.conftest import PHOTO

ORIGIN = Origin(engine_sha256="e" * 64, face_model_sha256="f" * 64, manifest="{}")
SUFFIXES = (".jpg", ".png")


@pytest.fixture
def tree(tmp_path):
    for name in ("a.jpg", "b.PNG", "deep/er/c.jpg", "deep/d.jpg", "notes.md", "deep/[e].jpg", ".h/x.jpg", "._a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.txt").write_text(f"a.jpg\n\n{tmp_path}/deep/d.jpg\nfile://{tmp_path}/notes.md\nnone.jpg\n")
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["."], ["a.jpg", "b.PNG", "deep/[e].jpg", "deep/d.jpg", "deep/er/c.jpg"]),
        (["a.jpg", "notes.md", "a.jpg"], ["a.jpg", "notes.md"]),
        (["*.jpg"], ["a.jpg"]),
        (["**/*.jpg"], ["a.jpg", "deep/[e].jpg", "deep/d.jpg", "deep/er/c.jpg"]),
        (["deep/?.jpg"], ["deep/d.jpg"]),
        (["deep/[!e].jpg"], ["deep/d.jpg"]),
        (["deep/[e].jpg"], ["deep/[e].jpg"]),  # a name that is there is no glob
        (["list.txt"], ["a.jpg", "deep/d.jpg", "notes.md", "none.jpg"]),  # what is missing gets an error row later
        (["deep", "."], ["deep/[e].jpg", "deep/d.jpg", "deep/er/c.jpg", "a.jpg", "b.PNG"]),
    ],
)
def test_sources(tree, sources, names):
    found = find([str(tree / source) for source in sources], SUFFIXES)
    assert [photo.name for photo in found] == [str(tree / name) for name in names]


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("{tree}/nothing", FileNotFoundError, "found none"),
        ("{tree}/*.gif", InvalidInputError, "found none"),
        ("nope://bucket/photos", InvalidInputError, "file system that PyArrow opens"),
        ("", InvalidInputError, "empty text"),
    ],
)
def test_sources_that_are_none(tree, source, kind, message):
    with pytest.raises(kind, match=message) as caught:
        find([source.format(tree=tree)], SUFFIXES)
    assert "\n" not in str(caught.value)


def test_one_run_at_a_time(tmp_path, monkeypatch):
    """Refused: while another runs, or may run elsewhere, or one that cannot be read. Not by one that is gone."""
    monkeypatch.setattr(lock, "_MOMENT", 0.0)
    folder, file = place(str(tmp_path / "out")), tmp_path / "out" / ".lock"
    with locked(folder):
        own = json.loads(file.read_text())
        with pytest.raises(LockedError, match=rf"process {os.getpid()} on .*delete the file"), locked(folder):
            pass
        assert json.loads(file.read_text()) == own
    assert not file.exists()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for change in ({"pid": int(gone.stdout)}, {"born": "of another process with our number"}):
        file.write_text(json.dumps(own | change))
        with locked(folder):
            assert json.loads(file.read_text())["token"] != own["token"]
    for content in (json.dumps(own | {"host": "elsewhere"}), "torn"):
        file.write_text(content)
        with pytest.raises(LockedError), locked(folder):
            pass
        assert file.read_text() == content


def test_of_two_runs_that_start_together_one_goes_on(tmp_path, monkeypatch):
    """The other has seen no lock either, and writes its own after ours."""
    other = json.dumps({"host": "elsewhere", "pid": 7, "since": "now"})
    monkeypatch.setattr(lock.time, "sleep", lambda _: (tmp_path / ".lock").write_text(other))
    with pytest.raises(LockedError, match="process 7 on elsewhere"), locked(place(str(tmp_path))):
        pass
    assert (tmp_path / ".lock").read_text() == other


def test_write_leaves_nothing_half_written(tmp_path):
    target = place(str(tmp_path / "new" / "file"))
    target.write(b"old")

    class Broken:
        def __len__(self):
            raise OSError("full")

    with pytest.raises((StorageError, TypeError, OSError)):
        target.write(Broken())
    assert target.read() == b"old"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_rows_give_the_faces_back(reconstruct):
    faces = reconstruct(read_image(PHOTO), [(170, 60, 110, 130), (20, 30, 80, 90)])
    table = table_of(rows_of("p.jpg", faces) + rows_of("empty.jpg", []) + rows_of("bad.jpg", [], "why"), ORIGIN)
    rows = pq.read_table(fs_buffer(to_bytes(table))).to_pylist()
    assert [(row["path"], row["face"], row["error"]) for row in rows] == [
        ("p.jpg", 0, None),
        ("p.jpg", 1, None),
        ("empty.jpg", None, None),
        ("bad.jpg", None, "why"),
    ]
    for row, face in zip(rows, faces, strict=False):
        again = face_of(row, reconstruct.face_model)
        for name in ("params", "landmarks", "vertices"):
            np.testing.assert_array_equal(getattr(again, name), getattr(face, name))
        assert (again.box, again.score, again.roi, again.pose.yaw) == (face.box, face.score, face.roi, row["yaw"])
        assert row["visible"] == face.visible.tolist()
    with pytest.raises(FileFormatError):
        face_of(rows[2], reconstruct.face_model)


def fs_buffer(data):
    import pyarrow as pa

    return pa.BufferReader(data)


def memory():
    pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    filesystem = MemoryFileSystem(skip_instance_cache=True)
    filesystem.store, filesystem.pseudo_dirs = {}, [""]
    return Place(filesystem=fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path="/out", prefix="memory://")


@pytest.fixture(params=["local", "memory"])
def out(request, tmp_path):
    return place(str(tmp_path / "out")) if request.param == "local" else memory()


def write_part(out, rows, origin=ORIGIN):
    target = out / part_name([row["path"] for row in rows])
    target.write(to_bytes(table_of(rows, origin)))
    return target


def test_photos_done(out):
    assert photos_done(out, ORIGIN) == set()
    write_part(out, rows_of("a", []) + rows_of("b", [], "broken"))
    damaged = write_part(out, rows_of("c", []))
    damaged.write(damaged.read()[:-20])
    (out / ".part-x.parquet.1.part").write(b"of a worker that was killed")
    (out / "notes.parquet").write(b"not ours")
    assert photos_done(out, ORIGIN) == {"a", "b"}
    names = sorted(info.path.rpartition("/")[2] for info in out.files())
    assert names == sorted(["notes.parquet", part_name(["a", "b"]), part_name(["c"]) + ".damaged"])
    assert photos_done(out, ORIGIN) == {"a", "b"}
    write_part(
        out, rows_of("v.mp4", []) + rows_of("v.mp4", [], "cut off")
    )  # a row that is good before one that says why
    assert forget_errors(out) == 2
    assert photos_done(out, ORIGIN) == {"a"}
    assert forget_errors(out) == 0


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (Origin(engine_sha256="1" * 64, face_model_sha256="f" * 64, manifest="{}"), "another engine"),
        (Origin(engine_sha256="e" * 64, face_model_sha256="1" * 64, manifest="{}"), "another face model"),
        (None, "another file"),
    ],
)
def test_results_of_others_are_not_mixed(tmp_path, origin, message):
    out = place(str(tmp_path))
    write_part(out, rows_of("a", []), origin)
    with pytest.raises(MismatchError, match=message):
        photos_done(out, ORIGIN)
    assert len(parts(out)) == 1


def test_cut_covers_all_once():
    for count, workers in ((1, 2), (40, 2), (2000, 2), (10**4, 4)):
        photos = [Place(filesystem=None, path=f"{i}.jpg", prefix="") for i in range(count)]
        video = Place(filesystem=None, path="talk.MP4", prefix="")
        first, *pieces = cut([*photos[:1], video, *photos[1:]], workers)
        assert first == [video]
        assert [p for piece in pieces for p in piece] == photos
        assert max(map(len, pieces)) <= 512 and (len(pieces) >= workers or count < 32)
        assert all(len(piece) <= 16 for piece in pieces[-workers:])  # nobody waits long for the last one


def test_schema_is_documented():
    import serving.rows

    for name in SCHEMA.names:
        assert name in serving.rows.__doc__
