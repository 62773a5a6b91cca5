"""Services that are gone: what their callers are told, and under which names they count."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import mesh
from mesh.errors import Reason
from mesh.gateway import departures
from mesh.gateway.checks import Finding, check
from mesh.gateway.departures import LEFT, LOST, MEMORY, UNREGISTERED, Departed, Departure
from mesh.gateway.figures import STATES
from mesh.gateway.registry import Method
from mesh_telemetry import CallMetrics
from tests.gateway.raw_peer import MemoryDialer, settled
from tests.gateway.test_figures import read, value

if TYPE_CHECKING:
    from trio.testing import MockClock


async def answer(params: Any) -> Any:
    return params


async def lose(gateway: mesh.Gateway, service: str, *methods: str) -> None:
    """An instance comes, and its connection is lost without a goodbye."""
    dialer = MemoryDialer(gateway)
    async with mesh.connect(service, gateway=dialer) as peer:
        for method in methods:
            peer.register(method, answer)
        await settled(peer)
        dialer.gateway = None
        await dialer.cut()
        await trio.testing.wait_all_tasks_blocked()


async def refused(caller: mesh.Client, service: str, method: str) -> mesh.CallError:
    with pytest.raises(mesh.CallError) as caught:
        await caller.call(service, method, 1)
    assert not caught.value.maybe_executed
    return caught.value


def finding(gateway: mesh.Gateway, subject: str) -> Finding:
    (found,) = (one for one in check(gateway.core, gateway.views) if one.subject == subject)
    return found


async def test_calls_of_a_service_that_is_gone_count_as_its_own_and_as_faults(
    autojump_clock: MockClock,
) -> None:
    """For as long as the service is remembered; those of a name that was never there do not."""
    async with mesh.Gateway() as gateway, mesh.connect("web", gateway=gateway) as web:
        await lose(gateway, "orders", "place")
        await trio.sleep(240)
        for _ in range(7):
            error = await refused(web, "orders", "place")
            assert (error.code, error.reason) == ("unavailable", Reason.NO_INSTANCE)
        assert error.message.startswith("nobody serves 'orders' since ")
        assert "UTC (4m 0s ago); its last instance, orders at " in error.message
        assert error.message.endswith(", was disconnected; start one")
        typo = await refused(web, "odrers", "place")
        assert (typo.code, typo.reason) == ("not_found", Reason.SERVICE_NOT_FOUND)
        assert typo.message == "no service 'odrers' is registered; did you mean 'orders'?"

        calls = partial(value, gateway, "mesh_calls_total", caller="web")
        assert calls(rpc_service="orders", rpc_method="place", code="unavailable") == 7
        assert calls(rpc_service="_OTHER", rpc_method="_OTHER", code="not_found") == 1
        rejected = partial(value, gateway, "mesh_calls_rejected_total", caller="web")
        assert rejected(rpc_service="orders", reason="NO_INSTANCE") == 7
        failed = partial(value, gateway, "traces_service_graph_request_failed_total", client="web")
        assert failed(server="orders") == 7
        (edge,) = (one for one in gateway.views.edges() if one.service == "orders")
        assert (edge.method, edge.errors) == ("place", {"unavailable": 7})
        explained = await web.call("mesh", "records", error.activity_id)
        assert [one["decisions"][-1]["told"] for one in explained] == [error.message]


async def test_its_instances_are_counted_as_none_until_it_is_forgotten(
    autojump_clock: MockClock,
) -> None:
    """In every state, so that a rule can ask for a service that has none."""
    async with mesh.Gateway() as gateway:
        await lose(gateway, "orders", "place")
        registry, lost = gateway.core.registry, trio.current_time()
        registry.sweep(lost + MEMORY - 1)
        samples = read(gateway, "mesh_service_instances")
        assert [labels["state"] for labels, _ in samples] == [*STATES]
        assert {(labels["rpc_service"], count) for labels, count in samples} == {("orders", 0)}
        assert read(gateway, "mesh_service_versions") == []
        registry.sweep(lost + MEMORY + 1)
        assert read(gateway, "mesh_service_instances") == []
        assert gateway.service("orders") is None


async def test_one_that_left_in_order_or_unregistered_counts_alike(
    autojump_clock: MockClock,
) -> None:
    """Its callers fail all the same; they are told that it was meant. None are waited for."""
    async with mesh.Gateway() as gateway, mesh.connect("web", gateway=gateway) as web:
        async with mesh.connect("orders", gateway=gateway) as orders:
            orders.register("place", answer)
            orders.register("list", answer, service="lists")
            await settled(orders)
            orders.unregister("list", service="lists")
            await settled(orders)
            before = trio.current_time()
            error = await refused(web, "lists", "list")
            assert trio.current_time() - before < 0.1, "it is not expected back"
            assert (error.code, error.reason) == ("unavailable", Reason.NO_INSTANCE)
            assert error.message.endswith(" unregistered it; start one, or call it no more")
            assert finding(gateway, "lists").level == "error"
        await trio.sleep(31)
        error = await refused(web, "orders", "place")
        assert error.message.endswith(" left in order; start one, or call it no more")
        for service, method in (("lists", "list"), ("orders", "place")):
            labels = {"rpc_service": service, "rpc_method": method, "code": "unavailable"}
            assert value(gateway, "mesh_calls_total", caller="web", **labels) == 1


async def test_a_method_that_a_living_service_has_no_more(autojump_clock: MockClock) -> None:
    """Another version of it may be there: the method is missing, and counts under its name."""
    async with mesh.Gateway() as gateway, mesh.connect("web", gateway=gateway) as web:
        await lose(gateway, "orders", "place", "cancel")
        async with mesh.connect("orders", gateway=gateway) as orders:
            orders.register("place", answer)
            await settled(orders)
            assert await web.call("orders", "place", 1) == 1
            await trio.sleep(31)
            error = await refused(web, "orders", "cancel")
            assert (error.code, error.reason) == ("unimplemented", Reason.METHOD_NOT_FOUND)
            assert error.message.startswith(
                "service 'orders' has no method 'cancel' any more: nobody serves 'orders.cancel' "
            )
            labels = {"rpc_service": "orders", "rpc_method": "cancel", "code": "unimplemented"}
            assert value(gateway, "mesh_calls_total", caller="web", **labels) == 1
            assert gateway.service("orders").methods == ["place"]  # type: ignore[union-attr]
            error = await refused(web, "orders", "canecl")
            assert error.message == "service 'orders' has no method 'canecl'; it has place"


async def test_one_that_comes_back_is_there_as_if_it_had_never_left(
    autojump_clock: MockClock,
) -> None:
    async with mesh.Gateway() as gateway, mesh.connect("web", gateway=gateway) as web:
        await lose(gateway, "orders", "place")
        await trio.sleep(60)
        assert (await refused(web, "orders", "place")).reason == Reason.NO_INSTANCE
        async with mesh.connect("orders", gateway=gateway) as orders:
            orders.register("place", answer)
            await settled(orders)
            assert await web.call("orders", "place", 1) == 1
            gateway.core.registry.sweep(trio.current_time() + 2 * MEMORY)
            assert await web.call("orders", "place", 1) == 1
            assert gateway.service("orders").gone is None  # type: ignore[union-attr]


async def test_what_is_told_of_it(autojump_clock: MockClock) -> None:
    """By views and checks: an error while it is called or expected back, then a note."""
    async with mesh.Gateway() as gateway, mesh.connect("web", gateway=gateway) as web:
        await lose(gateway, "orders", "place")
        assert finding(gateway, "orders").level == "error"
        await trio.sleep(240)
        view = gateway.service("orders")
        assert view is not None
        assert view.gone is not None
        assert (view.methods, view.instances) == ([], [])
        assert (view.gone.peer, view.gone.how) == ("orders", "was disconnected")
        assert view.gone.gone_s == pytest.approx(240, abs=1)
        assert gateway.status().services == 0
        idle = finding(gateway, "orders")
        last = f"the last one, orders at {view.gone.process_id}, was disconnected 4m 0s ago"
        assert idle.level == "note"
        assert idle.what == f"no instance is connected any more: {last}"
        await refused(web, "orders", "place")
        called = finding(gateway, "orders")
        assert called.level == "error"
        assert called.what == f"{idle.what}; it was called 1 time by web since"
        with pytest.raises(mesh.NotFound, match=r"nobody serves 'orders' since .* was disconn"):
            await web.call("mesh", "ping", "orders")


# The memory itself.


def method(number: int) -> Method:
    return Method("service", str(number), CallMetrics())


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from([LEFT, LOST, UNREGISTERED]))))
def test_those_that_are_gone_for_long_are_forgotten_and_no_others(
    going: list[tuple[float, str]],
) -> None:
    departed = Departed(30.0)
    gone = {
        method(number): Departure(at, "peer", "p-1", how)
        for number, (at, how) in enumerate(sorted(going))
    }
    for one, departure in gone.items():
        departed.add(one, departure)
    assert departed.forget(100.0) == []
    assert set(departed.forget(131.0 + MEMORY)) == set(gone)
    assert departed.forget(131.0 + MEMORY) == []


def test_of_too_many_the_oldest_make_way_unless_they_are_expected_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(departures, "MOST", 3)
    departed = Departed(30.0)
    methods = [method(number) for number in range(10)]
    for at, one in enumerate(methods):
        departed.add(one, Departure(float(at), "peer", "p-1", LOST))
    assert departed.forget(10.0) == []
    departed.remove(methods[8])
    assert departed.forget(33.5) == [methods[0]]
    assert departed.forget(100.0) == methods[1:6]
