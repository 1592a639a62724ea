"""How near the face model can come to real labels: the floor under every network's NME.

    python -m tools.fit_floor SAMPLES_DIR [--face-model PATH] [--mean-points bfm68.npz]

For each AFLW2000-3D face in SAMPLES_DIR, pose and coefficients are fitted to the landmarks (`training.fitting`; image
pixels). Printed: NME in percent (mean 2D distance / sqrt(w h) of the labels' box) per image, per yaw bin and as the
mean of bins, for the fitted face and for the mean face in its best pose; then by group of landmarks, with mean signed
offsets (+x to the image's right, +y down) in percent.

`--mean-points` compares the mean face with another mean's 68 points (key `mean`, x right, y up) after a similarity.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from runtime.command import command
from runtime.face_model import POSE_SIZE, FaceModel, load_face_model
from runtime.pose import decompose, rotation_to_euler
from tools.face_model.modes import similarity
from training.data.aflw2000 import AnnotatedFace, load_aflw2000
from training.data.landmarks import IBUG_68
from training.fitting import NOISE_PX, fit_params
from training.metrics import by_yaw

GROUPS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}


@command()
def main() -> int:
    """Command line; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="folder with AFLW2000-3D's .jpg and .mat files")
    parser.add_argument("--face-model", type=Path, help="default: the bundled one")
    parser.add_argument("--mean-points", type=Path, help=".npz whose `mean (68, 3)` the mean face is compared with")
    options = parser.parse_args()
    faces = load_aflw2000(options.samples)
    model = load_face_model(options.face_model)
    if options.mean_points:
        mean = model.at_landmarks(model.mean).astype(np.float64)
        compare_means(mean, np.load(options.mean_points)["mean"].astype(np.float64))
    print(f"noise {NOISE_PX} px, prior N(0, 1) on {model.num_params - POSE_SIZE} coefficients")
    for title, form in (("fitted face", True), ("mean face", False)):
        print_errors(title, [error_of(model, face, form=form) for face in faces], faces)
    return 0


def error_of(model: FaceModel, face: AnnotatedFace, *, form: bool) -> np.ndarray:
    """Offsets fitted - labelled, `(68, 2)`, in percent of the label's box size."""
    params = fit_params(model, face.landmarks, form=form)
    size = np.sqrt(np.prod(np.ptp(face.landmarks[:, :2], axis=0)))
    yaw, pitch, roll = rotation_to_euler(decompose(params[:POSE_SIZE].reshape(3, 4))[1])
    strength = f", coefficients rms {np.sqrt((params[POSE_SIZE:] ** 2).mean()):.2f}" if form else ""
    print(f"  {face.stem}: yaw {yaw:.0f} pitch {pitch:.0f} roll {roll:.0f}{strength}")
    return 100.0 * (model.landmarks(params) - face.landmarks)[:, :2] / size


def print_errors(title: str, errors: list[np.ndarray], faces: list[AnnotatedFace]) -> None:
    """Print NME per image, per bin, and per group with signed offsets."""
    nme = np.array([np.linalg.norm(error, axis=1).mean() for error in errors])
    each = ", ".join(f"{face.stem} {value:.2f}" for face, value in zip(faces, nme, strict=True))
    bins = by_yaw(nme, [face.yaw for face in faces])
    cells = ", ".join("-" if value is None else f"{value:.2f}" for value in bins.bins)
    print(f"{title}: NME % {each}")
    print(f"  bins {cells}; mean of bins {bins.mean:.2f}")
    stacked = np.stack(errors)
    for name, (low, high) in GROUPS.items():
        part = stacked[:, low:high]
        x, y = part.mean((0, 1))
        print(f"  {name}: {np.linalg.norm(part, axis=2).mean():.2f}, mean offset x {x:+.2f} y {y:+.2f}")


def compare_means(mean: np.ndarray, other: np.ndarray) -> None:
    """Print how far the mean face's landmarks lie from another mean's, in mm of our face."""
    mirrored = other[IBUG_68.mirror] * [-1.0, 1.0, 1.0]
    other = (other + mirrored) / 2.0
    scale, rotation, shift = similarity(other, mean, np.ones(68))
    offset = mean - (scale * other @ rotation + shift)
    pitch = np.degrees(np.arctan2(rotation[1, 2], rotation[1, 1]))
    total = np.sqrt((offset**2).sum(1).mean())
    print(f"mean points: {total:.2f} mm rms (after a similarity of scale {scale:.3g} and pitch {pitch:+.2f} degrees)")
    for name, (low, high) in GROUPS.items():
        part = offset[low:high]
        x, y, z = (part * np.sign(mean[low:high, :1] + 1e-9) ** [1, 0, 0]).mean(0)
        rms = np.sqrt((part**2).sum(1).mean())
        print(f"  {name}: {rms:.2f} mm; mean offset outward {x:+.1f}, up {y:+.1f}, forward {z:+.1f}")


if __name__ == "__main__":
    sys.exit(main())
