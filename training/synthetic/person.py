"""Whom a face is of: sex, age, and the looks that go with them.

The shape says how male and how old a face looks (`Head.traits`); skin, hair, brows, beard and make-up are chosen to go
with it, as in photographs. Now and then they are chosen for anybody, so that no look belongs to one shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.synthetic.noise import chance, uniform

_ANYBODY = 0.15  # share of faces whose looks do not go with their shape
_SURE = 0.08  # of maleness: how far from the middle a shape is clearly a man's or a woman's
_GROWN, _MIDDLE_AGED, _OLD = 0.36, 0.62, 0.8  # MakeHuman's scale of age: about 18, 40 and 64 years
_YOUNGEST = 0.19


@dataclass(frozen=True, kw_only=True)
class Person:
    """What the parts of a picture ask for."""

    feminine: bool
    age: float  # MakeHuman's scale
    bearded: bool
    made_up: float  # 0: not at all, to 1
    long_hair: bool

    @property
    def stage(self) -> str:
        """As MakeHuman's skins are named."""
        return "young" if self.age < _MIDDLE_AGED else "middleage" if self.age < _OLD else "old"

    @property
    def lined(self) -> float:
        """How far age has drawn lines, 0 to 1."""
        return float(np.clip((self.age - _GROWN) / (1 - _GROWN), 0, 1))


def random_person(rng: np.random.Generator, male: float, age: float) -> Person:
    """Somebody whose shape looks that male (about 0 to 1) and that old (MakeHuman's scale)."""
    if chance(rng, _ANYBODY):
        male, age = uniform(rng, 0, 1), uniform(rng, _YOUNGEST, 1)
    feminine = not chance(rng, 1 / (1 + np.exp(np.clip((0.5 - male) / _SURE, -30, 30))))
    grown = age > _GROWN
    made_up = chance(rng, 0.65 if grown else 0.1) if feminine else chance(rng, 0.03)
    return Person(
        feminine=feminine,
        age=age,
        bearded=grown and not feminine and chance(rng, 0.45),
        made_up=uniform(rng, 0.2, 1) if made_up else 0.0,
        long_hair=chance(rng, 0.85 if feminine else 0.12),
    )
