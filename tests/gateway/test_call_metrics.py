"""The gateway is the truth: what it counts is what callers saw, and nothing stays in flight."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import CODES, Code
from mesh_telemetry.names import OTHER
from tests.gateway.raw_peer import MemoryDialer, settled

if TYPE_CHECKING:
    from trio.testing import MockClock

    from mesh_telemetry import CallMetrics

SERVICES = ("a", "b")


def counted(metrics: CallMetrics, *services: str) -> Counter[tuple[str, str, str]]:
    """Ended calls by (caller, method, code) of these services."""
    found: Counter[tuple[str, str, str]] = Counter()
    for series in metrics.calls():
        if series.method.service in services:
            name = f"{series.method.service}.{series.method.method}"
            for number, count in enumerate(series.codes):
                if count:
                    found[series.caller, name, str(CODES[number])] += count
    return found


@pytest.mark.parametrize("seed", range(5))
async def test_the_counts_are_what_callers_saw(autojump_clock: MockClock, seed: int) -> None:
    """Under random trees of calls, failures, timeouts and cancels, each outcome counts once."""
    randomness = random.Random(seed)
    saw: Counter[tuple[str, str, str]] = Counter()
    started: Counter[str] = Counter()

    async def observed(client: mesh.Client, depth: int) -> None:
        service, method = randomness.choice(SERVICES), randomness.choice(["ok", "fail", "slow"])
        timeout = randomness.choice([0.05, 0.3, 2.0])
        name = f"{service}.{method}"
        outcome = Code.OK
        try:
            with trio.CancelScope() as scope:
                if randomness.random() < 0.2:
                    scope.deadline = trio.current_time() + timeout / 2
                outcome = Code.CANCELLED  # unless it ends otherwise
                await client.call(service, method, depth, timeout=timeout)
                outcome = Code.OK
        except mesh.CallError as error:
            outcome = error.code
        saw[client.name, name, str(outcome)] += 1

    async def one_of(client: mesh.Client, method: str, depth: int) -> None:
        started[f"{client.name}.{method}"] += 1
        if method == "slow":
            await trio.sleep(randomness.choice([0.01, 0.2, 1.0]))
        if depth > 0:
            async with trio.open_nursery() as nursery:
                for _ in range(randomness.randrange(3)):
                    nursery.start_soon(observed, client, depth - 1)
        if method == "fail":
            raise mesh.NotFound("no")

    async with (
        mesh.Gateway() as gateway,
        mesh.connect("a", gateway=gateway) as a,
        mesh.connect("b", gateway=gateway) as b,
        mesh.connect("entry", gateway=gateway) as entry,
    ):
        for client in (a, b):
            for method in ("ok", "fail", "slow"):

                async def handler(
                    depth: int, client: mesh.Client = client, method: str = method
                ) -> None:
                    await one_of(client, method, depth)

                client.register(method, handler)
            await settled(client)
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(observed, entry, 3)
                await trio.sleep(randomness.expovariate(100))
        await trio.testing.wait_all_tasks_blocked()
        metrics = gateway.core.metrics
        counts = counted(metrics, *SERVICES)
        # Entry calls: to the unit, a fired scope showing as cancelled or as its deadline.
        mine = Counter({key: n for key, n in counts.items() if key[0] == "entry"})
        assert _merged(mine) == _merged(Counter({k: n for k, n in saw.items() if k[0] == "entry"}))
        assert sum(mine.values()) == 200
        # In all: as many ends as handlers were started, and none left.
        assert sum(counts.values()) >= sum(started.values())
        assert all(series.in_flight == 0 for series in metrics.methods())
        for series in metrics.methods():
            ended = sum(sum(call.codes) for call in metrics.calls() if call.method is series)
            refused = sum(
                count
                for (_, service, _), count in gateway.core.counters.rejected.items()
                if service == series.service
            )
            assert ended - refused <= sum(series.buckets) <= ended
        assert len(gateway.core.table) == 0


def _merged(counts: Counter[tuple[str, str, str]]) -> Counter[tuple[str, str, str]]:
    """A caller's own scope and the deadline that it sent may fire in either order."""
    merged: Counter[tuple[str, str, str]] = Counter()
    for (caller, name, code), count in counts.items():
        late = code in {"cancelled", "deadline_exceeded"}
        merged[caller, name, "stopped" if late else code] += count
    return merged


