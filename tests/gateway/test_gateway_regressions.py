"""Faults of the gateway that were found once and must not come back."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from mesh.gateway.missing import explain_call, explain_service
from mesh.transport.outbox import FRAME_OVERHEAD
from mesh.wire import CONTINUED, MORE, Kind, codec
from tests.gateway.raw_peer import (
    RawPeer,
    call_header,
    raw_peer,
    register_header,
    result_header,
    settled,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


def check_idle(gateway: mesh.Gateway) -> None:
    """Nothing is in flight in any table."""
    core = gateway.core
    assert not core.table.by_id
    assert not core.held.entries
    assert core.held.size == 0
    for session in core.sessions.values():
        assert not session.serving
        assert not session.calls
    assert all(series.in_flight == 0 for series in core.metrics.methods())


async def read_by_gateway(peer: RawPeer) -> None:
    """Return once the gateway has read all that this peer sent before."""
    call_id = await peer.call("mesh", "status")
    while True:
        _, _, header, _ = await peer.receive(Kind.RESULT)
        if header.call_id == call_id:
            return


# Endings.


@pytest.mark.parametrize("parent_left", [True, False])
async def test_a_child_that_ends_with_its_parent_is_not_sent_to_another_instance(
    parent_left: bool,
    autojump_clock: MockClock,
) -> None:
    """Both were lost with one connection: the child's caller is told once, and nobody runs it.

    Also where the parent had not left either, and no other instance serves it.
    """
    async with (
        mesh.Gateway() as gateway,
        raw_peer(gateway, "caller") as caller,
        raw_peer(gateway, "twin", process_id="same") as twin,
        raw_peer(gateway, "other") as other,
    ):
        async with raw_peer(gateway, "server", process_id="same", lockstep=True) as server:
            await server.send(register_header("svc", "parent", "child"))
            while ("svc", "child") not in gateway.core.registry.methods:
                await trio.testing.wait_all_tasks_blocked()
            await caller.call("svc", "parent")
            _, _, parent, _ = await server.receive(Kind.CALL)
            # From here on it reads nothing: one frame is under way, and the child's waits.
            await caller.call("svc", "parent")
            await read_by_gateway(caller)
            second = max(gateway.core.table.by_id)
            assert second > parent.call_id
            await caller.call("svc", "parent")
            await read_by_gateway(caller)
            parent_id = parent.call_id if parent_left else max(gateway.core.table.by_id)
            assert parent_left or parent_id > second
            child = await twin.call("svc", "child", parent_id=parent_id)
            await read_by_gateway(twin)
            await other.send(register_header("svc", "child"))
            await read_by_gateway(other)
            assert len(gateway.core.table) == 4
        reasons = []
        for peer in (twin, caller, caller, caller):
            _, _, error, _ = await peer.receive(Kind.ERROR)
            reasons.append(error.reason)
            if peer is twin:
                assert error.call_id == child
        assert reasons == [Reason.PARENT_ENDED] + [Reason.CONNECTION_LOST] * 3
        for peer in (twin, other):
            status = await peer.call("mesh", "status")
            kind, _, header, _ = await peer.receive()
            assert (kind, header.call_id) == (Kind.RESULT, status), "nothing came before it"
        check_idle(gateway)


# Bounds of one connection.


async def test_too_many_methods_cost_only_the_connection_that_has_them(
    autojump_clock: MockClock,
) -> None:
    """The bound is each connection's own, however much others have registered."""
    limits = mesh.Limits(max_methods=20)
    async with (
        mesh.Gateway(limits=limits) as gateway,
        mesh.connect("bystander", gateway=gateway) as bystander,
    ):

        async def echo(params: int) -> int:
            return params

        for number in range(3):
            async with raw_peer(gateway, f"greedy{number}") as greedy:
                service = f"greedy{number}"
                await greedy.send(register_header(service, *(f"m{i}" for i in range(20))))
                await greedy.send(register_header(service, "m0", "m1"))  # no more than before
                await read_by_gateway(greedy)
                bystander.register(f"echo{number}", echo)
                await settled(bystander)
                await greedy.send(register_header(service, "more"))
                reason = await greedy.goodbye()
                assert reason == "21 methods of one connection exceed max_methods of 20"
            assert await bystander.call("bystander", f"echo{number}", number) == number
        assert gateway.core.counters.protocol_errors == 3


@pytest.mark.parametrize(("service", "method"), [(129, 1), (1, 129), (30_000, 1)])
async def test_names_of_calls_are_bounded(
    service: int, method: int, autojump_clock: MockClock
) -> None:
    """They are kept while a call waits and in the record of calls, so a longer one is a fault."""
    async with mesh.Gateway() as gateway, raw_peer(gateway) as peer:
        await peer.call("s" * 128, "m" * 128)
        await read_by_gateway(peer)
        await peer.call("s" * service, "m" * method)
        assert "at most 128 are allowed" in await peer.goodbye()


