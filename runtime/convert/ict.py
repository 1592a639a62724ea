"""ICT-FaceKit's folder of OBJ files (FaceXModel; Li et al., CVPR 2020; MIT licence).

    generic_neutral_mesh.obj, identity000.obj … identity099.obj, and one OBJ for each expression (browDown_L.obj, …)

The meshes share one topology and are in centimetres, x to the subject's left, y up, z out. Taken is the face area
(vertices 0 to 9408, its README's table), its quadrilaterals split in two. Each OBJ's difference from the neutral mesh
counts as one independent direction: an identity's weight is standard normal, an expression's is active one time in five
and then uniform in 0..1. Of the identities' directions, what a similarity of the mean would do as well is taken out,
since the pose does that.

Mean and directions are then made mirror-symmetric: each direction is split into its symmetric and antisymmetric part,
which together have the covariance of the faces and their mirror images; the principal directions of both, largest
first, are the modes, in millimetres per standard deviation (sigma is 1). So mirroring only changes modes' signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.convert.draft import Mirror, ModelDraft, checked_count
from runtime.errors import FileFormatError

NEUTRAL = "generic_neutral_mesh.obj"
_MM_PER_UNIT = 10.0
_EXPRESSION_RMS = (0.2 / 3.0) ** 0.5  # of a weight that is uniform in 0..1 one time in five, else 0
_ASYMMETRY_MM = 1.0
_FLIP = np.array([-1.0, 1.0, 1.0])

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Which part of the meshes is taken, and where its landmarks are."""

    vertices: int
    narrow: int
    """The first so many vertices are the narrow face area."""
    landmarks: tuple[int, ...]


# The README's 68 points, with its jaw lines that substitute 0 to 7 and 9 to 16 (nearer to AFLW2000-3D's).
FACE_AREA = Topology(
    vertices=9409,
    narrow=6706,
    landmarks=(
        *(1278, 1272, 12, 1834, 243, 781, 2199, 1447, 966, 3661, 4390, 3022, 2484, 4036, 2253, 3490, 3496),
        *(268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509),
        *(978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360),
        *(1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732),
        *(5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841),
        *(5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966),
    ),
)


def is_ict(source: Path) -> bool:
    """Whether the path is such a folder."""
    return (source / NEUTRAL).is_file()


def read_ict(
    source: Path, shape_count: int = 40, expression_count: int = 10, topology: Topology = FACE_AREA
) -> ModelDraft:
    """The face area's model with so many modes.

    Raises:
        FileNotFoundError: the neutral mesh, the identities or the expressions are missing.
        FileFormatError: a file has another topology, or there are fewer modes than asked for.
    """
    paths = sorted(source.glob("*.obj"))
    identities = [path for path in paths if path.stem.startswith("identity")]
    expressions = [path for path in paths if path.name != NEUTRAL and path not in identities]
    if not identities or not expressions:
        raise FileNotFoundError(
            f"{source}: expected identity*.obj and expression meshes beside {NEUTRAL}, got {len(identities)} and "
            f"{len(expressions)}; copy ICT-FaceKit's whole FaceXModel folder"
        )
    neutral = _vertices(source / NEUTRAL, topology.vertices)
    partners = _partners(source / NEUTRAL, neutral)
    mean = (neutral + neutral[partners] * _FLIP) / 2
    shape, shape_signs = _modes(_without_similarity(_differences(identities, neutral), mean), partners)
    scaled = _differences(expressions, neutral) * _EXPRESSION_RMS
    expression, expression_signs = _modes(scaled, partners)
    shapes = checked_count(shape_count, len(shape), "shape", source)
    count = checked_count(expression_count, len(expression), "expression", source)
    triangles, uv = _faces(source / NEUTRAL, topology.vertices)
    return ModelDraft(
        name=f"ICT-FaceKit face area ({shapes} + {count})",
        license=_license(source),
        source=f"ICT-FaceKit, {len(identities)} identities, {len(expressions)} expressions",
        mean=mean,
        shape_basis=shape[:shapes].astype(np.float16),
        expression_basis=expression[:count].astype(np.float16),
        shape_sigma=np.ones(shapes),
        expression_sigma=np.ones(count),
        triangles=triangles,
        landmark_vertices=np.array(topology.landmarks),
        mirror=Mirror(
            vertices=partners.astype(np.int32),
            shape_signs=shape_signs[:shapes].astype(np.float32),
            expression_signs=expression_signs[:count].astype(np.float32),
        ),
        uv=uv,
        region=(np.arange(topology.vertices) >= topology.narrow).astype(np.uint8),
        region_names=("narrow_face", "outer_face"),
        metadata={"coefficients": "ict-facekit"},
    )


