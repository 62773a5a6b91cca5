"""What a gateway makes of a contract: objectives, deprecated methods, required services."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

import mesh
from mesh.gateway.checks import check
from mesh.serving import POLL
from mesh.wire import codec
from mesh.wire.frames import Kind
from mesh_telemetry import OTHER, CallMetrics
from tests.client.test_peer_metrics import ask
from tests.contracts.shop import Orders, OrderService, shop
from tests.contracts.test_implementing import Small
from tests.gateway.raw_peer import MemoryDialer, raw_peer, settled
from tests.gateway.traces import QUIET, running

if TYPE_CHECKING:
    from trio.testing import MockClock


class Reports(mesh.Contract, name="reports", version="1.0.0"):
    @mesh.method(slo=0.2)
    @abstractmethod
    async def quick(self, seconds: float) -> None: ...

    @mesh.method(slo=mesh.slo(within=5.0, target=0.9, success=None))
    @abstractmethod
    async def long(self, seconds: float) -> None: ...


class ReportService(Reports):
    async def quick(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def long(self, seconds: float) -> None:
        await trio.sleep(seconds)


async def test_calls_slower_than_the_method_s_objective_are_slow(
    autojump_clock: MockClock,
) -> None:
    async with (
        running(traces=QUIET) as it,
        it.peer("web") as web,
        it.peer("reports") as served,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, served, ReportService())
        await settled(served)
        reports = web.stub(Reports)
        await reports.quick(0.1)
        await reports.quick(0.3)
        await reports.long(3.0)
        await reports.long(6.0)
        await trio.sleep(3)
        kept = [(trace.method, round(trace.duration or 0, 1), trace.reason) for trace in it.kept]
        assert kept == [
            ("long", 6.0, "slow"),
            ("quick", 0.3, "slow"),
        ]
        nursery.cancel_scope.cancel()


def deprecated(gateway: mesh.Gateway) -> dict[tuple[str, ...], float]:
    text = "".join(gateway._figures.exposition.render()[1])
    return {
        (sample.labels["caller"], sample.labels["rpc_method"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "mesh_deprecated_calls_total"
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_calls_of_deprecated_methods_are_counted() -> None:
    async with shop() as it:
        assert deprecated(it.gateway) == {}
        for _ in range(3):
            await it.orders.number()
        await it.orders.count()
        await it.server.call("orders", "number")
        assert deprecated(it.gateway) == {("caller", "number"): 3, ("orders", "number"): 1}


def test_only_calls_since_a_method_is_deprecated_count() -> None:
    metrics = CallMetrics(max_methods=2)
    series = metrics.series("web", "users", "get")
    series.ended(0, 0.1)
    metrics.declare("users", "get", objective=None, deprecated=True)
    assert metrics.deprecated() == []
    series.ended(5, 0.1)
    metrics.series("shop", "users", "get").ended(0, 0.1)
    metrics.declare("users", "get", objective=None, deprecated=False)  # an older instance
    metrics.declare("users", "get", objective=None, deprecated=True)
    told = {series.caller: count for series, count in metrics.deprecated()}
    assert told == {"web": 1, "shop": 1}


def test_what_is_said_of_a_method_is_not_said_of_all_others() -> None:
    """Of those that share a series, as there are too many."""
    metrics = CallMetrics(max_methods=1)
    metrics.slow_after = 1.0
    metrics.method("users", "get")
    metrics.declare("users", "more", objective=0.1, deprecated=True)
    metrics.series("web", "users", "more").ended(0, 0.1)
    assert metrics.deprecated() == []
    assert metrics.method(OTHER, OTHER).slow_after == 1.0
    metrics.declare("users", "get", objective=0.1, deprecated=False)
    assert metrics.method("users", "get").slow_after == 0.1
    metrics.declare("users", "get", objective=None, deprecated=False)
    assert metrics.method("users", "get").slow_after == 1.0


@pytest.mark.parametrize("slo", [-1, 0, True, "0.1", None, float("nan")])
async def test_an_option_that_makes_no_sense_is_ignored(slo: Any) -> None:
    async with mesh.Gateway() as gateway, raw_peer(gateway, "users") as peer:
        options = {"get": {"slo": slo, "deprecated": True, "unknown": 1}}
        await peer.send(codec.Register("users", "", options, {}))
        await peer.call("mesh", "status")
        await peer.receive(Kind.RESULT)
        assert gateway.core.metrics.method("users", "get").objective is None
        assert gateway.core.metrics.deprecated() == []


class Shop(mesh.Contract, name="shop", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def buy(self) -> int: ...


class ShopService(Shop, requires=[Orders, Reports]):
    async def buy(self) -> int:
        return 1


async def test_required_services_are_waited_for_and_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """A service serves meanwhile, and is not ready; once all have been there, it stays so."""
    caplog.set_level(logging.INFO, "mesh.service")

    def said() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "mesh.service"]

    async with (
        mesh.Gateway() as gateway,
        mesh.connect("shop", gateway=gateway) as client,
        mesh.connect("orders", gateway=gateway) as orders,
        mesh.connect("reports", gateway=gateway) as reports,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, client, ShopService())
        await trio.sleep(4)
        assert said() == []  # others come up, too
        await trio.sleep(4)
        assert await client.stub(Shop).buy() == 1
        assert client.status().missing == ["orders", "reports"]
        found = {finding.what for finding in check(gateway.core, gateway.views)}
        assert found == {
            "shop requires orders, which nobody serves",
            "shop requires reports, which nobody serves",
        }
        await nursery.start(mesh.serve, orders, OrderService())
        await trio.sleep(3)
        assert client.status().missing == ["reports"]
        await nursery.start(mesh.serve, reports, ReportService())
        await trio.sleep(3)
        assert client.status().missing == []
        assert check(gateway.core, gateway.views) == []
        for method in ("quick", "long"):
            reports.unregister(method)
        await trio.sleep(3)
        assert client.status().missing == []
        finding, note = check(gateway.core, gateway.views)
        assert (finding.level, finding.subject) == ("error", "shop")
        assert (note.level, note.subject) == ("note", "reports")
        assert finding.what == "shop requires reports, which nobody serves"
        assert said() == [
            "shop requires orders, reports, which nobody serves yet",
            "shop requires reports, which nobody serves yet",
            "shop has all services that it requires",
        ]
        nursery.cancel_scope.cancel()


class NewOrders(mesh.Contract, name="orders", version="2.0.0"):
    @mesh.method
    @abstractmethod
    async def again(self) -> None: ...


class NewShopService(Shop, requires=[NewOrders]):
    async def buy(self) -> int:
        return 1


async def test_a_required_service_of_another_version_is_missing(
    autojump_clock: MockClock,
) -> None:
    """As it would serve none of the calls for which it is required."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("shop", gateway=gateway) as client,
        mesh.connect("orders", gateway=gateway) as orders,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, orders, OrderService())
        await nursery.start(mesh.serve, client, NewShopService())
        await trio.sleep(4)
        assert client.status().missing == ["orders"]
        (finding,) = check(gateway.core, gateway.views)
        assert finding.what == "shop requires orders 2.0.0, which no instance of orders serves"
        asked = {"services": {"orders": "1.2.0", "x": "1.0.0"}}
        assert await client.call("mesh", "missing", asked) == ["x"]
        nursery.cancel_scope.cancel()


