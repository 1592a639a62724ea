"""A converted detector's graph, written so that ONNX Runtime stays in its blocked layout: the same sums, in less time.

ONNX Runtime runs convolutions on blocks of 16 channels (AVX-512) or 8. Two things of the source have no place there,
and each makes it go back to NCHW and forth again:

- a shortcut of fewer channels that is padded with zeros and added: here the convolution is cut in two, its first
  channels get the shortcut, the others none, and they are joined behind their ReLUs
- layers of 12 channels: here they have 16, four of them zero. (Layers of 8 would gain on AVX-512, but lose a tenth
  elsewhere.)

On a core with AVX-512, a pass takes 0.79 times as long as that of the source's graph. INT8 is no way to save more:
the whole graph as QDQ (ONNX Runtime 1.32, per channel) takes 1.1 times as long with AVX512-VNNI, since depthwise layers
and those of 8 to 48 channels are faster in float32.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_NATIVE, _BLOCK = 8, 16  # channels: layers of more than the first and fewer than the second are widened


class _Graph:
    """A graph whose weights are constants of float16, each with a Cast of its own."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.nodes = list(model.graph.node)
        self.makers = {node.output[0]: node for node in self.nodes}
        self.users: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.users[name].append(node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def weights(self, convolution: Any) -> list[NDArray[Any]]:
        """Of a convolution: weights (out, in, h, w) and bias (out,)."""
        return [self.constant(self.makers[name].input[0]) for name in convolution.input[1:]]

    def constant(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])

    def set_weights(self, convolution: Any, values: list[NDArray[Any]]) -> None:
        for name, value in zip(convolution.input[1:], values, strict=True):
            half = self.makers[name].input[0]
            self.constants[half].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), half))

    def finish(self, nodes: list[Any]) -> None:
        """Takes over the nodes, less casts and constants that none of them uses."""
        used = {name for node in nodes for name in node.input} | {output.name for output in self.graph.output}
        kept = [node for node in nodes if node.output[0] in used]
        used = {name for node in kept for name in node.input}
        constants = [tensor for name, tensor in self.constants.items() if name in used]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(kept)
        self.graph.initializer.extend(constants)


def split_padded_shortcuts(model: onnx.ModelProto) -> None:
    """Relu(Conv + Pad(shortcut)) becomes Concat(Relu(Conv's first + shortcut), Relu(Conv's others)), in place."""
    whole = _Graph(model)
    nodes: list[Any] = []
    replaced: set[int] = set()
    joins: dict[int, list[Any]] = {}
    for pad in (node for node in whole.nodes if node.op_type == "Pad"):
        (add,) = whole.users[pad.output[0]]
        (relu,) = whole.users[add.output[0]]
        (convolution,) = (whole.makers[name] for name in add.input if name != pad.output[0])
        replaced |= {id(node) for node in (pad, add, relu, convolution)}
        joins[id(relu)] = _split(whole, convolution, pad, relu.output[0])
    for node in whole.nodes:
        nodes += joins.get(id(node), [] if id(node) in replaced else [node])
    whole.finish(nodes)


def _split(whole: _Graph, convolution: Any, pad: Any, output: str) -> list[Any]:
    weight, bias = whole.weights(convolution)
    count = len(weight) - int(whole.constant(pad.input[1])[5])  # the shortcut's channels
    options = {each.name: helper.get_attribute_value(each) for each in convolution.attribute}
    nodes, parts = [], []
    for name, part in ((f"{output}_first", slice(0, count)), (f"{output}_others", slice(count, None))):
        inputs = [convolution.input[0]]
        for kind, value in (("weight", weight[part]), ("bias", bias[part])):
            half = f"{name}_{kind}_half"
            whole.constants[half] = numpy_helper.from_array(np.ascontiguousarray(value), half)
            inputs.append(f"{name}_{kind}")
            nodes.append(_node("Cast", [half], inputs[-1], to=onnx.TensorProto.FLOAT))
        summed = f"{name}_convolved"
        nodes.append(_node("Conv", inputs, summed, **options))
        if part.start == 0:
            nodes.append(_node("Add", [summed, pad.input[0]], f"{name}_sum"))
            summed = f"{name}_sum"
        nodes.append(_node("Relu", [summed], name))
        parts.append(name)
    return [*nodes, _node("Concat", parts, output, axis=1)]


def widen_narrow_layers(model: onnx.ModelProto) -> None:
    """Layers of 9 to 15 channels get zeros up to 16, in place; the network's own outputs stay as they are."""
    whole = _Graph(model)
    wide: dict[str, int] = {}  # a tensor, and by how many channels it is wider than before
    for node in whole.nodes:
        if node.op_type in ("Relu", "MaxPool") and node.input[0] in wide:
            wide[node.output[0]] = wide[node.input[0]]
        if node.op_type != "Conv":
            continue
        weight, bias = whole.weights(node)
        (group,) = (each for each in node.attribute if each.name == "group")
        more_in = wide.get(node.input[0], 0)
        more_out = _BLOCK - len(weight) if _NATIVE < len(weight) < _BLOCK else 0
        if group.i > 1:  # depthwise: it is as wide as what it gets
            more_in, more_out = 0, more_in
            group.i += more_out
        if more_out:
            wide[node.output[0]] = more_out
        weight = np.pad(weight, ((0, more_out), (0, more_in), (0, 0), (0, 0)))
        whole.set_weights(node, [weight, np.pad(bias, (0, more_out))])
    taken = [n for n in whole.nodes if n.op_type not in ("Conv", "Relu", "MaxPool") and set(n.input) & set(wide)]
    if taken:
        raise ValueError(f"expected narrow layers before convolutions alone, got one before {taken[0].op_type}")


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes)
