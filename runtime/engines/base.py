"""The protocol that all engines follow.

An engine takes crops uint8 (B, S, S, 3), BGR, and gives params float32 (B, 12 + S + E) in the crop's frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidInputError
from runtime.manifest import Manifest


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

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{type(self).__name__}: expected to stay in its process, got pickled: it holds an engine's memory; "
            "make one in each process (in a worker's initializer, say)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
