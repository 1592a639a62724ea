import dataclasses

import numpy as np
import pytest
import torch

from runtime.errors import InvalidInputError
from training.config import CLNConfig, StreamConfig, load_config
from training.model import (
    CLN,
    CoordinateAttention,
    CoordinateAttentionTransformer,
    EncoderBlock,
    RepVGGBlock,
    SelfShuffle,
    reparameterize,
)
from training.model.shuffle import arrange

TINY = CLNConfig(
    input_size=32,
    global_stream=StreamConfig(widths=(8, 8, 16), blocks=(1, 2, 1)),
    local_stream=StreamConfig(widths=(8, 8, 8), blocks=(1, 1, 1)),
    fusion_width=16,
    heads=2,
    pooling="flatten",
    realign=True,
)


BatchNorm = torch.nn.BatchNorm1d | torch.nn.BatchNorm2d


def cells_of(image: torch.Tensor) -> torch.Tensor:
    """(B, C, S, S) -> its 4 x 4 cells in reading order, (B, 16, C, S / 4, S / 4)."""
    return torch.stack([cell for row in image.chunk(4, dim=2) for cell in row.chunk(4, dim=3)], dim=1)


def randomize_norms(model: torch.nn.Module) -> None:
    """Statistics and weights as a trained network's: far from the identity that a new norm is."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.2, 3.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)


def random_crops(config: CLNConfig, batch: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (batch, config.input_size, config.input_size, 3), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride"),
    [(4, 4, 1), (4, 6, 1), (3, 6, 2), (4, 4, 2)],  # with identity, wider, stem, same width but strided
)
def test_a_fused_block_computes_the_same(inputs: int, outputs: int, stride: int) -> None:
    torch.manual_seed(0)
    block = RepVGGBlock(inputs, outputs, stride).eval()
    randomize_norms(block)
    x = torch.randn(2, inputs, 16, 16)
    expected = block(x)
    fused = block.fuse()
    assert [type(layer) for layer in fused] == [torch.nn.Conv2d, torch.nn.ReLU]
    torch.testing.assert_close(fused(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [TINY, load_config("edge").model], ids=["tiny", "edge"])
def test_reparameterized_network_agrees_and_leaves_the_original_alone(config: CLNConfig) -> None:
    torch.manual_seed(1)
    model = CLN(config).eval()
    randomize_norms(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    crops = random_crops(config)
    fused = reparameterize(model)
    with torch.no_grad():
        difference = (fused(crops) - model(crops)).abs().max()
        twice = reparameterize(fused)(crops)
    assert fused(crops).abs().max() > 0
    assert difference < 1e-4
    assert torch.equal(twice, fused(crops))
    assert not any(isinstance(module, RepVGGBlock | BatchNorm) for module in fused.modules())
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_fusing_in_training_mode_is_refused() -> None:
    model = CLN(TINY).train()
    with pytest.raises(InvalidInputError, match="eval"):
        reparameterize(model)
    with pytest.raises(InvalidInputError, match="eval"):
        model.global_stream[0].fuse()


def test_shuffle_shows_every_cell_but_one_and_the_thumbnail() -> None:
    config = load_config("edge").model
    shuffle = SelfShuffle(4, config.evaluation_order, config.thumbnail_cell).eval()
    image = torch.rand(2, 3, 16, 16)
    order, inverse = shuffle.draw(2)
    places = cells_of(shuffle(image, order))
    cells = cells_of(image)
    for place, cell in enumerate(config.evaluation_order):
        expected = cells[:, cell]
        if place == config.thumbnail_cell:
            expected = torch.nn.functional.avg_pool2d(image, 4)
        torch.testing.assert_close(places[:, place], expected)
    features = shuffle(image, order).permute(0, 2, 3, 1)
    restored = cells_of(shuffle.restore(features, inverse).permute(0, 3, 1, 2))
    same = [bool(torch.equal(restored[:, cell], cells[:, cell])) for cell in range(16)]
    assert same.count(True) == 15 and not same[config.evaluation_order[config.thumbnail_cell]]


def test_shuffle_draws_anew_for_every_sample_in_training_and_never_in_eval() -> None:
    config = load_config("edge").model
    shuffle = SelfShuffle(4, config.evaluation_order, config.thumbnail_cell)
    torch.manual_seed(0)
    order, inverse = shuffle.train().draw(8)
    assert len({tuple(row.tolist()) for row in order}) == 8
    assert all(sum(row == 16).item() == 1 for row in order)
    cells = torch.arange(8 * 16.0).reshape(8, 1, 16, 1)
    shown = arrange(torch.cat([cells, -torch.ones(8, 1, 1, 1)], dim=2), order)
    back = arrange(shown, inverse)
    assert ((back == cells) | (back == -1)).all()
    image = torch.rand(8, 3, 16, 16)
    own = torch.cat([shuffle(image[i : i + 1], order[i]) for i in range(8)])
    assert torch.equal(shuffle(image, order), own)  # each sample goes by its own order
    fixed = [shuffle.eval().draw(8)[0] for _ in range(2)]
    assert torch.equal(*fixed) and fixed[0].shape == (16,)


@pytest.mark.parametrize("switch", ["cdsda", "cat", "thumbnail"])
def test_an_ablation_switch_changes_the_network(switch: str) -> None:
    changed = dataclasses.replace(TINY, **{switch: False})
    model, other = CLN(TINY).eval(), CLN(changed).eval()
    other.load_state_dict(model.state_dict(), strict=switch != "cat")
    crops = random_crops(TINY)
    assert not torch.allclose(model(crops), other(crops))
    kinds = {type(module) for module in other.modules()}
    assert (SelfShuffle in kinds) == (switch != "cdsda")
    assert (CoordinateAttention in kinds) == (switch != "cat")


def test_whitening_round_trip_and_a_constant_parameter() -> None:
    model = CLN(TINY)
    mean, std = torch.randn(62) * 50, torch.rand(62) + 0.1
    mean[11], std[11] = 0.0, 0.0
    model.set_whitening(mean, std)
    params = torch.randn(4, 62) * std + mean
    torch.testing.assert_close(model.dewhiten(model.whiten(params)), params)
    assert (model.eval()(random_crops(TINY))[:, 11] == 0).all()
    assert (model.whiten(params + 1)[:, 11] == 0).all()


def test_answer_of_a_face_is_its_own() -> None:
    model = CLN(TINY).eval()
    crops = random_crops(TINY, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(crops)[1:2], model(crops[1:2]), atol=1e-5, rtol=1e-5)


def test_presets_are_whole_and_survive_a_round_trip() -> None:
    for preset in (load_config("paper"), load_config("edge")):
        assert CLNConfig.from_dict(preset.model.to_dict()) == preset.model
    fused = reparameterize(CLN(load_config("edge").model).eval())
    assert sum(p.numel() for p in fused.parameters()) * 4 < 6e6  # the edge network's file budget
    assert np.prod(CLN(load_config("paper").model).head.weight.shape) == 512 * 62


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 36}, "multiple"),
        ({"evaluation_order": (0,) * 16}, "permutation"),
        ({"thumbnail_cell": 16}, "thumbnail_cell"),
        ({"input_size": 48}, "realign"),  # a 6 x 6 token grid has no 4 x 4 cells
        ({"heads": 3}, "heads"),
        ({"pooling": "max"}, "pooling"),
        ({"local_stream": StreamConfig(widths=(8,), blocks=(1,))}, "stages"),
    ],
)
def test_a_config_that_cannot_work_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    "crops", [torch.zeros(1, 32, 32, 3), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)], ids=["float", "layout"]
)
def test_other_inputs_are_refused(crops: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="uint8"):
        CLN(TINY)(crops)


def test_weights_of_linear_layers_that_were_convolutions_still_load() -> None:
    torch.manual_seed(0)
    model = CLN(TINY).eval()
    randomize_norms(model)
    older = dict(model.state_dict())
    for name in ("fusion", "cat.gate.squeeze", "cat.gate.gate_h", "cat.gate.gate_w"):
        older[f"{name}.weight"] = older[f"{name}.weight"][:, :, None, None]
    loaded = CLN(TINY).eval()
    loaded.load_state_dict(older)
    crops = random_crops(TINY)
    assert torch.equal(loaded(crops), model(crops))
    wrong = {**older, "head.weight": older["head.weight"][:, :, None]}
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        loaded.load_state_dict(wrong)


def test_coordinate_attention_is_the_formula_of_its_paper() -> None:
    torch.manual_seed(0)
    gate = CoordinateAttention(64).eval()
    randomize_norms(gate)
    x = torch.randn(2, 3, 5, 64)
    expected = torch.empty_like(x)

    def squeezed(vector: torch.Tensor) -> torch.Tensor:
        y = gate.squeeze.weight @ vector
        y = (y - gate.norm.running_mean) / (gate.norm.running_var + gate.norm.eps).sqrt()
        y = y * gate.norm.weight + gate.norm.bias
        return y * (y + 3).clamp(0, 6) / 6  # h-swish

    for sample in range(2):
        for row in range(3):
            for column in range(5):
                g_h = torch.sigmoid(gate.gate_h.weight @ squeezed(x[sample, row].mean(dim=0)) + gate.gate_h.bias)
                g_w = torch.sigmoid(gate.gate_w.weight @ squeezed(x[sample, :, column].mean(dim=0)) + gate.gate_w.bias)
                expected[sample, row, column] = x[sample, row, column] * g_h * g_w
    torch.testing.assert_close(gate(x), expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_block_is_torch_s_own_pre_norm_layer() -> None:
    torch.manual_seed(0)
    block = EncoderBlock(16, 4, 2)
    other = torch.nn.TransformerEncoderLayer(16, 4, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    for norm in (block.norm1, block.norm2):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    names = {
        "self_attn.in_proj_weight": block.qkv.weight,
        "self_attn.in_proj_bias": block.qkv.bias,
        "self_attn.out_proj.weight": block.project.weight,
        "self_attn.out_proj.bias": block.project.bias,
        "linear1.weight": block.mlp[0].weight,
        "linear1.bias": block.mlp[0].bias,
        "linear2.weight": block.mlp[2].weight,
        "linear2.bias": block.mlp[2].bias,
        **{f"norm{n}.{kind}": getattr(getattr(block, f"norm{n}"), kind) for n in (1, 2) for kind in ("weight", "bias")},
    }
    other.load_state_dict(names)
    tokens = torch.randn(3, 7, 16)
    torch.testing.assert_close(block(tokens), other(tokens), atol=1e-5, rtol=1e-4)


def test_cells_know_their_places() -> None:
    torch.manual_seed(0)
    transformer = CoordinateAttentionTransformer(16, 4, 2, 2).eval()
    x = torch.randn(1, 1, 1, 16).expand(1, 4, 4, 16)
    assert transformer(x).std(dim=(1, 2)).mean() > 1e-3  # alike but for their places
