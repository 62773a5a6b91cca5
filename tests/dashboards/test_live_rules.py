"""A real Prometheus evaluates the rules on a real gateway, whose service and itself are killed.

Windows and waits are sixty times shorter than those that are shipped; all else is the same.
"""

from __future__ import annotations

import json
import math
import re
import signal
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

import mesh
from mesh_dashboards.burning import Promise
from mesh_dashboards.promql import Scope
from mesh_dashboards.rules import rules, to_yaml
from tests.certificates import Authority
from tests.end_to_end.processes import Running, World, world
from tests.end_to_end.prometheus import Prometheus, prometheus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import pytest

    from mesh_dashboards.promql import Rule

INTERVAL = "1s"
"""Between two scrapes, and what one may take: alerts must not fire for a machine that is busy."""
PATIENCE = 40
"""Seconds that something may take to be seen, on a machine that does other work, too."""
PAUSE = 0.02
"""Seconds between two rounds of the load."""
LIMITS = ("--limit", "heartbeat=500ms", "--limit", "max_in_flight=20")
PROMISES = (Promise("users", "get", success=0.999, within=0.1, target=0.99),)
DOCUMENT = rules(PROMISES, Scope(faster=60))
RULES: list[Rule] = [rule for group in DOCUMENT["groups"] for rule in group["rules"]]

SERVICE = """
import sys
from abc import abstractmethod
import mesh
import trio

class Users(mesh.Contract, name="users", version="1.2.0"):
    @mesh.method(slo=0.1)
    @abstractmethod
    async def get(self, number: int) -> int: ...

    @mesh.method
    @abstractmethod
    async def circle(self) -> None: ...

    @mesh.method
    @abstractmethod
    async def wait(self) -> None: ...

class UserService(Users):
    def __init__(self, client):
        self.client = client

    async def get(self, number):
        if number % 4 == 0:
            raise mesh.Internal("every fourth is too much")
        return number

    async def circle(self):
        await self.client.stub(Users).circle()

    async def wait(self):
        await trio.sleep(0.5)

async def ready(client):
    await client.call("mesh", "status")
    print("ready", flush=True)

mesh.run(UserService, ready, gateway=sys.argv[1])
"""


class Load:
    """Calls without end that make every kind of series that rules are about."""

    def __init__(self, client: mesh.Client, tls_port: int) -> None:
        self.client, self.tls_port = client, tls_port

    async def run(self) -> None:
        number = 0
        async with trio.open_nursery() as nursery:
            while True:
                number += 1
                await self.call("get", {"number": number})
                if number % 20 == 0:
                    await self.knock()
                    await self.call("circle")
                    await self.call("get", {"number": number}, version="2.0.0")
                if number % 100 == 1:
                    for _ in range(60):  # more than may be in flight
                        nursery.start_soon(self.call, "wait")
                await trio.sleep(PAUSE)

    async def knock(self) -> None:
        """Speak no TLS where it is expected."""
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_tcp_stream("127.0.0.1", self.tls_port) as stream:
                await stream.send_all(b"in plain text")
                await stream.receive_some()

    async def call(self, method: str, params: Any = None, version: str | None = None) -> None:
        with suppress(mesh.CallError):
            await self.client.call("users", method, params, version=version, timeout=1.0)


