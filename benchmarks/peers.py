"""`python -m benchmarks.peers OUT.onnx`: a network to be measured against, of a published shape but random weights.

MobileNet (v1, arXiv 1704.04861) at half width for 120-px crops, as 3DDFA_V2 uses it: float32 (B, 3, 120, 120) in, 62
parameters out, batch norms already folded, 46 million multiply-adds. Its speed is the real one's; its answers mean
nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.output import run
from runtime.command import command
from runtime.files import write_atomically

SIZE = 120
_STEM = 16
# (output channels, stride) of the depthwise-separable blocks
_BLOCKS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), *[(256, 1)] * 5, (512, 2), (512, 1))
_PARAMS = 62


def mobilenet_graph() -> tuple[bytes, int]:
    """The graph as ONNX bytes, and its multiply-adds per crop."""
    from onnx import TensorProto, helper

    graph = _Graph()
    name, side, channels = graph.convolution("image", 3, _STEM, kernel=3, stride=2, side=SIZE), SIZE // 2, _STEM
    for outputs, stride in _BLOCKS:
        name = graph.convolution(name, channels, channels, kernel=3, stride=stride, side=side, groups=channels)
        side = -(-side // stride)
        name = graph.convolution(name, channels, outputs, kernel=1, stride=1, side=side)
        channels = outputs
    graph.nodes.append(helper.make_node("GlobalAveragePool", [name], ["pooled"]))
    graph.nodes.append(helper.make_node("Flatten", ["pooled"], ["features"]))
    weight, bias = graph.constant((_PARAMS, channels)), graph.constant((_PARAMS,))
    graph.nodes.append(helper.make_node("Gemm", ["features", weight, bias], ["params"], transB=1))
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])]
    outputs_ = [helper.make_tensor_value_info("params", TensorProto.FLOAT, ["batch", _PARAMS])]
    proto = helper.make_graph(graph.nodes, "mobilenet_half_120", inputs, outputs_, graph.weights)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString()), graph.multiply_adds + _PARAMS * channels


class _Graph:
    """Nodes and weights as they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.multiply_adds = 0
        self._random = np.random.default_rng(0)

    def convolution(
        self, source: str, inputs: int, outputs: int, *, kernel: int, stride: int, side: int, groups: int = 1
    ) -> str:
        """A convolution with bias and ReLU; the name of what it puts out."""
        from onnx import helper

        shape = (outputs, inputs // groups, kernel, kernel)
        self.multiply_adds += int(np.prod(shape)) * (-(-side // stride)) ** 2
        raw, rectified = f"convolution{len(self.nodes)}", f"relu{len(self.nodes)}"
        parts = [source, self.constant(shape), self.constant((outputs,))]
        pads = [kernel // 2] * 4
        node = helper.make_node(
            "Conv", parts, [raw], group=groups, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads
        )
        self.nodes += [node, helper.make_node("Relu", [raw], [rectified])]
        return rectified

    def constant(self, shape: tuple[int, ...]) -> str:
        """Random weights that keep activations of size one; their name."""
        from onnx import numpy_helper

        name = f"weight{len(self.weights)}"
        scale = (2 / max(int(np.prod(shape[1:])), 1)) ** 0.5
        values = self._random.normal(0, scale, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.onnx", help="where to write the graph")
    out = parser.parse_args(arguments).out

    def work() -> None:
        data, multiply_adds = mobilenet_graph()
        write_atomically(out, data)
        print(f"{out}: MobileNet x0.5 at {SIZE} px, random weights, {multiply_adds / 1e6:.1f} million multiply-adds")

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
