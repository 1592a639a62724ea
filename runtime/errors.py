"""Errors of the library. Every message says what was expected, what came, and what to do."""

from __future__ import annotations


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
