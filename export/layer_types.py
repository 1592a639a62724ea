"""What a graph's precision really is, by the types that its convolutions and matrix products put out.

TensorRT 11 and TensorRT-RTX take strongly typed networks only: the graph says the type of every layer, and no flag
changes it. So a network's types can be read before a plan is built; what is in the plan its inspector tells, on a GPU.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from export.errors import PrecisionError

NetworkPrecision = Literal["fp32", "fp16-mixed"]
_COMPUTES = re.compile(r"conv|gemm|mat_?mul|matrix", re.IGNORECASE)
_HALF, _SINGLE = re.compile(r"half|fp16|float16", re.IGNORECASE), re.compile(r"float|fp32", re.IGNORECASE)


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


def require_precision(step: str, found: str, expected: str) -> None:
    """Raises `PrecisionError` where a step has another precision than it should have."""
    if found != expected:
        raise PrecisionError(f"{step}: expected precision {expected}, got {found}; the exporter has changed: report it")


def inspected_types(text: str) -> Counter[str]:
    """How many layers that compute give float16 and float32, by the JSON text of an engine's inspector.

    A layer computes if its name or type speaks of convolutions or matrix products, as that of a fused one does. What
    the inspector doesn't tell isn't counted.
    """
    layers = [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]
    counts: Counter[str] = Counter()
    for layer in layers:
        if _COMPUTES.search(f"{layer.get('Name', '')} {layer.get('LayerType', '')}"):
            for output in layer.get("Outputs", []):
                kind = str(output.get("Format/Datatype", ""))
                if _HALF.search(kind):
                    counts["float16"] += 1
                elif _SINGLE.search(kind):
                    counts["float32"] += 1
    return counts


def inspected_precision(types: Mapping[str, int]) -> NetworkPrecision | None:
    """A plan's precision by `inspected_types`; None where they tell nothing.

    A plan is mixed where most of its layers give float16: fused ones, and the last, may well give float32.
    """
    half, single = types.get("float16", 0), types.get("float32", 0)
    if not half + single:
        return None
    return "fp16-mixed" if half > single else "fp32"
