"""A contact sheet of synthetic faces: `python -m training.synthetic --count 48 --out contact.png`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from runtime.command import command
from runtime.errors import InvalidInputError
from runtime.face_model import load_face_model
from runtime.files import write_atomically
from training.synthetic.factory import FaceFactory, Sample


@command()
def main(arguments: list[str] | None = None) -> int:
    """Renders, tiles, writes, and prints the speed; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.synthetic", description=__doc__)
    parser.add_argument("--count", type=int, default=48, help="number of faces (default 48)")
    parser.add_argument("--out", type=Path, required=True, help="picture file to write")
    parser.add_argument("--seed", type=int, default=0, help="the factory's seed (default 0)")
    parser.add_argument("--start", type=int, default=0, help="index of the first face (default 0)")
    parser.add_argument("--size", type=int, default=160, help="side of a face in pixels (default 160)")
    parser.add_argument("--columns", type=int, default=8, help="faces per row (default 8)")
    parser.add_argument("--assets", type=Path, help="folder of CC0 skins, hair and HDR environments to render with")
    parser.add_argument("--landmarks", action="store_true", help="draw the label's 68 landmarks")
    options = parser.parse_args(arguments)
    if min(options.count, options.columns, options.size) < 1:
        raise InvalidInputError("expected --count, --columns and --size of at least 1")
    cv2.setNumThreads(1)
    factory = FaceFactory(size=options.size, seed=options.seed, assets=options.assets)
    for index in range(min(3, options.count)):  # compiles, and fills the libraries' first items
        factory.sample(index)
    started = time.perf_counter()
    samples = [factory.sample(options.start + index) for index in range(options.count)]
    seconds = time.perf_counter() - started
    suffix = options.out.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise InvalidInputError(f"--out: expected a name that ends in .png or .jpg, got {options.out}")
    sheet = cv2.imencode(suffix, _contact_sheet(samples, options.columns, options.landmarks))[1]
    write_atomically(options.out, sheet.tobytes())
    print(f"{options.count} faces, {options.count / seconds:.1f} images/s, {options.out}")
    return 0


def _contact_sheet(samples: list[Sample], columns: int, landmarks: bool) -> np.ndarray:
    tiles = [_with_landmarks(sample) if landmarks else sample.image for sample in samples]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[row : row + columns]) for row in range(0, len(tiles), columns)])


def _with_landmarks(sample: Sample) -> np.ndarray:
    image = sample.image.copy()
    for x, y in np.rint(load_face_model().landmarks(sample.params)[:, :2] * 8).astype(int):
        cv2.circle(image, (int(x), int(y)), 6, (0, 255, 0), -1, cv2.LINE_AA, 3)
    return image


if __name__ == "__main__":
    sys.exit(main())
