"""`mesh gateway` as a process: its announcement, its signals, what it refuses."""

from __future__ import annotations

import http.client
import re
import resource
import signal
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.cli.conftest import Mesh


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_removes_the_socket(shell: Mesh, number: signal.Signals) -> None:
    with shell.gateway() as (process, ready):
        path = Path(ready["addresses"][0].removeprefix("unix:"))
        assert path.is_socket()
        process.send_signal(number)
        assert process.wait(30) == 0
        assert list(path.parent.iterdir()) == []
        assert process.stderr is not None
        assert "drained" in process.stderr.read()


def test_the_second_signal_ends_it_at_once(
    shell: Mesh, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    with shell.gateway() as (process, ready), shell.service(ready["addresses"][0]) as users:
        with shell.start("call", "users", "wait"):
            assert next_line(users) == "waiting\n"  # the drain would take 10 s
            assert process.stderr is not None
            process.terminate()
            while "draining: 1 calls" not in process.stderr.readline():
                pass
            process.terminate()
            assert process.wait(5) == 128 + signal.SIGTERM
        assert not Path(ready["addresses"][0].removeprefix("unix:")).exists()


def test_it_announces_itself_for_people(
    shell: Mesh, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    with shell.start("gateway", "--admin", "127.0.0.1:0") as process:
        assert "is ready" in next_line(process)
        assert (
            next_line(process)
            == f"  peers    unix:{shell.env['XDG_RUNTIME_DIR']}/mesh/gateway.sock\n"
        )
        word, address = next_line(process).split()
        assert word == "metrics"
        assert address.startswith("http://127.0.0.1:")


def test_metrics_are_where_it_says(shell: Mesh) -> None:
    with shell.gateway() as (_, ready):
        assert ready["metrics"] == f"http://{ready['admin']}/metrics"
        with closing(http.client.HTTPConnection(ready["admin"], timeout=10)) as connection:
            connection.request("GET", "/metrics")
            assert "mesh_build_info" in connection.getresponse().read().decode()


def test_it_listens_at_several_addresses_and_without_an_admin_server(
    shell: Mesh, tmp_path: Path
) -> None:
    listen = ["--listen", f"unix:{tmp_path}/a", "--listen", "tcp:127.0.0.1:0", "--admin", "none"]
    with shell.gateway(*listen) as (_, ready):
        assert ready["metrics"] is None
        assert len(ready["addresses"]) == 2
        for address in ready["addresses"]:
            assert shell("list", "--gateway", address).returncode == 0


def test_its_sockets_let_in_whom_it_is_told_to(shell: Mesh, tmp_path: Path) -> None:
    with shell.gateway("--listen", f"unix:{tmp_path}/a", "--socket-mode", "0660"):
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o660


def test_a_second_gateway_says_who_holds_the_socket(shell: Mesh) -> None:
    with shell.gateway() as (process, ready):
        result = shell("gateway", "--admin", "127.0.0.1:0")
        assert (result.returncode, result.stdout) == (1, "")
        assert f"{ready['addresses'][0]} is held by process {process.pid}" in result.stderr
        assert "Traceback" not in result.stderr
        assert shell("list").returncode == 0  # the first one is none the worse


def test_a_taken_admin_port_says_what_to_do(shell: Mesh) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 9464))
        except OSError:
            pass  # taken by somebody else: as good for this test
        else:
            holder.listen()
        result = shell("gateway")
    assert result.returncode == 1
    assert "127.0.0.1:9464 is in use" in result.stderr
    assert "--admin 127.0.0.1:0" in result.stderr
    assert "--admin none" in result.stderr
    assert "Traceback" not in result.stderr


def test_plain_tcp_for_other_machines_has_to_be_asked_for_by_name(shell: Mesh) -> None:
    with shell.gateway("--listen", "tcp:0.0.0.0:0", "--allow-plain-tcp") as (_, ready):
        assert ready["addresses"][0].startswith("tcp:0.0.0.0:")


def test_an_admin_address_for_other_machines_takes_its_token_from_a_file(
    shell: Mesh, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    options = ("--admin", "0.0.0.0:0", "--admin-token-file", str(tmp_path / "token"))
    with shell.gateway(*options) as (_, ready):
        port = int(ready["admin"].rpartition(":")[2])
        for headers, status in (({}, 401), ({"Authorization": "Bearer s3cret"}, 200)):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                connection.request("GET", "/metrics", headers=headers)
                assert connection.getresponse().status == status


def test_it_raises_the_limit_of_open_files(shell: Mesh) -> None:
    """A gateway started with the usual soft limit of 1,024 takes more peers than that."""
    with shell.gateway() as (process, _):
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_a_directory_that_is_not_ours_is_refused_in_words(shell: Mesh, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = shell("gateway", "--listen", f"unix:{tmp_path}/file/x.sock", "--admin", "none")
    assert result.returncode == 1
    assert "the system refuses" in result.stderr
    assert "Traceback" not in result.stderr


def logged(shell: Mesh, level: str) -> list[str]:
    """What a gateway logs of a service that comes, a command that asks for it, and its end."""
    with shell.gateway("--log-level", level) as (process, ready):
        with shell.service(ready["addresses"][0]) as users:
            assert shell("list").returncode == 0
            users.terminate()
            assert users.wait(30) == 0
        assert process.stderr is not None
        process.terminate()
        return process.stderr.read().splitlines()


def test_log_lines_are_for_people_and_of_what_serves(shell: Mesh) -> None:
    """One line where it comes and one where it goes; none of who only calls."""
    lines = [line for line in logged(shell, "info") if " peer " in line]
    assert [line[8:].split()[1] for line in lines] == ["info", "info"]
    assert "\x1b" not in "".join(lines)
    connected, disconnected = lines
    assert "peer users (" in connected
    assert " from pid " in connected
    assert connected.endswith(" and serves users")
    assert re.search(r"peer users \(\S+\) disconnected after \d+\.\d s$", disconnected)


def test_whoever_only_calls_is_in_the_log_at_the_level_debug(shell: Mesh) -> None:
    lines = [line for line in logged(shell, "debug") if "peer mesh-cli" in line]
    assert [line[8:].split()[1] for line in lines] == ["debug", "debug"]
    assert re.search(r"disconnected after \d+\.\d s$", lines[1])
