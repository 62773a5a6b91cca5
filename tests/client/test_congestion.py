"""A gateway that does not read: callers wait for room, and none is left hanging."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.wire import Kind
from tests.gateway.raw_peer import (
    HandGateway,
    result_header,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


@asynccontextmanager
async def congested() -> AsyncIterator[tuple[HandGateway, mesh.Client, list[Any]]]:
    """A caller whose outbox is full, as its gateway reads nothing; and what became of its calls."""
    gateway = HandGateway(lockstep=True)
    limits = mesh.Limits(max_outbox=100_000)
    outcomes: list[Any] = []

    async def call(caller: mesh.Client) -> None:
        try:
            outcomes.append(await caller.call("svc", "go", bytes(30_000), timeout=100))
        except mesh.CallError as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("caller", gateway=gateway, limits=limits) as caller:
            await trio.testing.wait_all_tasks_blocked()  # its first heartbeat blocks the stream
            for _ in range(6):
                nursery.start_soon(call, caller)
                await trio.testing.wait_all_tasks_blocked()
            link = caller._uplink.link
            assert link is not None
            assert link.queued < 140_000
            yield gateway, caller, outcomes
            nursery.cancel_scope.cancel()


async def test_callers_wait_for_room_and_go_on_as_the_gateway_reads(
    autojump_clock: MockClock,
) -> None:
    """What a peer holds unsent is bounded; each call is sent once there is room for it."""
    async with congested() as (gateway, _, outcomes):
        ids: set[int] = set()
        for _ in range(6):
            _, _, header, _ = await gateway.receive(Kind.CALL)
            ids.add(header.call_id)
        assert len(ids) == 6
        for call_id in ids:
            await gateway.send(result_header(call_id), payload=b"\x01")
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == [1] * 6


async def test_a_deadline_also_ends_the_wait_for_room(autojump_clock: MockClock) -> None:
    """The call was never sent, and says so."""
    async with congested() as (_, caller, _):
        before = trio.current_time()
        with pytest.raises(mesh.DeadlineExceeded, match="no time was left") as raised:
            await caller.call("svc", "go", timeout=2)
        assert trio.current_time() - before == pytest.approx(2, abs=0.01)
        assert not raised.value.maybe_executed
        with trio.move_on_after(1) as scope:
            await caller.call("svc", "go")
        assert scope.cancelled_caught


async def test_a_loss_while_callers_wait_for_room_leaves_none_hanging(
    autojump_clock: MockClock,
) -> None:
    """What was queued ends as never executed; what was not goes on with the next connection."""
    async with congested() as (gateway, _, outcomes):
        await gateway.stream.aclose()
        await gateway.accept()
        later = 0
        while sum(outcome != 1 for outcome in outcomes) + later < 6:
            _, _, header, _ = await gateway.receive(Kind.CALL)
            later += 1
            await gateway.send(result_header(header.call_id), payload=b"\x01")
        await trio.testing.wait_all_tasks_blocked()
        errors = [outcome for outcome in outcomes if outcome != 1]
        assert later == outcomes.count(1) > 0
        assert len(outcomes) == 6
        assert {(type(error), error.maybe_executed) for error in errors} == {
            (mesh.Unavailable, False)
        }
