"""The watchdog of `make hostile` sees what it is there to see."""

import os
import time

import pytest

from runtime.errors import InvalidInputError

pytest.importorskip("resource", reason="processes are limited by POSIX' resource module")
from tests.hostile import __main__ as hostile


def refuse(folder):
    raise InvalidInputError("expected a, got b")


def spread(folder):
    raise InvalidInputError("a\nb")


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        (lambda folder: None, "read"),
        (refuse, "refused"),
        (spread, "many lines"),
        (lambda folder: {}["x"], "traceback"),
        (lambda folder: os.abort(), "crash"),
        (lambda folder: time.sleep(30), "hang"),
        (lambda folder: b"x" * (60 << 20), "memory"),
    ],
)
def test_what_a_reader_does_is_seen(work, outcome, monkeypatch):
    monkeypatch.setattr(hostile, "SECONDS", 1.0 if outcome == "hang" else 20.0)
    base = 0 if outcome == "memory" else hostile.BYTES
    monkeypatch.setattr(hostile, "BYTES", base)
    assert hostile.watched(work).outcome == outcome
