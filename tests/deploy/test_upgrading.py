"""What the pages say of upgrades: gateway and services restart under load, and no call fails."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import pytest
import trio

import mesh
from tests.deploy.manager import ROOT, Manager, environment, gateway, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CALLERS = 16
TIMEOUT = 60.0
WAIT = 30.0
"""Seconds; by default 30 and 5, for machines that do nothing else."""


class Load:
    """Callers that order again and again."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self._placed = 0
        self._wanted = 0
        self._passed = trio.Event()

    async def passes(self) -> None:
        """Return once every caller has had an answer to a call that it has yet to make."""
        self._wanted = self._placed + 2 * CALLERS
        self._passed = trio.Event()
        with trio.fail_after(60):
            await self._passed.wait()

    async def order(self, client: mesh.Client) -> None:
        while True:
            try:
                params = {"user_id": "ada", "cents": 1250}
                await client.call("orders", "place", params, timeout=TIMEOUT)
            except mesh.CallError as failure:
                if failure.reason != "CARD_DECLINED":
                    self.failures.append(str(failure))
            self._placed += 1
            if self._placed >= self._wanted:
                self._passed.set()


@contextlib.asynccontextmanager
async def load(address: str) -> AsyncIterator[Load]:
    made = Load()
    async with (
        mesh.connect(
            "customers", gateway=address, connect_timeout=30, limits=mesh.Limits(service_wait=WAIT)
        ) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(CALLERS):
            nursery.start_soon(made.order, client)
        yield made
        nursery.cancel_scope.cancel()


class Shop:
    """The services, some of them twice, each ready when it says so to systemd."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self._stack = contextlib.ExitStack()
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, *names: str) -> list[subprocess.Popen[bytes]]:
        """Start them and return once all are ready."""
        begun = []
        for name in names:
            self._started += 1
            manager = Manager(f"{self._folder}/notify-{self._started}")
            self._stack.callback(manager.close)
            variables = environment(
                self._folder,
                MESH_GATEWAY=self._address,
                MESH_LIMITS_SERVICE_WAIT=f"{WAIT:g}s",
                PYTHONPATH=str(ROOT / "deploy" / "compose"),
                NOTIFY_SOCKET=manager.path,
            )
            process = self._stack.enter_context(
                subprocess.Popen([sys.executable, "-m", "shop", name], env=variables, stderr=-3)
            )
            self._stack.callback(process.kill)
            begun.append((process, manager))
        for _, manager in begun:
            while manager.next()[0] != "READY=1":
                pass
        return [process for process, _ in begun]


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    process.terminate()
    assert process.wait(30) == 0


@pytest.mark.parametrize("is_handed_in", [True, False], ids=["systemd's socket", "its own socket"])
async def test_a_gateway_that_restarts_fails_no_call(tmp_path: Path, is_handed_in: bool) -> None:
    path, limit = tmp_path / "mesh" / "gateway.sock", f"service_wait={WAIT:g}s"
    path.parent.mkdir(mode=0o700)
    with contextlib.ExitStack() as stack:
        sockets = (stack.enter_context(listen(path)),) if is_handed_in else ()
        first = stack.enter_context(gateway(tmp_path, "--limit", limit, sockets=sockets))
        shop = stack.enter_context(Shop(tmp_path, f"unix:{path}"))
        await trio.to_thread.run_sync(shop.start, "users", "payments", "orders")
        async with load(f"unix:{path}") as under:
            await under.passes()
            await trio.to_thread.run_sync(end, first)
            stack.enter_context(gateway(tmp_path, "--limit", limit, sockets=sockets))
            await under.passes()
        assert under.failures == []


async def test_services_that_restart_one_after_the_other_fail_no_call(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/mesh/gateway.sock"
    limit = f"service_wait={WAIT:g}s"
    with gateway(tmp_path, "--limit", limit), Shop(tmp_path, address) as shop:
        names = ["users", "payments", "orders"]
        running = await trio.to_thread.run_sync(shop.start, *(names * 2))
        async with load(address) as under:
            for name, old in zip(names, running[:3], strict=True):
                await under.passes()
                await trio.to_thread.run_sync(end, old)
                await trio.to_thread.run_sync(shop.start, name)
            await under.passes()
        assert under.failures == []
