"""Whether a network's numbers fit into float16: the weights that would be rounded, and what layers put out on crops."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.errors import PrecisionError

if TYPE_CHECKING:
    from training.model import CLN

HALF_MAX = 65504.0
HALF_SMALLEST_NORMAL = 2.0**-14  # 6.1e-5; below it, float16 loses digits


@dataclass(frozen=True, kw_only=True)
class HalfRange:
    """How the numbers of a fused network lie in float16's range."""

    largest_weight: float
    weight_name: str
    subnormal_share: float  # of the weights that are not zero
    largest_activation: float
    activation_name: str


def half_range(fused: CLN, crops: NDArray[np.uint8]) -> HalfRange:
    """Extremes of the weights that `export.precision.to_mixed` rounds, and of what their layers put out on `crops`.

    Raises:
        PrecisionError: a weight or an activation is no finite float16 number.
    """
    weights = {name: value for name, value in fused.named_parameters() if not name.startswith("head.")}
    weight_name = max(weights, key=lambda name: _largest(weights[name]))
    weight = _check(weight_name, "weight", _largest(weights[weight_name]))
    sizes = torch.cat([value.detach().abs().flatten() for value in weights.values()])
    sizes = sizes[sizes > 0]
    activations = _activation_maxima(fused, crops)
    activation_name = max(activations, key=lambda name: activations[name])
    return HalfRange(
        largest_weight=weight,
        weight_name=weight_name,
        subnormal_share=float((sizes < HALF_SMALLEST_NORMAL).double().mean()),
        largest_activation=_check(activation_name, "output", activations[activation_name]),
        activation_name=activation_name,
    )


def _activation_maxima(fused: CLN, crops: NDArray[np.uint8]) -> dict[str, float]:
    maxima: dict[str, float] = {}

    def note(name: str, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        maxima[name] = _largest(output)

    hooks = [
        module.register_forward_hook(functools.partial(note, name))
        for name, module in fused.named_modules()
        if name and name != "head" and not any(module.children())
    ]
    try:
        with torch.no_grad():
            fused(torch.from_numpy(crops))
    finally:
        for hook in hooks:
            hook.remove()
    return maxima


def _largest(values: Tensor) -> float:
    """Largest absolute value; NaN counts as infinity, so that it is never the smaller one."""
    return float(torch.nan_to_num(values.detach().abs().float(), nan=float("inf"), posinf=float("inf")).max())


def _check(name: str, kind: str, value: float) -> float:
    if not value <= HALF_MAX:
        raise PrecisionError(
            f"{kind} of '{name}': expected at most {HALF_MAX:g}, float16's largest number, got {value:g}; "
            "use --precision fp32, or train on with more weight decay"
        )
    return value
