"""Which calls a kept trace is told by: its entry calls, one or several, and no others."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import trio
from opentelemetry import trace as otel

import mesh
from mesh_telemetry import TraceSettings
from tests.gateway.raw_peer import settled
from tests.gateway.traces import running, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from trio.testing import MockClock

FOREIGN = otel.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=otel.TraceFlags(1))
"""The span of some other program in which a request came in."""


def incoming() -> AbstractContextManager[object]:
    """As code runs that a ``traceparent`` came in with."""
    return otel.use_span(otel.NonRecordingSpan(FOREIGN))


def own_span() -> AbstractContextManager[object]:
    """A span of this program's, which its own provider tells nobody of."""
    return otel.use_span(otel.NonRecordingSpan(otel.SpanContext(0xABD, 0xDF0, is_remote=False)))


@pytest.mark.parametrize("around", [incoming, own_span])
async def test_several_entry_calls_of_one_trace_are_told_side_by_side(
    around: Callable[[], AbstractContextManager[object]], autojump_clock: MockClock
) -> None:
    """The list tells of all of them, and each of them is found."""
    async with running() as it, it.peer("front") as front, it.peer("web") as web:

        async def buy(what: str) -> None:
            await trio.sleep(1.2 if what == "slow" else 0.04)
            if what == "missing":
                raise mesh.NotFound("no such thing")

        front.register("buy", buy)
        await settled(front)
        for what in ("thing", "missing", "slow"):
            with around(), pytest.raises(mesh.NotFound) if what == "missing" else nullcontext():
                await web.call("front", "buy", what)
            await trio.sleep(0.3)
        await it.settled()
        traces = it.gateway.traces
        (found,) = await traces.find()
        assert (found.service, found.method, found.caller) == ("front", "buy", "web")
        assert (found.entry_calls, found.code, found.complete) == (3, "not_found", True)
        assert found.duration_ms == pytest.approx(1880, abs=20)
        for code in ("ok", "not_found"):
            assert await traces.find(min_duration="1s", code=code, method="buy") == [found]
        assert await traces.find(min_duration="1.5s") == [], "no call took as long"
        rows = (await traces.waterfall(found.trace_id)).rows
        assert [(row.depth, row.orphan) for row in rows] == [
            (depth, False) for _ in range(3) for depth in range(4)
        ]
        lines = (await traces.text(found.trace_id)).splitlines()
        assert lines[0].startswith("front.buy +2 by web  not_found after 1.88 s")
        assert sum(line.startswith("front.buy   ") for line in lines) == 3
        assert not any(line.startswith(("?", "!")) for line in lines)
        at = lines.index("Where 1.88 s went")
        assert [line.split("  ")[1] for line in lines[at + 1 : at + 3]] == [
            "front.buy",
            "in the caller",
        ]


async def test_a_detached_call_that_ends_just_before_its_handler_is_not_the_entry_call(
    autojump_clock: MockClock,
) -> None:
    """Both are looked at together then, and the detached one has ended first."""
    async with (
        running() as it,
        it.peer("lg") as lg,
        it.peer("bank") as bank,
        it.peer("web") as web,
    ):

        async def charge() -> None:
            await trio.sleep(0.02)

        async def later() -> None:
            with mesh.detached():
                for _ in range(40):  # more than are looked at in one go
                    await lg.call("bank", "charge")

        bank.register("charge", charge)
        lg.register("later", later)
        for peer in (bank, lg):
            await settled(peer)
        with mesh.traced():
            await web.call("lg", "later")
        await it.settled()
        (found,) = await it.gateway.traces.find()
        assert (found.caller, found.service, found.method) == ("web", "lg", "later")
        assert (found.entry_calls, found.complete, found.missing) == (1, True, [])
        root = tree(it.kept[0])
        assert root.span.name == "lg.later"
        assert sum(node.span.name == "bank.charge" for node in root.walk()) == 160


async def test_a_call_that_came_too_late_is_no_entry_call(autojump_clock: MockClock) -> None:
    """It was made inside one that has ended, and is refused as it did not say so."""
    async with (
        running(TraceSettings()) as it,
        it.peer("slow") as slow,
        it.peer("web") as web,
        trio.open_nursery() as nursery,
    ):

        async def late() -> None:
            async def work() -> None:
                await trio.sleep(0.1)
                with pytest.raises(mesh.FailedPrecondition):
                    await slow.call("slow", "late")

            nursery.start_soon(work)

        slow.register("late", late)
        await settled(slow)
        await web.call("slow", "late")
        await it.settled()
        (found,) = await it.gateway.traces.find()
        assert (found.caller, found.entry_calls, found.code) == ("web", 1, "ok")
        assert "refused" in found.reasons
