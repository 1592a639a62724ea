"""First layers on bytes: the same answers as on normalised pixels, but for half a step at the border."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from export import byte_input  # noqa: E402
from export.byte_input import block_sums, feed_bytes, rounded, widened  # noqa: E402
from export.comparison import onnx_run  # noqa: E402
from export.faces import noise_crops  # noqa: E402
from export.onnx_graph import export_graph  # noqa: E402
from training.model import CLN, reparameterize  # noqa: E402


def blocks_of(image, pixels):
    """(B, H, W, C) -> (B, pixels * C, H, W / pixels)."""
    batch, height, width, channels = image.shape
    return image.reshape(batch, height, width // pixels, pixels * channels).permute(0, 3, 1, 2)


def test_a_widened_kernel_computes_the_same():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 16, 24, 3, generator=generator)
    weight = torch.rand(5, 3, 3, 3, generator=generator)
    expected = torch.nn.functional.conv2d(image.permute(0, 3, 1, 2), weight, stride=2, padding=1)
    blocks = torch.nn.functional.pad(blocks_of(image, 4), (1, 0, 1, 0))
    wide = torch.nn.functional.conv2d(blocks, torch.from_numpy(widened(weight.numpy())), stride=(2, 1))
    pairs = wide.permute(0, 2, 3, 1).reshape(2, 8, 12, 5).permute(0, 3, 1, 2)
    torch.testing.assert_close(pairs, expected)


def test_sums_of_blocks_are_those_of_the_pixels():
    image = torch.randint(0, 256, (1, 8, 24, 3)).float()
    expected = torch.nn.functional.avg_pool2d(image.permute(0, 3, 1, 2), 4).permute(0, 2, 3, 1) * 16
    kernel = torch.from_numpy(block_sums(4, 3)).float()
    means = torch.nn.functional.conv2d(blocks_of(image, 12), kernel, stride=(4, 1))
    assert torch.equal(means.permute(0, 2, 3, 1).reshape(1, 2, 6, 3), expected)


def test_rounded_weights_keep_their_sums_and_two_bytes_below_16_bits():
    weight = np.random.default_rng(0).normal(size=(64, 3, 3, 3)).astype(np.float32)
    weight[0] = 0.0
    step = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), 1e-9) / 64
    result = rounded(weight)
    steps = result / step[:, None, None, None]
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert np.abs(steps).max() * 255 * 2 < 2**15
    assert (np.abs(result - weight).max(axis=(1, 2, 3)) < step).all()
    assert (np.abs((result - weight).sum(axis=(1, 2, 3))) < 0.51 * step).all()
    plain = np.rint(weight / step[:, None, None, None]) * step[:, None, None, None]
    assert (np.abs((plain - weight).sum(axis=(1, 2, 3))) > 0.51 * step).any()


def test_a_graph_fed_with_bytes_answers_as_before(graph, monkeypatch):
    monkeypatch.setattr(byte_input, "_STEPS", 2**22)
    model = onnx.load_model_from_string(graph)
    overrides = feed_bytes(model)
    onnx.checker.check_model(model, full_check=True)
    assert sorted(overrides["global_stream.0.0.wide.weight"][0]) == ["axis", "reduce_range"]
    assert not {"Cast", "Sub", "ReduceMean"} & {node.op_type for node in model.graph.node[:20]}
    crops = noise_crops(64, 16)[8:]
    expected, got = onnx_run(graph, "pixels")(crops), onnx_run(model.SerializeToString(), "bytes")(crops)
    assert 0 < np.abs(got - expected).max() < 0.003  # 0.007 where the bias doesn't make up for the half step


@pytest.mark.parametrize(("switch", "suits"), [("thumbnail", False), ("cdsda", True)])
def test_networks_without_thumbnail_or_shuffle(sources, switch, suits):
    torch.manual_seed(0)
    config = dataclasses.replace(sources.network.config, **{switch: False})
    model = onnx.load_model_from_string(export_graph(reparameterize(CLN(config).eval())))
    before = model.SerializeToString()
    assert bool(feed_bytes(model)) == suits
    assert (model.SerializeToString() == before) != suits
    onnx.checker.check_model(model, full_check=True)
