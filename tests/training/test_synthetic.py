"""The face factory: same picture whenever asked, and a label that says where the rendered face really is."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from runtime.camera import Camera
from runtime.face_model import load_face_model
from runtime.pose import decompose, euler_to_rotation, rotation_to_euler
from training.synthetic import camera as cameras
from training.synthetic import factory as factories
from training.synthetic.appearance import random_glint
from training.synthetic.factory import FaceFactory, Sample
from training.synthetic.head import Head, load_head
from training.synthetic.lighting import Lights, filled_in, harmonics, irradiance, random_lights
from training.synthetic.person import Person, random_person
from training.synthetic.rasterizer import draw, empty_buffer
from training.synthetic.residuals import RESIDUAL, residual_modes

SIZE, MARGIN = 160, 1.25


@pytest.fixture(scope="module")
def factory() -> FaceFactory:
    return FaceFactory(size=SIZE, margin=MARGIN, seed=7)


@pytest.fixture(scope="module")
def samples(factory: FaceFactory) -> list[Sample]:
    return [factory.sample(index) for index in range(60)]


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head()


def digest(sample: Sample) -> str:
    return hashlib.sha256(sample.image.tobytes() + sample.params.tobytes()).hexdigest()


def test_shapes_and_values(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.image.shape == (SIZE, SIZE, 3) and sample.image.dtype == np.uint8
        assert sample.params.shape == (62,) and sample.params.dtype == np.float32
        assert np.isfinite(sample.params).all() and sample.params[11] == 0.0  # t_z
        assert sample.image.std() > 4  # a picture, not a blank


def test_order_does_not_matter(samples: list[Sample]) -> None:
    fresh = FaceFactory(size=SIZE, margin=MARGIN, seed=7)
    for index in (41, 3, 17):  # backwards and forwards, with empty libraries
        assert digest(fresh.sample(index)) == digest(samples[index])
    assert digest(FaceFactory(size=SIZE, margin=MARGIN, seed=8).sample(3)) != digest(samples[3])


def test_process_does_not_matter(samples: list[Sample]) -> None:
    code = (
        "import hashlib; from training.synthetic.factory import FaceFactory; s = FaceFactory(seed=7).sample(5);"
        "print(hashlib.sha256(s.image.tobytes() + s.params.tobytes()).hexdigest())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == digest(samples[5])


def test_head_belongs_to_the_face_model(head: Head) -> None:
    model = load_face_model()
    assert head.file_sha256 == model.sha256
    np.testing.assert_array_equal(head.mean[head.face_vertices], model.mean)


def test_label_decodes_to_the_rendered_vertices(
    factory: FaceFactory, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the rasteriser was given, against FaceModel on the label: exact without perspective, close with it."""
    rendered = {}
    turns = []
    project = cameras.Camera.project

    def spy(self: cameras.Camera, points: np.ndarray) -> np.ndarray:
        screen = project(self, points)
        rendered.setdefault("screen", screen.copy())  # the first call draws the scene, head vertices first
        rendered["distance"], rendered["turn"] = self.distance, self.turn
        return screen

    monkeypatch.setattr(cameras.Camera, "project", spy)
    monkeypatch.setattr(factories, "_INDIVIDUAL", 0.0)
    model, face = load_face_model(), load_head().face_vertices
    worst = {True: 0.0, False: 0.0}
    for index in range(40):
        rendered.clear()
        params = factory.sample(index).params
        error = np.linalg.norm(rendered["screen"][face, :2] - model.vertices(params)[:, :2], axis=1)
        orthographic = not np.isfinite(rendered["distance"])
        turns.append(rendered["turn"])
        worst[orthographic] = max(worst[orthographic], float(error.max() if orthographic else error.mean()))
    assert 0 < worst[True] < 0.01
    assert sum(turn[2, 2] < 0.99 for turn in turns) > 20
    assert 0 < worst[False] < 6.0  # what no orthographic camera can follow, at arm's length


