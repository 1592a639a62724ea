"""Metric pose: where a head stands before a camera whose intrinsics are known.

Frames, all right-handed, points as columns:

- OpenCV's camera: x right, y down, z forward, millimetres; pixel = (fx · x / z + cx, fy · y / z + cy), pixel centres at
  integers. A point X of the face model lies at rotation · X · scale + translation.
- glTF's and OpenGL's camera: x right, y up, looking along -z, metres.
- The head's origin is the face model's: the middle of the face, inside the head.

The network sees a face as a scaled-orthographic camera does: its pose matrix is the least-squares fit of such a camera
to what a lens projects in perspective, and turns with the line of sight to the face. `metric_pose` undoes exactly that:
it seeks the rotation and translation whose perspective projection, fitted in the same way, gives the network's matrix
(six equations, Levenberg–Marquardt). With the true matrix it gives the true pose to 0.01 degrees; PnP of the points
themselves would not, since the network's points carry no perspective (0.2 degrees and 0.6 % of the distance off).

Off the axis a lens draws a head longer, and the network errs more. Where the picture is at hand,
`Reconstructor.metric_poses` looks at each face again as the same camera, turned to it, would (`Camera.turned_to`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InvalidInputError
from runtime.face_model import LANDMARKS
from runtime.pose import rotation_to_euler

if TYPE_CHECKING:
    from runtime.face import Face
    from runtime.roi import Roi

Matrix = NDArray[np.float64]

PUPILS = (tuple(range(36, 42)), tuple(range(42, 48)))
"""The landmarks whose means stand for the pupils: the six around each eye."""

_FLIP = np.diag([1.0, -1.0, -1.0])  # y up, z backwards to OpenCV's camera, and back
_STRIDE = 7  # every 7th vertex takes part, beside the landmarks: as many as the labels of training were fitted to
_STEPS = 50
_EXACT = 1e-12  # square pixels
_FARTHEST_CENTER = 10.0  # focal lengths: pixel (0, 0) would be seen at 84 degrees from the axis
_WIDEST = 80.0  # degrees from the axis at which a face may stand
_NEAREST = 1.0  # mm before the camera


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal lengths and principal point in pixels (`cv2.calibrateCamera` gives them)."""

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float | np.number) or not math.isfinite(value):
                raise InvalidInputError(f"camera: expected {field.name} as a finite number of pixels, got {value!r}")
        if self.fx <= 0 or self.fy <= 0:
            raise InvalidInputError(f"camera: expected focal lengths above 0 pixels, got {self.fx:g} and {self.fy:g}")
        if max(abs(self.cx) / self.fx, abs(self.cy) / self.fy) > _FARTHEST_CENTER:
            raise InvalidInputError(
                f"camera: expected a centre within {_FARTHEST_CENTER:g} focal lengths of the image's corner, got "
                f"({self.cx:g}, {self.cy:g}) with focal lengths ({self.fx:g}, {self.fy:g}); give all in pixels"
            )

    @classmethod
    def from_fov(cls, degrees: float, size: tuple[int, int]) -> Camera:
        """A camera of square pixels that sees `degrees` from left to right, centred in an image of (width, height)."""
        if not 0 < degrees < 180:
            raise InvalidInputError(f"field of view: expected degrees between 0 and 180, got {degrees}")
        if len(size) != 2 or not all(side > 0 for side in size):
            raise InvalidInputError(f"image size: expected (width, height) above 0, got {size}")
        width, height = size
        focal = width / 2 / math.tan(math.radians(degrees) / 2)
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2)

    @property
    def matrix(self) -> Matrix:
        """K (3, 3), as OpenCV takes it."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    def project(self, points: ArrayLike) -> Matrix:
        """Pixels (…, 2) of points (…, 3) in OpenCV's camera frame.

        Raises:
            InvalidInputError: a point behind the camera, or not finite.
        """
        values = np.asarray(points, dtype=np.float64)
        if values.shape[-1:] != (3,) or not np.isfinite(values).all() or not (values[..., 2] > 0).all():
            raise InvalidInputError(
                "points: expected finite (…, 3) before the camera (z above 0), got others; "
                "is their frame OpenCV's (x right, y down, z forward)?"
            )
        return values[..., :2] / values[..., 2:] * (self.fx, self.fy) + (self.cx, self.cy)

    def ray(self, x: float, y: float) -> Matrix:
        """What a pixel sees: (x, y, 1) in OpenCV's camera frame.

        Raises:
            InvalidInputError: it lies so far from the axis that no lens draws it.
        """
        ray = np.array([(x - self.cx) / self.fx, (y - self.cy) / self.fy, 1.0])
        away = math.degrees(math.atan(math.hypot(ray[0], ray[1])))
        if away > _WIDEST:
            raise InvalidInputError(
                f"face: expected it within {_WIDEST:g} degrees of the camera's axis, got {away:.0f}; check the "
                "camera's centre, and that the face comes from this camera's image"
            )
        return ray

    def turned_to(self, roi: Roi, size: int) -> TurnedCamera:
        """This camera, turned about its own centre so that a region is upright in the middle of `size` pixels.

        Raises:
            InvalidInputError: the region lies too far from the axis.
        """
        ray = self.ray(roi.center_x, roi.center_y)
        length, angle = float(np.linalg.norm(ray)), math.radians(roi.angle)
        turn = _rotation(np.array([0, 0, -angle])) @ _rotation(_from_axis(ray)).T
        # Off the axis a degree is longer in the picture: by length along the circle around it, by its square across.
        focal = math.sqrt(self.fx * self.fy) * length**1.5 * size / roi.side
        camera = Camera(focal, focal, (size - 1) / 2, (size - 1) / 2)
        corners = np.array([(x, y, focal) for x in (-size / 2, size / 2) for y in (-size / 2, size / 2)]) @ turn
        if corners[:, 2].min() < math.cos(math.radians(_WIDEST)) * focal:
            raise InvalidInputError(
                f"face: expected all of it within {_WIDEST:g} degrees of the camera's axis, got a region of "
                f"{roi.side:.0f} pixels at ({roi.center_x:.0f}, {roi.center_y:.0f}); check the camera"
            )
        return TurnedCamera(camera=camera, turn=turn, homography=self.matrix @ turn.T @ np.linalg.inv(camera.matrix))


@dataclass(frozen=True, kw_only=True, eq=False)
class TurnedCamera:
    """A camera that stands where another does, and looks elsewhere: its picture is a homography of the other's."""

    camera: Camera
    turn: Matrix  # (3, 3) the other's frame to its own
    homography: Matrix  # (3, 3) its pixels to the other's

    def turned_back(self, pose: MetricPose, pixel: float) -> MetricPose:
        """A pose before this camera as the other sees it; one pixel here is so many there."""
        rotation, translation = self.turn.T @ pose.rotation, self.turn.T @ pose.translation
        return MetricPose(rotation=rotation, translation=translation, scale=pose.scale, error=pose.error * pixel)


