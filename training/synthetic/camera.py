"""Where the camera stands: head pose, perspective, framing, and the label that goes with them.

The label is the best scaled-orthographic camera P (3, 4): exact when the camera is orthographic; for a perspective
camera the least-squares fit over landmarks and face vertices, which is what photographs are labelled with, too.
Framing: the landmark-box rule (centre and sqrt(2) times the longer side of the 68 projected landmarks' box) is
mapped onto the picture's central 1 / margin. Crop pixels: centres at integers, y down.
P[:, :3] = s * diag(1, -1, 1) @ R; t_z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.pose import euler_to_rotation
from training.synthetic.noise import chance, uniform

FloatArray = NDArray[np.float32]

_NEAREST, _FARTHEST = 320.0, 2500.0  # mm from the lens to the middle of the face
_ASIDE, _FARTHEST_ASIDE = (11.0, 8.0), 32.0  # degrees off the camera's axis: deviation across and up, and the limit
_BEFORE_LENS = 0.02  # of the distance: what is nearer to the lens, or behind it, has no place in the picture
_FIT_STEPS = 4
# Standard deviation and limit, degrees, of: the camera above or below the face; the nod; the head's lean to a shoulder.
_TURNS = ((6.5, 45.0), (9.5, 45.0), (6.0, 30.0))
_WIDE_SHARE, _WIDER = 0.2, 2.5
_PROFILE, _PAST_PROFILE, _PAST_SHARE = 95.0, 125.0, 0.01  # degrees of yaw, and the share of heads turned past profile
_NEAR_PROFILE, _DRAWN_AGAIN = 83.0, 0.8  # degrees of yaw, and the share of heads beyond it that are turned anew


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Projection of model points. `distance` in mm, infinite if orthographic; `pose` (3, 4) is the label's P."""

    rotation: FloatArray  # (3, 3) model to the frame of the line of sight (x right, y up, z towards the camera)
    distance: float
    turn: FloatArray  # (3, 3) how the camera is turned away from the face: that frame to its own, z forward in both
    scale: float  # pixels per mm at the model's origin where the camera is not turned; else focal length / distance
    offset: FloatArray  # (2,) the origin's pixel
    pose: FloatArray

    @property
    def view(self) -> FloatArray:
        """Unit vector (3,) in the model frame from the face to the camera."""
        return self.rotation[2]

    def sees(self, points: FloatArray) -> NDArray[np.bool_]:
        """Which model points (N, 3) lie before the lens: (N,). Of a near head, shoulders may lie behind it."""
        if not np.isfinite(self.distance):
            return np.ones(len(points), dtype=bool)
        return np.asarray(_rays(points @ self.rotation.T, self.distance, self.turn)[:, 2] > _BEFORE_LENS)

    def project(self, points: FloatArray) -> FloatArray:
        """(N, 3) model points to crop pixels x, y (down) and a depth in mm (bigger = nearer)."""
        seen = points @ self.rotation.T
        plane = _image_plane(seen, self.distance, self.turn) * [self.scale, -self.scale] + self.offset
        return np.column_stack([plane, seen[:, 2]]).astype(np.float32)


def random_rotation(rng: np.random.Generator) -> FloatArray:
    """A head's rotation as photographs have it: yaw evenly over +-83 degrees, seldom more, the rest mostly small.

    Near 90 degrees a face's own picture hardly says on which side of profile it is turned. A network then answers what
    it was shown most, so there must be no more such heads than in photographs.

    Heads nod about the axis through their ears, and cameras stand at about their height: in profile that axis points at
    the camera, however far the head nods. A pitch of the whole head after its yaw would tilt it up and down there, as
    photographs hardly show it; and how far it is tilted says where the hidden half of the face lies.
    A fifth of the heads are turned further; a quarter roll with the picture, seldom as of a head lying.
    """
    yaw = uniform(rng, -_PROFILE, _PROFILE)
    if abs(yaw) > _NEAR_PROFILE and chance(rng, _DRAWN_AGAIN):
        yaw = uniform(rng, -_NEAR_PROFILE, _NEAR_PROFILE)
    if chance(rng, _PAST_SHARE):
        yaw = float(np.copysign(uniform(rng, _PROFILE, _PAST_PROFILE), yaw))
    wide = _WIDER if chance(rng, _WIDE_SHARE) else 1.0
    height, nod, lean = (float(np.clip(rng.normal(0, wide * deviation), -limit, limit)) for deviation, limit in _TURNS)
    if chance(rng, 0.75):
        roll = float(np.clip(rng.normal(0, 9), -45, 45))
    else:
        farthest = 45 if chance(rng, 0.67) else 120
        roll = uniform(rng, -farthest, farthest)
    seen = euler_to_rotation(0, 0, roll) @ euler_to_rotation(yaw, height, 0)
    return (seen @ euler_to_rotation(0, nod, 0) @ euler_to_rotation(0, 0, lean)).astype(np.float32)


