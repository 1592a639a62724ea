import dataclasses

import numpy as np
import pytest

from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel
from runtime.pose import decompose, euler_to_rotation, rotation_to_euler
from training.evaluation.fitting import fit_params
from training.evaluation.metrics import nme


def posed(params: np.ndarray, yaw: float, pitch: float, roll: float, scale: float = 2.0) -> np.ndarray:
    """The same face turned otherwise, `scale` px per mm, far from the origin."""
    pose = np.zeros((3, 4))
    pose[:, :3] = scale * np.diag([1.0, -1.0, 1.0]) @ euler_to_rotation(yaw, pitch, roll)
    pose[:, 3] = [900.0, 500.0, 40.0]
    return np.concatenate([pose.ravel(), params[12:]]).astype(np.float32)


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"),
    [(0.0, 0.0, 0.0), (-30.0, 20.0, -15.0), (88.0, -10.0, 5.0), (-75.0, 35.0, 30.0), (10.0, 0.0, 170.0)],
    ids=["frontal", "turned", "profile", "up and aside", "upside down"],
)
def test_a_face_of_the_model_is_found_again(face_model: FaceModel, make_params, yaw, pitch, roll) -> None:
    truth = posed(make_params(1)[0], yaw, pitch, roll)
    points = face_model.landmarks(truth)
    params = fit_params(face_model, points)
    error = nme(face_model.landmarks(params)[None], points[None])[0]
    stiff = fit_params(face_model, points, form=False)
    assert error < 0.15 < nme(face_model.landmarks(stiff)[None], points[None])[0]
    assert not stiff[12:].any() and params[11] == 0.0
    scale, rotation, _ = decompose(params[:12].reshape(3, 4))
    assert scale == pytest.approx(2.0, rel=0.02)
    np.testing.assert_allclose(rotation, euler_to_rotation(yaw, pitch, roll), atol=0.04)
    assert rotation_to_euler(rotation)[0] == pytest.approx(yaw, abs=2.5)


def test_the_fit_is_the_most_probable_one(face_model: FaceModel, make_params) -> None:
    # So small a face that its points and the prior weigh about the same.
    points = face_model.landmarks(posed(make_params(1)[0], 40.0, 10.0, 0.0, scale=0.1))
    points = points + np.random.default_rng(0).normal(0, 1, points.shape).astype(np.float32)
    params = fit_params(face_model, points)

    def cost(coefficients: np.ndarray) -> float:  # minus twice the logarithm of the probability, noise of 1 px
        placed = face_model.landmarks(np.concatenate([params[:12], coefficients]))[:, :2].astype(np.float64)
        return float(((placed - points[:, :2]) ** 2).sum() + (coefficients**2).sum())

    best = cost(params[12:])
    for step in 0.02 * np.concatenate([np.eye(50), -np.eye(50), -params[None, 12:]]):
        assert cost(params[12:] + step) > best


def test_the_prior_counts_in_standard_deviations(face_model: FaceModel, make_params) -> None:
    points = face_model.landmarks(posed(make_params(1)[0], 20.0, 0.0, 0.0))
    other = dataclasses.replace(  # the same faces with the same probabilities, in other units
        face_model,
        shape_basis=face_model.shape_basis / 4,
        shape_sigma=face_model.shape_sigma * 4,
        expression_basis=face_model.expression_basis * 2,
        expression_sigma=face_model.expression_sigma / 2,
    )
    mine, its = fit_params(face_model, points), fit_params(other, points)
    np.testing.assert_allclose(its[:12], mine[:12], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(its[12:], mine[12:] * np.repeat([4.0, 0.5], [40, 10]), atol=1e-5)


@pytest.mark.parametrize("points", [np.zeros((21, 3)), np.zeros((68, 2)), np.full((68, 3), np.nan)])
def test_what_is_no_face_is_refused(face_model: FaceModel, points: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="68"):
        fit_params(face_model, points)
