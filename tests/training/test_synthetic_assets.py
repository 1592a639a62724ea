"""Faces rendered with an asset folder: a tiny made-up one, so that nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.errors import FileFormatError
from runtime.face_model import load_face_model
from runtime.pose import decompose
from training.data.samples import SyntheticSamples, factory_version
from training.data.samples import main as fill_cache
from training.synthetic import environments
from training.synthetic.appearance import random_complexion, random_paint, textured
from training.synthetic.eyes import LOWER_LIDS, OPENINGS, UPPER_LIDS, eye_renders, with_opening
from training.synthetic.factory import FaceFactory, _random_coefficients
from training.synthetic.head import Head, load_head
from training.synthetic.library import open_library
from training.synthetic.lighting import harmonics, irradiance
from training.synthetic.person import Person
from training.synthetic.skin_maps import SkinMaps

SKIN = "makehuman_cc0/skins/textures/young_diffuse.png"
HAIR = "makehuman_cc0/hair/short/short"
WOMAN = Person(feminine=True, age=0.5, bearded=False, made_up=0.0, long_hair=True)


def picture(folder: Path, name: str, value: object, *, channels: int = 3, side: int = 16) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = np.full((side, side, channels), value, np.uint8)
    content[::2, ::2, :3] //= 2
    assert cv2.imwrite(str(path), content)


def bound_mesh(folder: Path, name: str, vertices: list[int], offset: float = 0.0) -> None:
    """A quad whose corners are bound to one base vertex each, `offset` decimetres in front of it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = "".join(f"v {k} 0 0\n" for k in range(4))
    path.with_suffix(".obj").write_text(corners + "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/3 4/4\n")
    rows = "".join(f"{v} {v} {v} 1 0 0 0 0 {offset}\n" for v in vertices)
    scales = "x_scale 5399 11998 1.4\ny_scale 791 881 2.3\nz_scale 962 5320 1.9\n"
    path.with_suffix(".mhclo").write_text(f"# made up\nobj_file {path.name}.obj\n{scales}verts 0\n{rows}")


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head()


@pytest.fixture
def assets(tmp_path: Path, head: Head) -> Path:
    folder = tmp_path / "assets"
    near = [int(v) for v in head.base_vertex[head.landmark_vertices] if v >= 0][:4]
    picture(folder, SKIN, (120, 150, 200), side=64)
    picture(folder, "makehuman_cc0/eyes/materials/brown_eye.png", (90, 90, 100, 255), channels=4, side=64)
    for name, diffuse in (
        (HAIR, f"{HAIR}_diffuse.png"),
        ("makehuman_cc0/eyebrows/brow/brow", "makehuman_cc0/eyebrows/brow/brow.png"),
        ("makehuman_cc0/clothes/fedora/fedora", "makehuman_cc0/clothes/fedora/materials/fedora.png"),
        ("makehuman_cc0/teeth/teeth_base/teeth_base", "makehuman_cc0/teeth/materials/teeth.png"),
    ):
        bound_mesh(folder, name, near, 0.5)
        picture(folder, diffuse, (80, 80, 80, 255), channels=4)
    bound_mesh(folder, "makehuman_cc0/tongue/tongue01/tongue01", near)
    picture(folder, "makehuman_cc0/tongue/tongue01/tongue01_diffuse.jpg", (120, 120, 220))
    light = np.ones((16, 32, 3), np.float32)
    light[4, 8] = 200.0
    (folder / "hdri_cc0").mkdir()
    assert cv2.imwrite(str(folder / "hdri_cc0/room.hdr"), light)
    return folder


def test_pictures_depend_on_seed_index_and_assets_alone(assets: Path) -> None:
    factory, again = (FaceFactory(size=64, seed=3, assets=assets) for _ in range(2))
    pictures = [factory.sample(index) for index in range(6)]
    for index in (5, 2, 0):
        repeated = again.sample(index)
        np.testing.assert_array_equal(repeated.image, pictures[index].image)
        np.testing.assert_array_equal(repeated.params, pictures[index].params)
    bare = FaceFactory(size=64, seed=3)
    assert all((bare.sample(index).image != pictures[index].image).any() for index in range(6))