def random_distance(rng: np.random.Generator) -> float:
    """Infinite (orthographic) for a third of the pictures; else from arm's length to across a room."""
    return float("inf") if chance(rng, 0.33) else _NEAREST * (_FARTHEST / _NEAREST) ** float(rng.random() ** 0.7)


def random_turn(rng: np.random.Generator) -> FloatArray:
    """How a camera (3, 3) is turned away from a face: few faces stand in the middle of the whole photograph.

    Off the axis a lens draws a head longer towards the picture's edge, and looks past its near side.
    """
    aside = rng.normal(0, _ASIDE)
    aside *= min(1.0, _FARTHEST_ASIDE / float(np.linalg.norm(aside)))
    return euler_to_rotation(float(aside[0]), float(aside[1]), 0).astype(np.float32)


def frame(
    rotation: FloatArray,
    distance: float,
    turn: FloatArray,
    landmarks: FloatArray,
    others: FloatArray,
    *,
    size: int,
    margin: float,
) -> Camera:
    """Places the camera so that the label's landmark box fills the central 1 / margin of a picture of `size` pixels.

    landmarks (68, 3) and others (N, 3), model points, also decide the fit of the label for a perspective camera.
    """
    fit_scale, fit_rotation, fit_shift = 1.0, rotation.astype(np.float64), np.zeros(2)
    if np.isfinite(distance):
        points = np.concatenate([landmarks, others]).astype(np.float64)
        seen = points @ rotation.T.astype(np.float64)
        fit_scale, fit_rotation, fit_shift = fit_orthographic(points, _image_plane(seen, distance, turn), rotation)
    box = (fit_scale * landmarks @ fit_rotation[:2].T + fit_shift) * [1.0, -1.0]  # (68, 2) mm, y down
    low, high = box.min(axis=0), box.max(axis=0)
    scale = size / (margin * np.sqrt(2.0) * float((high - low).max()))
    offset = (size - 1) / 2 - scale * (low + high) / 2
    pose = np.zeros((3, 4))
    pose[:, :3] = scale * fit_scale * np.diag([1.0, -1.0, 1.0]) @ fit_rotation
    pose[:2, 3] = offset + scale * fit_shift * [1.0, -1.0]
    return Camera(
        rotation=rotation,
        distance=distance,
        turn=turn,
        scale=float(scale),
        offset=offset.astype(np.float32),
        pose=pose.astype(np.float32),
    )


def _image_plane(seen: NDArray[np.floating], distance: float, turn: FloatArray) -> NDArray[np.float64]:
    """Points (N, 3) in the frame of the line of sight to the image (N, 2): mm about where the head's origin is seen."""
    if not np.isfinite(distance):
        return seen[:, :2].astype(np.float64)
    rays = _rays(seen, distance, turn)
    return np.asarray(distance * (rays[:, :2] / rays[:, 2:] - turn[:2, 2] / turn[2, 2]), dtype=np.float64)


def _rays(seen: NDArray[np.floating], distance: float, turn: FloatArray) -> NDArray[np.float64]:
    """From the lens to the points, in shares of the distance, in the turned camera's frame (z forward)."""
    rays = (seen * [1.0, 1.0, -1.0] / distance + [0.0, 0.0, 1.0]) @ turn.T.astype(np.float64)
    return np.asarray(rays, dtype=np.float64)


def fit_orthographic(
    points: NDArray[np.float64], image: NDArray[np.float64], rotation: NDArray[np.floating]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Least-squares scale, rotation (3, 3), shift (2,): image = scale * (rotation @ points)[:2] + shift (Gauss-Newton).

    points (N, 3), image (N, 2), y up; `rotation` is where it starts.
    """
    rotation = rotation.astype(np.float64)
    scale, shift = 1.0, np.zeros(2)
    count = len(points)
    for _ in range(_FIT_STEPS):
        turned = points @ rotation.T
        x, y, z = turned.T
        zero, one = np.zeros(count), np.ones(count)
        # Turning by a small w moves a point by w x point; columns: w_x, w_y, w_z, scale, shift_x, shift_y.
        across = np.stack([zero, scale * z, -scale * y, x, one, zero], axis=1)
        up = np.stack([-scale * z, zero, scale * x, y, zero, one], axis=1)
        residual = image - (scale * turned[:, :2] + shift)
        step, *_ = np.linalg.lstsq(np.concatenate([across, up]), residual.T.ravel(), rcond=None)
        rotation = _rotation_vector(step[:3]) @ rotation
        scale, shift = scale + step[3], shift + step[4:]
    return float(scale), rotation, shift


def _rotation_vector(w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rodrigues' formula."""
    angle = float(np.linalg.norm(w))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = w / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
