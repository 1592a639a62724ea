"""`python -m benchmarks.int8 --data aflw2000:DIR`: what INT8 costs, against the FP32 graph: NME, and steadiness.

Steadiness: a still face in front of a camera whose pixels are noisy (Gaussian, each pixel, colour and frame by itself).
The region stays, so all that moves is the network's answer. Jitter is the mean second difference of the landmarks, in %
of the face's size (the square root of the area of the landmarks' box); both graphs see the same frames.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import device, versions
from benchmarks.output import add_outputs, number, publish, run, table
from export.equalization import noisy
from runtime import InvalidInputError, Roi, crop, load_face_model, read_image
from runtime.command import command
from runtime.engines import load_engine
from runtime.face_model import FaceModel
from training.data.aflw2000 import AnnotatedFace, load_aflw2000
from training.evaluation.metrics import second_difference
from training.evaluation.photographs import study_photographs

_ASSETS = Path(__file__).parent.parent / "runtime" / "assets"
Network = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def jitter(
    networks: Sequence[Network],
    size: int,
    face_model: FaceModel,
    faces: Sequence[AnnotatedFace],
    *,
    noise: float,
    frames: int,
) -> NDArray[np.float64]:
    """Jitter (N, F) of each network on each face, % of its size; `noise` is the deviation in grey levels of 255."""
    generator = np.random.default_rng(0)
    results = np.empty((len(networks), len(faces)))
    for place, face in enumerate(faces):
        image, roi = read_image(face.image_path), Roi.from_landmarks(face.landmarks)
        crops = np.concatenate([crop(noisy(image, noise, generator), [roi], size) for _ in range(frames)])
        scale = roi.side / size
        spread = float(np.sqrt(np.ptp(face.landmarks[:, :2], axis=0).prod()))
        for row, network in enumerate(networks):
            points = scale * face_model.landmarks(network(crops))[..., :2]  # (frames, 68, 2)
            results[row, place] = 100 * second_difference(points) / spread
    return results


def _measure(options: argparse.Namespace) -> None:
    kind, _, folder = options.data.partition(":")
    if kind != "aflw2000" or not folder:
        raise InvalidInputError(f"--data: expected aflw2000:DIR, got {options.data}")
    if options.frames < 3 or options.faces < 1:
        raise InvalidInputError("expected --frames from 3 on and --faces from 1 on")
    faces, face_model = load_aflw2000(folder), load_face_model()
    still = faces[:: max(len(faces) // options.faces, 1)][: options.faces]
    with load_engine(options.exact, threads=1) as exact, load_engine(options.int8, threads=1) as int8:
        size = exact.manifest.input_size
        nmes = [
            study_photographs(network, size, face_model, faces, progress=sys.stderr.isatty()).accuracy.nme.mean
            for network in (exact, int8)
        ]
        ratios: dict[str, dict[str, float]] = {}
        for noise in options.noise:
            both = jitter([exact, int8], size, face_model, still, noise=noise, frames=options.frames).mean(axis=1)
            ratios[f"{noise:g}"] = {"fp32": both[0], "int8": both[1], "ratio": both[1] / both[0]}
    values: dict[str, Any] = {
        "machine": device(),
        "versions": versions(),
        "faces": len(faces),
        "nme_fp32": nmes[0],
        "nme_int8": nmes[1],
        "delta_nme": nmes[1] - nmes[0],
        "jitter": ratios,
    }
    columns = ("figure", "FP32", "INT8", "INT8 against FP32")
    rows = [
        [f"NME, % (mean of bins, {len(faces)} photographs)", number(nmes[0], 3), number(nmes[1], 3),
         f"{values['delta_nme']:+.3f}"],
        *([f"jitter, % of the face, noise {noise} of 255 ({len(still)} faces, {options.frames} frames)",
           number(row["fp32"], 4), number(row["int8"], 4), f"× {row['ratio']:.3f}"] for noise, row in ratios.items()),
    ]  # fmt: skip
    publish(values, table(columns, rows), options)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--data", required=True, metavar="aflw2000:DIR", help="annotated photographs")
    add("--exact", type=Path, default=_ASSETS / "edge.onnx", help="the FP32 graph (default: the bundled one)")
    add("--int8", type=Path, default=_ASSETS / "edge.int8.onnx", help="the INT8 graph (default: the bundled one)")
    add("--faces", type=int, default=48, help="still faces, taken evenly from the set (default: 48)")
    add("--frames", type=int, default=32, help="of each (default: 32)")
    add("--noise", type=float, nargs="+", default=[2.0, 4.0, 8.0], help="its deviations, in grey levels")
    add_outputs(parser)
    options = parser.parse_args(arguments)
    return run(lambda: _measure(options))


if __name__ == "__main__":
    sys.exit(main())
