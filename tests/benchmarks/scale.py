"""What grows in a gateway, and with what: one table.

    python tests/benchmarks/scale.py
    python tests/benchmarks/scale.py --only scrape,flood --rounds 5

Gateway, services, idle peers and scraper are processes of their own on a Unix socket, fresh for
every run; the caller is this one. Each figure is the median of the rounds with its smallest and
largest value. Nothing here is a test: being slow fails nothing. ``--tiny`` measures nothing, and
shows that every part works.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import peers
import trio
from compare import median
from scale_roles import resident

import mesh
from mesh.cli.bench import own
from mesh.wire import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MIB = 1024 * 1024
Row = tuple[str, str]


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    calls: int = 20_000
    concurrency: int = 64
    services: tuple[int, int] = (10, 5_000)
    """Few and many, like the next."""
    idle: tuple[int, int] = (10, 2_000)
    methods: int = 500
    callers: int = 12
    scrapes: int = 20
    payload: int = MIB
    payload_calls: int = 200
    floods: tuple[int, ...] = (16, 16 * 1024)
    """Bytes of one call, a flood for each."""
    pressers: int = 256
    """Tasks that call a consumer which does not read."""
    settle: float = 1.0
    """Seconds that processes are left alone before their memory is read."""
    window: float = 3.0
    """Seconds over which throughput is measured beside a scraper."""
    heartbeats: float = 5.0
    """Seconds between two heartbeats, by default: as long the gateway is watched without calls."""
    pressure: float = 4.0
    """Seconds of flood, or of calls to a consumer that does not read."""


TINY = Sizes(
    calls=40, concurrency=4, services=(2, 3), idle=(2, 3), methods=4, callers=2, scrapes=1,
    payload=100_000, payload_calls=2, floods=(16,), pressers=4,
    settle=0.01, window=0.05, heartbeats=0.05, pressure=0.05,
)  # fmt: skip
"""Enough to see that every part works, and for no figure."""


class Child:
    """A process of `scale_roles`, from its first line to the end of its standard input."""

    script = "scale_roles.py"

    def __init__(self, stack: contextlib.ExitStack, role: str, *arguments: object) -> None:
        script = str(Path(__file__).with_name(self.script))
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, script, role, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        stack.callback(self._end)
        self.pid = self.process.pid
        word, _, self.detail = self.line().partition(" ")
        if word != "ready":
            raise RuntimeError(f"the {role} process did not start")

    def line(self) -> str:
        """Its next line."""
        return self.process.stdout.readline().decode().strip() if self.process.stdout else ""

    def ask(self) -> dict[str, float]:
        """What the gateway says about itself; its longest pass is since the last time."""
        if self.process.stdin is not None:
            self.process.stdin.write(b"?")
            self.process.stdin.flush()
        answer: dict[str, float] = json.loads(self.line())
        return answer

    def finish(self) -> str:
        """End it and return its last line."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        return self.line()

    def _end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


