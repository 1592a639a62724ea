"""How near the face model can come to real labels: the floor under every network's NME.

    python -m tools.fit_floor SAMPLES_DIR [--face-model PATH] [--mean-points bfm68.npz]

For each AFLW2000-3D .mat file in SAMPLES_DIR, an orthographic pose (scale, rotation, shift) and the coefficients are
fitted to the x and y of `pt3d_68` (image pixels; z only starts the fit). The fit is the most probable face: noise of
NOISE_PX pixels standard deviation per coordinate, coefficients standard normal, pose free; Gauss-Newton. Printed: NME
in percent (mean 2D distance / sqrt(w h) of the labels' box) per image, per yaw bin and as the mean of bins, for the
fitted face and for the mean face in its best pose; then by group of landmarks, with mean signed offsets (+x to the
image's right, +y down) in percent.

`--mean-points` compares the mean face with another mean's 68 points (key `mean`, x right, y up) after a similarity.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io

from runtime import safetensors
from runtime.pose import rotation_to_euler
from tools.face_model.landmarks import MIRRORED_LANDMARK
from tools.face_model.modes import similarity

ROOT = Path(__file__).resolve().parent.parent
NOISE_PX = 1.0
ITERATIONS = 40
YAW_BINS = ((0, 30), (30, 60), (60, 90))
GROUPS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}


@dataclass(frozen=True, kw_only=True)
class Points:
    """The model at its landmarks: `mean (68, 3)`, `basis (K, 68, 3)` per standard deviation."""

    mean: np.ndarray
    basis: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Label:
    """One image's label: `points (68, 3)` with y down, and its absolute yaw in degrees."""

    name: str
    points: np.ndarray
    yaw: float


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="folder with AFLW2000-3D .mat files")
    parser.add_argument("--face-model", type=Path, default=ROOT / "runtime/assets/face_model.safetensors")
    parser.add_argument("--mean-points", type=Path, help=".npz whose `mean (68, 3)` the mean face is compared with")
    options = parser.parse_args()
    labels = [load_label(path) for path in sorted(options.samples.glob("*.mat"))]
    if not labels:
        parser.error(f"expected AFLW2000-3D .mat files in {options.samples}, got none: name the folder that holds them")
    model = load_points(options.face_model)
    if options.mean_points:
        compare_means(model.mean, np.load(options.mean_points)["mean"].astype(np.float64))
    rigid = Points(mean=model.mean, basis=model.basis[:0])
    print(f"noise {NOISE_PX} px, prior N(0, 1) on {len(model.basis)} coefficients")
    print_errors("fitted face", [error_of(model, label) for label in labels], labels)
    print_errors("mean face", [error_of(rigid, label) for label in labels], labels)


def load_points(path: Path) -> Points:
    """The face model at its landmarks."""
    tensors, _ = safetensors.read(path)
    at = tensors["landmark_vertices"]
    scaled = [
        tensors[f"{kind}_basis"].astype(np.float64)[:, at] * tensors[f"{kind}_sigma"][:, None, None]
        for kind in ("shape", "expression")
    ]
    return Points(mean=tensors["mean"].astype(np.float64)[at], basis=np.concatenate(scaled))


def load_label(path: Path) -> Label:
    """Read one .mat file; `Pose_Para` holds pitch, yaw, roll in radians."""
    label = scipy.io.loadmat(str(path))
    yaw = abs(float(np.degrees(label["Pose_Para"][0, 1])))
    return Label(name=path.stem, points=label["pt3d_68"].T.astype(np.float64), yaw=yaw)


