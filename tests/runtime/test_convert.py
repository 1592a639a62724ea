"""Small files of the layouts that the converter reads: 160 vertices, 45 shape and 12 expression modes."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from runtime import FileFormatError, InvalidInputError, load_face_model
from runtime.convert.command import convert, main
from runtime.convert.draft import write_model
from runtime.convert.ict import Topology, read_ict
from runtime.convert.plain_pickle import read_plain_pickle

SHAPES, EXPRESSIONS, HALF = 45, 12, 80
FLIP = np.array([-1.0, 1.0, 1.0])
LANDMARKS = np.concatenate([np.arange(34), np.arange(HALF, HALF + 34)])


def basel_source(shapes=SHAPES, expressions=EXPRESSIONS, seed=0):
    """A face in micrometres, symmetric about x = 0 and far from the origin, whose modes are even and odd by turns."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform([0.05, -1.2], [1.4, 1.2], (HALF, 2))
    half = np.stack([np.sin(angle[:, 0]), np.sin(angle[:, 1]), np.cos(angle[:, 0])], axis=1) * [70e3, 90e3, 60e3]
    half += [0, -12e3, 80e3]

    def modes(count, scale):
        signs = np.where(np.arange(count) % 3 == 2, -1.0, 1.0)
        part = rng.normal(0, scale, (count, HALF, 3))
        both = np.concatenate([part, part * FLIP * signs[:, None, None]], axis=1)
        return both.reshape(count, -1).T.astype(np.float32), signs

    shape, shape_signs = modes(shapes, 0.005)
    expression, expression_signs = modes(expressions, 500.0)
    return {
        "mean": np.concatenate([half, half * FLIP]).ravel(),
        "shape": shape,
        "expression": expression,
        "shape_sigma": np.linspace(5e5, 1e5, shapes),
        "expression_sigma": np.linspace(1.5, 0.3, expressions),
        "signs": np.concatenate([shape_signs[:40], expression_signs[:10]]),
        "triangles": np.array([[0, 1, 2], [HALF, HALF + 2, HALF + 1]]),
    }


def write_mat(folder, source):
    folder.mkdir(parents=True, exist_ok=True)
    third = source["mean"][:, None] / 3
    shape = {
        "mu_shape": source["mean"][:, None] - third,
        "w": source["shape"],
        "sigma": source["shape_sigma"][:, None],
        "tri": source["triangles"].T + 1,
        "keypoints": LANDMARKS[None] + 1,
    }
    expression = {"mu_exp": third, "w_exp": source["expression"], "sigma_exp": source["expression_sigma"][:, None]}
    savemat(folder / "Model_Shape.mat", shape)
    savemat(folder / "Model_Exp.mat", expression)
    return folder


def rows_of(vertices):
    return (3 * vertices[:, None] + np.arange(3)).ravel()


def write_arrays(folder, source):
    folder.mkdir()
    np.save(folder / "u_shp.npy", source["mean"][:, None])
    np.save(folder / "u_exp.npy", np.zeros_like(source["mean"])[:, None])
    np.save(folder / "w_shp_sim.npy", source["shape"][:, :40])
    np.save(folder / "w_exp_sim.npy", source["expression"][:, :10])
    np.save(folder / "keypoints_sim.npy", rows_of(LANDMARKS))
    std = np.concatenate([np.ones(12), source["shape_sigma"][:40], source["expression_sigma"][:10]])
    whitening = {"param_mean": np.zeros(62), "param_std": std}
    (folder / "param_whitening.pkl").write_bytes(pickle.dumps(whitening, protocol=2))
    (folder.parent / "visualize").mkdir()
    savemat(folder.parent / "visualize" / "tri.mat", {"tri": source["triangles"].T + 1})
    return folder


def write_packed(folder, source):
    folder.mkdir()
    content = {
        "u": source["mean"][:, None],
        "w_shp": source["shape"][:, :40],
        "w_exp": source["expression"][:, :10],
        "keypoints": rows_of(LANDMARKS),
        "tri": np.zeros((3, 1), int),  # belongs to another cut of the mesh: tri.pkl counts
    }
    std = np.concatenate([np.ones(12), source["shape_sigma"][:40], source["expression_sigma"][:10]])
    (folder / "bfm_noneck_v3.pkl").write_bytes(pickle.dumps(content))
    (folder / "tri.pkl").write_bytes(pickle.dumps(source["triangles"].T))
    (folder / "param_mean_std_62d_120x120.pkl").write_bytes(pickle.dumps({"mean": np.zeros(62), "std": std}))
    return folder / "bfm_noneck_v3.pkl"


