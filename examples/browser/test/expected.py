"""Writes what the page's test needs into a folder: pictures, what the Python runtime says of them, and a camera's clip.

`python expected.py DIR [--quick]`; quick: the astronaut alone, and no clip. The clip's frames carry their number as
eight black or white squares at the top left.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime import Reconstructor, read_image
from runtime.tracking import Tracker

ROOT = Path(__file__).parents[3]
ENGINES = ("edge.onnx", "edge.int8.onnx")  # the first is the tracker's
ASTRONAUT = ROOT / "examples/astronaut.jpg"
FRAMES_A_SECOND = 30
CLIP_FRAMES, CLIP_WIDTH, CLIP_HEIGHT = 90, 640, 480
CODE = 16  # pixels of a square of the frame's number

Image = NDArray[np.uint8]


def pictures(out: Path, reconstruct: Reconstructor) -> list[str]:
    """Writes renders and what is made of the astronaut for the parity test; their names."""
    upright, turned, large = _renders(reconstruct)
    matrix = cv2.getRotationMatrix2D((200, 200), -35, 1)
    images = {
        "render.png": upright,
        "render_turned.png": cv2.warpAffine(turned, matrix, (400, 400), borderMode=cv2.BORDER_REFLECT),
        # So large that both the detector and the crop average blocks of pixels.
        "render_large.png": cv2.resize(large, (4000, 4000), interpolation=cv2.INTER_CUBIC),
        "two_faces.png": np.hstack([read_image(ASTRONAUT), read_image(ASTRONAUT)[:, ::-1]]),
    }
    for name, image in images.items():
        cv2.imwrite(str(out / name), image)
    return list(images)


def faces_of(path: Path, reconstruct: Reconstructor) -> list[dict[str, Any]]:
    """What the Python runtime says of a picture."""
    faces = reconstruct(read_image(path))
    assert faces, f"{path}: the runtime finds no face"
    return [
        {
            **face.to_dict(),
            "vertices": face.vertices.tolist(),
            "rotation": face.pose.rotation.tolist(),
            "crop_scale": face.roi.side / face.crop_size,
        }
        for face in faces
    ]


def _renders(reconstruct: Reconstructor) -> list[Image]:
    from training.synthetic.factory import FaceFactory  # slow to import

    factory = FaceFactory(size=400, margin=1.8, seed=7)
    renders = (factory.sample(index).image for index in range(100))
    found = (image for image in renders if any(face.score > 0.75 for face in reconstruct(image)))
    return [next(found) for _ in range(3)]


def bad_input(out: Path) -> None:
    """No picture, one without a face, and one of a single pixel."""
    (out / "wrong.png").write_bytes(b"this is no picture")
    sky = np.linspace(60, 200, 300).astype(np.uint8)
    cv2.imwrite(str(out / "no_face.png"), np.repeat(np.repeat(sky[:, None, None], 400, axis=1), 3, axis=2))
    cv2.imwrite(str(out / "one_pixel.png"), np.full((1, 1, 3), 128, np.uint8))


def clip(out: Path, reconstruct: Reconstructor) -> list[Any]:
    """A clip in which the astronaut's face moves, comes nearer and turns in the plane.

    For each frame: the JPEG's place in the file, its true landmarks (x, y), and what a `Tracker` says of it.
    """
    tracker = Tracker(reconstruct)
    image = read_image(ASTRONAUT)
    landmarks = reconstruct(image)[0].landmarks[:, :2]
    middle = landmarks.mean(axis=0)
    frames = []
    with (out / "clip.mjpeg").open("wb") as file:
        for index in range(CLIP_FRAMES):
            phase = 2 * np.pi * index / CLIP_FRAMES
            matrix = cv2.getRotationMatrix2D(middle.tolist(), 12 * np.sin(phase), 1.4 + 0.25 * np.sin(2 * phase))
            target = np.array([CLIP_WIDTH / 2 + 110 * np.sin(phase), CLIP_HEIGHT / 2 + 40 * np.cos(phase)])
            matrix[:, 2] += target - middle
            frame = cv2.warpAffine(image, matrix, (CLIP_WIDTH, CLIP_HEIGHT), borderMode=cv2.BORDER_REFLECT)
            for bit in range(8):
                frame[:CODE, bit * CODE : (bit + 1) * CODE] = 255 * (index >> bit & 1)
            data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            tracked = tracker(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8), index / FRAMES_A_SECOND)
            frames.append(
                {
                    "bytes": [file.tell(), file.tell() + data.size],
                    "truth": (landmarks @ matrix[:, :2].T + matrix[:, 2]).tolist(),
                    "tracked": [{"id": face.id, "landmarks": face.landmarks.tolist()} for face in tracked],
                }
            )
            file.write(data.tobytes())
    return frames


def main(out: Path, *, quick: bool) -> None:
    """Writes everything, or the little that a quick test needs."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(ASTRONAUT, out / "astronaut.jpg")
    names = ["astronaut.jpg"]
    values: dict[str, Any] = {"pictures": {}, "clip": [], "code": CODE, "rate": FRAMES_A_SECOND}
    for engine in ENGINES:
        with Reconstructor(ROOT / "runtime/assets" / engine) as reconstruct:
            if not quick and not values["clip"]:
                names += pictures(out, reconstruct)
                values["clip"] = clip(out, reconstruct)
            if not quick and engine == ENGINES[0]:
                image = read_image(ASTRONAUT)
                reconstruct(image)[0].save_glb(out / "runtime.glb", image)
            values["pictures"][engine] = {name: faces_of(out / name, reconstruct) for name in names}
    bad_input(out)
    (out / "expected.json").write_text(json.dumps(values), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), quick="--quick" in sys.argv)
