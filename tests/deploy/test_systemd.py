"""The gateway under systemd: readiness, life signs, and sockets handed in."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

import mesh
from mesh.systemd import Notifier, take_sockets
from tests.certificates import Authority
from tests.deploy.manager import LAUNCHER, Manager, ask, command, environment, gateway, listen

if TYPE_CHECKING:
    from pathlib import Path

# Notification.


def test_it_is_ready_once_peers_can_connect_and_says_that_it_stops(
    tmp_path: Path, manager: Manager
) -> None:
    with gateway(tmp_path, "--limit", "drain=3s", NOTIFY_SOCKET=manager.path) as process:
        assert manager.next() == ["READY=1", "STATUS=0 peers, 0 calls in flight"]
        assert ask(f"unix:{tmp_path}/mesh/gateway.sock").returncode == 0
        process.send_signal(signal.SIGTERM)
        stopping = manager.until("STOPPING=1")
        assert stopping == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=8000000", "STATUS=draining"]
        assert process.wait(30) == 0


def test_whoever_has_it_drained_it_says_so(tmp_path: Path, manager: Manager) -> None:
    with gateway(tmp_path, NOTIFY_SOCKET=manager.path) as process:
        manager.until("READY=1")
        address = f"unix:{tmp_path}/mesh/gateway.sock"
        assert command("drain", "--gateway", address).returncode == 0
        manager.until("STOPPING=1")
        assert process.wait(30) == 0


def test_a_manager_with_a_full_queue_hears_of_readiness_later(
    tmp_path: Path, manager: Manager
) -> None:
    manager.fill()
    with gateway(tmp_path, "--json", NOTIFY_SOCKET=manager.path) as process:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        manager.until("X=1")
        assert manager.until("READY=1") == ["READY=1", "STATUS=0 peers, 0 calls in flight"]


def test_what_has_been_heard_is_not_said_again(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "20000000"})
    manager.fill()
    notifier.waiting(3, "starting")
    notifier.ready("up")
    notifier.alive("up")
    notifier.draining(3)
    manager.until_silent(0)
    notifier.alive("draining")
    stopping = ["STOPPING=1", "EXTEND_TIMEOUT_USEC=8000000", "STATUS=draining", "WATCHDOG=1"]
    assert manager.next() == stopping
    notifier.alive("draining")
    assert manager.next() == ["WATCHDOG=1"]
    notifier.close()


def test_a_loop_that_turns_gives_life_signs_and_one_that_hangs_does_not(
    tmp_path: Path, manager: Manager
) -> None:
    with gateway(tmp_path, NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="100000") as process:
        assert manager.next()[0] == "READY=1"
        for _ in range(5):
            assert "WATCHDOG=1" in manager.next()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        manager.until_silent(0.5)
        process.send_signal(signal.SIGCONT)
        assert "WATCHDOG=1" in manager.next()


def test_a_start_that_fails_is_never_ready(tmp_path: Path, manager: Manager) -> None:
    (tmp_path / "file").touch()
    arguments = ["--listen", f"unix:{tmp_path}/file/x.sock"]
    with gateway(tmp_path, *arguments, NOTIFY_SOCKET=manager.path) as process:
        assert process.wait(30) == 1
    with pytest.raises(BlockingIOError):
        manager.next_now()


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 400}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
    ],
)
def test_the_watchdog_is_only_for_the_process_it_means(
    variables: dict[str, str], wanted: float | None
) -> None:
    notifier = Notifier(variables)
    assert notifier.watchdog == wanted
    assert not notifier.is_heard
    notifier.ready("nobody hears it")


def test_a_manager_that_does_not_read_blocks_nothing(tmp_path: Path) -> None:
    manager = Manager(f"{tmp_path}/notify")
    notifier = Notifier({"NOTIFY_SOCKET": manager.path})
    for number in range(10_000):
        notifier.alive(f"{number}")
    assert manager.next() == ["STATUS=0"]
    manager.until_silent(0)
    notifier.alive("9999")  # the last one, which was not heard
    assert manager.next() == ["STATUS=9999"]
    manager.close()
    notifier.alive("gone")
    notifier.close()


def test_a_manager_that_is_not_there_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not Notifier({"NOTIFY_SOCKET": f"{tmp_path}/none"}).is_heard
    assert "cannot be told anything" in caplog.text


def test_a_status_is_told_once(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.path})
    for status in ("a", "a", "b\nREADY=1"):
        notifier.alive(status)
    notifier.close()
    assert manager.next() == ["STATUS=a"]
    assert manager.next() == ["STATUS=b READY=1"]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("no gateway: unix:/run/\udcff/g.sock", "no gateway: unix:/run/?/g.sock"),
        ("é" * 5000, "é" * 1024),
        ("x" + "é" * 5000, "x" + "é" * 1023),
    ],
    ids=["no UTF-8", "too long", "too long within a character"],
)
def test_a_status_is_short_and_utf_8(manager: Manager, status: str, told: str) -> None:
    """As systemd discards what is neither."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.path})
    notifier.ready(status)
    notifier.alive(status)
    notifier.close()
    assert manager.next() == ["READY=1", f"STATUS={told}"]
    with pytest.raises(BlockingIOError):
        manager.next_now()


