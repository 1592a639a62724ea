"""Where a run computes, and in which precision."""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor, nn

from runtime.errors import EngineUnavailableError
from training.model import CLN


def pick_device(name: str) -> str:
    """The device that `cpu`, `cuda` or `auto` stands for here.

    Raises:
        EngineUnavailableError: A GPU was asked for and PyTorch can't use one.
    """
    if name == "cuda" and not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        raise EngineUnavailableError(
            f"--device cuda: expected an NVIDIA GPU that PyTorch can use, found none (PyTorch {torch.__version__}, "
            f"{build}); install a CUDA build and the driver, or give --device cpu."
        )
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def stream_dtype(device: torch.device, *, bf16: bool) -> torch.dtype | None:
    """What the streams are autocast to, None for float32. Emulated bfloat16 (before Ampere) is slower than float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if bf16 else None


class Forward(nn.Module):
    """A training step's way through the network, the streams autocast; several processes share its gradients."""

    def __init__(self, model: CLN, dtype: torch.dtype | None) -> None:
        """`dtype` is the streams', None for float32."""
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, crops: Tensor) -> Tensor:
        """Crops uint8 (B, S, S, 3) -> whitened parameters float32 (B, 62)."""
        with torch.autocast(crops.device.type, self.dtype, enabled=self.dtype is not None):
            features = self.model.features(crops)
        return self.model.head(features.float())


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """The module compiled by torch.compile at its first call.

    Raises:
        EngineUnavailableError: It would need a C++ compiler, and there is none.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise EngineUnavailableError(
            f"--compile: expected a C++ compiler, found no '{compiler}'; install one (apt-get install g++), or omit it."
        )
    result: nn.Module = torch.compile(module, dynamic=False)
    return result
