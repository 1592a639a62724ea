import dataclasses
import math

import numpy as np
import pytest
import torch

from runtime.face_model import FaceModel
from training.config import AugmentConfig, LossConfig
from training.crops import aligned_crops, crop_batch, crop_points, mirror_params, no_jitter
from training.data.landmarks import AFLW_21, IBUG_68, LandmarkLabels, Scheme
from training.decoder import Decoder, pose_scale
from training.learning.augment import augmented_crops, draw_jitter
from training.learning.losses import FaceLoss, PointLoss, wing, wpdc_weights

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

    def placed(params: torch.Tensor) -> torch.Tensor:  # the landmarks count beside the given vertices
        points = torch.cat([decoder.model_points(params), decoder.model_points(params, vertices)], dim=1)
        return decoder.place(params, points)

    start = placed(truth)
    for index in range(62):
        wrong = truth.clone()
        wrong[:, index] += error[:, index]
        moved[:, index] = (placed(wrong) - start).flatten(1).norm(dim=1)
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
    apart = FaceLoss(LossConfig(wpdc=0.0, wing=0.0, disentangled=0.5), Decoder(face_model), 160)
    losses = apart(other, truth, lambda params: params, lambda whitened: whitened)
    by_hand = loss.landmark_wing(other, truth, truth) + loss.landmark_wing(truth, other, truth)
    torch.testing.assert_close(losses.disentangled, by_hand)
    torch.testing.assert_close(losses.total, 0.5 * by_hand)


def labels_of(params: torch.Tensor, decoder: Decoder, scheme: Scheme = IBUG_68) -> LandmarkLabels:
    """The points of params, all known."""
    points = torch.from_numpy(scheme.mixing) @ decoder.landmarks(params)[:, :, :2]
    return LandmarkLabels(scheme=scheme, points=points, weights=torch.ones(points.shape[:2]))


def same(params: torch.Tensor) -> torch.Tensor:
    """A whitening that does nothing."""
    return params


def test_eyes_lips_and_depth_have_their_weights(face_model: FaceModel) -> None:
    weighting = FaceLoss(LossConfig(detail_weight=3.0, depth_weight=0.25), Decoder(face_model), 128).weighting
    assert weighting.sum() == pytest.approx(1.0)
    relative = weighting / weighting[0, 0]
    assert relative[:36, :2].unique().tolist() == [1.0]  # jaw, brows, nose
    torch.testing.assert_close(relative[36:, :2], torch.full((32, 2), 3.0))  # eyes and lips
    torch.testing.assert_close(relative[:, 2], 0.25 * relative[:, 0])


def test_the_scale_of_a_pose_is_the_quadratic_mean_of_its_axes() -> None:
    params = torch.zeros(1, 62)
    params[0, 0], params[0, 5], params[0, 10] = 3.0, -4.0, 12.0
    assert pose_scale(params).item() == pytest.approx((169 / 3) ** 0.5)


def test_wing_of_points_against_hand_worked_values(face_model: FaceModel, make_params) -> None:
    decoder = Decoder(face_model)
    truth = torch.from_numpy(make_params(2))
    loss = PointLoss(LossConfig(wing=2.0, anchor=0.5, wing_reference_size=224), decoder, 112)
    for scheme in (IBUG_68, AFLW_21):
        labels = labels_of(truth, decoder, scheme)
        assert loss(truth, labels, truth, same).total == pytest.approx(0, abs=1e-3)
        wrong = truth.clone()
        wrong[:, 3] += 1.5  # t_x: 3 px at 224
        wrong[1, 12:14] += 1.0
        losses = loss(wrong, labels, wrong, same)
        assert losses.anchor == 0
        one = loss(wrong[:1], labels_of(truth[:1], decoder, scheme), truth[:1], same)
        assert one.wing.item() == pytest.approx(10 * math.log(1 + 3.0 / 2) / 2, rel=1e-3)  # x is half of it
        assert one.anchor.item() == pytest.approx(1.5**2, rel=1e-5)
        assert one.total.item() == pytest.approx(2 * one.wing.item() + 0.5 * one.anchor.item(), rel=1e-6)


def test_each_known_point_counts_the_same_and_no_hidden_one(face_model: FaceModel, make_params) -> None:
    decoder = Decoder(face_model)
    truth = torch.from_numpy(make_params(2))
    labels = labels_of(truth, decoder)
    labels.weights[0, 5:] = 0.0
    labels.points[0, 5:] = 1e4  # anything
    wrong = truth.clone()
    wrong[:, 3] += 1.5
    loss = PointLoss(LossConfig(), decoder, 112)
    wrong.requires_grad_()
    few, all_68 = (loss(wrong[i : i + 1], labels_at(labels, i), truth[i : i + 1], same).wing for i in range(2))
    assert few.item() == pytest.approx(all_68.item() * 5 / 68, rel=1e-3)
    both = loss(wrong, labels, truth, same).wing
    assert both.item() == pytest.approx((few + all_68).item() / 2, rel=1e-5)  # so micro-batches add up to the batch
    both.backward()
    assert torch.isfinite(wrong.grad).all()


