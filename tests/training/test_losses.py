import math

import numpy as np
import pytest
import torch

from runtime.face_model import FaceModel
from training.augment import aligned_crops, augmented_crops, crop_batch, draw_jitter, mirror_params
from training.config import AugmentConfig, LossConfig
from training.decoder import Decoder, pose_scale
from training.losses import FaceLoss, wing, wpdc_weights

C = 10 - 10 * math.log(6)


def test_wing_against_hand_worked_values() -> None:
    error = torch.tensor([0.0, 2.0, -2.0, 10.0, 30.0, -30.0])
    expected = torch.tensor([0.0, 10 * math.log(2), 10 * math.log(2), 10 * math.log(6), 30 - C, 30 - C])
    torch.testing.assert_close(wing(error, 10.0, 2.0), expected)


def test_wing_has_a_finite_gradient_everywhere() -> None:
    error = torch.tensor([0.0, 1e-20, 10.0, -10.0, 1e20, 5.0], requires_grad=True)
    wing(error, 10.0, 2.0).sum().backward()
    assert torch.isfinite(error.grad).all()
    assert error.grad[5] == pytest.approx(10 / (2 + 5))
    assert error.grad[4] == 1.0


def test_decoder_agrees_with_the_runtime(face_model: FaceModel, make_params) -> None:
    params = make_params(4)
    decoder = Decoder(face_model)
    np.testing.assert_allclose(
        decoder.landmarks(torch.from_numpy(params)).numpy(), face_model.landmarks(params), atol=1e-3
    )


def test_wpdc_weights_are_what_each_parameter_alone_moves(face_model: FaceModel, make_params) -> None:
    decoder = Decoder(face_model)
    truth = torch.from_numpy(make_params(2))
    torch.manual_seed(0)
    error = torch.randn(2, 62) * 0.1
    vertices = torch.arange(100)
    weights = wpdc_weights(error, truth, decoder, vertices)
    moved = torch.zeros(2, 62)
    start = decoder.place(truth, decoder.model_points(truth, vertices))
    for index in range(62):
        wrong = truth.clone()
        wrong[:, index] += error[:, index]
        moved[:, index] = (decoder.place(wrong, decoder.model_points(wrong, vertices)) - start).flatten(1).norm(dim=1)
    moved[:, 11] = 0  # t_z is a convention
    torch.testing.assert_close(weights, moved / moved.amax(dim=1, keepdim=True), atol=1e-4, rtol=1e-3)
    assert weights.amax(dim=1).tolist() == [1.0, 1.0]


def test_wpdc_of_one_wrong_parameter_is_its_square(face_model: FaceModel, make_params) -> None:
    # One wrong parameter has the largest weight, 1; so the sum over parameters is its whitened error squared.
    loss = FaceLoss(LossConfig(), Decoder(face_model), 160)
    truth = torch.from_numpy(make_params(3))
    wrong = truth.clone()
    wrong[:, 20] += 2.0

    def half(params: torch.Tensor) -> torch.Tensor:
        return params / 2

    assert loss.wpdc(half(wrong), wrong, truth, half).item() == pytest.approx(1.0, rel=1e-4)


def test_the_total_is_the_weighted_sum_with_finite_gradients(face_model: FaceModel, make_params) -> None:
    config = LossConfig(disentangled=0.5, detail_weight=2.0)
    loss = FaceLoss(config, Decoder(face_model), 160)
    truth = torch.from_numpy(make_params(3))
    whitened = torch.cat([truth[:1], truth[1:] + 0.01]).requires_grad_()  # the first is exactly right
    losses = loss(whitened, truth, lambda params: params, lambda params: params)
    assert losses.total.item() == pytest.approx(
        0.5 * losses.wpdc.item() + losses.wing.item() + 0.5 * losses.disentangled.item(), rel=1e-6
    )
    losses.total.backward()
    assert torch.isfinite(whitened.grad).all()
    assert whitened.grad[1:].abs().sum() > 0


def test_wing_is_stated_for_its_reference_size(face_model: FaceModel, make_params) -> None:
    decoder = Decoder(face_model)
    truth = torch.from_numpy(make_params(2))
    wrong = truth.clone()
    wrong[:, 3] += 1.5  # t_x: every landmark 1.5 px to the right
    loss = FaceLoss(LossConfig(depth_weight=0.0, wing_reference_size=224), decoder, 112)
    expected = 10 * math.log(1 + 3.0 / 2) / 2  # 3 px at 224; x is half of the weight, y is right
    assert loss.landmark_wing(wrong, wrong, truth).item() == pytest.approx(expected, rel=1e-3)


