"""Readers of faces with Basel labels: the converter's exactness, 300W-LP, AFLW2000-3D and 3DDFA's packed list."""

import dataclasses
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from runtime.convert.basel import COEFFICIENTS
from runtime.convert.command import convert
from runtime.convert.draft import ModelDraft, write_model
from runtime.convert.ict import read_ict
from runtime.errors import FileFormatError, InvalidInputError, MismatchError
from runtime.face_model import load_face_model
from runtime.image import read_image
from runtime.pose import euler_to_rotation
from runtime.roi import Roi
from tests.runtime.test_convert import LANDMARKS, SMALL, basel_source, write_ict, write_mat
from training.config import AugmentConfig, CLNConfig, LossConfig, StreamConfig
from training.crops import mirror_params
from training.data.basel_labels import BaselFrame, crop_params
from training.data.basel_samples import BaselSamples
from training.data.catalog import check, open_samples, report_skipped
from training.data.mat_faces import load_300w_lp, load_aflw2000_faces
from training.data.packed import load_packed
from training.decoder import Decoder
from training.learning.augment import augmented_crops
from training.learning.losses import FaceLoss
from training.model import CLN

REAL = Path(__file__).parents[3] / "shared" / "data"
SIDE = 200
SHAPES, EXPRESSIONS = 199, 29
SOURCE = basel_source(SHAPES, EXPRESSIONS)

