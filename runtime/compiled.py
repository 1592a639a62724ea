"""The compiled core `cln_cpp` (see cpp_bindings/) where it is installed; else None: NumPy and OpenCV do its work."""

from __future__ import annotations

import importlib
from typing import Any

cln_cpp: Any
try:
    cln_cpp = importlib.import_module("cln_cpp")
except ImportError:
    cln_cpp = None