@pytest.mark.parametrize("write", [write_mat, write_arrays, write_packed])
def test_each_basel_layout_decodes_as_its_source(tmp_path, write):
    source = basel_source()
    model = convert(write(tmp_path / "source", source), tmp_path / "model.safetensors")
    assert (model.shape_count, model.expression_count) == (40, 10) and not model.can_mirror
    rng = np.random.default_rng(1)
    shape = rng.normal(0, source["shape_sigma"][:40])
    expression = rng.normal(0, source["expression_sigma"][:10])
    flat = source["mean"] + source["shape"][:, :40] @ shape + source["expression"][:, :10] @ expression
    moved = model.vertices(model.unposed(np.concatenate([shape, expression]))) - flat.reshape(-1, 3) / 1000
    # One shift for all: the origin moved to the middle of the landmarks.
    assert np.abs(moved - moved[0]).max() < 1e-4
    points = model.at_landmarks(model.mean)
    assert np.abs(points.min(axis=0) + points.max(axis=0)).max() < 1e-3
    np.testing.assert_allclose(-moved[0], [float(v) for v in model.metadata["source_origin"].split()], atol=1e-4)
    np.testing.assert_allclose(model.shape_sigma, source["shape_sigma"][:40])
    np.testing.assert_array_equal(model.landmark_vertices, LANDMARKS)
    corners = model.mean[model.triangles].astype(np.float64)
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).sum(axis=0)
    assert area[2] > 0  # outwards, whichever way the source winds


def test_the_network_may_have_more_coefficients(tmp_path):
    folder = write_mat(tmp_path / "source", basel_source())
    model = convert(folder, tmp_path / "model.safetensors", shape_count=45, expression_count=12)
    assert model.num_params == 12 + 45 + 12
    with pytest.raises(FileFormatError, match=r"1\.\.45 shape"):
        convert(folder, tmp_path / "model.safetensors", shape_count=46)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Hostile()), "system"),
        (pickle.dumps({"u": Hostile()}), "system"),
        (pickle.dumps(np.array([None, 1], dtype=object)), "objects"),
        (pickle.dumps(np.arange(100.0))[:-40], "can't be read"),
        (b"", "can't be read"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "Latin-1"),
    ],
    ids=["code", "code inside", "objects", "truncated", "empty", "another codec"],
)
def test_a_pickle_of_more_than_arrays_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bfm.pkl").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        read_plain_pickle(tmp_path / "bfm.pkl")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_pickle_of_arrays_is_read(tmp_path, protocol):
    content = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "order": np.asfortranarray(np.eye(3)), "n": [1, "x"]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_plain_pickle(tmp_path / "a.pkl")
    np.testing.assert_array_equal(read["a"], content["a"])
    np.testing.assert_array_equal(read["order"], np.eye(3))
    assert read["n"] == [1, "x"]


def damage_nan(folder, source):
    write_mat(folder, {**source, "mean": source["mean"] * np.nan})


def damage_rows(folder, source):
    write_mat(folder, {**source, "shape": source["shape"][:-3]})


def damage_faces(folder, source):
    write_mat(folder, {**source, "triangles": source["triangles"] + 1000})


def damage_other(folder, source):
    write_mat(folder, source)
    (folder / "Model_Exp.mat").write_bytes(b"not a mat file" * 20)


