"""Some minutes in the life of a shop: customers, a sale, a death, a new version."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import mesh
from tests.dashboards.pictures.shop import Orders
from tests.end_to_end.processes import Running, World, world
from tests.end_to_end.prometheus import Prometheus, configured
from tests.telemetry.backends import running
from tests.telemetry.receivers import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

CODE = "tests.dashboards.pictures.shop"
MESH = str(Path(sys.executable).with_name("mesh"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
LASTS = 390.0
"""Seconds of all of it."""
SCRAPES = 5
"""Seconds between two of Prometheus's looks."""
ORDERS_A_SECOND, IN_THE_SALE = 12.0, 70.0
CONTRACTS = ("Users", "Stock", "Payments", "Orders")
"""Those with objectives."""
INSTANCES = {
    "users-1": "users",
    "users-2": "users",
    "stock-1": "stock",
    "fraud-1": "fraud",
    "payments-1": "payments",
    "payments-2": "payments",
    "orders-1": "orders",
    "orders-2": "orders",
    "orders-3": "orders",
    "orders-4": "orders",
}
NEXT_VERSION = {"orders-3": "1.6.0", "orders-4": "1.6.0"}
"""They take the place of the first two."""


@dataclass
class Shop:
    """The shop's processes."""

    world: World
    metrics: dict[str, str]
    """Where each instance serves its own."""
    instances: dict[str, Running] = field(default_factory=dict)

    async def start(self, name: str) -> None:
        """Start an instance; return once it is served."""
        version = NEXT_VERSION.get(name, "1.5.0")
        self.instances[name] = await self.world.start(
            *("-m", CODE, INSTANCES[name], name),
            *(self.world.address, self.metrics[name]),
            env={**ENVIRONMENT, "ORDERS_VERSION": version},
        )
        assert await self.instances[name].line() == "ready"

    async def happen(self) -> None:
        """Someone dies and comes back; then one version takes the place of another."""
        await trio.sleep(160)
        await self.instances["users-1"].end(signal.SIGKILL)
        await trio.sleep(10)
        await self.start("users-1")
        await trio.sleep(90)
        for old, new in (("orders-1", "orders-3"), ("orders-2", "orders-4")):
            await self.start(new)
            await trio.sleep(5)
            await self.instances[old].end(signal.SIGTERM)
            await trio.sleep(12)


@contextlib.asynccontextmanager
async def day(folder: Path) -> AsyncIterator[tuple[Prometheus, Callable[[], Awaitable[None]]]]:
    """Open the shop.

    Args:
        folder: Where its files are.

    Returns:
        The Prometheus that looks at it, and what lets its day go by.
    """
    metrics = {name: f"127.0.0.1:{free_port()}" for name in INSTANCES}
    with running() as backend:
        async with world(folder) as processes:
            gateway = await processes.start(
                *("-m", "mesh.cli", "gateway", "--json", "--admin", "127.0.0.1:0"),
                *("--listen", processes.address, "--limit", "max_in_flight=60"),
                env={**ENVIRONMENT, "OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint},
            )
            admin = json.loads(await gateway.line())["admin"]
            rules = await trio.run_process(
                [MESH, "dashboards", "rules", *(f"{CODE}:{one}" for one in CONTRACTS)],
                capture_stdout=True,
                env=ENVIRONMENT,
            )
            (folder / "rules.yml").write_bytes(rules.stdout)
            config = folder / "prometheus.yml"
            config.write_text(_configuration(admin, metrics))
            shop = Shop(processes, metrics)
            async with configured(config, folder) as server:
                for name in INSTANCES:
                    if name not in NEXT_VERSION:
                        await shop.start(name)

                async def go_by() -> None:
                    with trio.move_on_after(LASTS):
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(shop.happen)
                            for customer in (_web, _mobile, _reports):
                                nursery.start_soon(customer, processes.address)

                yield server, go_by


def _configuration(admin: str, metrics: dict[str, str]) -> str:
    """Prometheus's: targets have the names that they would have in a network of their own."""

    def target(address: str, name: str) -> dict[str, object]:
        return {"targets": [address], "labels": {"instance": name}}

    jobs = {
        "mesh-gateway": [target(admin, "gateway-1:9464")],
        "mesh-peers": [target(address, f"{name}:9465") for name, address in metrics.items()],
    }
    # YAML has all of JSON.
    return json.dumps(
        {
            "global": {"scrape_interval": f"{SCRAPES}s", "evaluation_interval": f"{SCRAPES}s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": targets} for job, targets in jobs.items()
            ],
        }
    )


async def _quietly(make: Callable[[], Awaitable[object]]) -> None:
    """Make a call, and be content with whatever becomes of it: the mesh has seen it."""
    with contextlib.suppress(mesh.CallError):
        await make()


async def _web(address: str) -> None:
    """Orders, and in the sale many."""
    opened = trio.current_time()
    async with mesh.connect("web", gateway=address) as client, trio.open_nursery() as nursery:
        orders = client.stub(Orders)
        while True:
            is_sale = 80 < trio.current_time() - opened < 92
            one, other = random.randrange(10_000), random.randrange(10_000)
            nursery.start_soon(_quietly, lambda user=one, item=other: orders.place(user, item))
            await trio.sleep(random.expovariate(IN_THE_SALE if is_sale else ORDERS_A_SECOND))


async def _mobile(address: str) -> None:
    """Looks after orders, places some, and does not always wait for the answer."""

    async def impatient(orders: Orders) -> None:
        with trio.move_on_after(random.uniform(0.05, 0.6)):
            await orders.place(random.randrange(10_000), random.randrange(10_000))

    async with mesh.connect("mobile", gateway=address) as client, trio.open_nursery() as nursery:
        orders = client.stub(Orders)
        while True:
            nursery.start_soon(_quietly, lambda: orders.status(random.randrange(10_000)))
            if random.random() < 0.1:
                nursery.start_soon(_quietly, lambda: impatient(orders))
            await trio.sleep(random.expovariate(10))


async def _reports(address: str) -> None:
    """Long calls, an old method, and for a while a version that nobody serves yet."""
    opened = trio.current_time()
    async with mesh.connect("reports", gateway=address) as client, trio.open_nursery() as nursery:
        orders = client.stub(Orders)
        while True:
            if random.random() < 0.4:
                nursery.start_soon(_quietly, orders.export)
            await _quietly(lambda: client.call("users", "find", {"number": 12}))
            if 210 < trio.current_time() - opened < 250:
                await _quietly(lambda: client.call("users", "get", {"number": 1}, version="3.0.0"))
            await trio.sleep(random.expovariate(1.2))
