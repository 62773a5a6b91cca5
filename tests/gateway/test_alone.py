"""Entry calls that are all of their trace, and of which the gateway keeps no more than a row."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import pytest
import trio

from mesh.wire import Kind
from tests.gateway.raw_peer import error_header, raw_peer, register_header, result_header
from tests.gateway.traces import QUIET, running

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.gateway.raw_peer import RawPeer
    from tests.gateway.traces import Mesh


async def pass_by(it: Mesh, peer: RawPeer, trace_id: bytes) -> None:
    """A call of this trace that ends well, alone, while the baseline is not asked."""
    it.gateway.core.metrics.method("raw", "get").baseline_from = inf
    await peer.call("raw", "get", trace_id=trace_id)
    _, _, call, _ = await peer.receive(Kind.CALL)
    await peer.send(result_header(call.call_id))
    await peer.receive(Kind.RESULT)


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_call_that_was_alone_is_in_the_trace_of_one_that_comes_after_it(
    turns: int, autojump_clock: MockClock
) -> None:
    trace_id = b"\xab" * 16
    async with running(QUIET) as it, raw_peer(it.gateway) as peer:
        await peer.send(register_header("raw", "get"))
        await pass_by(it, peer, trace_id)
        assert not it.tracing.traces
        assert it.tracing.pending == 1
        for _ in range(turns):
            it.tracing._pass_on()
        await peer.call("raw", "nothing", trace_id=trace_id)
        await peer.receive(Kind.ERROR)
        await trio.sleep(0.1)
        (trace,) = it.kept
        assert {record.trace_id for record in it.gateway.core.recorder.recent(2)} == {trace_id}
        assert sum(span.name == "raw.get" for _, span in trace.spans()) == 2
        assert it.tracing.pending == 1


async def test_calls_of_one_trace_that_run_beside_each_other_are_not_alone(
    autojump_clock: MockClock,
) -> None:
    """Whoever ends first waits for what becomes of the other."""
    trace_id = b"\xab" * 16
    async with running(QUIET) as it, raw_peer(it.gateway) as peer:
        await peer.send(register_header("raw", "get"))
        it.gateway.core.metrics.method("raw", "get").baseline_from = inf
        for _ in range(2):
            await peer.call("raw", "get", trace_id=trace_id)
        _, _, first, _ = await peer.receive(Kind.CALL)
        _, _, second, _ = await peer.receive(Kind.CALL)
        await peer.send(result_header(first.call_id))
        await peer.receive(Kind.RESULT)
        await trio.sleep(5)
        await peer.send(error_header(second.call_id))
        await peer.receive(Kind.ERROR)
        await trio.sleep(0.1)
        (trace,) = it.kept
        assert sum(span.name == "raw.get" for _, span in trace.spans()) == 4


async def test_calls_that_were_alone_are_forgotten_and_counted(autojump_clock: MockClock) -> None:
    async with running(QUIET) as it, raw_peer(it.gateway) as peer:
        await peer.send(register_header("raw", "get"))
        for number in range(1, 11):
            await pass_by(it, peer, number.to_bytes(16))
        assert it.tracing.pending == 10
        await it.settled()
        assert it.counts == {"dropped": 10}
        it.check_nothing_left()
