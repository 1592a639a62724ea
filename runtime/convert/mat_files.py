"""Matlab's level 5 files, read by SciPy once their elements' headers have been checked.

SciPy's compiled reader looks a type's number up in a table without a check, so that one damaged byte can end the
process, and the indexing of a whole data set with it. Layout: MATLAB's "MAT-File Format", version 5.
"""

from __future__ import annotations

import mmap
import zlib
from pathlib import Path
from typing import Any, Protocol

from runtime.errors import EngineUnavailableError, FileFormatError

_HEADER = 128  # bytes: text, version, byte order
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, _MATRIX, _COMPRESSED, 16, 17, 18}
_DEEPEST = 32  # of cells and structures within each other
_PIECE = 1 << 16  # bytes handed to zlib at a time, which copies what it leaves


class _Bytes(Protocol):
    """Bytes in their order."""

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""

    def skip(self, count: int) -> None:
        """Past the next bytes."""


def load_mat(path: Path) -> dict[str, Any]:
    """The variables of a Matlab file (level 5 to 7.2).

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it can't be read.
        EngineUnavailableError: SciPy is missing.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise EngineUnavailableError(f"{path}: reading .mat files needs SciPy; run: pip install scipy") from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a Matlab file, found none; check the path")
    try:
        _check_elements(path)
        return dict(loadmat(path))
    except Exception as error:  # SciPy's reader raises whatever a broken file makes it trip over
        raise FileFormatError(f"{path}: expected a Matlab 5 file, got one that can't be read ({error})") from None


def _check_elements(path: Path) -> None:
    """ValueError unless all types are known, and each element ends within what holds it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        order = {b"IM": "little", b"MI": "big"}.get(data[_HEADER - 2 : _HEADER])
        if order is None:
            raise ValueError("its header names no byte order")
        at = _HEADER
        while at < len(data):
            kind, size, _ = _tag(data[at : at + 8], order)
            at += 8
            if size > len(data) - at:
                raise ValueError(f"an element of {size} bytes at byte {at - 8} of {len(data)}")
            if kind == _COMPRESSED:
                stream = _Inflated(memoryview(data)[at : at + size])
                try:
                    kind, length, _ = _tag(stream.read(8), order)
                    _check_within(stream, kind, length, order)
                finally:
                    stream.close()
            else:
                _check_within(_Plain(data, at), kind, size, order)
            at += size


def _check_within(stream: _Bytes, kind: int, size: int, order: Any, depth: int = 0) -> None:
    """Checks the elements of a matrix, and moves past any element's bytes."""
    if kind != _MATRIX:
        stream.skip(size)
        return
    if depth > _DEEPEST:
        raise ValueError(f"matrices within matrices more than {_DEEPEST} deep")
    left = size
    while left > 0:
        kind, size, padded = _tag(stream.read(8), order)
        left -= 8 + padded
        if left < 0:
            raise ValueError(f"an element of {size} bytes in one that is shorter")
        _check_within(stream, kind, size, order, depth + 1)
        stream.skip(padded - size)


def _tag(tag: bytes, order: Any) -> tuple[int, int, int]:
    """An element's type, and the bytes that follow its tag: without and with what fills up its last eight."""
    if len(tag) < 8:
        raise ValueError("it ends within an element")
    kind, size = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
    if small := kind >> 16:  # the content stands in the tag
        kind &= 0xFFFF
        if small > 4:
            raise ValueError(f"a small element of {small} bytes")
        size = 0
    if kind not in _TYPES:
        raise ValueError(f"an element of type {kind}")
    return kind, size, size + -size % 8


class _Plain:
    """The bytes of a file from an offset on."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self._data, self._at = data, at

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        self._at += count
        return self._data[self._at - count : self._at]

    def skip(self, count: int) -> None:
        """Past the next bytes."""
        self._at += count


class _Inflated:
    """What compressed bytes say, a piece at a time."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0
        self._left = b""  # handed over, not yet inflated
        self._inflate = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        found = b""
        while len(found) < count:
            if not self._left:
                self._left = bytes(self._data[self._at : self._at + _PIECE])
                self._at += _PIECE
            piece = self._inflate.decompress(self._left, count - len(found))
            if not piece and self._at >= len(self._data):
                break
            self._left = self._inflate.unconsumed_tail
            found += piece
        return found

    def skip(self, count: int) -> None:
        """Past the next bytes."""
        while count > 0 and (piece := self.read(min(count, _PIECE))):
            count -= len(piece)

    def close(self) -> None:
        """Lets go of the bytes."""
        self._data.release()
