"""Peers of the mesh that install from PyPI, with the same echo of ``{"userId": "123"}``.

``grpc``: grpc.aio over a Unix socket. ``grpc-otel``: the same with its OpenTelemetry
instrumentation, every call sampled, the spans dropped once they have ended. ``nats``: nats-py
request and reply through a real nats-server. Caller and service are processes of their own; only
NATS has a hub between them. Payloads are MessagePack, as in the mesh and in the bare hub.

    python tests/benchmarks/peers.py --peer nats --concurrency 1,64 --calls 20000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

PEERS = ("grpc", "grpc-otel", "nats")
TITLES = {
    "grpc": "grpc.aio",
    "grpc-otel": "grpc.aio, OpenTelemetry",
    "nats": "nats-py",
}
PARAMS = {"userId": "123"}
WARM_UP = 20
"""One part in so many of the calls is made before the clock starts, as `mesh bench` does."""
PATIENCE = 120
"""Seconds after which a process is taken not to start or not to end."""
_INSTALL = "{} -m pip install {}"
_MODULES = {
    "grpc": {"grpc": "grpcio"},
    "grpc-otel": {
        "grpc": "grpcio",
        "opentelemetry.instrumentation.grpc": "opentelemetry-instrumentation-grpc",
    },
    "nats": {"nats": "nats-py"},
}
_NATS_PORT = re.compile(r"Listening for client connections on 127\.0\.0\.1:(\d+)")


def missing(peer: str) -> list[str]:
    """The commands that install what this peer lacks here; none where it can run."""
    commands = [
        _INSTALL.format(sys.executable, package)
        for module, package in _MODULES[peer].items()
        if not _is_there(module)
    ]
    if peer == "nats" and _nats_server() is None:
        commands.append("apt-get install nats-server")
    return commands


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is not there
        return False


def _nats_server() -> str | None:
    return shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def process(command: Sequence[str], ready: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """A process that has printed a line like this, on either output; ended with the block.

    Raises:
        RuntimeError: It ended before; with what it printed.
    """
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        printed, match = "", None
        for line in child.stdout or ():
            printed += line
            match = ready.search(line)
            if match is not None:
                break
        if match is None:
            raise RuntimeError(f"{command[0]} did not start: {printed}")
        yield match
    finally:
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def role(name: str, peer: str, address: str, *more: str) -> list[str]:
    """The command that plays a role of a peer."""
    return [sys.executable, __file__, "--peer", peer, "--role", name, "--address", address, *more]


@contextlib.contextmanager
def serving(peer: str) -> Iterator[str]:
    """The service of a peer, and its hub where it has one. Yields the address for callers."""
    with contextlib.ExitStack() as stack:
        if peer == "nats":
            server = [_nats_server() or "nats-server", "-a", "127.0.0.1", "-p", "-1"]
            port = stack.enter_context(process(server, _NATS_PORT))[1]
            address = f"nats://127.0.0.1:{port}"
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-peers-"))
            address = f"unix:{Path(folder) / 'service.sock'}"
        stack.enter_context(process(role("service", peer, address), re.compile("^ready$")))
        yield address


def measure(peer: str, concurrency: int, calls: int, payload: int = 0) -> dict[str, Any]:
    """One run in fresh processes; ``payload`` bytes instead of the small map where not 0."""
    load = [f"--concurrency={concurrency}", f"--calls={calls}", f"--payload={payload}"]
    with serving(peer) as address:
        done = subprocess.run(
            role("caller", peer, address, *load), stdout=subprocess.PIPE, check=True
        )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _instrument(peer: str) -> None:
    if peer != "grpc-otel":
        return
    from opentelemetry import trace
    from opentelemetry.instrumentation.grpc import (
        GrpcAioInstrumentorClient,
        GrpcAioInstrumentorServer,
    )
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    provider = TracerProvider()
    provider.add_span_processor(SpanProcessor())  # hears of every span and keeps none
    trace.set_tracer_provider(provider)
    GrpcAioInstrumentorClient().instrument()
    GrpcAioInstrumentorServer().instrument()


_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


async def _serve_grpc(address: str) -> None:
    import grpc
    import grpc.aio

    async def get(request: Any, _context: Any) -> Any:
        return request

    handler = grpc.unary_unary_rpc_method_handler(get, msgpack.unpackb, msgpack.packb)
    server = grpc.aio.server(options=_UNLIMITED)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("users", {"get": handler}),)
    )
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


async def _serve_nats(address: str) -> None:
    import nats

    client = await nats.connect(address)

    async def get(message: Any) -> None:
        await message.respond(msgpack.packb(msgpack.unpackb(message.data)))

    await client.subscribe("users.get", cb=get)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def _grpc_caller(address: str) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    import grpc.aio

    async with grpc.aio.insecure_channel(address, options=_UNLIMITED) as channel:
        yield channel.unary_unary("/users/get", msgpack.packb, msgpack.unpackb)


@contextlib.asynccontextmanager
async def _nats_caller(address: str) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    import nats

    client = await nats.connect(address)

    async def call(params: Any) -> Any:
        reply = await client.request("users.get", msgpack.packb(params), timeout=30)
        return msgpack.unpackb(reply.data)

    yield call
    await client.close()


async def _call(peer: str, address: str, concurrency: int, calls: int, payload: int) -> None:
    """Make the calls and print the figures."""
    latencies: list[float] = []
    params: Any = b"x" * payload if payload else PARAMS
    caller = _nats_caller if peer == "nats" else _grpc_caller
    async with caller(address) as call:

        async def one(times: int) -> None:
            for _ in range(times):
                started = time.perf_counter()
                await call(params)
                latencies.append(time.perf_counter() - started)

        async def load(total: int) -> float:
            started = time.perf_counter()
            each = max(1, total // concurrency)
            await asyncio.gather(*(one(each) for _ in range(concurrency)))
            return time.perf_counter() - started

        await load(calls // WARM_UP)
        latencies.clear()
        elapsed = await load(calls)
    latencies.sort()
    figures = {
        "system": TITLES[peer],
        "concurrency": concurrency,
        "calls": len(latencies),
        "calls_per_second": round(len(latencies) / elapsed),
        "p50_us": round(latencies[len(latencies) // 2] * 1e6, 1),
        "p99_us": round(latencies[int(len(latencies) * 0.99)] * 1e6, 1),
    }
    print(json.dumps(figures), flush=True)


def main() -> None:
    """Print one JSON line per peer and concurrency."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", choices=PEERS, help="only this one")
    parser.add_argument("--concurrency", default="1,16,64,256")
    parser.add_argument("--calls", type=int, default=20000)
    parser.add_argument("--payload", type=int, default=0, help="bytes, instead of the small map")
    parser.add_argument("--role", choices=["service", "caller"], help="for the processes it starts")
    parser.add_argument("--address", help="with --role")
    options = parser.parse_args()
    if options.role:
        _instrument(options.peer)
        if options.role == "caller":
            numbers = int(options.concurrency), options.calls, options.payload
            asyncio.run(_call(options.peer, options.address, *numbers))
        else:
            serve = _serve_nats if options.peer == "nats" else _serve_grpc
            asyncio.run(serve(options.address))
        return
    for peer in [options.peer] if options.peer else PEERS:
        if commands := missing(peer):
            print(f"{TITLES[peer]} is left out; to have it: {'; '.join(commands)}", file=sys.stderr)
            continue
        for concurrency in map(int, options.concurrency.split(",")):
            calls = options.calls if concurrency > 1 else max(1, options.calls // 10)
            print(json.dumps(measure(peer, concurrency, calls, options.payload)), flush=True)


if __name__ == "__main__":
    main()
