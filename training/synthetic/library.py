"""The asset library that `--assets DIR` names: skins, eyes, hair, brows, teeth, tongue, hats, and HDR environments.

DIR holds the files in their official layouts: MakeHuman's system assets (`skins/textures/*_diffuse*`, `hair/NAME/`,
...) in DIR itself, DIR/base or DIR/makehuman_cc0, and environments as DIR/hdri/*.hdr or DIR/hdri_cc0/*.hdr. All of it
is read and checked when the library is opened, so a bad file is named at once and not after an hour of rendering.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError
from runtime.face_model import load_face_model
from training.synthetic.asset_files import read_hdr, read_texture
from training.synthetic.environments import Environment, prepare
from training.synthetic.fitted import Atlas, Fitted, fit
from training.synthetic.head import Head, load_head
from training.synthetic.materials import EYE_REACH
from training.synthetic.shading import LINEAR

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

EYE_TEXELS = 128
_EYE_CENTER, _IRIS_RADIUS = (0.2925, 0.7030), 0.1135
"""Where MakeHuman's eye textures have an iris, in shares of their side."""
_FOLDERS = ("clothes/fedora*", "eyebrows", "eyelashes", "eyes", "hair", "skins", "teeth", "tongue")
_SKIN_SIDE, _EYE_SIDE = 1024, 512  # pixels: the originals are up to four times as large
_SUFFIXES = (".png", ".jpg", ".jpeg")
STAGES = ("young", "middleage", "old")
"""Of life, as skins are named."""


@dataclass(frozen=True, kw_only=True)
class Skin:
    """A skin texture (h, w, 3) for the base mesh's texture coordinates, and the face's mean colour (3,), linear BGR.

    Whose skin it is, as its file's name says: `young_lightskinned_female_diffuse.jpg`; None where it does not.
    """

    texture: ByteArray
    mean: FloatArray
    feminine: bool | None
    stage: str | None


@dataclass(frozen=True, kw_only=True)
class AssetLibrary:
    """What a folder of assets holds, ready to be drawn; `digest` names its contents."""

    digest: str
    skins: tuple[Skin, ...]
    eyes: ByteArray  # (K, EYE_TEXELS, EYE_TEXELS, 3) patches around the iris
    irises: FloatArray  # (K, 3) mean colours of the irises, linear BGR
    environments: tuple[Environment, ...]
    hair: tuple[Fitted, ...]
    hair_shares: FloatArray  # (len(hair),) how often each is worn: seldom if it hides the face
    hair_long: NDArray[np.bool_]  # (len(hair),) whether it reaches below the chin
    brows: tuple[Fitted, ...]  # from the thinnest to the thickest
    hats: tuple[Fitted, ...]
    hat_textures: tuple[int, ...]
    teeth: Fitted
    tongue: Fitted
    texels: ByteArray  # (S, 4), see fitted.Atlas
    table: NDArray[np.int32]  # (K, 3)

    def environment(self, rng: np.random.Generator) -> Environment:
        """Any of them."""
        return self.environments[int(rng.integers(len(self.environments)))]


def open_library(folder: str | os.PathLike[str], head: Head | None = None) -> AssetLibrary:
    """Reads everything.

    Raises:
        FileFormatError: The folder has another layout, or a file is missing or unusable: the message names it.
    """
    head = head or load_head()
    makehuman, environments = _find(Path(folder))
    digest = _digest(makehuman, environments)
    skins = [_skin(path, head) for path in _pictures(makehuman / "skins" / "textures", "*_diffuse*", "*special_suit*")]
    eyes = [_eye(path) for path in _pictures(makehuman / "eyes" / "materials", "*_eye*")]
    atlas = Atlas()

    def hair(path: Path) -> Fitted:
        texture = atlas.add(_only(path.parent, "*_diffuse*"), side=512, grey=True)
        return fit(path, head, texture=texture, inner=True, shades=True)

    def brow(path: Path) -> Fitted:
        return fit(path, head, texture=atlas.add(_only(path.parent, path.stem + ".*"), side=256, grey=True))

    brow_line = load_face_model().at_landmarks(head.mean[head.face_vertices])[17:27]

    def on_the_line(brows: Fitted) -> tuple[float, Fitted]:
        points, cover = brows.opaque(head.mean, atlas.alpha(brows.texture))
        return float(cover.sum()), brows.slid_up(head, _below_line(brow_line, points, cover))

    felt = [
        atlas.add(path, side=256, grey=True) for path in _pictures(makehuman / "clothes", "fedora*/materials/*fedora*")
    ]
    teeth = atlas.add(_only(makehuman / "teeth" / "materials", "teeth.*"), side=512, grey=False)
    tongue = atlas.add(_only(makehuman / "tongue" / "tongue01", "*_diffuse*"), side=256, grey=False, alpha=False)
    styles = [hair(path) for path in _bindings(makehuman / "hair")]
    drawn = [on_the_line(brow(path)) for path in _bindings(makehuman / "eyebrows")]
    fitted = {
        "hair": tuple(side for style in styles for side in (style, style.mirrored(head))),
        "brows": tuple(brows for _, brows in sorted(drawn, key=lambda pair: pair[0])),
        "hats": tuple(
            fit(path, head, texture=felt[0], shades=True) for path in _bindings(makehuman / "clothes", "fedora*")
        ),
    }
    texels, table = atlas.pack()
    features = head.landmark_vertices[17:]
    seen = np.array([style.occlusion[features].mean() for style in fitted["hair"]]) ** 4
    chin = float(head.landmarks[8, 1])
    return AssetLibrary(
        **fitted,
        hair_shares=(seen / seen.sum()).astype(np.float32),
        hair_long=np.array([style.vertices(head.mean)[:, 1].min() < chin for style in fitted["hair"]]),
        hat_textures=tuple(felt),
        teeth=fit(makehuman / "teeth" / "teeth_base" / "teeth_base.mhclo", head, texture=teeth),
        tongue=fit(makehuman / "tongue" / "tongue01" / "tongue01.mhclo", head, texture=tongue),
        texels=texels,
        table=table,
        digest=digest,
        skins=tuple(skins),
        eyes=np.stack([patch for patch, _ in eyes]),
        irises=np.stack([iris for _, iris in eyes]),
        environments=tuple(prepare(read_hdr(path)) for path in sorted(environments.glob("*.hdr"))),
    )


