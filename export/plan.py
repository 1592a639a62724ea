"""Plans: an ONNX graph, already of the right precision, through TensorRT-RTX or TensorRT; Polygraphy drives both.

TensorRT-RTX builds ahead of time and needs no GPU; its plans serve several compute capabilities. TensorRT builds for
the GPU in the machine. Which of the two Polygraphy works with is settled when its part for them is first imported, for
the process.
"""

from __future__ import annotations

import functools
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from export.console import report_step
from export.errors import PlanError
from export.layer_types import layer_types_text, precision_of
from runtime.engines.cuda import Cuda
from runtime.engines.plans import import_library, known_capabilities, logger
from runtime.errors import EngineUnavailableError, InvalidInputError
from runtime.files import sha256
from runtime.manifest import INPUT, Manifest, Parity

BUILDERS = ("tensorrt_rtx", "tensorrt")
# TensorRT-RTX's own choice when none is named. It advises against adding 7.5 to others: all would run Turing's code.
PORTABLE = ("8.0+",)
OPTIMAL_BATCH = 1  # one face in one frame is the common case, and the one where latency counts
_BACKEND = "polygraphy.backend.trt"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A built plan and what is known of it."""

    data: bytes
    onnx: bytes  # what it was built from
    builder: str
    builder_version: str
    compute_capabilities: tuple[str, ...]
    max_batch: int
    layer_types: Counter[tuple[str, str]]  # of the network given to the builder, by kind and type of output
    parity: tuple[Parity, ...] = ()

    @property
    def precision(self) -> str:
        """Of the network given to the builder, which is strongly typed."""
        return precision_of(self.layer_types)

    def file(self, base: Manifest) -> Manifest:
        """X.engine.json."""
        return replace(
            base,
            precision=self.precision,
            builder=self.builder,
            builder_version=self.builder_version,
            compute_capabilities=self.compute_capabilities,
            batch_range=(1, self.max_batch),
            onnx_sha256=sha256(self.onnx),
            plan_sha256=sha256(self.data),
            parity=self.parity,
        )


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
                "--compute-capability: TensorRT builds for the GPU in the machine alone; omit it, or use "
                "--builder tensorrt_rtx"
            )
    known = known_capabilities(library) if wish == "tensorrt_rtx" else {}
    if unknown := sorted(set(compute_capabilities) - set(known)):
        raise InvalidInputError(f"--compute-capability: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    return wish


def build_plan(
    onnx: bytes,
    *,
    builder: str,
    input_size: int,
    max_batch: int,
    compute_capabilities: tuple[str, ...] = (),
    parity: tuple[Parity, ...] = (),
) -> Plan:
    """Builds a plan for batches of 1 to `max_batch`; without compute capabilities, a portable one.

    Raises:
        PlanError: the library cannot parse the graph or build it; its own words are in the message.
        PrecisionError: the network is neither float32 nor mixed as it should be.
    """
    started = time.perf_counter()
    library = import_library(builder)
    with polygraphy_for(builder):
        from polygraphy.backend.trt import Profile, engine_bytes_from_network, network_from_onnx_bytes

        shapes = [(batch, input_size, input_size, 3) for batch in (1, min(OPTIMAL_BATCH, max_batch), max_batch)]
        factory, network, _parser = network_from_onnx_bytes(onnx, strongly_typed=True)
        layer_types = _layer_types(library, network)
        config = functools.partial(_configured, library, [Profile().add(INPUT, *shapes)], compute_capabilities)
        data = bytes(memoryview(engine_bytes_from_network((factory, network), config)))
    plan = Plan(
        data=data,
        onnx=onnx,
        builder=builder,
        builder_version=str(library.__version__),
        compute_capabilities=compute_capabilities or _default_capabilities(builder),
        max_batch=max_batch,
        layer_types=layer_types,
        parity=parity,
    )
    report_step(
        "plan",
        f"{plan.builder} {plan.builder_version} for {', '.join(plan.compute_capabilities)}, "
        f"{len(plan.data) / 1e6:.2f} MB; precision of the network given to the builder: {plan.precision}, "
        f"{layer_types_text(plan.layer_types)}",
        started,
    )
    return plan


@contextmanager
def polygraphy_for(builder: str) -> Iterator[None]:
    """Polygraphy works with this library, says nothing itself, and its complaints become a `PlanError`.

    Raises:
        PlanError: it failed, or another library was chosen in this process before.
        EngineUnavailableError: it is not installed.
    """
    rtx = builder == "tensorrt_rtx"
    try:
        from polygraphy import config
    except ImportError:
        raise EngineUnavailableError("building a plan needs Polygraphy; run: pip install 'cln[cpu,export]'") from None
    if _BACKEND not in sys.modules:
        config.USE_TENSORRT_RTX = rtx  # as its environment variable does where nothing of it is imported yet
    from polygraphy.backend.trt import util
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    if rtx != config.USE_TENSORRT_RTX:
        raise PlanError(
            f"{builder}: expected Polygraphy to work with it, but in this process another of {', '.join(BUILDERS)} was "
            "used before; start a new process for it"
        )
    util.TRT_LOGGER = logger(builder)  # the libraries take one logger in a process: the runtime's, which keeps reasons
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of timing caches, which it sets for every builder
        try:
            yield
        except PolygraphyException as error:
            raise PlanError(f"{builder}: {' '.join(str(error).split())} ({logger(builder).reason()})") from None


def _configured(
    library: Any, profiles: list[Any], compute_capabilities: tuple[str, ...], factory: Any, network: Any
) -> Any:
    """A builder's configuration, as Polygraphy asks for it."""
    from polygraphy.backend.trt import create_config

    # The verbosity lets the plan's inspector tell types.
    verbosity = library.ProfilingVerbosity.DETAILED
    config = create_config(factory, network, profiles=profiles, profiling_verbosity=verbosity)
    # TF32 has float16's digits: a float32 layer that used it would be float32 by name alone.
    config.clear_flag(library.BuilderFlag.TF32)
    if compute_capabilities:
        known = known_capabilities(library)
        config.num_compute_capabilities = len(compute_capabilities)
        for index, name in enumerate(compute_capabilities):
            config.set_compute_capability(known[name], index)
    return config


def _layer_types(library: Any, network: Any) -> Counter[tuple[str, str]]:
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = (library.LayerType.CONVOLUTION, library.LayerType.MATRIX_MULTIPLY)
    return Counter((layer.type.name, layer.get_output(0).dtype.name) for layer in layers if layer.type in kinds)


def _default_capabilities(builder: str) -> tuple[str, ...]:
    if builder == "tensorrt_rtx":
        return PORTABLE
    major, minor = Cuda().compute_capability()
    return (f"{major}.{minor}",)