async def test_a_watchdog_that_wants_too_much_does_not_take_the_loop(
    manager: Manager, autojump_clock: object
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1"})
    looks = 0

    def status() -> str:
        nonlocal looks
        looks += 1
        return ""

    notifier.ready("")
    with trio.move_on_after(1):
        await notifier.report(status)
    notifier.close()
    assert looks <= 101


# Activation.


def test_sockets_that_are_handed_in_are_served_and_left_in_place(tmp_path: Path) -> None:
    path = tmp_path / "handed.sock"
    with (
        listen(path) as unix,
        listen() as tcp,
        gateway(tmp_path, "--json", sockets=(unix, tcp), LISTEN_FDNAMES="peers:more") as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith('{"event":"ready"')
        addresses = [f"unix:{path}", f"tcp:127.0.0.1:{tcp.getsockname()[1]}"]
        for address in addresses:
            assert ask(address).returncode == 0, address
        assert not (tmp_path / "mesh").exists()  # no socket of its own
        process.terminate()
        assert process.wait(30) == 0
        assert path.is_socket()
        # The sockets are still open here, as they are in systemd: the next gateway takes over.
        with gateway(tmp_path, sockets=(unix,)):
            assert ask(addresses[0]).returncode == 0


def test_a_socket_named_tls_is_met_with_tls(tmp_path: Path) -> None:
    """Beside one without, and with the gateway's certificate."""
    authority = Authority(tmp_path / "authority")
    files = authority.issue("127.0.0.1")
    options = ("--tls-cert", str(files.cert), "--tls-key", str(files.key), "--json")
    with (
        listen(tmp_path / "plain.sock") as unix,
        listen() as tcp,
        gateway(tmp_path, *options, sockets=(unix, tcp), LISTEN_FDNAMES="peers:tls") as process,
    ):
        assert process.stdout is not None
        addresses = [f"unix:{tmp_path}/plain.sock", f"tls:127.0.0.1:{tcp.getsockname()[1]}"]
        assert f'["{addresses[0]}","{addresses[1]}"]' in process.stdout.readline()
        for address in addresses:
            assert ask(address, MESH_TLS_CA=str(authority.file)).returncode == 0, address
        plain = ask(addresses[1].replace("tls:", "tcp:"))
        assert "this port takes TLS only" in plain.stderr


@pytest.mark.parametrize(
    ("certificate", "fault"),
    [(False, "a tls: address needs a certificate"), (True, "is unix:")],
)
def test_a_socket_named_tls_that_cannot_be_is_refused(
    tmp_path: Path, *, certificate: bool, fault: str
) -> None:
    files = Authority(tmp_path / "authority").issue("127.0.0.1")
    options = ("--tls-cert", str(files.cert), "--tls-key", str(files.key)) if certificate else ()
    with (
        listen(tmp_path / "a.sock") as unix,
        gateway(tmp_path, *options, sockets=(unix,), LISTEN_FDNAMES="tls") as process,
    ):
        _, told = process.communicate(timeout=30)
        assert process.returncode == 2
        assert fault in told


def test_listen_adds_to_what_is_handed_in(tmp_path: Path) -> None:
    other = f"unix:{tmp_path}/other.sock"
    with (
        listen(tmp_path / "handed.sock") as unix,
        gateway(tmp_path, "--listen", other, "--json", sockets=(unix,)) as process,
    ):
        assert process.stdout is not None
        assert f'["unix:{tmp_path}/handed.sock","{other}"]' in process.stdout.readline()


TAKE = """
import os, subprocess, sys
from mesh.systemd import take_sockets
print([(one.name, one.socket.getsockname()) for one in take_sockets()])
print([name for name in os.environ if name.startswith("LISTEN_")], take_sockets())
print(os.get_inheritable(3))
"""


def test_sockets_are_taken_once_and_by_no_child(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with listen(path) as unix, socket.socket() as deaf, (tmp_path / "file").open("w") as file:
        descriptors = [file.fileno(), deaf.fileno(), unix.fileno()]
        result = subprocess.run(
            [sys.executable, "-c", LAUNCHER, ",".join(map(str, descriptors)), "-c", TAKE],
            env=environment(tmp_path, LISTEN_FDNAMES="::peers"),
            pass_fds=descriptors,
            capture_output=True,
            text=True,
            check=True,
        )
    assert result.stdout.splitlines() == [f"[('peers', '{path}')]", "[] []", "False"]
    assert "descriptor 3 (unknown) is no socket" in result.stderr
    assert "descriptor 4 (unknown) does not listen for streams" in result.stderr


@pytest.mark.parametrize(
    "variables",
    [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": "x", "LISTEN_FDS": "1"},
     {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}],
)  # fmt: skip
def test_what_is_meant_for_others_is_not_taken(variables: dict[str, str]) -> None:
    before = dict(variables)
    assert take_sockets(variables) == []
    assert variables == before


async def test_a_gateway_takes_a_socket_of_the_program_s_own(tmp_path: Path) -> None:
    path = tmp_path / "own.sock"
    async with mesh.Gateway(listen=[listen(path), listen()]) as made:
        for address in made.addresses:
            async with mesh.connect("users", gateway=address) as client:
                await client.call("mesh", "status")
    assert path.is_socket()
    with socket.socket() as deaf, pytest.raises(mesh.AddressError, match="does not listen"):
        mesh.Gateway(listen=[deaf])
