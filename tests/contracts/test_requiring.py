"""What services require, between peers and gateways that are one version apart."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

import mesh
from mesh.serving import POLL
from mesh.wire import Kind, codec
from tests.gateway.raw_peer import HandGateway, error_header, result_header

if TYPE_CHECKING:
    from trio.testing import MockClock


class Orders(mesh.Contract, name="orders", version="1.2.0"):
    @mesh.method
    @abstractmethod
    async def place(self) -> int: ...


class OrderService(Orders):
    async def place(self) -> int:
        return 1


class Shop(mesh.Contract, name="shop", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def buy(self) -> int: ...


class ShopService(Shop, requires=[Orders]):
    async def buy(self) -> int:
        return 1


async def test_a_gateway_takes_what_older_peers_ask_as_well(autojump_clock: MockClock) -> None:
    """Services by version alone, of which one may be called as a field of the newer form is."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("orders", gateway=gateway) as client,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, client, OrderService())
        wanted = {"orders": "1.0.0", "services": "1.0.0", "waited_s": "1.0.0"}
        for asked in (wanted, {"services": wanted}, {"services": wanted, "waited_s": 1}):
            assert await client.call("mesh", "missing", asked) == ["services", "waited_s"]
        no_services: list[dict[str, Any]] = [{}, {"services": {}}]
        for nothing in no_services:
            assert await client.call("mesh", "missing", nothing) == []
        for wrong in ({"orders": 1}, {"services": wanted, "more": 1}, {"services": {"orders": 1}}):
            with pytest.raises(mesh.InvalidArgument, match=r"parameters of mesh\.missing: "):
                await client.call("mesh", "missing", wrong)
        nursery.cancel_scope.cancel()


async def answer_flat(gateway: HandGateway) -> list[Any]:
    """Answer one question as an older gateway does: nothing is missing. Returns what was asked."""
    asked: list[Any] = []
    while not asked or "services" in asked[-1]:
        _, _, header, payload = await gateway.receive(Kind.CALL)
        asked.append(msgspec.msgpack.decode(payload))
        if "services" in asked[-1]:
            why = "parameters of mesh.missing: Expected `str`, got `object`"
            await gateway.send(error_header(header.call_id, 3, why, "UNDECODABLE"))
        else:
            await gateway.send(result_header(header.call_id), payload=msgspec.msgpack.encode([]))
    return asked


async def test_an_older_gateway_is_asked_as_it_understands(autojump_clock: MockClock) -> None:
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("shop", gateway=gateway) as client, trio.open_nursery() as its:
            await its.start(mesh.serve, client, ShopService())
            asked = await answer_flat(gateway)
            assert asked[-1] == {"orders": "1.2.0"}
            await trio.testing.wait_all_tasks_blocked()
            assert client.status().missing == []
            its.cancel_scope.cancel()
            await gateway.stream.aclose()


async def test_a_gateway_that_does_not_say_what_is_missing_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Silence is none: no gateway may be there yet."""
    caplog.set_level(logging.WARNING, "mesh.service")
    gateway = HandGateway()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("shop", gateway=gateway) as client, trio.open_nursery() as its:
            await its.start(mesh.serve, client, ShopService())
            for code in (14, 12, 12):  # unavailable, unimplemented
                _, _, header, _ = await gateway.receive(Kind.CALL)
                await gateway.send(error_header(header.call_id, code, "no method missing", "R"))
                await trio.sleep(POLL / 2)
                told = [record.getMessage() for record in caplog.records]
                assert len(told) == (code == 12)
            assert told[0].startswith(
                "shop requires orders, and the gateway does not say whether they are there: "
            )
            assert "no method missing" in told[0]
            assert client.status().missing == ["orders"]
            its.cancel_scope.cancel()
            await gateway.stream.aclose()


@pytest.mark.parametrize(
    ("limits", "size", "note", "is_told"),
    [
        ({}, 4000, "", True),
        ({}, 4000, "x" * 100, False),
        ({}, 5000, "", False),
        ({"max_requires": codec.MAX_REQUIRES}, 5000, "x" * 100, True),
    ],
)
async def test_what_an_older_gateway_would_refuse_is_not_told(
    limits: dict[str, int],
    size: int,
    note: str,
    is_told: bool,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is required counts as metadata there, and would cost the connection for ever."""
    gateway = HandGateway(limits=limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.accept)
        async with mesh.connect("shop", gateway=gateway, metadata={"note": note}) as client:
            client._uplink.requires["shop"] = "x" * size
            client.register("buy", OrderService().place)
            _, _, header, _ = await gateway.receive(Kind.REGISTER)
            assert ("requires.shop" in header.metadata) is is_told
            assert header.metadata["note"] == note
            warned = [
                one.getMessage()
                for one in caplog.records
                if (one.name, one.levelname) == ("mesh.client", "WARNING")
            ]
            assert warned == [
                (
                    f"what shop requires, {size:,} characters, is not told: with its metadata it "
                    "exceeds the 4,096 that this gateway, an older one, takes"
                )
            ] * (not is_told)
            await gateway.stream.aclose()