def fit(model: Points, label: Label) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most probable face: its points `(68, 2)` with y down, its rotation and its coefficients."""
    target = label.points * [1.0, -1.0, 1.0]
    scale, rotation, shift = similarity(model.mean, target, np.ones(68))
    rotation, shift = rotation.T, shift[:2]
    coefficients = np.zeros(len(model.basis))
    for _ in range(ITERATIONS):
        shape = model.mean + np.tensordot(coefficients, model.basis, 1)
        turned = shape @ rotation.T
        projected = scale * turned[:, :2] + shift
        step = _solve(model, scale, rotation, turned, (target[:, :2] - projected), coefficients)
        scale *= float(np.exp(step[0]))
        rotation = _small_rotation(step[1:4]) @ rotation
        shift = shift + step[4:6]
        coefficients = coefficients + step[6:]
    shape = model.mean + np.tensordot(coefficients, model.basis, 1)
    projected = scale * (shape @ rotation.T)[:, :2] + shift
    return projected * [1.0, -1.0], rotation, coefficients


def _solve(
    model: Points,
    scale: float,
    rotation: np.ndarray,
    turned: np.ndarray,
    residual: np.ndarray,
    coefficients: np.ndarray,
) -> np.ndarray:
    """One Gauss-Newton step: log scale, turn about x, y, z, shift, coefficients."""
    x, y, z = turned.T
    zero, one = np.zeros(68), np.ones(68)
    columns = [
        scale * np.stack([x, y], 1),
        scale * np.stack([zero, -z], 1),
        scale * np.stack([z, zero], 1),
        scale * np.stack([-y, x], 1),
        np.stack([one, zero], 1),
        np.stack([zero, one], 1),
        *(scale * (direction @ rotation.T)[:, :2] for direction in model.basis),
    ]
    jacobian = np.stack([column.ravel() for column in columns], 1) / NOISE_PX
    normal = jacobian.T @ jacobian
    gradient = jacobian.T @ residual.ravel() / NOISE_PX
    prior = np.arange(6, len(columns))
    normal[prior, prior] += 1.0
    gradient[6:] -= coefficients
    return np.linalg.solve(normal, gradient)


def _small_rotation(turn: np.ndarray) -> np.ndarray:
    x, y, z = turn
    u, _, vt = np.linalg.svd(np.eye(3) + np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))
    return u @ vt


def error_of(model: Points, label: Label) -> np.ndarray:
    """Offsets fitted - labelled, `(68, 2)`, in percent of the label's box size."""
    points, rotation, coefficients = fit(model, label)
    size = np.sqrt(np.prod(np.ptp(label.points[:, :2], axis=0)))
    yaw, pitch, roll = rotation_to_euler(rotation)
    strength = f", coefficients rms {np.sqrt((coefficients**2).mean()):.2f}" if len(coefficients) else ""
    print(f"  {label.name}: yaw {yaw:.0f} pitch {pitch:.0f} roll {roll:.0f}{strength}")
    return 100.0 * (points - label.points[:, :2]) / size


def print_errors(title: str, errors: list[np.ndarray], labels: list[Label]) -> None:
    """Print NME per image, per bin, and per group with signed offsets."""
    nme = np.array([np.linalg.norm(error, axis=1).mean() for error in errors])
    each = ", ".join(f"{label.name} {value:.2f}" for label, value in zip(labels, nme, strict=True))
    bins = [nme[[low <= label.yaw < high for label in labels]] for low, high in YAW_BINS]
    means = [values.mean() for values in bins if len(values)]
    print(f"{title}: NME % {each}")
    print(f"  bins {', '.join(f'{value:.2f}' for value in means)}; mean of bins {np.mean(means):.2f}")
    stacked = np.stack(errors)
    for name, (low, high) in GROUPS.items():
        part = stacked[:, low:high]
        x, y = part.mean((0, 1))
        print(f"  {name}: {np.linalg.norm(part, axis=2).mean():.2f}, mean offset x {x:+.2f} y {y:+.2f}")


def compare_means(mean: np.ndarray, other: np.ndarray) -> None:
    """Print how far the mean face's landmarks lie from another mean's, in mm of our face."""
    mirrored = other[list(MIRRORED_LANDMARK)] * [-1.0, 1.0, 1.0]
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
    main()
