"""Labels of 300W-LP, AFLW2000-3D and 3DDFA's packed list as this project's params, exactly.

Those labels hold, for the Basel Face Model 2009 in micrometres, x right, y up, z out, V = linear · S + translation with
image pixels counted from 1 and y up: from 0, x_image = V_x - 1 and y_image = H - V_y, for an image H high. In a .mat,
linear = scale · Rx(pitch) Ry(yaw) Rz(roll) of Pose_Para (1, 7) = pitch, yaw, roll (radians), t_x, t_y, t_z, scale.

A converted Basel model (`runtime.convert.basel`) is in millimetres about its origin c = `source_origin` and keeps the
source's coefficients: S = 1000 (model point + c). So, with D = diag(1, -1, 1),

    P[:, :3] = 1000 · D · linear        P[:, 3] = D (1000 · linear · c + translation) + (-1, H, 0), then t_z = 0

Depth loses its offset alone, as params have no t_z. Nothing is fitted: what differs from pt3d_68 is the modes that the
model leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.convert.basel import COEFFICIENTS, UNITS_PER_MM
from runtime.errors import InvalidInputError, MismatchError
from runtime.face_model import POSE_SIZE, FaceModel
from runtime.pose import euler_to_rotation
from runtime.roi import Roi

_Y_DOWN = np.array([1.0, -1.0, 1.0])

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselLabels:
    """Labels of B faces as their files have them."""

    linear: Array  # (B, 3, 3) pixels per micrometre, y up
    translation: Array  # (B, 3)
    shape: NDArray[np.float32]  # (B, 199 or fewer)
    expression: NDArray[np.float32]  # (B, 29 or fewer)
    height: NDArray[np.int32]  # (B,) of the image

    def __getitem__(self, chosen: NDArray[np.int64]) -> BaselLabels:
        """Some of them."""
        return BaselLabels(
            linear=self.linear[chosen],
            translation=self.translation[chosen],
            shape=self.shape[chosen],
            expression=self.expression[chosen],
            height=self.height[chosen],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselFrame:
    """What a converted Basel model needs to take such labels."""

    origin: Array  # (3,) mm
    shape_count: int
    expression_count: int

    @classmethod
    def of(cls, face_model: FaceModel) -> BaselFrame:
        """The frame of a face model.

        Raises:
            MismatchError: It is not the Basel model, so its coefficients mean something else.
        """
        text = face_model.metadata.get("source_origin", "").split()
        if face_model.metadata.get("coefficients") != COEFFICIENTS or len(text) != 3:
            raise MismatchError(
                f"Labels of 3DDFA's form are coefficients of the Basel model, got face model '{face_model.name}'; give "
                "--face-model one made by 'python -m runtime.face_model convert', or train on the landmarks alone."
            )
        return cls(
            origin=np.array([float(value) for value in text]),
            shape_count=face_model.shape_count,
            expression_count=face_model.expression_count,
        )

    def params(self, labels: BaselLabels) -> Array:
        """Params (B, 12 + S + E) in the image's pixels, 0-based.

        Raises:
            InvalidInputError: The labels hold fewer coefficients than the model.
        """
        have = labels.shape.shape[1], labels.expression.shape[1]
        if have[0] < self.shape_count or have[1] < self.expression_count:
            raise InvalidInputError(
                f"Expected labels with at least {self.shape_count} + {self.expression_count} coefficients, got "
                f"{have[0]} + {have[1]}; convert the face model with fewer modes."
            )
        linear = UNITS_PER_MM * labels.linear
        translation = (linear @ self.origin + labels.translation) * _Y_DOWN
        translation[:, 0] -= 1.0
        translation[:, 1] += labels.height
        translation[:, 2] = 0.0
        pose = np.concatenate([_Y_DOWN[:, None] * linear, translation[:, :, None]], axis=2)  # (B, 3, 4)
        shape, expression = labels.shape[:, : self.shape_count], labels.expression[:, : self.expression_count]
        return np.concatenate([pose.reshape(-1, POSE_SIZE), shape, expression], axis=1).astype(np.float64)


def linear_of_pose(pose_para: Array) -> Array:
    """The linear part (3, 3) of one Pose_Para (7,)."""
    pitch, yaw, roll = (float(value) for value in np.degrees(pose_para[:3]))
    return np.asarray(float(pose_para[6]) * euler_to_rotation(yaw, pitch, roll))


def crop_params(params: Array, roi: Roi, size: int) -> Array:
    """Params (12 + S + E,) of the image's frame in the frame of the region's crop of `size` pixels."""
    scale = size / roi.side
    pose = params[:POSE_SIZE].reshape(3, 4) * scale
    pose[:2, 3] += (size - 1) / 2 - scale * np.array([roi.center_x, roi.center_y])
    return np.concatenate([pose.ravel(), params[POSE_SIZE:]])
