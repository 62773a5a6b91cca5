"""What the command says about itself, and to those who use it wrongly."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

import mesh
from mesh.cli import main
from mesh.cli.commands import COMMANDS, run
from mesh.cli.failures import explain, hint
from mesh_telemetry.logs import clean
from tests.cli.conftest import start

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Mesh


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_names_it(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"mesh {name}" in result.output
    assert "--json" in result.output


def test_the_summary_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, entry in COMMANDS.items():
        assert f"  {name} " in result.output
        assert entry.summary in result.output


def test_help_imports_no_command_and_no_rich() -> None:
    """The summary must come at once: what commands need is imported when they run."""
    code = "import sys; from mesh.cli import main; main(['--help'], standalone_mode=False); "
    code += (
        "print([name for name in sys.modules if name == 'rich' or name.startswith('mesh.cli.')])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.splitlines()[-1] == "['mesh.cli.failures', 'mesh.cli.commands']"


def test_the_version_is_the_package_s() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"mesh {mesh.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["lst"], "no command 'lst'; did you mean 'list'?"),
        (["zzz"], "no command 'zzz'; there are gateway, "),
        (["list", "--nope"], "No such option"),
        (["list", "--gateway", "somewhere"], "write unix:PATH (unix:/run/mesh.sock), tcp:"),
        (["gateway", "--listen", "tcp:1.2.3.4"], "is not understood"),
        (
            ["gateway", "--log-level", "loud"],
            "must be one of debug, info, warning, error, not",
        ),
        (["gateway", "--listen", "tcp:127.0.0.1:0", "--admin", "x"], "is not HOST:PORT"),
        (["gateway", "--listen", "tcp:127.0.0.1:0", "--admin", "0.0.0.0:0"], "other machines"),
        (["gateway", "--listen", "tcp:0.0.0.0:0", "--admin", "none"], "--allow-plain-tcp"),
        (["gateway", "--listen", "tls:127.0.0.1:0"], "needs a certificate"),
        (
            ["gateway", "--tls-cert", "x.pem"],
            "tls.cert: is given, but no tls:",
        ),
        (
            ["gateway", "--listen", "tls:127.0.0.1:0", "--tls-key", "x"],
            "tls.key: needs tls.cert",
        ),
        (
            ["gateway", "--listen", "tls:127.0.0.1:0", "--tls-cert", "/no/such.pem"],
            "/no/such.pem cannot be read: No such file",
        ),
        (["gateway", "--admin-token-file", "/dev/null"], "/dev/null holds no token"),
        (["ping", "--count", "0"], "0 is not in the range"),
        (["ping", "no name"], "'no name' is no service name"),
        (["call", "users"], "Missing argument 'METHOD'"),
        (["call", "users", "get", "{"], "PARAMS is no JSON"),
        (["call", "users", "get", "-"], "standard input is no JSON"),
        (["call", "users", "get", "@/no/such/file"], "/no/such/file cannot be read: No such file"),
        (["call", "users", "get", "1", "--timeout", "0"], "0.0 is not in the range"),
        (["call", "users", "get", "1", "--activity", "a\nb"], "1 to 128 printable ASCII"),
        (["call", "users", "1st"], "'1st' is no method name"),
        (["demo", "--orders", "0"], "0 is not in the range"),
        *[
            ([*command, number], f"{number} is no number of seconds")
            for number in ("nan", "-nan")
            for command in (
                ["top", "--interval"],
                ["stat", "--interval"],
                ["edges", "--interval"],
                ["ping", "--interval"],
                ["call", "users", "get", "--timeout"],
                ["trace", "--timeout"],
            )
        ],
        (["call", "users", "get", "--timeout", "inf"], "inf is no number of seconds"),
        (["trace", "--timeout", "inf"], "inf is no number of seconds"),
    ],
)
def test_wrong_usage_has_status_2_and_says_what_is_right(
    arguments: list[str], complaint: str
) -> None:
    result = CliRunner().invoke(main, arguments, input="{")
    assert result.exit_code == 2, result.output
    assert complaint in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "command", ["top --once --interval 0.05", "list --json", "call users get '\"ada\"'", "list"]
)
def test_standard_streams_may_be_closed(served: Mesh, command: str, closed: str) -> None:
    """What goes there is lost, and nothing else: not the status, and no socket takes the place."""
    started = f'"$0" -m mesh.cli {command} {closed}'
    result = subprocess.run(
        ["/bin/sh", "-c", started, sys.executable],
        env=served.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert (result.stdout == "") == (">&-" in closed.split())


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_the_gateway_s_streams_may_be_closed(shell: Mesh, closed: str) -> None:
    started = f'"$0" -m mesh.cli gateway --admin none {closed}'
    with start(["/bin/sh", "-c", f"exec {started}", sys.executable], shell.env) as gateway:
        assert shell("list").returncode == 0
        gateway.terminate()
        assert gateway.wait(30) == 0


def test_no_gateway_is_one_line_that_says_how_to_start_one(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/none.sock"
    result = CliRunner().invoke(main, ["list", "--gateway", address])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert address in result.stderr
    assert "start one with `mesh gateway`" in result.stderr


def fail(fault: BaseException) -> click.Command:
    @click.command("gateway")
    def command() -> None:
        async def body() -> None:
            raise fault

        run(body)

    return command


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        (mesh.AddressInUse("held by process 7"), 1, "mesh: held by process 7\n"),
        (mesh.AddressError("no such form"), 2, "mesh: no such form\n"),
        (mesh.UsageError("closed"), 2, "mesh: closed\n"),
        (PermissionError(13, "Permission denied", "/run/x"), 1,
         "mesh: the system refuses: /run/x: Permission denied\n"),
        (mesh.NotFound("no service", reason="SERVICE_NOT_FOUND", chain=["a.b"]), 1,
         ("mesh: not_found SERVICE_NOT_FOUND: no service [a.b]\n"
          "      `mesh list` shows the services that are registered.\n")),
        (ExceptionGroup("", [mesh.AddressInUse("alone in a group")]), 1,
         "mesh: alone in a group\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)  # fmt: skip
def test_failures_are_told_in_a_line_or_two(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException, status: int, says: str
) -> None:
    monkeypatch.setattr(main, "get_command", lambda *_: fail(fault))
    result = CliRunner().invoke(main, ["gateway"])
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", says)


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "get_command", lambda *_: fail(ZeroDivisionError()))
    assert isinstance(CliRunner().invoke(main, ["gateway"]).exception, ZeroDivisionError)


def test_a_lost_connection_says_whether_to_call_again() -> None:
    lost = mesh.Unavailable(reason="CONNECTION_LOST", maybe_executed=True)
    assert "may have run" in hint(lost)
    lost.maybe_executed = False
    assert "certainly did not run" in hint(lost)
    assert hint(mesh.NotFound(reason="OF_THE_USERS_OWN")) == ""


def test_a_closed_pipe_is_nobody_s_business() -> None:
    assert explain(BrokenPipeError(32, "Broken pipe")) is None


def test_text_from_elsewhere_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[2Jb\x9bc\nd\u2713") == "a\\x1b[2Jb\\x9bc\nd\u2713"
