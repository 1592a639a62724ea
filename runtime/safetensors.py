"""The safetensors container through its own package, with our errors and bytes that do not change from run to run.

Layout: 8 bytes header length N (little-endian), N bytes of JSON ({name: {"dtype", "shape", "data_offsets"},
"__metadata__": {str: str}}), then the tensors' raw little-endian bytes. Nothing in it can run code.

The package keeps metadata in a hash map, so it writes them in another order each time; a face model is known by the
SHA-256 of its file, so they are put in here, sorted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from runtime.errors import FileFormatError
from runtime.files import write_atomically

_LENGTH = 8  # bytes of the header's length
_METADATA = "__metadata__"
_ALIGNMENT = 8


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Reads all tensors (read-only) and the metadata of `path`.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is truncated, inconsistent or no safetensors file.
    """
    return parse(Path(path).read_bytes(), name=str(path))


def parse(data: bytes, *, name: str = "data") -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """As `read`, from bytes already in memory; `name` is used in errors."""
    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"{name}: expected a safetensors file, got {len(data)} bytes that are none ({error}); "
            "the file is truncated or of another format: fetch or make it again"
        ) from None
    for tensor in tensors.values():
        tensor.flags.writeable = False
    return tensors, _header(data).get(_METADATA, {})


def write(path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Writes `tensors` and `metadata` to `path`, atomically.

    Raises:
        FileFormatError: a tensor has a type that the format does not hold.
        OSError: the file cannot be written.
    """
    try:
        data = safetensors.numpy.save({key: np.ascontiguousarray(value) for key, value in tensors.items()})
    except safetensors.SafetensorError as error:
        kinds = ", ".join(f"'{key}' {value.dtype}" for key, value in tensors.items())
        raise FileFormatError(f"{path}: expected arrays of numbers, got {kinds} ({error}); convert them") from None
    header = {_METADATA: dict(sorted(metadata.items())), **_header(data)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    body = data[_LENGTH + _header_length(data) :]
    write_atomically(path, b"".join([len(text).to_bytes(_LENGTH, "little"), text, body]))


def _header_length(data: bytes) -> int:
    return int.from_bytes(data[:_LENGTH], "little")


def _header(data: bytes) -> dict[str, Any]:
    """The header of bytes that the package has accepted."""
    header: dict[str, Any] = json.loads(data[_LENGTH : _LENGTH + _header_length(data)])
    return header
