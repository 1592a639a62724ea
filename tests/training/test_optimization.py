"""Steps and averages worked out by hand."""

import dataclasses

import pytest
import torch

from tests.training.test_model import TINY
from tests.training.test_train import CONFIG
from training.learning.optimization import Average, make_optimizer
from training.model import CLN

SGD = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.01)


def filled(value: float) -> CLN:
    model = CLN(TINY)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(int(value) if not tensor.is_floating_point() else value)
    return model


@pytest.mark.parametrize(("step", "share"), [(0, 0.9), (5, 9 / 15), (10_000, 0.01)])
def test_the_average_moves_by_its_share(step: int, share: float) -> None:
    average = Average(filled(1.0), 0.99)
    average.update(filled(3.0), step)
    for name, value in average.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.full_like(value, 1.0 + 2.0 * share), msg=name)
        elif "tracked" in name:
            assert value == 3
    assert not average.model.training and not any(p.requires_grad for p in average.model.parameters())


@pytest.mark.parametrize("everywhere", [False, True])
def test_two_steps_of_sgd_by_hand(everywhere: bool) -> None:
    model = filled(2.0)
    optimizer = make_optimizer(dataclasses.replace(SGD, decay_norms_and_biases=everywhere), model)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    def after(decay: float) -> float:
        first = 1.0 + decay * 2.0
        weight = 2.0 - 0.1 * first
        return weight - 0.1 * (0.9 * first + 1.0 + decay * weight)

    for name, value in model.named_parameters():
        decays = everywhere or (value.dim() > 1 and not name.endswith("position"))
        torch.testing.assert_close(value, torch.full_like(value, after(0.01 if decays else 0.0)), msg=name)


def test_adamw_decays_the_same_weights() -> None:
    groups = make_optimizer(CONFIG, CLN(TINY)).param_groups
    assert [group["weight_decay"] for group in groups] == [CONFIG.weight_decay, 0.0]
    assert all(parameter.dim() > 1 for parameter in groups[0]["params"])
