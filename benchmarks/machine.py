"""What a measurement was made on: processor, GPU, and the versions of what took part."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata
from pathlib import Path

from runtime.cores import usable_cores
from runtime.engines.cuda import Cuda
from runtime.errors import EngineUnavailableError

_PACKAGES = (
    "numpy",
    "opencv-python",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt-rtx-cu13",
    "tensorrt",
    "cuda-bindings",
    "torch",
)


def device() -> str:
    """Processor with the number of cores that this process may use, and the GPU where there is one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = usable_cores()
    processor = names[0] if names else platform.processor() or platform.machine()
    text = f"{processor}, {cores} core{'s' * (cores > 1)}"
    try:
        return f"{text}; {Cuda().name()}"
    except EngineUnavailableError:
        return text


def versions() -> dict[str, str]:
    """Of Python, the system, the GPU's driver, and the packages that are installed."""
    found = {"python": platform.python_version(), "system": platform.system()}
    with contextlib.suppress(EngineUnavailableError):
        found["cuda driver"] = Cuda().driver_version()
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
