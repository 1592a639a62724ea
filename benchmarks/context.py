"""What lies around a face, and what a network reads of it: pose errors with the surroundings blurred, part by part.

    python -m benchmarks.context MODEL --photographs aflw2000/ [--count 1000] [--assets DIR]

MODEL is a checkpoint or an engine; photographs are AFLW2000-3D's files, beside them come held-out renders. The face is
the convex hull of the landmarks that MODEL finds, a twentieth of the crop wider; beyond it everything is blurred, or
only what is below the chin, above the nose's root, or on the face's sides. (The labels' hull would tell where the face
ends: with it, photographs in profile seemed to get better.) Printed as a Markdown table: the mean angle in degrees
between predicted and true rotations by |yaw|. What renders lose more by than photographs says more of a rendered head
than of a real one.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.output import number, table
from runtime.command import Exit, command
from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel, load_face_model
from runtime.image import read_image
from runtime.pose import euler_to_rotation, rotation_to_euler
from runtime.roi import Roi
from training.crops import aligned_crops
from training.data.aflw2000 import load_aflw2000
from training.decoder import Decoder
from training.evaluation.accuracy import rotations_of
from training.evaluation.metrics import by_yaw, geodesic
from training.evaluation.photographs import region_crops
from training.evaluation.predictors import load_predictor
from training.evaluation.sets import SetOptions, held_out_faces

PARTS = ("nothing", "all around", "below", "above", "sides")
_GROWN = 1 / 20  # of the crop's side: what counts as the face beyond its landmarks
_BLUR = 1 / 16  # standard deviation, of the crop's side
_ROOT, _CHIN = 27, 8  # landmarks


@dataclass(frozen=True, kw_only=True, eq=False)
class Faces:
    """Crops uint8 (F, S, S, 3) in the labels' regions, and true rotations (F, 3, 3)."""

    crops: NDArray[np.uint8]
    rotations: NDArray[np.float64]


@command()
def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.context", description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="checkpoint or engine")
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR", help="AFLW2000-3D's files")
    parser.add_argument("--count", type=int, default=1000, help="renders (default: 1000)")
    parser.add_argument("--assets", type=Path, metavar="DIR", help="folder of CC0 assets to render with")
    options = parser.parse_args(arguments)
    if options.count < 1:
        raise InvalidInputError(f"--count: expected at least 1, got {options.count}")
    face_model = load_face_model()
    predict, size = load_predictor(options.model, face_model)
    sets = {
        "photographs": photographed(options.photographs, size),
        "renders": rendered(face_model, options.count, options.assets, size),
    }
    rows = []
    for name, faces in sets.items():
        points = face_model.landmarks(predict(faces.crops))[..., :2]
        yaw = [rotation_to_euler(rotation)[0] for rotation in faces.rotations]
        for part in PARTS:
            changed = np.stack([blurred(*pair, part) for pair in zip(faces.crops, points, strict=True)])
            errors = by_yaw(geodesic(rotations_of(predict(changed)), faces.rotations), yaw)
            rows.append([name, part, *(number(value, 2) for value in (*errors.bins, errors.mean))])
    print(table(["faces", "blurred", "[0, 30]", "(30, 60]", "(60, 90]", "mean"], rows))
    return Exit.DONE


def photographed(folder: Path, size: int) -> Faces:
    """The photographs of a folder in the labels' regions."""
    faces = load_aflw2000(folder)
    rois = [Roi.from_landmarks(face.landmarks) for face in faces]
    return Faces(
        crops=region_crops((read_image(face.image_path) for face in faces), rois, size),
        rotations=np.stack([euler_to_rotation(face.yaw, face.pitch, face.roll) for face in faces]),
    )


def rendered(face_model: FaceModel, count: int, assets: Path | None, size: int) -> Faces:
    """Held-out renders in the labels' regions."""
    samples = held_out_faces(f"synthetic:{count}", size, SetOptions(assets=assets))
    crops, labels = aligned_crops(*samples.batch(np.arange(count)), Decoder(face_model), size)
    return Faces(crops=crops.contiguous().numpy(), rotations=rotations_of(labels.numpy()))


def blurred(image: NDArray[np.uint8], points: NDArray[np.floating], part: str) -> NDArray[np.uint8]:
    """A crop (S, S, 3) with one of `PARTS` blurred, given the landmarks' pixels (68, 2)."""
    size = len(image)
    face = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(points.round().astype(np.int32)), 1)
    width = 2 * round(size * _GROWN) + 1
    around = cv2.dilate(face, np.ones((width, width), np.uint8)) == 0
    rows, columns = np.mgrid[:size, :size]
    down = points[_CHIN] - points[_ROOT]
    height = (np.stack([columns, rows], axis=-1) - points[_ROOT]) @ down / max(float(down @ down), 1.0)
    chosen = {
        "nothing": np.zeros_like(around),
        "all around": around,
        "below": around & (height > 1),
        "above": around & (height < 0),
        "sides": around & (height >= 0) & (height <= 1),
    }[part]
    return np.where(chosen[..., None], cv2.GaussianBlur(image, (0, 0), size * _BLUR), image)


if __name__ == "__main__":
    sys.exit(main())
