"""A checkpoint rebased on another face model: the same faces in the same places."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import MismatchError
from runtime.face_model import FaceModel, load_face_model
from runtime.pose import euler_to_rotation
from tools.rebase_checkpoint import rebase
from training.checkpoint import load_checkpoint
from training.evaluation.predictors import torch_predictor

EDGE = Path(__file__).parents[2] / "checkpoints" / "edge.pth"


def in_another_frame(model: FaceModel) -> FaceModel:
    """The same faces, nodding, larger and higher in their frame, and with another mean among them."""
    frame = 1.03 * euler_to_rotation(0, 4, 0).T.astype(np.float32)
    mean = (model.mean + 0.5 * model.shape_basis[3]) @ frame + np.float32([0, 5, -3])
    return replace(
        model, name="moved", sha256="0" * 64, mean=mean,
        shape_basis=model.shape_basis @ frame, expression_basis=model.expression_basis @ frame,
    )  # fmt: skip


def test_faces_stay_where_they_are_and_as_they_are() -> None:
    old = load_face_model()
    new = in_another_frame(old)
    checkpoint = load_checkpoint(EDGE, old)
    rebased = rebase(checkpoint, old, new)
    assert (rebased.face_model_name, rebased.face_model_sha256, rebased.test) == ("moved", "0" * 64, {})
    crops = np.random.default_rng(0).integers(256, size=(6, 128, 128, 3), dtype=np.uint8)
    before, after = (torch_predictor(one.model().eval())(crops) for one in (checkpoint, rebased))
    assert np.abs(before - after).max() > 1  # other numbers
    off = np.linalg.norm((new.vertices(after) - old.vertices(before))[..., :2], axis=-1)  # depths: from another origin
    assert off.max() < 0.2  # pixels of the crop


def test_another_mesh_is_refused() -> None:
    old = load_face_model()
    with pytest.raises(MismatchError, match="the same mesh and modes"):
        rebase(load_checkpoint(EDGE, old), old, replace(old, mean=old.mean[1:]))
