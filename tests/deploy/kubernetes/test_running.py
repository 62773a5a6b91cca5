"""The containers as processes: probes, calls, replacement without a failed call, the socket."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

import mesh
from tests.deploy.kubernetes.built import COMPOSITIONS, PAGE
from tests.deploy.kubernetes.running import KINDS, PROGRAMS, Frontend, Node, trusting
from tests.end_to_end.processes import world

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.deploy.kubernetes.built import Object
    from tests.deploy.kubernetes.running import Container
    from tests.end_to_end.processes import World

SERVICES = ("orders", "users")

A_WHILE = 6.0
"""Seconds that a cluster may take between two steps: longer than calls wait by default."""


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_the_gateway_finds_no_fault_with_its_arguments_variables_and_file(
    built: dict[str, list[Object]], node: Node, name: str
) -> None:
    kind = KINDS[name.partition(",")[0]]
    gateway = node.container(built[name], kind, "mesh-gateway", moved=False)
    checked = subprocess.run(
        [sys.executable, *gateway.command, "--check-config"],
        env=gateway.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


async def run_all(
    world_: World, node: Node, objects: list[Object], kind: str
) -> tuple[Container, list[Container]]:
    """A gateway and the example's services, all ready."""
    gateway = node.container(objects, kind, "mesh-gateway")
    node.gateway = gateway.ports.get("peers", 0)
    services = [node.container(objects, kind, name) for name in SERVICES]
    await gateway.start(world_)
    for service in services:
        await service.start(world_)
    for one in (gateway, *services):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            await one.passes(probe)
    return gateway, services


def exec_of_page(start: str) -> str:
    """What the page runs in the gateway's container by `kubectl exec`: the line that begins so."""
    [line] = {
        line.partition(" -- ")[2]
        for line in PAGE.read_text().splitlines()
        if line.startswith("kubectl -n mesh exec deploy/mesh-gateway -- " + start)
    }
    return line


async def exec_in(gateway: Container, command: str) -> str:
    """What a command prints in a container, as by `kubectl exec`."""
    program, *arguments = shlex.split(command)
    done = await trio.run_process(
        [sys.executable, *PROGRAMS[program], *arguments],
        env=gateway.environment,
        capture_stdout=True,
        capture_stderr=True,
    )
    return done.stdout.decode()


@pytest.mark.parametrize("name", KINDS)
async def test_from_nothing_to_a_trace(
    built: dict[str, list[Object]], node: Node, tmp_path: Path, name: str
) -> None:
    """Probes pass, a call goes through both services and is drawn, metrics need their tokens."""
    async with world(tmp_path) as here:
        gateway, services = await run_all(here, node, built[name], KINDS[name])
        assert "orders" in await exec_in(gateway, exec_of_page("mesh list"))
        drawn = await exec_in(gateway, exec_of_page("mesh trace"))
        assert re.search(r"orders\.place.*\n└─ users\.get", drawn)
        for one, token in ((gateway, "mesh-admin"), (services[0], "mesh-metrics")):
            assert (await one.get("/metrics"))[0] == 401
            status, text = await one.get("/metrics", f"of-{token}")
            assert status == 200
            assert "mesh_build_info" in text
        for one in (*services, gateway):
            assert one.process is not None
            with trio.fail_after(one.grace):
                assert await one.process.end(signal.SIGTERM) == 0


async def test_the_gateway_is_told_of_new_certificates(
    built: dict[str, list[Object]], node: Node, tmp_path: Path
) -> None:
    async with world(tmp_path) as here:
        gateway = node.container(built["tls"], "Deployment", "mesh-gateway")
        await gateway.start(here)
        await gateway.passes("readinessProbe")
        assert gateway.process is not None
        tell = exec_of_page("python").replace("kill(1,", f"kill({gateway.process.process.pid},")
        await exec_in(gateway, tell)
        with trio.fail_after(10):
            while "certificates" not in await exec_in(gateway, exec_of_page("mesh changes")):
                pass


