"""Which calls of kept traces a gateway shows as exemplars of its durations."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
from prometheus_client.openmetrics import parser

import mesh
from mesh_telemetry import OPENMETRICS, TEXT, TraceSettings
from tests.gateway.traces import EPOCH, QUIET, Mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from prometheus_client.metrics_core import Metric
    from trio.testing import MockClock

PARSE: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
ALL = TraceSettings(baseline=1000, quota=1000, max_spans_per_second=1e6)


class Shown(NamedTuple):
    """An exemplar."""

    trace_id: bytes
    le: str
    seconds: float
    ended: float


def shown(it: Mesh) -> dict[str, list[Shown]]:
    """All exemplars by method; each one's trace is in the store."""
    text = "".join(it.gateway._figures.exposition.render(OPENMETRICS)[1])
    found: dict[str, list[Shown]] = {}
    for sample in (sample for family in PARSE(text) for sample in family.samples):
        if sample.exemplar is not None:
            assert sample.exemplar.timestamp is not None
            one = Shown(
                bytes.fromhex(sample.exemplar.labels["trace_id"]),
                sample.labels["le"],
                sample.exemplar.value,
                float(sample.exemplar.timestamp),
            )
            assert sample.value > 0, "the bucket has counted it"
            assert it.tracing.store.get(one.trace_id) is not None
            name = f"{sample.labels['rpc_service']}.{sample.labels['rpc_method']}"
            found.setdefault(name, []).append(one)
    return found


@asynccontextmanager
async def shop(traces: TraceSettings) -> AsyncIterator[tuple[Mesh, mesh.Client]]:
    """Orders take as long as they are asked to, and ask users for a quarter of that."""
    async with (
        running(traces) as it,
        it.peer("users") as users,
        it.peer("orders") as orders,
        it.peer("shop") as caller,
    ):

        async def get(seconds: float) -> None:
            await trio.sleep(seconds)
            if seconds > 10:
                raise mesh.NotFound("no user waits so long")

        async def place(seconds: float) -> None:
            await trio.sleep(seconds * 3 / 4)
            await orders.call("users", "get", seconds / 4)

        users.register("get", get)
        orders.register("place", place)
        await trio.sleep(0.1)
        yield it, caller


async def test_entry_call_and_nested_call_name_their_trace(autojump_clock: MockClock) -> None:
    async with shop(ALL) as (it, caller):
        await caller.call("orders", "place", 0.36, timeout=10)
        ended = EPOCH + trio.current_time()
        await it.settled()
        (trace,) = it.kept
        named = shown(it)
        assert named.keys() == {"orders.place", "users.get"}
        for name, le, seconds in (("orders.place", "0.5", 0.36), ("users.get", "0.1", 0.09)):
            (one,) = named[name]
            assert (one.trace_id, one.le) == (trace.trace_id, le)
            assert one.seconds == pytest.approx(seconds, abs=1e-6)
            assert one.ended == pytest.approx(ended, abs=0.002)
        older = "".join(it.gateway._figures.exposition.render(TEXT)[1])
        assert trace.trace_id.hex() not in older


async def test_each_bucket_has_its_newest_call(autojump_clock: MockClock) -> None:
    async with shop(ALL) as (it, caller):
        last = {}
        for seconds, le in (
            (0.4, "0.5"),
            (3.0, "5.0"),
            (0.3, "0.5"),
            (4.0, "5.0"),
            (0.02, "0.025"),
        ):
            await caller.call("orders", "place", seconds, timeout=20)
            await it.settled()
            last[le] = it.kept[0].trace_id
        assert {one.le: one.trace_id for one in shown(it)["orders.place"]} == last


async def test_a_trace_that_is_not_kept_is_no_exemplar(autojump_clock: MockClock) -> None:
    async with shop(QUIET) as (it, caller):
        await caller.call("orders", "place", 0.36)
        await it.settled()
        assert shown(it) == {}
        with pytest.raises(mesh.NotFound):
            await caller.call("orders", "place", 44.0, timeout=60)
        await it.settled()
        (trace,) = it.kept
        assert {
            name: [(one.trace_id, one.le) for one in some] for name, some in shown(it).items()
        } == {
            "orders.place": [(trace.trace_id, "+Inf")],
            "users.get": [(trace.trace_id, "30.0")],
        }


async def test_refused_calls_have_no_duration_to_show(autojump_clock: MockClock) -> None:
    async with shop(ALL) as (it, caller):
        await trio.sleep(it.gateway.limits.service_wait)
        for service, method in (("nobody", "get"), ("users", "no_such_method")):
            with pytest.raises(mesh.CallError):
                await caller.call(service, method)
        await it.settled()
        assert len(it.kept) == 2
        assert shown(it) == {}


async def test_what_waited_in_vain_is_shown_where_it_was_counted(autojump_clock: MockClock) -> None:
    async with running(ALL) as it, it.peer("shop") as caller:
        with pytest.raises(mesh.NotFound):
            await caller.call("nobody", "get", timeout=20)
        await it.settled()
        (trace,) = it.kept
        ((name, (one,)),) = shown(it).items()
        assert (name, one.trace_id) == ("_OTHER._OTHER", trace.trace_id)


async def test_an_exemplar_goes_with_its_trace(autojump_clock: MockClock) -> None:
    """After each of many calls, every exemplar is of a trace in the store; `shown` looks."""
    settings = TraceSettings(
        store_spans=100, baseline=1000, max_spans_per_second=1e6, slow_after=10
    )
    async with shop(settings) as (it, caller):
        await caller.call("orders", "place", 3.0, timeout=20)
        await it.settled()
        (first,) = it.kept
        assert first.trace_id in {one.trace_id for one in shown(it)["orders.place"]}
        for _ in range(30):
            await caller.call("orders", "place", 0.36)
            await it.settled()
            newest: Any = it.kept[0]
            assert newest.trace_id in {one.trace_id for one in shown(it)["orders.place"]}
        assert it.tracing.store.get(first.trace_id) is None
        assert [one.le for one in shown(it)["orders.place"]] == ["0.5"]
        assert len(it.tracing.collector._exemplars._places) == 1
