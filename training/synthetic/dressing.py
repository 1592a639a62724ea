"""Chooses what of the asset library a face wears: hair, brows, a hat, and teeth and tongue when its mouth is open."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from training.synthetic.accessories import LOOK_BROWS, LOOK_CARDS, LOOK_FELT, LOOK_TEETH, LOOK_TONGUE
from training.synthetic.fitted import Waves
from training.synthetic.head import Head
from training.synthetic.library import AssetLibrary
from training.synthetic.materials import CLOTH, FLESH, HAIR, TEETH
from training.synthetic.noise import chance, uniform
from training.synthetic.person import Person
from training.synthetic.sheets import Sheet

FloatArray = NDArray[np.float32]

_CLEAR = 0.97  # share of the sky that hair may leave to eyes which it does not cover
_OPEN_MOUTH = 1.2  # mm between the inner lips from which one sees in
_BROWS_LOWER = (-0.5, 3.0)  # mm below the landmarks' line
_UNUSUAL = 0.03  # how often hair of the other length than a person wears comes up, beside 1


@dataclass(kw_only=True)
class Dressed:
    """Sheets of the library on a face, which kinds are among them, and the soft light (M,) they leave to the head."""

    sheets: list[Sheet] = field(default_factory=list)
    hair: bool = False
    brows: bool = False
    hat: bool = False
    occlusion: FloatArray | None = None


def dress(
    rng: np.random.Generator,
    library: AssetLibrary,
    head: Head,
    vertices: FloatArray,
    person: Person,
    *,
    hatted: bool,
    clear: bool = False,
) -> Dressed:
    """What a person whose head has these vertices (M, 3) wears; `hatted`: another hat is on it already.

    `clear`: nothing that could cover the eyes.
    """
    dressed = Dressed()
    if not hatted and chance(rng, 0.05) and not clear:
        hat = library.hats[int(rng.integers(len(library.hats)))]
        felt = library.hat_textures[int(rng.integers(len(library.hat_textures)))]
        dressed.sheets.append(hat.sheet(vertices, material=CLOTH, look=LOOK_FELT, texture=felt))
        dressed.hat, dressed.occlusion = True, hat.occlusion
    if not hatted and not dressed.hat and chance(rng, 0.6 if person.long_hair else 0.84):
        worn = library.hair_shares * np.where(library.hair_long == person.long_hair, 1.0, _UNUSUAL)
        hair = library.hair[int(rng.choice(len(library.hair), p=worn / worn.sum()))]
        if clear and hair.occlusion[head.landmark_vertices[36:48]].min() < _CLEAR:
            hair = max(library.hair, key=lambda style: float(style.occlusion[head.landmark_vertices[36:48]].min()))
        waves = Waves(
            lift=uniform(rng, 0, 6) ** 2 / 6, swing=uniform(rng, 0, 14) if chance(rng, 0.5) else 0.0,
            period=uniform(rng, 25, 90), phase=uniform(rng, 0, 6.3),
        )  # fmt: skip
        dressed.sheets.append(
            hair.sheet(vertices, material=HAIR, look=LOOK_CARDS, round_about=head.shell.center, waves=waves)
        )
        dressed.hair, dressed.occlusion = True, hair.occlusion
    if chance(rng, 0.7):
        thirds = -(-len(library.brows) // 3)  # women's are not of the thickest third, men's not of the thinnest
        chosen = (library.brows[:-thirds] if person.feminine else library.brows[thirds:]) or library.brows
        brows = chosen[int(rng.integers(len(chosen)))]
        sheet = brows.sheet(vertices, material=HAIR, look=LOOK_BROWS, casts_shadow=False, raised=0.5)
        lower = np.array([0.0, uniform(rng, *_BROWS_LOWER), 0.0], np.float32)
        dressed.sheets.append(replace(sheet, vertices=sheet.vertices - lower))
        dressed.brows = True
    inner = vertices[head.landmark_vertices[[62, 66]], 1]
    if inner[0] - inner[1] > _OPEN_MOUTH:
        dressed.sheets.append(library.teeth.sheet(vertices, material=TEETH, look=LOOK_TEETH, casts_shadow=False))
        dressed.sheets.append(library.tongue.sheet(vertices, material=FLESH, look=LOOK_TONGUE, casts_shadow=False))
    return dressed
