"""The processes that `traces.py` starts. Each prints one line once it can be used.

``gateway`` and ``link`` answer every byte of their standard input with a line of JSON about
themselves; all of them end with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import trio
from scale_roles import Passes, _requests

import mesh
from mesh.process import calm_collector, this_process
from mesh_telemetry import TraceSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

METHOD = "get"
PERIOD = 5_000_000
"""Nanoseconds between two looks at how late the loop is."""
_SECOND = 1_000_000_000
_ABSOLUTE = 1
"""The flag ``TFD_TIMER_ABSTIME``."""


class Lag:
    """How late the loop runs what is due, in ms, by a timer of the kernel.

    trio's own timers are up to a millisecond late in an idle loop, since epoll waits for whole
    ones. A stop that is longer than the period counts for each time that was due in it.
    """

    def __init__(self) -> None:
        self._late: list[float] = []

    async def run(self) -> None:
        """Watch, until cancelled."""
        libc = ctypes.CDLL(None, use_errno=True)
        timer = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        due = time.monotonic_ns() + PERIOD
        times = (ctypes.c_long * 4)(*divmod(PERIOD, _SECOND), *divmod(due, _SECOND))
        if timer < 0 or libc.timerfd_settime(timer, _ABSOLUTE, times, None):
            raise OSError(ctypes.get_errno(), "no timer of the kernel")
        try:
            while True:
                await trio.lowlevel.wait_readable(timer)
                expired = int.from_bytes(os.read(timer, 8), sys.byteorder)
                now = time.monotonic_ns()
                for _ in range(expired):
                    self._late.append((now - due) / 1e6)
                    due += PERIOD
        finally:
            os.close(timer)

    def tell(self) -> dict[str, float]:
        """Since the last time."""
        late, self._late = sorted(self._late) or [0.0], []
        return {
            "lag_p50": late[len(late) // 2],
            "lag_p99": late[int(len(late) * 0.99)],
            "lag_longest": late[-1],
        }


async def _answer(tell: Callable[[], dict[str, float]]) -> None:
    async with contextlib.aclosing(_requests()) as requests:
        async for _ in requests:
            print(json.dumps(tell()), flush=True)


async def gateway(address: str, settings: str) -> None:
    """A gateway as `mesh gateway` has it.

    Args:
        address: Where it listens.
        settings: JSON: ``telemetry``; ``traces``, which are kept; ``endpoint``, where spans go, if
            anywhere; ``watch``, whether stops and lag of its loop are measured.
    """
    wanted: dict[str, Any] = json.loads(settings)
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    if wanted.get("endpoint"):
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = wanted["endpoint"]
    calm_collector()
    passes, lag = Passes(), Lag()
    running = mesh.Gateway(
        listen=[address],
        admin="127.0.0.1:0",
        telemetry=wanted.get("telemetry", True),
        traces=TraceSettings(**wanted.get("traces", {})),
    )

    def tell() -> dict[str, float]:
        told = {
            "cpu": time.process_time(),
            "longest_wall": passes.wall * 1e3,
            "longest_cpu": passes.cpu * 1e3,
        } | lag.tell()
        tracing = running.core.tracing
        if tracing is not None:
            store, exporter = tracing.store, tracing.collector.exporter
            told |= {
                "kept": sum(
                    number for name, number in tracing.sampler.counts.items() if "kept" in name
                ),
                "complete": sum(trace.complete for trace in store.traces.values()),
                "spans": store.span_count,
                "evicted": store.evicted,
                "going": len(tracing.traces),
                "exported": exporter.exported if exporter else 0,
                "not_exported": sum(exporter.dropped.values()) if exporter else 0,
                "pending": exporter.pending if exporter else 0,
            }
        passes.wall = passes.cpu = 0.0
        return told

    async with running, trio.open_nursery() as nursery:
        if wanted.get("watch"):
            trio.lowlevel.add_instrument(passes)
            nursery.start_soon(lag.run)
        print("ready", flush=True)
        await _answer(tell)
        nursery.cancel_scope.cancel()


async def link(address: str, name: str, following: str = "") -> None:
    """A service with a method that calls the service that follows, or echoes where none does."""
    async with mesh.connect(name, gateway=address) as client:

        @client.method(METHOD)
        async def get(params: Any) -> Any:
            return await client.call(following, METHOD, params) if following else params

        await client.call("mesh", "status")  # comes back after the registration was read
        print("ready", flush=True)
        records = this_process().records
        await _answer(lambda: {"rows": len(records), "dropped": sum(records.dropped.values())})


class _Taker(BaseHTTPRequestHandler):
    """Takes whatever is posted, and answers what stands for success in protobuf: nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def sink() -> None:
    """An OTLP receiver that forgets what it gets."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Taker) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"ready http://127.0.0.1:{server.server_port}", flush=True)
        sys.stdin.read()
        server.shutdown()


ROLES: dict[str, Callable[..., Awaitable[None]]] = {"gateway": gateway, "link": link}


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        sink()
    else:
        trio.run(ROLES[sys.argv[1]], *sys.argv[2:])