@dataclass(frozen=True, kw_only=True, eq=False)
class MetricPose:
    """Where a head stands: OpenCV's frame in millimetres, and glTF's in metres."""

    rotation: Matrix  # (3, 3) model frame to OpenCV's camera frame
    translation: Matrix  # (3,) mm, the head's origin in OpenCV's camera frame
    scale: float  # true millimetres per millimetre of the face model
    error: float  # pixels, root mean square: between the projected face and the network's, perspective taken out

    @property
    def distance(self) -> float:
        """Millimetres from the camera to the head's origin."""
        return float(np.linalg.norm(self.translation))

    @property
    def angles(self) -> tuple[float, float, float]:
        """(yaw, pitch, roll) in degrees against the camera's axes, by `runtime.pose`'s convention."""
        return rotation_to_euler(_FLIP @ self.rotation)

    @property
    def opencv(self) -> Matrix:
        """(4, 4): the face model's points, in its millimetres, to OpenCV's camera frame in millimetres."""
        return _rigid(self.rotation * self.scale, self.translation)

    @property
    def gltf(self) -> Matrix:
        """(4, 4): the points of the `.glb` file, metres, to glTF's camera frame (y up, looking along -z) in metres."""
        return _rigid(_FLIP @ self.rotation * self.scale, _FLIP @ self.translation / 1000)


