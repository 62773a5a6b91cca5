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

from mesh.cli.bench.load import Load, apply
from mesh.cli.bench.roles import CPU, METHOD, SERVICE
from mesh.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def _process(role: str, address: str) -> Iterator[None]:
    child = subprocess.Popen(  # noqa: S603 - our own module, with this interpreter
        [sys.executable, "-m", "mesh.cli.bench.roles", role, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        if child.stdout is None or child.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the {role} process did not start")
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
    concurrency: int, calls: int, payload: int, on_progress: Callable[[int], None]
) -> dict[str, Any]:
    """Figures of one run, with the same keys as other hubs' benchmarks print."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        address = f"unix:{Path(folder) / 'gateway.sock'}"
        mine = time.process_time()
        with _process("gateway", address), _process("service", address):
            params = {"userId": "123"} if not payload else {"data": "x" * payload}
            load = Load(SERVICE, METHOD, params, concurrency, calls)
            figures = trio.run(run, address, load, CPU, on_progress)
        mine = time.process_time() - mine
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    others = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    figures["cpu_us_per_call_with_start_up"] = round((mine + others) / figures["calls"] * 1e6, 1)
    return figures


async def run(
    address: str, load: Load, cpu_method: str | None, on_progress: Callable[[int], None]
) -> dict[str, Any]:
    """Apply a load through one client and put the figures together."""

    async def cpu_of(service: str, method: str) -> float:
        answer = await client.call(service, method)
        return answer["cpu_us"] / 1e6 if isinstance(answer, dict) else float(answer)

    async with connect("bench", gateway=address) as client:
        warm = Load(load.service, load.method, load.params, load.concurrency, load.calls // 20)
        await apply(client, warm, lambda _: None)
        gateway = await cpu_of("mesh", "status")
        service = await cpu_of(load.service, cpu_method) if cpu_method else None
        timing = await apply(client, load, on_progress)
        gateway = await cpu_of("mesh", "status") - gateway
        if service is not None and cpu_method:
            service = await cpu_of(load.service, cpu_method) - service

    def per_call(seconds: float) -> float:
        return round(seconds / load.done * 1e6, 2)

    figures = {
        "system": "spanmesh",
        "concurrency": load.concurrency,
        "calls": load.done,
        "calls_per_second": round(load.done / timing.elapsed),
        "p50_us": round(timing.quantile(0.5) * 1e6, 1),
        "p99_us": round(timing.quantile(0.99) * 1e6, 1),
        "errors": load.errors,
        "gateway_cpu_us_per_call": per_call(gateway),
        "caller_cpu_us_per_call": per_call(timing.cpu),
    }
    if service is not None:
        figures["service_cpu_us_per_call"] = per_call(service)
    return figures