needs_real_data = pytest.mark.skipif(
    not (REAL / "bfm68.npz").is_file(), reason="the real samples and the Basel basis are not in ../shared/data"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """All 199 + 29 modes, so that a converted label leaves nothing out."""
    folder = tmp_path_factory.mktemp("basel")
    return convert(write_mat(folder / "source", SOURCE), folder / "m", shape_count=SHAPES, expression_count=EXPRESSIONS)


def make_labels(seed):
    rng = np.random.default_rng(seed)
    pitch, yaw, roll = rng.normal(0, [0.2, 0.6, 0.2])
    pose = [pitch, yaw, roll, rng.uniform(90, 110), rng.uniform(90, 110), rng.normal(0, 50), 5e-4]
    return (
        np.array(pose),
        rng.normal(0, SOURCE["shape_sigma"] / 5),
        rng.normal(0, SOURCE["expression_sigma"]),
    )


def image_points(pose, shape, expression):
    """68 landmarks in Matlab's pixels, y down, by the published formula (y_image = H + 1 - V_y)."""
    flat = SOURCE["mean"] + SOURCE["shape"] @ shape + SOURCE["expression"] @ expression
    pitch, yaw, roll = np.degrees(pose[:3])
    points = pose[6] * flat.reshape(-1, 3)[LANDMARKS] @ euler_to_rotation(yaw, pitch, roll).T + pose[3:6]
    points[:, 1] = SIDE + 1 - points[:, 1]
    return points


def write_face(path, labels, *, seed=0, points="pt3d_68", image=None, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (SIDE // 8, SIDE // 8, 3), np.uint8)
    picture = cv2.resize(noise, (SIDE, SIDE)) if image is None else image
    cv2.imwrite(str(path.with_suffix(".jpg")), picture)
    pose, shape, expression = labels
    known = image_points(*labels).T
    content = {
        "Pose_Para": pose[None],
        "Shape_Para": shape[:, None],
        "Exp_Para": expression[:, None],
        points: known if points == "pt3d_68" else known[:2],
    }
    savemat(path.with_suffix(".mat"), content | changes)


def write_set(folder, count):
    for seed in range(count):
        write_face(folder / f"image{seed:05d}", make_labels(seed), seed=seed)
    return folder


def test_a_converted_label_gives_the_landmarks_back(tmp_path, model):
    faces = load_aflw2000_faces(write_set(tmp_path / "set", 5))
    samples = BaselSamples(faces, model, size=128, threads=1)
    images, params = samples.batch(np.arange(5))
    assert images.shape == (5, 128, 128, 3) and params.dtype == torch.float32
    for seed, row in enumerate(params.numpy()):
        truth = image_points(*make_labels(seed)) - [1, 1, 0]  # from 0
        np.testing.assert_allclose(faces.landmarks[seed], truth[:, :2], atol=1e-4)
        box = Roi.from_landmarks(truth)
        wide = Roi(center_x=box.center_x, center_y=box.center_y, side=box.side * 1.25)
        decoded = model.landmarks(row)
        expected = wide.to_crop(truth, 128)
        assert np.abs(decoded[:, :2] - expected[:, :2]).max() < 2e-3  # crop pixels, in float32
        depth = decoded[:, 2] - expected[:, 2]
        assert np.ptp(depth) < 2e-3 and row[11] == 0  # depth up to one shift: t_z is 0
        assert np.linalg.det(row[:12].reshape(3, 4)[:, :3]) < 0


@needs_real_data
def test_real_labels_convert_exactly(tmp_path):
    with np.load(REAL / "bfm68.npz") as file:
        basis = {key: file[key].astype(np.float64) for key in file.files}
    draft = ModelDraft(
        name="Basel's 68 points",
        license="research use",
        source="bfm68.npz",
        mean=basis["mean"] / 1000,
        shape_basis=(np.moveaxis(basis["shape_basis"], 2, 0) / 1000).astype(np.float32),
        expression_basis=(np.moveaxis(basis["expression_basis"], 2, 0) / 1000).astype(np.float32),
        shape_sigma=basis["whitening_std_120"][12:52],
        expression_sigma=basis["whitening_std_120"][52:],
        triangles=np.array([[30, 8, 16]]),
        landmark_vertices=np.arange(68),
        metadata={"coefficients": COEFFICIENTS},
    )
    model = write_model(draft, tmp_path / "bfm68.safetensors")
    faces = load_aflw2000_faces(REAL / "aflw2000_samples")
    frame = BaselFrame.of(model)
    params = frame.params(faces.labels)
    from_label, errors = [], []
    for image, row in zip(faces.images, params, strict=True):
        content = loadmat(image.with_suffix(".mat"))
        pose = content["Pose_Para"].astype(np.float64).ravel()
        flat = basis["mean"] + basis["shape_basis"] @ content["Shape_Para"][:40, 0]
        flat = flat + basis["expression_basis"] @ content["Exp_Para"][:10, 0]
        pitch, yaw, roll = np.degrees(pose[:3])
        points = pose[6] * flat @ euler_to_rotation(yaw, pitch, roll).T + pose[3:6]
        points[:, 1] = read_image(image).shape[0] + 1 - points[:, 1]
        decoded = model.landmarks(row.astype(np.float32))
        errors.append(np.abs(decoded[:, :2] + 1 - points[:, :2]).max())
        from_label.append(np.abs(decoded[:, :2] + 1 - content["pt3d_68"][:2].T).mean())
    assert len(errors) == 6
    assert max(errors) < 1e-3  # px: the conversion adds nothing to its formula
    assert np.mean(from_label) == pytest.approx(0.722, abs=0.01)  # px: what 40 + 10 modes leave out


@needs_real_data
def test_real_samples_are_complete_but_for_their_number():
    report = check(f"aflw2000:{REAL / 'aflw2000_samples'}", images=True)
    assert report.problems == ["6 of 2000 faces"] and report.found == ["6 faces"]


def test_a_flipped_label_is_the_mirrored_one(tmp_path, model):
    signs = np.where(np.arange(SHAPES) % 3 == 2, -1, 1), np.where(np.arange(EXPRESSIONS) % 3 == 2, -1, 1)
    for seed in range(4):
        pose, shape, expression = make_labels(seed)
        write_face(tmp_path / "AFW" / f"a{seed}", (pose, shape, expression), seed=seed, points="pt2d")
        mirrored = pose * [1, -1, -1, -1, 1, 1, 1] + [0, 0, 0, SIDE + 1, 0, 0, 0]
        image = read_image(tmp_path / "AFW" / f"a{seed}.jpg")[:, ::-1]
        labels = (mirrored, shape * signs[0], expression * signs[1])
        write_face(tmp_path / "AFW_Flip" / f"a{seed}", labels, points="pt2d", image=image)
    symmetric = dataclasses.replace(
        model, shape_mirror=signs[0].astype(np.float32), expression_mirror=signs[1].astype(np.float32)
    )
    faces = load_300w_lp(tmp_path)
    assert [path.parent.name for path in faces.images] == ["AFW"] * 4 + ["AFW_Flip"] * 4
    params = torch.from_numpy(BaselFrame.of(model).params(faces.labels).astype(np.float32))
    turned = mirror_params(params[:4], SIDE, Decoder(symmetric))
    torch.testing.assert_close(turned[:, :12], params[4:, :12], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(turned[:, 12:], params[4:, 12:], rtol=1e-5, atol=0)
    images, _ = BaselSamples(faces, model, size=96, threads=1).batch(np.arange(8))
    assert (images[:4].flip(2).float() - images[4:].float()).abs().mean() < 4  # JPEG's loss alone
    # The Basel model can't mirror: flips are taken from the set, and a mirrored label is not taken for a face.
    assert len(open_samples(f"300w-lp:{tmp_path}", model, size=96)) == 8
    assert len(open_samples(f"300w-lp:{tmp_path}", symmetric, size=96)) == 4
    assert mirror_params(params[:1], SIDE, Decoder(model))[:, 12:].isnan().all()
    landmarks = open_samples(f"300w-lp-landmarks:{tmp_path}", load_face_model(), size=96)
    assert len(landmarks) == 4  # any face model, one that can mirror


@pytest.fixture(scope="module")
def ict_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ict")
    return write_model(read_ict(write_ict(folder / "FaceXModel")[0], 40, 10, SMALL), folder / "model")


@pytest.mark.parametrize("kind", ["bundled", "ict"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(angles=st.tuples(*[st.floats(-80, 80)] * 3), scale=st.floats(0.2, 3), seed=st.integers(0, 1000))
def test_mirrored_params_are_the_mirrored_face(kind, ict_model, angles, scale, seed):
    model = load_face_model() if kind == "bundled" else ict_model
    rng = np.random.default_rng(seed)
    linear = scale * np.diag([1, -1, 1]) @ euler_to_rotation(*angles)
    pose = np.concatenate([linear, rng.uniform(0, SIDE, (3, 1)) * [[1], [1], [0]]], axis=1)
    params = np.concatenate([pose.ravel(), rng.normal(0, 1, model.num_params - 12)]).astype(np.float32)
    mirrored = mirror_params(torch.from_numpy(params)[None], SIDE, Decoder(model))[0].numpy()
    expected = model.vertices(params)[model.mirror] * [-1, 1, 1] + [SIDE - 1, 0, 0]
    assert np.abs(model.vertices(mirrored) - expected).max() < 0.02 * scale  # float16 bases: 0.02 mm at most


def test_a_damaged_image_in_the_middle_of_an_epoch_is_skipped_and_named(tmp_path, model):
    folder = write_set(tmp_path / "set", 3)
    faces = load_aflw2000_faces(folder)
    many = dataclasses.replace(faces, images=faces.images * 100, labels=faces.labels[np.tile(np.arange(3), 100)])
    data = many.images[1].read_bytes()
    bad, gone = tmp_path / "bad.jpg", tmp_path / "gone.jpg"
    bad.write_bytes(data[:200])
    many.images[4], many.images[5] = bad, gone
    samples = BaselSamples(many, model, size=64, threads=2)
    images, params = samples.batch(np.array([3, 4, 5, 6]))
    torch.testing.assert_close(images[1], images[3])  # sample 6 takes both places
    torch.testing.assert_close(params[2], params[3])
    samples.batch(np.array([4]))  # an epoch later: counted once
    lines = report_skipped(samples)
    assert lines[0] == "2 of 300 samples were skipped:" and "bad.jpg" in lines[1] and "gone.jpg" in lines[2]
    many.images[7] = many.images[8] = gone
    many.images[9] = tmp_path / "gone2.jpg"
    many.images[10] = tmp_path / "gone3.jpg"
    with pytest.raises(FileFormatError, match=r"4 of 300 .*more than 1%.*training\.data check"):
        samples.batch(np.arange(12))


def damage_nan(path):
    pose, shape, expression = make_labels(0)
    write_face(path, (pose, shape, expression), Shape_Para=np.full((199, 1), np.nan))


def damage_layout(path):
    write_face(path, make_labels(0), Pose_Para=np.zeros((1, 6)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nan, "Shape_Para holds NaN"),
        (damage_layout, "Pose_Para with 7 numbers"),
        (lambda path: path.with_suffix(".jpg").unlink(), "expected its image image00001"),
        (lambda path: path.with_suffix(".mat").write_bytes(b"junk" * 50), "can't be read"),
    ],
    ids=["nan", "layout", "no image", "junk"],
)
def test_bad_labels_are_named_by_the_check_and_too_many_stop_a_run(tmp_path, damage, message):
    folder = write_set(tmp_path / "set", 3)
    damage(folder / "image00001")
    with pytest.raises(FileFormatError, match=message):
        load_aflw2000_faces(folder)
    report = check(f"aflw2000:{folder}")
    assert len(report.problems) == 2 and message in report.problems[1]
    assert len(load_aflw2000_faces(folder, max_bad=0.5).images) == 2


def test_the_index_is_made_once_and_anew_after_a_change(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "set", 3)
    first = load_aflw2000_faces(folder)
    monkeypatch.setattr("training.data.mat_faces.load_mat", lambda path: pytest.fail("the index was not used"))
    again = load_aflw2000_faces(folder)
    assert again.images == first.images
    np.testing.assert_array_equal(again.labels.linear, first.labels.linear)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_face(folder / "image00002", make_labels(7))
    assert not np.array_equal(load_aflw2000_faces(folder).labels.shape, first.labels.shape)
    next((tmp_path / "cache" / "cln" / "index").iterdir()).write_bytes(b"damaged")
    assert len(load_aflw2000_faces(folder).images) == 3


def write_packed(folder, model, count=3):
    """Crops of 120 pixels of the made faces, labelled as 3DDFA's list is."""
    (folder / "train.configs").mkdir(parents=True)
    (folder / "train_aug_120x120").mkdir()
    rng = np.random.default_rng(3)
    mean, std = rng.normal(0, 1e-4, 62), np.concatenate([np.full(12, 1e-3), np.full(50, 2.0)])
    std[[3, 7, 11]] = 30.0
    rows = []
    for seed in range(count):
        pose, shape, expression = make_labels(seed)
        pitch, yaw, roll = np.degrees(pose[:3])
        scale = 120 / SIDE
        matrix = np.concatenate(
            [pose[6] * scale * euler_to_rotation(yaw, pitch, roll), pose[3:6, None] * scale], axis=1
        )
        rows.append((np.concatenate([matrix.ravel(), shape[:40], expression[:10]]) - mean) / std)
        image = np.full((120, 120, 3), 40 * seed, np.uint8)
        cv2.imwrite(str(folder / "train_aug_120x120" / f"{seed}.jpg"), image)
    configs = folder / "train.configs"
    (configs / "param_all_norm.pkl").write_bytes(pickle.dumps(np.array(rows, np.float32)))
    (configs / "param_whitening.pkl").write_bytes(pickle.dumps({"param_mean": mean, "param_std": std}))
    (configs / "train_aug_120x120.list.train").write_text("".join(f"{seed}.jpg\n" for seed in range(count)))
    return folder


def test_the_packed_list_says_the_same_as_the_mat_files(tmp_path):
    model = convert(write_mat(tmp_path / "source", SOURCE), tmp_path / "model")
    folder = write_packed(tmp_path / "packed", model)
    samples = open_samples(f"3ddfa:{folder}", model, size=96)
    images, params = samples.batch(np.arange(3))
    assert [int(image.float().mean().round()) for image in images] == [0, 40, 80]
    frame = BaselFrame.of(model)
    packed = frame.params(load_packed(folder).labels_of(np.arange(3)))
    from_mat = frame.params(load_aflw2000_faces(write_set(tmp_path / "set", 3)).labels)
    for row, mat, sample in zip(packed, from_mat, params.numpy(), strict=True):
        scaled = model.landmarks(mat)[:, :2] + 1  # Matlab's pixels scale about 0 here: the made crop is the image
        expected = scaled * 120 / SIDE
        expected[:, 1] += (120 + 1) - (SIDE + 1) * 120 / SIDE
        points = model.landmarks(row)
        assert np.abs(points[:, :2] + 1 - expected).max() < 1e-2
        box = Roi.from_landmarks(points)
        wide = Roi(center_x=box.center_x, center_y=box.center_y, side=box.side * 1.25)
        np.testing.assert_allclose(sample, crop_params(row, wide, 96), rtol=1e-5, atol=1e-4)
    assert not check(f"3ddfa:{folder}", images=True).problems
    (folder / "train_aug_120x120" / "1.jpg").unlink()
    assert "1.jpg: is missing" in check(f"3ddfa:{folder}").problems[0]
    (folder / "train.configs" / "train_aug_120x120.list.train").write_text("0.jpg\n")
    assert "list and array" in check(f"3ddfa:{folder}").problems[0]
    (folder / "train.configs" / "param_all_norm.pkl").unlink()
    assert "param_all_norm.pkl" in check(f"3ddfa:{folder}").problems[0]


def test_other_face_models_and_short_labels_are_refused(tmp_path, model):
    folder = write_packed(tmp_path / "packed", model)
    with pytest.raises(MismatchError, match="landmarks alone"):
        open_samples(f"3ddfa:{folder}", load_face_model(), size=96)
    with pytest.raises(InvalidInputError, match=r"199 \+ 29"):
        open_samples(f"3ddfa:{folder}", model, size=96).batch(np.arange(1))  # 40 + 10 in the list


def test_the_networks_output_follows_the_model(tmp_path):
    """One step of training with a converted model of 45 + 12 modes."""
    model = convert(write_mat(tmp_path / "source", SOURCE), tmp_path / "model", shape_count=45, expression_count=12)
    samples = open_samples(f"aflw2000:{write_set(tmp_path / 'set', 4)}", model, size=40)
    stream = StreamConfig(widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1))
    config = CLNConfig(
        input_size=32,
        global_stream=stream,
        local_stream=stream,
        fusion_width=16,
        heads=2,
        shape_count=model.shape_count,
        expression_count=model.expression_count,
    )
    images, params = samples.batch(np.arange(4))
    decoder, network = Decoder(model), CLN(config)
    unflipped = AugmentConfig(flip_probability=0.0)
    crops, truth = augmented_crops(images, params, decoder, 32, unflipped, torch.Generator().manual_seed(0))
    std = truth.std(dim=0)
    network.set_whitening(truth.mean(dim=0), torch.where(std < 1e-9, torch.zeros_like(std), std))
    assert network.eval()(crops).shape == (4, 12 + 45 + 12)
    whitened = network.train().head(network.features(crops).float())
    losses = FaceLoss(LossConfig(), decoder, 32)(whitened, truth, network.whiten, network.dewhiten)
    losses.total.backward()
    assert torch.isfinite(losses.total) and all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(("name", "shape"), [("pt3d_68", (68, 3)), ("pt2d", (68, 2)), ("Shape_Para", (1, 198))])
def test_a_matrix_is_not_its_transpose(tmp_path, name, shape):
    from training.data.mat_faces import read_labels

    write_face(tmp_path / "a.jpg", make_labels(1), points="pt2d" if name == "pt2d" else "pt3d_68")
    content = loadmat(tmp_path / "a.mat")
    savemat(tmp_path / "a.mat", {k: v for k, v in content.items() if k[0] != "_"} | {name: np.ones(shape)})
    with pytest.raises(FileFormatError, match=rf"{name} with .* got float64 \({shape[0]}, {shape[1]}\)"):
        read_labels(tmp_path / "a.mat")
