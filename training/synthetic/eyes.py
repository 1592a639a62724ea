"""Eyes opened and shut through the expression coefficients, and a set of renders to tell the two apart on.

The face model's ten expression modes move both eyes' lids together: a one-eyed wink is outside what a label can say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.synthetic.head import Head

if TYPE_CHECKING:
    from training.synthetic.factory import FaceFactory, Sample

FloatArray = NDArray[np.float32]

UPPER_LIDS, LOWER_LIDS = (37, 38, 43, 44), (41, 40, 47, 46)
"""iBUG landmarks that face each other across the eyes."""
OPENINGS = {"closed": 0.0, "half": 0.5, "open": 1.0}


def with_opening(head: Head, coefficients: FloatArray, opening: float) -> FloatArray:
    """The coefficients (50,) with the eyes open by `opening` times the mean face's, by the smallest change.

    Eyes are as wide as shape and expression make them; `opening` is of the gap between the lids' landmarks, in mm.
    """
    upper, lower = head.landmark_vertices[list(UPPER_LIDS)], head.landmark_vertices[list(LOWER_LIDS)]
    basis = head.basis.reshape(50, -1, 3)
    slope = (basis[:, upper] - basis[:, lower])[:, :, 1].mean(axis=1)  # (50,) mm of gap per coefficient
    rest = float((head.mean[upper] - head.mean[lower])[:, 1].mean())
    missing = rest * opening - (rest + float(slope @ coefficients))
    changed = coefficients.copy()
    changed[40:] += slope[40:] * missing / (slope[40:] @ slope[40:])
    return changed.astype(np.float32)


def eye_renders(factory: FaceFactory, count: int = 200, *, start: int = 0) -> Iterator[tuple[Sample, str]]:
    """Renders with closed, half and open eyes in turn, each with its name in `OPENINGS`."""
    names = list(OPENINGS)
    for index in range(count):
        name = names[index % len(names)]
        yield factory.sample(start + index, opening=OPENINGS[name]), name
