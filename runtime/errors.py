"""Errors of the library. Every message says what was expected, what came, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ClnError(Exception):
    """Base of all errors that the library raises on purpose."""


class InvalidInputError(ClnError, ValueError):
    """An argument has the wrong type, shape or value."""


class FileFormatError(ClnError, ValueError):
    """A file is missing something, truncated, or of another format."""


class MismatchError(ClnError, ValueError):
    """Two parts that do not belong together, such as an engine and a face model."""


class EngineUnavailableError(ClnError, RuntimeError):
    """A library or a device that an engine needs is not there."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """For messages: the name that is unknown, with the nearest of those that are known where one is near."""
    near = get_close_matches(name.lower(), list(known), n=1)
    return f"'{name}'; did you mean '{near[0]}'?" if near else f"'{name}'"
