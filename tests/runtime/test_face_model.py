from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from runtime import FileFormatError, InvalidInputError, load_face_model, safetensors
from runtime.pose import euler_to_rotation
from runtime.rasterizer import vertex_normals

BUNDLED = resources.files("runtime") / "assets" / "face_model.safetensors"
MODEL = load_face_model()
FLIP_X = np.array([-1, 1, 1], dtype=np.float32)


def make_params(count, seed=0):
    rng = np.random.default_rng(seed)
    params = rng.normal(size=(count, MODEL.num_params)).astype(np.float32)
    for row in params:
        pose = 0.6 * np.diag([1, -1, 1]) @ euler_to_rotation(*rng.uniform(-60, 60, size=3))
        row[:12] = np.hstack([pose, [[64], [70], [0]]]).ravel()
    return params


def test_the_bundled_model_is_the_one_the_design_asks_for():
    assert (MODEL.shape_count, MODEL.expression_count, MODEL.num_params) == (40, 10, 62)
    assert "CC0" in MODEL.license
    assert 100 < np.ptp(MODEL.mean[MODEL.landmark_vertices, 0]) < 180  # millimetres, jaw to jaw
    assert np.abs(MODEL.at_landmarks(MODEL.mean).mean(axis=0)).max() < 60  # the origin lies in the face


def test_decoding_is_the_formula():
    params = make_params(3)
    for row, vertices, landmarks in zip(params, MODEL.vertices(params), MODEL.landmarks(params), strict=True):
        pose, shape, expression = row[:12].reshape(3, 4), row[12:52], row[52:]
        model = MODEL.mean + np.tensordot(shape, MODEL.shape_basis, 1)
        model = model + np.tensordot(expression, MODEL.expression_basis, 1)
        expected = model @ pose[:, :3].T + pose[:, 3]
        assert np.abs(vertices - expected).max() < 1e-3
        assert np.abs(landmarks - MODEL.at_landmarks(expected)).max() < 1e-3


def test_coefficients_alone_are_the_face_in_the_model_frame():
    params = make_params(2)
    pose = params[:, :12].reshape(2, 3, 4)
    moved = MODEL.vertices(MODEL.unposed(params[:, 12:])) @ pose[:, :, :3].transpose(0, 2, 1) + pose[:, None, :, 3]
    assert np.abs(MODEL.vertices(params) - moved).max() < 1e-3
    assert np.array_equal(MODEL.unposed(params[0, 12:52])[52:], np.zeros(10))
    assert np.abs(MODEL.vertices(MODEL.unposed()) - MODEL.mean).max() < 1e-4
    with pytest.raises(InvalidInputError, match="coefficients: expected at most 50"):
        MODEL.unposed(params[0])


def test_one_face_is_a_batch_of_one_and_none_is_an_empty_batch():
    params = make_params(1)
    assert np.array_equal(MODEL.landmarks(params[0]), MODEL.landmarks(params)[0])
    assert MODEL.vertices(params[:0]).shape == (0, len(MODEL.mean), 3)


def test_the_model_is_symmetric_and_mirrored_coefficients_give_the_mirrored_face():
    assert np.array_equal(MODEL.mirror[MODEL.mirror], np.arange(len(MODEL.mirror)))
    assert np.abs(MODEL.mean * FLIP_X - MODEL.mean[MODEL.mirror]).max() < 1e-3
    for basis, sign in ((MODEL.shape_basis, MODEL.shape_mirror), (MODEL.expression_basis, MODEL.expression_mirror)):
        assert set(np.unique(sign)) <= {-1, 1}
        assert np.abs(basis * FLIP_X - sign[:, None, None] * basis[:, MODEL.mirror]).max() < 5e-3


