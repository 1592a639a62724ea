"""What a face looks like: skin tone and marks, lips, brows, beard, make-up, eyes, teeth. Colours are linear BGR."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.synthetic import materials as s
from training.synthetic.head import Head
from training.synthetic.library import AssetLibrary, Skin
from training.synthetic.noise import chance, rgb, uniform
from training.synthetic.person import Person
from training.synthetic.shading import NO_TEXTURE, SkinPaint
from training.synthetic.skin_maps import BEARDS, BROWS, FOLDS, LASHES, SKINS, SkinMaps

FloatArray = NDArray[np.float32]

_SKIN_TONES = np.stack([
    rgb(*tone) for tone in (
        (248, 226, 210), (244, 214, 192), (236, 198, 170), (226, 178, 146), (208, 156, 120), (190, 134, 98),
        (162, 108, 76), (132, 86, 60), (104, 68, 48), (80, 52, 39), (58, 39, 31),
    )
])  # fmt: skip
_REDDEST = 2.1  # linear red over green of skin under white light; what skins of the library are toned to stays below
_IRISES = ((58, 38, 26), (78, 50, 30), (100, 68, 40), (118, 102, 64), (92, 120, 92), (98, 130, 160), (132, 150, 164))
_IRIS_SHARES = (0.3, 0.25, 0.14, 0.09, 0.07, 0.09, 0.06)
_OTHER_STAGE, _ALIKE = 0.4, 4  # a cost beside the tone's logarithm, and how many skins compete


@dataclass(frozen=True, kw_only=True)
class Complexion:
    """The tone that other parts depend on: linear BGR, and 0 (lightest) to 1 (darkest)."""

    tone: FloatArray
    darkness: float


def random_complexion(rng: np.random.Generator) -> Complexion:
    """Over the whole human range, light and middle tones a little more often."""
    position = uniform(rng, 0, 10) if chance(rng, 0.65) else uniform(rng, 0, 5)
    low = min(int(position), 9)
    tone = _SKIN_TONES[low] + (_SKIN_TONES[low + 1] - _SKIN_TONES[low]) * (position - low)
    return Complexion(
        tone=np.clip(tone * (1 + rng.normal(0, 0.05, 3)), 0.01, 0.95).astype(np.float32), darkness=position / 10
    )


def random_paint(
    rng: np.random.Generator, maps: SkinMaps, complexion: Complexion, hair: FloatArray, person: Person, *,
    smile: float, raised: float,
) -> SkinPaint:  # fmt: skip
    """A person's paint; `smile` and `raised` (0..1) say how far the expression deepens cheek folds and forehead lines.

    Gaze and glint are left straight ahead; `random_gaze` and `random_glint` choose them when the pose is known.
    """
    detail, redness, spots, relief = maps.skin(int(rng.integers(SKINS)))
    folds, forehead = maps.folds(int(rng.integers(FOLDS)))
    numbers = np.zeros(s.NUMBERS, np.float32)
    age = float(np.clip(person.lined + rng.normal(0, 0.15), 0, 1))
    numbers[s.DETAIL] = uniform(rng, 0.1, 0.6)
    numbers[s.REDNESS] = uniform(rng, 0.1, 0.95)
    numbers[s.SPOTS] = uniform(rng, 0.2, 0.9) * (1 - 0.5 * complexion.darkness)
    numbers[s.RELIEF] = uniform(rng, 0.5, 3.0) * (0.3 + age)
    numbers[s.SMILE] = (0.3 + 1.8 * age) * uniform(rng, 0, 1) + 2.5 * smile * uniform(rng, 0.3, 1)
    numbers[s.FOREHEAD] = 2.0 * age * uniform(rng, 0, 1) + 2.5 * raised * uniform(rng, 0.2, 1)
    numbers[s.LIPS] = uniform(rng, 0.5, 1.0)
    numbers[s.EYE_AREA] = 0.5 * float(rng.random()) ** 1.7
    numbers[s.BROWS] = uniform(rng, 0.45, 0.95) if person.feminine else uniform(rng, 0.55, 1.0)
    numbers[s.LASHES] = uniform(rng, 0.5, 1.0)
    numbers[s.BEARD] = uniform(rng, 0.1, 0.95) if person.bearded else 0.0
    numbers[s.LIDS] = uniform(rng, 0.1, 0.7) * person.made_up if chance(rng, 0.6) else 0.0
    numbers[s.GLOSS] = 0.2 * float(rng.random()) ** 1.7 * (1 - 0.5 * complexion.darkness)
    numbers[s.SHININESS] = uniform(rng, 6, 36)
    numbers[s.SKIN_SHEEN] = uniform(rng, 0, 0.15)
    numbers[s.LIP_GLOSS] = uniform(rng, 0, 0.3)
    numbers[s.IRIS_COSINE] = np.cos(np.radians(uniform(rng, 25, 30)))
    numbers[s.PUPIL_COSINE] = np.cos(np.radians(uniform(rng, 8, 15)))
    numbers[s.EYE_SHADE] = uniform(rng, 0.2, 0.8)
    numbers[s.EYE_WET] = 0.1 * float(complexion.tone[1]) * float(rng.random()) ** 1.5
    numbers[s.GLINT] = uniform(rng, 0.5, 4) if chance(rng, 0.8) else 0.0
    numbers[s.GLINT_COSINE] = np.cos(np.radians(uniform(rng, 2, 7)))
    chosen = (
        redness, spots, *maps.fixed(), maps.beard(int(rng.integers(BEARDS))),
        maps.brows(int(rng.integers(BROWS))), maps.lashes(int(rng.integers(LASHES))), detail, relief, folds, forehead,
    )  # fmt: skip
    return SkinPaint(
        maps=maps.texels,
        boxes=maps.boxes,
        chosen=np.array(chosen, np.int32),
        colors=_colors(rng, complexion, hair, person),
        numbers=numbers,
        gaze=np.array([0, 0, 1], np.float32),
        glint=np.array([0, 0, 1], np.float32),
        texture=NO_TEXTURE,
        texture_gain=np.ones(3, np.float32),
        eye=NO_TEXTURE,
        eye_gain=np.ones((2, 3), np.float32),
    )


def textured(rng: np.random.Generator, paint: SkinPaint, library: AssetLibrary, person: Person) -> SkinPaint:
    """The same face with a skin and eyes of the library, tinted to its tone; painted marks are toned down."""
    tone = paint.colors[s.C_SKIN]
    skin = _skin_of(rng, library, tone, person)
    own = uniform(rng, 0.0, 0.6)  # how much of the photograph's own tone stays
    gain = (tone / skin.mean) ** (1 - own)
    gain = np.clip(gain.mean() + uniform(rng, 0.2, 0.8) * (gain - gain.mean()), 0.15, 2.5)
    gain[2] *= min(1.0, _REDDEST / float(skin.mean[2] * gain[2] / (skin.mean[1] * gain[1])))
    numbers, colors = paint.numbers.copy(), paint.colors.copy()
    colors[s.C_SKIN] = np.clip(skin.mean * gain, 0.005, 0.95)
    numbers[s.DETAIL] *= 0.6
    numbers[s.REDNESS] *= uniform(rng, 0, 0.5)
    numbers[s.SPOTS] *= uniform(rng, 0, 0.8)
    numbers[s.RELIEF] *= 0.7
    numbers[s.EYE_AREA] *= 0.5
    painted = min(person.made_up * uniform(rng, 0.6, 1.3), 1.0) if chance(rng, 0.85) else 0.0
    numbers[s.LIPS] = max(painted, uniform(rng, 0.2, 0.6) if person.feminine else uniform(rng, -0.2, 0.3), 0.0)
    red = min(uniform(rng, 0.25, 0.65), float(tone[2]) * uniform(rng, 0.8, 1.4))  # brighter, it would glow on dark skin
    dull = uniform(rng, 0.08, 0.4) if painted > 0 else uniform(rng, 0.3, 0.6)  # bare lips are pale red, not red
    colors[s.LIPS] = red * np.array([dull * uniform(rng, 0.8, 1.1), dull, 1.0])
    if person.made_up and chance(rng, 0.8):
        numbers[s.LASHES] = 1.0
        colors[s.LASHES] = uniform(rng, 0.002, 0.02)
        colors[s.LIDS] = tone * uniform(rng, 0.15, 0.8) if chance(rng, 0.7) else colors[s.LIDS]
        numbers[s.EYE_AREA] += uniform(rng, 0.0, 0.25) * person.made_up
    colors[s.BROWS] = colors[s.BROWS] * uniform(rng, 0.8, 1.6)
    numbers[s.GLOSS] *= uniform(rng, 0.5, 1.2)
    eye = int(rng.integers(len(library.eyes)))
    white = uniform(rng, 0.75, 1.15) * np.array([uniform(rng, 0.9, 1.05), 1.0, 1.0])
    white *= 0.55 + 0.45 * min(1.0, 4 * float(tone[1]))  # beside dark skin, which is exposed longer, it would glow
    return replace(
        paint,
        colors=colors,
        numbers=numbers,
        texture=skin.texture,
        texture_gain=gain.astype(np.float32),
        eye=library.eyes[eye],
        eye_gain=np.stack([np.clip(colors[s.C_IRIS] / library.irises[eye], 0.1, 6), white]).astype(np.float32),
    )


def _skin_of(rng: np.random.Generator, library: AssetLibrary, tone: FloatArray, person: Person) -> Skin:
    """A skin near to the tone, of somebody of the same sex and stage where the library has any."""
    skins = [skin for skin in library.skins if skin.feminine in (None, person.feminine)] or list(library.skins)
    costs = [
        abs(float(np.log(skin.mean[1] / tone[1]))) + _OTHER_STAGE * (skin.stage not in (None, person.stage))
        for skin in skins
    ]
    return skins[int(rng.choice(np.argsort(costs, kind="stable")[:_ALIKE]))]


def _colors(rng: np.random.Generator, complexion: Complexion, hair: FloatArray, person: Person) -> FloatArray:
    tone, hair_tone = complexion.tone, hair.mean(axis=0)
    colors = np.zeros((s.COLORS, 3), np.float32)
    colors[s.C_SKIN] = tone
    lips = tone * [uniform(rng, 0.45, 0.85), uniform(rng, 0.38, 0.75), uniform(rng, 0.72, 1.0)]
    if person.made_up:
        lips = np.array([uniform(rng, 0.03, 0.25), uniform(rng, 0.01, 0.12), uniform(rng, 0.2, 0.75)])
    colors[s.LIPS] = lips
    colors[s.BEARD] = hair_tone * uniform(rng, 0.6, 1.2)
    brow = np.minimum(hair_tone, tone * 0.5)  # fair and white hair still comes with visible brows
    colors[s.BROWS] = brow * uniform(rng, 0.35, 0.9)
    colors[s.EYE_AREA] = tone * [uniform(rng, 0.4, 0.8), uniform(rng, 0.3, 0.6), uniform(rng, 0.45, 0.75)]
    colors[s.LIDS] = np.clip(rng.random(3) ** 2 * 0.5, 0.01, 1)
    colors[s.LASHES] = np.full(3, uniform(rng, 0.004, 0.04)) + 0.1 * hair_tone
    colors[s.SPOTS] = tone * [0.25, 0.35, 0.55]
    colors[s.REDNESS] = tone * [0.52, 0.5, 1.0]
    white = uniform(rng, 0.35, 0.68)
    colors[s.C_SCLERA] = white * np.array([uniform(rng, 0.88, 1.0), 0.96, 1.0])
    iris = int(rng.choice(len(_IRISES), p=_IRIS_SHARES)) if chance(rng, 1 - complexion.darkness) else 0
    colors[s.C_IRIS] = rgb(*_IRISES[iris]) * uniform(rng, 0.6, 1.6)
    colors[s.C_TEETH] = uniform(rng, 0.6, 1.0) * np.array([uniform(rng, 0.68, 0.95), uniform(rng, 0.86, 0.97), 1.0])
    colors[s.C_FLESH] = np.array([0.10, 0.09, 0.34]) * uniform(rng, 0.5, 1.3)
    return colors


def random_gaze(rng: np.random.Generator, view: FloatArray) -> FloatArray:
    """Where the eyes look, a unit vector (3,) in the model frame: at the camera if it is within reach, or elsewhere."""
    gaze = np.array([rng.normal(0, 0.25), rng.normal(-0.05, 0.14), 1.0])
    if chance(rng, 0.6):
        at_camera = view / max(float(view[2]), 0.3)
        gaze = np.array([np.clip(at_camera[0], -0.65, 0.65), np.clip(at_camera[1], -0.45, 0.45), 1.0])
    return (gaze / np.linalg.norm(gaze)).astype(np.float32)


def random_glint(rng: np.random.Generator, rotation: FloatArray) -> FloatArray:
    """Where on an eye a window or lamp is mirrored to the camera: the normal there, a unit vector in the model frame.

    `rotation` (3, 3) turns the model into the camera's frame.
    """
    lamp = np.array([rng.normal(0, 0.5), abs(rng.normal(0.3, 0.35)), 1.0])
    middle = lamp / np.linalg.norm(lamp) + [0.0, 0.0, 1.0]
    return ((middle / np.linalg.norm(middle)) @ rotation).astype(np.float32)


def expression_cues(head: Head, vertices: FloatArray) -> tuple[float, float]:
    """(smile, raised brows), 0..1, read off the landmarks in mm against the mean head."""
    moved = vertices[head.landmark_vertices] - head.landmarks
    wider = moved[54, 0] - moved[48, 0]
    higher = (moved[[48, 54], 1] - moved[[51, 57], 1].mean()).mean()
    brows = moved[17:27, 1].mean() - moved[[36, 39, 42, 45], 1].mean()
    return float(np.clip((wider / 12 + higher / 9) / 2, 0, 1)), float(np.clip(brows / 8, 0, 1))
