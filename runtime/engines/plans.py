"""Plan files, and the libraries that read them: TensorRT-RTX and TensorRT, which share one Python API.

A plan `X.engine` is raw, so that other tools can load it too; what it is stands beside it in `X.engine.json`, which is
read and checked first.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
import threading
from pathlib import Path
from typing import Any

from runtime.errors import EngineUnavailableError, FileFormatError
from runtime.files import sha256
from runtime.manifest import INPUT, OUTPUT, Manifest

PACKAGES = {"tensorrt_rtx": "cln[gpu]", "tensorrt": "cln[tensorrt]"}
NAMES = {"tensorrt_rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
_log = logging.getLogger(__name__)
_making_logger = threading.Lock()


class PlanRefusedError(EngineUnavailableError):
    """A GPU and the plan's library are here, but the plan doesn't serve that GPU, or the library refuses it."""


def read_plan_manifest(file: Path, plan: bytes) -> Manifest:
    """The manifest beside a plan, checked against the plan's bytes.

    Raises:
        FileFormatError: it is missing or broken, or the plan isn't the one it was written for.
    """
    beside = file.with_name(f"{file.name}.json")
    if not beside.is_file():
        raise FileFormatError(
            f"{file}: expected its manifest {beside.name} beside it, found none; keep the two files together, or build "
            "the engine again with python -m export.build_engine"
        )
    manifest = Manifest.from_json(beside.read_bytes(), name=str(beside), sealed=True)
    if manifest.builder not in PACKAGES:
        raise FileFormatError(
            f"{beside}: expected a plan of {' or '.join(PACKAGES)}, got one of '{manifest.builder}'; build it again"
        )
    if not 1 <= manifest.batch_range[0] <= manifest.batch_range[1]:
        raise FileFormatError(f"{beside}: expected a batch range from 1 on, got {manifest.batch_range}; build it again")
    if wrong := [text for text in manifest.compute_capabilities if not re.fullmatch(r"\d+\.\d+\+?", text)]:
        raise FileFormatError(f'{beside}: expected compute capabilities such as "8.9", got {wrong}; build it again')
    found = sha256(plan)
    if found != manifest.plan_sha256:
        raise FileFormatError(
            f"{file}: expected {beside.name}'s plan (sha256 {str(manifest.plan_sha256)[:12]}), got {len(plan)} bytes "
            f"of sha256 {found[:12]}; one of them is truncated, edited or from another build: fetch or build both again"
        )
    return manifest


def check_plan_tensors(engine: Any, library: Any, manifest: Manifest, file: Path) -> None:
    """Makes sure that a loaded plan takes and gives what its manifest says.

    Raises:
        FileFormatError: it doesn't.
    """
    size, params = manifest.input_size, manifest.num_params
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    got: list[Any] = [
        (name, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))[1:]) for name in sorted(names)
    ]
    expected: list[Any] = [
        (INPUT, library.DataType.UINT8, (size, size, 3)),
        (OUTPUT, library.DataType.FLOAT, (params,)),
    ]
    if got == expected:
        smallest, _, largest = engine.get_tensor_profile_shape(INPUT, 0)
        expected, got = [("batch", *manifest.batch_range)], [("batch", smallest[0], largest[0])]
    if got != expected:
        raise FileFormatError(
            f"{file}: expected what {file.name}.json says, {expected}, got a plan with {got}; the manifest was edited: "
            "build both again"
        )


def import_library(builder: str) -> Any:
    """The module `tensorrt_rtx` or `tensorrt`.

    Raises:
        EngineUnavailableError: it is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(builder)
    except (ImportError, OSError) as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        raise EngineUnavailableError(f"{NAMES[builder]} {reason}; run: pip install '{PACKAGES[builder]}'") from None


def known_capabilities(library: Any) -> dict[str, Any]:
    """What TensorRT-RTX can be asked for by name, such as {"8.9": ComputeCapability.SM89}; none for TensorRT."""
    members = getattr(getattr(library, "ComputeCapability", None), "__members__", {})
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items() if name.startswith("SM")}


def check_compute_capability(gpu: tuple[int, int], plan: tuple[str, ...]) -> None:
    """Makes sure that a plan for compute capabilities such as "8.9" or "8.0+" (and later) serves a GPU.

    Raises:
        PlanRefusedError: it doesn't.
    """
    for text in plan:
        major, minor = (int(part) for part in text.removesuffix("+").split("."))
        if gpu == (major, minor) or (text.endswith("+") and gpu > (major, minor)):
            return
    have = f"{gpu[0]}.{gpu[1]}"
    raise PlanRefusedError(
        f"expected a GPU of compute capability {' or '.join(plan)}, got {have}; build the engine for it with "
        f"--compute-capability {have}"
    )


def logger(builder: str) -> Any:
    """The one logger of a library (it takes no second one): all goes to `logging`, `reason()` gives the last error."""
    with _making_logger:
        return _make_logger(builder)


@functools.cache
def _make_logger(builder: str) -> Any:
    library = import_library(builder)

    class Logger(library.ILogger):  # type: ignore[misc, name-defined]  # the class exists only once the library is imported
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._errors = threading.local()  # engines run in several threads; a reason is that of the one who asks

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self._errors.last = " ".join(message.split())
            _log.debug("%s: %s", builder, message)

        def reason(self) -> str:
            text, self._errors.last = getattr(self._errors, "last", None), None
            return text or "it gave no reason"

    return Logger()