def test_heads_depart_from_the_face_model_by_what_no_label_could_say(head: Head) -> None:
    modes = residual_modes(head)[:, head.landmark_vertices]  # (K, 68, 3)
    assert np.sqrt((modes**2).sum(axis=(0, 2)).mean()) == pytest.approx(RESIDUAL, rel=1e-4)
    points = head.landmarks - head.landmarks.mean(axis=0)
    turns = [np.cross(axis, points) for axis in np.eye(3)]
    shifts = [np.tile(axis, (68, 1)) for axis in np.eye(3)]
    told = np.stack([*head.basis.reshape(50, -1, 3)[:40, head.landmark_vertices], *turns, *shifts, points])
    flat, left = told.reshape(47, -1), modes.reshape(len(modes), -1)
    ridge = np.diag([1.0] * 40 + [0.0] * 7)
    fitted = np.linalg.solve(flat @ flat.T + ridge, flat @ left.T).T @ flat
    assert (fitted**2).sum() < 0.2 * (left**2).sum()  # of a field as it is drawn, most


def test_the_label_of_a_head_is_that_of_the_one_without_departures(
    factory: FaceFactory, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factories, "_INDIVIDUAL", 0.0)
    plain = factory.sample(3)
    np.testing.assert_array_equal(plain.params, samples[3].params)
    assert 0.5 < np.abs(plain.image.astype(float) - samples[3].image).mean() < 20


def test_face_is_where_the_landmarks_are(factory: FaceFactory, samples: list[Sample]) -> None:
    """The landmark box is centred and as large as the framing says."""
    model = load_face_model()
    for sample in samples:
        points = model.landmarks(sample.params)[:, :2]
        low, high = points.min(axis=0), points.max(axis=0)
        np.testing.assert_allclose((low + high) / 2, (SIZE - 1) / 2, atol=0.05)
        assert np.sqrt(2) * (high - low).max() == pytest.approx(SIZE / MARGIN, abs=0.05)


def test_poses_cover_the_range(samples: list[Sample]) -> None:
    angles = np.array([rotation_to_euler(decompose(s.params[:12].reshape(3, 4))[1]) for s in samples])
    counts, _ = np.histogram(angles[:, 0], bins=6, range=(-90, 90))
    assert counts.min() >= 3  # ten each are expected
    assert np.abs(angles[:, 1]).max() > 20


def test_heads_in_profile_nod_and_hardly_tilt() -> None:
    rng = np.random.default_rng(0)
    rotations = np.stack([cameras.random_rotation(rng) for _ in range(4000)])
    profile = rotations[np.abs(rotations[:, 2, 2]) < np.sin(np.radians(10))]  # noses in the picture's plane
    tilt = np.degrees(np.arcsin(profile[:, 2, 1]))  # the top of the head towards the camera or away from it
    nod = np.degrees(np.arctan2(profile[:, 0, 1], profile[:, 1, 1]))  # in the picture's plane
    assert len(profile) > 250
    assert 1.4 * tilt.std() < nod.std()
    past = rotations[:, 2, 2] < -np.sin(np.radians(10))  # turned beyond profile: the middle of the face looks away
    assert 0.004 < past.mean() < 0.02


def test_faces_off_the_cameras_axis_are_seen_as_a_lens_sees_them() -> None:
    rng = np.random.default_rng(0)
    turns = [cameras.random_turn(rng) for _ in range(2000)]
    away = np.degrees(np.arccos([turn[2, 2] for turn in turns]))
    assert 8 < np.median(away) < 16 and 24 < away.max() < 33  # most photographs are not wider than 65 degrees
    points = rng.normal(0, 50, (80, 3)).astype(np.float32)
    rotation, turn = cameras.random_rotation(rng), turns[int(np.argmax(away))]
    camera = cameras.frame(rotation, 500.0, turn, points[:68], points[68:], size=SIZE, margin=MARGIN)
    focal = camera.scale * camera.distance
    center = camera.offset - focal * turn[:2, 2] / turn[2, 2] * [1, -1]
    lens = Camera(focal, focal, *center)  # turned away from the head, which stands before it unturned
    heads = (points @ rotation.T * [1, 1, -1] + [0, 0, camera.distance]) @ turn.T * [1, -1, 1]
    np.testing.assert_allclose(camera.project(points)[:, :2], lens.project(heads), atol=1e-3)


def test_what_lies_behind_the_lens_is_not_drawn() -> None:
    picture = (
        FaceFactory(size=64, seed=0).sample(3148).image
    )  # a near head, whose shoulder reaches behind a turned camera
    assert picture.std(axis=(0, 1)).min() > 20


