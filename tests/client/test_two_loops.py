"""One process may run several event loops, each in its own thread, with peers in each."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import trio

import mesh
from mesh_telemetry import TraceSettings
from tests.gateway.traces import Mesh

if TYPE_CHECKING:
    from pathlib import Path


async def test_times_are_right_whichever_loop_tells_them(tmp_path: Path) -> None:
    """The clock of each loop has its own beginning, and what they recorded is shared."""
    address = f"unix:{tmp_path / 'gateway.sock'}"
    serving, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with mesh.connect("users", gateway=address) as client:

            @client.method("get")
            async def get() -> None: ...

            serving.set()
            await trio.to_thread.run_sync(done.wait)

    async def call() -> None:
        async with mesh.connect("web", gateway=address) as client:
            with mesh.traced():
                await client.call("users", "get")

    settings = TraceSettings(baseline=0)
    async with mesh.Gateway(listen=[address], traces=settings) as gateway:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, trio.run, serve)
            await trio.to_thread.run_sync(serving.wait)
            before = time.time_ns()
            await trio.to_thread.run_sync(trio.run, call)
            after = time.time_ns()
            await Mesh(gateway).tracing.collector.settle()
            done.set()
        (trace,) = Mesh(gateway).kept
        assert trace.complete
        spans = [span for _, span in trace.spans()]
        assert len(spans) == 4
        for span in spans:
            assert before - 10**8 < span.start <= span.end < after + 10**8
