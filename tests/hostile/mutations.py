"""What becomes of good files: each mutation is a function of its bytes and a random generator."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

Random = np.random.Generator
_NUMBERS = (b"nan", b"-inf", b"1e999", b"-1", b"0", b"9" * 40, b"1e-320", b"0x7f", b"\xc3\xa9", b'"', b"[" * 2000)
_VALUE = re.compile(rb'(?<=[\s\[,:=;])(?:-?\d[\w.+-]*|"[^"\n]*"|true|false|null)(?=[\s,;\]}]|$)')
_VALUES = (b"0", b"1", b"-1", b"2", b"0.5", b"1e300", b"9" * 40, b"true", b"[]", b"{}", b'""', b'"a"', b"[[1, 2]]")
_WORDS = tuple(
    value.to_bytes(size, order, signed=False)
    for size in (1, 2, 4, 8)
    for value in (0, 1, (1 << 8 * size) - 1, 1 << 8 * size - 1, (1 << 8 * size - 1) - 1)
    for order in ("little", "big")
)


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.integers(0, len(data) + 1)]


def _flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for at in random.integers(0, len(data), random.integers(1, 12)):
        changed[at] ^= 1 << int(random.integers(0, 8))
    return bytes(changed)


def _word(data: bytes, random: Random) -> bytes:
    """A length or a count set to a value at a limit, mostly in the header."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 4)):
        word = _WORDS[random.integers(0, len(_WORDS))]
        end = min(len(data), 400) if random.random() < 0.7 else len(data)
        at = int(random.integers(0, end))
        changed[at : at + len(word)] = word
    return bytes(changed)


def _remove(data: bytes, random: Random) -> bytes:
    start = int(random.integers(0, len(data)))
    return data[:start] + data[start + int(random.integers(1, 1 + len(data) // 4 + 1)) :]


def _repeat(data: bytes, random: Random) -> bytes:
    start = int(random.integers(0, len(data)))
    part = data[start : start + int(random.integers(1, 200))]
    return data[:start] + part * int(random.integers(2, 200)) + data[start:]


def _zero(data: bytes, random: Random) -> bytes:
    start = int(random.integers(0, len(data)))
    length = int(random.integers(1, 1 + len(data) // 3 + 1))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def _noise(data: bytes, random: Random) -> bytes:
    start = int(random.integers(0, len(data)))
    return data[:start] + random.bytes(int(random.integers(1, 64))) + data[start:]


def _number(data: bytes, random: Random) -> bytes:
    """A number written in text replaced."""
    digits = np.flatnonzero(np.isin(np.frombuffer(data, np.uint8), np.frombuffer(b"0123456789", np.uint8)))
    if not len(digits):
        return _noise(data, random)
    at = int(random.choice(digits))
    return data[:at] + _NUMBERS[random.integers(0, len(_NUMBERS))] + data[at + 1 :]


def _value(data: bytes, random: Random) -> bytes:
    """A value of a text replaced by another of the same text or an odd one: JSON, TOML and tables stay readable."""
    values = list(_VALUE.finditer(data))
    if not values:
        return _noise(data, random)
    old = values[random.integers(0, len(values))]
    own = random.random() < 0.5
    new = values[random.integers(0, len(values))][0] if own else _VALUES[random.integers(0, len(_VALUES))]
    return data[: old.start()] + new + data[old.end() :]


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


_MUTATIONS: Sequence[Callable[[bytes, Random], bytes]] = (
    *(_cut, _flip, _flip, _word, _word, _word),
    *(_remove, _repeat, _zero, _noise, _number, _number),
)


def mutate(seeds: Sequence[bytes], random: Random) -> bytes:
    """One of the seeds, changed once to three times, or spliced with another; half of the texts by a value alone."""
    data = seeds[random.integers(0, len(seeds))]
    if _is_text(data) and random.random() < 0.5:
        return _value(data, random)
    if random.random() < 0.05:
        other = seeds[random.integers(0, len(seeds))]
        data = data[: random.integers(0, len(data) + 1)] + other[random.integers(0, len(other) + 1) :]
    for _ in range(random.integers(1, 4)):
        if data:
            data = _MUTATIONS[random.integers(0, len(_MUTATIONS))](data, random)
    return data