def damage_missing(folder, source):
    write_mat(folder, source)
    (folder / "Model_Exp.mat").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nan, "finite"),
        (damage_rows, "480 rows"),
        (damage_faces, "among the 160 vertices"),
        (damage_other, "can't be read"),
        (damage_missing, r"Model_Exp\.mat.*found none"),
    ],
)
def test_bad_files_end_with_one_line(tmp_path, capsys, damage, message):
    damage(tmp_path / "source", basel_source())
    out = tmp_path / "model.safetensors"
    assert main(["convert", str(tmp_path / "source"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not out.exists()
    assert re.search(message, error)


def test_an_unknown_source_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="ICT-FaceKit"):
        convert(tmp_path, tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="check the path"):
        convert(tmp_path / "none", tmp_path / "model.safetensors")


SIDE = 13
SMALL = Topology(vertices=SIDE * SIDE, narrow=100, landmarks=tuple(range(50, 118)))


def write_obj(path, vertices, faces=(), uv=()):
    lines = ["mtllib x.mtl", *("v " + " ".join(map(repr, row)) for row in vertices.tolist())]
    lines += [f"vt {u} {v}" for u, v in uv]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}/1" for i in face) for face in faces]
    path.write_text("\n".join(lines) + "\n")


def write_ict(folder, identities=30, expressions=6, seed=0):
    """A grid of 13 x 13 vertices bent like a face, and one vertex beyond the face area."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-7, 7, SIDE), np.linspace(-9, 9, SIDE))
    grid = np.stack([x.ravel(), y.ravel() - 3, 11 - (x.ravel() / 4) ** 2], axis=1)
    neutral = np.concatenate([grid, [[0, 0, -9]]])
    corner = [row * SIDE + column for row in range(SIDE - 1) for column in range(SIDE - 1)]
    faces = [(i, i + 1, i + SIDE + 1, i + SIDE) for i in corner] + [(0, 1, SIDE * SIDE)]
    uv = np.stack([np.linspace(0.1, 1, len(neutral)), np.linspace(1, 0, len(neutral))], axis=1)
    write_obj(folder / "generic_neutral_mesh.obj", neutral, faces, uv)
    names = [f"identity{i:03d}" for i in range(identities)] + [f"smile{i}_L" for i in range(expressions)]
    moves = {name: rng.normal(0, 0.2, neutral.shape) for name in names}
    for name, move in moves.items():
        write_obj(folder / f"{name}.obj", neutral + move)
    return folder, neutral, moves


def test_ict_modes_are_symmetric_and_span_the_faces(tmp_path):
    folder, _, moves = write_ict(tmp_path / "FaceXModel")
    model = write_model(read_ict(folder, 60, 12, SMALL), tmp_path / "ict.safetensors")
    assert model.can_mirror and set(np.unique(model.shape_mirror)) == {-1, 1}
    assert len(model.triangles) == 2 * (SIDE - 1) ** 2 and model.uv[0] == pytest.approx([0.1, 1])
    for basis, sign in (
        (model.shape_basis, model.shape_mirror),
        (model.expression_basis, model.expression_mirror),
    ):
        assert np.abs(basis * FLIP - sign[:, None, None] * basis[:, model.mirror]).max() < 1e-2
        energy = (basis**2).sum(axis=(1, 2))
        assert (np.diff(energy) <= 1e-2 * energy[0]).all()
    # All 2 x 6 expression modes together hold each expression, and its mirror image, wholly.
    face = moves["smile0_L"][:-1] * 10
    flat = model.expression_basis.reshape(12, -1).astype(np.float64)
    for target in (face, (face * FLIP)[model.mirror]):
        left = target.ravel() - np.linalg.lstsq(flat.T, target.ravel(), rcond=None)[0] @ flat
        assert np.abs(left).max() < 1e-2 * np.abs(target).max()
    # An identity's shift is the pose's to make.
    assert np.abs(model.shape_basis.mean(axis=1)).max() < 1e-3
    again = write_model(read_ict(folder, 60, 12, SMALL), tmp_path / "again.safetensors")
    assert again.sha256 == model.sha256


def test_a_damaged_ict_folder_is_refused(tmp_path):
    folder, neutral, _ = write_ict(tmp_path / "ict", identities=2, expressions=1)
    with pytest.raises(FileFormatError, match="9409 vertices"):
        convert(folder, tmp_path / "ict.safetensors")  # the real topology is larger
    write_obj(folder / "identity001.obj", neutral[:40])
    with pytest.raises(FileFormatError, match="identity001"):
        read_ict(folder, 1, 1, SMALL)
    write_obj(folder / "generic_neutral_mesh.obj", neutral + np.random.default_rng(0).normal(0, 0.3, neutral.shape))
    with pytest.raises(FileFormatError, match="symmetric"):
        read_ict(folder, 1, 1, SMALL)
    for path in folder.glob("identity*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="identity"):
        read_ict(folder, 1, 1, SMALL)


def test_the_bundled_model_mirrors_and_says_so():
    assert load_face_model().can_mirror


def test_the_command_line(tmp_path, capsys):
    source = write_mat(tmp_path / "source", basel_source())
    out = Path(tmp_path / "model.safetensors")
    assert main(["convert", str(source), "--out", str(out), "--shape-count", "5", "--expression-count", "3"]) == 0
    assert "5 + 3" in capsys.readouterr().out
    assert load_face_model(out).num_params == 20


def test_the_module_is_the_command(tmp_path):
    command = [sys.executable, "-m", "runtime.face_model", "convert", str(tmp_path / "none"), "--out", "model"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2 and "check the path" in done.stderr and "Traceback" not in done.stderr