@contextlib.contextmanager
def gateway(*, watch: bool = False) -> Iterator[tuple[Child, str, contextlib.ExitStack]]:
    """A fresh gateway, its address, and where processes that end before it are kept."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-scale-"))
        address = f"unix:{Path(folder) / 'gateway.sock'}"
        yield Child(stack, "gateway", address, int(watch)), address, stack


async def spread(
    client: mesh.Client, concurrency: int, services: int, calls: int, method: str = "m0"
) -> None:
    """Calls over all services in turn."""
    names = [f"s{number}" for number in range(services)]

    async def one(first: int) -> None:
        for index in range(first, calls, concurrency):
            await client.call(names[index % services], method, {"userId": "123"})

    async with trio.open_nursery() as nursery:
        for first in range(concurrency):
            nursery.start_soon(one, first)


def cpu_per_call(sizes: Sizes, services: int, idle: int, called: int) -> tuple[float, float, float]:
    """What a gateway costs with so many services, of which some are called, and idle connections.

    Returns:
        Its microseconds per call, its bytes per idle connection, and the percentage of a core that
        it takes without any calls.
    """
    with gateway() as (hub, address, stack):
        Child(stack, "services", address, services, 1)
        time.sleep(sizes.settle)
        before = resident(hub.pid)
        if idle:
            Child(stack, "idle", address, idle)
            time.sleep(sizes.settle)
        memory = resident(hub.pid) - before

        async def load() -> float:
            async with mesh.connect("bench", gateway=address) as client:
                await spread(client, sizes.concurrency, called, max(called, sizes.calls // 20))
                used = hub.ask()["cpu"]
                await spread(client, sizes.concurrency, called, sizes.calls)
                return hub.ask()["cpu"] - used

        used: float = trio.run(load)
        if not idle:
            return used / sizes.calls * 1e6, 0.0, 0.0
        resting = hub.ask()["cpu"]
        time.sleep(sizes.heartbeats)
        resting = (hub.ask()["cpu"] - resting) / sizes.heartbeats * 100
        return used / sizes.calls * 1e6, memory / idle, resting


def services_part(rounds: int, sizes: Sizes) -> list[Row]:
    """Growth with registered services: where the same few are called, and where all are."""
    few = sizes.services[0]
    same = [[cpu_per_call(sizes, count, 0, few) for count in sizes.services] for _ in range(rounds)]
    spread_out = [
        [cpu_per_call(sizes, count, 0, count) for count in sizes.services] for _ in range(rounds)
    ]
    return [
        *_growth(f"services registered, {few} called", sizes.services, same),
        *_growth("services registered, all called", sizes.services, spread_out),
    ]


def connections_part(rounds: int, sizes: Sizes) -> list[Row]:
    """Growth with idle connections, and what they cost by themselves."""
    measured = [
        [cpu_per_call(sizes, sizes.services[0], count, sizes.services[0]) for count in sizes.idle]
        for _ in range(rounds)
    ]
    many = f"{sizes.idle[1]:,} idle connections"
    return [
        *_growth("idle connections", sizes.idle, measured),
        (
            f"memory per connection in the gateway, KB, {many}",
            median([one[1][1] / 1000 for one in measured], 1),
        ),
        (
            f"a core's share that the gateway takes without calls, %, {many}",
            median([one[1][2] for one in measured], 1),
        ),
    ]


def _growth(
    what: str, counts: tuple[int, int], measured: list[list[tuple[float, float, float]]]
) -> list[Row]:
    cost = "gateway CPU per call, us"
    few, many = counts
    return [
        (f"{cost}, {few:,} {what}", median([one[0][0] for one in measured], 1)),
        (f"{cost}, {many:,} {what}", median([one[1][0] for one in measured], 1)),
        ("growth of that", median([one[1][0] / one[0][0] for one in measured])),
    ]


def scrape_part(rounds: int, sizes: Sizes) -> list[Row]:
    """A scrape with 500 methods, each called by 12 callers: 6,000 call series."""
    per_service = sizes.methods // sizes.services[0]
    still: list[float] = []
    stops: list[float] = []
    took: list[float] = []
    used: list[float] = []
    lines = 0
    with gateway(watch=True) as (hub, address, stack):
        few = sizes.services[0]
        Child(stack, "services", address, few, per_service)

        async def fill() -> None:
            for number in range(sizes.callers):
                async with mesh.connect(f"caller{number}", gateway=address) as client:
                    for method in range(per_service):
                        await spread(client, sizes.concurrency, few, few, f"m{method}")

        trio.run(fill)
        host = hub.detail.removeprefix("http://").rstrip("/")
        for _ in range(sizes.scrapes):
            hub.ask()
            time.sleep(0.1)
            before = hub.ask()
            started = time.perf_counter()
            with urllib.request.urlopen(f"http://{host}/metrics") as answer:
                text = answer.read()
            took.append((time.perf_counter() - started) * 1e3)
            after = hub.ask()
            still.append(before["longest_wall"] * 1e3)
            stops.append(after["longest_wall"] * 1e3)
            used.append((after["cpu"] - before["cpu"]) * 1e3)
            lines = sum(not line.startswith(b"#") for line in text.splitlines())
        rows = [
            (f"a scrape of {lines:,} lines, ms", median(took, 1)),
            ("gateway CPU for one, ms", median(used, 1)),
            ("longest stop of the gateway's loop during one, ms", median(stops)),
            ("longest stop in 100 ms without one, ms", median(still)),
        ]
        measured = [_beside_scrapes(sizes, address, host, number) for number in range(rounds)]
    for pause, what in PAUSES.items():
        often = max(one[pause][1] for one in measured)
        losses = [(1 - one[pause][0] / one[None][0]) * 100 for one in measured]
        rows.append((f"throughput lost, %, by {what} ({often:.1f}/s)", median(losses, 1)))
    return rows


PAUSES = {1.0: "a scrape each second", 0.0: "one scrape after the other, its client on a core too"}
"""Seconds between two scrapes."""


def _beside_scrapes(
    sizes: Sizes, address: str, host: str, number: int
) -> dict[float | None, tuple[float, float]]:
    """Calls and scrapes per second, by the pause between two scrapes; None for no scrapes."""
    pauses = [None, *PAUSES]
    measured: dict[float | None, tuple[float, float]] = {}
    for index in range(len(pauses)):
        pause = pauses[(number + index) % len(pauses)]  # whatever warms up or drifts helps none
        with contextlib.ExitStack() as stack:
            scraper = Child(stack, "scraper", host, pause) if pause is not None else None
            calls = trio.run(throughput, sizes, address)
            measured[pause] = calls, int(scraper.finish()) / sizes.window if scraper else 0.0
    return measured


async def throughput(sizes: Sizes, address: str) -> float:
    """Calls per second over a window."""
    done = 0
    async with mesh.connect("bench", gateway=address) as client:

        async def one() -> None:
            nonlocal done
            while True:
                await client.call("s0", "m0", {"userId": "123"})
                done += 1

        with trio.move_on_after(sizes.window):
            async with trio.open_nursery() as nursery:
                for _ in range(sizes.concurrency):
                    nursery.start_soon(one)
    return done / sizes.window


def payload_part(rounds: int, sizes: Sizes) -> list[Row]:
    """1 MiB echoed, against grpc.aio where that is installed."""
    rows: list[Row] = []
    absent, size = peers.missing("grpc"), sizes.payload / MIB
    for concurrency in (1, 8):
        ours, theirs = [], []
        for _ in range(rounds):
            figures = own.measure(
                concurrency, sizes.payload_calls, b"x" * sizes.payload, lambda _: None
            )
            if figures["errors"]:
                raise SystemExit(f"calls failed: {figures['errors']}")
            ours.append(float(figures["calls_per_second"]) * size)
            if not absent:
                other = peers.measure("grpc", concurrency, sizes.payload_calls, sizes.payload)
                theirs.append(float(other["calls_per_second"]) * size)
        what = f"{size:.3g} MiB echoed, concurrency {concurrency}, MiB/s each way"
        rows.append((f"{what}: spanmesh", median(ours, 0)))
        if theirs:
            rows.append((f"{what}: grpc.aio, no hub between", median(theirs, 0)))
            ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
            rows.append(("ratio", median(ratios)))
    if absent:
        print(f"grpc.aio is left out; to have it: {'; '.join(absent)}", file=sys.stderr)
    return rows


async def highest(pid: int, pressure: Callable[[], Any]) -> int:
    """The most memory that a process had under some pressure, in bytes."""
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, resident(pid))
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await pressure()
        nursery.cancel_scope.cancel()
    return most


def _memory_rows(what: str, rows: Sequence[tuple[int, int, int]]) -> list[Row]:
    return [
        (f"{name}, MB, {what}", median([row[index] / 1e6 for row in rows], 0))
        for index, name in enumerate(("gateway memory before", "at most", "afterwards"))
    ]


def unread_part(rounds: int, sizes: Sizes) -> list[Row]:
    """A service that is stopped, and so reads nothing, called with 1 MiB by 256 tasks."""

    def run() -> tuple[int, int, int]:
        with gateway() as (hub, address, stack):
            service = Child(stack, "services", address, 1, 1)
            time.sleep(sizes.settle)
            before = resident(hub.pid)

            async def press() -> None:
                async with mesh.connect("bench", gateway=address) as client:

                    async def one() -> None:
                        while True:
                            with contextlib.suppress(mesh.CallError):
                                await client.call("s0", "m0", b"x" * sizes.payload, timeout=2)

                    with trio.move_on_after(sizes.pressure):
                        async with trio.open_nursery() as nursery:
                            for _ in range(sizes.pressers):
                                nursery.start_soon(one)

            os.kill(service.pid, signal.SIGSTOP)
            try:
                most = trio.run(highest, hub.pid, press)
            finally:
                os.kill(service.pid, signal.SIGCONT)
            time.sleep(sizes.settle)
            return before, most, resident(hub.pid)

    return _memory_rows("a consumer that does not read", [run() for _ in range(rounds)])


def flood_part(rounds: int, sizes: Sizes) -> list[Row]:
    """A caller that writes calls as fast as they are taken and reads no answer."""
    rows: list[Row] = []
    for size in sizes.floods:
        taken: list[float] = []

        def run(size: int = size, taken: list[float] = taken) -> tuple[int, int, int]:
            with gateway() as (hub, address, stack):
                Child(stack, "services", address, 1, 1)
                time.sleep(sizes.settle)
                before = resident(hub.pid)

                async def press() -> None:
                    taken.append(
                        await _flood(
                            sizes, address.removeprefix("unix:"), msgpack.packb(b"x" * size)
                        )
                    )

                most = trio.run(highest, hub.pid, press)
                time.sleep(sizes.settle)
                return before, most, resident(hub.pid)

        what = f"a caller that floods with {size:,} B and reads nothing"
        rows += _memory_rows(what, [run() for _ in range(rounds)])
        rows.append((f"calls taken from it in {sizes.pressure:g} s", median(taken, 0)))
    return rows


async def _flood(sizes: Sizes, path: str, payload: bytes) -> float:
    """Write calls for a while; returns how many were taken."""
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(
            codec.encode_header(codec.Hello(1, "flood", "f" * 32, None, {}, {}, [], "by hand"))
        )
        await stream.receive_some()
        sent = 0
        with trio.move_on_after(sizes.pressure):
            while True:
                frames = [
                    codec.encode_header(
                        codec.Call(
                            call_id, 0, 0, 30_000_000, bytes(range(16)), bytes(range(8)), 3, 1,
                            "s0", "m0", codec.MSGPACK, 0, None, None, None, None, None, None,
                        ),
                        payload,
                    )
                    for call_id in range(sent + 1, sent + 33)
                ]  # fmt: skip
                await stream.send_all(b"".join(frames))
                sent += 32
    return float(sent)


PARTS = {
    "services": services_part,
    "connections": connections_part,
    "scrape": scrape_part,
    "payload": payload_part,
    "unread": unread_part,
    "flood": flood_part,
}


def main() -> None:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="try the parts out, measuring nothing")
    options = parser.parse_args()
    sizes = TINY if options.tiny else Sizes()
    print("| what | figure |\n| --- | ---: |", flush=True)
    for name in options.only.split(","):
        for what, figure in PARTS[name](options.rounds, sizes):
            print(f"| {what} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
