"""The served model: its answers, what it refuses, and that one wrong request never touches another."""

import dataclasses
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from runtime import FileFormatError, InvalidInputError, MismatchError, load_face_model, read_image
from serving import client as client_module
from serving.client import FaceClient, ServerError
from serving.faces_model import answer
from serving.local_server import free_port
from serving.protocol import pack_faces, unpack_faces
from serving.triton import write_repository
from tests.serving.conftest import EDGE, PHOTO

BOXES = [(170.0, 60.0, 110.0, 130.0), (20.0, 30.0, 80.0, 90.0)]


def as_bytes(data):
    return np.array([[data]], dtype=np.object_)


def assert_equal(faces, expected):
    """Equal up to the last digits: sums of another process need not be taken in the same order."""
    assert len(faces) == len(expected) > 0
    for face, other in zip(faces, expected, strict=True):
        numbers = [[*each.box, each.score, *dataclasses.astuple(each.roi)] for each in (face, other)]
        np.testing.assert_allclose(*numbers, rtol=1e-9)
        np.testing.assert_allclose(face.params, other.params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(face.landmarks, other.landmarks, atol=1e-4)
        np.testing.assert_allclose(face.vertices, other.vertices, atol=1e-4)


@pytest.mark.parametrize("boxes", [None, BOXES])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_answers_are_those_of_local_use(server, reconstruct, protocol, boxes):
    image = read_image(PHOTO)
    turned = image[:, ::-1]  # not contiguous
    with FaceClient(getattr(server, protocol)) as client:
        for sent, same in ((PHOTO, image), (PHOTO.read_bytes(), image), (image, image), (turned, turned)):
            assert_equal(client(sent, boxes), reconstruct(same, boxes))
        assert client(np.zeros((40, 60, 3), np.uint8)) == []


def test_requests_that_wait_share_a_batch(server, reconstruct):
    """16 at once, of different sizes and kinds, on two processes: some batches are larger than 1."""
    image = read_image(PHOTO)
    images = [image[: 400 + i] for i in range(16)]
    sent = [image if i % 2 else cv2.imencode(".png", image)[1].tobytes() for i, image in enumerate(images)] * 3
    expected = [reconstruct(image)[0].landmarks for image in images] * 3
    with FaceClient(server.grpc) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(client, sent))
        (model,) = client._client.get_inference_statistics("faces", as_json=True)["model_stats"]
    for faces, points in zip(answers, expected, strict=True):
        np.testing.assert_allclose(faces[0].landmarks, points, atol=1e-4)
    assert max(int(entry["batch_size"]) for entry in model["batch_stats"]) > 1


MALFORMED = {
    "no image": {},
    "both": {"image": (as_bytes(PHOTO.read_bytes()), "BYTES"), "pixels": (np.zeros((1, 9, 9, 3), np.uint8), "UINT8")},
    "no file": {"image": (as_bytes(b"\xff\xd8\xff" + bytes(500)), "BYTES")},
    "empty": {"image": (as_bytes(b""), "BYTES")},
    "two images": {"image": (np.array([[b"a"], [b"b"]], dtype=np.object_), "BYTES")},
    "image of another type": {"image": (np.zeros((1, 1), np.uint8), "UINT8")},
    "image of another shape": {"image": (np.array([[b"a", b"b"]], dtype=np.object_), "BYTES")},
    "pixels without a batch": {"pixels": (np.zeros((9, 9, 3), np.uint8), "UINT8")},
    "pixels of another type": {"pixels": (np.zeros((1, 9, 9, 3), np.float32), "FP32")},
    "pixels of four channels": {"pixels": (np.zeros((1, 9, 9, 4), np.uint8), "UINT8")},
    "no pixels": {"pixels": (np.zeros((1, 0, 9, 3), np.uint8), "UINT8")},
    "boxes of three": {"image": (as_bytes(PHOTO.read_bytes()), "BYTES"), "boxes": (np.zeros((1, 2, 3)), "FP64")},
    "box of NaN": {"image": (as_bytes(PHOTO.read_bytes()), "BYTES"), "boxes": (np.full((1, 1, 4), np.nan), "FP64")},
    "box without area": {"image": (as_bytes(PHOTO.read_bytes()), "BYTES"), "boxes": (np.zeros((1, 1, 4)), "FP64")},
    "unknown input": {"picture": (as_bytes(b"a"), "BYTES")},
}


def send(client, tensors):
    inputs = []
    for name, (values, datatype) in tensors.items():
        inputs.append(client._triton.InferInput(name, list(values.shape), datatype))
        inputs[-1].set_data_from_numpy(values)
    return client._ask("infer", "faces", inputs)


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_malformed_request_gets_an_error_of_one_line(server, protocol, case):
    with FaceClient(getattr(server, protocol)) as client, pytest.raises(InvalidInputError) as caught:
        send(client, MALFORMED[case])
    assert "\n" not in str(caught.value)


def memory(pid):
    """MiB of a process and of those that it started."""
    tasks = [pid, *(int(p) for t in Path(f"/proc/{pid}/task").iterdir() for p in (t / "children").read_text().split())]
    return sum(int(Path(f"/proc/{task}/statm").read_text().split()[1]) for task in tasks) * 4096 / 2**20


