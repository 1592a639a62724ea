"""Each change of a crop's looks, one at a time: what it does where it is on, and nothing where it is off."""

import dataclasses

import pytest
import torch

from training.config import AugmentConfig
from training.crops import crop_batch
from training.decoder import Decoder
from training.learning.augment import change_context, change_looks, draw_jitter, roll_of

OFF = AugmentConfig(**{f.name: 0.0 for f in dataclasses.fields(AugmentConfig) if f.name != "erase_size"})
SIZE = 48


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """Noise: every change of sharpness shows in it."""
    return torch.rand(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 255.0


def changed(crops: torch.Tensor, seed: int = 0, **on: float) -> torch.Tensor:
    config = dataclasses.replace(OFF, **on)
    return change_looks(crops.clone(), config, torch.Generator().manual_seed(seed))


def spread(crops: torch.Tensor) -> torch.Tensor:
    """What is left of the noise's contrast, of each sample (B,)."""
    return crops.std(dim=(1, 2, 3))


def test_nothing_on_changes_nothing(crops: torch.Tensor) -> None:
    torch.testing.assert_close(changed(crops), crops, atol=1e-3, rtol=0)


def test_contrast_and_brightness_are_each_sample_s_own(crops: torch.Tensor) -> None:
    gain = spread(changed(crops, contrast=0.25)) / spread(crops)
    assert gain.min() > 0.75 and gain.max() < 1.25 and gain.std() > 0.05
    lift = changed(crops, brightness=0.1) - crops
    torch.testing.assert_close(lift, lift.mean(dim=(1, 2, 3), keepdim=True).expand_as(lift), atol=1e-3, rtol=0)
    assert lift.abs().max() < 25.6 and lift[:, 0, 0, 0].std() > 5


def test_gamma_keeps_black_and_white_and_moves_what_is_between(crops: torch.Tensor) -> None:
    wedge = torch.tensor([0.0, 255.0, 127.5]).repeat(16, 3, SIZE, SIZE // 3)
    seen = changed(wedge, gamma=0.5)
    torch.testing.assert_close(seen[..., :2], wedge[..., :2], atol=1e-3, rtol=0)
    exponent = torch.log(seen[:, 0, 0, 2] / 255) / torch.log(torch.tensor(0.5))
    assert exponent.min() > 0.6 and exponent.max() < 1.65 and exponent.log().std() > 0.1


def test_colour_gains_channels_apart(crops: torch.Tensor) -> None:
    gain = changed(crops, colour=0.2).std(dim=(2, 3)) / crops.std(dim=(2, 3))
    assert (gain.std(dim=1) > 0.01).sum() > 12 and gain.min() > 0.8 and gain.max() < 1.2


def test_grey_is_bt_601_s_of_blue_green_and_red() -> None:
    primaries = (torch.eye(3) * 255.0)[:, :, None, None].expand(3, 3, SIZE, SIZE)  # pure blue, green, red
    seen = changed(primaries, grey_probability=1.0)
    assert (seen[:, 0] == seen[:, 1]).all() and (seen[:, 0] == seen[:, 2]).all()
    torch.testing.assert_close(seen[:, 0, 0, 0] / 255, torch.tensor([0.114, 0.587, 0.299]))


def test_blur_takes_contrast_from_noise_in_part_and_light_from_nothing(crops: torch.Tensor) -> None:
    seen = changed(crops, blur_probability=1.0)
    left = spread(seen) / spread(crops)
    assert left.max() < 1 and left.min() > 0.3 and left.std() > 0.05
    torch.testing.assert_close(seen.mean(dim=(1, 2, 3)), crops.mean(dim=(1, 2, 3)), atol=1.5, rtol=0)


def test_low_resolution_is_drawn_for_each_sample_and_is_what_resizing_gives(crops: torch.Tensor) -> None:
    same = crops[:1].expand(16, -1, -1, -1)
    seen = changed(same, low_resolution_probability=1.0)
    side, resize = [], torch.nn.functional.interpolate
    for sample in seen:
        for small in range(14, 40):  # 0.3 to 0.8 of 48
            down = resize(same[:1], size=(small, small), mode="bilinear", antialias=True)
            if (resize(down, size=(SIZE, SIZE), mode="bilinear")[0] - sample).abs().max() < 0.01:
                side.append(small)
    assert len(side) == 16 and len(set(side)) > 6


def test_noise_has_each_sample_s_own_strength(crops: torch.Tensor) -> None:
    strength = (changed(crops, noise_probability=1.0, noise=0.1) - crops).std(dim=(1, 2, 3))
    assert strength.max() < 26 and strength.std() > 3
    some = (changed(crops, noise_probability=0.5, noise=0.1) - crops).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert some.any() and not some.all()


def test_an_erased_rectangle_has_the_config_s_size_and_a_place_of_its_own(crops: torch.Tensor) -> None:
    config = dataclasses.replace(OFF, erase_probability=1.0, erase_size=(0.25, 0.5))
    seen = change_looks(crops.clone(), config, torch.Generator().manual_seed(0))
    hidden = (seen - crops).abs().amax(dim=1) > 1e-3  # (B, S, S)
    widths, heights = hidden.any(dim=1).sum(dim=1), hidden.any(dim=2).sum(dim=1)
    assert hidden.any(dim=(1, 2)).all() and max(widths.max(), heights.max()) <= 24
    assert widths.float().std() > 2 and (widths >= 10).any()
    assert 4 < (seen[hidden[:, None].expand_as(seen)].numel() / 3 / len(seen)) ** 0.5 <= 24
    grainy = torch.stack([s[:, h].std(dim=1).mean() for s, h in zip(seen, hidden, strict=True)]) > 20
    assert grainy.any() and not grainy.all()


def test_jitter_stays_in_its_ranges_and_off_is_the_region_itself() -> None:
    config = dataclasses.replace(OFF, rotation=10.0, zoom=0.2, shift=0.1, flip_probability=0.5)
    drawn = draw_jitter(4000, config, torch.Generator().manual_seed(0))
    assert torch.rad2deg(drawn.angle).std() == pytest.approx(10.0, rel=0.05)
    assert torch.rad2deg(drawn.angle).abs().max() <= 30.0 + 1e-4
    assert drawn.zoom.log().std() == pytest.approx(0.2 / 3**0.5, rel=0.05) and drawn.zoom.log().abs().max() <= 0.2
    for shift in (drawn.shift_x, drawn.shift_y):
        assert shift.std() == pytest.approx(0.1 / 3**0.5, rel=0.05) and shift.abs().max() <= 0.1
    assert drawn.flip.float().mean() == pytest.approx(0.5, abs=0.05)
    off = draw_jitter(8, OFF, torch.Generator().manual_seed(0))
    assert not off.angle.any() and (off.zoom == 1).all() and not off.shift_x.any() and not off.flip.any()


def test_some_boxes_are_turned_far_and_only_boxes() -> None:
    config = dataclasses.replace(OFF, detector_share=0.5, wide_share=0.4, wide_turn=120.0)
    drawn = draw_jitter(8000, config, torch.Generator().manual_seed(0), torch.zeros(8000))
    degrees = torch.rad2deg(drawn.angle)
    turned = degrees != 0  # all else is off
    assert turned.float().mean() == pytest.approx(0.5 * 0.4, abs=0.02)
    assert degrees.abs().max() <= 120 and degrees[turned].std() == pytest.approx(120 / 3**0.5, rel=0.05)


def test_each_source_of_regions_has_its_share_and_its_error() -> None:
    config = dataclasses.replace(
        OFF, zoom=0.5, detector_share=0.5, detector_zoom=0.1, detector_shift=0.05, own_share=0.25, own_shift=0.001
    )
    drawn = draw_jitter(8000, config, torch.Generator().manual_seed(0), torch.zeros(8000))
    by_box = drawn.shift_x == 0
    by_network = ~by_box & (drawn.shift_x.abs() <= 0.003) & (drawn.zoom == 1)
    by_detector = ~by_box & ~by_network
    assert by_box.float().mean() == pytest.approx(0.25, abs=0.02)
    assert by_network.float().mean() == pytest.approx(0.25, abs=0.02)
    assert drawn.zoom[by_detector].log().std() == pytest.approx(0.1, rel=0.05)
    assert drawn.shift_y[by_detector].std() == pytest.approx(0.05, rel=0.05)


def test_some_of_the_detector_s_regions_are_far_off() -> None:
    config = dataclasses.replace(OFF, detector_share=1.0, detector_zoom=0.1, detector_outliers=0.2, outlier_size=3.0)
    zoom = draw_jitter(8000, config, torch.Generator().manual_seed(0), torch.zeros(8000)).zoom.log().abs()
    assert zoom.max() > 0.6  # a usual error is cut off at 0.3
    assert (zoom > 0.3001).float().mean() == pytest.approx(0.2 * 0.317, abs=0.01)  # one in three lies beyond sigma


@pytest.mark.parametrize("source", ["detector_share", "own_share"])
def test_a_detector_s_and_the_network_s_own_regions_are_upright(face_model, make_params, source: str) -> None:
    decoder, params = Decoder(face_model), torch.from_numpy(make_params(6))
    config = dataclasses.replace(OFF, **{source: 1.0}, flip_probability=0.5, rotation=30.0)
    jitter = draw_jitter(6, config, torch.Generator().manual_seed(1), roll_of(params))
    assert jitter.flip.any() and not jitter.flip.all() and roll_of(params).abs().max() > 0.05
    images = torch.zeros(6, 160, 160, 3, dtype=torch.uint8)
    labels = crop_batch(images, params, decoder, 128, jitter)[1]
    torch.testing.assert_close(roll_of(labels), torch.zeros(6), atol=1e-5, rtol=0)


def test_context_changes_around_the_face_alone(crops: torch.Tensor) -> None:
    square = torch.tensor([[14.0, 14.0], [33.0, 14.0], [33.0, 33.0], [14.0, 33.0]]).repeat(16, 17, 1)  # (16, 68, 2)
    config = dataclasses.replace(OFF, context_share=1.0)
    seen = change_context(crops.clone(), square, config, torch.Generator().manual_seed(0))
    moved = (seen - crops).abs().amax(dim=1)  # (16, S, S)
    assert not moved[:, 20:28, 20:28].any()
    corners = torch.stack([moved[:, :4, :4], moved[:, :4, -4:], moved[:, -4:, :4], moved[:, -4:, -4:]]).amin(dim=(2, 3))
    changes = (corners > 0).sum(dim=0)  # of each crop: corners in which every pixel is another
    assert changes.min() >= 1 and (changes == 4).any() and (changes < 4).any()
    assert torch.equal(change_context(crops.clone(), square, OFF, torch.Generator()), crops)
