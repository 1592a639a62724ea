"""Functions compiled by numba, kept over runs where there is a place to keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiles at the first call; without a folder to keep the code in (read-only, no home), in each process again."""
    try:
        return njit(cache=True, fastmath=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba's "no locator available": neither the code's folder nor a cache can be written
        return njit(fastmath=True)(function)  # type: ignore[no-any-return]
