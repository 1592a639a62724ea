"""Faces without a network: the mean face, posed."""

import numpy as np

from runtime import Face, Roi, load_face_model
from runtime.pose import euler_to_rotation

MODEL = load_face_model()


def posed(yaw=0.0, pitch=0.0, roll=0.0, *, center=(100.0, 90.0), side=160.0, coefficients=None, angle=0.0):
    """A face of `side` pixels that looks (yaw, pitch, roll) within its crop."""
    size, scale = 128, 0.5
    pose = np.zeros((3, 4))
    pose[:, :3] = scale * np.diag([1.0, -1.0, 1.0]) @ euler_to_rotation(yaw, pitch, roll)
    pose[:, 3] = (size - 1) / 2, (size - 1) / 2 + 5, 0
    more = np.zeros(MODEL.num_params - 12) if coefficients is None else coefficients
    params = np.concatenate([pose.ravel(), more]).astype(np.float32)
    roi = Roi(center_x=center[0], center_y=center[1], side=side, **({"angle": angle} if angle else {}))
    landmarks = roi.to_image(MODEL.landmarks(params), size)
    box = (center[0] - side / 3, center[1] - side / 3, side / 1.5, side / 1.5)
    return Face(box=box, score=0.9, roi=roi, crop_size=size, params=params, landmarks=landmarks, model=MODEL)
