"""The face factory: picture `index` of seed `seed` with its label, the same whenever it is asked for.

Every sample draws from a generator of its own, seeded by (seed, index); library items (skin maps, backgrounds) from
(seed, kind, item). The label is `params` (62,): row-major P (3, 4) in the picture's own crop frame (pixel centres
at integers, y down), then 40 shape and 10 expression coefficients. The rendered head is what they say, and what no
coefficients could say beside it (`residuals`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.face_model import load_face_model
from training.synthetic import accessories, materials, shading
from training.synthetic.appearance import (
    expression_cues,
    random_complexion,
    random_gaze,
    random_glint,
    random_paint,
    textured,
)
from training.synthetic.backgrounds import Backgrounds
from training.synthetic.camera import Camera, frame, random_distance, random_rotation, random_turn
from training.synthetic.dressing import Dressed, dress
from training.synthetic.environments import look_into
from training.synthetic.eyes import with_opening
from training.synthetic.fitted import GREY_LEVEL
from training.synthetic.hair import hair_color, random_hair, strands
from training.synthetic.head import HEAD_PATH, Head, load_head
from training.synthetic.held import hold_in_front
from training.synthetic.library import AssetLibrary, open_library
from training.synthetic.lighting import (
    Lights,
    filled_in,
    hard_lights,
    harmonics,
    irradiance,
    random_lights,
    view_rotation,
)
from training.synthetic.noise import chance, random_color, stream, uint8, uniform
from training.synthetic.person import random_person
from training.synthetic.photograph import develop
from training.synthetic.rasterizer import GeometryBuffer, draw, empty_buffer, rasterize
from training.synthetic.residuals import load_residual_modes
from training.synthetic.sheets import MASK_HEIGHT, MASK_WIDTH, Sheet
from training.synthetic.skin_maps import SkinMaps

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int32]

FACTORY_VERSION = 21
"""Goes up when the same (seed, index) gives other pixels or another label: part of every cache's key."""

_SUPERSAMPLING = 2.0
_SHADOW_SIZE, _SHADOW_REACH = 200, 190.0  # pixels; mm from the map's centre to its edge
_SHADOW_BIAS = 3.5  # mm
_WOMEN = 0.6  # share of faces: photographs that people label show more of them
_SMILES = 0.25  # share of expressions that are drawn from the smiles alone
_FILLED_IN = 0.75  # share of pictures, but those in hard light, with light from about where the camera is
_AWAKE = 0.5  # share of faces whose lids are set as those of people who look at something
_DROWSY, _HALF_SHUT = 0.12, 0.6  # share of faces that blink, look down or sleep; how far at most their eyes are open
_INDIVIDUAL = 3**0.5  # at most so much do heads depart from the face model: by 1 in the root mean square
_FIT_STRIDE = 7  # every 7th face vertex takes part in the label's fit


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture, uint8 (S, S, 3) BGR, and its label, float32 (62,)."""

    image: ByteArray
    params: FloatArray


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A posed head, ready to be drawn."""

    coefficients: FloatArray  # (50,)
    vertices: FloatArray  # (M, 3) with the shoulders turned
    normals: FloatArray
    camera: Camera


