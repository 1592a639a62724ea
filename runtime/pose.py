"""Head pose: rotation matrix ↔ Euler angles, and the 3 × 4 pose matrix taken apart.

Convention, the one of 300W-LP and AFLW2000-3D (stated once, here): in the model frame (x to the subject's left, y up, z
out of the face) R = Rx(pitch) · Ry(yaw) · Rz(roll), with

    Rx = [[1, 0, 0], [0, c, s], [0, -s, c]]
    Ry = [[c, 0, -s], [0, 1, 0], [s, 0, c]]
    Rz = [[c, s, 0], [-s, c, 0], [0, 0, 1]]

Angles are in degrees. yaw > 0: the face turns to the image's left; pitch > 0: up; roll > 0: clockwise. yaw lies in
[-90, 90]; at ±90 pitch and roll cannot be told apart (gimbal lock): roll is then 0. The rotation matrix is the primary
quantity. The crop frame's y points down: P[:, :3] = scale · diag(1, -1, 1) · R.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GIMBAL = 1.0 - 1e-9
_SEEN_UPRIGHT = 0.3  # length in the picture of the head's unit vector upwards, from which on it has a direction there


def euler_to_rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) of Euler angles in degrees."""
    (sy, sp, sr), (cy, cp, cr) = (f(np.radians([yaw, pitch, roll])) for f in (np.sin, np.cos))
    rx = np.array([[1.0, 0.0, 0.0], [0.0, cp, sp], [0.0, -sp, cp]])
    ry = np.array([[cy, 0.0, -sy], [0.0, 1.0, 0.0], [sy, 0.0, cy]])
    rz = np.array([[cr, sr, 0.0], [-sr, cr, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(rx @ ry @ rz, dtype=np.float64)


def rotation_to_euler(rotation: ArrayLike) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees of a rotation matrix (3, 3)."""
    r = np.asarray(rotation, dtype=np.float64)
    # R[0] = [cy cr, cy sr, -sy]; R[:, 2] = [-sy, sp cy, cp cy]
    sin_yaw = float(np.clip(-r[0, 2], -1.0, 1.0))
    yaw = np.arcsin(sin_yaw)
    if abs(sin_yaw) < _GIMBAL:
        pitch, roll = np.arctan2(r[1, 2], r[2, 2]), np.arctan2(r[0, 1], r[0, 0])
    else:
        pitch, roll = np.arctan2(-r[2, 1], r[1, 1]), 0.0
    yaw, pitch, roll = (float(angle) for angle in np.degrees([yaw, pitch, roll]))
    return yaw, pitch, roll


def decompose(pose: ArrayLike) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Takes a pose matrix P (3, 4) apart into (scale in pixels per model unit, R (3, 3), t (3,) in pixels).

    A network's P is only nearly a scaled rotation: R is the nearest rotation in the least-squares sense (Kabsch, 1976),
    the scale the mean of the singular values.
    """
    p = np.asarray(pose, dtype=np.float64).reshape(3, 4)
    linear = np.diag([1.0, -1.0, 1.0]) @ p[:, :3]
    u, singular, vt = np.linalg.svd(linear)
    sign = 1.0 if np.linalg.det(u @ vt) > 0 else -1.0
    return float(singular.mean()), u @ np.diag([1.0, 1.0, sign]) @ vt, p[:, 3].copy()


def angle_between(angle: float, other: float) -> float:
    """From `other` to `angle` the shorter way round, degrees, -180..180."""
    return (angle - other + 180) % 360 - 180


def picture_angles(rotations: NDArray[np.float64], otherwise: Sequence[float]) -> list[float]:
    """How far heads are turned in the picture, degrees clockwise, of rotations (F, 3, 3) in the picture's frame, y up.

    A region turned by that sees its head upright. `otherwise` (F,) holds for heads that are seen from far above or
    below: their upright says nothing about the picture's.
    """
    return [
        math.degrees(math.atan2(x, y)) if math.hypot(x, y) > _SEEN_UPRIGHT else angle
        for (x, y), angle in zip(rotations[:, :2, 1].tolist(), otherwise, strict=True)
    ]