def test_label_is_the_same_surface_with_assets(assets: Path) -> None:
    """The landmark box is where the framing says: hair and teeth must not change what is labelled."""
    model, factory = load_face_model(), FaceFactory(size=160, seed=3, assets=assets)
    for index in range(4):
        points = model.landmarks(factory.sample(index).params)[:, :2]
        np.testing.assert_allclose((points.min(axis=0) + points.max(axis=0)) / 2, 79.5, atol=0.05)


def test_bound_meshes_follow_identity_and_expression(assets: Path, head: Head) -> None:
    library = open_library(assets, head)
    coefficients = np.concatenate([head.identity_samples[1], head.expression_samples[2]]).astype(np.float32)
    vertices = head.vertices(coefficients)
    np.testing.assert_allclose(library.tongue.vertices(vertices), vertices[library.tongue.bound_to[:, 0]], atol=1e-4)
    hair = library.hair[0]
    ahead = hair.vertices(head.mean) - head.mean[hair.bound_to[:, 0]]  # half a decimetre along MakeHuman's z
    length = np.linalg.norm(ahead, axis=1)
    assert length.min() > 35 and length.max() < 65
    np.testing.assert_allclose(
        ahead[:, 1] / length, np.sin(np.radians(5.0)), atol=1e-3
    )  # its face looks up by 5 degrees


def test_brows_lie_on_the_line_of_the_landmarks_wherever_their_file_puts_them(assets: Path, head: Head) -> None:
    (brows,) = open_library(assets, head).brows
    points, cover = brows.opaque(head.mean, np.ones((4, 4), np.float32))
    line = load_face_model().at_landmarks(head.mean[head.face_vertices])[17:22]
    height = np.interp(-points[:, 0], -line[::-1, 0], line[::-1, 1])
    assert abs(((points[:, 1] - height) * cover).sum() / cover.sum()) < 3  # mm; where they are bound, it is far more


def test_what_slides_up_stays_as_far_above_the_skin(assets: Path, head: Head) -> None:
    hat = open_library(assets, head).hats[0]  # 50 mm before its four vertices: too far, so it comes down to 2 mm
    vertices = hat.slid_up(head, 12.0).vertices(head.mean)
    skin = head.mean[head.face_vertices]
    gaps = np.linalg.norm(vertices[:, None] - skin[None], axis=2).min(axis=1)
    np.testing.assert_allclose(vertices[:, 1] - hat.vertices(head.mean)[:, 1], 12.0, atol=3.0)
    assert gaps.max() < 8


def test_skins_go_with_whom_a_face_is_of(assets: Path, head: Head) -> None:
    for name in ("young_lightskinned_female", "old_lightskinned_female", "young_lightskinned_male"):
        picture(assets, f"makehuman_cc0/skins/textures/{name}_diffuse.png", (120, 150, 200), side=64)
    library = open_library(assets, head)
    assert [(skin.feminine, skin.stage) for skin in library.skins] == [
        (True, "old"), (None, "young"), (True, "young"), (False, "young"),
    ]  # fmt: skip
    paint = random_paint(
        np.random.default_rng(0), SkinMaps(head, 0), random_complexion(np.random.default_rng(0)),
        np.ones((2, 3), np.float32), WOMAN, smile=0, raised=0,
    )  # fmt: skip
    worn = {id(textured(np.random.default_rng(k), paint, library, WOMAN).texture) for k in range(40)}
    assert id(library.skins[3].texture) not in worn and id(library.skins[2].texture) in worn


