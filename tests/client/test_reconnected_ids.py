"""Ids of calls belong to one connection: nothing of an old one may touch calls of a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import mesh
from mesh.wire import Kind
from tests.gateway.raw_peer import HandGateway, MemoryDialer, call_header, settled

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_deadline_of_a_lost_connection_does_not_end_a_call_of_the_next(
    autojump_clock: MockClock,
) -> None:
    """A call lost with its connection leaves no timer behind that hits the next user of its id."""
    started = trio.Event()
    async with mesh.Gateway() as gateway:
        dialer = MemoryDialer(gateway)
        async with (
            mesh.connect("server", gateway=gateway) as server,
            mesh.connect("caller", gateway=dialer) as caller,
            trio.open_nursery() as nursery,
        ):

            @server.method("wait")
            async def wait(seconds: float) -> str:
                started.set()
                await trio.sleep(seconds)
                return "done"

            async def cut() -> None:
                await started.wait()
                await dialer.cut()

            await settled(server)
            nursery.start_soon(cut)
            with pytest.raises(mesh.Unavailable):
                await caller.call("server", "wait", 1000.0, timeout=2.0)
            assert await caller.call("server", "wait", 10.0, timeout=20.0) == "done"


async def test_a_deadline_of_a_lost_connection_does_not_stop_a_handler_on_the_next(
    autojump_clock: MockClock,
) -> None:
    """Nor does one at the serving end, where a restarted gateway gives out the same ids again."""
    started = trio.Event()
    dialer = MemoryDialer(None)
    async with trio.open_nursery() as nursery:
        server: mesh.Client | None = None
        for timeout, seconds in ((3.0, 1000.0), (20.0, 10.0)):
            async with mesh.Gateway() as gateway:
                dialer.gateway = gateway
                if server is None:
                    server = await nursery.start(_serve_wait, dialer, started)
                async with mesh.connect("caller", gateway=gateway) as caller:
                    assert server is not None
                    await settled(server)
                    if timeout == 3.0:
                        nursery.start_soon(_ignore, caller, seconds, timeout)
                        await started.wait()
                    else:
                        answer = await caller.call("server", "wait", seconds, timeout=timeout)
                        assert answer == "done"
        nursery.cancel_scope.cancel()


async def _serve_wait(
    dialer: MemoryDialer,
    started: trio.Event,
    *,
    task_status: trio.TaskStatus[mesh.Client] = trio.TASK_STATUS_IGNORED,
) -> None:
    async with mesh.connect("server", gateway=dialer) as server:

        @server.method("wait")
        async def wait(seconds: float) -> str:
            started.set()
            await trio.sleep(seconds)
            return "done"

        task_status.started(server)
        await trio.sleep_forever()


async def _ignore(caller: mesh.Client, seconds: float, timeout: float) -> None:
    with pytest.raises(mesh.CallError):
        await caller.call("server", "wait", seconds, timeout=timeout)


async def test_a_handler_that_outlives_its_connection_answers_nobody_elses_call(
    autojump_clock: MockClock,
) -> None:
    """A late answer for a call of an old connection is dropped, and disturbs nothing on the new."""
    started, go_on = trio.Event(), trio.Event()
    async with mesh.Gateway() as gateway:
        dialer = MemoryDialer(gateway)
        async with (
            mesh.connect("server", gateway=dialer) as server,
            mesh.connect("caller", gateway=gateway) as caller,
        ):

            @server.method("stubborn")
            async def stubborn() -> str:
                with trio.CancelScope(shield=True):
                    started.set()
                    await go_on.wait()
                return "done"

            async def first() -> None:
                with pytest.raises(mesh.Unavailable) as lost:
                    await caller.call("server", "stubborn")
                assert lost.value.reason == mesh.errors.Reason.CONNECTION_LOST
                assert lost.value.maybe_executed

            await settled(server)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first)
                await started.wait()
                await dialer.cut()
            await settled(server)
            connections = len(dialer.streams)
            go_on.set()
            await trio.testing.wait_all_tasks_blocked()
            assert await caller.call("server", "stubborn") == "done"
            assert len(dialer.streams) == connections
            assert gateway.core.counters.protocol_errors == 0


async def test_an_id_that_a_new_gateway_gives_again_belongs_to_the_new_call(
    autojump_clock: MockClock,
) -> None:
    """The handler of the old call ends while the new one runs: its answer is not taken for it."""
    gateway = HandGateway()
    releases: list[trio.Event] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("peer", gateway=gateway) as peer:

            @peer.method()
            async def stubborn(params: str) -> str:
                release = trio.Event()
                releases.append(release)
                with trio.CancelScope(shield=True):
                    await release.wait()
                return params

            header = call_header(5, "peer", "stubborn", chain=["peer.stubborn"])
            await gateway.send(header, payload=b"\xa3old")
            await trio.testing.wait_all_tasks_blocked()
            await gateway.stream.aclose()
            await gateway.accept()
            await gateway.send(header, payload=b"\xa3new")
            await trio.testing.wait_all_tasks_blocked()
            for release in releases:
                release.set()
                await trio.testing.wait_all_tasks_blocked()
            _, _, result, payload = await gateway.receive(Kind.RESULT)
            assert (result.call_id, payload) == (5, b"\xa3new")
            await gateway.stream.aclose()
