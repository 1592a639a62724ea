"""Matlab files: whole ones are read; damaged headers are refused before SciPy, which crashes on some, sees them."""

import numpy as np
import pytest

from runtime.convert.mat_files import load_mat
from runtime.errors import FileFormatError

savemat = pytest.importorskip("scipy.io").savemat
_FIRST, _TYPE_OF_NAME, _TYPE_OF_DATA = 128, 168, 176  # offsets in a file whose first variable is `abcd`, a matrix


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def compressed(request):
    return request.param


def test_every_kind_of_variable_is_read(tmp_path, compressed):
    cells = np.array([[np.arange(3), "x"], [np.zeros((2, 2)), 1 + 2j]], dtype=object)
    content = {"numbers": np.arange(200_000.0)[None], "text": "abc", "cells": cells, "nested": {"a": {"b": 7}}}
    savemat(tmp_path / "a.mat", content, do_compression=compressed)
    read = load_mat(tmp_path / "a.mat")
    assert np.array_equal(read["numbers"], content["numbers"]) and read["text"] == ["abc"]
    assert read["nested"]["a"][0, 0]["b"] == 7 and read["cells"].shape == (2, 2)


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (_TYPE_OF_DATA + 1, 0x80, "type 32777"),  # SciPy reads beyond its table, and may crash
        (_FIRST, 77, "type 77"),
        (_FIRST + 6, 1, "an element of"),
        (_TYPE_OF_DATA + 6, 1, "in one that is shorter"),
        (_TYPE_OF_NAME + 2, 9, "small element of 9"),
        (126, 0, "byte order"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, at, value, said):
    path = tmp_path / "a.mat"
    savemat(path, {"abcd": np.arange(6.0).reshape(2, 3)})
    data = bytearray(path.read_bytes())
    data[at] = value
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=rf"a\.mat: expected a Matlab 5 file.*{said}"):
        load_mat(path)


def test_matrices_in_matrices_end(tmp_path):
    value = np.zeros(1)
    for _ in range(40):
        cell = np.empty((1, 1), object)
        cell[0, 0] = value
        value = cell
    savemat(tmp_path / "a.mat", {"a": value})
    with pytest.raises(FileFormatError, match="32 deep"):
        load_mat(tmp_path / "a.mat")
