"""An engine by its file's suffix; and what takes a plan's place on a GPU that the plan or its library doesn't serve.

TensorRT-RTX names the compute capabilities 7.5 to 12.x that it serves, and leaves out some between, such as 9.0. There,
and where another version of it refuses a plan, `X.onnx` beside `X.engine` runs on the same GPU through ONNX Runtime's
CUDA provider, and one warning says so. Without a GPU, or where a package is missing, nothing takes the plan's place:
who asks for a GPU should not get a CPU unasked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.engines.base import Engine
from runtime.engines.onnx import CUDA_PROVIDER, OnnxEngine
from runtime.engines.plans import PlanRefusedError, read_plan_manifest
from runtime.engines.tensorrt import TensorRTEngine
from runtime.errors import EngineUnavailableError, InvalidInputError

SUFFIXES = {".onnx": "ONNX Runtime", ".engine": "TensorRT"}
_log = logging.getLogger(__name__)


def load_engine(
    path: str | os.PathLike[str],
    *,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    stream: Any = None,
) -> Engine:
    """Loads an engine file: `.onnx` through ONNX Runtime, `.engine` through TensorRT or TensorRT-RTX.

    A GPU that a `.engine` doesn't serve runs the `.onnx` beside it instead.

    Args:
        path: the file.
        providers: ONNX Runtime's execution providers by name, best first; default: CUDA where it can work, then CPU.
        threads: ONNX Runtime's threads inside one operator; default: the cores this process may use, at most four.
        stream: of a `.engine`: the CUDA stream that all its work is queued on, as a handle or an object with
            `__cuda_stream__`; it must outlive the engine. Default: an own one. ONNX Runtime always has its own.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is truncated or no engine of ours.
        InvalidInputError: another suffix, or `stream` is no stream.
        EngineUnavailableError: the library or the device that it needs is missing.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise InvalidInputError(
            f"{file}: expected an engine file ending in {' or '.join(SUFFIXES)}, got '{file.suffix}'"
        )
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: expected an engine file, found none; build it with python -m export.build_engine"
        )
    if file.suffix == ".onnx":
        return OnnxEngine(file, providers=providers, threads=threads)
    return load_plan(file, stream=stream, threads=threads)


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
