"""A run against processes of one's own: a fresh gateway and a fresh echo service for each."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from mesh.cli.bench import target
from mesh.cli.bench.contract import Directory
from mesh.cli.bench.load import Load
from mesh.cli.bench.roles import CPU, METHOD, service_names
from mesh.cli.failures import Failure
from mesh.contracts.contract import info_of
from mesh.environment import forget_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def _process(role: str, address: str, *more: object) -> Iterator[None]:
    child = subprocess.Popen(  # noqa: S603 - our own module, with this interpreter
        [sys.executable, "-m", "mesh.cli.bench.roles", role, address, *map(str, more)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        if child.stdout is None or child.stdout.readline() != b"ready\n":
            raise Failure(f"the {role} process did not start", "Its output above says why.")
        yield
    finally:
        if child.stdin is not None:
            child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def measure(
    concurrency: int,
    calls: int,
    params: Any,
    on_progress: Callable[[int], None],
    *,
    callers: int = 1,
    services: int = 1,
    depth: int = 1,
    telemetry: bool = True,
    stub: bool = False,
) -> dict[str, Any]:
    """Figures of one run, with the same keys as other hubs' benchmarks print.

    Args:
        concurrency: Tasks that call.
        calls: Calls that they make in all.
        params: What they send, and get back.
        on_progress: Hears now and then how many calls are done.
        callers: Connections that the tasks share.
        services: Services that are called in turn, all of one process.
        depth: Methods in a chain of nested calls; figures are per call of the first.
        telemetry: Whether calls are counted and recorded.
        stub: Whether the method is a contract's, called through a stub.
    """
    forget_settings()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        address = f"unix:{Path(folder) / 'gateway.sock'}"
        mine = time.process_time()
        on = "on" if telemetry else "off"
        with _process("gateway", address, on), _process("service", address, services, depth):
            names = [info_of(Directory).name] if stub else service_names(services)
            load = Load(names, METHOD, params, concurrency, calls, callers, stub)
            figures: dict[str, Any] = trio.run(target.measure, address, load, on_progress, CPU)
        mine = time.process_time() - mine
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    others = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    figures["depth"] = depth
    figures["telemetry"] = telemetry
    figures["stub"] = stub
    figures["cpu_us_per_call_with_start_up"] = round((mine + others) / figures["calls"] * 1e6, 1)
    return figures
