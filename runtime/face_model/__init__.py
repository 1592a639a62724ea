"""The face model (a 3D morphable model, 3DMM) and its decoding, from one file.

Model frame: millimetres, origin at the middle of the face, +x to the subject's left (the viewer's right), +y up, +z out
of the face. Coefficients count in standard deviations times the file's sigmas (1 in the bundled model). Parameters are

    params = [P (3 × 4, row-major), α (shape), β (expression)]    vertices = P[:, :3] · (mean + S·α + E·β) + P[:, 3]

in the crop's frame: pixels, x right, y down, z towards the viewer. 68 landmarks follow iBUG's numbering; each is a
point of the surface: a triangle's three vertices and their weights, so that it moves with every shape and expression.
Source: Blanz & Vetter 1999; the parameter layout is 3DDFA's (arXiv 1511.07212).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache, partial
from importlib import resources
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime import compiled, safetensors
from runtime.errors import FileFormatError, InvalidInputError, MismatchError
from runtime.files import sha256

FORMAT = "cln.face_model"
VERSION = "2"
_VERTEX_LANDMARKS = "1"  # the version before: each landmark is a vertex, `landmark_vertices (68,)`
POSE_SIZE = 12
LANDMARKS = 68

Decoder = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # params (B, 12 + S + E) to points (B, N, 3)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FaceModel:
    """A 3DMM with N vertices, T triangles, S shape and E expression modes. Load it with `load_face_model`."""

    name: str
    license: str
    sha256: str
    mean: NDArray[np.float32]  # (N, 3) mm
    shape_basis: NDArray[np.float32]  # (S, N, 3) mm per unit coefficient
    expression_basis: NDArray[np.float32]  # (E, N, 3) mm per unit coefficient
    shape_sigma: NDArray[np.float32]  # (S,) standard deviation of each coefficient
    expression_sigma: NDArray[np.float32]  # (E,)
    shape_mirror: NDArray[np.float32]  # (S,) ±1: the coefficients of a mirrored face, over the face's own; 0 if unknown
    expression_mirror: NDArray[np.float32]  # (E,)
    triangles: NDArray[np.int32]  # (T, 3) counter-clockwise seen from outside
    landmark_triangles: NDArray[np.int32]  # (68, 3) the vertices around each landmark
    landmark_weights: NDArray[np.float32]  # (68, 3) their shares of it, each row sums to 1
    mirror: NDArray[np.int32]  # (N,) each vertex's partner across the symmetry plane
    uv: NDArray[np.float32]  # (N, 2)
    region: NDArray[np.uint8]  # (N,) index into region_names
    region_names: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)  # the file's own, all of it

    def __repr__(self) -> str:
        modes = f"{self.shape_count} shape and {self.expression_count} expression modes"
        return f"FaceModel('{self.name}', {len(self.mean)} vertices, {modes}, sha256 {self.sha256[:8]}…)"

    @property
    def shape_count(self) -> int:
        """S, the number of shape coefficients."""
        return len(self.shape_basis)

    @property
    def expression_count(self) -> int:
        """E, the number of expression coefficients."""
        return len(self.expression_basis)

    @property
    def num_params(self) -> int:
        """12 + S + E."""
        return POSE_SIZE + self.shape_count + self.expression_count

    @property
    def can_mirror(self) -> bool:
        """Whether a mirrored face's coefficients are known: not so where the modes aren't mirror-symmetric."""
        return bool(self.shape_mirror.all() and self.expression_mirror.all())

    @property
    def landmark_vertices(self) -> NDArray[np.int32]:
        """(68,) the vertex that is nearest to each landmark, by its weights."""
        rows = np.arange(len(self.landmark_triangles))
        return np.asarray(self.landmark_triangles[rows, self.landmark_weights.argmax(axis=1)])

    def at_landmarks(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """What belongs to the vertices (…, N, C) at the 68 landmarks, (…, 68, C), in the type that came in."""
        corners = values[..., self.landmark_triangles, :]  # (…, 68, 3, C)
        return np.asarray((corners * self.landmark_weights[:, :, None].astype(values.dtype)).sum(axis=-2))

    def landmarks(self, params: ArrayLike) -> NDArray[np.float32]:
        """68 landmarks (…, 68, 3) in the crop's frame, of params (…, 12 + S + E) with at most one leading axis."""
        return self._decode(params, self._landmark_decoder)

    def vertices(self, params: ArrayLike) -> NDArray[np.float32]:
        """All vertices (…, N, 3) in the crop's frame, of params (…, 12 + S + E) with at most one leading axis."""
        return self._decode(params, self._vertex_decoder)

    def unposed(self, coefficients: ArrayLike = ()) -> NDArray[np.float32]:
        """Params (…, 12 + S + E) of a face in the model frame, from its coefficients (…, S + E): no turn, no scale.

        Coefficients that are left off at the end are 0: none gives the mean face, S of them one without expression.

        Raises:
            InvalidInputError: there are more than S + E.
        """
        given = np.asarray(coefficients, dtype=np.float32)
        count = self.num_params - POSE_SIZE
        if given.ndim == 0 or given.shape[-1] > count:
            raise InvalidInputError(
                f"coefficients: expected at most {count} for face model '{self.name}', got shape {given.shape}; "
                "params have the pose before them"
            )
        params = np.zeros((*given.shape[:-1], self.num_params), dtype=np.float32)
        params[..., :POSE_SIZE] = np.eye(3, 4, dtype=np.float32).ravel()
        params[..., POSE_SIZE : POSE_SIZE + given.shape[-1]] = given
        return params

    def check_params(self, params: ArrayLike) -> NDArray[np.float32]:
        """`params` as float32 (…, 12 + S + E), or an `InvalidInputError`."""
        values = np.asarray(params)
        if values.dtype.kind != "f" or values.ndim not in (1, 2) or values.shape[-1] != self.num_params:
            raise InvalidInputError(
                f"params: expected floats of shape ({self.num_params},) or (B, {self.num_params}) for face model "
                f"'{self.name}', got {values.dtype} {values.shape}; check that engine and face model belong together"
            )
        return values.astype(np.float32, copy=False)

    @cached_property
    def _vertex_rows(self) -> NDArray[np.float32]:
        """(1 + S + E, 3N): mean and modes, one flat row each, so that decoding is one matrix product."""
        modes = np.concatenate([self.mean[None], self.shape_basis, self.expression_basis])
        return np.ascontiguousarray(modes.reshape(len(modes), -1))

    @cached_property
    def _landmark_rows(self) -> NDArray[np.float32]:
        rows = self._vertex_rows.reshape(len(self._vertex_rows), -1, 3)
        return np.ascontiguousarray(self.at_landmarks(rows).reshape(len(rows), -1))

    @cached_property
    def _vertex_decoder(self) -> Decoder:
        return _make_decoder(self._vertex_rows)

    @cached_property
    def _landmark_decoder(self) -> Decoder:
        return _make_decoder(self._landmark_rows)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a copy makes again what derives from them, and a compiled decoder can't be pickled."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def _decode(self, params: ArrayLike, decoder: Decoder) -> NDArray[np.float32]:
        values = self.check_params(params)
        points = decoder(values.reshape(-1, self.num_params))
        return np.asarray(points if values.ndim == 2 else points[0], dtype=np.float32)


