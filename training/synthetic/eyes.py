"""Eyes opened and shut through the expression coefficients, and a set of renders to tell the two apart on.

The face model's ten expression modes move both eyes' lids together: a one-eyed wink is outside what a label can say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runtime.pose import decompose
from training.synthetic.head import Head

if TYPE_CHECKING:
    from training.synthetic.factory import FaceFactory, Sample

FloatArray = NDArray[np.float32]

UPPER_LIDS, LOWER_LIDS = (37, 38, 43, 44), (41, 40, 47, 46)
"""iBUG landmarks that face each other across the eyes."""
_STIFFNESS = 20.0  # mm^2: what a coefficient of 1 costs beside moving other landmarks
OPENINGS = {"closed": 0.0, "half": 0.5, "open": 1.0}


def with_opening(head: Head, coefficients: FloatArray, opening: float) -> FloatArray:
    """The coefficients (50,) with the eyes open by `opening` times the mean face's.

    `opening` is of the gap between the lids' vertices, in mm. Of all changes of the expression that do it, the one that
    moves jaw, brows, nose and mouth the least.
    """
    upper, lower = head.landmark_vertices[list(UPPER_LIDS)], head.landmark_vertices[list(LOWER_LIDS)]
    basis = head.basis.reshape(50, -1, 3)
    slope = (basis[:, upper] - basis[:, lower])[:, :, 1].mean(axis=1)  # (50,) mm of gap per coefficient
    rest = float((head.mean[upper] - head.mean[lower])[:, 1].mean())
    missing = rest * opening - (rest + float(slope @ coefficients))
    others = basis[40:, head.landmark_vertices[[*range(36), *range(48, 68)]]].reshape(10, -1)
    step = np.linalg.solve(others @ others.T + _STIFFNESS * np.eye(10), slope[40:])
    changed = coefficients.copy()
    changed[40:] += step * missing / (slope[40:] @ step)
    return changed.astype(np.float32)


def eye_renders(factory: FaceFactory, count: int = 200, *, start: int = 0) -> Iterator[tuple[Sample, str]]:
    """Renders with closed, half and open eyes in turn, nothing before them, each with its name in `OPENINGS`.

    Heads that are turned past profile, of which the camera sees no eye, are passed over.
    """
    names = list(OPENINGS)
    shown, index = 0, start
    while shown < count:
        name = names[shown % len(names)]
        sample = factory.sample(index, opening=OPENINGS[name], clear=True)
        index += 1
        _, rotation, _ = decompose(sample.params[:12])
        if rotation[2, 2] > 0:
            shown += 1
            yield sample, name
