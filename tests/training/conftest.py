"""A small face model, so that no test here waits for the real one or depends on its content."""

import numpy as np
import pytest

from runtime.face_model import FaceModel, landmarks_at_vertices
from runtime.pose import euler_to_rotation


def make_face_model(seed: int = 0) -> FaceModel:
    """160 vertices on half an ellipsoid in mirrored pairs; symmetric and antisymmetric modes by turns."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform([0.05, -1.2], [1.4, 1.2], (80, 2))
    half = np.stack([np.sin(angle[:, 0]), np.sin(angle[:, 1]), np.cos(angle[:, 0])], axis=1) * [70.0, 90.0, 60.0]
    mean = np.concatenate([half, half * [-1, 1, 1]]).astype(np.float32)
    mirror = np.roll(np.arange(160), 80).astype(np.int32)

    def modes(count: int) -> tuple[np.ndarray, np.ndarray]:
        signs = np.where(np.arange(count) % 3 == 2, -1, 1).astype(np.float32)
        part = rng.normal(0, 1.5, (count, 80, 3))
        other = part * np.array([-1, 1, 1]) * signs[:, None, None]
        return np.concatenate([part, other], axis=1).astype(np.float32), signs

    shape, shape_mirror = modes(40)
    expression, expression_mirror = modes(10)
    return FaceModel(
        name="small",
        license="none",
        sha256=f"{seed:064d}",
        mean=mean,
        shape_basis=shape,
        expression_basis=expression,
        shape_sigma=np.ones(40, np.float32),
        expression_sigma=np.ones(10, np.float32),
        shape_mirror=shape_mirror,
        expression_mirror=expression_mirror,
        triangles=np.array([[0, 1, 2]], np.int32),
        **landmarks_at_vertices(np.concatenate([np.arange(34), np.arange(80, 114)])),
        mirror=mirror,
        uv=np.zeros((160, 2), np.float32),
        region=np.zeros(160, np.uint8),
        region_names=("skin",),
    )


@pytest.fixture(scope="session")
def face_model() -> FaceModel:
    return make_face_model()


def plausible_params(count: int, size: int = 160, seed: int = 0) -> np.ndarray:
    """Parameters (count, 62) of faces in the middle of a square image."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        rotation = euler_to_rotation(*(float(a) for a in rng.normal(0, [30, 12, 12])))
        pose = np.zeros((3, 4))
        pose[:, :3] = rng.uniform(0.45, 0.55) * size / 160 * np.diag([1, -1, 1]) @ rotation
        pose[:2, 3] = (size - 1) / 2 + rng.uniform(-6, 6, 2)
        rows.append(np.concatenate([pose.ravel(), rng.normal(0, 1, 50)]))
    return np.array(rows, np.float32)


@pytest.fixture(scope="session")
def make_params():
    return plausible_params
