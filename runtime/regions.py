"""The region that a face asks for itself, once the network has seen it, and whether the one it was seen in was off.

A detector's region is an estimate from six keypoints; the network's 68 landmarks and its pose give a better one.
Trackers cut each frame by that of the frame before; in photographs a face is looked at again where it pays, and what
both looks say is averaged unless the first region was far off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.face_model import POSE_SIZE
from runtime.pose import angle_between, picture_angles
from runtime.roi import Roi, maps, on_grid, rois_from_landmarks
from runtime.smoothing import place

_WAY, _TURN = 0.05, 8.0
"""Part of its side, and degrees, that a photograph's region may be off by. On renders, a second look at those that are
off by more takes the mean error in a detector's regions from 3.06 to 2.80 %; one at all of them, to 2.78."""
_FAR_WAY, _FAR_TURN = 0.08, 20.0
"""The same of a region so far off that its answer no longer counts. Else both are averaged: the second region is made
of the first answer, and so has its errors, too."""


def own_rois(rotations: NDArray[np.float64], landmarks: NDArray[np.floating], rois: Sequence[Roi]) -> list[Roi]:
    """The regions around landmarks (F, 68, 3), image pixels, turned as heads of rotations (F, 3, 3) in the image are.

    A head that is seen from far above or below is turned as its region `rois` was.
    """
    return rois_from_landmarks(landmarks, picture_angles(rotations, [roi.angle for roi in rois]))


def is_off(roi: Roi, better: Roi, *, way: float, turn: float) -> bool:
    """Whether a region is off by more than `way` of its side, twice that in size, or by `turn` degrees."""
    moved = math.hypot(better.center_x - roi.center_x, better.center_y - roi.center_y)
    grown = abs(math.log(better.side / roi.side))
    return moved > way * roi.side or grown > 2 * way or abs(angle_between(better.angle, roi.angle)) > turn


def asked_rois(
    params: NDArray[np.float32], landmarks: NDArray[np.float32], rois: Sequence[Roi], size: int
) -> list[Roi]:
    """`own_rois` of what the network said.

    Args:
        params: (F, 12 + S + E), in the frames of the regions' crops.
        landmarks: (F, 68, 3), image pixels.
        rois: The F regions.
        size: Side of the crops.
    """
    return own_rois(place(params, *maps(rois, size), shape_count=0).rotation, landmarks, rois)


def second_rois(
    params: NDArray[np.float32], landmarks: NDArray[np.float32], rois: Sequence[Roi], size: int
) -> dict[int, Roi]:
    """Where to look again: of the regions that were off, by their number, the better ones (see `asked_rois`)."""
    if not rois:
        return {}
    pairs = enumerate(zip(rois, asked_rois(params, landmarks, rois, size), strict=True))
    return {i: on_grid(own) for i, (roi, own) in pairs if is_off(roi, own, way=_WAY, turn=_TURN)}


def joined(
    params: NDArray[np.float32], rois: Sequence[Roi], again: Mapping[int, Roi], seen: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    """What first and second looks say together of the faces that were looked at again.

    Args:
        params: Of the first looks (F, 12 + S + E), in the frames of their regions' crops.
        rois: The F regions.
        again: What `second_rois` said of them; K.
        seen: Params (K, 12 + S + E) of the second looks, in their order.
        size: Side of the crops.

    Returns:
        Params (K, 12 + S + E) in the frames of the second regions' crops: means, or the second's where the first region
        was far off.
    """
    numbers, better = list(again), list(again.values())
    first = _moved(params[numbers], [rois[i] for i in numbers], better, size)
    far = [is_off(rois[i], roi, way=_FAR_WAY, turn=_FAR_TURN) for i, roi in again.items()]
    return np.where(np.array(far, dtype=bool)[:, np.newaxis], seen, (first + seen) / 2).astype(np.float32)


def _moved(params: NDArray[np.float32], rois: Sequence[Roi], others: Sequence[Roi], size: int) -> NDArray[np.float64]:
    """Params (F, 12 + S + E) of the crops of regions, in the frames of the crops of as many other regions."""
    (linear, offset), (to_linear, to_offset) = maps(rois, size), maps(others, size)
    pose = linear @ params[:, :POSE_SIZE].astype(np.float64).reshape(-1, 3, 4)
    pose[:, :, 3] += offset - to_offset
    return np.concatenate([np.linalg.solve(to_linear, pose).reshape(-1, POSE_SIZE), params[:, POSE_SIZE:]], axis=1)
