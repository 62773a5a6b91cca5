"""The processes of a soak: ``-m tests.soak.roles ROLE NAME LIFE ADDRESS FOLDER [RATE SEED]``.

``gateway`` takes the arguments of `mesh gateway` instead. Each ends with the process that started
it: when its standard input ends. ``service`` and ``caller`` print ``ready`` once they can be used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import mesh
from tests.soak.calling import Caller, answered
from tests.soak.journal import Executed, Finished
from tests.soak.mix import KINDS, PLANNED, draw, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONCURRENCY = 32
"""Tasks of one caller; while a gateway is away, this many calls wait for it."""


def tie_to_parent() -> None:
    """End, without a trace, when the process at the other end of standard input is gone."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def is_planned(record: logging.LogRecord) -> bool:
    """Whether a log record tells of what a handler raised on purpose."""
    return record.exc_info is not None and "planned" in str(record.exc_info[1])


def quiet_logs() -> None:
    """Log what is worth a look, to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: not is_planned(record))
    logging.basicConfig(
        level="WARNING", handlers=[handler], format="%(asctime)s %(levelname)s %(message)s"
    )


async def ready(client: mesh.Client) -> None:
    """Tell once the gateway has read what this process registered."""
    while True:
        try:
            await client.call("mesh", "status")
        except mesh.CallError:
            continue
        print("ready", flush=True)
        return


async def service(life: str, folder: Path, client: mesh.Client) -> None:
    """Serve the methods of the mix, and the detached calls that outlive theirs."""
    caller = Caller(client, folder, life)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.watch)

        async def echo(params: dict[str, Any]) -> dict[str, Any]:
            return await caller.serve(params)

        async def through(params: dict[str, Any]) -> dict[str, Any]:
            return await caller.serve(params)

        async def fail(params: dict[str, Any]) -> None:
            caller.journal.write(Executed(params["id"]))
            raise mesh.NotFound("planned", reason=PLANNED, details={"id": params["id"]})

        async def crash(params: dict[str, Any]) -> None:
            caller.journal.write(Executed(params["id"]))
            raise ValueError(f"planned {params['id']}")

        async def later(params: dict[str, Any]) -> dict[str, Any]:
            caller.journal.write(Executed(params["id"]))
            try:
                nursery.start_soon(afterwards, params)
            except RuntimeError:  # a drain has ended the program around, and lets calls finish
                await afterwards(params)
            return answered(params)

        async def afterwards(params: dict[str, Any]) -> None:
            inner = {**params, "then": [], "detached": True}
            with mesh.detached(), contextlib.suppress(mesh.CallError):  # it is in the journal
                await caller.call(params["then"][0], inner, KINDS[params["kind"]].timeout[1])

        def thread(params: dict[str, Any]) -> dict[str, Any]:
            caller.journal.write(Executed(params["id"]))
            time.sleep(params["pause"])
            return answered(params)

        for method in (echo, through, fail, crash, later, thread):
            client.register(method.__name__, method)
        await ready(client)
        await trio.sleep_forever()


async def call_on(
    caller: Caller, rate: float, randomness: random.Random, signals: AsyncIterator[int]
) -> None:
    """Make calls of the mix, about so many a second, until a signal; then let them end."""
    stop = trio.Event()

    async def one() -> None:
        name = draw(randomness)
        kind = KINDS[name]
        params = request(kind, name, randomness)
        timeout = randomness.uniform(*kind.timeout)
        async with trio.open_nursery() as nursery:
            if kind.give_up:
                nursery.start_soon(give_up, nursery, randomness.uniform(0, kind.give_up))
            with contextlib.suppress(mesh.CallError, trio.TooSlowError):  # they are in the journal
                await caller.call(kind.path[0], params, timeout)
            nursery.cancel_scope.cancel()

    async def give_up(nursery: trio.Nursery, after: float) -> None:
        await trio.sleep(after)
        nursery.cancel_scope.cancel()

    async def loop() -> None:
        while not stop.is_set():
            began = trio.current_time()
            await one()
            pause = randomness.expovariate(rate / CONCURRENCY)
            with trio.move_on_at(began + pause):  # the pace of the load; an overdue one is at once
                await stop.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(CONCURRENCY):
            nursery.start_soon(loop)
        await anext(signals)
        stop.set()


async def be_caller(
    name: str, life: str, address: str, folder: Path, rate: float, seed: str
) -> None:
    """Call until SIGTERM; then let the calls under way end."""
    async with contextlib.AsyncExitStack() as stack:
        # It may be asked to end as soon as it has said that it is ready.
        signals = stack.enter_context(trio.open_signal_receiver(signal.SIGTERM))
        client = await stack.enter_async_context(
            mesh.connect(name, gateway=address, connect_timeout=60)
        )
        caller = Caller(client, folder, life)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.watch)
            await ready(client)
            await call_on(caller, rate, random.Random(f"{seed} {life}"), signals)
            caller.journal.write(Finished(caller.calls))
            nursery.cancel_scope.cancel()


def main(role: str, *arguments: str) -> None:
    """Be one of the processes."""
    tie_to_parent()
    if role == "gateway":
        from mesh.cli import main as command

        command(["gateway", *arguments])
        return
    quiet_logs()
    name, life, address, folder, *rest = arguments
    if role == "service":
        served = partial(service, life, Path(folder))
        mesh.run(served, name=name, gateway=address)
    else:
        rate, seed = rest
        trio.run(be_caller, name, life, address, Path(folder), float(rate), seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