def metric_pose(
    face: Face,
    camera: Camera,
    *,
    scale_mm: float | None = None,
    between: tuple[Sequence[int], Sequence[int]] = PUPILS,
    hidden_weight: float = 1.0,
) -> MetricPose:
    """Where the head stands before `camera`, which took the image that the face was found in.

    Args:
        face: with its own shape and expression.
        camera: the intrinsics, in the image's pixels. There is no default: a wrong field of view is a wrong distance.
        scale_mm: one true distance, in millimetres, `between` two means of landmarks: by default the pupils. Without it
            the face has the size that the network gave it, which one image cannot tell: adults' heads differ by some
            5 %, and the distance with them; a child's would be far off.
        between: landmark numbers of either end.
        hidden_weight: how much points count that the face hides itself, from 0 to 1. The network's matrix is a fit to
            all points alike, so 1 is exact and less is not (0.1: 1 degree and 1.6 % of the distance with a perfect
            network); other networks may differ.

    Raises:
        InvalidInputError: the scale or a weight is no such number; the face is behind the camera, at infinity, or
            nearly beside it.
    """
    if not 0 <= hidden_weight <= 1:
        raise InvalidInputError(f"hidden_weight: expected a number from 0 to 1, got {hidden_weight}")
    points, observed = _points(face)
    size = 1.0 if scale_mm is None else _size(face, scale_mm, between)
    seen = np.concatenate([face.visible, face.vertex_visibility[::_STRIDE]]) if hidden_weight < 1 else True
    weights = np.where(np.broadcast_to(seen, len(points)), 1.0, math.sqrt(hidden_weight))
    rotation, translation = _start(face, camera, size)
    modes = _orthographic_modes(points * size, face.pose.rotation, face.pose.scale / size, weights)
    rotation, translation, residual = _solve(points * size, observed, weights, modes, camera, rotation, translation)
    return MetricPose(
        rotation=rotation,
        translation=translation,
        scale=size,
        error=float(np.linalg.norm(residual) / len(points) ** 0.5),
    )


def _size(face: Face, scale_mm: float, between: tuple[Sequence[int], Sequence[int]]) -> float:
    """True millimetres per millimetre of the model."""
    if not (isinstance(scale_mm, int | float | np.number) and 0 < scale_mm < math.inf):
        raise InvalidInputError(f"scale_mm: expected a distance above 0 in millimetres, got {scale_mm!r}")
    if not all(len(numbers) and all(0 <= number < LANDMARKS for number in numbers) for numbers in between):
        raise InvalidInputError(f"between: expected two lists of landmark numbers below {LANDMARKS}, got {between}")
    first, second = (face.model_landmarks[list(numbers)].mean(axis=0) for numbers in between)
    distance = float(np.linalg.norm(first.astype(np.float64) - second))
    if not distance > 0:
        raise InvalidInputError(f"between: expected landmarks that lie apart, got {between}")
    return float(scale_mm / distance)


def _points(face: Face) -> tuple[Matrix, Matrix]:
    """Points of the face in the model frame (K, 3), and where the network sees them in the image (K, 2)."""
    if not (np.isfinite(face.params).all() and face.pose.scale > 0):
        raise InvalidInputError("face: expected finite params and a scale above 0, got others; they are damaged")
    points = np.concatenate([face.model_landmarks, face.model_vertices[::_STRIDE]]).astype(np.float64)
    landmarks = face.roi.to_image(face.model.landmarks(face.params), face.crop_size)  # not those a filter has moved
    observed = np.concatenate([landmarks, face.vertices[::_STRIDE]])[:, :2].astype(np.float64)
    return points, observed