def test_malformed_requests_among_good_ones(server, reconstruct):
    """1,000 wrong ones from two threads, good ones from a third: all good ones answered, memory level."""
    image = read_image(PHOTO)
    expected = reconstruct(image)[0].landmarks
    done = threading.Event()
    with FaceClient(server.grpc, timeout=60) as client, ThreadPoolExecutor(3) as pool:

        def good():
            count = 0
            while not done.is_set() or not count:
                np.testing.assert_allclose(client(PHOTO)[0].landmarks, expected, atol=1e-4)
                count += 1
            return count

        def wrong(first):
            refused = 0
            for i in range(500):
                try:
                    send(client, list(MALFORMED.values())[(first + i) % len(MALFORMED)])
                except InvalidInputError:
                    refused += 1
            return refused

        answered = pool.submit(good)
        first = [pool.submit(wrong, 0), pool.submit(wrong, 7)]
        levels = []
        while not all(f.done() for f in first):
            levels.append(memory(server.pid))
            done.wait(0.2)
        done.set()
        assert [f.result() for f in first] == [500, 500]
        assert answered.result() > 0
    assert server.is_running()
    half = len(levels) // 2
    assert max(levels[half:]) < max(levels[:half]) + 30  # MiB


def test_answer_keeps_wrong_requests_apart(reconstruct):
    image = read_image(PHOTO)
    good = {"pixels": image[None]}
    huge = {"image": as_bytes(bytes(64 * 2**20 + 1))}
    answers = answer(reconstruct, [{}, good, huge, {"image": as_bytes(b"no")}, good | {"boxes": np.array([BOXES])}])
    assert [type(a) for a in answers] == [InvalidInputError, list, InvalidInputError, FileFormatError, list]
    assert "at most" in str(answers[2])
    np.testing.assert_array_equal(answers[1][0].landmarks, reconstruct(image)[0].landmarks)
    assert len(answers[4]) == len(BOXES)


@pytest.mark.parametrize(
    "change",
    [
        {"landmarks": None},
        {"params": np.zeros((1, 2, 61), np.float32)},
        {"scores": np.zeros((1, 1))},
        {"boxes": np.zeros((1, 2, 4), np.float32)},
    ],
)
def test_an_answer_of_another_shape_is_refused(reconstruct, change):
    model = reconstruct.face_model
    tensors = pack_faces(reconstruct(read_image(PHOTO), BOXES), model.num_params)
    assert len(unpack_faces(tensors, model, 128)) == 2
    with pytest.raises(FileFormatError, match="same version"):
        unpack_faces(tensors | change, model, 128)


@pytest.mark.slow
def test_a_server_ends_with_the_command_that_started_it(server, tmp_path):
    """Ended by `kill`, not by Ctrl-C; what it says is there at once, though nobody's terminal shows it."""
    ports = [free_port(), free_port()]
    write_repository(EDGE, tmp_path, instances=1)
    arguments = ["-m", "serving.local_server", tmp_path, "--grpc-port", ports[0], "--http-port", ports[1]]
    with subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert f"grpc://127.0.0.1:{ports[0]}" in started.stdout.readline()
            started.terminate()
            assert started.wait(30) == 128 + signal.SIGTERM
        finally:
            started.kill()
    with pytest.raises(ServerError, match="no server answers"):
        FaceClient(f"http://127.0.0.1:{ports[1]}", timeout=2)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_no_server_is_one_line(capsys, scheme):
    url = f"{scheme}://127.0.0.1:{free_port()}"
    assert client_module.main([url, str(PHOTO), "--timeout", "2"]) == 2
    error = capsys.readouterr().err
    assert "no server answers there" in error and error.count("\n") == 1


def test_a_silent_server_runs_out_of_time():
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        for scheme in ("grpc", "http"):
            with pytest.raises(ServerError, match=f"{scheme}://"):
                FaceClient(f"{scheme}://127.0.0.1:{port}", timeout=0.5)


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "ftp://host:1", "grpc://host:1/path", ""])
def test_urls_that_are_none(url):
    with pytest.raises(InvalidInputError, match="grpc://HOST:PORT"):
        FaceClient(url)


def test_answers_without_content_name_their_cause(server, monkeypatch):
    """What a server gives whose Python backend was built before NumPy 2, and runs with it."""
    with FaceClient(server.grpc) as client:
        whole = client._ask

        def without_content(method, *arguments, **options):
            reply = whole(method, *arguments, **options)
            reply._result.raw_output_contents[:] = [b""] * len(reply._result.raw_output_contents)
            return reply

        monkeypatch.setattr(client, "_ask", without_content)
        with pytest.raises(ServerError, match="numpy<2"):
            client(PHOTO)


def test_client_refusals(server):
    model = load_face_model()
    with pytest.raises(MismatchError, match="pass the same one"):
        FaceClient(server.grpc, face_model=dataclasses.replace(model, sha256="0" * 64))
    with pytest.raises(ServerError, match="other"):
        FaceClient(server.http, model="other")
    with FaceClient(server.grpc) as client:
        with pytest.raises(InvalidInputError, match="at most"):
            client(np.zeros((8192, 8192, 3), np.uint8))
        with pytest.raises(InvalidInputError, match="rows of"):
            client(PHOTO, boxes=[(1, 2)])
        with pytest.raises(FileNotFoundError):
            client("none.jpg")
