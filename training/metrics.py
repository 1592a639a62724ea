"""Figures of merit: NME (normalised mean error), its bins of yaw. Landmarks are (B, K, 2 or 3), errors in percent.

NME of one face: the mean 2D distance over its K landmarks over sqrt(w * h) of the true landmarks' bounding box (CLN,
BMVC 2022 suppl., "Protocol"). Bins are of |yaw| in degrees: [0, 30], (30, 60], (60, 90]; their mean is of the bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InvalidInputError

YAW_EDGES = (30.0, 60.0)


def nme(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """NME in percent (B,) of predicted landmarks against true ones, both (B, K, 2 or 3); only x and y count.

    Raises:
        InvalidInputError: The shapes don't belong together, or a true box has no area.
    """
    points, reference = (np.asarray(array, dtype=np.float64)[..., :2] for array in (predicted, truth))
    if points.shape != reference.shape or points.ndim != 3 or points.shape[2] != 2:
        raise InvalidInputError(
            f"Expected two arrays of landmarks (B, K, 2 or 3), got {np.shape(predicted)} and {np.shape(truth)}."
        )
    area = np.ptp(reference, axis=1).prod(axis=1)  # (B,)
    if not (area > 0).all():
        raise InvalidInputError(
            "Expected true landmarks whose bounding box has an area, got a flat one; check the data."
        )
    return 100.0 * np.linalg.norm(points - reference, axis=2).mean(axis=1) / np.sqrt(area)


@dataclass(frozen=True, kw_only=True)
class YawBins:
    """Mean error of each bin of |yaw|, None where no face falls, and the mean over the bins that have faces."""

    bins: tuple[float | None, ...]
    mean: float | None


def by_yaw(errors: ArrayLike, yaw: ArrayLike) -> YawBins:
    """Bin errors (B,) by |yaw| (B,) in degrees; an edge belongs to the bin below it."""
    values, degrees = np.asarray(errors, dtype=np.float64), np.abs(np.asarray(yaw, dtype=np.float64))
    if values.shape != degrees.shape or values.ndim != 1:
        raise InvalidInputError(f"Expected errors and yaws (B,), got {values.shape} and {degrees.shape}.")
    index = np.searchsorted(YAW_EDGES, degrees, side="left")
    groups = [values[index == number] for number in range(len(YAW_EDGES) + 1)]
    bins = tuple(float(group.mean()) if len(group) else None for group in groups)
    filled = [value for value in bins if value is not None]
    return YawBins(bins=bins, mean=float(np.mean(filled)) if filled else None)
