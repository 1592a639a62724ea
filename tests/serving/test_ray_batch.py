"""Runs of `python -m serving.ray_batch` with Ray, as a user starts them."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")
pytest.importorskip("onnxruntime")

import pyarrow.parquet as pq

from runtime import read_image
from tests.serving.conftest import PHOTO

ROOT = Path(__file__).parents[2]
NICENESS = {"RAY_worker_niceness": "0"}  # a loaded machine starves what is as nice as Ray makes it


def command(*arguments):
    return [sys.executable, "-m", "serving.ray_batch", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | NICENESS
    )


def folder_of(path, count):
    path.mkdir(parents=True)
    for i in range(count):
        os.link(PHOTO, path / f"{i:04}.jpg") if path.stat().st_dev == PHOTO.stat().st_dev else (
            path / f"{i:04}.jpg"
        ).symlink_to(PHOTO)
    return path


def rows_in(out):
    return pq.read_table(out).to_pylist()


def test_a_run_and_the_next(tmp_path, reconstruct):
    """Two workers where eight were asked for; a second run adds what is new and doubles nothing."""
    photos = folder_of(tmp_path / "photos" / "deep", 6).parent
    (photos / "bad.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    first = run(photos, "--out", out, "--workers", 8, "--part", 3)
    assert first.returncode == 1, first.stderr
    assert "6 faces in 7 photos" in first.stdout and "1 skipped" in first.stdout
    (error,) = [line for line in first.stderr.splitlines() if "core_worker.cc" not in line]  # Ray's own advice
    assert error.startswith(f"error: skipped {photos}/bad.jpg: expected an image")
    expected = reconstruct(read_image(PHOTO))[0]
    rows = rows_in(out)
    assert Counter(row["path"] for row in rows) == Counter(map(str, photos.rglob("*.jpg")))
    for row in rows:
        if row["face"] is not None:
            np.testing.assert_array_equal(np.float32(row["landmarks"]), expected.landmarks)
            assert row["yaw"] == expected.pose.yaw
    assert pq.read_schema(next(out.glob("*.parquet"))).metadata[b"cln.engine_sha256"]

    again = run(photos, "--out", out)
    assert (again.returncode, again.stderr) == (0, "") and "7 of 7 photos have rows" in again.stdout
    other = run(photos, "--out", out, "--engine", ROOT / "runtime" / "assets" / "edge.int8.onnx")
    assert other.returncode == 2 and "made by another engine" in other.stderr and other.stderr.count("\n") == 1
    assert rows_in(out) == rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["worker killed", "worker killed, then run killed", "run interrupted", "run terminated"]
)
def test_nothing_is_lost_and_nothing_is_there_twice(tmp_path, how):
    stops = {"run interrupted": (signal.SIGINT, 130), "run terminated": (signal.SIGTERM, 143)}
    photos = folder_of(tmp_path / "photos", 400)
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(photos, "--out", out, "--part", 20),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | NICENESS,
    )
    try:
        wait_for(lambda: len(list(out.glob("*.parquet"))) >= 3)
        if "worker killed" in how:
            os.kill(a_worker(process.pid), signal.SIGKILL)
        if "run killed" in how:
            wait_for(lambda: len(list(out.glob("*.parquet"))) >= 6)
            os.killpg(process.pid, signal.SIGKILL)
        if how in stops:
            process.send_signal(stops[how][0])
        text = process.communicate(timeout=200)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if how == "worker killed":
        assert process.returncode == 0, text
    else:
        assert process.returncode == (stops[how][1] if how in stops else -signal.SIGKILL), text
        assert how not in stops or text.splitlines()[-1].endswith("what is done is kept; run again to go on"), text
        assert 0 < len(rows_in(out)) < 400
        wait_for(lambda: not workers())  # Ray's own processes notice that the run is gone
        assert run(photos, "--out", out).returncode == 0
    assert Counter(row["path"] for row in rows_in(out)) == Counter(map(str, photos.iterdir()))


@pytest.mark.slow
def test_a_photograph_that_crashes_workers_gets_an_error_row(tmp_path):
    """A decoder that crashes, as Python starts it: the run ends by itself, with a row for each photograph."""
    photos = folder_of(tmp_path / "photos", 12)
    (photos / "0005.jpg").unlink()
    (photos / "0005.jpg").write_bytes(PHOTO.read_bytes() + b"deadly")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, cv2\n"
        "decode = cv2.imdecode\n"
        "def imdecode(data, *flags):\n"
        "    if bytes(data[-6:]) == b'deadly': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return decode(data, *flags)\n"
        "cv2.imdecode = imdecode\n"
    )
    environment = os.environ | NICENESS | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    arguments = command(photos, "--out", tmp_path / "out", "--part", 4)
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 1 and "11 faces in 12 photos" in done.stdout, done.stderr
    assert f"skipped {photos}/0005.jpg: " in done.stderr and "2 processes died" in done.stderr
    assert Counter(row["path"] for row in rows_in(tmp_path / "out")) == Counter(map(str, photos.iterdir()))


def wait_for(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def workers():
    """Processes of Ray's that run a `PartWorker`, which they say in their title."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::" in path.read_bytes() and b"PartWorker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def a_worker(driver):
    """One of those that this run has started."""

    def descends(pid):
        while pid > 1:
            if pid == driver:
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return False

    wait_for(lambda: any(descends(pid) for pid in workers()))
    return next(pid for pid in workers() if descends(pid))


@pytest.mark.slow
def test_an_object_store_in_memory(monkeypatch):
    """Photographs from, and rows into, a bucket of an S3 server on loopback that keeps all in memory."""
    server = pytest.importorskip("moto.server", reason="needs: pip install 'moto[server]'")
    from pyarrow import fs

    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        _, port = moto.get_host_and_port()
        options = f"?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        bucket, _ = fs.FileSystem.from_uri(f"s3://faces/{options}&allow_bucket_creation=true")
        bucket.create_dir("faces")
        for name in ("in/a.jpg", "in/deep/b.jpg"):
            with bucket.open_output_stream(f"faces/{name}") as stream:
                stream.write(PHOTO.read_bytes())
        with bucket.open_output_stream("faces/list.txt") as stream:
            stream.write(f"/faces/in/a.jpg\nin/a.jpg\ns3://faces/in/deep/b.jpg{options}".encode())
        to = ("--out", f"s3://faces/out{options}")
        first, again = run(f"s3://faces/list.txt{options}", *to), run(f"s3://faces/in{options}", *to)
        assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
        assert "2 of 2 photos have rows" in again.stdout
        rows = pq.read_table("faces/out", filesystem=bucket).to_pylist()
        assert sorted(row["path"] for row in rows) == ["s3://faces/in/a.jpg", "s3://faces/in/deep/b.jpg"]
    finally:
        moto.stop()


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["s3://bucket", "gs://anonymous@bucket"])
def test_a_bucket_that_cannot_be_reached(bucket):
    result = run(f"{bucket}/photos?scheme=http&endpoint_override=127.0.0.1:9", "--out", "/nowhere")
    assert result.returncode == 2 and "cannot be reached" in result.stderr and result.stderr.count("\n") == 1