def _make_decoder(rows: NDArray[np.float32]) -> Decoder:
    """Decodes with rows (1 + S + E, 3N) of mean and modes: the compiled core's decoder where that is installed."""
    if compiled.cln_cpp is not None:
        decoder: Decoder = compiled.cln_cpp.Decoder(rows).decode
        return decoder
    return partial(_decode_rows, rows)


def _decode_rows(rows: NDArray[np.float32], batch: NDArray[np.float32]) -> NDArray[np.float32]:
    coefficients = batch[:, POSE_SIZE:]
    # One face without BLAS, whose threads spin for milliseconds after the fraction of one that they work.
    alone = len(batch) == 1
    points = np.einsum("k,kn->n", coefficients[0], rows[1:])[None] if alone else coefficients @ rows[1:]
    points += rows[0]
    points = points.reshape(len(batch), rows.shape[1] // 3, 3)  # (B, N, 3) in the model frame
    pose = batch[:, :POSE_SIZE].reshape(-1, 3, 4)
    return np.asarray(np.matmul(points, pose[:, :, :3].transpose(0, 2, 1)) + pose[:, None, :, 3], dtype=np.float32)


def load_face_model(path: str | os.PathLike[str] | None = None) -> FaceModel:
    """Loads a face model; the bundled one (MakeHuman's geometry, CC0) without a path.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is truncated, inconsistent or no face model.
    """
    if path is None:
        name, data = (
            "bundled face model",
            (resources.files("runtime") / "assets" / "face_model.safetensors").read_bytes(),
        )
    else:
        with open(path, "rb") as file:
            name, data = os.fspath(path), file.read()
    tensors, metadata = safetensors.parse(data, name=name)
    version = metadata.get("version")
    if metadata.get("format") != FORMAT or version not in (_VERTEX_LANDMARKS, VERSION):
        raise FileFormatError(
            f"{name}: expected a file of format '{FORMAT}' version {_VERTEX_LANDMARKS} or {VERSION}, got "
            f"'{metadata.get('format')}' version {metadata.get('version')}; convert or fetch the right one"
        )
    layout = _LAYOUT | (_LANDMARK_VERTICES if version == _VERTEX_LANDMARKS else _LANDMARK_POINTS)
    _check_tensors(name, tensors, layout)
    if version == _VERTEX_LANDMARKS:
        tensors |= landmarks_at_vertices(tensors.pop("landmark_vertices"))
    arrays: dict[str, Any] = {
        key: value.astype(np.float32) if value.dtype == np.float16 else value for key, value in tensors.items()
    }
    for value in arrays.values():  # shared by all faces
        value.flags.writeable = False
    model = FaceModel(
        name=metadata.get("name", name),
        license=metadata.get("license", ""),
        sha256=sha256(data),
        region_names=tuple(metadata.get("region_names", "").split(",")),
        metadata=metadata,
        **arrays,
    )
    _loaded[model.sha256] = model
    return model


_loaded: WeakValueDictionary[str, FaceModel] = WeakValueDictionary()


def find_face_model(sha256: str) -> FaceModel:
    """The face model of a file with this hash: one that this process has loaded and still uses, or the bundled one.

    Raises:
        MismatchError: neither is it.
    """
    model = _loaded.get(sha256) or _bundled()
    if model.sha256 != sha256:
        raise MismatchError(
            f"face model: expected one of hash {sha256[:12]}…, found only the bundled one ({model.sha256[:12]}…); "
            "load its file first (runtime.load_face_model) and keep it"
        )
    return model


@lru_cache(maxsize=1)
def _bundled() -> FaceModel:
    return load_face_model()


def landmarks_at_vertices(vertices: ArrayLike) -> dict[str, NDArray[Any]]:
    """The two landmark tensors of landmarks that are vertices (68,): the special case of a point of the surface."""
    corners = np.repeat(np.asarray(vertices, dtype=np.int32)[:, None], 3, axis=1)
    return {
        "landmark_triangles": corners,
        "landmark_weights": np.tile(np.array((1, 0, 0), np.float32), (len(corners), 1)),
    }


_Layout = dict[str, tuple[tuple[str, ...], tuple[str | int, ...]]]

# name: (accepted types, shape in symbols that must agree)
_LAYOUT: _Layout = {
    "mean": (("float32",), ("N", 3)),
    "shape_basis": (("float16", "float32"), ("S", "N", 3)),
    "expression_basis": (("float16", "float32"), ("E", "N", 3)),
    "shape_sigma": (("float32",), ("S",)),
    "expression_sigma": (("float32",), ("E",)),
    "shape_mirror": (("float32",), ("S",)),
    "expression_mirror": (("float32",), ("E",)),
    "triangles": (("int32",), ("T", 3)),
    "mirror": (("int32",), ("N",)),
    "uv": (("float32",), ("N", 2)),
    "region": (("uint8",), ("N",)),
}
_LANDMARK_VERTICES: _Layout = {"landmark_vertices": (("int32",), (LANDMARKS,))}
_LANDMARK_POINTS: _Layout = {
    "landmark_triangles": (("int32",), (LANDMARKS, 3)),
    "landmark_weights": (("float32",), (LANDMARKS, 3)),
}
_WEIGHT_TOLERANCE = 1e-3  # how far a landmark's weights may lie outside 0..1, and their sum from 1


def _check_tensors(name: str, tensors: dict[str, NDArray[Any]], layout: _Layout) -> None:
    if set(tensors) != set(layout):
        raise FileFormatError(
            f"{name}: expected the tensors {sorted(layout)}, got {sorted(tensors)}; make the file again"
        )
    sizes: dict[str | int, int] = {}
    for key, (types, symbols) in layout.items():
        value = tensors[key]
        expected = tuple(sizes.get(s, "any") if isinstance(s, str) else s for s in symbols)
        fits = value.ndim == len(symbols) and all(e in ("any", n) for e, n in zip(expected, value.shape, strict=True))
        if value.dtype.name not in types or not fits or value.size == 0:
            raise FileFormatError(
                f"{name}: expected '{key}' as {' or '.join(types)} {expected}, got {value.dtype} {value.shape}"
            )
        sizes.update({s: n for s, n in zip(symbols, value.shape, strict=True) if isinstance(s, str)})
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise FileFormatError(f"{name}: '{key}' holds NaN or infinity; make the file again")
    for key in {"triangles", "landmark_vertices", "landmark_triangles", "mirror"} & set(tensors):
        if tensors[key].min() < 0 or tensors[key].max() >= sizes["N"]:
            raise FileFormatError(f"{name}: '{key}' names vertices outside 0..{sizes['N'] - 1}; make the file again")
    weights = tensors.get("landmark_weights")
    if weights is not None and (
        weights.min() < -_WEIGHT_TOLERANCE or np.abs(weights.sum(axis=1) - 1).max() > _WEIGHT_TOLERANCE
    ):
        raise FileFormatError(
            f"{name}: expected 'landmark_weights' from 0 to 1 that sum to 1 in each row, got sums from "
            f"{weights.sum(axis=1).min():g} to {weights.sum(axis=1).max():g} and a smallest weight of "
            f"{weights.min():g}; make the file again"
        )