class FaceFactory:
    """Makes synthetic photographs of faces.

    Args:
        size: the picture's side in pixels.
        margin: the landmark-box rule's square is the central 1 / margin of the picture; the rest is for augmentation.
        seed: of everything.
        head_path: the head's file.
        assets: a folder of CC0 assets (see `library`): skins, eyes, light of photographs; None: all is made of noise.
    """

    def __init__(
        self, *, size: int = 160, margin: float = 1.25, seed: int = 0, head_path: Path = HEAD_PATH,
        assets: Path | None = None,
    ) -> None:  # fmt: skip
        """Reads the head and all assets; libraries of noise fill as samples ask for them."""
        self.size, self.margin, self.seed = size, margin, seed
        self._head = load_head(head_path)
        self._face_model = load_face_model()
        self._residuals = load_residual_modes(head_path)
        self._maps = SkinMaps(self._head, seed)
        self._backgrounds = Backgrounds(seed)
        self._library: AssetLibrary | None = None
        self._atlas = shading.NO_TEXELS, shading.NO_TABLE
        if assets is not None:
            self._library = open_library(assets, self._head)
            self._atlas = self._library.texels, self._library.table
            self._head = self._head.without("teeth", "tongue")  # the library has its own

    def sample(
        self, index: int, *, rotation: FloatArray | None = None, expression: FloatArray | None = None,
        opening: float | None = None, clear: bool = False,
    ) -> Sample:  # fmt: skip
        """Picture `index` (any non-negative integer).

        `rotation (3, 3)` turns its head otherwise, `expression (10,)` gives it another one, `opening` opens its eyes as
        far (1: as the mean face's, 0: shut), `clear` omits what could cover them; all else stays the same.
        """
        rng = stream(self.seed, 0, index)
        subject = self._subject(rng, rotation, expression, opening)
        lights, backdrop, before = self._surroundings(rng)
        light, cover, tones = self._render(rng, subject, lights, before, clear=clear)
        level = lights.level
        if backdrop is None:
            backdrop = self._backgrounds.sample(rng, self.size)
            backdrop *= np.float32(
                max(level, 0.05) * (uniform(rng, 0.4, 1.7) if chance(rng, 0.85) else uniform(rng, 0.02, 0.3))
            )
        picture = light + backdrop * (1 - cover[..., None])
        if chance(rng, 0.2) and not clear:
            points = self.landmarks(subject.vertices)
            seen = points @ subject.camera.pose[:2, :3].T + subject.camera.pose[:2, 3]
            for _ in range(1 if chance(rng, 0.7) else 2):
                hold_in_front(rng, picture, seen, *tones, level)
        edge = int(self.size * (1 - 1 / self.margin) / 2) + self.size // 8
        face = np.zeros(cover.shape, bool)
        face[edge:-edge, edge:-edge] = cover[edge:-edge, edge:-edge] > 0.5
        params = np.concatenate([subject.camera.pose.ravel(), subject.coefficients]).astype(np.float32)
        return Sample(image=develop(rng, picture, face), params=params)

    def landmarks(self, vertices: FloatArray) -> FloatArray:
        """The 68 landmarks (68, 3) of a head's vertices (M, 3)."""
        return self._face_model.at_landmarks(vertices[self._head.face_vertices])

    def _surroundings(
        self, rng: np.random.Generator
    ) -> tuple[Lights, FloatArray | None, Callable[[], FloatArray] | None]:
        """Light, and the background and what draws what lies before the face, where they come with it."""
        if self._library is None or chance(rng, 0.25):
            lights, seen, before = random_lights(rng), None, None
        elif chance(rng, 0.16):
            return hard_lights(rng), None, None
        else:
            lights, seen, before = look_into(rng, self._library.environment(rng), self.size)
        if chance(rng, _FILLED_IN):
            lights = filled_in(rng, lights)
        return lights, seen if seen is not None and chance(rng, 0.7) else None, before

    def _subject(
        self, rng: np.random.Generator, given: FloatArray | None, expression: FloatArray | None, opening: float | None
    ) -> _Subject:
        coefficients = _random_coefficients(rng, self._head)
        if expression is not None:
            coefficients[-len(expression) :] = expression
        if opening is not None:
            coefficients = with_opening(self._head, coefficients, opening)
        told = self._head.vertices(coefficients)
        vertices = told + uniform(rng, 0, _INDIVIDUAL) * self._random_residual(rng)
        drawn = random_rotation(rng)  # drawn even if not used: what is drawn after it stays the same
        rotation = drawn if given is None else given.astype(np.float32)
        vertices = _turn_shoulders(vertices, self._head.body, rotation, uniform(rng, 0, 0.8))
        camera = frame(
            rotation, random_distance(rng), random_turn(rng),
            self.landmarks(told), told[self._head.face_vertices[::_FIT_STRIDE]], size=self.size, margin=self.margin,
        )  # fmt: skip
        return _Subject(
            coefficients=coefficients, vertices=vertices, normals=self._head.normals(vertices), camera=camera
        )

    def _random_residual(self, rng: np.random.Generator) -> FloatArray:
        mix = rng.standard_normal(len(self._residuals), dtype=np.float32)
        return np.tensordot(mix, self._residuals, axes=1)

    def _render(
        self,
        rng: np.random.Generator,
        subject: _Subject,
        lights: Lights,
        before: Callable[[], FloatArray] | None,
        *,
        clear: bool,
    ) -> tuple[FloatArray, FloatArray, tuple[FloatArray, FloatArray]]:
        """Radiance (S, S, 3) premultiplied by coverage, coverage (S, S), and the tones (3,) of skin and hair."""
        head, camera = self._head, subject.camera
        carried = head.shell.carried(subject.vertices - head.mean)
        person = random_person(rng, *head.traits(subject.coefficients))
        complexion = random_complexion(rng)
        hair_tones = hair_color(rng, complexion.darkness)
        hatted, bespectacled = chance(rng, 0.13) and not clear, chance(rng, 0.2) and not clear
        worn = accessories.hat(rng, head, carried) if hatted else []
        veiled = any(sheet.look == accessories.LOOK_SCARF for sheet in worn)
        dressed = (
            Dressed()
            if self._library is None
            else dress(rng, self._library, head, subject.vertices, person, hatted=hatted, clear=clear)
        )
        sheets = dressed.sheets
        if not veiled and not dressed.hair and not clear:
            flat = hatted or dressed.hat
            sheets += random_hair(rng, head, carried, -camera.rotation[1], flat=flat, long=person.long_hair)
        if veiled or chance(rng, 0.93):
            worn.append(accessories.clothes(rng, head, subject.vertices, subject.normals, veiled=veiled))
        sheets += worn
        glasses = accessories.glasses(rng, head, subject.vertices) if bespectacled else None
        sheets += glasses.frame if glasses else []
        smile, raised = expression_cues(head, subject.vertices)
        paint = random_paint(rng, self._maps, complexion, hair_tones, person, smile=smile, raised=raised)
        if self._library is not None:
            paint = textured(rng, paint, self._library, person)
        if dressed.brows:
            paint.numbers[materials.BROWS] = 0.0
        paint = replace(paint, gaze=random_gaze(rng, camera.view), glint=random_glint(rng, camera.rotation))
        coefficients = _in_model_frame(lights, camera.rotation)
        scene, masks = _assemble(head, subject, sheets, coefficients, dressed.occlusion)
        key = _key_light(lights, camera.rotation, scene, masks, self._atlas)
        buffer = self._rasterize(scene, masks, camera)
        color, cover = shading.shade(
            buffer, scene, paint, _palette(rng, hair_tones, paint, self._library), key, camera.view
        )
        if glasses:
            self._draw_lenses(rng, glasses, camera, buffer, color, lights, before)
        size = (self.size, self.size)
        return (
            cv2.resize(color, size, interpolation=cv2.INTER_AREA),
            cv2.resize(cover, size, interpolation=cv2.INTER_AREA),
            (paint.colors[materials.C_SKIN], hair_tones.mean(axis=0)),
        )

    def _screen(self, points: FloatArray, camera: Camera) -> FloatArray:
        """Supersampled pixels: the pictures' outer edges, not their pixel centres, coincide."""
        screen = camera.project(points)
        screen[:, :2] = (screen[:, :2] + 0.5) * _SUPERSAMPLING - 0.5
        return screen

    def _rasterize(self, scene: shading.Scene, masks: ByteArray, camera: Camera) -> GeometryBuffer:
        buffer = empty_buffer(int(self.size * _SUPERSAMPLING))
        whole = camera.sees(scene.positions)[scene.triangles].all(axis=1, keepdims=True)
        triangles = scene.triangles * whole  # one that reaches behind the lens becomes a point, which is not drawn
        rasterize(
            self._screen(scene.positions, camera), triangles, scene.uv, scene.one_sided, scene.mask_of,
            scene.threshold, masks, scene.texture_of, *self._atlas, buffer.depth, buffer.triangle, buffer.weights,
        )  # fmt: skip
        return buffer

    def _draw_lenses(
        self, rng: np.random.Generator, glasses: accessories.Glasses, camera: Camera, buffer: GeometryBuffer,
        color: FloatArray, lights: Lights, before: Callable[[], FloatArray] | None,
    ) -> None:  # fmt: skip
        """Tints what is behind the lenses and adds their reflection, in place."""
        lens = GeometryBuffer(
            depth=buffer.depth.copy(), triangle=np.full_like(buffer.triangle, -1), weights=buffer.weights.copy()
        )
        draw(self._screen(glasses.lens_vertices, camera), glasses.lens_triangles, lens)
        through = lens.triangle >= 0
        sky = max(lights.level, 0.05) * glasses.mirror
        top, bottom = uniform(rng, 0.2, 1.8), uniform(rng, 0.2, 1.8)
        if before is not None:
            reflection = cv2.resize(before(), color.shape[1::-1]) * np.float32(glasses.mirror)
        else:
            row = np.linspace(top, bottom, len(color), dtype=np.float32)[:, None, None]
            reflection = (row * sky).astype(np.float32) * np.ones_like(color)
        # A lens beside the head shows the background, which is drawn later: there it can only reflect.
        color[through] = color[through] * glasses.tint + reflection[through]


