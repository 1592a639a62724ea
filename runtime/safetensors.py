"""The safetensors container, read and written with NumPy alone, since the base install has no more than that.

Layout: 8 bytes header length N (little-endian), N bytes of JSON ({name: {"dtype", "shape", "data_offsets"},
"__metadata__": {str: str}}), then the tensors' raw little-endian bytes, back to back. Nothing in it can run code.
Source: the format's specification in the huggingface/safetensors repository. The same tensors always give the same
bytes: names are sorted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError
from runtime.files import write_atomically

_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("<u1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 1 << 20


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Reads all tensors (read-only views of one buffer) and the metadata of `path`.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is truncated, inconsistent or no safetensors file.
    """
    return parse(Path(path).read_bytes(), name=str(path))


def parse(data: bytes, *, name: str = "data") -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """As `read`, from bytes already in memory; `name` is used in errors."""
    header, body = _split(data, name)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileFormatError(
            f"{name}: expected metadata of strings, got {type(metadata).__name__}; make the file anew"
        )
    return {key: _tensor(name, key, entry, body) for key, entry in header.items()}, metadata


def write(path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Writes `tensors` (uint8, int32, int64, float16, float32 or float64) and `metadata` to `path`, atomically.

    Raises:
        FileFormatError: a tensor has a type that the format, as used here, does not hold.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    chunks: list[bytes] = []
    offset = 0
    # Widest type first keeps every tensor aligned to its own size.
    for key, value in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        dtype = value.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise FileFormatError(f"{key}: expected one of {sorted(_DTYPES)}, got {value.dtype}; convert it first")
        chunks.append(np.ascontiguousarray(value, dtype=dtype).tobytes())
        header[key] = {
            "dtype": _NAMES[dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + len(chunks[-1])],
        }
        offset += len(chunks[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(path, b"".join([len(text).to_bytes(8, "little"), text, *chunks]))


def _split(data: bytes, name: str) -> tuple[dict[str, Any], memoryview]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_MAX_HEADER, len(data) - 8):
        raise FileFormatError(
            f"{name}: expected a safetensors file, got {len(data)} bytes whose header does not fit; "
            "the file is truncated or of another format: fetch or make it again"
        )
    try:
        header = json.loads(data[8 : 8 + length])
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(f"{name}: expected a JSON header, got {error}; fetch or make the file again") from None
    if not isinstance(header, dict):
        raise FileFormatError(f"{name}: expected a JSON object as header, got {type(header).__name__}")
    return header, memoryview(data)[8 + length :]


def _tensor(name: str, key: str, entry: Any, body: memoryview) -> NDArray[Any]:
    try:
        dtype = _DTYPES[entry["dtype"]]
        shape = tuple(int(size) for size in entry["shape"])
        start, stop = (int(value) for value in entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise FileFormatError(f"{name}: tensor '{key}' has an unreadable header entry; make the file anew") from None
    if min(shape, default=0) < 0 or not 0 <= start <= stop or stop - start != math.prod(shape) * dtype.itemsize:
        raise FileFormatError(f"{name}: tensor '{key}' of shape {shape} does not fit its bytes {start}..{stop}")
    if stop > len(body):
        raise FileFormatError(f"{name}: expected at least {stop} bytes of data, got {len(body)}: the file is truncated")
    flat: NDArray[Any] = np.frombuffer(body[start:stop], dtype=dtype)
    return flat.reshape(shape)
