"""Plans: an ONNX graph, already of the right precision, through TensorRT-RTX or TensorRT.

TensorRT-RTX builds ahead of time and needs no GPU; its plans serve several compute capabilities. TensorRT builds for
the GPU in the machine. Both are driven through their common Python API.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from runtime.engines.cuda import Cuda
from runtime.engines.plans import import_library, known_capabilities, logger
from runtime.errors import ClnError, EngineUnavailableError, InvalidInputError
from runtime.manifest import INPUT

BUILDERS = ("tensorrt_rtx", "tensorrt")
# TensorRT-RTX's own choice when none is named. It advises against adding 7.5 to others: all would run Turing's code.
PORTABLE = ("8.0+",)
OPTIMAL_BATCH = 1  # one face in one frame is the common case, and the one where latency counts


class PlanError(ClnError):
    """The builder could not make a plan."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A built plan and what is known of it."""

    data: bytes
    builder: str
    builder_version: str
    compute_capabilities: tuple[str, ...]
    layer_types: Counter[tuple[str, str]]  # convolutions and matrix products by kind and type of output
    seconds: float


def choose_builder(wish: str | None, compute_capabilities: tuple[str, ...]) -> str:
    """The library that can build here: TensorRT-RTX, or TensorRT where it is installed and a GPU is there.

    Raises:
        EngineUnavailableError: neither can; the message says what to install.
        InvalidInputError: compute capabilities were named that the library does not know.
    """
    if wish is None:
        try:
            import_library("tensorrt_rtx")
            wish = "tensorrt_rtx"
        except EngineUnavailableError as error:
            try:
                import_library("tensorrt")
            except EngineUnavailableError:
                raise EngineUnavailableError(f"{error}, or write the .onnx alone with --onnx-only") from None
            wish = "tensorrt"
    library = import_library(wish)
    if wish == "tensorrt":
        Cuda()
        if compute_capabilities:
            raise InvalidInputError(
                "--compute-capability: TensorRT builds for the GPU in the machine alone; leave it out, or use "
                "--builder tensorrt_rtx"
            )
    known = known_capabilities(library) if wish == "tensorrt_rtx" else {}
    if unknown := sorted(set(compute_capabilities) - set(known)):
        raise InvalidInputError(f"--compute-capability: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    return wish


def build_plan(
    onnx: bytes, *, builder: str, input_size: int, max_batch: int, compute_capabilities: tuple[str, ...]
) -> Plan:
    """Builds a plan for batches of 1 to `max_batch`; without compute capabilities, a portable one.

    Raises:
        PlanError: the library cannot parse the graph or build it; its own words are in the message.
    """
    started = time.perf_counter()
    library = import_library(builder)
    factory = library.Builder(logger(builder))
    network = factory.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, logger(builder))
    if not parser.parse(onnx):
        raise PlanError(f"{builder}: cannot parse the ONNX graph ({parser.get_error(0).desc().splitlines()[-1]})")
    config = factory.create_builder_config()
    profile = factory.create_optimization_profile()
    shapes = [(batch, input_size, input_size, 3) for batch in (1, min(OPTIMAL_BATCH, max_batch), max_batch)]
    profile.set_shape(INPUT, *shapes)
    config.add_optimization_profile(profile)
    _configure(config, library, compute_capabilities)
    data = factory.build_serialized_network(network, config)
    if data is None:
        raise PlanError(f"{builder}: cannot build the plan ({logger(builder).reason()})")
    return Plan(
        data=bytes(memoryview(data)),
        builder=builder,
        builder_version=str(library.__version__),
        compute_capabilities=compute_capabilities or _default_capabilities(builder),
        layer_types=_layer_types(library, network),
        seconds=time.perf_counter() - started,
    )


def _configure(config: Any, library: Any, compute_capabilities: tuple[str, ...]) -> None:
    # TF32 has float16's digits: a float32 layer that used it would be float32 by name alone.
    config.clear_flag(library.BuilderFlag.TF32)
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # lets the plan's inspector tell types
    if compute_capabilities:
        known = known_capabilities(library)
        config.num_compute_capabilities = len(compute_capabilities)
        for index, name in enumerate(compute_capabilities):
            config.set_compute_capability(known[name], index)


def inspect_plan(plan: Plan) -> Counter[str] | None:
    """Types of the plan's layers as its own inspector tells them, or None where no GPU is there to load it."""
    library = import_library(plan.builder)
    engine = library.Runtime(logger(plan.builder)).deserialize_cuda_engine(plan.data)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(library.LayerInformationFormat.JSON)
    return count_formats(text)


def count_formats(text: str) -> Counter[str]:
    """How many layer outputs the inspector's JSON text gives for each type, such as `Half` or `Float`."""
    layers = [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]
    outputs = [output for layer in layers for output in layer.get("Outputs", [])]
    return Counter(output["Format/Datatype"] for output in outputs if "Format/Datatype" in output)


def _layer_types(library: Any, network: Any) -> Counter[tuple[str, str]]:
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = (library.LayerType.CONVOLUTION, library.LayerType.MATRIX_MULTIPLY)
    return Counter((layer.type.name, layer.get_output(0).dtype.name) for layer in layers if layer.type in kinds)


def _default_capabilities(builder: str) -> tuple[str, ...]:
    if builder == "tensorrt_rtx":
        return PORTABLE
    major, minor = Cuda().compute_capability()
    return (f"{major}.{minor}",)
