"""Every reader of files that users bring, with good files to damage; and odd arrays for `Reconstructor`."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from PIL import Image
from scipy.io import savemat

from runtime import InvalidInputError, Manifest, Reconstructor, load_face_model, read_image
from runtime.__main__ import _read_boxes
from runtime.convert.mat_files import load_mat
from runtime.convert.plain_pickle import read_plain_pickle
from runtime.engines import load_engine
from runtime.face_model import LANDMARKS
from runtime.image import decode_noted
from runtime.items import Item
from runtime.manifest import ONNX_KEY
from runtime.results import LIST_NAME, Results
from runtime.safetensors import read as read_safetensors
from runtime.video import read_video
from training.checkpoint import load_checkpoint
from training.config import load_config
from training.data.aflw import load_aflw
from training.data.aflw2000 import load_aflw2000
from training.data.points import load_own, load_pts

ROOT = Path(__file__).resolve().parents[2]
_PHOTO = ROOT / "examples" / "astronaut.jpg"
_FRAMES = 20


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What reads a file, and good files of its kind."""

    name: str
    file: str
    seeds: Sequence[bytes]
    read: Callable[[Path], Any]
    weight: int = 1
    """Share of the samples."""


def readers() -> list[Reader]:
    """The table; loading what they need belongs to the process that forks."""
    assets = ROOT / "runtime" / "assets"
    engine = (assets / "edge.onnx").read_bytes()
    properties = onnx.load_from_string(engine).metadata_props  # no session here: its threads would not be forked along
    manifest = next(entry.value for entry in properties if entry.key == ONNX_KEY).encode()
    points = np.random.default_rng(0).uniform(5, 90, (LANDMARKS, 2))
    row = ",".join(f"{v:.2f}" for v in points.ravel())
    pts = "version: 1\nn_points: 68\n{\n" + "".join(f"{x:.2f} {y:.2f}\n" for x, y in points) + "}\n"
    box = [b"a.jpg,5,5,60,70\n", "﻿file;x;y;w;h\na.jpg;5,5;5;60;70\n".encode()]
    entry = {"stem": "a", "source": "a.jpg", "content": "0" * 64, "settings": "1" * 64, "files": {"a.json": "2" * 64}}
    return [
        Reader(name="image", file="a.jpg", seeds=_images(), read=_read_image, weight=6),
        Reader(name="engine", file="a.onnx", seeds=[engine], read=_run_engine, weight=2),
        Reader(name="int8 engine", file="a.onnx", seeds=[(assets / "edge.int8.onnx").read_bytes()], read=_run_engine),
        Reader(
            name="face model",
            file="a.safetensors",
            seeds=[(assets / "face_model.safetensors").read_bytes()],
            read=load_face_model,
            weight=2,
        ),
        Reader(name="safetensors", file="a.safetensors", seeds=[_small_tensors()], read=read_safetensors, weight=2),
        Reader(
            name="checkpoint",
            file="a.pth",
            seeds=[(ROOT / "checkpoints" / "edge.pth").read_bytes()],
            read=load_checkpoint,
            weight=2,
        ),
        Reader(
            name="manifest",
            file="a.json",
            seeds=[manifest, _without_seal(manifest)],
            read=lambda path: Manifest.from_json(path.read_bytes(), name="m"),
        ),
        Reader(
            name="config",
            file="a.toml",
            seeds=[(ROOT / "training" / "configs" / "edge.toml").read_bytes()],
            read=lambda path: load_config(str(path)),
        ),
        Reader(name=".mat", file="a.mat", seeds=_mats(points), read=_read_mat, weight=2),
        Reader(name=".pts", file="a.pts", seeds=[pts.encode()], read=_beside_photo(load_pts)),
        Reader(
            name="points.csv",
            file="points.csv",
            seeds=[f"a.jpg,{row}\n".encode(), f"file\ta\na.jpg\t{row}".replace(",", "\t").encode("utf-16")],
            read=_beside_photo(load_own),
        ),
        Reader(name="boxes.csv", file="boxes.csv", seeds=box, read=_with_points(f"a.jpg,{row}\n")),
        Reader(name="aflw.sqlite", file="aflw.sqlite", seeds=[_aflw()], read=lambda path: load_aflw(path.parent)),
        Reader(name="pickle", file="a.pkl", seeds=_pickles(), read=read_plain_pickle),
        Reader(
            name="boxes.json",
            file="boxes.json",
            seeds=[b'{"a.jpg": [[1, 2, 30, 40]]}', b"[[1, 2, 30, 40, 5]]"],
            read=_use_boxes,
        ),
        Reader(
            name="list of results",
            file=LIST_NAME,
            seeds=[(json.dumps(entry) + "\n").encode() * 2],
            read=lambda path: Results(path.parent).save("b", path, "", "", lambda t: t(".json").write_text("")),
        ),
        Reader(name="video", file="a.mp4", seeds=_videos(), read=_read_frames, weight=2),
    ]


def _without_seal(manifest: bytes) -> bytes:
    """The manifest as it may be written by hand: a change of it is not refused by its SHA-256 alone."""
    values = json.loads(manifest)
    del values["sha256"]
    return json.dumps(values, indent=1).encode()


def odd_arrays(number: int) -> None:
    """A hundred odd images and boxes at a `Reconstructor`: each gives faces or an `InvalidInputError`."""
    random = np.random.default_rng(number)
    with Reconstructor(threads=1) as reconstruct:
        for _ in range(100):
            image, boxes = _odd_image(random), _odd_boxes(random)
            try:
                for face in reconstruct(image, boxes):
                    assert np.isfinite(face.landmarks).all() and np.isfinite(face.pose.yaw)
            except InvalidInputError as error:
                assert "expected" in str(error)


