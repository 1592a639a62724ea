"""INT8 for the CPU: a float32 graph becomes a QDQ graph through ONNX Runtime's quantizer, calibrated on face crops.

Quantized are the streams' convolutions, with the ReLUs behind them, and the fusion: weights int8 per channel,
activations uint8 per tensor. Channels are made alike before, and ranges chosen, so that a still face keeps still
(`export.equalization`); where that does not apply, ranges are the extremes that the calibration crops show. What comes
before the layers works on the crops' bytes (`export.byte_input`). The rest stays float32: attention and head, whose
share of the time is small and whose rounding would cost as much accuracy as that of all the others together.

RepVGG's folded kernels lose accuracy here, some far more than others. So the layers are tried: while NME moves by more
than half of its gate on the calibration faces, the layer that alone moves the landmarks most goes back to float32. Then
the first layers, from the image on, while a still face jitters too much: rounding there is what the others are given.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.byte_input import Overrides, feed_bytes, feeding
from export.comparison import BATCH, Comparison, Gate, onnx_run
from export.console import Progress, report_step
from export.equalization import equalized, noisy_frames
from export.errors import ParityError, PrecisionError
from export.faces import FACES, LabelledFaces, ParityCrops, noise_crops
from export.first_mismatch import INT8_LIMIT, graph_mismatch
from export.onnx_graph import Float32Graph, embed_manifest
from export.sources import Sources
from runtime.engines.onnx import import_onnxruntime
from runtime.errors import EngineUnavailableError, InvalidInputError
from runtime.files import sha256
from runtime.manifest import INPUT, Manifest, Parity

HELD_OUT = 160  # faces for the figure that the gate looks at, the first ones
_CALIBRATION = range(10_000, 10_064)  # those for the ranges and the choice of layers, far from them
INT8_GATE = Gate(delta_nme=0.1)
_EQUALIZING = 32  # of the calibration faces: what equalizing looks at (16: 1 to 5 % more jitter)
_STILL_FRAMES = 4  # of each calibration face, to measure jitter with
# Times float32's on them, or as near to it as layers get that lower it by so much, one or two at once. Photographs
# jitter more (× 1.24 where these had 1.17), and it is there that it should stay below 1.2.
_JITTER, _STEADIER = 1.12, 0.01
_FEW_CHANNELS = 8  # a layer with fewer input channels is slower in INT8
_FUSION = "fusion"
_LARGEST_SHARE = 0.5  # of the layers that may stay float32: beyond it, INT8 is not worth its name


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """An INT8 graph and how it came about."""

    data: bytes
    layers: tuple[str, ...]  # in INT8, by the name of their weights
    excluded: tuple[str, ...]  # kept in float32 by measurement, most sensitive first
    delta_nme: float  # percent, on the calibration faces
    jitter: float  # of the landmarks of those faces under camera noise, against float32's


@dataclass(frozen=True, kw_only=True)
class Int8Graph:
    """A quantized graph that has passed its gate on held-out faces."""

    quantized: Quantized
    parity: tuple[Parity, ...]  # of all steps up to here

    def file(self, base: Manifest, float32_file: bytes) -> bytes:
        """X.int8.onnx; `float32_file` is the X.onnx that it was made from."""
        manifest = replace(
            base,
            precision="int8",
            builder_version=f"{base.builder_version}, onnxruntime {import_onnxruntime().__version__}",
            onnx_sha256=sha256(float32_file),
            parity=self.parity,
            figures={
                **base.figures,
                "int8/layers": float(len(self.quantized.layers)),
                "int8/excluded_layers": float(len(self.quantized.excluded)),
                "int8/jitter_ratio": self.quantized.jitter,
            },
        )
        return embed_manifest(self.quantized.data, manifest)


def int8_graph(
    sources: Sources, exact: Float32Graph, comparison: Comparison, progress: Progress[Any] = iter
) -> Int8Graph:
    """Quantizes on rendered calibration faces and measures on held-out ones, those of `comparison` among them.

    Raises:
        InvalidInputError: no faces can be rendered to calibrate with.
        EngineUnavailableError, ParityError, PrecisionError: as `quantize` does, or the held-out faces' NME moves.
    """
    started = time.perf_counter()
    calibration = _compare(sources, sources.render(_CALIBRATION, progress))
    rendered = comparison.crops.faces[:FACES], comparison.crops.labels
    held_out = _compare(sources, rendered, sources.render(range(FACES, HELD_OUT), progress))
    counts = f"{len(_CALIBRATION)} to calibrate, {HELD_OUT} held out, NME {held_out.nme or 0.0:.3f} %"
    report_step("INT8 faces", counts, started)
    started = time.perf_counter()
    found = quantize(exact.data, calibration, progress)
    report_step(
        "ONNX INT8",
        f"{len(found.data) / 1e6:.2f} MB, {len(found.layers)} layers in INT8, left out by measurement: "
        f"{', '.join(found.excluded) or 'none'}; jitter under camera noise × {found.jitter:.2f}",
        started,
    )
    where = functools.partial(graph_mismatch, exact.data, found.data, held_out.crops.gated, INT8_LIMIT)
    parity = held_out.measure("ONNX INT8", onnx_run(found.data, "INT8 graph"), INT8_GATE, where)
    return Int8Graph(quantized=found, parity=(*exact.parity, parity))


def _compare(sources: Sources, *rendered: LabelledFaces) -> Comparison:
    """The network on rendered faces, its own answers for labels where there are none."""
    faces, labels = (np.concatenate(arrays) for arrays in zip(*rendered, strict=True))
    if not len(faces):
        raise InvalidInputError(
            "--precision int8: expected rendered faces to calibrate with, but training.synthetic or numba is "
            "missing; run: pip install 'cln[cpu,export]'"
        )
    return sources.compare(ParityCrops(faces=faces, noise=noise_crops(faces.shape[1]), labels=labels)).with_own_labels()


def quantize(data: bytes, calibration: Comparison, progress: Progress[Any] = iter) -> Quantized:
    """The INT8 graph of a float32 one, with as few layers left out as the gate asks for.

    Args:
        data: the float32 ONNX graph.
        calibration: the network on the calibration crops.
        progress: shows how far the search for sensitive layers has come.

    Raises:
        EngineUnavailableError: ONNX Runtime's quantizer is not there.
        ParityError: NME moves too much even with half of the layers left out.
        PrecisionError: the quantizer left a layer in float32 that was meant for INT8.
    """
    even = equalized(data, calibration.crops.faces[:_EQUALIZING])
    graph = _Candidates(even.data, even.ranges)
    frames = noisy_frames(calibration.crops.faces, _STILL_FRAMES)
    exact = calibration.jitter(onnx_run(data, "float32 graph"), frames)

    def without(excluded: Sequence[str]) -> Quantized:
        layers = tuple(layer for layer in graph.candidates if layer not in excluded)
        result = graph.quantize(layers, calibration)
        run = onnx_run(result, "INT8 graph")
        delta, jitter = calibration.delta_nme(run), calibration.jitter(run, frames) / exact
        return Quantized(data=result, layers=layers, excluded=tuple(excluded), delta_nme=delta, jitter=jitter)

    largest = round(_LARGEST_SHARE * len(graph.candidates))

    def steadiest(options: Iterable[Sequence[str]], than: Quantized) -> Quantized | None:
        tries = [without(excluded) for excluded in options if len(excluded) <= largest]
        limit = than.jitter - _STEADIER
        good = [t for t in tries if abs(t.delta_nme) <= INT8_GATE.delta_nme / 2 and t.jitter <= limit]
        return min(good, key=lambda tried: tried.jitter, default=None)

    order: list[str] = []
    best = without([])
    while abs(best.delta_nme) > INT8_GATE.delta_nme / 2:
        if len(best.excluded) == largest:
            raise ParityError(
                f"INT8: expected NME to move by at most {INT8_GATE.delta_nme:g} % on faces, got "
                f"{best.delta_nme:+.2g} % on the calibration faces with the {largest} most sensitive layers in float32 "
                f"({', '.join(best.excluded)}); train with less spread in the folded weights, or use float32"
            )
        order = order or _by_sensitivity(graph, calibration, progress)
        report_step(
            "INT8 sensitivity", f"NME moves by {best.delta_nme:+.3f} %: {order[len(best.excluded)]} stays float32"
        )
        best = without(order[: len(best.excluded) + 1])
    while best.jitter > _JITTER:
        one = graph.further(best.excluded)
        # A layer alone may gain nothing: what it gives is then rounded on its way to the next one.
        two = {frozenset(both): both for excluded in one for both in graph.further(excluded)}  # each pair once
        steadier = steadiest(one, best) or steadiest(two.values(), best)
        if steadier is None:
            break
        more = ", ".join(steadier.excluded[len(best.excluded) :])
        report_step("INT8 jitter", f"× {best.jitter:.3f}, now × {steadier.jitter:.3f}: float32 for {more}")
        best = steadier
    return best


def quantized_layers(data: bytes) -> list[str]:
    """Names of the layers of a QDQ graph whose weights and inputs are both integers: what INT8 kernels will run."""
    import onnx

    model = onnx.load_model_from_string(data)
    integers = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and all(name in integers for name in node.input[:2])
    ]


def _by_sensitivity(graph: _Candidates, calibration: Comparison, progress: Progress[Any]) -> list[str]:
    """Layers by how far the landmarks move when each alone is quantized, farthest first."""
    moved = {
        layer: calibration.landmark_px(onnx_run(graph.quantize([layer], calibration), layer)).mean()
        for layer in progress(graph.candidates)
    }
    return sorted(moved, key=lambda layer: -moved[layer])


class _Candidates:
    """A float32 graph, and the layers of it that may be quantized, by the name of their weights."""

    def __init__(self, data: bytes, ranges: Mapping[str, float] | None = None) -> None:
        """`ranges`, from zero, are for the layers' inputs that they name; others get theirs by calibration."""
        import onnx

        model = onnx.load_model_from_string(data)
        self._overrides = {**feed_bytes(model), **_range_overrides(model.graph, ranges or {})}
        self._data = model.SerializeToString()
        inputs = {tensor.name: tensor.dims[1] for tensor in model.graph.initializer if len(tensor.dims) > 1}
        relus = {node.input[0]: node.name for node in model.graph.node if node.op_type == "Relu"}
        self.candidates: dict[str, list[str]] = {}  # weights -> names of the layer's node and of those that go with it
        self._before: dict[str, set[str]] = {}  # weights -> names of all nodes that the layer is given something by
        for node in model.graph.node:
            if node.op_type in ("Conv", "Gemm") and inputs.get(node.input[1], 0) >= _FEW_CHANNELS:
                name = node.input[1].removesuffix(".weight")
                if name == _FUSION:  # takes along what moves features on their way to it
                    self.candidates[name] = [*(n.name for n in feeding(model.graph, node, "Relu")), node.name]
                elif node.output[0] in relus:
                    self.candidates[name] = [node.name, relus[node.output[0]]]
                else:
                    continue
                self._before[name] = {before.name for before in feeding(model.graph, node)}

    def further(self, excluded: Sequence[str]) -> list[list[str]]:
        """The excluded layers and one more that no INT8 layer comes before, if those are float32: each way to go on."""
        left = [layer for layer in self.candidates if layer not in excluded]
        nodes = {node for layer in left for node in self.candidates[layer]}
        first = (layer for layer in left if not nodes & self._before[layer] - {*self.candidates[layer]})
        return [[*excluded, layer] for layer in first]

    def quantize(self, layers: Sequence[str], calibration: Comparison) -> bytes:
        """The graph with these layers in INT8."""
        import onnx

        quantization = _quantizer()
        model = onnx.load_model_from_string(self._data)  # the quantizer moves weights out of the one it is given
        nodes = [name for layer in layers for name in self.candidates[layer]]
        with tempfile.TemporaryDirectory() as folder, _quiet():
            out = Path(folder) / "int8.onnx"
            quantization.quantize_static(
                model,
                out,
                _Reader(calibration.crops.faces),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                nodes_to_quantize=nodes,
                extra_options={
                    "TensorQuantOverrides": self._overrides,
                    "OpTypesToExcludeOutputQuantization": ["Gemm"],  # the fusion's: float32 goes on from there
                },
            )
            data = out.read_bytes()
        done = len(quantized_layers(data))
        if done != len(layers):
            raise PrecisionError(f"INT8: expected {len(layers)} layers in INT8, got {done}; report it")
        return data


