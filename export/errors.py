"""What can go wrong in the export beside files and options: a check that fails, a builder that gives up."""

from __future__ import annotations

from runtime.errors import ClnError


class FailedCheckError(ClnError):
    """A check of the export failed: no fault of a file or an option. Commands end with status 1."""


class ParityError(FailedCheckError):
    """A step of the export departs from the network more than its gate allows."""


class PrecisionError(FailedCheckError):
    """Numbers of the network do not fit the precision that was asked for, or a graph has another one."""


class PlanError(ClnError):
    """The builder could not make a plan."""