async def test_metadata_of_a_registration_is_bounded(autojump_clock: MockClock) -> None:
    """Together with the version, since the gateway keeps both for each service."""
    for version, metadata in (
        ("", {"k": "v" * 4096}),
        ("1.2.0", {"k" * 92: "v" * 4000}),
    ):
        async with mesh.Gateway() as gateway, raw_peer(gateway) as peer:
            await peer.send(codec.Register("fine", "1.0.111", {"m": {}}, {"k" * 1000: "v" * 3089}))
            await read_by_gateway(peer)
            await peer.send(codec.Register("svc", version, {"m": {}}, metadata))
            reason = await peer.goodbye()
            assert "4,097 characters exceed 4,096" in reason
            assert "svc" not in gateway.core.registry.services


async def test_what_a_registration_requires_is_bounded(autojump_clock: MockClock) -> None:
    """By itself; and an entry of that form about another service is metadata."""
    for key, size, told in (
        ("requires.svc", 8193, "8,193 characters of what 'svc' requires exceed 8,192"),
        ("requires.fine", 4096, "4,109 characters exceed 4,096"),
    ):
        async with mesh.Gateway() as gateway, raw_peer(gateway) as peer:
            await peer.send(codec.Register("fine", "", {"m": {}}, {"requires.fine": "v" * 8192}))
            await read_by_gateway(peer)
            await peer.send(codec.Register("svc", "", {"m": {}}, {key: "v" * size}))
            assert told in await peer.goodbye()
            assert "svc" not in gateway.core.registry.services


async def _send_pieces(peer: RawPeer, service: str, count: int) -> int:
    """Begin a call in pieces of one byte that never ends; returns its id."""
    call_id = peer._last_id + 1
    peer._last_id = call_id
    first = bytearray(codec.encode_header(call_header(call_id, service, "method"), b"z"))
    first[5] = MORE
    more = codec.encode(Kind.CALL, (call_id,), b"z", MORE | CONTINUED)
    await peer.send_bytes(bytes(first) + more * (count - 1))
    return call_id


async def test_pieces_of_a_waiting_call_count_with_what_keeping_them_costs(
    autojump_clock: MockClock,
) -> None:
    """Else a call of tiny pieces held a hundred times what it seems to."""
    fit = 200
    limits = mesh.Limits(max_outbox=fit * (1 + FRAME_OVERHEAD))
    async with mesh.Gateway(limits=limits) as gateway, raw_peer(gateway) as peer:
        await _send_pieces(peer, "absent", fit - 1)
        await read_by_gateway(peer)
        core = gateway.core
        assert core.held.size >= (fit - 1) * (1 + FRAME_OVERHEAD)
        await peer.send(codec.Cancel(1, codec.BY_CALLER))
        await read_by_gateway(peer)
        assert core.held.size == 0

        call_id = await _send_pieces(peer, "absent", fit + 2)
        _, _, error, _ = await peer.receive(Kind.ERROR)
        assert (error.call_id, error.reason) == (call_id, Reason.WAITING_FULL)
        await read_by_gateway(peer)
        check_idle(gateway)


async def test_pieces_for_a_callee_that_does_not_read_count_with_what_keeping_them_costs(
    autojump_clock: MockClock,
) -> None:
    """The same bound holds in an outbox."""
    limits = mesh.Limits(max_outbox=200 * (1 + FRAME_OVERHEAD))
    async with (
        mesh.Gateway(limits=limits) as gateway,
        raw_peer(gateway, "slow", lockstep=True) as slow,
        raw_peer(gateway, "caller") as caller,
    ):
        await slow.send(register_header("svc", "method"))
        while "svc" not in gateway.core.registry.services:
            await trio.testing.wait_all_tasks_blocked()
        await caller.call("svc", "method")  # stays under way
        await read_by_gateway(caller)
        call_id = await _send_pieces(caller, "svc", 300)
        _, _, error, _ = await caller.receive(Kind.ERROR)
        assert (error.call_id, error.reason) == (call_id, Reason.OUTBOX_FULL)


# Balancing.


