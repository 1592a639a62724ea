"""What all commands share: exit codes, errors as one line, being stopped, and text that any terminal takes.

    @command()
    def main(arguments: Sequence[str] | None = None) -> int:
        options = _parser().parse_args(arguments)
        …
        return Exit.SKIPPED if skipped else Exit.DONE

What is printed never decides what is done: characters that the terminal's encoding lacks are written as escapes, and
output that nobody reads any more (`| head`) is dropped while the work goes on. Warnings are one line each as well.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, ParamSpec, TextIO

from runtime.errors import ClnError

P = ParamSpec("P")

TRACEBACK_VARIABLE = "CLN_TRACEBACK"
"""Environment variable: set, a bug's traceback is printed too."""
_ADVICE = {
    errno.ENOSPC: "free space or name another place",
    errno.EDQUOT: "free space or name another place",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "name a place that can be written",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a folder",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class Exit(IntEnum):
    """How a command ends."""

    DONE = 0
    """Everything was done."""
    SKIPPED = 1
    """Some items were done and some skipped, or a check found something wrong; each has its line."""
    FAILED = 2
    """Nothing could be done, or the command was called wrongly."""
    INTERRUPTED = 130
    """Ctrl-C."""
    TERMINATED = 143
    """SIGTERM, as `docker stop`, systemd and clusters send it: ends as Ctrl-C does, with what is done kept."""


class _Terminated(KeyboardInterrupt):
    """Raised where SIGTERM finds the program."""


def command(*, interrupted: str = "") -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorates a command's `main`: errors become one line and `Exit.FAILED`, Ctrl-C `Exit.INTERRUPTED`, SIGTERM alike.

    Args:
        interrupted: what a user wants to know after either, such as "what was rendered is kept".
    """

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            with _tolerant_output() as lost, _told_to_stop():
                status = _status(functools.partial(main, *args, **kwargs), interrupted)
            if lost and status == Exit.DONE:
                print_error(f"standard output: {lost[0].strerror}; what was printed is not complete")
                return Exit.SKIPPED
            return status

        return run

    return decorate


def _status(main: Callable[[], int], interrupted: str) -> int:
    try:
        return main()
    except KeyboardInterrupt as stop:
        status = Exit.TERMINATED if isinstance(stop, _Terminated) else Exit.INTERRUPTED
        word = status.name.lower()
        print(f"{word}; {interrupted}" if interrupted else word, file=sys.stderr)
        return status
    except (ClnError, OSError, MemoryError) as error:
        print_error(error)
        return Exit.FAILED
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        print_error(
            f"internal error: {type(error).__name__}: {error} ({os.path.basename(place.filename)}:{place.lineno}); "
            f"this is a bug, please report it with the output of {TRACEBACK_VARIABLE}=1"
        )
        return Exit.FAILED


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """SIGTERM raises `_Terminated`, but where the caller has a handler of its own."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(*_: object) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def exit_status(*, skipped: int, total: int) -> Exit:
    """Of a command with `total` items of which `skipped` could not be done."""
    return Exit.DONE if not skipped else Exit.FAILED if skipped >= total else Exit.SKIPPED


def print_error(error: object) -> None:
    """Prints one line of error: a text, or an exception as `one_line` says it."""
    print(f"error: {one_line(error)}", file=sys.stderr)


def counted(count: int, name: str) -> str:
    """So many of what `name` is one of, in a word that takes an s."""
    return f"{count} {name}{'s' * (count != 1)}"


def one_line(error: object) -> str:
    """An exception or a text as one printable line; of the system's errors, the file's name and what to do too."""
    text = str(error)
    if isinstance(error, MemoryError):
        text = f"out of memory{f': {text}' if text else ''}; give it smaller or fewer inputs at a time"
    elif isinstance(error, OSError) and error.strerror:
        name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        advice = _ADVICE.get(error.errno or 0)
        text = f"{name}{error.strerror}{f'; {advice}' if advice else ''}"
    return "".join(c if c.isprintable() else _escaped(c) for c in " ".join(text.splitlines()))


def _escaped(character: str) -> str:
    return " " if character == "\t" else character.encode("unicode_escape", "surrogatepass").decode("ascii")


@contextlib.contextmanager
def _tolerant_output() -> Iterator[list[OSError]]:
    """Standard output and error that take any text and outlive their reader; yields what else went wrong with them."""
    lost: list[OSError] = []
    before = sys.stdout, sys.stderr, warnings.showwarning
    sys.stdout, sys.stderr = (_tolerant(stream, lost) for stream in before[:2])
    warnings.showwarning = _show_warning
    try:
        with _silent_opencv():
            yield lost
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        sys.stdout, sys.stderr, warnings.showwarning = before


@contextlib.contextmanager
def _silent_opencv() -> Iterator[None]:
    """What OpenCV says of a damaged file is in our error already."""
    cv2 = sys.modules.get("cv2")
    if cv2 is None or "OPENCV_LOG_LEVEL" in os.environ:
        yield
        return
    logs: Any = cv2.utils.logging
    before = logs.setLogLevel(logs.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logs.setLogLevel(before)


def _tolerant(stream: Any, lost: list[OSError]) -> Any:
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # none (no terminal at all), or a notebook's or a test's own
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        stream.reconfigure(errors="backslashreplace")
        return stream
    raw = io.BufferedWriter(_Output(number, lost))
    return io.TextIOWrapper(
        raw, encoding=stream.encoding, errors="backslashreplace", newline=None, line_buffering=stream.line_buffering
    )


class _Output(io.FileIO):
    """A descriptor that takes everything: what can't be written is dropped."""

    def __init__(self, number: int, lost: list[OSError]) -> None:
        super().__init__(number, "wb", closefd=False)
        self._lost = lost

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # nobody reads any more (EINVAL is Windows' word for it)
                self._lost.append(error)
            return memoryview(data).nbytes


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {one_line(message)}", file=file or sys.stderr)