def _random_coefficients(rng: np.random.Generator, head: Head) -> FloatArray:
    """Shape: one or two of the bank, jittered; expression: one of the bank, milder or stronger, lids set for some."""
    expressions = head.expression_samples
    male = head.identity_traits[:, 0] > 0.5
    shapes = head.identity_samples[male != chance(rng, _WOMEN)]
    shape = shapes[rng.integers(len(shapes))]
    if chance(rng, 0.4):
        t = uniform(rng, 0, 1)
        shape = (np.cos(t) * shape + np.sin(t) * shapes[rng.integers(len(shapes))]).astype(np.float32)
    shape = 0.9 * shape + 0.4 * rng.standard_normal(len(shape), dtype=np.float32)
    wide = head.smiles if chance(rng, _SMILES) else slice(None)
    expression = rng.choice(expressions[wide]) * uniform(rng, 0.6, 1.1)
    if chance(rng, 0.12):
        expression = expression * 0.2
    coefficients = np.concatenate([shape, expression]).astype(np.float32)
    lids = float(rng.random())
    if lids < _AWAKE:
        return with_opening(head, coefficients, uniform(rng, 0.75, 1.35))
    if lids < _AWAKE + _DROWSY:  # mostly shut
        return with_opening(head, coefficients, _HALF_SHUT * ((lids - _AWAKE) / _DROWSY) ** 2)
    return coefficients


