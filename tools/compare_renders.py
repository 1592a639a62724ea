"""What gives renders away: photographs and renders beside each other, each as the median around its landmarks.

    python -m tools.compare_renders --photographs aflw2000/ --assets assets/ --out looks.png
    python -m tools.compare_renders --photographs aflw2000/ --assets assets/ --yaw 60 88 --out profile.png

Both are cut around each landmark, upright, at the same share of the face's size, each patch brought to one mean and
contrast. What one person has, one background, one light, goes away; what all have is left: where brows lie, how deep
eyes sit, how red lips are. Photographs are in the upper row of each pair, with the labels' point in the middle; heads
that look to the right are mirrored.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.command import Exit, command
from runtime.errors import InvalidInputError
from runtime.face_model import LANDMARKS, load_face_model
from runtime.files import write_atomically
from runtime.image import read_image
from runtime.pose import decompose, rotation_to_euler
from runtime.roi import Roi, crop
from training.data.aflw2000 import load_aflw2000
from training.data.landmarks import IBUG_68
from training.synthetic.factory import FaceFactory

Image = NDArray[np.uint8]
Patches = NDArray[np.float32]
"""Of one face: (K, PATCH, PATCH, 3), mean 0."""

SHOWN = (17, 19, 21, 36, 37, 38, 39, 40, 41, 27, 30, 31, 33, 35, 48, 51, 54, 57, 62, 66, 8, 6)
PATCH = 64
_REACH = 0.3  # a patch's side over sqrt(w * h) of the landmarks' box
_GREY_LEVELS = 6.0  # added to a patch's deviation, so that a plain one does not become noise
_CONTRAST, _MIDDLE = 70.0, 128.0
_FEWEST = 10
_PER_ROW = 11


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_renders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR", help="AFLW2000-3D's files")
    parser.add_argument("--assets", type=Path, metavar="DIR", help="CC0 assets to render with (see docs/data.md)")
    parser.add_argument("--yaw", type=float, nargs=2, default=(0, 22), metavar=("FROM", "TO"), help="default: 0 22")
    parser.add_argument("--pitch", type=float, default=30, help="heads that nod further are left out (default: 30)")
    parser.add_argument("--count", type=int, default=300, help="renders (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="the factory's (default: 0)")
    parser.add_argument("--landmarks", type=int, nargs="+", default=SHOWN, metavar="N", help="0 to 67")
    parser.add_argument("--out", type=Path, required=True, help="a .png file")
    options = parser.parse_args(arguments)
    if options.count < _FEWEST or not all(0 <= number < LANDMARKS for number in options.landmarks):
        raise InvalidInputError(f"expected --count of at least {_FEWEST} and landmarks from 0 to {LANDMARKS - 1}")
    chosen = (*options.yaw, options.pitch)
    photographs = [
        patches(read_image(face.image_path), face.landmarks[:, :2], face.yaw, options.landmarks)
        for face in tqdm(load_aflw2000(options.photographs), desc="photographs", disable=None)
        if _within(face.yaw, face.pitch, *chosen)
    ]
    if len(photographs) < _FEWEST:
        raise InvalidInputError(
            f"--yaw: expected at least {_FEWEST} photographs of such heads, got {len(photographs)}; widen it"
        )
    renders = [
        patches(image, landmarks, yaw, options.landmarks)
        for image, landmarks, yaw in _renders(
            FaceFactory(seed=options.seed, assets=options.assets), options.count, chosen
        )
    ]
    picture = sheet(np.median(photographs, axis=0), np.median(renders, axis=0))
    write_atomically(options.out, cv2.imencode(".png", picture)[1].tobytes())
    print(f"{options.out}: {len(photographs)} photographs above {len(renders)} renders")
    return Exit.DONE


def patches(image: Image, landmarks: NDArray[np.floating], yaw: float, numbers: Sequence[int]) -> Patches:
    """What lies around landmarks (68, 2), upright, of one mean and contrast; mirrored where yaw is below 0."""
    points = np.asarray(landmarks, dtype=np.float64)
    if yaw < 0:
        image = np.ascontiguousarray(image[:, ::-1])
        points = points[IBUG_68.mirror] * [-1, 1] + [image.shape[1] - 1, 0]
    up = points[36:48].mean(axis=0) - points[48:68].mean(axis=0)
    angle = math.degrees(math.atan2(up[0], -up[1]))
    side = _REACH * float(np.sqrt(np.ptp(points, axis=0).prod()))
    soft = cv2.GaussianBlur(image, (0, 0), max(0.7 * side / PATCH, 0.3))
    rois = [Roi(center_x=x, center_y=y, side=side, angle=angle) for x, y in points[list(numbers)].tolist()]
    cut = crop(soft, rois, PATCH).astype(np.float32)
    mean, deviation = (of(cut, axis=(1, 2, 3), keepdims=True) for of in (np.mean, np.std))
    return np.asarray((cut - mean) / (deviation + _GREY_LEVELS))


def sheet(above: Patches, below: Patches) -> Image:
    """Both rows of patches, in pairs of rows, each patch with a cross on its landmark."""
    rows = []
    for start in range(0, len(above), _PER_ROW):
        for part in (above, below):
            tiles = [_tile(patch) for patch in part[start : start + _PER_ROW]]
            tiles += [np.zeros_like(tiles[0])] * (_PER_ROW - len(tiles))
            rows.append(np.hstack(tiles))
        rows.append(np.zeros((6, rows[0].shape[1], 3), np.uint8))
    return np.vstack(rows[:-1])


def _tile(patch: NDArray[np.float32]) -> Image:
    tile = cv2.resize(np.clip(patch * _CONTRAST + _MIDDLE, 0, 255).astype(np.uint8), None, fx=2, fy=2)
    cv2.drawMarker(tile, (PATCH, PATCH), (0, 255, 0), cv2.MARKER_CROSS, 7, 1)
    return tile


def _renders(
    factory: FaceFactory, count: int, chosen: tuple[float, float, float]
) -> Iterator[tuple[Image, NDArray[np.float32], float]]:
    """Pictures, landmarks (68, 2) and yaws of `count` renders of chosen heads."""
    model, index = load_face_model(), 0
    for _ in tqdm(range(count), desc="renders", disable=None):
        while True:
            sample = factory.sample(index)
            index += 1
            rotation = decompose(sample.params[:12])[1]
            yaw, pitch, _ = rotation_to_euler(rotation)
            if rotation[2, 2] > 0 and _within(yaw, pitch, *chosen):
                break
        yield sample.image, model.landmarks(sample.params)[:, :2], yaw


def _within(yaw: float, pitch: float, low: float, high: float, nod: float) -> bool:
    return low <= abs(yaw) < high and abs(pitch) < nod


if __name__ == "__main__":
    sys.exit(main())
