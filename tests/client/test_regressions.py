"""Faults of peers that were found once and must not come back."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Code, Reason
from mesh.gateway.departures import MEMORY
from mesh.wire import Kind, codec
from tests.end_to_end.processes import Running, world
from tests.gateway.raw_peer import HandGateway, MemoryDialer, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock


async def echo(params: Any) -> Any:
    return params


# Scopes whose deadline moves while a call runs.


async def _call_in_an_extended_scope(caller: mesh.Client, **options: Any) -> float:
    """Call within a scope of 0.5 s that becomes longer after 0.2; returns when the error came."""
    began = trio.current_time()
    with trio.CancelScope(deadline=began + 0.5) as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def extend() -> None:
                await trio.sleep(0.2)
                scope.deadline = began + 100

            with pytest.raises(mesh.DeadlineExceeded):
                await caller.call("server", "hang", **options)
    assert not scope.cancelled_caught
    return trio.current_time() - began


@pytest.mark.parametrize("options", [{}, {"timeout": 2}, {"timeout": 0.4}])
async def test_a_call_whose_scope_is_extended_ends_all_the_same(
    options: dict[str, Any], autojump_clock: MockClock
) -> None:
    """The gateway was told the scope's first deadline; what it says then reaches the caller."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("server", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway) as caller,
    ):
        server.register("hang", trio.sleep_forever)
        await settled(server)
        took = await _call_in_an_extended_scope(caller, **options)
        assert took == pytest.approx(min(0.5, options.get("timeout", 30)), abs=0.3)
        assert await caller.call("mesh", "status"), "the connection is of use still"


async def test_a_call_whose_scope_is_extended_while_no_gateway_is_there_ends_all_the_same(
    autojump_clock: MockClock,
) -> None:
    """Also where it only waited for a connection."""
    async with mesh.connect("caller", gateway=MemoryDialer(None), connect_timeout=0) as caller:
        assert await _call_in_an_extended_scope(caller, timeout=2) < 2.5


# Handlers that misbehave.