def test_landmarks_lie_where_ibug_has_them():
    points = MODEL.at_landmarks(MODEL.mean)
    x, y, z = points.T
    assert (np.diff(x[:17]) > 0).all() and x[8] == pytest.approx(0, abs=0.5)  # jaw, subject's right to left
    assert y[8] == y.min() and z[30] == z.max()  # chin lowest, nose tip foremost
    assert (np.diff(y[27:31]) < 0).all() and np.abs(x[27:31]).max() < 0.5  # nose ridge, downwards
    assert y[17:27].min() > y[36:48].max()  # brows over eyes
    assert y[51] > y[62] >= y[66] > y[57]  # upper lip over the opening over the lower lip
    mirrored = np.r_[16:-1:-1, 26:16:-1, 27:31, 35:30:-1, 45:41:-1, 47, 46, 39:35:-1, 41, 40]
    assert np.abs(points[:48] * FLIP_X - points[mirrored]).max() < 0.5


def test_triangles_face_outwards():
    # A y-up frame turned y-down, as drawing has it.
    normals = vertex_normals(MODEL.mean * np.array([1, -1, 1], dtype=np.float32), MODEL.triangles)
    nose_and_chin = MODEL.landmark_vertices[[8, 28, 30, 57]]
    assert (normals[nose_and_chin, 2] > 0.1).all()
    assert normals[MODEL.landmark_vertices[1], 0] < 0 < normals[MODEL.landmark_vertices[15], 0]


@pytest.mark.parametrize("params", [np.zeros(61), np.zeros((1, 1, 62)), np.zeros(62, dtype=int), "x", None])
def test_what_are_no_params_is_refused(params):
    with pytest.raises(InvalidInputError, match=r"params: expected .*got"):
        MODEL.landmarks(params)


def test_a_damaged_face_model_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    asset = "runtime/assets/face_model.safetensors"
    tensors, metadata = safetensors.read(asset)

    def refused(changed, message, meta=metadata):
        safetensors.write(path, changed, meta)
        with pytest.raises(FileFormatError, match=message):
            load_face_model(path)

    refused(tensors, "format", metadata | {"format": "other"})
    refused({k: v for k, v in tensors.items() if k != "mean"}, "tensors")
    refused(tensors | {"mean": tensors["mean"][:-1]}, "shape_basis")
    refused(tensors | {"mean": tensors["mean"] * np.float32("nan")}, "NaN")
    refused(tensors | {"triangles": tensors["triangles"] + 1}, "vertices outside")
    refused(tensors | {"region": tensors["region"].astype(np.float32)}, "region")
    path.write_bytes(Path(asset).read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="truncated"):
        load_face_model(path)
    with pytest.raises(FileNotFoundError):
        load_face_model(tmp_path / "none")


def rewritten(path, *, version, **changes):
    """The bundled model's file with tensors replaced, or removed (None)."""
    tensors, metadata = safetensors.parse(BUNDLED.read_bytes(), name="bundled")
    tensors = {key: value for key, value in (tensors | changes).items() if value is not None}
    safetensors.write(path, tensors, metadata | {"version": version})
    return path


def test_landmarks_that_are_vertices_are_still_read(tmp_path):
    vertices = np.arange(100, 168, dtype=np.int32)
    path = rewritten(
        tmp_path / "old.safetensors", version="1",
        landmark_vertices=vertices, landmark_triangles=None, landmark_weights=None,
    )  # fmt: skip
    model, params = load_face_model(path), make_params(2)
    assert np.array_equal(model.landmark_vertices, vertices)
    np.testing.assert_allclose(model.landmarks(params), model.vertices(params)[:, vertices], atol=1e-3)


def test_weights_that_do_not_sum_to_one_are_refused(tmp_path):
    weights = MODEL.landmark_weights.copy()
    weights[7, 0] += 0.1
    with pytest.raises(FileFormatError, match="sum to 1 in each row"):
        load_face_model(
            rewritten(
                tmp_path / "bad.safetensors",
                version="2",
                landmark_vertices=None,
                landmark_triangles=MODEL.landmark_triangles,
                landmark_weights=weights,
            )
        )
