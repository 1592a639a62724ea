"""Figures of merit: NME (normalised mean error), its bins of yaw, pose errors, the CED. Errors in percent or degrees.

NME of one face: the mean 2D distance over its K landmarks over sqrt(w * h) of the true landmarks' bounding box (CLN,
BMVC 2022 suppl., "Protocol"). Bins are of |yaw| in degrees: [0, 30], (30, 60], (60, 90]; their mean is of the bins.
NME 3D: the same with 3D distances over the same sqrt(w * h), each side's depth counted from its landmarks' mean, as a
scaled-orthographic pose has none (the supplement names neither the norm nor the depth's origin: this is our reading).
CED: the share of faces with at most a given error. The area under it up to a limit is a share of the limit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InvalidInputError
from runtime.pose import rotation_to_euler

YAW_EDGES = (30.0, 60.0)
CED_LIMIT = 8.0
"""Percent: errors above it are failures."""
EULER_RANGE = 99.0
"""Degrees: faces with a true angle beyond it have no meaningful Euler angles (the usual rule on AFLW2000-3D)."""


def nme(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """NME in percent (B,) of predicted landmarks against true ones, both (B, K, 2 or 3); only x and y count.

    Raises:
        InvalidInputError: The shapes don't belong together, or a true box has no area.
    """
    points, reference = (np.asarray(array, dtype=np.float64)[..., :2] for array in (predicted, truth))
    size = box_size(points, reference, 2)
    return 100.0 * np.linalg.norm(points - reference, axis=2).mean(axis=1) / size


def nme_3d(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """NME 3D in percent (B,) of landmarks (B, K, 3): see the module's opening for depth and norm.

    Raises:
        InvalidInputError: The shapes don't belong together, or a true box has no area.
    """
    points, reference = (np.array(array, dtype=np.float64) for array in (predicted, truth))
    size = box_size(points, reference, 3)
    for side in (points, reference):
        side[..., 2] -= side[..., 2].mean(axis=1, keepdims=True)
    return 100.0 * np.linalg.norm(points - reference, axis=2).mean(axis=1) / size


def nme_visible(predicted: ArrayLike, truth: ArrayLike, visible: ArrayLike, size: ArrayLike) -> NDArray[np.float64]:
    """NME in percent (B,) over the visible points of each face, over a given size.

    Args:
        predicted: (B, K, 2).
        truth: (B, K, 2); anything, NaN too, where not visible.
        visible: Bool (B, K); at least one of each face.
        size: What errors are divided by (B,), pixels.
    """
    points, reference, seen = (np.asarray(array) for array in (predicted, truth, visible))
    if points.shape != reference.shape or seen.shape != points.shape[:2] or not seen.any(axis=1).all():
        raise InvalidInputError(
            f"Expected points (B, K, 2) twice and visibility (B, K) with one visible point of each face, got "
            f"{points.shape}, {reference.shape} and {seen.shape}."
        )
    distance = np.linalg.norm(np.where(seen[..., None], points - reference, 0.0), axis=2)
    return 100.0 * distance.sum(axis=1) / seen.sum(axis=1) / np.asarray(size, dtype=np.float64)


def box_size(points: NDArray[np.float64], reference: NDArray[np.float64], axes: int) -> NDArray[np.float64]:
    """sqrt(w * h) (B,) of the reference's boxes, of checked shapes (B, K, `axes`) both.

    Raises:
        InvalidInputError: The shapes don't belong together, or a true box has no area.
    """
    if points.shape != reference.shape or points.ndim != 3 or points.shape[2] != axes:
        raise InvalidInputError(
            f"Expected two arrays of landmarks (B, K, {'2 or 3' if axes == 2 else axes}), got {points.shape} and "
            f"{reference.shape}."
        )
    area = np.ptp(reference[..., :2], axis=1).prod(axis=1)  # (B,)
    if not (area > 0).all():
        raise InvalidInputError(
            "Expected true landmarks whose bounding box has an area, got a flat one; check the data."
        )
    return np.asarray(np.sqrt(area))


def geodesic(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Angle in degrees (B,) of the rotation from one rotation matrix (B, 3, 3) to the other."""
    relative = np.asarray(predicted, dtype=np.float64) @ np.swapaxes(np.asarray(truth, dtype=np.float64), -1, -2)
    # The sine keeps its precision where the cosine is flat, near 0 and 180 degrees.
    axis = np.stack([relative[..., i, j] - relative[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=-1)
    cosine = np.trace(relative, axis1=-2, axis2=-1) - 1.0
    return np.asarray(np.degrees(np.arctan2(np.linalg.norm(axis, axis=-1), cosine)))


def euler_errors(predicted: ArrayLike, angles: ArrayLike) -> NDArray[np.float64]:
    """Absolute errors (B, 3) of yaw, pitch and roll in degrees of rotation matrices (B, 3, 3) against angles (B, 3).

    The true angles' other triple, (180 - yaw, pitch + 180, roll + 180), is the same rotation: the nearer one counts.
    """
    ours = np.array([rotation_to_euler(rotation) for rotation in np.asarray(predicted)]).reshape(-1, 3)
    first = np.asarray(angles, dtype=np.float64).reshape(-1, 3)
    other = first * [-1.0, 1.0, 1.0] + 180.0
    errors = np.abs((ours - np.stack([first, other]) + 180.0) % 360.0 - 180.0)  # (2, B, 3)
    nearer = errors.sum(axis=2).argmin(axis=0)
    return np.asarray(errors[nearer, np.arange(len(first))])


@dataclass(frozen=True, kw_only=True)
class PoseError:
    """Of a set's head poses: the geodesic error by yaw; the mean absolute Euler errors of faces within EULER_RANGE."""

    geodesic: YawBins
    euler: YawBins
    """Mean of the three angles' errors; its `mean` is of the bins, `mae` of all faces alike."""
    yaw: float | None
    pitch: float | None
    roll: float | None
    faces: int
    """How many faces the Euler errors are of."""

    @property
    def mae(self) -> float | None:
        """Mean of the three angles' errors."""
        if self.yaw is None or self.pitch is None or self.roll is None:
            return None
        return (self.yaw + self.pitch + self.roll) / 3


def pose_error(predicted: ArrayLike, truth: ArrayLike, angles: ArrayLike) -> PoseError:
    """Pose error of rotation matrices (B, 3, 3) against true ones and their yaw, pitch and roll (B, 3) in degrees."""
    true_angles = np.asarray(angles, dtype=np.float64)
    chosen = (np.abs(true_angles) <= EULER_RANGE).all(axis=1)
    errors = euler_errors(predicted, true_angles)[chosen]
    yaw, pitch, roll = (float(value) for value in errors.mean(axis=0)) if chosen.any() else (None, None, None)
    return PoseError(
        geodesic=by_yaw(geodesic(predicted, truth), true_angles[:, 0]),
        euler=by_yaw(errors.mean(axis=1), true_angles[chosen, 0]),
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        faces=int(chosen.sum()),
    )


@dataclass(frozen=True, kw_only=True)
class Ced:
    """Figures of a cumulative error distribution."""

    limit: float
    area: float
    """Under the curve up to the limit, as a share of it: 1 is no error at all."""
    failure_rate: float
    """Percent of faces with a larger error than the limit."""


def ced(errors: ArrayLike, limit: float = CED_LIMIT) -> Ced:
    """The distribution of errors (B,) in percent; a missed face's infinite one, or NaN, is a failure."""
    values = np.nan_to_num(np.asarray(errors, dtype=np.float64), nan=np.inf)
    if values.ndim != 1 or not len(values):
        raise InvalidInputError(f"Expected errors (B,) of at least one face, got {values.shape}.")
    area = float(np.clip(1.0 - values / limit, 0.0, None).mean())
    return Ced(limit=limit, area=area, failure_rate=100.0 * float((values > limit).mean()))


def ced_curve(errors: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Percent of faces (T,) whose error (B,) is at most each threshold (T,)."""
    values = np.sort(np.nan_to_num(np.asarray(errors, dtype=np.float64), nan=np.inf))
    return 100.0 * np.searchsorted(values, np.asarray(thresholds), side="right") / max(1, len(values))


def second_difference(points: NDArray[np.floating]) -> float:
    """The mean length of the second difference over time of points (..., T, N, 2), T from 3 on: jitter, when still."""
    first, middle, last = points[..., :-2, :, :], points[..., 1:-1, :, :], points[..., 2:, :, :]
    return float(np.linalg.norm(last - 2 * middle + first, axis=-1).mean())


@dataclass(frozen=True, kw_only=True)
class YawBins:
    """Mean error of each bin of |yaw|, None where no face falls, and the mean over the bins that have faces."""

    bins: tuple[float | None, ...]
    mean: float | None
    counts: tuple[int, ...] = ()
    """How many faces are in each bin."""


def by_yaw(errors: ArrayLike, yaw: ArrayLike) -> YawBins:
    """Bin errors (B,) by |yaw| (B,) in degrees; an edge belongs to the bin below it. NaN: no yaw, in no bin."""
    values, degrees = np.asarray(errors, dtype=np.float64), np.abs(np.asarray(yaw, dtype=np.float64))
    if values.shape != degrees.shape or values.ndim != 1:
        raise InvalidInputError(f"Expected errors and yaws (B,), got {values.shape} and {degrees.shape}.")
    index = np.where(np.isnan(degrees), -1, np.searchsorted(YAW_EDGES, degrees, side="left"))
    groups = [values[index == number] for number in range(len(YAW_EDGES) + 1)]
    bins = tuple(float(group.mean()) if len(group) else None for group in groups)
    filled = [value for value in bins if value is not None]
    counts = tuple(len(group) for group in groups)
    return YawBins(bins=bins, mean=float(np.mean(filled)) if filled else None, counts=counts)


def bins_or_mean(errors: NDArray[np.float64], yaw: NDArray[np.float64]) -> YawBins:
    """By yaw; the plain mean of all faces where none has a yaw."""
    result = by_yaw(errors, yaw)
    return result if sum(result.counts) or not len(errors) else dataclasses.replace(result, mean=float(errors.mean()))
