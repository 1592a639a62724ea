"""How many processor cores this process may use: not those that `taskset` or a container keeps away."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "<microseconds or max> <period>", as `docker run --cpus` writes it


def usable_cores() -> int:
    """The cores this process is bound to, or as many as its container's share of processor time keeps busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = _QUOTA.read_text().split()
        return max(min(cores, int(share) // int(period)), 1)
    except (OSError, ValueError, ZeroDivisionError):  # no container, no limit, or another system
        return cores
