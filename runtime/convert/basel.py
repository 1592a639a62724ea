"""The Basel Face Model 2009 with FaceWarehouse's expressions, as 3DDFA and 3DDFA_V2 pack it.

Three layouts, recognised by their files (N vertices; flat rows are x, y, z of vertex 0, then of vertex 1, …):

    a folder with Model_Shape.mat   mu_shape (3N, 1), w (3N, 199), sigma (199, 1), tri (3, T), keypoints (1, 68), from 1
             and Model_Exp.mat      mu_exp (3N, 1), w_exp (3N, 29), sigma_exp (29, 1)
    a folder with u_shp.npy, u_exp.npy (3N, 1), w_shp_sim.npy (3N, 40), w_exp_sim.npy (3N, 10), keypoints_sim.npy (204,)
             and param_whitening.pkl; tri.mat there or in ../visualize
    a file   bfm_noneck_v3.pkl or bfm_slim.pkl: u, w_shp, w_exp, keypoints (204,), tri; beside it tri.pkl (which belongs
             to bfm_noneck_v3) and param_mean_std_62d_120x120.pkl

The source counts in micrometres, x right, y up, z out of the face. The file keeps the source's own coefficients, so the
labels of 300W-LP, AFLW2000-3D and 3DDFA's packed list serve as they are; its sigmas say how large they are. Basis
vectors are therefore in millimetres per source unit, float32: they are below float16's range. The model is not
mirror-symmetric, so it can't mirror coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.convert.draft import ModelDraft, checked_count
from runtime.convert.mat_files import load_mat
from runtime.convert.plain_pickle import read_plain_pickle
from runtime.errors import FileFormatError
from runtime.face_model import LANDMARKS, POSE_SIZE
from runtime.files import read_npy

COEFFICIENTS = "bfm2009-3ddfa"
"""Metadata `coefficients` of a model whose coefficients are Shape_Para and Exp_Para."""
UNITS_PER_MM = 1000.0
_PACKED_SHAPES = 40
_LICENSE = (
    "Basel Face Model 2009 (University of Basel): academic use alone, not to be passed on; expression basis from "
    "FaceWarehouse (Zhejiang University): research use. Made from the user's own copy."
)

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Source:
    """One layout's content: flat rows, as the files have them, and indices from 0."""

    mean: Array  # (3N,)
    shape: NDArray[Any]  # (3N, S)
    expression: NDArray[Any]  # (3N, E)
    shape_sigma: Array  # (S,)
    expression_sigma: Array  # (E,)
    triangles: NDArray[np.int64]  # (T, 3)
    landmarks: NDArray[np.int64]  # (68,)


def is_basel(source: Path) -> bool:
    """Whether the path looks like one of the layouts above."""
    return source.suffix == ".pkl" or any((source / name).is_file() for name in ("Model_Shape.mat", "w_shp_sim.npy"))


def read_basel(source: Path, shape_count: int = 40, expression_count: int = 10) -> ModelDraft:
    """The model of one of the layouts, with its first `shape_count` and `expression_count` modes.

    Raises:
        FileNotFoundError: a file is missing.
        FileFormatError: a file is of another layout, or holds fewer modes.
        EngineUnavailableError: a .mat has to be read and SciPy is missing.
    """
    if source.suffix == ".pkl":
        content = _read_packed(source)
    elif (source / "Model_Shape.mat").is_file():
        content = _read_mat(source)
    else:
        content = _read_arrays(source)
    shapes = checked_count(shape_count, content.shape.shape[1], "shape", source)
    expressions = checked_count(expression_count, content.expression.shape[1], "expression", source)
    return ModelDraft(
        name=f"Basel Face Model 2009 ({shapes} + {expressions})",
        license=_LICENSE,
        source=f"{source.name}, micrometres",
        mean=content.mean.reshape(-1, 3) / UNITS_PER_MM,
        shape_basis=_modes(content.shape[:, :shapes]),
        expression_basis=_modes(content.expression[:, :expressions]),
        shape_sigma=content.shape_sigma[:shapes],
        expression_sigma=content.expression_sigma[:expressions],
        triangles=content.triangles,
        landmark_vertices=content.landmarks,
        metadata={"coefficients": COEFFICIENTS},
    )


def _read_mat(folder: Path) -> _Source:
    shape_path, expression_path = folder / "Model_Shape.mat", folder / "Model_Exp.mat"
    shape, expression = load_mat(shape_path), load_mat(expression_path)
    mean = _vector(shape_path, shape, "mu_shape")
    return _Source(
        mean=mean + _vector(expression_path, expression, "mu_exp", len(mean)),
        shape=_matrix(shape_path, shape, "w", len(mean)),
        expression=_matrix(expression_path, expression, "w_exp", len(mean)),
        shape_sigma=_vector(shape_path, shape, "sigma"),
        expression_sigma=_vector(expression_path, expression, "sigma_exp"),
        triangles=_triangles(shape_path, _vector(shape_path, shape, "tri", keep_shape=True), 1),
        landmarks=_vector(shape_path, shape, "keypoints", LANDMARKS).astype(np.int64) - 1,
    )


