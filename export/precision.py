"""Half precision where it is safe, and what a graph's precision really is.

TensorRT 11 and TensorRT-RTX take strongly typed networks only: the graph says the type of every layer, and no flag
changes it. `to_mixed` makes such a network: float16 through both streams, fusion and attention; float32 for the
normalisation and the self-shuffle of the input, the statistics of layer norms (a variance overflows first), the last
linear layer and the de-whitening.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.errors import ClnError

if TYPE_CHECKING:
    from training.model import CLN

HALF_MAX = 65504.0
HALF_SMALLEST_NORMAL = 2.0**-14  # 6.1e-5; below it, float16 loses digits

FLOAT32, MIXED = "fp32", "fp16-mixed"
NetworkPrecision = Literal["fp32", "fp16-mixed"]


class PrecisionError(ClnError):
    """Numbers of the network do not fit the precision that was asked for."""


class Cast(nn.Module):  # type: ignore[misc]  # torch is skipped by the type checker
    """Converts its input to one type; a Cast node in the graph."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Converts to `dtype`."""
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """`x` as the type."""
        return x.to(self.dtype)


def to_mixed(fused: CLN) -> CLN:
    """A copy of a fused network that computes in float16 as this module's docstring says; the original stays."""
    mixed: CLN = copy.deepcopy(fused)
    mixed.global_stream = nn.Sequential(Cast(torch.float16), mixed.global_stream.half())
    mixed.local_stream = nn.Sequential(Cast(torch.float16), mixed.local_stream.half())
    mixed.fusion.half()
    mixed.cat.half()
    _norms_in_float32(mixed.cat)
    mixed.head = _as_convolution(mixed.head)
    mixed.eval().requires_grad_(False)
    return mixed


def _norms_in_float32(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.LayerNorm):
            setattr(module, name, nn.Sequential(Cast(torch.float32), child.float(), Cast(torch.float16)))
        else:
            _norms_in_float32(child)


def _as_convolution(linear: nn.Linear) -> nn.Sequential:
    """A linear layer as a 1 × 1 convolution: TensorRT-RTX has no float32 matrix product on Turing (7.5)."""
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1)
    with torch.no_grad():
        convolution.weight.copy_(linear.weight[:, :, None, None])
        convolution.bias.copy_(linear.bias)
    return nn.Sequential(nn.Unflatten(1, (linear.in_features, 1, 1)), convolution, nn.Flatten())


@dataclass(frozen=True, kw_only=True)
class HalfRange:
    """How the numbers of a fused network lie in float16's range."""

    largest_weight: float
    weight_name: str
    subnormal_share: float  # of the weights that are not zero
    largest_activation: float
    activation_name: str


def half_range(fused: CLN, crops: NDArray[np.uint8]) -> HalfRange:
    """Extremes of the weights that `to_mixed` rounds, and of what their layers put out on `crops`.

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


def onnx_layer_types(data: bytes) -> Counter[tuple[str, str]]:
    """How many convolutions and matrix products an ONNX graph has, by operator and type of output."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data))
    values = (*model.graph.value_info, *model.graph.output)
    kinds = {value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in values}
    return Counter(
        (node.op_type, kinds[node.output[0]]) for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")
    )


def precision_of(layer_types: Mapping[tuple[str, str], int]) -> NetworkPrecision:
    """Precision of a graph, by the types of its convolutions and matrix products.

    Raises:
        PrecisionError: neither float32 throughout nor float16 but for the last layer.
    """
    kinds: Counter[str] = Counter()
    for (_, kind), count in layer_types.items():
        kinds[{"FLOAT": "float32", "FLOAT16": "float16", "HALF": "float16"}.get(kind, kind)] += count
    if set(kinds) == {"float32"}:
        return "fp32"
    if set(kinds) == {"float32", "float16"} and kinds["float32"] == 1:
        return "fp16-mixed"
    raise PrecisionError(
        f"graph: expected float32 throughout, or float16 in every convolution and matrix product but the last, got "
        f"{dict(kinds)}; the exporter has changed: report it"
    )


def layer_types_text(layer_types: Mapping[tuple[Any, str], int]) -> str:
    """For one line of output: `23 Conv FLOAT16, 1 Conv FLOAT`."""
    return ", ".join(f"{count} {kind} {dtype}" for (kind, dtype), count in sorted(layer_types.items()))