def _range_overrides(graph: Any, ranges: Mapping[str, float]) -> Overrides:
    """Ranges of layers' inputs as the quantizer takes them: for the same values in other layouts, too, from ReLU on."""
    made = {output for node in graph.node for output in node.output}
    overrides: Overrides = {}
    for layer in (node for node in graph.node if node.input and node.input[0] in ranges):
        span = {"rmin": np.float32(0), "rmax": np.float32(ranges[layer.input[0]])}
        moved = {name for node in feeding(graph, layer, "Relu") for name in node.input}
        overrides |= {name: [span] for name in (layer.input[0], *(moved & made))}
    return overrides


class _Reader:
    """Calibration crops in batches, as the quantizer asks for them."""

    def __init__(self, crops: NDArray[np.uint8]) -> None:
        self._batches = iter(crops[start : start + BATCH] for start in range(0, len(crops), BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _quantizer() -> Any:
    try:
        import_onnxruntime()
        from onnxruntime import quantization
    except (EngineUnavailableError, ImportError) as error:
        raise EngineUnavailableError(
            f"--precision int8 needs ONNX Runtime's quantizer, which is not there ({error}); "
            "run: pip install 'cln[cpu,export]'"
        ) from None
    return quantization


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The quantizer advises, through the root logger, to optimise the graph first; the exporter has done so. A handler
    # must be there, or `logging` would make one, and all that is logged later would be printed by it, too.
    logger, handler = logging.getLogger(), logging.NullHandler()
    level = logger.level
    logger.setLevel(logging.ERROR)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
