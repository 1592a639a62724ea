"""Which layer departs first: the outputs of a network's layers, side by side with those of a later step.

Layers go by the names of their modules in the fused network (`global_stream.3.0`, `fusion`, `head`). An ONNX graph
shows them by the names of its weights, so they can be found after quantization too. Only layers that both sides show
are compared; encoder products whose weights the exporter has renamed are not among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.manifest import INPUT

if TYPE_CHECKING:
    from training.model import CLN

Outputs = dict[str, NDArray[np.float64]]  # by layer, in the order of the computation


def torch_outputs(model: CLN, crops: NDArray[np.uint8]) -> Outputs:
    """What the blocks and the single layers of a network in eval mode put out."""
    import torch

    outputs: Outputs = {}

    def note(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            outputs[_plain(name)] = output.double().numpy()

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if name and (name.count(".") <= 1 or not any(module.children()))
    ]
    try:
        with torch.inference_mode():
            model(torch.from_numpy(crops))
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def onnx_outputs(data: bytes, crops: NDArray[np.uint8]) -> Outputs:
    """What each convolution and linear layer of an ONNX graph puts out, in ONNX Runtime on the CPU."""
    import onnx

    from runtime.engines.onnx import create_session

    model = onnx.load_model_from_string(data)
    integers = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    known = {output.name for output in model.graph.output}
    names: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weights = integers.get(node.input[1], node.input[1]).removesuffix("_quantized")
            names[_plain(weights.removesuffix(".weight"))] = node.output[0]
    for name in set(names.values()) - known:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = create_session(model.SerializeToString(), name="graph with all outputs")
    values = session.run(list(names.values()), {INPUT: crops})
    return {name: np.asarray(value, dtype=np.float64) for name, value in zip(names, values, strict=True)}


def first_departure(reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], limit: float) -> str:
    """Says which layer of `outputs` is the first to differ from `reference` by more than `limit`.

    The difference is relative: root mean square of the difference over that of the reference. Where all layers stay
    below the limit, it is the one that differs most.
    """
    errors = {
        name: _relative(reference[name], value)
        for name, value in outputs.items()
        if name in reference and reference[name].size == value.size
    }
    if not errors:
        return "no layer could be compared"
    over = [name for name, error in errors.items() if not error <= limit]
    if over:
        return f"the first layer that departs is {over[0]} (by {errors[over[0]]:.2g} of its size, limit {limit:g})"
    most = max(errors, key=lambda name: errors[name])
    return f"no layer departs by more than {limit:g} of its size, {most} most ({errors[most]:.2g})"


def _relative(reference: NDArray[Any], value: NDArray[Any]) -> float:
    size = float(np.sqrt(np.square(reference).mean()))
    difference = value.reshape(reference.shape) - reference
    return float(np.sqrt(np.square(difference).mean())) / max(size, 1e-12)


def _plain(name: str) -> str:
    """The name in the fused network: `to_mixed` puts each stream behind a cast, and the head into a sequence."""
    name = re.sub(r"^(global|local)_stream\.1\.(\d+\.\d+)$", r"\1_stream.\2", name)
    return "head" if name.startswith("head.") else name