def _vertices(path: Path, count: int) -> Array:
    """The first `count` vertices (count, 3) of an OBJ file, in millimetres."""
    rows: list[bytes] = []
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b"v "):
                rows.append(line[2:])
                if len(rows) == count:
                    break
    try:
        values = np.array([row.split()[:3] for row in rows], dtype=np.float64)
    except ValueError:
        values = np.zeros((0, 3))
    if values.shape != (count, 3) or not np.isfinite(values).all():
        raise FileFormatError(
            f"{path}: expected at least {count} vertices of three numbers, got {len(rows)} lines; is it ICT-FaceKit's?"
        )
    return values * _MM_PER_UNIT


def _faces(path: Path, count: int) -> tuple[NDArray[np.int64], Array]:
    """Triangles (T, 3) with all corners among the first `count` vertices, and each vertex's first uv (count, 2)."""
    corners_uv: list[list[float]] = []
    uv = np.zeros((count, 2))
    triangles: list[tuple[int, int, int]] = []
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b"vt "):
                corners_uv.append([float(value) for value in line.split()[1:3]])
            elif line.startswith(b"f "):
                corners = [[int(part or 0) for part in corner.split(b"/")] for corner in line.split()[1:]]
                vertices = [corner[0] - 1 for corner in corners]
                if max(vertices) >= count:
                    continue
                triangles += [(vertices[0], vertices[i], vertices[i + 1]) for i in range(1, len(vertices) - 1)]
                for vertex, corner in zip(vertices, corners, strict=True):
                    if len(corner) > 1 and 0 < corner[1] <= len(corners_uv) and not uv[vertex].any():
                        uv[vertex] = corners_uv[corner[1] - 1]
    if not triangles:
        raise FileFormatError(f"{path}: expected faces among the first {count} vertices, got none")
    return np.array(triangles, dtype=np.int64), uv


def _differences(paths: Sequence[Path], neutral: Array) -> Array:
    """(K, N, 3) of K meshes from the neutral one."""
    return np.stack([_vertices(path, len(neutral)) - neutral for path in paths])


def _partners(path: Path, neutral: Array) -> NDArray[np.int64]:
    """Each vertex's mirror partner (N,): the nearest vertex to its mirror image."""
    mirrored = neutral * _FLIP
    squares = (neutral**2).sum(axis=1)
    found = [np.argmin(squares - 2.0 * block @ neutral.T, axis=1) for block in np.array_split(mirrored, 16)]
    partners = np.concatenate(found)
    distance = np.linalg.norm(neutral[partners] - mirrored, axis=1).max()
    if distance > _ASYMMETRY_MM or (partners[partners] != np.arange(len(neutral))).any():
        raise FileFormatError(
            f"{path}: expected a mirror-symmetric mesh, got a vertex {distance:.2f} mm from its partner's mirror image"
        )
    return partners


def _without_similarity(directions: Array, mean: Array) -> Array:
    """Directions (K, N, 3) without their part along translations, rotations and scalings of the mean."""
    centred = mean - mean.mean(axis=0)
    axes = np.eye(3)
    moves = [np.broadcast_to(axis, mean.shape) for axis in axes] + [np.cross(axis, centred) for axis in axes]
    q = np.linalg.qr(np.stack([*moves, centred]).reshape(7, -1).T)[0]  # (3N, 7)
    flat = directions.reshape(len(directions), -1)
    return np.asarray(flat - (flat @ q) @ q.T).reshape(directions.shape)


def _modes(directions: Array, partners: NDArray[np.int64]) -> tuple[Array, Array]:
    """Modes (M, N, 3) per standard deviation, largest first, and their signs (M,) under mirroring."""
    mirrored = directions[:, partners] * _FLIP
    parts = [_principal((directions + sign * mirrored) / 2) for sign in (1.0, -1.0)]
    modes = np.concatenate(parts)
    signs = np.repeat([1.0, -1.0], [len(part) for part in parts])
    order = np.argsort(-(modes**2).sum(axis=(1, 2)), kind="stable")
    return modes[order], signs[order]


def _principal(directions: Array) -> Array:
    """Principal directions of independent ones (K, N, 3), without those that hold nothing."""
    flat = directions.reshape(len(directions), -1)
    values, vectors = np.linalg.eigh(flat @ flat.T)
    kept = values > 1e-9 * max(float(values[-1]), 1e-12)
    modes = vectors[:, kept].T @ flat
    # A mode's sign is free: its largest entry is positive, so that the same files give the same model.
    peaks = modes[np.arange(len(modes)), np.abs(modes).argmax(axis=1)]
    return np.asarray(modes * np.sign(peaks)[:, None]).reshape(-1, *directions.shape[1:])


def _license(source: Path) -> str:
    for folder in (source, source.parent):
        if (folder / "LICENSE").is_file():
            return (folder / "LICENSE").read_text(encoding="utf-8", errors="replace").strip()
    return "MIT: ICT-FaceKit, USC Institute for Creative Technologies"