@pytest.mark.parametrize("how", ["scope", "generator"])
async def test_a_scope_that_a_handler_leaves_open_harms_no_other_call(
    how: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The next call is not cancelled by that scope, the peer lives, and the culprit is named."""
    kept: list[Any] = []

    async def generate() -> AsyncIterator[int]:
        with trio.move_on_after(0.5):
            yield 1
            yield 2

    async def leave_open() -> int:
        if how == "scope":
            kept.append(trio.CancelScope(deadline=trio.current_time() + 0.5))
            kept[0].__enter__()
            return 1
        kept.append(generate())
        return int(await anext(kept[0]))

    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        mesh.connect("server", gateway=gateway) as server,
    ):
        server.register("leaky", leave_open)
        server.register("echo", echo)

        @server.method
        async def innocent() -> str:
            await trio.sleep(1)
            return "fine"

        await settled(server)
        assert await caller.call("server", "leaky") == 1
        assert await caller.call("server", "innocent", timeout=3) == "fine"
        assert await caller.call("server", "echo", 7) == 7
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "server.leaky has left a cancel scope or nursery open" in errors[0]


async def test_a_subclass_may_write_its_code_as_text(autojump_clock: MockClock) -> None:
    """It is the code that callers see; one that does not exist is refused where it is written."""

    class Mine(mesh.CallError):
        code = "not_found"  # type: ignore[assignment] # what users write

    with pytest.raises(ValueError, match="no_such_code"):
        type("Wrong", (mesh.CallError,), {"code": "no_such_code"})

    async def mine() -> None:
        raise Mine("not here")

    async with (
        mesh.Gateway() as gateway,
        mesh.connect("server", gateway=gateway) as server,
    ):
        server.register("mine", mine)
        await settled(server)
        with pytest.raises(mesh.NotFound, match="not here") as raised:
            await server.call("server", "mine")
        assert raised.value.code is Code.NOT_FOUND
        with pytest.raises(mesh.NotFound):
            await server.call("server", "mine")


@pytest.mark.parametrize("max_header", [4 * 1024, 16 * 1024])
@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}"])
async def test_a_long_error_fits_into_the_gateways_header(
    letter: str, max_header: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its text and traceback are cut, and other calls of the peer go on."""
    outcomes: list[str] = []
    released = trio.Event()
    async with (
        mesh.Gateway(limits=mesh.Limits(max_header=max_header)) as gateway,
        mesh.connect("server", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):

        @server.method
        async def told() -> None:
            raise mesh.NotFound(letter * 60_000, reason="R" * 1000)

        @server.method
        async def broken() -> None:
            raise ValueError(letter * 60_000)

        @server.method
        async def slow() -> str:
            await released.wait()
            return "fine"

        @nursery.start_soon
        async def other() -> None:
            outcomes.append(await caller.call("server", "slow"))

        await settled(server)
        with pytest.raises(mesh.NotFound, match=letter * 30):
            await caller.call("server", "told")
        with pytest.raises(mesh.Unknown):
            await caller.call("server", "broken")
        released.set()
    assert outcomes == ["fine"]
    assert not [one for one in caplog.records if "exceeds max_header" in one.getMessage()]


# Calls that are wrong.


async def test_names_that_no_header_carries_are_refused_where_they_are_used(
    autojump_clock: MockClock,
) -> None:
    """No text is a TypeError, too long a ValueError; other calls of the connection go on."""
    released = trio.Event()
    outcomes: list[str] = []
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("peer", gateway=gateway) as peer,
        trio.open_nursery() as nursery,
    ):

        @peer.method
        async def slow() -> str:
            await released.wait()
            return "fine"

        @nursery.start_soon
        async def other() -> None:
            outcomes.append(await peer.call("peer", "slow"))

        await settled(peer)
        wrong: Any
        for wrong in (None, 1, b"slow"):
            with pytest.raises(TypeError, match="must be text"):
                await peer.call("peer", wrong)
            with pytest.raises(TypeError, match="must be text"):
                await peer.call(wrong, "slow")
        for service, method in (("s" * 129, "m"), ("s", "m" * 129), ("s" * 10_000, "m" * 10_000)):
            with pytest.raises(ValueError, match="names have at most 128 characters"):
                await peer.call(service, method)
        with pytest.raises(mesh.NotFound):
            await peer.call("s" * 128, "m" * 128, timeout=20)
        released.set()
    assert outcomes == ["fine"]
    assert gateway.core.counters.protocol_errors == 0


async def test_a_type_that_nothing_decodes_into_is_refused_before_the_callee_runs(
    autojump_clock: MockClock,
) -> None:
    """A TypeError; the method is not called for a result that could not be had."""
    ran = 0
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method
        async def work() -> int:
            nonlocal ran
            ran += 1
            return ran

        await settled(peer)
        wrong: Any
        for wrong in ([1], list[int] | tuple[int, ...], dict[str, int] | dict[int, str]):
            with pytest.raises(TypeError):
                await peer.call("peer", "work", result=wrong)
        await settled(peer)
        assert ran == 0
        assert await peer.call("peer", "work", result=int) == 1


async def test_parameters_are_measured_by_the_gateway_that_takes_them(
    autojump_clock: MockClock,
) -> None:
    """A call that began before there was a connection obeys the gateway's bound, and harms none."""
    dialer = MemoryDialer(None)
    outcomes: dict[str, mesh.CallError] = {}
    async with (
        mesh.Gateway(limits=mesh.Limits(max_message=1 << 20)) as gateway,
        mesh.connect("caller", gateway=dialer, connect_timeout=0) as caller,
    ):

        async def call(name: str, params: bytes) -> None:
            try:
                await caller.call("mesh", name, params)
            except mesh.CallError as error:
                outcomes[name] = error

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "large", bytes(2 << 20))
            nursery.start_soon(call, "small", b"")
            await trio.testing.wait_all_tasks_blocked()
            dialer.gateway = gateway
        assert await caller.call("mesh", "status")
    large = outcomes["large"]
    assert isinstance(large, mesh.ResourceExhausted)
    assert large.reason == Reason.MESSAGE_TOO_LARGE
    assert not large.maybe_executed
    assert outcomes["small"].reason == Reason.METHOD_NOT_FOUND
    assert len(dialer.streams) == 1


async def test_a_child_that_only_waited_was_not_executed(autojump_clock: MockClock) -> None:
    """A call for a service that never came says so when its parent ends."""
    errors: list[mesh.CallError] = []
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method
        async def outer() -> None:
            async def child() -> None:
                with trio.CancelScope(shield=True):
                    try:
                        await peer.call("absent", "method", timeout=20)
                    except mesh.CallError as error:
                        errors.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
                await trio.sleep_forever()

        await settled(peer)
        with pytest.raises(mesh.DeadlineExceeded):
            await peer.call("peer", "outer", timeout=0.3)
        await settled(peer)
        await trio.testing.wait_all_tasks_blocked()
    assert [error.maybe_executed for error in errors] == [False]


