"""The next batches are made while the network computes: in one thread, in order, a few at a time.

A thread does what a DataLoader's worker process would (decoding, resampling and torch's kernels let go of Python's
lock), and shares the memory maps, the count of damaged images and the GPU with the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

import torch

DEPTH = 2
"""Batches that are ready or being made."""
Key = TypeVar("Key")
Item = TypeVar("Item")


class ReadAhead(Generic[Key, Item]):
    """Makes what will be asked for next; use as a context."""

    def __init__(self, make: Callable[[Key], Item], keys: Iterable[Key], *, depth: int = DEPTH) -> None:
        """Start to make the items of `keys`, in the order in which they will be taken."""
        self._make, self._keys = make, iter(keys)
        # One core for it: it has as long as a step takes, and the step needs the others.
        self._pool = ThreadPoolExecutor(1, "read-ahead", initializer=torch.set_num_threads, initargs=(1,))
        self._coming: deque[tuple[Key, Future[Item]]] = deque()
        for _ in range(depth):
            self._start_next()

    def __enter__(self) -> ReadAhead[Key, Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, key: Key) -> Item:
        """The next item, which must be that of `key`; waits for it.

        Raises:
            LookupError: It is another one's turn.
            Exception: What making it raised.
        """
        if not self._coming or self._coming[0][0] != key:
            raise LookupError(f"Expected the next of the keys, got {key}.")
        _, future = self._coming.popleft()
        self._start_next()
        return future.result()

    def _start_next(self) -> None:
        for key in self._keys:
            self._coming.append((key, self._pool.submit(self._make, key)))
            return
