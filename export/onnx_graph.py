"""The network as an ONNX graph: input `crops` uint8 (B, S, S, 3), output `params` float32 (B, 62), B dynamic.

The bytes hold no traces of the machine that made them: stack traces and paths that the exporter adds are removed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from export.comparison import FLOAT32_GATE, Comparison, onnx_run, torch_run
from export.console import report_step
from export.first_mismatch import FLOAT32_LIMIT, exporter_mismatch, torch_mismatch
from export.layer_types import layer_types_text, onnx_layer_types, precision_of, require_precision
from runtime.manifest import INPUT, ONNX_KEY, OUTPUT, Manifest, Parity

if TYPE_CHECKING:
    from training.model import CLN


@dataclass(frozen=True, kw_only=True, eq=False)
class Float32Graph:
    """The network, its branches folded, as a float32 graph."""

    fused: CLN
    data: bytes
    parity: tuple[Parity, ...]

    def file(self, base: Manifest) -> bytes:
        """X.onnx."""
        return embed_manifest(self.data, replace(base, precision="fp32", parity=self.parity))


def float32_graph(model: CLN, comparison: Comparison) -> Float32Graph:
    """Folds the branches of a network in eval mode and exports it.

    Raises:
        ParityError: the folded network or its graph departs too far.
        PrecisionError: a layer is not of float32.
    """
    from training.model import reparameterize

    crops = comparison.crops.gated
    fused = reparameterize(model)
    where = functools.partial(torch_mismatch, model, fused, crops, FLOAT32_LIMIT)
    first = comparison.measure("reparameterized", torch_run(fused), FLOAT32_GATE, where)
    data = export_checked("ONNX float32", fused, expected="fp32")
    where = functools.partial(exporter_mismatch, fused, data, crops, FLOAT32_LIMIT)
    second = comparison.measure("ONNX float32", onnx_run(data, "float32 graph"), FLOAT32_GATE, where)
    return Float32Graph(fused=fused, data=data, parity=(first, second))


def export_checked(step: str, model: CLN, *, expected: str) -> bytes:
    """`export_graph`, and a look at the types of its layers.

    Raises:
        PrecisionError: they do not make up the precision that is `expected`.
    """
    started = time.perf_counter()
    data = export_graph(model)
    types = onnx_layer_types(data)
    require_precision(step, precision_of(types), expected)
    report_step(step, f"{len(data) / 1e6:.2f} MB, {layer_types_text(types)}", started)
    return data


def export_graph(model: CLN) -> bytes:
    """The graph of a fused network (float32, or mixed by `export.precision.to_mixed`), in eval mode, as ONNX bytes."""
    import onnx
    import torch

    size = model.config.input_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"crops": {0: torch.export.Dim("batch")}},  # by the name of forward's argument
            verbose=False,
        )
    graph = program.model_proto
    _remove_traces(graph)
    onnx.checker.check_model(graph, full_check=True)
    return bytes(graph.SerializeToString(deterministic=True))


def embed_manifest(data: bytes, manifest: Manifest) -> bytes:
    """The same ONNX file with `manifest` in its metadata, where `runtime.engines.onnx` looks for it."""
    import onnx

    model = onnx.load_model_from_string(data)
    onnx.helper.set_model_props(model, {ONNX_KEY: manifest.to_json()})
    return bytes(model.SerializeToString(deterministic=True))


def _remove_traces(model: Any) -> None:
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The exporter warns of torchvision operators that no network here has, and of its own deprecated calls.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
