"""A tiny real engine: an ONNX graph that answers each crop with a frontal mean face, moved by the crop's mean."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime import Manifest, load_face_model
from runtime.manifest import ONNX_KEY

SIZE = 64


def make_manifest(**changes):
    model = load_face_model()
    values = dict(
        input_size=SIZE,
        shape_count=model.shape_count,
        expression_count=model.expression_count,
        face_model=model.name,
        face_model_sha256=model.sha256,
        precision="fp32",
        builder="onnx",
        builder_version="test",
        batch_range=(1, 64),
        checkpoint_sha256="0" * 64,
    )
    return Manifest(**(values | changes))


def write_engine(path, manifest):
    """params = frontal mean face with tx = mean grey value of the crop."""
    base = np.zeros((1, 62), dtype=np.float32)
    base[0, :12] = [0.25, 0, 0, 0, 0, -0.25, 0, 32, 0, 0, 0.25, 0]
    pick = np.zeros((1, 62), dtype=np.float32)
    pick[0, 3] = 1
    nodes = [
        helper.make_node("Cast", ["crops"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "pick"], ["moved"]),
        helper.make_node("Add", ["moved", "base"], ["params"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean_face",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("params", TensorProto.FLOAT, ["batch", 62])],
        [
            numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
            numpy_helper.from_array(np.array([1]), "last"),
            numpy_helper.from_array(base, "base"),
            numpy_helper.from_array(pick, "pick"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if manifest is not None:
        onnx.helper.set_model_props(model, {ONNX_KEY: manifest.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture
def engine_file(tmp_path):
    return write_engine(tmp_path / "mean_face.onnx", make_manifest())
