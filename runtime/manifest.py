"""The manifest: what an engine file is, for whom it was built, and how near it is to the network it came from.

One dataclass, kept as JSON beside a plan (`X.engine.json`) and in the metadata of an ONNX file (key `cln.manifest`).
The JSON closes with the SHA-256 of what it says, so that an edit is noticed; it is no protection against forgery.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any

from runtime.errors import FileFormatError
from runtime.face_model import POSE_SIZE
from runtime.files import sha256

INPUT = "crops"  # the graph's face, in every engine
OUTPUT = "params"
FORMAT = "cln.engine"
VERSION = 1
ONNX_KEY = "cln.manifest"
_SEAL = "sha256"  # of all other fields


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a step of the export departs from the network it started from, over a set of crops."""

    step: str
    max_params: float  # largest |Δ| of a parameter
    max_landmark_px: float  # largest distance of a landmark, crop pixels
    crops: int
    p99_landmark_px: float | None = None  # 99 % of the landmarks are nearer than this
    mean_landmark_px: float | None = None
    mean_params: float | None = None
    delta_nme: float | None = None  # NME less the network's own, percentage points; None without labelled faces


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a runtime must know of an engine before it runs it."""

    format: str = FORMAT
    version: int = VERSION
    input_size: int  # S: crops are uint8 (B, S, S, 3), BGR
    shape_count: int
    expression_count: int
    face_model: str
    face_model_sha256: str
    precision: str  # "fp32", "fp16-mixed", "int8": of the graph; of a plan, of the network given to its builder
    builder: str  # "onnx", "tensorrt", "tensorrt_rtx"
    builder_version: str
    compute_capabilities: tuple[str, ...] = ()  # of a plan: "7.5", "8.0+", …
    batch_range: tuple[int, int]  # smallest and largest batch
    checkpoint_sha256: str
    onnx_sha256: str | None = None  # of the ONNX file that a plan was built from
    plan_sha256: str | None = None
    parity: tuple[Parity, ...] = ()
    figures: dict[str, float] = dataclasses.field(default_factory=dict)  # NME and the like, in percent

    @property
    def num_params(self) -> int:
        """12 pose numbers, then shape and expression coefficients."""
        return POSE_SIZE + self.shape_count + self.expression_count

    def to_json(self) -> str:
        """As indented JSON text, with its seal."""
        return json.dumps({**dataclasses.asdict(self), _SEAL: self._seal()}, indent=1) + "\n"

    def _seal(self) -> str:
        return sha256(json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":")).encode())

    @classmethod
    def from_json(cls, text: str | bytes, *, name: str, sealed: bool = False) -> Manifest:
        """Reads a manifest; `name` (of its file) is used in errors. One that is `sealed` must carry its own SHA-256.

        Raises:
            FileFormatError: no JSON, another format or version, a field missing, unknown, edited or of another type.
        """
        try:
            values = json.loads(text)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise FileFormatError(f"{name}: expected a manifest in JSON, got {error}; build the engine again") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise FileFormatError(f'{name}: expected a manifest with "format": "{FORMAT}"; build the engine again')
        if values.get("version") != VERSION:
            raise FileFormatError(
                f"{name}: expected manifest version {VERSION}, got {values.get('version')!r}; "
                "build the engine again with this version of the package"
            )
        seal = values.pop(_SEAL, None)
        manifest: Manifest = _build(cls, values, name)
        if manifest.input_size < 1 or manifest.shape_count < 0 or manifest.expression_count < 0:
            raise FileFormatError(f"{name}: input size or coefficient counts make no sense; build the engine again")
        if (seal is not None or sealed) and seal != manifest._seal():
            raise FileFormatError(
                f"{name}: expected a manifest of sha256 {seal or '(none is given)'}, got {manifest._seal()}; it was "
                "edited or is from an older version: fetch or build it and the engine again"
            )
        return manifest


def _build(cls: type[Any], values: dict[str, Any], name: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        key
        for key, field in fields.items()
        if key not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise FileFormatError(
            f"{name}: manifest has unknown fields {unknown} and lacks {missing}; build the engine again"
        )
    return cls(**{key: _convert(hints[key], value, f"{name}: field '{key}'") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _convert(args[0], value, where)
    if origin is tuple and isinstance(value, list):
        if args[-1] is Ellipsis:
            return tuple(_convert(args[0], item, where) for item in value)
        if len(args) == len(value):
            return tuple(_convert(arg, item, where) for arg, item in zip(args, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {key: _convert(args[1], item, where) for key, item in value.items()}
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _build(hint, value, where)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise FileFormatError(f"{where}: expected {hint}, got {value!r}; build the engine again")
