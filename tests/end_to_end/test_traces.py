"""Traces of real processes that are killed: what is kept is whole, or names who is missing."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
import trio

import mesh
from mesh.process import Process
from tests.end_to_end.processes import HERE, Running, World, world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 20
"""Seconds."""


async def start(it: World, *what: str) -> Running:
    return await it.start(str(HERE / "mortal.py"), it.address, *what)


async def service(it: World) -> Running:
    running = await start(it, "service")
    assert await running.line() == "ready"
    return running


async def kept(client: mesh.Client, is_settled: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The only kept trace, once it is as it shall be."""
    with trio.fail_after(PATIENCE):
        while True:
            found = await client.call("mesh", "traces")
            if found and is_settled(found[0]):
                assert len(found) == 1
                return dict(found[0])
            await trio.sleep(0.02)


def is_complete(trace: dict[str, Any]) -> bool:
    return bool(trace["complete"])


def is_gone(trace: dict[str, Any]) -> bool:
    """Whoever lives has answered, and one is named."""
    return len(trace["missing"]) == 1 and "disconnected" in trace["missing"][0]


async def test_a_service_that_is_killed_before_it_tells_its_spans(tmp_path: Path) -> None:
    """The trace has all other parts, and says whose part is missing."""
    async with world(tmp_path) as it:
        await it.gateway()
        running = await service(it)
        async with mesh.connect("test", gateway=it.address) as client:
            assert await client.call("work", "die") == "dying"
            assert await running.wait() == -signal.SIGKILL
            trace = await kept(client, is_gone)
            (sentence,) = trace["missing"]
            assert sentence.startswith("work (")
            assert sentence.endswith("): disconnected before it sent its spans")
            assert (trace["spans"], trace["complete"]) == (3, False)
            assert sorted(trace["services"]) == ["mesh-gateway", "test"]
            # Its successor is another process, and owes nothing of this.
            await service(it)
            assert await client.call("work", "get") == "got"


async def test_a_gateway_that_is_killed_between_call_and_result(tmp_path: Path) -> None:
    """Its traces are lost with it; those of the next are whole, whatever peers still held."""
    async with world(tmp_path) as it:
        gateway = await it.gateway()
        await service(it)
        async with mesh.connect("test", gateway=it.address) as client:
            lost: list[mesh.CallError] = []

            async def call() -> None:
                with pytest.raises(mesh.Unavailable) as caught:
                    await client.call("work", "wait")
                lost.append(caught.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                with trio.fail_after(PATIENCE):
                    while not (await client.call("mesh", "status"))["in_flight"] > 1:
                        await trio.lowlevel.checkpoint()
                await gateway.end(signal.SIGKILL)
            assert lost[0].reason == "CONNECTION_LOST"
            await it.gateway()
            with trio.fail_after(PATIENCE):
                while "work" not in [one["name"] for one in await client.call("mesh", "services")]:
                    await trio.lowlevel.checkpoint()
            assert await client.call("work", "get") == "got"
            trace = await kept(client, is_complete)
            assert (trace["spans"], trace["method"], trace["missing"]) == (4, "get", [])


@pytest.mark.parametrize("how", ["dies", "leaves"])
async def test_a_caller_that_ends_right_after_its_result(tmp_path: Path, how: str) -> None:
    """One that leaves in good order has told its span; one that is killed is named."""
    async with world(tmp_path) as it:
        await it.gateway()
        await service(it)
        running = await start(it, "caller", how)
        assert await running.wait() == (-signal.SIGKILL if how == "dies" else 0)
        async with mesh.connect("test", gateway=it.address, process=Process()) as client:
            if how == "leaves":
                trace = await kept(client, is_complete)
                assert (trace["spans"], trace["caller"]) == (4, "short")
                return
            trace = await kept(client, is_gone)
            (sentence,) = trace["missing"]
            assert sentence.startswith("short (")
            assert (trace["spans"], trace["complete"]) == (3, False)