async def test_calls_in_flight_are_counted_while_they_are(autojump_clock: MockClock) -> None:
    """Also those that wait for their service; and zero afterwards, however they end."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        metrics = gateway.core.metrics

        async def call() -> None:
            with trio.move_on_after(20):
                await caller.call("late", "wait")

        for _ in range(3):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        assert metrics.method(OTHER, OTHER).in_flight == 3
        dialer = MemoryDialer(gateway)
        async with mesh.connect("late", gateway=dialer) as late:
            late.register("wait", trio.sleep_forever)
            await settled(late)
            assert metrics.method(OTHER, OTHER).in_flight == 0
            assert metrics.method("late", "wait").in_flight == 3
            await trio.sleep(30)
        assert metrics.method("late", "wait").in_flight == 0
        assert sum(metrics.series("caller", "late", "wait").codes) == 3


async def test_names_that_nobody_registered_make_no_labels() -> None:
    """A caller cannot make the gateway grow with what it asks for."""
    limits = mesh.Limits(service_wait=0)
    async with (
        mesh.Gateway(limits=limits) as gateway,
        mesh.connect("caller", gateway=gateway) as caller,
    ):
        methods = len(gateway.core.metrics.methods())
        for number in range(50):
            with pytest.raises(mesh.NotFound):
                await caller.call(f"nobody{number}", "nothing")
            with pytest.raises(mesh.Unimplemented):
                await caller.call("mesh", f"nothing{number}")
        assert len(gateway.core.metrics.methods()) <= methods + 1
        counts = counted(gateway.core.metrics, OTHER)
        assert counts == {
            ("caller", f"{OTHER}.{OTHER}", "not_found"): 50,
            ("caller", f"{OTHER}.{OTHER}", "unimplemented"): 50,
        }
        reasons = {reason: n for (_, _, reason), n in gateway.core.counters.rejected.items()}
        assert reasons == {"SERVICE_NOT_FOUND": 50, "METHOD_NOT_FOUND": 50}


async def test_callers_beyond_the_bound_share_a_label() -> None:
    """So that the metrics stay small, whoever connects."""
    async with mesh.Gateway(limits=mesh.Limits(max_callers=3)) as gateway:
        for number in range(6):
            async with mesh.connect(f"caller{number}", gateway=gateway) as caller:
                await caller.call("mesh", "status")
        callers = {series.caller for series in gateway.core.metrics.calls()}
        assert len(callers) <= 4
        assert OTHER in callers


async def test_durations_are_what_callers_waited(autojump_clock: MockClock) -> None:
    """In seconds, one observation a call."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method()
        async def sleep(seconds: float) -> None:
            await trio.sleep(seconds)

        await settled(peer)
        for seconds in (0.5, 1.5, 2.0):
            await peer.call("peer", "sleep", seconds)
        series = gateway.core.metrics.method("peer", "sleep")
        assert sum(series.buckets) == 3
        assert series.duration_sum == pytest.approx(4.0, abs=0.01)
        stats: list[dict[str, Any]] = await peer.call("mesh", "stats")
        (row,) = [row for row in stats if row["service"] == "peer"]
        assert (row["calls"], row["errors"], row["in_flight"]) == (3, {}, 0)


async def test_the_exposition_shows_the_same(autojump_clock: MockClock) -> None:
    """What a scrape reads is what was counted, instances and heartbeats included."""
    async with mesh.Gateway() as gateway, mesh.connect("peer", gateway=gateway) as peer:

        @peer.method()
        async def fail() -> None:
            raise mesh.NotFound("no")

        await settled(peer)
        for _ in range(4):
            with pytest.raises(mesh.NotFound):
                await peer.call("peer", "fail")
        text = "".join(gateway._figures.exposition.render("text/plain")[1])
        lines = [line for line in text.splitlines() if 'rpc_service="peer"' in line]
        total = next(
            line
            for line in lines
            if line.startswith("mesh_calls_total") and '"not_found"' in line.lower()
        )
        assert float(total.rsplit(" ", 1)[1]) == 4
        (healthy,) = [line for line in lines if 'state="healthy"' in line]
        assert float(healthy.rsplit(" ", 1)[1]) == 1
        assert any(line.startswith("mesh_peer_last_heartbeat") for line in lines)
        in_flight = [line for line in lines if line.startswith("mesh_calls_in_flight")]
        assert in_flight
        assert all(float(line.rsplit(" ", 1)[1]) == 0 for line in in_flight)


async def test_without_telemetry_calls_work_and_nothing_about_them_is_claimed() -> None:
    """No zeros are shown for what nobody counts, and `check` says so."""
    async with (
        mesh.Gateway(telemetry=False) as gateway,
        mesh.connect("peer", gateway=gateway) as peer,
    ):

        @peer.method()
        async def get() -> str:
            return "got"

        await settled(peer)
        assert await peer.call("peer", "get") == "got"
        with pytest.raises(mesh.NotFound):
            await peer.call("nobody", "get")
        core = gateway.core
        assert len(core.recorder) == 0
        assert core.metrics.ended() == 0
        assert core.counters.rejected == {}
        assert [series.in_flight for series in core.metrics.methods()] == [0] * len(
            core.metrics.methods()
        )
        text = "".join(gateway._figures.exposition.render("text/plain")[1])
        assert "mesh_calls_total{" not in text
        assert 'mesh_service_instances{rpc_service="peer",state="healthy"} 1' in text
        assert gateway.status().telemetry is False
        found = await peer.call("mesh", "check")
        assert any("telemetry is off" in finding["what"] for finding in found)
