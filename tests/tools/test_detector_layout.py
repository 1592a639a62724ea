"""The rewritten detector's graph gives what the graph before gave."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.engines.onnx import create_session
from tools.detector_layout import split_padded_shortcuts, widen_narrow_layers


def weight(name, shape, rng):
    return numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float16), f"{name}_half")


def network():
    """A block as BlazeFace has them: 4 channels, a bottleneck of 12, 6 channels, the shortcut padded and added."""
    rng = np.random.default_rng(0)
    layers = {"a": (12, 4, 1), "b": (12, 1, 3), "c": (6, 12, 1)}  # out, in of a group, kernel
    constants = [numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 2, 0, 0], np.int64), "pads")]
    nodes = []
    for name, (out, inside, kernel) in layers.items():
        constants += [weight(f"{name}_w", (out, inside, kernel, kernel), rng), weight(f"{name}_b", (out,), rng)]
        nodes += [helper.make_node("Cast", [f"{name}_{k}_half"], [f"{name}_{k}"], to=TensorProto.FLOAT) for k in "wb"]
    nodes += [
        helper.make_node("Conv", ["x", "a_w", "a_b"], ["a"], group=1),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "b_w", "b_b"], ["b"], group=12, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "c_w", "c_b"], ["c"], group=1),
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("Add", ["p", "c"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 5, 5]) for n, c in (("x", 4), ("y", 6))]
    graph = helper.make_graph(nodes, "block", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, x):
    onnx.checker.check_model(model, full_check=True)
    return create_session(model.SerializeToString(), name="block", threads=1).run(None, {"x": x})[0]


def test_the_rewritten_graph_is_padded_nowhere_widened_and_gives_the_same():
    model, x = network(), np.random.default_rng(1).normal(size=(1, 4, 5, 5)).astype(np.float32)
    before = run(model, x)
    split_padded_shortcuts(model)
    widen_narrow_layers(model)
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)
    assert not any(node.op_type == "Pad" for node in model.graph.node)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert (shapes["a_w_half"], shapes["b_w_half"]) == ((16, 4, 1, 1), (16, 1, 3, 3))
    assert all(shape[1] == 16 for name, shape in shapes.items() if name.startswith("y_") and "weight" in name)


def test_a_narrow_layer_before_anything_but_convolutions_is_refused():
    model = network()
    model.graph.node.insert(8, helper.make_node("Add", ["r", "r"], ["twice"]))
    model.graph.node[9].input[0] = "twice"
    with pytest.raises(ValueError, match="narrow layers before convolutions alone, got one before Add"):
        widen_narrow_layers(model)
