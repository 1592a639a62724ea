"""The head's rotation in other programs' conventions. `docs/conventions.md` draws them.

All start from `face.pose.rotation`: the face model's frame (x to the subject's left, y up, z out of the face) to a
camera frame with x right, y up and z towards the viewer, right-handed. glTF, three.js and OpenGL use that very frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InvalidInputError
from runtime.pose import rotation_to_euler

Matrix = NDArray[np.float64]


def to_opencv(rotation: ArrayLike) -> Matrix:
    """Rotation (3, 3) of the model's points into OpenCV's camera frame (x right, y down, z forward).

    The model's own frame stays; `cv2.Rodrigues` makes a vector of it. A frontal face gives diag(1, -1, -1).
    """
    return np.asarray(np.diag([1.0, -1.0, -1.0]) @ _checked(rotation))


def to_gltf(rotation: ArrayLike) -> Matrix:
    """Quaternion (x, y, z, w) of a glTF node, or three.js's `object.quaternion`; a frontal face gives (0, 0, 0, 1)."""
    return _quaternion(_checked(rotation))


def to_threejs_euler(rotation: ArrayLike) -> tuple[float, float, float]:
    """(x, y, z) in radians for three.js's `object.rotation` in its default order 'XYZ'."""
    r = _checked(rotation)
    y = float(np.arcsin(np.clip(r[0, 2], -1, 1)))
    if abs(r[0, 2]) < 1 - 1e-9:
        return float(np.arctan2(-r[1, 2], r[2, 2])), y, float(np.arctan2(-r[0, 1], r[0, 0]))
    return float(np.arctan2(r[2, 1], r[1, 1])), y, 0.0


def to_unity(rotation: ArrayLike) -> Matrix:
    """Quaternion (x, y, z, w) in Unity's left-handed frame: x right, y up, z away from the viewer.

    z changes its sign, of the head as of the camera, and so must the mesh's. (A glTF importer that mirrors x instead
    turns the head by 180 degrees about y on top.) A frontal face looks along -z, at Unity's camera: (0, 0, 0, 1).
    """
    x, y, z, w = _quaternion(_checked(rotation))
    return np.array([-x, -y, z, w])


def to_unity_euler(rotation: ArrayLike) -> tuple[float, float, float]:
    """(x, y, z) in degrees for Unity's `transform.eulerAngles`, which turns about z, then x, then y."""
    mirror = np.diag([1.0, 1.0, -1.0])
    r = mirror @ _checked(rotation) @ mirror  # = Ry · Rx · Rz, as columns of Unity's frame
    x = float(np.degrees(np.arcsin(np.clip(-r[1, 2], -1, 1))))
    if abs(r[1, 2]) < 1 - 1e-9:
        return x, float(np.degrees(np.arctan2(r[0, 2], r[2, 2]))), float(np.degrees(np.arctan2(r[1, 0], r[1, 1])))
    return x, float(np.degrees(np.arctan2(-r[2, 0], r[0, 0]))), 0.0


def to_aflw2000(rotation: ArrayLike) -> tuple[float, float, float]:
    """(pitch, yaw, roll) in radians, as the first three of AFLW2000-3D's and 300W-LP's `Pose_Para`."""
    yaw, pitch, roll = rotation_to_euler(_checked(rotation))
    return float(np.radians(pitch)), float(np.radians(yaw)), float(np.radians(roll))


def _checked(rotation: ArrayLike) -> Matrix:
    matrix = np.asarray(rotation, dtype=np.float64)
    if matrix.shape != (3, 3) or not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-4) or np.linalg.det(matrix) < 0:
        raise InvalidInputError(f"rotation: expected a rotation matrix (3, 3), got {np.array2string(matrix)[:80]}")
    return matrix


def _quaternion(r: Matrix) -> Matrix:
    """(x, y, z, w) with w >= 0, by the eigenvector of the largest eigenvalue (Bar-Itzhack, 2000)."""
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
            [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]
    return np.asarray(q if q[3] >= 0 else -q)