async def test_an_instance_that_does_not_read_gets_no_more_calls(
    autojump_clock: MockClock,
) -> None:
    """Another takes them, even where it has more calls in flight; alone, it is overloaded."""
    async with (
        mesh.Gateway(limits=mesh.Limits(max_outbox=100_000)) as gateway,
        raw_peer(gateway, "stuck", lockstep=True) as stuck,
        raw_peer(gateway, "caller") as caller,
    ):
        await stuck.send(register_header("svc", "method"))
        while "svc" not in gateway.core.registry.services:
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            await caller.call("svc", "method", bytes(60_000))
        await read_by_gateway(caller)
        assert len(gateway.core.table) == 2
        refused = await caller.call("svc", "method")
        _, _, error, _ = await caller.receive(Kind.ERROR)
        assert (error.call_id, error.reason) == (refused, Reason.OUTBOX_FULL)

        async with raw_peer(gateway, "well") as well:
            await well.send(register_header("svc", "method"))
            await read_by_gateway(well)
            calls = [await caller.call("svc", "method") for _ in range(10)]
            held = [(await well.receive(Kind.CALL))[2].call_id for _ in calls]
            for call_id in held:
                await well.send(result_header(call_id), payload=b"\xc0")
            answered = [(await caller.receive())[2].call_id for _ in calls]
            assert answered == calls


# Large results.


async def test_large_results_for_one_caller_arrive_though_they_exceed_its_outbox(
    autojump_clock: MockClock,
) -> None:
    """Where it reads steadily, the gateway takes them no faster than they leave."""
    size, count = 1 << 20, 6
    arrived: dict[int, int] = {}
    async with (
        mesh.Gateway(limits=mesh.Limits(max_outbox=2 << 20)) as gateway,
        raw_peer(gateway, "server", lockstep=True) as server,
        raw_peer(gateway, "caller", lockstep=True) as caller,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def serve() -> None:
            await server.send(register_header("svc", "big"))
            for _ in range(count):
                _, _, call, _ = await server.receive(Kind.CALL)
                fields = (call.call_id, codec.MSGPACK, 0, 0, None, None)
                for frame in codec.chunks(Kind.RESULT, fields, bytes(size), 64 * 1024):
                    await server.send_bytes(b"".join(frame))

        for _ in range(count):
            await caller.call("svc", "big")
        done = 0
        while done < count:
            kind, flags, header, payload = await caller.receive()
            assert kind == Kind.RESULT, header
            arrived[header.call_id] = arrived.get(header.call_id, 0) + len(payload)
            done += not flags & MORE
            await trio.sleep(0.002)  # what a reader does with a frame
    assert arrived == dict.fromkeys(range(1, count + 1), size)


# The registry.


class CountingMatcher(difflib.SequenceMatcher[str]):
    """Counts the pairs that are compared."""

    pairs = 0

    def set_seq1(self, a: Any) -> None:
        CountingMatcher.pairs += 1
        super().set_seq1(a)


async def test_explaining_a_missing_name_is_cheap_among_any_names(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few names are compared, however many look alike, and long ones not at all."""
    alike = [("ab" * 31)[:58] + f"{number:03d}" for number in range(900)]
    async with mesh.Gateway() as gateway, raw_peer(gateway, "many") as peer:
        await peer.send(
            *(register_header("big", *alike[at : at + 100]) for at in range(0, 900, 100))
        )
        await read_by_gateway(peer)
        monkeypatch.setattr(difflib, "SequenceMatcher", CountingMatcher)
        for name in ("ab" * 30, "ab" * 31, "ab" * 62, "ba" * 30, "a"):
            CountingMatcher.pairs = 0
            _, reason, message = explain_call(gateway.core, "big", name)
            assert reason == "METHOD_NOT_FOUND"
            assert len(message) < 2000
            assert CountingMatcher.pairs <= 25
        CountingMatcher.pairs = 0
        assert explain_service(gateway.core, "bgi").endswith("did you mean 'big'?")
        assert CountingMatcher.pairs > 0, "the comparisons are counted"


# Listening.


def names_in(folder: Path) -> list[str]:
    """What a folder holds."""
    return [file.name for file in folder.iterdir()]


@pytest.mark.parametrize("what", ["folder", "file"])
async def test_a_failed_bind_leaves_no_lock_behind(what: str, tmp_path: Path) -> None:
    """Where something else is in the way of the socket."""
    path = tmp_path / "in-the-way"
    if what == "folder":
        path.mkdir()
    else:
        path.write_text("precious")
    with pytest.raises(mesh.AddressInUse, match="in-the-way exists and is no socket"):
        async with mesh.Gateway(listen=[f"unix:{path}"]):
            pass
    assert names_in(tmp_path) == ["in-the-way"]
    assert what == "folder" or path.stat().st_size == len("precious")


async def test_a_bind_that_finds_the_address_taken_leaves_its_owner_its_lock(
    tmp_path: Path,
) -> None:
    """Else a third gateway could take the address from the first."""
    address = f"unix:{tmp_path}/gateway.sock"
    async with mesh.Gateway(listen=[address]):
        for _ in range(2):
            with pytest.raises(mesh.AddressInUse):
                async with mesh.Gateway(listen=[address]):
                    pass
        async with mesh.connect("peer", gateway=address) as peer:
            assert await peer.call("mesh", "status")
    assert names_in(tmp_path) == []
