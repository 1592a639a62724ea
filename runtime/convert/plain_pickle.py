"""Pickle files that hold NumPy arrays and plain values, read without running what else a pickle could name.

3DDFA and 3DDFA_V2 publish their model and labels as pickles. A pickle names functions to call; here the only ones are
NumPy's own that rebuild an array, a dtype or a number, and a text encoder restricted to Latin-1 (how Python 2's bytes
are written). Any other name ends the reading with an error. Arrays of objects are refused.
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import FileFormatError


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """The content of a pickle of numeric arrays, numbers, strings, lists, tuples and dictionaries.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is no pickle, or one that names anything else.
    """
    name = os.fspath(path)
    try:
        content = _ArrayUnpickler(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load()
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle trips over whatever its bytes happen to mean
        raise FileFormatError(
            f"{name}: expected a pickle of arrays, got one that can't be read ({error}); fetch it again"
        ) from None
    _check_plain(name, content)
    return content


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding.lower() not in ("latin1", "latin-1"):
        raise FileFormatError(f"expected Latin-1 bytes, got encoding '{encoding}'")
    return text.encode("latin1")


_core: Any = getattr(np, "_core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "core")
_ALLOWED: dict[tuple[str, str], Any] = {("_codecs", "encode"): _latin1}
for _package in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_package}.multiarray", "_reconstruct"] = _core.multiarray._reconstruct
    _ALLOWED[f"{_package}.multiarray", "scalar"] = _core.multiarray.scalar
    _ALLOWED[f"{_package}.numeric", "_frombuffer"] = _core.numeric._frombuffer
_ALLOWED["numpy", "ndarray"] = np.ndarray
_ALLOWED["numpy", "dtype"] = np.dtype


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise FileFormatError(
                f"expected a pickle of arrays alone, got one that calls '{module}.{name}'; don't trust this file"
            ) from None


def _check_plain(name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(name, key)
            _check_plain(name, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(name, item)
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            raise FileFormatError(f"{name}: expected numeric arrays, got one of objects; fetch or make the file again")
    elif not isinstance(value, str | bytes | int | float | bool | None):
        raise FileFormatError(f"{name}: expected arrays and plain values, got {type(value).__name__}")
