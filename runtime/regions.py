"""The region that a face asks for itself, once the network has seen it, and whether the one it was seen in was off.

A detector's region is an estimate from six keypoints; the network's 68 landmarks and its pose give a better one.
Trackers cut each frame by that of the frame before; in photographs a face is looked at again where it pays, and what
both looks say is averaged unless the first region was far off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
LOOKS = 4
"""At one face at most. Of 2,000 held-out renders 1,706 are detected; 27 of them are looked at a third time, 8 a fourth
one. Their mean error is 2.10 % with two looks, 2.09 with three, 2.05 with four and 2.04 with five."""


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


class Looks:
    """The looks at the faces of a picture in a detector's regions, and what they say together.

    Where a region was off, the network looks again, in the one that the face asks for: `again` says where, and `take`
    hears its answer. What both looks say is averaged. Where the region was far off, the second look stands alone, and
    is asked in turn whether its region was off.
    """

    def __init__(
        self,
        params: NDArray[np.float32],
        landmarks: NDArray[np.float32],
        rois: Sequence[Roi],
        size: int,
        decode: Callable[[NDArray[np.float32], list[Roi]], NDArray[np.float32]],
        *,
        most: int = LOOKS,
    ) -> None:
        """Start from the first looks.

        Args:
            params: (F, 12 + S + E), in the frames of the regions' crops.
            landmarks: Of these (F, 68, 3), image pixels.
            rois: The F regions.
            size: Side of the crops.
            decode: The landmarks of params and their regions.
            most: Looks at one face.
        """
        self.params = params
        """What all looks say (F, 12 + S + E), in the frames of `rois`' crops: the array given where one was enough."""
        self.rois = list(rois)
        """The last regions (F)."""
        self._size, self._decode, self._left = size, decode, most - 1
        self.again = self._off(range(len(rois)), landmarks)
        """Where to look again: regions (K) by the numbers of their faces."""
        if self.again:
            self.params = params.copy()  # an engine may have given its own memory, which its next call writes to

    def take(self, seen: NDArray[np.float32]) -> None:
        """Take in the params (K, 12 + S + E) of the crops of `again`."""
        numbers, better = list(self.again), list(self.again.values())
        rois = [self.rois[number] for number in numbers]
        pairs = zip(rois, better, strict=True)
        far = np.array([is_off(roi, own, way=_FAR_WAY, turn=_FAR_TURN) for roi, own in pairs], dtype=bool)
        mean = (_moved(self.params[numbers], rois, better, self._size) + seen) / 2
        self.params[numbers] = np.where(far[:, np.newaxis], seen, mean)
        for number, roi in self.again.items():
            self.rois[number] = roi
        self._left -= 1
        alone = [number for number, off in zip(numbers, far, strict=True) if off]
        self.again = self._off(alone)

    def _off(self, numbers: Sequence[int], landmarks: NDArray[np.float32] | None = None) -> dict[int, Roi]:
        if not self._left or not numbers:
            return {}
        params, rois = self.params[numbers], [self.rois[number] for number in numbers]
        if landmarks is None:
            landmarks = self._decode(params, rois)
        asked = zip(numbers, rois, asked_rois(params, landmarks, rois, self._size), strict=True)
        return {number: on_grid(own) for number, roi, own in asked if is_off(roi, own, way=_WAY, turn=_TURN)}


def _moved(params: NDArray[np.float32], rois: Sequence[Roi], others: Sequence[Roi], size: int) -> NDArray[np.float64]:
    """Params (F, 12 + S + E) of the crops of regions, in the frames of the crops of as many other regions."""
    (linear, offset), (to_linear, to_offset) = maps(rois, size), maps(others, size)
    pose = linear @ params[:, :POSE_SIZE].astype(np.float64).reshape(-1, 3, 4)
    pose[:, :, 3] += offset - to_offset
    return np.concatenate([np.linalg.solve(to_linear, pose).reshape(-1, POSE_SIZE), params[:, POSE_SIZE:]], axis=1)
