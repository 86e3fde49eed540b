"""Threads that compute batches side by side, one core each, and how many of them there may be.

Several batches on one thread each, instead of one batch on several threads: threads that share a batch wait for the
slowest of them at every layer, so that another process on one core stops them all; batches are taken by whoever is free.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def available_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may keep busy: its affinity, and a container's quota (cgroup v2), rounded down; ≥ 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text("ascii").split()
        return max(1, min(cores, int(most) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return cores


class Workers:
    """A fixed number of threads, all started at once.

    Args:
        count: How many.
        enter: Called once in each thread, before anything else.
    """

    def __init__(self, count: int, enter: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="penchant-encode", initializer=enter)
        barrier = threading.Barrier(count)  # held until all have come, so that none serves twice
        list(self._pool.map(lambda _: barrier.wait(), range(count)))

    def map(self, work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Results in the order of the items; the first error is raised once it is reached."""
        return list(self._pool.map(work, items))
