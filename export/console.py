"""What the commands of this room show: the steps that its library code logs, and progress bars."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
Progress = Callable[[Iterable[T]], Iterable[T]]  # passes its argument on, and shows how far it has come
_LOGGER = logging.getLogger("export")


def report_step(step: str, text: str, started: float | None = None) -> None:
    """Logs a step, with the seconds since `started` (of `time.perf_counter`); `show_steps` has it printed."""
    seconds = "" if started is None else f" ({time.perf_counter() - started:.1f} s)"
    _LOGGER.info("%s", f"{step + ':':<20} {text}{seconds}")


def show_steps() -> None:
    """Prints, from now on, the steps that are logged."""
    if not any(isinstance(handler, _Printer) for handler in _LOGGER.handlers):
        _LOGGER.addHandler(_Printer())
    _LOGGER.setLevel(logging.INFO)


def progress_bar(title: str, unit: str) -> Progress[Any]:
    """A bar on the terminal; nothing where there is none."""
    from tqdm import tqdm

    return functools.partial(tqdm, desc=title, unit=unit, disable=None, leave=False)


class _Printer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Prints to what is standard output then: the handler outlives a command, which may put its own there."""
        print(record.getMessage(), flush=True)
