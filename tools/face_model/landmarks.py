"""The 68 landmarks (iBUG order, as AFLW2000-3D uses it) on MakeHuman's base mesh hm08.

Each has an anchor, settled from its definition, which is a vertex of the head; CONVENTION moves it along the surface
to where AFLW2000-3D's labels have it. LANDMARKS maps an anchor to {base vertex: weight}; only the subject's right side
(the image's left) and the middle are listed: the other side is `training.data.landmarks.IBUG_68.mirror`. How the
anchors were settled, all on the skin that a viewer sees:

- Jaw 0-16: 19 to 27 mm apart along the bony jaw line, from the front of one ear's root over the chin's lowest point
  to the other's (the line is fixed on the surface: it is not the outline that the camera sees).
- Brows 17-26: along the middle of the brow, from its outer to its inner end.
- Nose 27-30: the ridge from the height of the eyes' corners to the foremost point, evenly; 31-35: the base, 33 in the
  middle under the columella, 31 and 35 below the middle of the wings.
- Eyes 36-47: where the lids meet, and the free edge of each lid at 0.28 and 0.66 of the width.
- Mouth 48-59: the lips' red border, corners included; 60-67: the border where the lips meet, on the side one sees.
"""

import numpy as np

_VERTICES = {
    2: 5759, 36: 24, 38: 54, 39: 69,
    48: 3737, 49: 447, 50: 460, 51: 466, 57: 492, 60: 3735, 61: 471, 62: 474, 66: 493,
}  # fmt: skip
"""Landmarks that are a vertex of the base mesh."""
_EDGES = {
    0: (5738, 5765, 0.55), 1: (5727, 5735, 0.7), 3: (866, 911, 0.65), 4: (739, 895, 0.35), 5: (742, 893, 0.8),
    6: (891, 3698, 0.55), 7: (914, 921, 0.35), 8: (732, 747, 0.45),
    17: (261, 262, 0.55), 18: (225, 232, 0.75), 19: (222, 231, 0.5), 20: (222, 223, 0.6), 21: (208, 223, 0.4),
    27: (132, 133, 0.5), 28: (131, 5063, 0.25), 29: (201, 291, 0.5), 30: (5054, 297, 0.5),
    31: (285, 333, 0.7), 32: (285, 314, 0.8), 33: (317, 343, 0.5),
    37: (6, 0, 0.4), 40: (47, 50, 0.45), 41: (36, 41, 0.7),
    58: (486, 480, 0.3), 59: (406, 480, 0.35), 67: (487, 481, 0.35),
}  # fmt: skip
"""Landmarks between two vertices: from the first, so far towards the second."""
LANDMARKS: dict[int, dict[int, float]] = {index: {vertex: 1.0} for index, vertex in _VERTICES.items()} | {
    index: {first: 1.0 - share, second: share} for index, (first, second, share) in _EDGES.items()
}
CONVENTION: dict[int, np.ndarray] = {
    0: np.array((0.7, -4.8, 3.0)),
    1: np.array((-0.1, -2.8, -0.3)),
    2: np.array((1.3, -3.7, 1.8)),
    3: np.array((0.8, -2.4, 3.3)),
    4: np.array((0.7, -1.9, 3.0)),
    5: np.array((1.0, -0.8, 4.1)),
    6: np.array((0.1, 1.1, 3.4)),
    7: np.array((-0.8, 2.3, 5.5)),
    8: np.array((0.0, 2.0, 6.9)),
    17: np.array((-2.4, 1.6, 0.8)),
    18: np.array((-1.2, 0.9, 0.4)),
    19: np.array((-1.5, -0.6, -0.4)),
    20: np.array((-0.6, -0.9, -0.2)),
    21: np.array((-0.3, 0.5, 0.8)),
    27: np.array((0.0, -0.1, 2.4)),
    28: np.array((0.0, -1.2, 1.2)),
    29: np.array((0.0, 0.2, 1.0)),
    30: np.array((0.0, 0.5, -2.8)),
    31: np.array((-0.2, 0.8, -0.2)),
    32: np.array((-0.1, 1.4, -0.4)),
    33: np.array((0.0, 0.6, -1.2)),
    36: np.array((0.3, -0.7, -1.1)),
    39: np.array((-0.1, 0.1, 0.4)),
    48: np.array((-0.8, -0.7, -1.6)),
    49: np.array((0.2, 0.6, 0.3)),
    50: np.array((-0.4, 0.6, -0.6)),
    51: np.array((0.0, -0.5, -1.3)),
    57: np.array((0.0, -0.5, -0.1)),
    58: np.array((0.0, -0.6, 0.8)),
    59: np.array((0.0, 0.8, 0.2)),
}  # fmt: skip
"""Millimetres (x, y, z) in the face model's frame from an anchor of the mean face to where the labels have the point,
right side and middle; the landmark is the nearest point of the skin to that (`tools/make_face_model.py`). Printed by
`tools/settle_landmarks.py`. Lids and inner lips stay on their anchors: those edges are what opens and closes."""
