"""The network as an ONNX graph: input `crops` uint8 (B, S, S, 3), output `params` float32 (B, 62), B dynamic.

The bytes hold no traces of the machine that made them: stack traces and paths that the exporter adds are removed.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runtime.manifest import INPUT, ONNX_KEY, OUTPUT, Manifest

if TYPE_CHECKING:
    from training.model import CLN


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
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
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
