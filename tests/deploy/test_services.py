"""A service under systemd: it says when it is ready, and that its loop turns."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import mesh
from mesh.running import PATIENCE, _tell_manager
from mesh.systemd import Notifier
from tests.deploy.manager import ROOT, UNITS, Manager, environment, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator


def start(installed: str) -> list[str]:
    """The template unit's command, with where the mesh is installed."""
    unit = (UNITS / "mesh-service@.service").read_text()
    [line] = re.findall(r"(?m)^ExecStart=(.*)$", unit)
    return [
        word.replace("/opt/spanmesh", installed).replace("$$", "$") for word in shlex.split(line)
    ]


def test_a_service_stays_with_the_version_it_was_started_by(tmp_path: Path) -> None:
    """Also for what it imports after the link leads to the next one."""
    version, link = tmp_path / "spanmesh-1", tmp_path / "spanmesh"
    (version / "bin").mkdir(parents=True)
    (version / "bin" / "python").symlink_to(sys.executable)
    (version / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n")
    link.symlink_to(version)
    (tmp_path / "told.py").write_text("import sys; print(sys.prefix, sys.argv[1:])\n")
    told = subprocess.run(
        start(str(link)),
        env={**os.environ, "PROGRAM": "told users"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == f"{version} ['users']\n"


def shop(name: str, folder: Path, notify: str, **variables: str) -> subprocess.Popen[str]:
    """A service of the shop, as the template unit starts it."""
    return subprocess.Popen(
        start(sys.prefix),
        env=environment(
            folder,
            PROGRAM=f"shop {name}",
            PYTHONPATH=str(ROOT / "deploy" / "compose"),
            MESH_GATEWAY=f"unix:{folder}/mesh/gateway.sock",
            NOTIFY_SOCKET=notify,
            **variables,
        ),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_service_is_ready_once_it_is_connected_and_has_what_it_requires(
    tmp_path: Path, manager: Manager
) -> None:
    with (
        shop("orders", tmp_path, manager.path, MESH_LIMITS_DRAIN="3s") as orders,
        contextlib.ExitStack() as others,
    ):
        others.callback(orders.kill)
        assert manager.next()[0] == "EXTEND_TIMEOUT_USEC=35000000"
        none = "STATUS=methods: 1, calls in flight: 0; no gateway: "
        manager.until(f"{none}unix:{tmp_path}/mesh/gateway.sock: No such file or directory")
        others.enter_context(gateway(tmp_path))
        waits = "STATUS=methods: 1, calls in flight: 0; waiting for payments, users"
        assert "READY=1" not in manager.until(waits)
        for name in ("users", "payments"):
            process = others.enter_context(shop(name, tmp_path, ""))
            others.callback(process.kill)
        manager.until("READY=1")
        orders.terminate()
        stopping = manager.until("STOPPING=1")
        assert stopping == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=8000000", "STATUS=draining"]
        assert orders.wait(30) == 0


async def test_others_do_not_wait_for_ever_for_what_it_requires(
    tmp_path: Path, manager: Manager, autojump_clock: object
) -> None:
    """Else the start of a machine would hang with a gateway elsewhere."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.path})
    registered = trio.Event()
    async with (
        mesh.connect("orders", gateway=f"unix:{tmp_path}/none.sock", connect_timeout=0) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_tell_manager, client, notifier, registered, nursery)
        await trio.sleep(PATIENCE)
        registered.set()
        await trio.sleep(PATIENCE - 0.5)
        assert manager.next()[0] == "EXTEND_TIMEOUT_USEC=35000000"
        with contextlib.suppress(BlockingIOError):
            while True:
                assert manager.next_now()[0] != "READY=1"
        await trio.sleep(1)
        assert manager.next_now()[0] == "READY=1"
        nursery.cancel_scope.cancel()
    notifier.close()


SLOW = """
import mesh, os, trio
def slow(client):
    @client.method("go")
    async def go(params):
        print("pid", os.getpid(), flush=True)
        print("in the buffer")
        await trio.sleep(60)
mesh.logs.configure()
mesh.run(slow)
"""


@contextlib.contextmanager
def slow(folder: Path, *before: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A service with a call under way, whose drain would take long."""
    address = f"unix:{folder}/mesh/gateway.sock"
    with (
        gateway(folder),
        subprocess.Popen(
            [*before, sys.executable, "-c", SLOW],
            env=environment(folder, MESH_GATEWAY=address, **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as service,
        subprocess.Popen(
            [sys.executable, "-m", "mesh.cli", "call", "slow", "go", "--gateway", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as caller,
    ):
        try:
            yield service
        finally:
            caller.kill()
            service.kill()


def test_a_drain_has_life_signs_too(tmp_path: Path, manager: Manager) -> None:
    with slow(tmp_path, NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="100000") as service:
        assert service.stdout is not None
        service.stdout.readline()
        manager.fill()
        service.terminate()
        assert service.stderr is not None
        while "drains" not in service.stderr.readline():
            pass
        heard = manager.until("STOPPING=1")  # though there was no room for it
        while "STATUS=draining: calls in flight: 1" not in heard:
            heard = manager.next()
        manager.until("WATCHDOG=1")


def test_a_second_signal_ends_the_first_process_of_a_container_too(tmp_path: Path) -> None:
    """The kernel keeps from it what it sends itself."""
    alone = ("unshare", "--pid", "--fork", "--kill-child")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace of processes can be made here")
    with slow(tmp_path, *alone) as unshare:
        assert unshare.stdout is not None
        assert unshare.stderr is not None
        assert unshare.stdout.readline() == "pid 1\n"
        [service] = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
        os.kill(int(service), signal.SIGTERM)
        while "drains" not in unshare.stderr.readline():
            pass
        os.kill(int(service), signal.SIGTERM)
        assert unshare.wait(30) == 128 + signal.SIGTERM
        assert unshare.stdout.read() == "in the buffer\n"


def test_a_service_gives_life_signs_from_the_loop_that_serves(
    tmp_path: Path, manager: Manager
) -> None:
    with (
        gateway(tmp_path),
        shop("users", tmp_path, manager.path, WATCHDOG_USEC="100000") as users,
        contextlib.ExitStack() as end,
    ):
        end.callback(users.kill)
        manager.until("READY=1")
        for _ in range(5):
            assert "WATCHDOG=1" in manager.next()
        users.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, users.pid, os.WSTOPPED)
        manager.until_silent(0.5)
        users.send_signal(signal.SIGCONT)
        assert "WATCHDOG=1" in manager.next()
