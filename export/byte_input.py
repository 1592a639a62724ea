"""First layers made ready for INT8: bytes of the crops go through the self-shuffle and into convolutions as they are.

A byte is a quantized number already. The network sees (p - 127.5) / 128; with scale 1/128 and zero point 128 the byte p
stands for 1/256 less. The layer's bias makes up for that, everywhere but at the border, where half a step is missing of
what lies outside of the image.

The weights keep to 64 steps, half of what int8 has: without VNNI a CPU adds two products of a byte and a weight in 16
bits, and two bright pixels would overflow them. (Behind a ReLU, values are mostly far below their largest.)

INT8 kernels want input channels by fours and output channels by sixteens. So the convolutions here, first layers and
the thumbnail's mean, take several pixels of a row for the channels of one, as they lie in channels-last memory: nothing
is moved, and the zeros in the widened kernels cost less than an image of three channels would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.manifest import INPUT

Overrides = dict[str, list[dict[str, Any]]]  # by tensor, as ONNX Runtime's quantizer takes them

_COLOURS = 3
_PIXELS = 4  # of a row that a first layer takes for one; it puts out two
_STEPS = 64  # of a first layer's weights on either side of zero
_MOST_MEANS = 16  # pixels of the thumbnail that are put out as one
_PLAIN = ("Cast", "Sub", "Mul", "Transpose")  # before a first layer
_SHUFFLED = (*_PLAIN, *("Reshape", "ReduceMean") * 2, "Reshape", "Concat", "Gather", "Reshape")


def feed_bytes(model: Any) -> Overrides:
    """Takes cast and normalisation out of a float32 graph, in place, and widens its first layers.

    A graph that has something else before its first layers than `CLN` with its thumbnail stays as it is.

    Returns:
        How the quantizer must quantize what bytes became, so that it is those bytes again, and the first layers.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers = [n for n in graph.node if n.op_type == "Conv" and constants[n.input[1]].shape[1:] == (_COLOURS, 3, 3)]
    before = {layer.name: feeding(graph, layer) for layer in layers}
    kinds = [sorted(node.op_type for node in nodes) for nodes in before.values()]
    size = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    if not layers or size % _PIXELS or any(kind not in (sorted(_PLAIN), sorted(_SHUFFLED)) for kind in kinds):
        return {}
    front = _Front(constants, before[layers[0].name], size)
    relus = {node.input[0]: node for node in graph.node if node.op_type == "Relu"}
    for layer in layers:
        gather = next((node for node in before[layer.name] if node.op_type == "Gather"), None)
        pixels = INPUT if gather is None else front.shuffled(constants[gather.input[1]])
        front.layer(pixels, layer, relus[layer.output[0]])
    gone = {node.name for nodes in before.values() for node in nodes}
    gone |= {name for layer in layers for name in (layer.name, relus[layer.output[0]].name)}
    rest = [node for node in graph.node if node.name not in gone]
    used = {name for node in rest for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    for field, values in ((graph.node, [*front.nodes, *rest]), (graph.initializer, [*front.constants, *kept])):
        del field[:]
        field.extend(values)
    return front.overrides


def rounded(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (O, ...) in `_STEPS` steps up to their output's largest, rounded so that their sum for each output stays.

    Neighbouring pixels are much alike, and what they have in common meets that sum: its error would weigh most.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    step = np.maximum(np.abs(flat).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / _STEPS
    steps = np.rint(flat / step)
    for row, left in zip(steps, flat / step - steps, strict=True):
        missing = round(left.sum())
        nearest = np.argsort(-np.sign(missing) * left)[: abs(missing)]  # to being rounded the other way
        row[nearest] += np.sign(missing)
    return np.asarray(steps * step, dtype=np.float32).reshape(weight.shape)


def widened(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A 3x3 kernel with stride 2, (O, I, 3, 3), over blocks of four pixels: (2 * O, 4 * I, 3, 2).

    Its columns are the block before and this one; its outputs two neighbours, one after the other.
    """
    outputs, inputs = weight.shape[:2]
    blocks = np.zeros((2, outputs, _PIXELS, inputs, 3, 2), dtype=np.float32)
    for pixel in range(2):
        for column in range(3):
            block, place = divmod(_PIXELS + 2 * pixel + column - 1, _PIXELS)
            blocks[pixel, :, place, :, :, block] = weight[:, :, :, column]
    return blocks.reshape(2 * outputs, _PIXELS * inputs, 3, 2)


def block_sums(factor: int, count: int) -> NDArray[np.int8]:
    """A kernel of ones, (3 * count, 3 * count * factor, factor, 1): `count` sums of factor x factor pixels a row."""
    same = np.eye(count * _COLOURS, dtype=np.int8).reshape(-1, count, 1, _COLOURS)
    row = np.repeat(same, factor, axis=2).reshape(count * _COLOURS, -1, 1, 1)
    return np.repeat(row, factor, axis=2)


def feeding(graph: Any, layer: Any, last: str = "") -> list[Any]:
    """The nodes that a layer is fed by, back to the input or to nodes of the type `last`."""
    makers = {output: node for node in graph.node for output in node.output}
    found: dict[str, Any] = {}
    todo = list(layer.input)
    while todo:
        node = makers.get(todo.pop())
        if node is not None and node.op_type != last:
            found[node.name] = node
            todo += node.input
    return list(found.values())


class _Front:
    """Writes the nodes up to the first layers again."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], normalise: Sequence[Any], size: int) -> None:
        """`normalise` has the subtraction and the multiplication of the pixels, which are (B, size, size, 3)."""
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.overrides: Overrides = {}
        self._weights, self._size = weights, size
        constant = {node.op_type: weights[node.input[1]] for node in normalise if node.op_type in ("Sub", "Mul")}
        zero = math.ceil(constant["Sub"])
        self._missing = np.float32((zero - constant["Sub"]) * constant["Mul"])
        scale = np.asarray(constant["Mul"], dtype=np.float32)
        self._quantization: dict[str, NDArray[Any]] = {"scale": scale, "zero_point": np.asarray(zero, dtype=np.uint8)}
        self._scale = [self._constant(f"pixel_{name}", value) for name, value in self._quantization.items()]

    def shuffled(self, lines: NDArray[np.int64]) -> str:
        """The shuffled bytes, a line of a cell at a time: a look-up among the image's lines and its thumbnail's."""
        grid = len(lines) // self._size
        length = self._size // grid * _COLOURS
        image = self._reshaped(INPUT, (-1, len(lines), length))
        both = self._add("Concat", [image, self._reshaped(self._means(grid), (-1, self._size // grid, length))], axis=1)
        return self._add("Gather", [both, self._constant("shuffled_lines", lines)], axis=1)

    def _means(self, factor: int) -> str:
        """The thumbnail's pixels, means of factor x factor of the image's, as bytes."""
        count = math.gcd(self._size // factor, _MOST_MEANS)
        blocks = self._blocks(INPUT, count * factor)
        share = [self._constant("mean_share", np.float32(factor**-2)), self._constant("mean_zero_point", np.int8(0))]
        weight = self._add("DequantizeLinear", [self._constant("mean_sums", block_sums(factor, count)), *share])
        means = self._add("Conv", [blocks, weight], kernel_shape=(factor, 1), strides=(factor, 1))
        return self._channels_last(self._add("QuantizeLinear", [means, *self._scale]))

    def layer(self, pixels: str, layer: Any, relu: Any) -> None:
        """A stream's first layer and its ReLU, on bytes (B, size, size, 3)."""
        weight = rounded(self._weights[layer.input[1]])
        bias = self._missing * weight.sum(axis=(1, 2, 3)) + sum(self._weights[name] for name in layer.input[2:])
        stem = layer.input[1].removesuffix(".weight")
        blocks = self._blocks(pixels, _PIXELS)
        kernel = self._constant(f"{stem}.wide.weight", widened(weight))
        shift = self._constant(f"{stem}.wide.bias", np.tile(bias, 2))
        self.overrides[blocks] = [dict(self._quantization)]
        self.overrides[kernel] = [{"axis": 0, "reduce_range": True}]
        sums = self._add("Conv", [blocks, kernel, shift], kernel_shape=(3, 2), strides=(2, 1), pads=(1, 1, 0, 0))
        rows = self._channels_last(self._add("Relu", [sums]))
        half = self._size // 2
        self._channels_first(self._reshaped(rows, (-1, half, half, len(weight))), relu.output[0])

    def _blocks(self, pixels: str, count: int) -> str:
        """Bytes (B, size, size, 3) as what they stand for, `count` pixels of a row as channels: (B, C, size, W)."""
        rows = self._reshaped(pixels, (-1, self._size, self._size // count, count * _COLOURS))
        return self._channels_first(self._add("DequantizeLinear", [rows, *self._scale]))

    def _channels_first(self, source: str, output: str | None = None) -> str:
        return self._add("Transpose", [source], output, perm=(0, 3, 1, 2))

    def _channels_last(self, source: str) -> str:
        return self._add("Transpose", [source], perm=(0, 2, 3, 1))

    def _reshaped(self, source: str, shape: tuple[int, ...]) -> str:
        name = self._constant(f"shape{len(self.nodes)}", np.array(shape, dtype=np.int64))
        return self._add("Reshape", [source, name])

    def _add(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = f"front{len(self.nodes)}_{kind}"
        self.nodes.append(helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name

    def _constant(self, name: str, values: ArrayLike) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name
