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

RATE = 40.0
"""Orders per second."""
TIMEOUT = 60.0
WAIT = 30.0
"""Seconds; by default 30 and 5, for machines that do nothing else."""
PAUSES = (0.0, 0.2, 1.0)
"""Seconds from the end of a gateway to the start of the next one."""
GONE = 4.0
"""Seconds in which a gateway ends that nobody keeps busy, on a machine that is."""
LATE = 2.0
"""Seconds in which a call ends once there is a gateway, likewise."""


class Load:
    """Customers who order some times a second, whatever becomes of the orders before.

    Attributes:
        failures: What orders failed of.
        ended: When each began and ended, on trio's clock.
        ready: When a new gateway was there, likewise.
    """

    def __init__(self, client: mesh.Client) -> None:
        self.failures: list[str] = []
        self.ended: list[tuple[float, float]] = []
        self.ready: list[float] = []
        self._client = client
        self._made = 0
        self._passed = trio.Event()

    async def passes(self) -> None:
        """Return once an order that has yet to be made has ended."""
        now = trio.current_time()
        with trio.fail_after(TIMEOUT):
            while all(began < now for began, _ in self.ended[-1:]):
                self._passed = trio.Event()
                await self._passed.wait()

    async def run(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Order until cancelled, and return once all orders have ended."""
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                task_status.started(scope)
                while True:
                    self._made += 1
                    nursery.start_soon(self._order)
                    await trio.sleep(1 / RATE)

    async def _order(self) -> None:
        began = trio.current_time()
        try:
            params = {"user_id": "ada", "cents": 1250}
            await self._client.call("orders", "place", params, timeout=TIMEOUT)
        except mesh.CallError as failure:
            if failure.reason != "CARD_DECLINED":
                self.failures.append(str(failure))
        self.ended.append((began, trio.current_time()))
        self._passed.set()

    def check(self) -> None:
        """Every order has ended well, and soon once there was a gateway."""
        assert self.failures == []
        assert len(self.ended) == self._made
        late = [
            ended - since
            for began, ended in self.ended
            if ended - (since := max([began, *(at for at in self.ready if at < ended)])) > LATE
        ]
        assert late == []


@contextlib.asynccontextmanager
async def load(address: str) -> AsyncIterator[Load]:
    """Customers, and a check of their books in the end."""
    async with (
        mesh.connect(
            "customers", gateway=address, connect_timeout=30, limits=mesh.Limits(service_wait=WAIT)
        ) as client,
        trio.open_nursery() as nursery,
    ):
        made = Load(client)
        scope: trio.CancelScope = await nursery.start(made.run)
        yield made
        scope.cancel()
    made.check()


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
    """However soon, and though the backend for its traces has come to hang."""
    path, limit = tmp_path / "mesh" / "gateway.sock", f"service_wait={WAIT:g}s"
    path.parent.mkdir(mode=0o700)
    with contextlib.ExitStack() as stack:
        sockets = (stack.enter_context(listen(path)),) if is_handed_in else ()
        host, port = stack.enter_context(listen()).getsockname()
        backend = f"http://{host}:{port}"

        def start() -> subprocess.Popen[str]:
            process = stack.enter_context(
                gateway(
                    tmp_path, "--limit", limit, sockets=sockets, OTEL_EXPORTER_OTLP_ENDPOINT=backend
                )
            )
            assert process.stdout is not None
            assert "is ready" in process.stdout.readline()
            return process

        running = start()
        shop = stack.enter_context(Shop(tmp_path, f"unix:{path}"))
        await trio.to_thread.run_sync(shop.start, "users", "payments", "orders")
        async with load(f"unix:{path}") as under:
            for pause in PAUSES:
                await under.passes()
                with trio.fail_after(GONE):
                    await trio.to_thread.run_sync(end, running, abandon_on_cancel=True)
                await trio.sleep(pause)
                running = await trio.to_thread.run_sync(start)
                under.ready.append(trio.current_time())
                await under.passes()


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
