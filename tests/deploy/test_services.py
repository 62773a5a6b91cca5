"""A service under systemd: it says when it is ready, and that its loop turns."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.deploy.manager import ROOT, UNITS, Manager, environment, gateway

if TYPE_CHECKING:
    from pathlib import Path


def shop(name: str, folder: Path, notify: str, **variables: str) -> subprocess.Popen[str]:
    """A service of the shop, as the template unit starts it."""
    unit = (UNITS / "mesh-service@.service").read_text()
    [start] = re.findall(r"(?m)^ExecStart=/opt/spanmesh/bin/python (.*)$", unit)
    return subprocess.Popen(
        [sys.executable, *start.replace("$PROGRAM", f"shop {name}").split()],
        env=environment(
            folder,
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
        [waiting] = manager.next()
        assert waiting.startswith("STATUS=methods: 1, calls in flight: 0; no gateway: ")
        others.enter_context(gateway(tmp_path))
        waits = "STATUS=methods: 1, calls in flight: 0; waiting for payments, users"
        assert "READY=1" not in manager.until(waits)
        for name in ("users", "payments"):
            process = others.enter_context(shop(name, tmp_path, ""))
            others.callback(process.kill)
        assert manager.until("READY=1") == ["READY=1", "STATUS=methods: 1, calls in flight: 0"]
        orders.terminate()
        stopping = manager.until("STOPPING=1")
        assert stopping == ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=8000000"]
        assert orders.wait(30) == 0


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