def labels_at(labels: LandmarkLabels, index: int) -> LandmarkLabels:
    """One sample's."""
    chosen = slice(index, index + 1)
    return LandmarkLabels(scheme=labels.scheme, points=labels.points[chosen], weights=labels.weights[chosen])


def dotted(points: np.ndarray, size: int) -> np.ndarray:
    """Black images with a soft bright dot at each point."""
    y, x = np.mgrid[:size, :size]
    return np.stack([np.clip(255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8), 0, 255) for u, v in points])


def centroids(crops: torch.Tensor) -> torch.Tensor:
    """Centres of brightness (B, 2) of crops (B, 3, S, S)."""
    grid = torch.arange(float(crops.shape[-1]))
    mass = crops[:, 0].sum(dim=(1, 2))
    x, y = ((crops[:, 0].sum(dim=axis) * grid).sum(dim=1) / mass for axis in (1, 2))
    return torch.stack([x, y], dim=1)


@pytest.mark.parametrize("flip", [False, True])
def test_a_label_follows_its_image_exactly(face_model: FaceModel, make_params, flip: bool) -> None:
    decoder = Decoder(face_model)
    params = torch.from_numpy(make_params(6))
    vertex = 7
    before = decoder.place(params, decoder.model_points(params, torch.tensor([vertex])))[:, 0, :2].numpy()
    images = torch.from_numpy(dotted(before, 160).astype(np.uint8))[..., None].expand(-1, -1, -1, 3)
    config = AugmentConfig(flip_probability=float(flip), rotation=25.0)
    jitter = draw_jitter(6, config, torch.Generator().manual_seed(3))
    crops, labels = crop_batch(images, params, decoder, 128, jitter)
    seen = int(face_model.mirror[vertex]) if flip else vertex
    expected = decoder.place(labels, decoder.model_points(labels, torch.tensor([seen])))[:, 0, :2]
    torch.testing.assert_close(centroids(crops), expected, atol=0.05, rtol=0)


def test_points_follow_their_image_exactly(face_model: FaceModel, make_params) -> None:
    decoder = Decoder(face_model)
    labels = labels_of(torch.from_numpy(make_params(6)), decoder)
    labels.weights[:, 54] = 0.0
    images = torch.from_numpy(dotted(labels.points[:, 48].numpy(), 160).astype(np.uint8))[..., None]
    jitter = draw_jitter(6, AugmentConfig(rotation=25.0), torch.Generator().manual_seed(1))
    assert jitter.flip.any() and not jitter.flip.all()
    crops, moved = crop_points(images.expand(-1, -1, -1, 3), labels, 128, jitter)
    seen = torch.where(jitter.flip, 54, 48)  # the mouth's corners change places
    torch.testing.assert_close(centroids(crops), moved.points[torch.arange(6), seen], atol=0.05, rtol=0)
    assert (moved.weights[torch.arange(6), torch.where(jitter.flip, 48, 54)] == 0).all()


def test_points_unjittered_are_the_image_s_middle(face_model: FaceModel, make_params) -> None:
    labels = labels_of(torch.from_numpy(make_params(2)), Decoder(face_model))
    images = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8)
    crops, moved = crop_points(images, labels, 128, no_jitter(2))
    torch.testing.assert_close(crops.permute(0, 2, 3, 1).round().to(torch.uint8), images[:, 16:144, 16:144])
    torch.testing.assert_close(moved.points, labels.points - 16)


def test_a_shifted_and_zoomed_region_moves_its_points(face_model: FaceModel, make_params) -> None:
    labels = labels_of(torch.from_numpy(make_params(2)), Decoder(face_model))
    images = torch.zeros(2, 160, 160, 3, dtype=torch.uint8)
    still = no_jitter(2)
    right = torch.tensor([0.25, 0.0])
    shifted = dataclasses.replace(still, shift_x=right, shift_y=0.5 * right, zoom=torch.tensor([1.0, 2.0]))
    before, after = (crop_points(images, labels, 128, jitter)[1].points for jitter in (still, shifted))
    torch.testing.assert_close(after[0], before[0] - torch.tensor([32.0, 16.0]))  # a region further right: points left
    torch.testing.assert_close(after[1] - 63.5, (before[1] - 63.5) / 2)  # twice the side: half the face


def test_beyond_the_edge_its_pixels_go_on(face_model: FaceModel, make_params) -> None:
    labels = labels_of(torch.from_numpy(make_params(1)), Decoder(face_model))
    images = torch.full((1, 160, 160, 3), 200, dtype=torch.uint8)
    jitter = dataclasses.replace(no_jitter(1), zoom=torch.tensor([3.0]), angle=torch.tensor([0.5]))
    crops, _ = crop_points(images, labels, 32, jitter)
    torch.testing.assert_close(crops, torch.full_like(crops, 200.0))


def test_augmented_poses_stay_scaled_rotations(face_model: FaceModel, make_params) -> None:
    decoder = Decoder(face_model)
    params = torch.from_numpy(make_params(6))
    images = torch.zeros(6, 160, 160, 3, dtype=torch.uint8)
    crops, labels = augmented_crops(images, params, decoder, 128, AugmentConfig(), torch.Generator().manual_seed(0))
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