@asynccontextmanager
async def mortal_mesh(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[World, Running, Running, Prometheus]]:
    """A gateway, its service, their load, and a Prometheus that evaluates the rules."""
    certificates = Authority(folder / "authority").issue("localhost")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")  # nobody is there
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    async with world(folder) as processes:
        gateway = await processes.start(
            *("-m", "mesh.cli", "gateway", "--json", "--admin", "127.0.0.1:0", *LIMITS),
            *("--listen", processes.address, "--listen", "tls:127.0.0.1:0"),
            *("--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key)),
        )
        ready = json.loads(await gateway.line())
        port = int(ready["addresses"][1].rpartition(":")[2])
        service = await start_service(processes)
        async with (
            mesh.connect("shop", gateway=processes.address, metrics="127.0.0.1:0") as shop,
            trio.open_nursery() as nursery,
        ):
            assert shop.metrics_address is not None
            nursery.start_soon(Load(shop, port).run)
            async with prometheus(
                folder,
                ready["admin"],
                peers=[shop.metrics_address],
                rules=to_yaml(DOCUMENT),
                interval=INTERVAL,
            ) as server:
                yield processes, gateway, service, server
            nursery.cancel_scope.cancel()


async def start_service(processes: World) -> Running:
    running = await processes.start("-c", SERVICE, processes.address)
    assert await running.line() == "ready"
    return running


def operands(rule: Rule) -> list[str]:
    """What must have series while all is well: an alert's expression without its comparisons."""
    expression = rule["expr"]
    if "record" in rule:
        return [expression]
    expression = re.sub(r"^absent\((.*)\)$", r"\1", expression)
    shares = expression.split("\n> on (job, caller, rpc_service) group_left ()\n")
    if len(shares) > 1:  # more than so many of the others
        return shares
    bare = re.sub(r" (?:>|==) [\d.]+(?: \* [\d.]+)?(?=$|\n)", "", expression)
    assert bare != rule["expr"], rule
    # Of what is there unless something else is, both.
    return [re.sub("^(unless|and on \\(job\\)) ", "", line) for line in bare.splitlines()] if (
        "\nunless " in bare
    ) else [bare]  # fmt: skip


async def until(condition: Callable[[], Awaitable[bool]], told: object) -> None:
    """Ask until a condition holds; what is told says what stood in its way."""
    with trio.move_on_after(PATIENCE):
        while True:
            if await condition():
                return
            await trio.sleep(0.2)  # Prometheus tells nobody when it has evaluated
    raise AssertionError(told)


async def missing(server: Prometheus) -> list[str]:
    """The expressions that have no series, or whose values are no numbers."""
    found = []
    for rule in RULES:
        for expression in operands(rule):
            answer = await server.vector(expression)
            # A quantile of a method that nobody calls at the moment is none.
            if not any(math.isfinite(value) for _, value in answer):
                found.append(expression)
        if "record" in rule:
            for name, value in rule.get("labels", {}).items():
                recorded = await server.vector(f'{rule["record"]}{{{name}="{value}"}}')
                found += [] if recorded else [f"{rule['record']} with {name}={value}"]
    return found


async def test_rules_are_evaluated_and_alerts_fire_for_what_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mortal_mesh(tmp_path, monkeypatch) as (processes, gateway, service, server):
        left: list[str] = []

        async def all_there() -> bool:
            left[:] = await missing(server)
            return not left

        fired: dict[str, dict[str, Any]] = {}

        async def fire(*names: str) -> bool:
            fired.clear()
            fired.update({alert["labels"]["alertname"]: alert for alert in await server.firing()})
            return set(names) <= set(fired)

        await until(all_there, left)
        for expression, least, most in (
            ("mesh:all_calls:rate5m", 1, 200),
            ('mesh:call_faults:ratio_rate5m{rpc_method="get"}', 0.01, 0.6),
            ('mesh:slo_errors:ratio_rate5m{slo="success"}', 0.01, 0.6),
            ('mesh:slo_errors:ratio_rate30d{slo="success"}', 0.01, 0.6),
            ('mesh:slo_errors:ratio_rate5m{slo="latency"}', 0, 0.9),
            ('mesh:slo_objective:ratio{slo="success"}', 0.999, 0.999),
            ('mesh:call_duration_seconds:quantile_rate5m{rpc_method="get"}', 0.0001, 1),
            ("mesh:peer_in_flight:ratio", 0, 1),
        ):
            for labels, value in await server.vector(expression):
                assert labels["job"] == "mesh-gateway"
                assert least <= value <= most, (expression, labels, value)

        names = (
            *("MeshCallsLooping", "MeshVersionMismatch", "MeshTlsHandshakesFailing"),
            *("MeshObjectiveBurnsFast", "MeshObjectiveBurnsSlowly", "MeshExportFailing"),
        )
        await until(partial(fire, *names), fired)
        assert not {"MeshGatewayDown", "MeshGatewayAbsent"} & set(fired)
        assert "MeshServiceWithoutInstances" not in fired
        for alert in fired.values():
            told = " ".join(alert["annotations"].values())
            assert "{{" not in told
            assert "<" not in told, "a label or a value that is not there"
        assert (
            "of the calls of users.get failed"
            in (fired["MeshObjectiveBurnsFast"]["annotations"]["description"])
        )

        await service.end(signal.SIGKILL)
        await until(partial(fire, "MeshServiceWithoutInstances"), fired)
        gone = fired["MeshServiceWithoutInstances"]
        assert gone["labels"]["rpc_service"] == "users"
        assert gone["annotations"]["description"].startswith("users has had instances at a gateway")

        async def is_over() -> bool:
            return await fire() and "MeshServiceWithoutInstances" not in fired

        await start_service(processes)
        await until(is_over, fired)

        await gateway.end(signal.SIGKILL)
        await until(partial(fire, "MeshGatewayDown"), fired)
        assert fired["MeshGatewayDown"]["labels"]["severity"] == "page"
        assert "MeshServiceWithoutInstances" not in fired
