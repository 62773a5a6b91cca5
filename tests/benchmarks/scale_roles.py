"""The processes that `scale.py` starts. Each prints one line once it can be used.

``gateway`` answers every byte of its standard input with a line of JSON about itself; ``services``
and ``idle`` end with their standard input; ``scraper`` then prints how often it scraped.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import mesh

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

CONNECTIONS = 10
"""Over how many connections the services are spread."""
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


class Passes(trio.abc.Instrument):
    """The longest time that the loop was busy between two looks at its sockets, in seconds."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        self.wall = max(self.wall, time.perf_counter() - self._wall)
        self.cpu = max(self.cpu, time.thread_time() - self._cpu)

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        self._wall, self._cpu = time.perf_counter(), time.thread_time()


async def _requests() -> AsyncGenerator[None, None]:
    stdin = trio.lowlevel.FdStream(sys.stdin.fileno())
    while await stdin.receive_some(1):
        yield


async def gateway(address: str, watch: str) -> None:
    """A gateway with its defaults. ``watch`` is 1 where the passes of its loop are timed."""
    passes = Passes()
    if watch == "1":
        trio.lowlevel.add_instrument(passes)
    async with mesh.Gateway(listen=[address], admin="127.0.0.1:0") as running:
        print(f"ready {running.admin_address}", flush=True)
        async with contextlib.aclosing(_requests()) as requests:
            async for _ in requests:
                answer = {
                    "cpu": time.process_time(),
                    "longest_wall": passes.wall,
                    "longest_cpu": passes.cpu,
                }
                print(json.dumps(answer), flush=True)
                passes.wall = passes.cpu = 0.0


async def services(address: str, count: str, methods: str) -> None:
    """So many services in all, each with so many methods that echo."""

    async def get(params: Any) -> Any:
        return params

    async with contextlib.AsyncExitStack() as stack:
        for connection in range(CONNECTIONS):
            client = await stack.enter_async_context(
                mesh.connect(f"services{connection}", gateway=address)
            )
            for number in range(connection, int(count), CONNECTIONS):
                for method in range(int(methods)):
                    client.register(f"m{method}", get, service=f"s{number}")
            await client.call("mesh", "status")  # comes back after the registrations were read
        print("ready", flush=True)
        await _until_orphaned()


async def _until_orphaned() -> None:
    async with contextlib.aclosing(_requests()) as requests:
        async for _ in requests:
            pass


async def idle(address: str, count: str) -> None:
    """Peers that do nothing but live."""
    number = int(count)
    left = number
    connected = trio.Event()
    room = trio.CapacityLimiter(50)

    async def hold(index: int) -> None:
        nonlocal left
        async with contextlib.AsyncExitStack() as stack:
            async with room:
                await stack.enter_async_context(mesh.connect(f"idle{index}", gateway=address))
            left -= 1
            if not left:
                connected.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for index in range(number):
            nursery.start_soon(hold, index)
        await connected.wait()
        print("ready", flush=True)
        await _until_orphaned()
        nursery.cancel_scope.cancel()


def scraper(address: str, pause: str) -> None:
    """Scrape /metrics again and again, with a pause in seconds between two."""
    print("ready", flush=True)
    scrapes = 0
    while True:
        with urllib.request.urlopen(f"http://{address}/metrics") as answer:
            answer.read()
        scrapes += 1
        if select.select([sys.stdin], [], [], float(pause))[0]:
            break
    print(scrapes, flush=True)


ROLES: dict[str, Callable[..., Awaitable[None]]] = {
    "gateway": gateway,
    "services": services,
    "idle": idle,
}


if __name__ == "__main__":
    if sys.argv[1] == "scraper":
        scraper(*sys.argv[2:])
    else:
        trio.run(ROLES[sys.argv[1]], *sys.argv[2:])