# Serving.


async def test_the_decorator_needs_no_brackets(autojump_clock: MockClock) -> None:
    """The function's own name is the method's, and the function stays what it was."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method
        async def plain(params: int) -> int:
            return params + 1

        assert await plain(1) == 2
        assert peer.registered_methods() == ["peer.plain"]
        await settled(peer)
        assert await peer.call("peer", "plain", 2) == 3


async def test_a_second_handler_of_a_name_is_refused(autojump_clock: MockClock) -> None:
    """The first goes on serving, until it is unregistered."""

    async def first() -> str:
        return "first"

    async def second() -> str:
        return "second"

    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:
        peer.register("get", first)
        peer.register("get", second, service="other")
        with pytest.raises(ValueError, match=r"peer\.get is served by .*first.* already"):
            peer.register("get", second)
        await settled(peer)
        assert await peer.call("peer", "get") == "first"
        peer.unregister("get")
        peer.register("get", second)
        await settled(peer)
        assert await peer.call("peer", "get") == "second"


async def test_services_that_come_and_go_leave_nothing_behind(autojump_clock: MockClock) -> None:
    """Neither in the peer, which would register them again, nor for long in the gateway."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:
        before = set(gateway.core.registry.services)
        for number in range(200):
            peer.register("method", echo, service=f"service_{number}")
            peer.unregister("method", service=f"service_{number}")
        await settled(peer)
        assert not peer._uplink._registrations.services
        assert not peer.registered_methods()
        gateway.core.registry.sweep(trio.current_time() + MEMORY + 1)
        assert set(gateway.core.registry.services) == before


@pytest.mark.parametrize("around", [mesh.detached, mesh.activity])
async def test_what_is_around_connect_is_no_part_of_the_calls_served(
    around: Any, autojump_clock: MockClock
) -> None:
    """Nested calls keep the deadline and the activity of the call they are made for."""
    async with mesh.Gateway() as gateway:
        with around():
            connecting = mesh.connect("peer", gateway=gateway)
            peer = await connecting.__aenter__()
        try:

            @peer.method
            async def inner() -> tuple[float, str]:
                call = mesh.current_call()
                assert call is not None
                return call.remaining, call.activity_id

            @peer.method
            async def outer() -> Any:
                call = mesh.current_call()
                assert call is not None
                return call.activity_id, await peer.call("peer", "inner")

            await settled(peer)
            with mesh.activity("mine"):
                activity, (remaining, below) = await peer.call("peer", "outer", timeout=1)
            assert activity == below == "mine"
            assert remaining <= 1
            first, (_, below) = await peer.call("peer", "outer")
            second, _ = await peer.call("peer", "outer")
            assert first == below != second
        finally:
            await connecting.__aexit__(None, None, None)


# Connections.