def _start(face: Face, camera: Camera, size: float) -> tuple[Matrix, Matrix]:
    """Rotation and translation of the scaled-orthographic camera, turned to look along the ray to the face."""
    origin = face.roi.to_image(np.asarray(face.params[[3, 7, 11]], dtype=np.float64), face.crop_size)
    ray = camera.ray(float(origin[0]), float(origin[1]))
    depth = math.sqrt(camera.fx * camera.fy) / face.pose.scale * size
    return _rotation(_from_axis(ray)) @ _FLIP @ face.pose.rotation, ray * depth


def _from_axis(ray: Matrix) -> Matrix:
    """The turn (3,), axis times angle, that takes the camera's axis to a ray (x, y, 1)."""
    away = math.hypot(ray[0], ray[1])
    axis = np.array([-ray[1], ray[0], 0.0])
    return axis / away * math.atan(away) if away > 0 else axis


def _orthographic_modes(points: Matrix, rotation: Matrix, scale: float, weights: Matrix) -> Matrix:
    """How the image points (K, 2), flattened, move as a scaled-orthographic camera turns, grows and shifts.

    Returns:
        (2K, 6) orthonormal columns, the rows weighted.
    """
    x, y, z = rotation @ points.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    across = np.stack([zero, scale * z, -scale * y, x, one, zero], axis=1)
    down = -np.stack([-scale * z, zero, scale * x, y, zero, one], axis=1)
    modes = np.stack([across, down], axis=1) * weights[:, None, None]
    return np.asarray(np.linalg.qr(modes.reshape(-1, 6))[0])


def _solve(
    points: Matrix, observed: Matrix, weights: Matrix, modes: Matrix, camera: Camera, rotation: Matrix, shift: Matrix
) -> tuple[Matrix, Matrix, Matrix]:
    """Levenberg–Marquardt (Marquardt, 1963) over a turn and a shift: rotation, translation, and what is left (6,)."""
    residual, slope = _residual(points, observed, weights, modes, camera, rotation, shift)
    damping = 1e-4
    for _ in range(_STEPS):
        normal = slope.T @ slope
        step = np.asarray(
            np.linalg.solve(normal + damping * np.diag(normal.diagonal() + 1e-12), -slope.T @ residual),
            dtype=np.float64,
        )
        turned, moved = _rotation(step[:3]) @ rotation, shift + step[3:]
        if (points @ turned[2] + moved[2]).min() < _NEAREST:
            damping *= 10
            if damping > 1e9:
                break
            continue
        tried = _residual(points, observed, weights, modes, camera, turned, moved)
        before, after = residual @ residual, tried[0] @ tried[0]
        if after < before:
            rotation, shift, (residual, slope) = turned, moved, tried
            damping = max(damping / 10, 1e-12)
        else:
            damping *= 10
        if damping > 1e9 or after < _EXACT or (after <= before and before - after <= 1e-12 * before):
            break
    return rotation, shift, residual


def _residual(
    points: Matrix, observed: Matrix, weights: Matrix, modes: Matrix, camera: Camera, rotation: Matrix, shift: Matrix
) -> tuple[Matrix, Matrix]:
    """How far the projected points are off along the modes (6,), and its derivative by turn and shift (6, 6)."""
    turned = points @ rotation.T
    x, y, z = (turned + shift).T
    if z.min() < _NEAREST:
        raise InvalidInputError(
            f"face: expected it before the camera, got a point {z.min():.0f} mm from it; check the focal lengths "
            f"({camera.fx:g}, {camera.fy:g}) and the scale"
        )
    zero, across, down = np.zeros_like(z), camera.fx / z, camera.fy / z
    by_x = np.stack([across, zero, -across * x / z], axis=1)  # d(pixel x) / d(point)
    by_y = np.stack([zero, down, -down * y / z], axis=1)
    slope = np.stack([np.hstack([np.cross(turned, by), by]) for by in (by_x, by_y)], axis=1)  # (K, 2, 6)
    off = np.stack([across * x + camera.cx, down * y + camera.cy], axis=1) - observed
    off, slope = off * weights[:, None], slope * weights[:, None, None]
    return modes.T @ off.ravel(), modes.T @ slope.reshape(-1, 6)


def _rotation(vector: Matrix) -> Matrix:
    """Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)


def _rigid(linear: Matrix, translation: Matrix) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, translation
    return matrix
