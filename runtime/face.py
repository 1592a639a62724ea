"""`Face`: what the user holds after a reconstruction. Points are in image pixels: x right, y down, z nearer."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.face_model import POSE_SIZE, FaceModel, find_face_model
from runtime.pose import decompose, euler_to_rotation, rotation_to_euler
from runtime.roi import Roi

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runtime.camera import Camera, MetricPose


_ARRAYS = ("params", "landmarks")


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Head pose: the rotation is primary; the angles follow `runtime.pose`'s convention, in degrees."""

    yaw: float
    pitch: float
    roll: float
    rotation: NDArray[np.float64] = field(compare=False)  # (3, 3), model frame to a camera frame with y up
    scale: float  # image pixels per millimetre


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
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
        for name in _ARRAYS:  # views of arrays that the faces of a batch share
            object.__setattr__(self, name, _read_only(getattr(self, name)))

    def __repr__(self) -> str:
        box = ", ".join(f"{value:.1f}" for value in self.box)
        pose = ", ".join(f"{name}={getattr(self.pose, name):.1f}" for name in ("yaw", "pitch", "roll"))
        return f"Face(box=({box}), score={self.score:.2f}, {pose})"

    @cached_property
    def vertices(self) -> NDArray[np.float32]:
        """The dense mesh (N, 3), computed when first asked for; read-only."""
        points = self.roi.to_image(self.model.vertices(self.params), self.crop_size)
        return _read_only(np.asarray(points, dtype=np.float32))

    @cached_property
    def model_vertices(self) -> NDArray[np.float32]:
        """The face (N, 3) in the model frame, millimetres: its shape and expression without its pose; read-only."""
        return _read_only(self.model.vertices(self._unposed))

    @cached_property
    def model_landmarks(self) -> NDArray[np.float32]:
        """The 68 landmarks (68, 3) in the model frame, millimetres; read-only."""
        return _read_only(self.model.landmarks(self._unposed))

    @property
    def _unposed(self) -> NDArray[np.float32]:
        return self.model.unposed(self.params[POSE_SIZE:])

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

    def metric_pose(
        self,
        camera: Camera,
        *,
        scale_mm: float | None = None,
        between: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> MetricPose:
        """Where the head stands before `camera`, in millimetres: see `runtime.camera.metric_pose`."""
        from runtime.camera import PUPILS, metric_pose

        return metric_pose(self, camera, scale_mm=scale_mm, between=between or PUPILS)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; with the face model they make the face again (`from_dict`)."""
        return {
            "box": [round(float(v), 3) for v in self.box],
            "score": round(float(self.score), 6),
            "roi": {name: float(value) for name, value in asdict(self.roi).items()},
            "crop_size": self.crop_size,
            "face_model": self.model.sha256,
            "params": self.params.tolist(),
            "landmarks": np.round(self.landmarks.astype(np.float64), 4).tolist(),
            "visible": self.visible.tolist(),
            "pose": {name: round(float(getattr(self.pose, name)), 4) for name in ("yaw", "pitch", "roll")},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], model: FaceModel | None = None) -> Face:
        """The face that `to_dict` was asked of, mesh and all.

        Args:
            values: from `to_dict`, or from JSON.
            model: the face model it was reconstructed with; default: the bundled one, or one that is loaded.

        Raises:
            FileFormatError: a value is missing or of another kind.
            MismatchError: the face belongs to another face model.
        """
        from runtime.face_data import fields_from_dict

        return cls(**fields_from_dict(values, model))

    def __getstate__(self) -> dict[str, Any]:
        """A few kB: the face model stands there by its hash, and what can be computed is left out."""
        state = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "model"}
        return state | {name: np.array(state[name]) for name in _ARRAYS} | {"model": self.model.sha256}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Finds the face model again: the bundled one, or one that this process has loaded (`find_face_model`)."""
        for name, value in (state | {"model": find_face_model(state["model"])}).items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def save_obj(self, path: str | os.PathLike[str], *, colors: NDArray[np.uint8] | None = None) -> None:
        """Writes the mesh as Wavefront OBJ (see `runtime.mesh_files` for its frame).

        `colors` are RGB, uint8 (N, 3), one a vertex: `runtime.texture.vertex_colors(face, image)` takes them from the
        photograph. Without them the face model's own texture coordinates are written.
        """
        from runtime.mesh_files import write_obj

        uv = self.model.uv if colors is None else None  # readers that find texture coordinates ignore colours
        write_obj(path, self.vertices, self.triangles, uv=uv, colors=colors)

    def save_ply(self, path: str | os.PathLike[str], *, colors: NDArray[np.uint8] | None = None) -> None:
        """Writes the mesh as binary PLY (see `runtime.mesh_files` for its frame); `colors` as in `save_obj`."""
        from runtime.mesh_files import write_ply

        write_ply(path, self.vertices, self.triangles, colors=colors)

    def save_glb(self, path: str | os.PathLike[str], image: NDArray[np.uint8] | None = None) -> None:
        """Writes the face as `.glb`, textured from `image`, the photograph it was found in (see `runtime.gltf`)."""
        from runtime.files import write_atomically
        from runtime.gltf import to_glb

        write_atomically(path, to_glb(self, image))


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    view = values.view()
    view.flags.writeable = False
    return view
