"""CUDA graphs: work that was recorded once and is launched whole, with one call instead of one for each kernel.

Work is recorded on a stream of its own, never on a caller's: others may be queueing there, and what they queue would be
recorded too. A graph runs on any stream. Recording is refused by work that allocates or waits; it then runs step by
step, as before, and the log says so once for each engine.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from runtime.engines.cuda import Cuda
from runtime.errors import EngineUnavailableError

Work = Callable[[int], None]  # queues something on the stream of this handle
_log = logging.getLogger(__name__)


class GraphRecorder:
    """Records work as CUDA graphs."""

    def __init__(self, cuda: Cuda, owner: contextlib.ExitStack) -> None:
        """Makes the stream to record on; it is destroyed with `owner`."""
        self._cuda = cuda
        self._refused = False
        # Non-blocking: a recording stream that waits for the legacy default stream would break others' use of that.
        self._stream = int(cuda.call("cudaStreamCreateWithFlags", cuda.runtime.cudaStreamNonBlocking))
        owner.callback(cuda.call, "cudaStreamDestroy", self._stream)

    def record(self, work: Work, *, can_capture: Callable[[int], bool] = lambda stream: True) -> Any:
        """`work` as an executable graph, or None where it cannot be one. It must have run before: nothing runs now.

        Args:
            work: what to record; it may be called with the recording stream, or not at all.
            can_capture: whether the libraries that `work` uses can be recorded on a stream.
        """
        if self._refused:
            return None
        try:
            if not can_capture(self._stream):
                raise EngineUnavailableError("the plan cannot be captured on a stream")
            return self._capture(work)
        except EngineUnavailableError as error:
            self._refused = True
            _log.warning("no CUDA graph could be made, so each step is launched by itself: %s", error)
            return None

    def _capture(self, work: Work) -> Any:
        cuda = self._cuda
        # Thread-local: what other threads do meanwhile, such as allocating, neither breaks the recording nor fails.
        mode = cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda.call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work(self._stream)
        except BaseException:
            self._abandon()
            raise
        graph = cuda.call("cudaStreamEndCapture", self._stream)
        try:
            return cuda.call("cudaGraphInstantiate", graph, 0)
        finally:
            cuda.call("cudaGraphDestroy", graph)

    def _abandon(self) -> None:
        """Takes the stream out of recording after a failure, whose own error says more than CUDA's of now."""
        error, graph = self._cuda.runtime.cudaStreamEndCapture(self._stream)
        if error == self._cuda.runtime.cudaError_t.cudaSuccess:
            self._cuda.call("cudaGraphDestroy", graph)
        self._cuda.runtime.cudaGetLastError()  # forgets it: other users of CUDA in this thread look there

    def launch(self, graph: Any, stream: int) -> None:
        """Starts a graph on a stream."""
        self._cuda.call("cudaGraphLaunch", graph, stream)

    def destroy(self, graph: Any) -> None:
        """Frees a graph that is not running."""
        self._cuda.call("cudaGraphExecDestroy", graph)
