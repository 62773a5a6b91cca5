"""`mesh.serve`, and `mesh.run` as a program: how it ends where its settings cannot work."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import mesh
from tests.gateway.raw_peer import settled

if TYPE_CHECKING:
    from pathlib import Path

UNDERSTOOD = "write unix:PATH (unix:/run/mesh.sock), tcp:HOST:PORT"


async def answer() -> str:
    return "answer"


def users(client: mesh.Client) -> None:
    pytest.fail(f"{client.name} was registered")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"MESH_GATEWAY": "nowhere"}, "users: MESH_GATEWAY: address 'nowhere' is not understood; "),
        ({"MESH_KEEP_LOGS": "loud"}, "users: MESH_KEEP_LOGS must be one of debug, info, warning, "),
        ({"MESH_METADATA": "zone"}, "users: MESH_METADATA must be NAME=VALUE, with commas between"),
        ({"MESH_LIMITS_DRAIN": "x"}, "users: MESH_LIMITS_DRAIN must be a duration: "),
        (
            {"MESH_GATEWAY": "tls:127.0.0.1:1", "MESH_TLS_CA": "/no/such.pem"},
            "users: /no/such.pem cannot be read: No such file or directory",
        ),
    ],
)
def test_a_wrong_variable_ends_the_program_with_one_line(
    variables: dict[str, str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(SystemExit) as ended:
        mesh.run(users)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith(line)
    assert told.count("\n") == 1


def test_so_does_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        mesh.run(users, gateway="tcp:nowhere")
    assert UNDERSTOOD in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        mesh.run(users, gateway="unix:/nowhere", metrics="nowhere")
    assert capsys.readouterr().err.startswith("users: ")


@pytest.mark.parametrize("error", [mesh.AddressError, mesh.SettingError, mesh.CertificateError])
def test_the_programs_own_errors_are_its_own(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where they are of the same kinds: then there is a bug to look for."""

    def broken(_: mesh.Client) -> None:
        raise error("of the service's own")

    with pytest.raises(error, match="own"):
        mesh.run(broken, gateway="unix:/nowhere")
    assert capsys.readouterr().err == ""


def test_as_a_process_it_has_status_2_and_no_traceback(tmp_path: Path) -> None:
    script = tmp_path / "users.py"
    script.write_text("import mesh\n\ndef users(client): ...\n\nmesh.run(users)\n")
    ended = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "MESH_GATEWAY": "x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("users: MESH_GATEWAY: address 'x' is not understood; write ")
    assert ended.stderr.count("\n") == 1


def test_without_a_standard_error_it_has_status_2_as_well(tmp_path: Path) -> None:
    script = tmp_path / "users.py"
    script.write_text("import mesh\n\ndef users(client): ...\n\nmesh.run(users)\n")
    ended = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$1" 2>&-', sys.executable, str(script)],
        env={**os.environ, "MESH_GATEWAY": "x"},
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2


def test_a_variable_that_opentelemetry_refuses_does_not_end_a_service(tmp_path: Path) -> None:
    script = tmp_path / "users.py"
    script.write_text("import mesh\n\ndef users(client): ...\n\nmesh.run(users)\n")
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={
            **os.environ,
            "MESH_GATEWAY": f"unix:{tmp_path}/none.sock",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "abc",
        },
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stderr is not None
        said = service.stderr.readline()
        while said and "OpenTelemetry" not in said:
            said = service.stderr.readline()
        assert "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be" in said
        service.terminate()
        assert service.wait(30) == 0


async def test_serve_registers_in_order_and_until_cancelled() -> None:
    """Functions that take the client, also asynchronous ones."""
    order: list[str] = []

    def first(client: mesh.Client) -> None:
        order.append("first")
        client.register("a", answer)

    async def second(client: mesh.Client) -> None:
        await trio.lowlevel.checkpoint()
        order.append("second")
        client.register("b", answer)

    async with (
        mesh.Gateway() as gateway,
        mesh.connect("one", gateway=gateway) as one,
        mesh.connect("two", gateway=gateway) as two,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(mesh.serve, one, first, second)
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["first", "second"]
        await settled(one)
        assert await two.call("one", "b") == "answer"
        nursery.cancel_scope.cancel()


def test_run_needs_something_to_serve() -> None:
    """Before anything is started."""
    with pytest.raises(TypeError, match="needs at least one service"):
        mesh.run()