def _turn_shoulders(vertices: FloatArray, weight: FloatArray, rotation: FloatArray, share: float) -> FloatArray:
    """Turns the body back towards upright and facing the camera by `share` of the head's rotation; the face stays."""
    inverse = rotation.T.astype(np.float64)
    angle = float(np.arccos(np.clip((np.trace(inverse) - 1) / 2, -1, 1)))
    axis = np.array([inverse[2, 1] - inverse[1, 2], inverse[0, 2] - inverse[2, 0], inverse[1, 0] - inverse[0, 1]])
    length = float(np.linalg.norm(axis))
    if length < 1e-6:
        return vertices
    axis = (axis / length).astype(np.float32)
    moving = weight > 0
    turn = (weight[moving] * min(angle * share, 1.1)).astype(np.float32)[:, None]
    pivot = np.array([0.0, -75.0, -60.0], np.float32)
    arm = vertices[moving] - pivot
    along = (arm @ axis)[:, None] * axis
    turned = vertices.copy()
    turned[moving] = (
        pivot + along + np.cos(turn) * (arm - along) + np.sin(turn) * np.cross(axis, arm).astype(np.float32)
    )
    return turned


def _in_model_frame(lights: Lights, rotation: FloatArray) -> FloatArray:
    """The lights' coefficients (9, 3) as the turned head sees them."""
    coefficients = np.zeros((9, 3), np.float32)
    coefficients[0] = lights.ambient / 0.282095
    return coefficients + harmonics(lights.directions @ rotation).T @ lights.colors


