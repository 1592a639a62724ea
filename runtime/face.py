"""`Face`: what the user holds after a reconstruction. Points are in image pixels: x right, y down, z nearer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.face_model import FaceModel
from runtime.pose import decompose, euler_to_rotation, rotation_to_euler
from runtime.roi import Roi


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Head pose: the rotation is primary; the angles follow `runtime.pose`'s convention, in degrees."""

    yaw: float
    pitch: float
    roll: float
    rotation: NDArray[np.float64]  # (3, 3), model frame to a camera frame with y up
    scale: float  # image pixels per millimetre


@dataclass(frozen=True, kw_only=True, eq=False)
class Face:
    """One reconstructed face. z counts in image pixels from the middle of the face; it is relative, not metric."""

    box: tuple[float, float, float, float]  # x, y, w, h in image pixels: the detector's, or the caller's
    score: float  # the detector's confidence; 1 for boxes given by the caller
    roi: Roi
    crop_size: int
    params: NDArray[np.float32]  # (12 + S + E,), crop frame
    landmarks: NDArray[np.float32]  # (68, 3)
    model: FaceModel

    def __post_init__(self) -> None:
        for name in ("params", "landmarks"):  # views of arrays that the faces of a batch share
            object.__setattr__(self, name, _read_only(getattr(self, name)))

    @cached_property
    def vertices(self) -> NDArray[np.float32]:
        """The dense mesh (N, 3), computed when first asked for; read-only."""
        points = self.roi.to_image(self.model.vertices(self.params), self.crop_size)
        return _read_only(np.asarray(points, dtype=np.float32))

    @cached_property
    def visible(self) -> NDArray[np.bool_]:
        """Which of the 68 landmarks (68,) the face does not hide itself; see `runtime.visibility`."""
        return _read_only(self._seen(self.landmarks))

    @cached_property
    def vertex_visibility(self) -> NDArray[np.bool_]:
        """Which vertices (N,) the face does not hide itself; see `runtime.visibility`."""
        return _read_only(self._seen(self.vertices))

    def _seen(self, points: NDArray[np.float32]) -> NDArray[np.bool_]:
        from runtime.visibility import MARGIN, visible_points

        return visible_points(points, self.vertices, self.triangles, margin=MARGIN * self.pose.scale)

    @property
    def triangles(self) -> NDArray[np.int32]:
        """(T, 3) vertex numbers, counter-clockwise seen from outside the face in the y-up model frame."""
        return self.model.triangles

    @cached_property
    def pose(self) -> Pose:
        """Yaw, pitch and roll in degrees, the rotation, and the scale."""
        scale, rotation, _ = decompose(self.params[:12])
        if self.roi.angle:  # from the crop's axes to the image's: a turn about the line of sight
            rotation = euler_to_rotation(0.0, 0.0, self.roi.angle) @ rotation
        yaw, pitch, roll = rotation_to_euler(rotation)
        pixels = scale * self.roi.side / self.crop_size
        return Pose(yaw=yaw, pitch=pitch, roll=roll, rotation=rotation, scale=pixels)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: box, score, params, landmarks, pose."""
        angles = {name: round(float(getattr(self.pose, name)), 4) for name in ("yaw", "pitch", "roll")}
        return {
            "box": [round(float(v), 3) for v in self.box],
            "score": round(float(self.score), 6),
            "params": [float(v) for v in self.params],
            "landmarks": [[round(float(v), 4) for v in point] for point in self.landmarks],
            "pose": angles,
        }

    def save_obj(self, path: str | os.PathLike[str]) -> None:
        """Writes the mesh as Wavefront OBJ (see `runtime.mesh_files` for its frame)."""
        from runtime.mesh_files import write_obj

        write_obj(path, self.vertices, self.triangles, uv=self.model.uv)

    def save_ply(self, path: str | os.PathLike[str]) -> None:
        """Writes the mesh as binary PLY (see `runtime.mesh_files` for its frame)."""
        from runtime.mesh_files import write_ply

        write_ply(path, self.vertices, self.triangles)


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    view = values.view()
    view.flags.writeable = False
    return view