def _odd_image(random: np.random.Generator) -> Any:
    kinds = (np.uint8, np.uint8, np.uint8, np.uint8, np.float32, np.int64, np.bool_, object, np.complex64, "S1")
    if random.random() < 0.05:
        return (None, 7, "image", [[1]], b"x", np.uint8(3), (), {}, float("nan"))[random.integers(0, 9)]
    shape = [int(random.choice((0, 1, 2, 3, 7, 64, 300, 33000 if random.random() < 0.1 else 5))) for _ in range(2)]
    if np.prod(shape) > 1e6:
        shape[1] = 1
    shape += ([], [1], [3], [3], [3], [4], [2], [0], [3, 1])[random.integers(0, 9)]
    image = (random.random(shape) * 255).astype(kinds[random.integers(0, len(kinds))])
    return (image, image[::-1], image[:, ::2], np.asfortranarray(image), image.T)[random.integers(0, 5)]


def _odd_boxes(random: np.random.Generator) -> Any:
    if random.random() < 0.1:
        return (None, 7, "boxes", [], [None], [[]], [[[1]]], {}, [(1, 2, 3)])[random.integers(0, 9)]
    numbers = (0, 1, -1, 0.5, 30, 100, 1e4, 1e9, -1e300, 1e-300, np.nan, np.inf, 2**70, "5", None, True)
    width = int(random.choice((4, 4, 4, 4, 5, 5, 3, 6)))
    return [[numbers[i] for i in random.integers(0, len(numbers), width)] for _ in range(random.integers(0, 4))]


def _images() -> list[bytes]:
    import pillow_heif

    pillow_heif.register_heif_opener()
    picture, exif = Image.open(_PHOTO).convert("RGB").resize((72, 56)), Image.Exif()
    exif[274] = 6
    formats = ("JPEG", "PNG", "WebP", "AVIF", "HEIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM")
    files = []
    for name in formats:
        buffer = io.BytesIO()
        picture.save(
            buffer, name, **({"exif": exif.tobytes()} if name not in ("BMP", "GIF", "JPEG2000", "PPM") else {})
        )
        files.append(buffer.getvalue())
    progressive = io.BytesIO()
    picture.save(progressive, "JPEG", progressive=True)
    deep = cv2.imencode(".png", (np.random.default_rng(0).random((20, 20, 3)) * 65535).astype(np.uint16))[1]
    return [*files, progressive.getvalue(), deep.tobytes()]


def _read_image(path: Path) -> None:
    decode_noted(path.read_bytes(), name=path.name)
    read_image(path)


def _run_engine(path: Path) -> None:
    with load_engine(path, threads=1) as engine:
        size = engine.manifest.input_size
        engine(np.zeros((1, size, size, 3), np.uint8))


def _small_tensors() -> bytes:
    from safetensors.numpy import save

    return save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(4, np.int32)}, {"k": "v"})


def _mats(points: np.ndarray) -> list[bytes]:
    content = {
        "pt3d_68": np.vstack([points.T, np.zeros(LANDMARKS)]),
        "Pose_Para": np.array([[0.1, 0.2, 0.3, 50, 50, 0, 1e-3]]),
    }
    files = []
    for compressed in (False, True):
        buffer = io.BytesIO()
        savemat(buffer, content, do_compression=compressed)
        files.append(buffer.getvalue())
    return files


def _read_mat(path: Path) -> None:
    load_mat(path)
    shutil.copy(_PHOTO, path.with_suffix(".jpg"))
    load_aflw2000(path.parent)


def _beside_photo(load: Callable[[Path], Any]) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        shutil.copy(_PHOTO, path.parent / "a.jpg")
        load(path.parent)

    return read


def _with_points(text: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        (path.parent / "points.csv").write_text(text)
        _beside_photo(load_own)(path)

    return read


def _aflw() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "aflw.sqlite"
        with closing(sqlite3.connect(path)) as database:
            database.executescript(
                "CREATE TABLE Faces (face_id, file_id); CREATE TABLE FaceImages (file_id, filepath);"
                "CREATE TABLE FeatureCoords (face_id, feature_id, x, y); CREATE TABLE FaceRect (face_id, x, y, w, h);"
                "CREATE TABLE FacePose (face_id, yaw); INSERT INTO Faces VALUES (1, 'a');"
                "INSERT INTO FaceImages VALUES ('a', '0/a.jpg'); INSERT INTO FaceRect VALUES (1, 5, 5, 60, 70);"
                "INSERT INTO FeatureCoords VALUES (1, 1, 10.0, 20.0), (1, 2, 30.0, 20.0);"
            )
        return path.read_bytes()


def _pickles() -> list[bytes]:
    import pickle

    content = {"param_mean": np.zeros(62, np.float32), "names": ["a", "b"]}
    return [pickle.dumps(content, protocol) for protocol in (2, 4)] + [pickle.dumps(np.zeros((3, 62), np.float32))]


def _use_boxes(path: Path) -> None:
    boxes = _read_boxes(path, [Item(path=Path("a.jpg"), stem="a")])
    with Reconstructor(threads=1) as reconstruct:
        for given in boxes.values():
            reconstruct(np.zeros((100, 100, 3), np.uint8), given)


def _videos() -> list[bytes]:
    import av

    files = []
    for kind, codec in (("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mjpeg")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for i in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8), format="bgr24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        files.append(buffer.getvalue())
    return files


def _read_frames(path: Path) -> None:
    for _ in itertools.islice(read_video(path), _FRAMES):
        pass
