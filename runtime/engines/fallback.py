"""What takes a plan's place on a GPU that the plan or its library doesn't serve: the ONNX file beside it.

TensorRT-RTX names the compute capabilities 7.5 to 12.x that it serves, and leaves out some between, such as 9.0. There,
and where another version of it refuses a plan, `X.onnx` beside `X.engine` runs on the same GPU through ONNX Runtime's
CUDA provider, and one warning says so. Without a GPU, or where a package is missing, nothing takes the plan's place:
who asks for a GPU should not get a CPU unasked.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from runtime.engines.base import Engine
from runtime.engines.onnx import CUDA_PROVIDER, OnnxEngine
from runtime.engines.plans import PlanRefusedError, read_plan_manifest
from runtime.engines.tensorrt import TensorRTEngine
from runtime.errors import EngineUnavailableError

_log = logging.getLogger(__name__)


def load_plan(file: Path, *, stream: Any = None, threads: int | None = None) -> Engine:
    """A plan as an engine; where a GPU is here that it doesn't serve, the ONNX file beside it on that GPU instead.

    Raises:
        FileFormatError, EngineUnavailableError, InvalidInputError: see `TensorRTEngine`.
    """
    try:
        return TensorRTEngine(file, stream=stream)
    except PlanRefusedError as error:
        return _onnx_on_gpu(file, error, threads)


def _onnx_on_gpu(file: Path, refusal: PlanRefusedError, threads: int | None) -> Engine:
    beside = file.with_suffix(".onnx")
    if not beside.is_file():
        raise refusal
    try:
        engine = OnnxEngine(beside, providers=[CUDA_PROVIDER, "CPUExecutionProvider"], threads=threads)
    except EngineUnavailableError:
        raise refusal from None
    expected, got = read_plan_manifest(file, file.read_bytes()).checkpoint_sha256, engine.manifest.checkpoint_sha256
    if CUDA_PROVIDER not in engine.providers:  # ONNX Runtime takes the next one in silence
        engine.close()
        raise refusal
    if expected != got:
        engine.close()
        raise PlanRefusedError(
            f"{refusal}; {beside.name} cannot take its place: expected one of checkpoint {expected[:12]}, got one of "
            f"{got[:12]}"
        )
    _log.warning("%s; running %s (%s) with ONNX Runtime on the GPU instead", refusal, beside, engine.manifest.precision)
    return engine
