"""A bare hub on trio: the yardstick that the mesh is measured against in the same run.

Three processes (hub, service, caller) over one Unix socket, length-prefixed MessagePack, an echo of
``{"userId": "123"}``. No deadlines, cancellation, registry, metrics, limits or error handling: it
shows what trio and MessagePack alone cost on this machine.

    python tests/benchmarks/bare_hub.py --concurrency 1,64 --calls 60000
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = struct.Struct(">II")
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CALL, RESULT, REGISTER, STOP = range(4)


class Wire:
    """One socket: gathers output, sends it in one syscall, splits input into frames."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._out: list[bytes] = []
        self._rest: memoryview | None = None
        self._blocked = trio.Event()

    def put(self, header: list[Any], payload: bytes) -> None:
        """Queue a frame."""
        packed = msgpack.packb(header)
        self._out += (PREFIX.pack(len(packed), len(payload)), packed, payload)

    def flush(self) -> None:
        """Send what is queued."""
        if not self._out:
            return
        data = b"".join(self._out)
        self._out.clear()
        if self._rest is not None:
            self._rest = memoryview(bytes(self._rest) + data)
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._rest = memoryview(data)[sent:]
            self._blocked.set()

    async def drain(self) -> None:
        """Send what a flush could not."""
        while True:
            await self._blocked.wait()
            while self._rest is not None:
                await trio.lowlevel.wait_writable(self._socket)
                sent = self._socket.send(self._rest)
                self._rest = self._rest[sent:] if sent < len(self._rest) else None
            self._blocked = trio.Event()

    async def read(
        self, on_frame: Callable[[list[Any], bytes], None], after_chunk: Callable[[], None]
    ) -> None:
        """Read until the end of the stream."""
        pending = b""
        while True:
            try:
                chunk = self._socket.recv(262144)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            if not chunk:
                return
            chunk = pending + chunk if pending else chunk
            at, end = 0, len(chunk)
            while end - at >= PREFIX.size:
                header_size, body_size = PREFIX.unpack_from(chunk, at)
                header = at + PREFIX.size
                body = header + header_size
                if body + body_size > end:
                    break
                at = body + body_size
                on_frame(msgpack.unpackb(chunk[header:body]), chunk[body:at])
            pending = chunk[at:]
            after_chunk()
            await trio.lowlevel.cancel_shielded_checkpoint()


def _dial(path: str) -> Wire:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return Wire(sock)


async def hub(path: str) -> None:
    """Route calls to the service that registered the name, and results back."""
    services: dict[str, Wire] = {}
    in_flight: dict[int, tuple[Wire, int]] = {}
    last_id = 0
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    listener.setblocking(False)
    print("ready", flush=True)
    started = time.process_time()

    async def session(wire: Wire, nursery: trio.Nursery) -> None:
        touched: set[Wire] = set()

        def on_frame(header: list[Any], payload: bytes) -> None:
            nonlocal last_id
            kind = header[0]
            if kind == CALL:
                target = services[header[2]]
                last_id += 1
                in_flight[last_id] = (wire, header[1])
                header[1] = last_id
            elif kind == RESULT:
                target, header[1] = in_flight.pop(header[1])
            elif kind == REGISTER:
                services[header[2]] = wire
                return
            else:
                print(time.process_time() - started, flush=True)
                nursery.cancel_scope.cancel()
                return
            target.put(header, payload)
            touched.add(target)

        def after_chunk() -> None:
            for target in touched:
                target.flush()
            touched.clear()

        nursery.start_soon(wire.drain)
        await wire.read(on_frame, after_chunk)

    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(listener)
            nursery.start_soon(session, Wire(listener.accept()[0]), nursery)


async def service(path: str) -> None:
    """Echo each call."""
    wire = _dial(path)
    wire.put([REGISTER, 0, "user"], b"")
    wire.flush()
    print("ready", flush=True)

    def on_frame(header: list[Any], payload: bytes) -> None:
        wire.put([RESULT, header[1], 0], msgpack.packb(msgpack.unpackb(payload)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.drain)
        await wire.read(on_frame, wire.flush)
        nursery.cancel_scope.cancel()


async def caller(path: str, concurrency: int, calls: int) -> dict[str, Any]:
    """Make the calls and time each."""
    wire = _dial(path)
    pending: dict[int, trio.lowlevel.Task] = {}
    latencies: list[float] = []
    wake = trio.Event()
    last_id = 0

    async def flusher() -> None:
        nonlocal wake
        while True:
            await wake.wait()
            wake = trio.Event()
            wire.flush()

    def on_frame(header: list[Any], payload: bytes) -> None:
        trio.lowlevel.reschedule(pending.pop(header[1]), outcome.Value(payload))

    async def one(times: int) -> None:
        nonlocal last_id
        for _ in range(times):
            started = time.perf_counter()
            last_id += 1
            wire.put(
                [CALL, last_id, "user", "get", TRACEPARENT, 30000, ["order"]],
                msgpack.packb({"userId": "123"}),
            )
            wake.set()
            pending[last_id] = trio.lowlevel.current_task()
            reply = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
            msgpack.unpackb(reply)
            latencies.append(time.perf_counter() - started)

    async with trio.open_nursery() as outer:
        outer.start_soon(wire.drain)
        outer.start_soon(flusher)
        outer.start_soon(wire.read, on_frame, lambda: None)
        started = time.perf_counter()
        async with trio.open_nursery() as inner:
            for _ in range(concurrency):
                inner.start_soon(one, max(1, calls // concurrency))
        elapsed = time.perf_counter() - started
        wire.put([STOP], b"")
        wire.flush()
        outer.cancel_scope.cancel()
    latencies.sort()
    return {
        "concurrency": concurrency,
        "calls": len(latencies),
        "calls_per_second": round(len(latencies) / elapsed),
        "p50_us": round(latencies[len(latencies) // 2] * 1e6, 1),
        "p99_us": round(latencies[int(len(latencies) * 0.99)] * 1e6, 1),
    }


def measure(concurrency: int, calls: int) -> dict[str, Any]:
    """One run in three fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "hub.sock")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        children = []
        for role in ("hub", "service"):
            child = subprocess.Popen(
                [sys.executable, __file__, "--path", path, "--role", role], stdout=subprocess.PIPE
            )
            children.append(child)
            if child.stdout is None or child.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the {role} did not start")
        mine = time.process_time()
        figures = trio.run(caller, path, concurrency, calls)
        mine = time.process_time() - mine
        hub_output = children[0].stdout
        used = float(hub_output.readline()) if hub_output is not None else float("nan")
        for child in children:
            child.wait(10)
            if child.stdout is not None:
                child.stdout.close()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    others = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures["cpu_us_per_call_with_start_up"] = round((mine + others) / figures["calls"] * 1e6, 1)
    figures["gateway_cpu_us_per_call"] = round(used / figures["calls"] * 1e6, 2)
    return {"system": "bare hub", **figures}


def main() -> None:
    """Print one JSON line per concurrency."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--concurrency", default="1,16,64,256")
    parser.add_argument("--calls", type=int, default=60000)
    parser.add_argument("--role", choices=["hub", "service"])
    parser.add_argument("--path")
    options = parser.parse_args()
    if options.role:
        trio.run(hub if options.role == "hub" else service, options.path)
        return
    for concurrency in map(int, options.concurrency.split(",")):
        calls = options.calls if concurrency > 1 else options.calls // 10
        print(json.dumps(measure(concurrency, calls)), flush=True)


if __name__ == "__main__":
    main()