def _assemble(
    head: Head, subject: _Subject, sheets: list[Sheet], coefficients: FloatArray, occlusion: FloatArray | None
) -> tuple[shading.Scene, ByteArray]:
    """One scene of the head and everything on it, and the stack of masks that it refers to."""
    source = head.source
    light = head.transfer.irradiance @ coefficients * head.transfer.bounced
    if occlusion is not None:
        light *= occlusion[:, None]
    lips = float(subject.vertices[head.landmark_vertices[[48, 51, 54, 57]], 2].mean())
    light[head.inner] = _mouth_light(subject.vertices[head.inner], subject.normals[head.inner], coefficients, lips)
    masks = list({id(sheet.mask): sheet.mask for sheet in sheets if sheet.mask is not None}.values())
    number = {id(mask): k for k, mask in enumerate(masks)}
    starts = np.cumsum([len(source)] + [len(sheet.vertices) for sheet in sheets])
    counts = [len(head.triangles)] + [len(sheet.triangles) for sheet in sheets]

    def per_triangle(first: NDArray[np.generic], values: list[int], dtype: type) -> NDArray[np.generic]:
        return np.concatenate([first, np.repeat(np.array(values, dtype), counts[1:])]).astype(dtype)

    zeros = np.zeros(counts[0], np.uint8)
    scene = shading.Scene(
        positions=np.concatenate([subject.vertices[source]] + [sheet.vertices for sheet in sheets]),
        normals=np.concatenate([subject.normals[source]] + [sheet.normals for sheet in sheets]),
        irradiance=np.concatenate([light[source]] + [_soft_light(sheet, coefficients, lips) for sheet in sheets]).clip(
            0
        ),
        uv=np.concatenate([head.uv] + [sheet.uv for sheet in sheets]),
        frame=np.concatenate([head.surface_frame] + [sheet.strands for sheet in sheets]),
        triangles=np.concatenate([head.triangles] + [s.triangles + k for s, k in zip(sheets, starts, strict=False)]),
        material=per_triangle(head.materials, [sheet.material for sheet in sheets], np.uint8),
        look=per_triangle(zeros, [sheet.look for sheet in sheets], np.uint8),
        one_sided=per_triangle(zeros + 1, [sheet.one_sided for sheet in sheets], np.bool_),
        mask_of=per_triangle(zeros - 1.0, [number.get(id(sheet.mask), -1) for sheet in sheets], np.int32),
        threshold=per_triangle(zeros, [sheet.threshold for sheet in sheets], np.uint8),
        casts_shadow=per_triangle(zeros + 1, [sheet.casts_shadow for sheet in sheets], np.bool_),
        texture_of=per_triangle(zeros - 1.0, [sheet.texture for sheet in sheets], np.int32),
        base_uv=head.base_uv[source],
        seam_row=head.seam_uv[0],
        seam_uv=head.seam_uv[1],
    )
    return scene, np.stack(masks) if masks else np.zeros((1, 1, 1), np.uint8)


def _soft_light(sheet: Sheet, coefficients: FloatArray, lips: float) -> FloatArray:
    if sheet.look in (accessories.LOOK_TEETH, accessories.LOOK_TONGUE):
        return _mouth_light(sheet.vertices, sheet.normals, coefficients, lips)
    return sheet.light * irradiance(sheet.normals, coefficients).astype(np.float32)


def _mouth_light(vertices: FloatArray, normals: FloatArray, coefficients: FloatArray, lips: float) -> FloatArray:
    """The mean head's mouth is shut: inside, open-sky light that fades with the depth behind the lips (at z `lips`)."""
    fade = 0.9 * np.exp(-np.clip(lips - vertices[:, 2] - 4.0, 0, None) / 22.0)[:, None]
    return (fade * np.clip(irradiance(normals, coefficients), 0.1 * coefficients[0], None)).astype(np.float32)


