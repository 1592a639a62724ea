"""Where a step of the export first differs from the one before: the first tensor, in the order of the computation.

Polygraphy marks all tensors of an ONNX graph as outputs and runs it; its comparison looks at those that both graphs
have. Names of tensors are the exporter's numbers, the same only in graphs made from one export. A torch network has no
such tensors: its modules' outputs stand for them, and an ONNX graph's are then known by the weights that made them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.onnx import create_session
from runtime.manifest import INPUT

if TYPE_CHECKING:
    from training.model import CLN

# Of a tensor's mean difference, in parts of the reference's root mean square.
FLOAT32_LIMIT, FLOAT16_LIMIT, INT8_LIMIT = 1e-4, 2e-2, 0.1
_CROPS = 4  # that are looked at
_LAYERS = ("Conv", "Gemm", "MatMul")
Tensors = dict[str, NDArray[Any]]  # by name, in the order of the computation


def graph_mismatch(reference: bytes, step: bytes, crops: NDArray[np.uint8], limit: float) -> str:
    """Says which tensor of an ONNX graph first differs, by more than `limit`, from that of the graph it came from."""
    few = crops[:_CROPS]
    text, name = _compare(graph_tensors(reference, few), graph_tensors(step, few), limit)
    makers = _layers(reference, with_relus=True)
    return f"{text} (of {makers[name]})" if name in makers else text


def torch_mismatch(reference: CLN, step: CLN, crops: NDArray[np.uint8], limit: float) -> str:
    """The same for the modules of two torch networks."""
    few = crops[:_CROPS]
    return _compare(torch_tensors(reference, few), torch_tensors(step, few), limit)[0]


def exporter_mismatch(reference: CLN, step: bytes, crops: NDArray[np.uint8], limit: float) -> str:
    """The same for a torch network and its ONNX graph, by the names of the layers' weights."""
    few = crops[:_CROPS]
    layers = _layers(step)
    tensors = {layers[name]: value for name, value in graph_tensors(step, few, layers).items()}
    return _compare(torch_tensors(reference, few), tensors, limit)[0]


def graph_tensors(data: bytes, crops: NDArray[np.uint8], names: Iterable[str] | None = None) -> Tensors:
    """What an ONNX graph computes on the CPU: all of its floating-point tensors, or those of these names.

    A quantized tensor is given as the next layer sees it: a ReLU may be no more than the clipping of its integers.
    """
    import onnx
    from polygraphy import constants
    from polygraphy.backend.onnx import modify_outputs
    from polygraphy.backend.onnxrt import OnnxrtRunner

    model = onnx.load_model_from_string(data)
    marked = modify_outputs(model, outputs=constants.MARK_ALL if names is None else list(names))
    session = create_session(marked.SerializeToString(), name="graph with all outputs")
    with _quiet(), OnnxrtRunner(session) as runner:
        outputs: Tensors = runner.infer({INPUT: crops})
    quantized = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized and node.output[0] in outputs:
            outputs[quantized[node.input[0]]] = outputs.pop(node.output[0])
    return {name: value for name, value in outputs.items() if value.dtype.kind == "f"}


def torch_tensors(model: CLN, crops: NDArray[np.uint8]) -> Tensors:
    """What the blocks and the single layers of a network in eval mode put out."""
    import torch

    outputs: Tensors = {}

    def note(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            outputs[_plain(name)] = output.float().numpy()

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


def _compare(reference: Tensors, step: Tensors, limit: float) -> tuple[str, str]:
    """What is to be said, and the name of the tensor that it is said of."""
    from polygraphy.comparator import IterationResult, SimpleCompareFunc

    names = [name for name, value in step.items() if name in reference and reference[name].size == value.size]
    if not names:
        return "no tensor could be compared", ""
    sizes = {name: max(float(np.sqrt(np.square(reference[name], dtype=np.float64).mean())), 1e-12) for name in names}
    sides = (
        {name: np.ascontiguousarray(step[name], dtype=np.float64) / sizes[name] for name in names},
        {name: np.ascontiguousarray(reference[name].reshape(step[name].shape)) / sizes[name] for name in names},
    )
    compare = SimpleCompareFunc(atol=limit, rtol=0.0, check_error_stat="mean")
    with _quiet():
        found = compare(*(IterationResult(outputs=tensors) for tensors in sides))
    errors = {name: float(found[name].mean_absdiff) for name in names}
    first = next((name for name in names if not found[name]), None)
    if first is None:
        most = max(errors, key=lambda name: errors[name])
        text = f"none of {len(names)} tensors differs by more than {limit:g} of its size, {most} most"
        return f"{text} ({errors[most]:.2g})", most
    text = f"the first of {len(names)} tensors that differs is {first}"
    return f"{text} (by {errors[first]:.2g} of its size, limit {limit:g})", first


def _layers(data: bytes, *, with_relus: bool = False) -> Mapping[str, str]:
    """The layers of a float ONNX graph, output: name of the weights as in the torch network."""
    import onnx

    graph = onnx.load_model_from_string(data).graph
    constants = {tensor.name for tensor in graph.initializer}
    layers = {}
    for node in graph.node:
        if node.op_type in _LAYERS and node.input[1] in constants:
            layers[node.output[0]] = _plain(node.input[1].removesuffix(".weight"))
        elif with_relus and node.op_type == "Relu" and node.input[0] in layers:
            layers[node.output[0]] = layers[node.input[0]]
    return layers


def _plain(name: str) -> str:
    """The name in the fused network: `to_mixed` puts each stream behind a cast, and the head into a sequence."""
    name = re.sub(r"^(global|local)_stream\.1\.(\d+\.\d+)$", r"\1_stream.\2", name)
    return "head" if name.startswith("head.") else name


def _quiet() -> Any:
    """Polygraphy prints every tensor it compares."""
    from polygraphy.logger import G_LOGGER

    return G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1)