@asynccontextmanager
async def load(address: str, tls: ssl.SSLContext | None) -> AsyncIterator[Load]:
    """Callers that call on and on; none of their calls may fail."""
    made = Load()
    connected = mesh.connect("shop", gateway=address, tls=tls)
    async with connected as client, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(made.call, client)
        yield made
        nursery.cancel_scope.cancel()


class Load:
    """Calls without end.

    Attributes:
        answered: How many there were.
        failed: What went wrong.
        longest: Seconds that one took at most.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.failed: list[mesh.CallError] = []
        self.longest = 0.0
        self._wanted = 0
        self._enough = trio.Event()

    async def call(self, client: mesh.Client) -> None:
        """Call one after the other."""
        while True:
            began = trio.current_time()
            try:
                await client.call("orders", "place", {"user_id": "123"}, timeout=30)
            except mesh.CallError as fault:
                self.failed.append(fault)
            self.answered += 1
            self.longest = max(self.longest, trio.current_time() - began)
            if self.answered == self._wanted:
                self._enough.set()

    async def goes_on(self) -> None:
        """Return after some more calls."""
        self._wanted, self._enough = self.answered + 50, trio.Event()
        with trio.fail_after(60):
            await self._enough.wait()


async def test_a_rolling_update_of_the_gateway_fails_no_call(
    built: dict[str, list[Object]], node: Node, tmp_path: Path
) -> None:
    """The new one is ready, the Service leads to it, and the old one is told to end."""
    async with world(tmp_path) as here, trio.open_nursery() as nursery:
        old = node.container(built["tls"], "Deployment", "mesh-gateway")
        frontend = Frontend(node.gateway, old.ports["peers"])
        await nursery.start(frontend.serve)
        services = [node.container(built["tls"], "Deployment", one) for one in SERVICES]
        await old.start(here)
        for service in services:
            await service.start(here)
            await service.passes("readinessProbe")
        async with load(f"tls:localhost:{node.gateway}", trusting(node.secrets)) as calls:
            await calls.goes_on()
            (node.folder / "new").mkdir()
            new = Node(node.folder / "new", node.secrets).container(
                built["tls"], "Deployment", "mesh-gateway"
            )
            await new.start(here)
            await new.passes("readinessProbe")
            frontend.target = new.ports["peers"]
            await trio.sleep(A_WHILE)  # the cluster's time
            assert old.process is not None
            assert await old.process.end(signal.SIGTERM) == 0
            await calls.goes_on()
            assert calls.failed == []
        nursery.cancel_scope.cancel()


async def test_a_rolling_update_of_a_service_fails_no_call(
    built: dict[str, list[Object]], node: Node, tmp_path: Path
) -> None:
    async with world(tmp_path) as here:
        _, services = await run_all(here, node, built["tls"], "Deployment")
        async with load(f"tls:localhost:{node.gateway}", trusting(node.secrets)) as calls:
            for name, old in zip(SERVICES, services, strict=True):
                await calls.goes_on()
                new = node.container(built["tls"], "Deployment", name)
                await new.start(here)
                await new.passes("readinessProbe")
                assert old.process is not None
                assert await old.process.end(signal.SIGTERM) == 0
            await calls.goes_on()
            assert calls.failed == []


async def test_a_nodes_gateway_is_replaced_without_a_failed_call(
    built: dict[str, list[Object]], node: Node, tmp_path: Path
) -> None:
    """The old one ends, and only then the new one starts, at the same socket."""
    async with world(tmp_path) as here:
        old, _ = await run_all(here, node, built["daemonset"], "DaemonSet")
        async with load(f"unix:{node.socket}", None) as calls:
            await calls.goes_on()
            assert old.process is not None
            assert await old.process.end(signal.SIGTERM) == 0
            await trio.sleep(A_WHILE)  # the cluster's time
            new = node.container(built["daemonset"], "DaemonSet", "mesh-gateway")
            await new.start(here)
            await calls.goes_on()
            assert calls.failed == []