def test_mirrored_hair_lies_on_the_other_side(assets: Path, head: Head) -> None:
    hair = open_library(assets, head).hair
    left, right = hair[0].vertices(head.mean), hair[1].vertices(head.mean)
    assert np.abs(left[:, 0]).max() > 1  # mm: it has a side
    np.testing.assert_allclose(right, left * [-1, 1, 1], atol=0.01)
    turned = np.cross(*(right[hair[1].triangles[0, k]] - right[hair[1].triangles[0, 0]] for k in (1, 2)))
    before = np.cross(*(left[hair[0].triangles[0, k]] - left[hair[0].triangles[0, 0]] for k in (1, 2)))
    assert turned[2] * before[2] > 0  # both still face outwards


def test_cache_key_names_the_assets(assets: Path, tmp_path: Path) -> None:
    before, bare = factory_version(assets), factory_version()
    assert before.startswith(bare) and before != bare
    (assets / "makehuman_cc0/README.md").write_text("of no consequence")
    cache = SyntheticSamples(2, tmp_path / "cache", assets=assets)
    picture(assets, SKIN, (100, 140, 210), side=64)
    changed = SyntheticSamples(2, tmp_path / "cache", assets=assets)
    assert cache.folder.name.startswith(before) and changed.folder != cache.folder


def with_nan(path: Path) -> None:
    path.write_text(path.read_text().replace(" 0 0 0 0.5", " 0 0 0 nan", 1))


def nan_light(path: Path) -> None:
    light = np.ones((8, 16, 3), np.float32)
    cv2.imwrite(str(path), light)
    path.write_bytes(path.read_bytes()[:60])


BAD: list[tuple[str, Callable[[Path], object], str, str]] = [
    # what is done to which file, the file that the error names, and what it says of it
    (SKIN, lambda p: p.write_bytes(b"no picture"), "young_diffuse.png", "decoded"),
    (SKIN, lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "diffuse.png", "git lfs pull"),
    (SKIN, lambda p: cv2.imwrite(str(p), np.zeros((8, 8), np.uint8)), "young_diffuse.png", "in colour"),
    (SKIN, lambda p: p.unlink(), "skins/textures", "got none"),
    (f"{HAIR}_diffuse.png", lambda p: p.unlink(), "hair/short", "_diffuse"),
    (f"{HAIR}_diffuse.png", lambda p: picture(p.parent, p.name, 90), "short_diffuse.png", "alpha channel"),
    (f"{HAIR}_diffuse.png", lambda p: picture(p.parent, p.name, 0, channels=4), "short_diffuse.png", "alpha 0"),
    (f"{HAIR}.mhclo", with_nan, "short.mhclo", "NaN"),
    (f"{HAIR}.mhclo", lambda p: p.write_text(p.read_text().replace("x_scale", "w_scale")), "short.mhclo", "x_scale"),
    (f"{HAIR}.mhclo", lambda p: p.write_text(p.read_text() + "99999 1 1 1 0 0 0 0 0\n"), "short.mhclo", "99999"),
    (f"{HAIR}.mhclo", lambda p: p.write_text(p.read_text() + "1 1 1 1 0 0 0 0 0\n"), "short.mhclo", "got 5"),
    (f"{HAIR}.obj", lambda p: p.write_text("v 0 0 x\n"), "short.obj", "line 1"),
    (f"{HAIR}.obj", lambda p: p.write_bytes(b""), "short.obj", "empty"),
    ("hdri_cc0/room.hdr", nan_light, "room.hdr", "cannot be read"),
    ("hdri_cc0/room.hdr", lambda p: cv2.imwrite(str(p), np.ones((8, 8, 3), np.float32)), "room.hdr", "twice as wide"),
    ("hdri_cc0/room.hdr", lambda p: cv2.imwrite(str(p), np.zeros((8, 16, 3), np.float32)), "room.hdr", "no light"),
    ("hdri_cc0/room.hdr", lambda p: p.unlink(), "assets", "HDR"),
]