def _read_arrays(folder: Path) -> _Source:
    names = ("u_shp", "u_exp", "w_shp_sim", "w_exp_sim", "keypoints_sim")
    content: dict[str, Any] = {name: _load_npy(folder / f"{name}.npy") for name in names}
    whitening_path = folder / "param_whitening.pkl"
    whitening = _dictionary(whitening_path)
    faces = folder / "tri.mat" if (folder / "tri.mat").is_file() else folder.parent / "visualize" / "tri.mat"
    mean = _vector(folder / "u_shp.npy", content, "u_shp")
    sigma = _vector(whitening_path, whitening, "param_std")[POSE_SIZE:]
    return _Source(
        mean=mean + _vector(folder / "u_exp.npy", content, "u_exp", len(mean)),
        shape=_matrix(folder / "w_shp_sim.npy", content, "w_shp_sim", len(mean)),
        expression=_matrix(folder / "w_exp_sim.npy", content, "w_exp_sim", len(mean)),
        shape_sigma=sigma[:_PACKED_SHAPES],
        expression_sigma=sigma[_PACKED_SHAPES:],
        triangles=_triangles(faces, _vector(faces, load_mat(faces), "tri", keep_shape=True), 1),
        landmarks=_vertices_of_rows(folder / "keypoints_sim.npy", content["keypoints_sim"]),
    )


def _read_packed(path: Path) -> _Source:
    content = _dictionary(path)
    statistics_path = path.parent / "param_mean_std_62d_120x120.pkl"
    sigma = _vector(statistics_path, _dictionary(statistics_path), "std")[POSE_SIZE:]
    own_faces = path.parent / "tri.pkl"
    if path.stem == "bfm_noneck_v3" and own_faces.is_file():
        faces = _triangles(own_faces, read_plain_pickle(own_faces), 0)
    else:
        faces = _triangles(path, _vector(path, content, "tri", keep_shape=True), 0)
    mean = _vector(path, content, "u")
    return _Source(
        mean=mean,
        shape=_matrix(path, content, "w_shp", len(mean)),
        expression=_matrix(path, content, "w_exp", len(mean)),
        shape_sigma=sigma[:_PACKED_SHAPES],
        expression_sigma=sigma[_PACKED_SHAPES:],
        triangles=faces,
        landmarks=_vertices_of_rows(path, content.get("keypoints")),
    )


def _modes(columns: NDArray[Any]) -> NDArray[np.float32]:
    """(3N, K) in source units as (K, N, 3) in millimetres."""
    rows = (columns.astype(np.float64).T / UNITS_PER_MM).astype(np.float32)
    return np.ascontiguousarray(rows.reshape(len(rows), -1, 3))


def _dictionary(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected this file of 3DDFA, found none; copy it there")
    content = read_plain_pickle(path)
    if not isinstance(content, dict):
        raise FileFormatError(f"{path}: expected a dictionary of arrays, got {type(content).__name__}")
    return content


def _load_npy(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected this file of 3DDFA's configs, found none; copy it there")
    return read_npy(path)


def _numbers(path: Path, content: dict[str, Any], name: str) -> NDArray[Any]:
    value = content.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        got = "nothing" if value is None else f"{type(value).__name__} of other than finite numbers"
        raise FileFormatError(f"{path}: expected '{name}' as an array of numbers, got {got}; is it 3DDFA's file?")
    return value


def _vector(
    path: Path, content: dict[str, Any], name: str, size: int | None = None, *, keep_shape: bool = False
) -> Array:
    value = _numbers(path, content, name).astype(np.float64)
    if size is not None and value.size != size:
        raise FileFormatError(f"{path}: expected '{name}' with {size} numbers, got {value.shape}")
    return value if keep_shape else value.ravel()


def _matrix(path: Path, content: dict[str, Any], name: str, rows: int) -> NDArray[Any]:
    value = _numbers(path, content, name)
    if value.ndim != 2 or len(value) != rows or rows % 3:
        raise FileFormatError(f"{path}: expected '{name}' with {rows} rows, three for each vertex, got {value.shape}")
    return value


def _triangles(path: Path, value: Any, first: int) -> NDArray[np.int64]:
    """Triangles (T, 3), from 0, of an array (3, T) or (T, 3) that counts from `first`."""
    if not isinstance(value, np.ndarray) or value.ndim != 2 or 3 not in value.shape or value.dtype.kind not in "fiu":
        raise FileFormatError(f"{path}: expected triangles as numbers (3, T), got {np.shape(value)}")
    corners = value if value.shape[1] == 3 else value.T
    return corners.astype(np.int64) - first


def _vertices_of_rows(path: Path, rows: Any) -> NDArray[np.int64]:
    """Vertices (68,) of the flat rows (204,) x, y, z of each landmark."""
    flat = np.asarray(rows).ravel() if isinstance(rows, np.ndarray) else np.zeros(0)
    triples = flat.astype(np.int64).reshape(-1, 3) if flat.size == 3 * LANDMARKS else np.zeros((0, 3), np.int64)
    if not len(triples) or (triples[:, 0] % 3).any() or (np.diff(triples, axis=1) != 1).any():
        raise FileFormatError(f"{path}: expected the rows x, y, z of {LANDMARKS} landmarks, got shape {flat.shape}")
    return triples[:, 0] // 3
