"""Which photograph ends the processes that work on it.

A photograph can end a worker as no error does: a decoder that crashes, or memory that the system takes back. Ray starts
the worker again and gives it the same part, for ever. So a worker leaves a mark beside the results while it is on a
part. Who finds one knows that a worker died there, goes on with one photograph at a time, and notes which; a photograph
that was being worked on at the end of several workers counts as the cause.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from serving.rows import PART
from serving.storage import Place

DEATHS = 2  # of workers at one photograph, alone; a single one may have other causes
SUFFIX = ".trying"


@dataclass(kw_only=True)
class Attempt:
    """A worker's try at a part."""

    mark: Place
    again: bool  # whether a worker died at this part
    deaths: dict[str, int] = field(default_factory=dict)  # by photograph

    @classmethod
    def begin(cls, out: Place, part: str) -> Attempt:
        """Reads the mark of those before, and leaves one.

        Raises:
            StorageError: the folder of results cannot be read or written.
        """
        mark = out / f".{part}{SUFFIX}"
        try:
            before = json.loads(mark.read())
        except FileNotFoundError:
            attempt = cls(mark=mark, again=False)
        else:
            attempt = cls(mark=mark, again=True, deaths=before["deaths"])
            if (name := before["name"]) is not None:
                attempt.deaths[name] = attempt.deaths.get(name, 0) + 1
        attempt.working_on(None)
        return attempt

    def working_on(self, name: str | None) -> None:
        """Notes the photograph that is next; None: several, or none."""
        self.mark.write(json.dumps({"name": name, "deaths": self.deaths}).encode())

    def problem(self, name: str) -> str | None:
        """What is wrong with a photograph that ended workers."""
        count = self.deaths.get(name, 0)
        if count < DEATHS:
            return None
        return (
            f"{name}: expected a photograph that can be worked on, got one at which {count} processes died; "
            "look at it on its own, or take it out"
        )

    def done(self) -> None:
        """Takes the mark away: the part has its results."""
        self.mark.delete()


def is_mark(name: str) -> bool:
    """Whether a file's name is a mark's."""
    return name.startswith(f".{PART}") and name.endswith(SUFFIX)