class FrontService(Small, requires=[Orders]):
    async def get(self, key: str, size: int = 1, *, deep: bool = False) -> str:  # noqa: ARG002
        return key


async def test_what_one_service_has_is_still_missing_for_another(
    autojump_clock: MockClock,
) -> None:
    """Of two that one client serves by two calls of `mesh.serve`."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("shop", gateway=gateway) as client,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, client, ShopService())
        await trio.sleep(2)
        await nursery.start(mesh.serve, client, FrontService(), OrderService())
        await trio.sleep(2)
        assert client.status().missing == ["reports"]
        nursery.cancel_scope.cancel()


async def test_a_required_service_that_was_there_between_two_looks_counts(
    autojump_clock: MockClock,
) -> None:
    """But not one that left before it was required, or was of another version."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("shop", gateway=gateway) as client,
        mesh.connect("new-shop", gateway=gateway) as other,
        trio.open_nursery() as nursery,
    ):

        async def come_and_go(service: mesh.Contract) -> None:
            async with mesh.connect("brief", gateway=gateway) as brief, trio.open_nursery() as its:
                await its.start(mesh.serve, brief, service)
                await brief.call("mesh", "status")  # by now the gateway has read it
                its.cancel_scope.cancel()

        await come_and_go(ReportService())
        await trio.sleep(0.1)
        await nursery.start(mesh.serve, client, ShopService())
        await nursery.start(mesh.serve, other, NewShopService())
        await trio.sleep(POLL / 2)
        await come_and_go(OrderService())
        await trio.sleep(2 * POLL)
        assert client.status().missing == ["reports"]
        assert other.status().missing == ["orders"]
        nursery.cancel_scope.cancel()


def needed(number: int, letters: int) -> type[mesh.Contract]:
    """A contract of a service with so long a name."""

    class Needed(mesh.Contract, name=f"n{number:0{letters - 1}}", version="1.0.0"):
        @mesh.method
        @abstractmethod
        async def get(self) -> None: ...

    return Needed


async def test_many_requirements_of_several_services_are_told_on_every_connection(
    autojump_clock: MockClock,
) -> None:
    """Far more in all than the metadata of a registration may have; each with its own service."""
    many = [needed(number, 60) for number in range(100)]

    class BusyShop(Shop, requires=many):
        async def buy(self) -> int:
            return 1

    class BusySmall(Small, requires=many):
        async def get(self, key: str, size: int = 1, *, deep: bool = False) -> str:  # noqa: ARG002
            return key

    dialer = MemoryDialer(None)
    peer = mesh.connect("shop", gateway=dialer, metadata={"note": "x" * 4000}, connect_timeout=0)
    async with peer as client, trio.open_nursery() as nursery:
        await nursery.start(mesh.serve, client, BusyShop(), BusySmall())
        for _ in range(2):
            async with mesh.Gateway() as gateway:
                dialer.gateway = gateway
                await trio.sleep(5)
                assert client.is_connected
                assert len(check(gateway.core, gateway.views)) == 200
        nursery.cancel_scope.cancel()


async def test_more_requirements_than_can_be_told_are_refused() -> None:
    class GreedyShop(Shop, requires=[needed(number, 120) for number in range(70)]):
        async def buy(self) -> int:
            return 1

    async with mesh.Gateway() as gateway, mesh.connect("shop", gateway=gateway) as client:
        with pytest.raises(mesh.ContractError) as raised:
            await mesh.serve(client, GreedyShop())
        assert str(raised.value).endswith(
            "GreedyShop requires 70 services, 8,889 characters of names and versions; at most "
            "8,192 can be told"
        )
        assert client.registered_methods() == []


async def test_readiness_says_what_is_missing() -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("shop", gateway=gateway, metrics="127.0.0.1:0") as client,
        trio.open_nursery() as nursery,
    ):
        assert await ask(client, "/readyz") == (200, "ready\n")
        await nursery.start(mesh.serve, client, ShopService())
        status, told = await ask(client, "/readyz")
        assert status == 503
        assert told == "not ready: nobody serves orders, reports yet, which is required\n"
        nursery.cancel_scope.cancel()