def test_form_counts_without_pose_in_the_disentangled_term(face_model: FaceModel, make_params) -> None:
    loss = FaceLoss(LossConfig(), Decoder(face_model), 160)
    truth = torch.from_numpy(make_params(2))
    other = torch.from_numpy(make_params(2, seed=5))
    assert loss.landmark_wing(truth, truth, truth).item() == 0
    assert loss.landmark_wing(other, truth, truth).item() > 1
    assert loss.landmark_wing(truth, other, truth).item() > 1


def dotted(points: np.ndarray, size: int) -> np.ndarray:
    """Black images with a soft bright dot at each point."""
    y, x = np.mgrid[:size, :size]
    return np.stack([np.clip(255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8), 0, 255) for u, v in points])


@pytest.mark.parametrize("flip", [False, True])
def test_a_label_follows_its_image_exactly(face_model: FaceModel, make_params, flip: bool) -> None:
    decoder = Decoder(face_model)
    params = torch.from_numpy(make_params(6))
    vertex = 7
    before = decoder.place(params, decoder.model_points(params, torch.tensor([vertex])))[:, 0, :2].numpy()
    images = torch.from_numpy(dotted(before, 160).astype(np.uint8))[..., None].expand(-1, -1, -1, 3)
    torch.manual_seed(3)
    config = AugmentConfig(flip_probability=float(flip), rotation=25.0)
    crops, labels = crop_batch(images, params, decoder, 128, draw_jitter(6, config))
    seen = int(face_model.mirror[vertex]) if flip else vertex
    expected = decoder.place(labels, decoder.model_points(labels, torch.tensor([seen])))[:, 0, :2]
    grid = torch.arange(128.0)
    mass = crops[:, 0].sum(dim=(1, 2))
    found = torch.stack(
        [(crops[:, 0].sum(dim=1) * grid).sum(dim=1) / mass, (crops[:, 0].sum(dim=2) * grid).sum(dim=1) / mass], dim=1
    )
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_augmented_poses_stay_scaled_rotations(face_model: FaceModel, make_params) -> None:
    decoder = Decoder(face_model)
    params = torch.from_numpy(make_params(6))
    images = torch.zeros(6, 160, 160, 3, dtype=torch.uint8)
    torch.manual_seed(0)
    crops, labels = augmented_crops(images, params, decoder, 128, AugmentConfig())
    assert crops.dtype == torch.uint8 and crops.shape == (6, 128, 128, 3)
    linear = labels[:, :12].reshape(-1, 3, 4)[:, :, :3]
    gram = linear @ linear.transpose(1, 2) / pose_scale(labels).square()[:, None, None]
    torch.testing.assert_close(gram, torch.eye(3).expand(6, 3, 3), atol=1e-4, rtol=0)
    assert (torch.linalg.det(linear) < 0).all()  # y up to y down: one reflection, in every sample, mirrored or not
    assert (labels[:, 11] == 0).all()


def test_mirroring_twice_is_nothing(face_model: FaceModel, make_params) -> None:
    decoder = Decoder(face_model)
    params = torch.from_numpy(make_params(3))
    torch.testing.assert_close(mirror_params(mirror_params(params, 160, decoder), 160, decoder), params)


def test_an_aligned_crop_is_the_landmarks_region(face_model: FaceModel, make_params) -> None:
    decoder = Decoder(face_model)
    params = torch.from_numpy(make_params(4))
    images = torch.randint(0, 256, (4, 160, 160, 3), dtype=torch.uint8)
    _, labels = aligned_crops(images, params, decoder, 128)
    points = decoder.landmarks(labels)[:, :, :2]
    low, high = points.amin(dim=1), points.amax(dim=1)
    torch.testing.assert_close((low + high) / 2, torch.full((4, 2), 63.5), atol=1e-3, rtol=0)
    torch.testing.assert_close((high - low).amax(dim=1), torch.full((4,), 128 / math.sqrt(2)), atol=1e-3, rtol=0)
