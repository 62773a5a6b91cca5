"""A real gateway under a load that makes every kind of series that there is."""

from __future__ import annotations

import contextlib
import json
import ssl
from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import trio

import mesh
from tests.certificates import Authority
from tests.end_to_end.processes import world
from tests.telemetry.backends import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

PAUSE = 0.02
"""Seconds between two rounds of the load: so often, that every scrape finds something new."""


class Users(mesh.Contract, name="users", version="1.2.0"):
    """Who there is."""

    @mesh.method(slo=0.1)
    @abstractmethod
    async def get(self, number: int) -> int:
        """Look one up."""

    @mesh.method(deprecated="call get")
    @abstractmethod
    async def find(self, number: int) -> int:
        """As they did before."""


class UserService(Users):
    def __init__(self, told: Counter[str]) -> None:
        self.told = told

    async def get(self, number: int) -> int:
        self.told["calls"] += 1
        if number % 5 == 0:
            raise mesh.NotFound("every fifth is nobody")
        if number % 7 == 0:
            self.told["faults"] += 1
            raise ZeroDivisionError("a fault of the service")
        return number

    async def find(self, number: int) -> int:
        self.told["calls"] += 1
        return number


@dataclass
class LiveMesh:
    """Where a mesh under load is found."""

    admin: str
    """The gateway's admin address."""
    peers: list[str]
    """Where peers serve metrics of their own."""
    told: Counter[str]
    """What `users` itself counted: its ``calls``, and its ``faults`` among them."""


@contextlib.asynccontextmanager
async def live_mesh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LiveMesh]:
    """Run it: a gateway with TLS and a backend, a service of two instances, one in between."""
    certificates = Authority(folder / "authority").issue("localhost")
    with running() as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        async with world(folder) as processes:
            gateway = await processes.start(
                *("-m", "mesh.cli", "gateway", "--json", "--admin", "127.0.0.1:0"),
                *("--listen", processes.address, "--listen", "tls:127.0.0.1:0"),
                *("--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key)),
            )
            ready = json.loads(await gateway.line())
            address, tls = ready["addresses"]
            told: Counter[str] = Counter()
            async with _loaded(address, tls, told) as peers:
                yield LiveMesh(ready["admin"], peers, told)


@contextlib.asynccontextmanager
async def _loaded(address: str, tls: str, told: Counter[str]) -> AsyncIterator[list[str]]:
    async with (
        mesh.connect("users", gateway=address, metrics="127.0.0.1:0") as one,
        mesh.connect("users", gateway=address) as another,
        mesh.connect("orders", gateway=address, metrics="127.0.0.1:0") as orders,
        mesh.connect("shop", gateway=address) as shop,
        trio.open_nursery() as nursery,
    ):

        @orders.method()
        async def place(number: int) -> int:
            await orders.call("users", "find", {"number": number})  # a stub would warn
            return await orders.stub(Users).get(number)

        @orders.method()
        async def ship(_: object) -> NoReturn:
            await trio.sleep_forever()

        for client in (one, another):
            await nursery.start(mesh.serve, client, UserService(told))
        await orders.call("mesh", "status")
        nursery.start_soon(_load, shop)
        nursery.start_soon(_knock, tls)
        yield [str(client.metrics_address) for client in (one, orders)]
        nursery.cancel_scope.cancel()


async def _load(shop: mesh.Client) -> None:
    """Calls that go well, fail, time out and are refused, for ever."""
    number = 0
    while True:
        number += 1
        with contextlib.suppress(mesh.CallError):
            await shop.call("orders", "place", number)
        with contextlib.suppress(mesh.CallError):
            await shop.call("orders", "ship", None, timeout=0.01)
        with contextlib.suppress(mesh.CallError):
            await shop.call("orders", "no_such_method", None)
        await trio.sleep(PAUSE)


async def _knock(tls: str) -> None:
    """Peers that do not trust the gateway's certificate, for ever."""
    context = ssl.create_default_context()
    host, port = tls.removeprefix("tls:").rsplit(":", 1)
    while True:
        stream = trio.SSLStream(
            await trio.open_tcp_stream(host, int(port)), context, server_hostname=host
        )
        # What is open is closed at once, also when the load ends in between.
        async with stream.transport_stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.do_handshake()
        await trio.sleep(PAUSE)
