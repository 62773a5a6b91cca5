"""The figures of this process, under the names that Prometheus' clients give them.

Theirs in Python lists ``/proc/self/fd``, which takes 15 ms where 10,000 files are open, for which
the event loop would stand still at each scrape. Linux 6.2 and later tells their number as the size
of that directory; on an older one it is left out.
"""

from __future__ import annotations

import os
import resource
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric


class ProcessFigures(Collector):
    """Memory, processor time, open files and the start of this process; nothing but on Linux.

    Args:
        registry: Where to register it.
        proc: Where the kernel tells of processes.
    """

    def __init__(self, registry: CollectorRegistry, proc: Path = Path("/proc")) -> None:
        self._own = proc / "self"
        self._booted = _booted(proc / "stat")
        self._page = resource.getpagesize()
        self._ticks = os.sysconf("SC_CLK_TCK")
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What each scrape shows."""
        try:
            # Behind the program's name, which may have blanks and brackets: see proc(5).
            fields = (self._own / "stat").read_bytes().rpartition(b")")[2].split()
            open_files = (self._own / "fd").stat().st_size
        except OSError:
            return
        user, system, started, size, pages = (int(fields[at]) for at in (11, 12, 19, 20, 21))
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = inf if limit == resource.RLIM_INFINITY else limit
        gauges = [
            ("virtual_memory_bytes", "Virtual memory size in bytes.", size),
            ("resident_memory_bytes", "Resident memory size in bytes.", pages * self._page),
            (
                "start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
                self._booted + started / self._ticks,
            ),
            ("max_fds", "Maximum number of open file descriptors.", most),
        ]
        if open_files:
            gauges.append(("open_fds", "Number of open file descriptors.", open_files))
        for name, told, value in gauges:
            yield GaugeMetricFamily(f"process_{name}", told, value)
        yield CounterMetricFamily(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            (user + system) / self._ticks,
        )


def _booted(stat: Path) -> int:
    """When the machine started, in seconds since the epoch."""
    try:
        lines = stat.read_bytes().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(b"btime ")), 0)