def _key_light(
    lights: Lights, rotation: FloatArray, scene: shading.Scene, masks: ByteArray, atlas: tuple[ByteArray, IntArray]
) -> shading.KeyLight:
    """Draws the key light's shadow map."""
    direction = (lights.key_direction @ rotation).astype(np.float32)
    scale = _SHADOW_SIZE / (2 * _SHADOW_REACH)
    projection = np.zeros((3, 4), np.float32)
    projection[:, :3] = view_rotation(direction) * np.array([[scale], [scale], [1.0]])
    projection[:, 3] = [_SHADOW_SIZE / 2, _SHADOW_SIZE / 2, 0.0]
    projection[:2, 3] -= projection[:2, :3] @ np.array([0.0, 0.0, -40.0], np.float32)
    buffer = empty_buffer(_SHADOW_SIZE)
    if lights.key_color.max() > 0.05:
        screen = (scene.positions @ projection[:, :3].T + projection[:, 3]).astype(np.float32)
        casts = scene.casts_shadow
        rasterize(
            screen, scene.triangles[casts], scene.uv, np.zeros(casts.sum(), bool), scene.mask_of[casts],
            scene.threshold[casts], masks, scene.texture_of[casts], *atlas, buffer.depth, buffer.triangle,
            buffer.weights,
        )  # fmt: skip
    projection[2, 3] += _SHADOW_BIAS
    return shading.KeyLight(
        direction=direction,
        color=lights.key_color,
        projection=projection,
        depth=buffer.depth,
        softness=lights.shadow_softness,
        strength=lights.shadow_strength,
    )


def _palette(
    rng: np.random.Generator, hair_tones: FloatArray, paint: shading.SkinPaint, library: AssetLibrary | None
) -> shading.Palette:
    """Colours and patterns of hair, clothes, frames, hats and scarves."""
    colors = np.stack([np.stack([random_color(rng), random_color(rng)]) for _ in range(accessories.LOOKS)])
    colors[1:, 1] = np.where(rng.random((accessories.LOOKS - 1, 1)) < 0.6, colors[1:, 0] * 0.7, colors[1:, 1])
    colors[0] = hair_tones
    if chance(rng, 0.6):
        colors[accessories.LOOK_FRAME] = np.full(3, uniform(rng, 0.005, 0.06))
    patterns = [uint8(strands(rng, MASK_HEIGHT, MASK_WIDTH))]
    patterns += [accessories.pattern(rng) for _ in range(accessories.LOOKS - 1)]
    gloss = [uniform(rng, 0.01, 0.14), 0.02, uniform(rng, 0.1, 1.0), 0.03, 0.03]
    repeat = [[1, 1]] + [[uniform(rng, 1, 3), uniform(rng, 1, 3)] for _ in range(4)]
    if library is not None:
        tints = np.zeros((accessories.TEXTURED_LOOKS, 2, 3))
        hair = np.minimum(hair_tones.mean(axis=0) * uniform(rng, 0.7, 1.1), 0.6)
        felt = random_color(rng) * uniform(rng, 0.2, 1.0)
        teeth = paint.colors[materials.C_TEETH] * uniform(rng, 1.2, 2.0)
        tongue = np.array([uniform(rng, 0.5, 0.9), uniform(rng, 0.5, 0.9), uniform(rng, 0.7, 1.1)])
        brows = paint.colors[materials.BROWS]
        tints[:, 0] = [hair / GREY_LEVEL, brows / GREY_LEVEL, brows, teeth, tongue, felt / GREY_LEVEL]
        colors = np.concatenate([colors, tints])
        gloss += [gloss[0] * uniform(rng, 0.2, 1.0), 0.0, 0.0, 0.25, 0.15, 0.02]
        repeat += [[1, 1]] * accessories.TEXTURED_LOOKS
    return shading.Palette(
        colors=colors.astype(np.float32),
        patterns=np.stack(patterns),
        repeat=np.array(repeat, np.float32),
        gloss=np.array(gloss, np.float32),
        texels=shading.NO_TEXELS if library is None else library.texels,
        table=shading.NO_TABLE if library is None else library.table,
    )
