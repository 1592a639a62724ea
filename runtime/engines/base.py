"""The protocol that all engines follow, and the choice of one by file suffix.

An engine takes crops uint8 (B, S, S, 3), BGR, and gives params float32 (B, 12 + S + E) in the crop's frame.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidInputError
from runtime.manifest import Manifest

SUFFIXES = {".onnx": "ONNX Runtime", ".engine": "TensorRT"}


class Engine(Protocol):
    """A loaded network. Use it in a `with` block, or call `close()` when done."""

    @property
    def manifest(self) -> Manifest:
        """What the engine is and for which face model."""

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Params (B, 12 + S + E) of crops uint8 (B, S, S, 3), BGR; any B from 0 on."""

    def close(self) -> None:
        """Frees the engine; calling it afterwards is an error. May be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing(ABC):
    """What holds resources until `close`, and closes itself at the end of a `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Frees what is held; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_engine(
    path: str | os.PathLike[str],
    *,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    stream: Any = None,
) -> Engine:
    """Loads an engine file: `.onnx` through ONNX Runtime, `.engine` through TensorRT or TensorRT-RTX.

    A GPU that a `.engine` doesn't serve runs the `.onnx` beside it instead (`runtime.engines.fallback`).

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
    engine: Engine
    if file.suffix == ".onnx":
        from runtime.engines.onnx import OnnxEngine

        engine = OnnxEngine(file, providers=providers, threads=threads)
    else:
        from runtime.engines.fallback import load_plan

        engine = load_plan(file, stream=stream, threads=threads)
    return engine


def check_crops(crops: Any, size: int) -> NDArray[np.uint8]:
    """`crops` if they are uint8 (B, size, size, 3), or an `InvalidInputError`."""
    if (
        not isinstance(crops, np.ndarray)
        or crops.dtype != np.uint8
        or crops.ndim != 4
        or crops.shape[1:] != (size, size, 3)
    ):
        got = f"{crops.dtype} {crops.shape}" if isinstance(crops, np.ndarray) else type(crops).__name__
        raise InvalidInputError(
            f"crops: expected uint8 (B, {size}, {size}, 3), got {got}; cut them with runtime.crop(image, rois, {size})"
        )
    return crops
