"""A face model on its way into a file: what every converter hands over, and the last steps that are the same for all.

A draft is in millimetres, axes as in `runtime.face_model` (x to the subject's left, y up, z out of the face), about any
origin. Writing moves the origin to the middle of the mean landmarks' bounding box, as the bundled model has it, notes
where it was (metadata `source_origin`), and turns the triangles to face outwards. A model without known mirror partners
gets 0 for each mode's sign and each vertex as its own partner: `FaceModel.can_mirror` is False.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import safetensors
from runtime.errors import FileFormatError
from runtime.face_model import FORMAT, LANDMARKS, VERSION, FaceModel, landmarks_at_vertices, load_face_model


@dataclass(frozen=True, kw_only=True, eq=False)
class Mirror:
    """What mirroring does to a symmetric model."""

    vertices: NDArray[np.int32]  # (N,) each vertex's partner
    shape_signs: NDArray[np.float32]  # (S,) ±1
    expression_signs: NDArray[np.float32]  # (E,) ±1


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelDraft:
    """A model of N vertices, S shape and E expression modes."""

    name: str
    license: str
    source: str
    mean: NDArray[np.float64]  # (N, 3)
    shape_basis: NDArray[np.floating[Any]]  # (S, N, 3) in the type that the file shall hold
    expression_basis: NDArray[np.floating[Any]]  # (E, N, 3)
    shape_sigma: NDArray[np.float64]  # (S,)
    expression_sigma: NDArray[np.float64]  # (E,)
    triangles: NDArray[np.int64]  # (T, 3)
    landmark_vertices: NDArray[np.int64]  # (68,)
    mirror: Mirror | None = None
    uv: NDArray[np.float64] | None = None
    region: NDArray[np.uint8] | None = None
    region_names: tuple[str, ...] = ("face",)
    metadata: Mapping[str, str] = field(default_factory=dict)


def write_model(draft: ModelDraft, path: str | os.PathLike[str]) -> FaceModel:
    """Writes the file of a draft and returns it as loaded from there.

    Raises:
        FileFormatError: its parts don't fit together.
        OSError: the file can't be written.
    """
    _check_indices(draft)
    landmarks = draft.mean[draft.landmark_vertices]
    origin = (landmarks.min(axis=0) + landmarks.max(axis=0)) / 2
    count, shapes, expressions = len(draft.mean), len(draft.shape_basis), len(draft.expression_basis)
    mirror = draft.mirror or Mirror(
        vertices=np.arange(count, dtype=np.int32),
        shape_signs=np.zeros(shapes, np.float32),
        expression_signs=np.zeros(expressions, np.float32),
    )
    tensors: dict[str, NDArray[Any]] = {
        "mean": (draft.mean - origin).astype(np.float32),
        "shape_basis": draft.shape_basis,
        "expression_basis": draft.expression_basis,
        "shape_sigma": draft.shape_sigma.astype(np.float32),
        "expression_sigma": draft.expression_sigma.astype(np.float32),
        "shape_mirror": mirror.shape_signs,
        "expression_mirror": mirror.expression_signs,
        "triangles": outward(draft.mean, draft.triangles).astype(np.int32),
        **landmarks_at_vertices(draft.landmark_vertices),
        "mirror": mirror.vertices,
        "uv": np.zeros((count, 2), np.float32) if draft.uv is None else draft.uv.astype(np.float32),
        "region": np.zeros(count, np.uint8) if draft.region is None else draft.region,
    }
    metadata = {
        **draft.metadata,
        "format": FORMAT,
        "version": VERSION,
        "name": draft.name,
        "license": draft.license,
        "source": draft.source,
        "region_names": ",".join(draft.region_names),
        "source_origin": " ".join(repr(float(value)) for value in origin),
    }
    safetensors.write(path, tensors, metadata)
    return load_face_model(path)


def outward(mean: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles (T, 3) of a face that looks along +z, counter-clockwise seen from outside.

    All windings are taken to agree: the summed area vector of a surface that is open at the back then points to +z or,
    where every triangle has to be turned, to -z.
    """
    a, b, c = (mean[triangles[:, corner]] for corner in range(3))
    total = np.cross(b - a, c - a).sum(axis=0)
    return triangles if total[2] >= 0 else triangles[:, ::-1]


def checked_count(asked: int, available: int, kind: str, source: Path) -> int:
    """`asked`, where the source has so many modes.

    Raises:
        FileFormatError: it has fewer.
    """
    if not 1 <= asked <= available:
        raise FileFormatError(
            f"{source}: expected 1..{available} {kind} modes to be asked for, got {asked}; give --{kind}-count"
        )
    return asked


def _check_indices(draft: ModelDraft) -> None:
    count = len(draft.mean)
    for name, indices in (("triangles", draft.triangles), ("landmarks", draft.landmark_vertices)):
        if not indices.size or indices.min() < 0 or indices.max() >= count:
            span = f"{indices.min()}..{indices.max()}" if indices.size else "none"
            raise FileFormatError(
                f"{draft.source}: expected {name} among the {count} vertices, got {span}; are the files of one model?"
            )
    if draft.landmark_vertices.shape != (LANDMARKS,):
        raise FileFormatError(
            f"{draft.source}: expected {LANDMARKS} landmark vertices, got {draft.landmark_vertices.shape}"
        )