async def test_connections_lost_at_once_are_tried_ever_more_slowly(
    autojump_clock: MockClock,
) -> None:
    """A WELCOME alone does not make a good connection: else a peer could storm its gateway."""
    gateway = HandGateway()
    count = 0
    with trio.move_on_after(60):
        async with (
            mesh.connect("peer", gateway=gateway, connect_timeout=0),
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def lose() -> None:
                nonlocal count
                while True:
                    await gateway.accept()
                    count += 1
                    await gateway.stream.aclose()

    assert 8 <= count <= 80  # about 30; without growth it is more than two thousand


async def test_a_gateway_that_listens_and_is_silent_is_told_apart(tmp_path: Path) -> None:
    """It says that there is a connection and no answer, not that nothing was tried."""
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(mesh.Unavailable) as raised:
            async with mesh.connect("peer", gateway=f"unix:{path}", connect_timeout=0.2):
                pass
    assert "connected, but the gateway does not answer" in raised.value.message
    assert str(path) in raised.value.message


async def test_a_cancelled_peer_says_goodbye(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The gateway can tell it from a peer that is lost, and nothing alarming is logged."""
    gateway = HandGateway()
    received: list[str] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def accept() -> None:
            await gateway.accept()
            _, _, header, _ = await gateway.receive(Kind.GOAWAY)
            received.append(header.reason)

        with trio.move_on_after(1) as scope:
            async with mesh.connect("peer", gateway=gateway):
                await trio.sleep_forever()
        assert scope.cancelled_caught
    assert received == ["closing"]
    assert "lost its gateway" not in caplog.text


# Processes.

FORK = """
import os
import mesh
from mesh.process import this_process

before = this_process()
state = before.random.getstate()
read, write = os.pipe()
child = os.fork()
if child == 0:
    mine = this_process()
    os.write(write, f"{mine.id} {mine.random.getrandbits(128):x}".encode())
    os._exit(0)
os.waitpid(child, 0)
print(before.id, f"{before.random.getrandbits(128):x}")
print(os.read(read, 1000).decode())
print(this_process() is before)
"""


async def test_a_forked_child_is_another_process() -> None:
    """With its own id and its own random numbers, of which trace ids are made."""
    done = await trio.run_process([sys.executable, "-c", FORK], capture_stdout=True)
    parent, child, same = done.stdout.decode().splitlines()
    assert same == "True"
    parent_id, parent_trace = parent.split()
    child_id, child_trace = child.split()
    assert parent_id != child_id
    assert parent_trace != child_trace


SERVICE = """
import logging
import sys
import mesh

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")

def work(client):
    @client.method
    async def wait():
        return await client.call("test", "release")

mesh.run(work, gateway=sys.argv[1])
print("ended", flush=True)
"""


class Program:
    """A process of `mesh.run`, called from this one."""

    def __init__(self, running: Running, caller: mesh.Client, nursery: trio.Nursery) -> None:
        self.running = running
        self.caller = caller
        self.nursery = nursery
        self.released = trio.Event()
        self.outcomes: list[Any] = []
        self.nested = trio.Event()

    async def reads(self, text: str) -> None:
        """Return once it has printed a line with this text."""
        while text not in await self.running.line():
            pass

    async def call(self) -> None:
        """Call the method that waits for this process, and note what comes of it."""
        try:
            self.outcomes.append(await self.caller.call("work", "wait"))
        except mesh.CallError as error:
            self.outcomes.append(error.reason)


@asynccontextmanager
async def program(folder: Path) -> AsyncIterator[Program]:
    async with (
        world(folder) as it,
        mesh.Gateway(listen=[it.address]) as gateway,
        mesh.connect("test", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        made = Program(await it.start("-c", SERVICE, it.address), caller, nursery)

        @caller.method
        async def release() -> str:
            made.nested.set()
            await made.released.wait()
            return "released"

        await made.reads("connected to gateway")
        yield made


async def test_the_first_sigterm_drains(tmp_path: Path) -> None:
    """What is under way is finished, with calls of its own too; then the program goes on."""
    async with program(tmp_path) as it:
        it.nursery.start_soon(it.call)
        await it.nested.wait()
        it.running.process.send_signal(signal.SIGTERM)
        await it.reads("drains")
        it.released.set()
        await it.reads("ended")
        assert await it.running.wait() == 0
    assert it.outcomes == ["released"]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_the_second_signal_does_not_wait_for_the_drain(
    second: signal.Signals, tmp_path: Path
) -> None:
    """It ends the program at once, as that signal does."""
    async with program(tmp_path) as it:
        it.nursery.start_soon(it.call)
        await it.nested.wait()
        it.running.process.send_signal(signal.SIGTERM)
        await it.reads("drains")
        began = trio.current_time()
        assert await it.running.end(second) == -second
        assert trio.current_time() - began < 5, "a drain takes ten seconds"
    assert it.outcomes == [Reason.CONNECTION_LOST]


async def test_a_call_that_arrives_while_its_peer_ends_does_not_crash_it() -> None:
    """Seen under load: the reader gave it to a parked worker that had just been cancelled."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method("quick")
        async def quick() -> str:
            return "quick"

        await peer.call("peer", "quick")
        dispatcher = peer._uplink.dispatcher
        assert dispatcher._idle
        assert dispatcher._nursery is not None
        dispatcher._nursery.cancel_scope.cancel()
        header = codec.Call(
            99, 0, 99, 1_000_000, bytes(15) + b"1", bytes(7) + b"1", 3, 1, "peer", "quick",
            codec.MSGPACK, 0, None, "activity", ["peer.quick"], gateway.instance, "peer", None,
        )  # fmt: skip
        assert dispatcher.dispatch(header, b"")
