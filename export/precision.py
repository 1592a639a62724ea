"""Half precision where it is safe: float16 through both streams, fusion and attention.

float32 stay the normalisation and the self-shuffle of the input, the statistics of layer norms (a variance overflows
first), the last linear layer and the de-whitening.
"""

from __future__ import annotations

import copy
import functools
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from export.comparison import HALF_GATE, Comparison, onnx_run, torch_run
from export.console import report_step
from export.first_mismatch import FLOAT16_LIMIT, exporter_mismatch, torch_mismatch
from export.half_range import half_range
from export.onnx_graph import Float32Graph, embed_manifest, export_checked
from runtime.manifest import Manifest, Parity

if TYPE_CHECKING:
    from training.model import CLN


@dataclass(frozen=True, kw_only=True)
class MixedGraph:
    """The network in float16 where that is safe: what a plan is built from."""

    data: bytes
    parity: tuple[Parity, ...]  # of all steps up to here

    def file(self, base: Manifest) -> bytes:
        """X.fp16.onnx."""
        return embed_manifest(self.data, replace(base, precision="fp16-mixed", parity=self.parity))


def mixed_graph(exact: Float32Graph, comparison: Comparison) -> MixedGraph:
    """Checks float16's range on the crops, converts and exports.

    Raises:
        PrecisionError: a number is beyond float16's range, or a layer has another type than it should have.
        ParityError: the float16 network or its graph departs too far.
    """
    started = time.perf_counter()
    found = half_range(exact.fused, comparison.crops.gated)
    report_step(
        "float16 range",
        f"weights up to {found.largest_weight:.3g} ({found.weight_name}), {found.subnormal_share:.2%} below 6.1e-5; "
        f"activations up to {found.largest_activation:.3g} ({found.activation_name})",
        started,
    )
    mixed = to_mixed(exact.fused)
    crops = comparison.crops.gated
    where = functools.partial(torch_mismatch, exact.fused, mixed, crops, FLOAT16_LIMIT)
    first = comparison.measure("float16-mixed", torch_run(mixed), HALF_GATE, where)
    data = export_checked("ONNX float16-mixed", mixed, expected="fp16-mixed")
    where = functools.partial(exporter_mismatch, exact.fused, data, crops, FLOAT16_LIMIT)
    second = comparison.measure("ONNX float16-mixed", onnx_run(data, "float16-mixed graph"), HALF_GATE, where)
    return MixedGraph(data=data, parity=(*exact.parity, first, second))


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
