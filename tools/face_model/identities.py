"""Random identities: weights of MakeHuman's macro and local morph targets.

An identity is `base + weights @ targets`: linear, so a set of identities is one matrix of weights `(count, targets)`.
Macro targets blend ancestry, sex, age, muscle and weight as MakeHuman does (piecewise linear between named corners).
Local targets come in pairs (decr/incr and the like): a pair is one control in [-1, 1], 0 being MakeHuman's neutral.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from tools.face_model.makehuman import TARGETS, Archive

PAIR_ENDINGS = (
    ("decr", "incr"),
    ("down", "up"),
    ("in", "out"),
    ("backward", "forward"),
    ("concave", "convex"),
    ("compress", "uncompress"),
    ("pointed", "triangle"),
)
"""MakeHuman's names of the two ends of one control."""
LEFT_OUT = re.compile(r"head-trans|head-angle|neck-trans|measure-neck|ear-shape-triangle|asymm-")
"""Whole-head moves (pose, not identity) and body targets."""
SPREAD = {
    "head": 0.14,
    "forehead": 0.17,
    "eyebrows": 0.26,
    "eyes": 0.24,
    "nose": 0.25,
    "mouth": 0.22,
    "chin": 0.17,
    "cheek": 0.23,
    "ears": 0.15,
    "neck": 0.2,
}
"""Standard deviation of the local controls, by folder: with the macro spread 4.3 mm rms over the face, like scans."""
TYPICAL = {
    "nose-scale-depth-incr": 0.5,
    "nose-trans-forward": 0.15,
    "nose-curve-convex": 0.25,
    "nose-greek-incr": 0.15,
    "nose-hump-incr": 0.1,
    "nose-point-up": 0.15,
    "nose-septumangle-incr": 0.1,
    "mouth-trans-forward": -0.7,
    "mouth-scale-depth-incr": 0.75,
    "mouth-scale-horiz-incr": 0.15,
    "mouth-scale-vert-incr": -0.15,
    "mouth-lowerlip-height-incr": -0.3,
    "mouth-lowerlip-ext-up": -0.1,
    "eyebrows-trans-forward": 0.2,
    "eye-trans-up": 0.4,
    "eye-trans-out": 0.4,
    "eye-scale-incr": -0.1,
    "eye-push2-out": -0.1,
    "head-scale-vert-incr": -0.25,
    "head-scale-horiz-incr": -0.15,
    "chin-height-incr": 0.15,
    "chin-prognathism-incr": 0.15,
}
"""Where the average adult lies on a local control, where that is not MakeHuman's neutral: its blends of ancestry and
sex leave the nose too flat, the mouth too prominent, and the lower lip too full. Round values, chosen to bring the
mean's proportions near those of a scanned average; no scan is shipped."""
SEXES = ("male", "female")
AGES = {"baby": 0.0, "child": 0.1875, "young": 0.5, "old": 1.0}
"""MakeHuman's scale of age at its targets: about 1, 11, 25 and 90 years."""
ANCESTRIES = ("african", "asian", "caucasian")
SIDE_JITTER = 0.05
"""Standard deviation of the difference between the two sides of a paired local control."""
ASYMMETRY_RATE, ASYMMETRY_SIZE = 0.3, 0.15
"""How often an asymmetry target is used, and the standard deviation of its weight."""
HEAD_FORM_RATE, HEAD_FORM_SIZE = 0.4, 0.7
"""One-sided local targets (head forms such as `head-oval`): how often, and at most how strongly."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A local control, named by its upper end: the columns of its two ends (`low` is None for a one-sided one)."""

    name: str
    folder: str
    low: int | None
    high: int


@dataclass(frozen=True, kw_only=True)
class TargetSet:
    """Which targets exist, and in which column of the weights: `files` in column order."""

    files: tuple[str, ...]
    macro: dict[str, int]
    controls: tuple[Control, ...]
    asymmetry: tuple[int, ...]


def list_targets(archive: Archive) -> TargetSet:
    """Collect the identity targets and pair the ends of each local control."""
    files: list[str] = []

    def column(name: str) -> int:
        files.append(name)
        return len(files) - 1

    macro = {_stem(name): column(name) for name in archive.names(f"{TARGETS}/macrodetails")}
    controls: list[Control] = []
    for folder in SPREAD:
        by_stem = {_stem(n): n for n in archive.names(f"{TARGETS}/{folder}") if not LEFT_OUT.search(n)}
        for stem in sorted(by_stem):
            base, ends = _control_of(stem, by_stem)
            if ends is None:
                controls.append(Control(name=stem, folder=folder, low=None, high=column(by_stem[stem])))
            elif stem == f"{base}-{ends[1]}":
                low = column(by_stem[f"{base}-{ends[0]}"])
                controls.append(Control(name=stem, folder=folder, low=low, high=column(by_stem[stem])))
    asymmetry = tuple(column(n) for n in archive.names(f"{TARGETS}/asym") if not LEFT_OUT.search(n))
    return TargetSet(files=tuple(files), macro=macro, controls=tuple(controls), asymmetry=asymmetry)


