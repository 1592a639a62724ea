"""How far regions lie from those of the true landmarks: the detector's, and the network's own of a second pass.

    python -m benchmarks.regions --count 400 [--assets DIR] [--engine PATH]

Looks at rendered faces with room around them (the face's region is 128 of 320 pixels). Printed, by |yaw|: the share
that the detector finds; mean and standard deviation of the shift along and across the region, in shares of its side, of
the logarithm of its side, and of what is left of the head's roll in degrees. `training.config.AugmentConfig` draws
regions with these errors.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime import Reconstructor
from runtime.command import Exit, command
from runtime.errors import InvalidInputError
from runtime.pose import decompose, rotation_to_euler
from runtime.roi import Roi, crop
from training.synthetic.factory import FaceFactory

SIZE, MARGIN = 320, 2.5
SEED = 777
BINS = ((0, 30), (30, 60), (60, 90))
_COLUMNS = "shift x", "shift y", "log side", "roll"


@command()
def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regions", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=400, help="rendered faces (default: 400)")
    parser.add_argument("--assets", type=Path, help="folder of CC0 assets to render with")
    parser.add_argument("--engine", type=Path, help=".onnx or .engine file (default: the bundled network)")
    options = parser.parse_args(arguments)
    if options.count < 1:
        raise InvalidInputError(f"--count: expected at least 1, got {options.count}")
    with Reconstructor(options.engine) as reconstruct:
        factory = FaceFactory(size=SIZE, margin=MARGIN, seed=SEED, assets=options.assets)
        rows = np.array(list(errors(reconstruct, factory, options.count)))  # (N, 1 + 4 + 4)
    for low, high in BINS:
        chosen = rows[(np.abs(rows[:, 0]) >= low) & (np.abs(rows[:, 0]) < high)]
        if len(chosen):
            found = np.isfinite(chosen[:, 1])
            print(f"|yaw| {low} to {high}: {len(chosen)} faces, the detector finds {found.mean():.1%}")
            print(f"  detector  {described(chosen[found, 1:5])}")
            print(f"  own       {described(chosen[:, 5:])}")
    return Exit.DONE


def errors(reconstruct: Reconstructor, factory: FaceFactory, count: int) -> Iterator[NDArray[np.float64]]:
    """Yaw, then the errors (4,) of the detector's region, NaN if it finds none, and of the network's own."""
    from runtime.detection import roi_from_detection

    model, size = reconstruct.face_model, reconstruct.engine.manifest.input_size
    for index in range(count):
        sample = factory.sample(index)
        points = model.landmarks(sample.params)[:, :2].astype(np.float64)
        yaw, _, roll = rotation_to_euler(decompose(sample.params[:12].reshape(3, 4))[1])
        truth = Roi.from_landmarks(points)
        found = [roi_from_detection(each) for each in reconstruct.detector.detect(sample.image)]
        near = [roi for roi in found if math.dist(_center(roi), _center(truth)) < truth.side / 2]
        best = min(near, key=lambda roi: math.dist(_center(roi), _center(truth)), default=None)
        predicted = model.landmarks(reconstruct.engine(crop(sample.image, [truth], size)))[0]
        own = Roi.from_landmarks(truth.to_image(predicted, size))
        first = np.full(4, np.nan) if best is None else error_of(best, points, roll)
        yield np.concatenate([[yaw], first, error_of(own, points, 0.0)])


def error_of(roi: Roi, points: NDArray[np.float64], roll: float) -> NDArray[np.float64]:
    """Shift along x and y, log of the side, and the turn from upright, against the region of points (68, 2)."""
    angle = math.radians(roi.angle)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])  # image to region's axes
    truth = Roi.from_landmarks(points @ turn.T)
    shift = (turn @ _center(roi) - _center(truth)) / truth.side
    return np.array([*shift, math.log(roi.side / truth.side), roi.angle - roll])


def described(values: NDArray[np.float64]) -> str:
    """Mean and standard deviation of each column (N, 4)."""
    pairs = zip(_COLUMNS, values.mean(axis=0), values.std(axis=0), strict=True)
    return ", ".join(f"{name} {mean:+.3f} ± {deviation:.3f}" for name, mean, deviation in pairs)


def _center(roi: Roi) -> NDArray[np.float64]:
    return np.array([roi.center_x, roi.center_y])


if __name__ == "__main__":
    sys.exit(main())