@pytest.mark.parametrize(("file", "spoil", "named", "says"), BAD)
def test_bad_assets_are_named(
    assets: Path, head: Head, file: str, spoil: Callable[[Path], object], named: str, says: str
) -> None:
    spoil(assets / file)
    with pytest.raises(FileFormatError) as caught:
        open_library(assets, head)
    message = str(caught.value)
    assert named in message and says in message and "\n" not in message


def test_command_line_names_another_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill_cache(["synthetic:2:" + str(tmp_path / "cache"), "--assets", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and str(tmp_path) in lines[0] and "skins/textures" in lines[0]


def test_environment_keeps_its_light() -> None:
    """Key and soft light together are the picture's; a uniform one lights every normal alike, at its own brightness."""
    normals = np.eye(3, dtype=np.float32)
    uniform = environments.prepare(np.full((64, 128, 3), 7.0, np.float32))
    soft = harmonics(uniform.directions).T @ uniform.colors
    np.testing.assert_allclose(irradiance(normals, soft), 1.0, atol=0.03)
    assert uniform.key_color.max() < 1e-3
    sun = np.ones((64, 128, 3), np.float32)
    sun[16, 96] = 5000.0  # half-way up, a quarter turn to the right of the middle, which looks along -z
    lit = environments.prepare(sun)
    np.testing.assert_allclose(lit.key_direction, [np.sqrt(0.5), np.sqrt(0.5), 0.0], atol=0.05)
    total = lit.colors.sum(axis=0) + np.pi * lit.key_color
    np.testing.assert_allclose(total, 4 * np.pi, rtol=0.03)


def test_eyes_open_as_told_and_the_mouth_stays(head: Head) -> None:
    upper, lower = head.landmark_vertices[list(UPPER_LIDS)], head.landmark_vertices[list(LOWER_LIDS)]
    rest = (head.mean[upper] - head.mean[lower])[:, 1].mean()
    for index in range(5):
        drawn = np.concatenate([head.identity_samples[index], head.expression_samples[index]]).astype(np.float32)
        before = head.vertices(drawn)
        for opening in OPENINGS.values():
            after = head.vertices(with_opening(head, drawn, opening))
            gap = (after[upper] - after[lower])[:, 1].mean()
            assert gap == pytest.approx(rest * opening, abs=0.01)
            moved = np.linalg.norm((after - before)[head.landmark_vertices[48:]], axis=1)
            assert moved.max() < 2.0  # mm


def test_one_face_in_eight_has_its_eyes_shut(head: Head) -> None:
    upper, lower = head.landmark_vertices[list(UPPER_LIDS)], head.landmark_vertices[list(LOWER_LIDS)]
    rng, faces = np.random.default_rng(0), [head.mean]
    faces += [head.vertices(_random_coefficients(rng, head)) for _ in range(400)]
    gaps = np.array([(face[upper] - face[lower])[:, 1].mean() for face in faces])
    opening = gaps[1:] / gaps[0]
    assert 0.09 < (opening < 0.25).mean() < 0.16
    assert (opening > 0.7).mean() > 0.75


def test_eye_renders_have_the_truth_in_their_labels() -> None:
    model = load_face_model()
    ratios: dict[str, list[float]] = {name: [] for name in OPENINGS}
    for sample, name in eye_renders(FaceFactory(size=48, seed=1), 6):  # picture 5 looks away from the camera
        assert decompose(sample.params[:12])[1][2, 2] > 0
        points = model.at_landmarks(model.vertices(model.unposed(sample.params[12:])))
        tall = np.abs(points[[37, 38, 43, 44], 1] - points[[41, 40, 47, 46], 1]).mean()
        ratios[name].append(float(tall / np.abs(points[[39, 45], 0] - points[[36, 42], 0]).mean()))
    assert max(ratios["closed"]) < min(ratios["half"]) and max(ratios["half"]) < min(ratios["open"])
