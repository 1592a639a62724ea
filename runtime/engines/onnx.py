"""ONNX Runtime as an engine, on the CPU or through its CUDA provider."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.cores import usable_cores
from runtime.engines.base import Closing, check_crops
from runtime.engines.cuda import has_driver
from runtime.errors import EngineUnavailableError, FileFormatError, InvalidInputError
from runtime.manifest import INPUT, ONNX_KEY, OUTPUT, Manifest

CUDA_PROVIDER = "CUDAExecutionProvider"
_MOST_THREADS = 4


class OnnxEngine(Closing):
    """A `.onnx` file whose metadata carry the manifest."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        """Loads `path`. Raises as `runtime.engines.load_engine` does."""
        file = Path(path)
        if threads is not None and threads < 1:
            raise InvalidInputError(f"threads: expected at least 1, got {threads}")
        self._session: Any = create_session(file.read_bytes(), name=str(file), providers=providers, threads=threads)
        text = self._session.get_modelmeta().custom_metadata_map.get(ONNX_KEY)
        if text is None:
            raise FileFormatError(
                f"{file}: expected an ONNX file with a manifest in its metadata ('{ONNX_KEY}'), found none; "
                "export it with python -m export.build_engine"
            )
        self.manifest = Manifest.from_json(text, name=str(file))
        self._check_graph(file)

    @property
    def providers(self) -> list[str]:
        """ONNX Runtime's providers in use, best first: it drops what was asked for and does not work, in silence."""
        return [] if self._session is None else list(self._session.get_providers())

    def _check_graph(self, file: Path) -> None:
        size, params = self.manifest.input_size, self.manifest.num_params
        graph = [(x.name, x.type, x.shape[1:]) for x in (*self._session.get_inputs(), *self._session.get_outputs())]
        expected = [(INPUT, "tensor(uint8)", [size, size, 3]), (OUTPUT, "tensor(float)", [params])]
        if graph != expected:
            raise FileFormatError(f"{file}: expected the graph's face {expected}, got {graph}; export it again")

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Params (B, 12 + S + E) of crops uint8 (B, S, S, 3)."""
        if self._session is None:
            raise InvalidInputError("engine: expected an open one, got a closed one; load it again")
        check_crops(crops, self.manifest.input_size)
        if not len(crops):
            return np.empty((0, self.manifest.num_params), dtype=np.float32)
        return np.asarray(self._session.run([OUTPUT], {INPUT: crops})[0], dtype=np.float32)

    def close(self) -> None:
        """Frees the session."""
        self._session = None


def create_session(
    data: bytes,
    *,
    name: str,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Any:
    """An ONNX Runtime session over a model in memory; `name` is used in errors.

    `sizes` fixes dimensions that the model names: sessions for one size each are some 5 % faster than one for all.

    Raises:
        EngineUnavailableError: ONNX Runtime is not installed, or lacks an asked-for provider.
        FileFormatError: the data are no ONNX model that it can load.
    """
    try:
        onnxruntime = import_onnxruntime()
    except EngineUnavailableError as error:
        raise EngineUnavailableError(f"{name}: {error}") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = default_threads() if threads is None else threads
    for dimension, size in (sizes or {}).items():
        options.add_free_dimension_override_by_name(dimension, size)
    available = onnxruntime.get_available_providers()
    chosen = list(providers) if providers is not None else _default_providers(available)
    if missing := [p for p in chosen if p not in available]:
        raise EngineUnavailableError(f"{name}: expected one of ONNX Runtime's providers {available}, got {missing}")
    try:
        return onnxruntime.InferenceSession(data, options, providers=chosen)
    except Exception as error:  # ONNX Runtime's exception classes are private and many; all mean "cannot load this"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(
            f"{name}: expected an ONNX model, got {len(data)} bytes that ONNX Runtime cannot load ({reason}); "
            "the file may be truncated: build or fetch it again"
        ) from None


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, its telemetry switched off.

    From 1.29 on it sends figures of each session to its maker, and keeps a device id and a store for them in the home
    folder, unless the environment variable ORT_DISABLE_TELEMETRY is set before it is loaded. Who has set the variable,
    to whatever value, or has imported the module before, has decided that already.

    Raises:
        EngineUnavailableError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise EngineUnavailableError(
            "running an .onnx file needs ONNX Runtime, which is not installed; "
            "run: pip install 'cln[cpu]' (or 'cln[gpu]' on a machine with an NVIDIA GPU)"
        ) from None
    return onnxruntime


def default_threads(*, spare: int = 0) -> int:
    """The cores that this process may use but for `spare`, at most four: a small network's layers can't be cut finer.

    ONNX Runtime's own choice counts all cores of the machine, also those that a container or `taskset` keeps away.
    """
    return max(min(usable_cores() - spare, _MOST_THREADS), 1)


def _default_providers(available: Sequence[str]) -> list[str]:
    # Asked for where no driver is, the CUDA provider logs errors and falls back: ask only where it can work.
    cuda = CUDA_PROVIDER in available and has_driver()
    return [CUDA_PROVIDER, "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]