def sample_weights(targets: TargetSet, count: int, seed: int) -> np.ndarray:
    """Weights of `count` identities, `(count, len(targets.files))` float32."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((count, len(targets.files)), np.float32)
    for row in weights:
        _add_macro(row, targets, rng)
        _add_local(row, targets, rng)
        for column in targets.asymmetry:
            if rng.random() < ASYMMETRY_RATE:
                row[column] = abs(rng.normal(0.0, ASYMMETRY_SIZE))
    return weights


def traits(weights: np.ndarray, targets: TargetSet) -> tuple[np.ndarray, np.ndarray]:
    """How male (0 to 1) and how old (MakeHuman's scale) identities are, `(count,)` each, read off their weights."""
    male, age = np.zeros(len(weights)), np.zeros(len(weights))
    for ancestry in ANCESTRIES:
        for sex in SEXES:
            for stage, years in AGES.items():
                share = weights[:, targets.macro[f"{ancestry}-{sex}-{stage}"]].astype(np.float64)
                male += share * (sex == "male")
                age += share * years
    return male, age


def _stem(name: str) -> str:
    return PurePosixPath(name).name.split(".")[0]


def _control_of(stem: str, known: dict[str, str]) -> tuple[str, tuple[str, str] | None]:
    for low, high in PAIR_ENDINGS:
        for end in (low, high):
            base = stem.removesuffix(f"-{end}")
            if base != stem and f"{base}-{low}" in known and f"{base}-{high}" in known:
                return base, (low, high)
    return stem, None


def _blend(value: float, corners: tuple[str, ...], places: tuple[float, ...]) -> dict[str, float]:
    """Piecewise-linear weights of the named corners around a value."""
    return {c: float(w) for c, w in zip(corners, _hat(value, places), strict=True) if w > 0.0}


def _hat(value: float, places: tuple[float, ...]) -> np.ndarray:
    return np.array([np.interp(value, places, row) for row in np.eye(len(places))])


def _sample_age(rng: np.random.Generator) -> float:
    """An age on MakeHuman's scale. One in seven is a child or a teenager."""
    return rng.uniform(0.19, 0.42) if rng.random() < 0.14 else 0.42 + 0.5 * rng.beta(1.1, 1.4)


def _add_macro(row: np.ndarray, targets: TargetSet, rng: np.random.Generator) -> None:
    male = rng.beta(0.35, 0.35)
    sexes = dict(zip(SEXES, (male, 1.0 - male), strict=True))
    ages = _blend(_sample_age(rng), tuple(AGES), tuple(AGES.values()))
    ancestries = dict(zip(ANCESTRIES, rng.dirichlet([0.5, 0.5, 0.5]), strict=True))
    thirds = (0.0, 0.5, 1.0)
    muscle = np.clip(rng.normal(0.5, 0.17), 0.0, 1.0)
    weight = np.clip(rng.normal(0.5, 0.19), 0.0, 1.0)
    muscles = _blend(muscle, ("minmuscle", "averagemuscle", "maxmuscle"), thirds)
    fats = _blend(weight, ("minweight", "averageweight", "maxweight"), thirds)
    for sex, by_sex in sexes.items():
        for age, by_age in ages.items():
            for ancestry, by_ancestry in ancestries.items():
                row[targets.macro[f"{ancestry}-{sex}-{age}"]] = by_sex * by_age * by_ancestry
            for muscle_name, by_muscle in muscles.items():
                for fat_name, by_fat in fats.items():
                    key = f"universal-{sex}-{age}-{muscle_name}-{fat_name}"
                    row[targets.macro[key]] = by_sex * by_age * by_muscle * by_fat


def _add_local(row: np.ndarray, targets: TargetSet, rng: np.random.Generator) -> None:
    shared: dict[str, float] = {}
    for control in targets.controls:
        key = re.sub(r"^[lr]-", "", control.name)
        if key not in shared:
            shared[key] = TYPICAL.get(key, 0.0) + rng.normal(0.0, SPREAD[control.folder])
        value = shared[key]
        if key != control.name:
            value += rng.normal(0.0, SIDE_JITTER)
        value = float(np.clip(value, -1.0, 1.0))
        if control.low is None:
            row[control.high] = HEAD_FORM_SIZE * abs(value) * (rng.random() < HEAD_FORM_RATE)
        elif value > 0.0:
            row[control.high] = value
        else:
            row[control.low] = -value
