"""The process that this is: its identity, its randomness, what it uses.

All of it can be handed in, so that a simulator can run a whole mesh from one seed.
"""

from __future__ import annotations

import functools
import gc
import os
import random
import resource
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mesh_telemetry.peer_records import PeerRecords

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE = resource.getpagesize()


class Usage(NamedTuple):
    """Resident memory in bytes, processor time in microseconds since the start."""

    memory: int
    cpu_us: int


def measure_usage() -> Usage:
    """What this process uses now."""
    cpu_us = time.process_time_ns() // 1000
    try:
        resident = int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):  # not Linux: the peak is the nearest known
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Usage(resident, cpu_us)


@dataclass(slots=True)
class Process:
    """Who this process is, for as long as it lives."""

    random: random.Random = field(default_factory=random.Random)
    usage: Callable[[], Usage] = measure_usage
    wall: Callable[[], float] = time.time
    """Seconds since 1970."""
    id: str = ""
    records: PeerRecords = field(default_factory=PeerRecords)
    """What it recorded of its calls, as a peer of any gateway."""

    def __post_init__(self) -> None:
        if not self.id:
            host = socket.gethostname().split(".")[0][:32]
            self.id = f"{host}-{os.getpid()}-{self.random.getrandbits(32):08x}"


@functools.cache
def this_process() -> Process:
    """The identity that all peers of this process share unless they are handed another."""
    return Process()


# A forked child is another process: with its parent's identity and random state, its traces would
# have its parent's ids.
os.register_at_fork(after_in_child=this_process.cache_clear)


def calm_collector() -> None:
    """Let the cyclic collector leave alone what was imported, and run less often.

    For programs of our own: a gateway makes few cycles and thousands of objects that live as long
    as a call, which the collector's defaults look at again and again (measured: 8 % of its time).
    Passes over what is young stop the loop, for a millisecond per 2,000 objects; those over what is
    old would stop it for as long as there are kept traces, and find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 1_000, 20)