def assets_digest(folder: str | os.PathLike[str]) -> str:
    """Eight characters that name the contents of an asset folder: part of every cache's key.

    Raises:
        FileFormatError: As `open_library`, for the layout.
    """
    return _digest(*_find(Path(folder)))


def _find(folder: Path) -> tuple[Path, Path]:
    """The folders of MakeHuman's files and of the environments."""
    makehuman = [
        folder / name for name in ("makehuman_cc0", "base", "") if (folder / name / "skins" / "textures").is_dir()
    ]
    if not makehuman:
        raise FileFormatError(
            f"{folder}: expected MakeHuman's system assets (skins/textures, hair, ...) in it, in base/ or in "
            "makehuman_cc0/, got none; see docs/data.md for where to fetch them"
        )
    hdr = [folder / name for name in ("hdri_cc0", "hdri") if next((folder / name).glob("*.hdr"), None)]
    if not hdr:
        raise FileFormatError(f"{folder}: expected HDR environments as hdri/*.hdr or hdri_cc0/*.hdr, got none")
    return makehuman[0], hdr[0]


def _digest(makehuman: Path, environments: Path) -> str:
    total = hashlib.sha256()
    for root in (makehuman, environments):
        for path in sorted(_used(root)):
            total.update(path.relative_to(root).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:8]


def _used(root: Path) -> Iterator[Path]:
    """Files that can change a picture: not the readmes, nor materials and licences."""
    folders = [folder for name in _FOLDERS for folder in root.glob(name)] or [root]
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in (*_SUFFIXES, ".obj", ".mhclo", ".hdr"):
            yield path


def _pictures(folder: Path, *patterns: str) -> list[Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.suffix.lower() in _SUFFIXES}
    if not found:
        raise FileFormatError(
            f"{folder}: expected textures named {' or '.join(patterns)}, got none; fetch the assets again"
        )
    return sorted(found)


def _only(folder: Path, pattern: str) -> Path:
    return _pictures(folder, pattern)[0]


def _bindings(folder: Path, names: str = "*") -> list[Path]:
    found = sorted(folder.glob(f"{names}/*.mhclo"))
    if not found:
        raise FileFormatError(f"{folder}: expected {names}/NAME.mhclo, got none; fetch the assets again")
    return found


def _below_line(line: FloatArray, points: FloatArray, cover: FloatArray) -> float:
    """How many mm brows, points (K, 3) that count `cover` (K,), lie below the landmarks 17 to 26 of the mean face.

    MakeHuman's brows sit 6 to 10 mm below the line on which photographs' labels have them.
    """
    order = np.argsort(np.abs(line[:, 0]), kind="stable")
    height = np.interp(np.abs(points[:, 0]), np.abs(line[order, 0]), line[order, 1])
    return float(((height - points[:, 1]) * cover).sum() / cover.sum())


def linear(display: NDArray[np.generic]) -> FloatArray:
    """0..255 display values to linear light."""
    return LINEAR[np.asarray(display, np.uint8)]


def _at_most(texture: ByteArray, side: int) -> ByteArray:
    if max(texture.shape) <= side:
        return texture
    share = side / max(texture.shape)
    size = round(texture.shape[1] * share), round(texture.shape[0] * share)
    return np.asarray(cv2.resize(texture, size, interpolation=cv2.INTER_AREA))


def _skin(path: Path, head: Head) -> Skin:
    texture = _at_most(read_texture(path, alpha=False), _SKIN_SIDE)
    height, width = texture.shape[:2]
    face = head.base_uv[head.face_vertices]
    x = np.clip((face[:, 0] * width).astype(int), 0, width - 1)
    y = np.clip((face[:, 1] * height).astype(int), 0, height - 1)
    mean = np.median(linear(texture[y, x]), axis=0)
    if mean.min() < 0.002:
        raise FileFormatError(f"{path}: expected a skin texture, got one that is black where the face is")
    words = path.stem.split("_")
    return Skin(
        texture=texture,
        mean=mean.astype(np.float32),
        feminine="female" in words if {"female", "male"} & set(words) else None,
        stage=next((word for word in words if word in STAGES), None),
    )


def _eye(path: Path) -> tuple[ByteArray, FloatArray]:
    texture = _at_most(read_texture(path, alpha=False), _EYE_SIDE)
    side = np.array(texture.shape[1::-1])
    reach = 2 * EYE_REACH * _IRIS_RADIUS * side / EYE_TEXELS  # texels of the file per texel of the patch
    corner = np.array(_EYE_CENTER) * side - reach * EYE_TEXELS / 2
    place = np.array([[reach[0], 0, corner[0]], [0, reach[1], corner[1]]], np.float64)
    patch = cv2.warpAffine(
        texture, place, (EYE_TEXELS, EYE_TEXELS), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    line = (np.arange(EYE_TEXELS) + 0.5) / EYE_TEXELS * 2 * EYE_REACH - EYE_REACH
    radius = np.hypot(line[None], line[:, None])
    iris = linear(patch[(radius > 0.45) & (radius < 0.9)]).mean(axis=0)
    return patch, np.maximum(iris, 0.01).astype(np.float32)