def test_traits_are_read_off_the_shape(head: Head) -> None:
    read = np.array([head.traits(shape) for shape in head.identity_samples])
    for column in range(2):
        assert np.corrcoef(read[:, column], head.identity_traits[:, column])[0, 1] > 0.93


def test_looks_go_with_sex_and_age() -> None:
    rng = np.random.default_rng(0)
    women, men, girls = (
        [random_person(rng, *traits) for _ in range(300)] for traits in ((0.0, 0.5), (1.0, 0.5), (0.0, 0.25))
    )

    def share(people: list[Person], what: str) -> float:
        return float(np.mean([getattr(person, what) for person in people]))

    assert share(women, "feminine") > 0.85 and share(men, "feminine") < 0.15
    assert share(women, "long_hair") > 2 * share(men, "long_hair")
    assert share(men, "bearded") > 0.3 and not any(person.bearded and person.feminine for person in women + girls)
    assert np.mean([person.made_up > 0 for person in women]) > 2 * np.mean([person.made_up > 0 for person in girls])


def test_eyes_mirror_a_lamp_to_the_camera_however_the_head_is_turned() -> None:
    rotation = euler_to_rotation(60, 10, 0).astype(np.float32)
    glints = np.array([random_glint(np.random.default_rng(seed), rotation) for seed in range(50)])
    np.testing.assert_allclose(np.linalg.norm(glints, axis=1), 1, atol=1e-5)
    assert (glints @ rotation[2]).min() > 0.75  # half-way between the camera and a lamp beside or above it


def test_faces_are_lit_from_about_where_the_camera_is(head: Head) -> None:
    rng = np.random.default_rng(0)
    lights = [random_lights(rng) for _ in range(50)]
    filled = [filled_in(rng, light) for light in lights]
    towards, away = (np.array([[0, 0, side]], np.float32) for side in (1.0, -1.0))

    def level(light: Lights, normal: np.ndarray) -> float:
        soft = harmonics(light.directions).T @ light.colors
        return float(irradiance(normal, soft).mean())

    gains = [[level(b, side) - level(a, side) for side in (towards, away)] for a, b in zip(lights, filled, strict=True)]
    assert np.mean(gains, axis=0)[0] > 0.1 > abs(np.mean(gains, axis=0)[1])
    bounced = head.transfer.bounced[head.landmark_vertices, 0]
    assert bounced[39] > 1.1 > bounced[30] >= 1  # the eye's inner corner, and the tip of the nose


def test_expressions_open_mouths_and_close_eyes(samples: list[Sample], head: Head) -> None:
    points = np.stack([head.vertices(s.params[12:])[head.landmark_vertices] for s in samples])
    mouth = points[:, 62, 1] - points[:, 66, 1]
    eyes = (points[:, [37, 43], 1] - points[:, [41, 47], 1]).mean(axis=1)
    assert (mouth > 10).sum() >= 5 and (mouth < 4).sum() >= 5  # mm
    assert (eyes < 4).sum() >= 3 and (eyes > 7).sum() >= 10


def test_orthographic_fit_recovers_its_own_camera() -> None:
    rng = np.random.default_rng(0)
    points, true = rng.normal(0, 50, (80, 3)), cameras.random_rotation(rng).astype(np.float64)
    image = 1.3 * (points @ true.T)[:, :2] + [4.0, -7.0]
    start = euler_to_rotation(3, 4, -5) @ true
    scale, rotation, shift = cameras.fit_orthographic(points, image, start)
    np.testing.assert_allclose(scale, 1.3, rtol=1e-6)
    np.testing.assert_allclose(rotation, true, atol=1e-6)
    np.testing.assert_allclose(shift, [4.0, -7.0], atol=1e-5)


def test_rasterizer_draws_the_nearer_triangle() -> None:
    screen = np.array([[1, 1, 0], [7, 1, 0], [1, 7, 0], [1, 1, 5], [4, 1, 5], [1, 4, 5]], np.float32)
    triangles = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    for order in (triangles, triangles[::-1].copy()):
        buffer = empty_buffer(9)
        draw(screen, order, buffer)
        assert buffer.depth[2, 2] == 5 and buffer.depth[2, 5] == 0 and buffer.triangle[8, 8] == -1
