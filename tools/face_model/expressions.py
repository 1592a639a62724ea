"""Random expressions: sparse combinations of the 52 face units, named as ARKit names its blend shapes.

Eye gaze and the tongue are left out: neither moves the face's surface enough to be read from 68 points.
"""

from pathlib import PurePosixPath

import numpy as np

from tools.face_model.makehuman import FACE_UNITS, Archive

UNUSED = ("eyeLook", "tongueOut")
NEUTRAL_RATE = 0.12
"""The share of expressionless faces."""
PAIRED = {
    "mouthSmile": (0.40, 1.4, 1.4, 0.15),
    "mouthFrown": (0.18, 1.0, 1.3, 0.15),
    "mouthUpperUp": (0.20, 1.0, 1.5, 0.15),
    "mouthLowerDown": (0.20, 1.0, 1.5, 0.15),
    "mouthStretch": (0.15, 1.0, 1.4, 0.15),
    "mouthPress": (0.12, 1.0, 1.3, 0.15),
    "mouthDimple": (0.10, 1.0, 1.3, 0.15),
    "noseSneer": (0.14, 1.0, 1.3, 0.15),
    "cheekSquint": (0.22, 1.0, 1.3, 0.15),
    "browDown": (0.28, 1.0, 1.1, 0.12),
    "browOuterUp": (0.12, 1.0, 1.3, 0.15),
    "eyeSquint": (0.25, 1.0, 1.3, 0.08),
    "eyeWide": (0.14, 1.0, 1.3, 0.05),
}
"""Unit of both sides: how often, the two parameters of its beta distribution, the difference between the sides."""
SINGLE = {
    "mouthPucker": (0.18, 1.1, 1.2),
    "mouthFunnel": (0.16, 1.0, 1.3),
    "mouthShrugLower": (0.14, 1.0, 1.3),
    "mouthShrugUpper": (0.10, 1.0, 1.3),
    "mouthRollLower": (0.10, 1.0, 1.3),
    "mouthRollUpper": (0.10, 1.0, 1.3),
    "cheekPuff": (0.05, 1.0, 1.3),
    "jawForward": (0.06, 1.0, 1.3),
    "jawLeft": (0.06, 1.0, 1.3),
    "jawRight": (0.06, 1.0, 1.3),
    "mouthLeft": (0.06, 1.0, 1.3),
    "mouthRight": (0.06, 1.0, 1.3),
}
"""Unit of the whole face: how often, and the two parameters of its beta distribution."""
JAW_OPEN_RATE, JAW_OPEN_BETA, JAW_OPEN_MOST = 0.5, (1.0, 1.8), 0.85
BLINK_RATE, CLOSED_SHARE, WINK_SHARE = 0.38, 0.6, 0.12
"""How often the lids come down; of those, the share that closes fully, and the share of one eye alone."""
BROW_RAISE_RATE = 0.25
"""How often both brows go up as a whole; the inner and outer units then move together."""


def list_units(archive: Archive) -> dict[str, str]:
    """Face unit -> target file, sorted by name."""
    found = {PurePosixPath(name).name.split(".")[0]: name for name in archive.names(FACE_UNITS)}
    return {unit: name for unit, name in found.items() if not unit.startswith(UNUSED)}


def sample_units(units: list[str], count: int, seed: int) -> np.ndarray:
    """Weights of the face units for `count` expressions, `(count, len(units))` float32 in 0..1."""
    rng = np.random.default_rng(seed)
    column = {unit: i for i, unit in enumerate(units)}
    weights = np.zeros((count, len(units)), np.float32)
    for row in weights:
        if rng.random() >= NEUTRAL_RATE:
            for unit, value in _sample_one(rng).items():
                row[column[unit]] = max(float(row[column[unit]]), value)
    return weights


def _sample_one(rng: np.random.Generator) -> dict[str, float]:
    values: dict[str, float] = {}
    if rng.random() < JAW_OPEN_RATE:
        values["jawOpen"] = JAW_OPEN_MOST * rng.beta(*JAW_OPEN_BETA)
    for unit, (rate, a, b, jitter) in PAIRED.items():
        if rng.random() < rate:
            values |= _both_sides(unit, rng.beta(a, b), jitter, rng)
    for unit, (rate, a, b) in SINGLE.items():
        if rng.random() < rate:
            values[unit] = rng.beta(a, b)
    if rng.random() < BLINK_RATE:
        values = {unit: v for unit, v in values.items() if not unit.startswith(("eyeSquint", "eyeWide"))} | _lids(rng)
    if rng.random() < BROW_RAISE_RATE:
        size = rng.beta(1.3, 1.2)
        values |= {"browInnerUp": size, **_both_sides("browOuterUp", size, 0.12, rng)}
    elif rng.random() < 0.1:
        values["browInnerUp"] = rng.beta(1.0, 1.3)
    if rng.random() < 0.1:
        values["mouthClose"] = values.get("jawOpen", 0.0) * rng.random()
    return values


def _both_sides(unit: str, value: float, jitter: float, rng: np.random.Generator) -> dict[str, float]:
    left, right = np.clip(value + rng.normal(0.0, jitter, 2), 0.0, 1.0)
    return {f"{unit}Left": float(left), f"{unit}Right": float(right)}


def _lids(rng: np.random.Generator) -> dict[str, float]:
    closing = 1.0 if rng.random() < CLOSED_SHARE else rng.beta(1.2, 1.2)
    both = _both_sides("eyeBlink", closing, 0.04, rng)
    if rng.random() < WINK_SHARE:
        both["eyeBlinkLeft" if rng.random() < 0.5 else "eyeBlinkRight"] = 0.0
    return both
