"""One training run in several processes, which `torchrun` starts: on one machine or more, a GPU each, or on CPUs.

    torchrun --standalone --nproc-per-node 2 -m training.train --config paper --data … --out RUN_DIR
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m training.train …

A step's batch is cut into parts of equal size, each with its own random numbers; a process takes a run of consecutive
parts, and gradients are averaged. So two processes make the step that one makes with as many parts, one after the
other, up to the rounding of sums. Batch norm sees one part at a time in both; its running statistics, which only
an evaluation reads, are averaged over the processes.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from runtime.errors import ClnError, InvalidInputError

_PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: the first one evaluates, and renders samples, alone."""
_LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes of a run, seen from one of them; alone, by default. All must make the same calls in one order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number among the processes of this machine."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that logs, evaluates and saves."""
        return self.rank == 0

    def share(self, parts: int) -> range:
        """Which of a batch's parts are this process's.

        Raises:
            InvalidInputError: They can't be dealt out evenly.
        """
        if parts % self.size:
            raise InvalidInputError(
                f"Expected a batch of a multiple of {self.size} parts for {self.size} processes, got {parts}; "
                "change batch_size or micro_batch, or the number of processes."
            )
        own = parts // self.size
        return range(self.rank * own, (self.rank + 1) * own)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the processes, its weights and buffers now the first process's."""
        if self.size == 1:
            return module
        devices = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
        with warnings.catch_warnings():  # the option's new name isn't known to all versions that we take
            warnings.filterwarnings("ignore", category=FutureWarning, message="`broadcast_buffers`")
            return nn.parallel.DistributedDataParallel(
                module, device_ids=[device.index for device in devices] or None, broadcast_buffers=False
            )

    def any(self, flag: bool) -> bool:
        """Whether it is true for any process."""
        if self.size == 1:
            return flag
        count = torch.tensor(int(flag))  # on the CPU, so it is of one kind with every backend
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        return bool(count.item())

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Make each float tensor the mean over the processes, in place."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: _Value) -> _Value:
        """The first process's value, for all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until all are here."""
        self.any(False)


@contextmanager
def join_process_group(device: str) -> Iterator[ProcessGroup]:
    """The processes that `torchrun` tells of in the environment, or this one alone; the group ends with the block.

    Raises:
        InvalidInputError: There are more processes than GPUs on this machine.
        ClnError: Within the block, another process has ended.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
        return
    processes = ProcessGroup(rank=int(os.environ["RANK"]), size=size, local_rank=int(os.environ["LOCAL_RANK"]))
    if device == "cuda":
        if processes.local_rank >= torch.cuda.device_count():
            raise InvalidInputError(
                f"Expected a GPU for each process, got {torch.cuda.device_count()} for process {processes.local_rank} "
                "of this machine; give torchrun a smaller --nproc-per-node."
            )
        torch.cuda.set_device(processes.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield processes
    except RuntimeError as error:
        if isinstance(error, ClnError) or not _is_lost(error):
            raise
        raise ClnError(
            f"Process {processes.rank} of {processes.size} lost the others; see their errors. The last state is kept: "
            "the same command with --resume goes on from it."
        ) from error
    finally:
        dist.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    """Whether a collective call failed; of Gloo's errors only the text says so."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)


@contextmanager
def gradients_kept(module: nn.Module, *, until_last: bool) -> Iterator[None]:
    """Within it a backward pass adds to this process's gradients alone; with `until_last` they are then averaged."""
    alone = isinstance(module, nn.parallel.DistributedDataParallel) and not until_last
    with module.no_sync() if alone else contextlib.nullcontext():
        yield
