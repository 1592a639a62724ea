"""Ctrl-C and SIGTERM as a flag: a run ends after the step in progress, its state saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Flag:
    """Whether the run was asked to stop."""

    is_set = False


@contextmanager
def interruption(*, patient: bool = False) -> Iterator[Flag]:
    """A flag that Ctrl-C or SIGTERM sets; a second one ends the process as usual, unless `patient`.

    Under `torchrun` each process may get one Ctrl-C twice, from the terminal and from the launcher, which ends by force
    what does not end in half a minute.
    """
    flag = Flag()
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.getsignal(name) for name in names}

    def ask(number: int, _: FrameType | None) -> None:
        flag.is_set = True
        if not patient:
            signal.signal(number, before[signal.Signals(number)])

    try:
        for name in names:
            signal.signal(name, ask)
        yield flag
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
