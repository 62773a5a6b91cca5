"""`mesh list`, `ping` and `call` against a real gateway and a real service."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

import mesh
from mesh.cli.call import print_error

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.cli.conftest import Mesh


def test_list_shows_who_serves_what_in_plain_text(served: Mesh) -> None:
    result = served("list")
    assert (result.returncode, result.stderr) == (0, "")
    heading, users = result.stdout.splitlines()
    assert heading.split() == [
        "SERVICE",
        "METHODS",
        "INSTANCE",
        "STATE",
        "IN",
        "FLIGHT",
        "CONNECTED",
    ]
    assert users.split()[:2] == ["users", "bug,get,many,nested,wait"]
    assert "\x1b" not in result.stdout


def test_list_hides_the_builtin_service_unless_asked(served: Mesh) -> None:
    names = [service["name"] for service in json.loads(served("list", "--json").stdout)]
    assert names == ["users"]
    everything = json.loads(served("list", "--json", "--all").stdout)
    assert [service["name"] for service in everything] == ["mesh", "users"]


def test_list_of_nothing_says_how_to_serve(shell: Mesh) -> None:
    with shell.gateway():
        result = shell("list")
        assert (result.returncode, result.stdout) == (0, "")
        assert "mesh.run()" in result.stderr
        assert shell("list", "--json").stdout == "[]\n"


def test_ping_measures_the_gateway(served: Mesh) -> None:
    result = served("ping", "--count", "3", "--interval", "0")
    assert result.returncode == 0
    *rounds, summary = result.stdout.splitlines()
    assert len(rounds) == 3
    assert all(line.endswith(" ms") for line in rounds)
    assert "3 of 3 answered" in summary
    assert "\x1b" not in result.stdout


def test_ping_measures_each_instance_of_a_service(served: Mesh) -> None:
    with served.service(served.env["MESH_GATEWAY"]):
        result = served("ping", "users", "--count", "2", "--interval", "0", "--json")
    document = json.loads(result.stdout)
    assert document["target"] == "users"
    assert len(document["instances"]) == 2
    for instance in document["instances"]:
        assert instance["answered"] == 2
        assert 0 < instance["min_s"] <= instance["median_s"] <= instance["max_s"]


def test_ping_of_an_unknown_service_names_the_nearest(served: Mesh) -> None:
    result = served("ping", "userz")
    assert result.returncode == 1
    assert "did you mean 'users'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_call_prints_the_result(served: Mesh) -> None:
    result = served("call", "users", "get", '"ada"')
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"user": "ada", "name": "Ada"}
    assert "\x1b" not in result.stdout


def test_call_reads_parameters_from_a_file_or_standard_input(
    served: Mesh, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("params") / "user.json"
    file.write_text('"grace"')
    assert json.loads(served("call", "users", "get", f"@{file}").stdout)["name"] == "Grace"
    assert json.loads(served("call", "users", "get", "-", stdin='"tu"').stdout)["name"] == "Tu"


def test_call_with_json_tells_the_whole_outcome(served: Mesh) -> None:
    result = served("call", "users", "get", '"ada"', "--json", "--activity", "ticket-17")
    document = json.loads(result.stdout)
    assert document.pop("duration_s") > 0
    assert document == {
        "ok": True,
        "service": "users",
        "method": "get",
        "activity_id": "ticket-17",
        "result": {"user": "ada", "name": "Ada"},
        "error": None,
    }


def test_a_failed_call_tells_all_that_is_known(served: Mesh) -> None:
    result = served("call", "users", "nested", '"nobody"', "--activity", "ticket-18")
    assert (result.returncode, result.stdout) == (1, "")
    assert [line.split(maxsplit=1) for line in result.stderr.splitlines()] == [
        ["users.nested", "failed: not_found USER_NOT_FOUND"],
        ["message", "there is no user 'nobody'"],
        ["chain", "users.nested > users.get"],
        ["activity", "ticket-18"],
        ["executed", "yes"],
        ["details", '{"user":"nobody"}'],
    ]


@pytest.mark.parametrize(
    ("error", "executed"),
    [
        (mesh.NotFound(reason="NO_SKU"), "yes"),
        (mesh.NotFound(), "yes"),
        (mesh.Internal(reason="UNENCODABLE"), "yes"),
        (mesh.Internal(reason="UNDECODABLE"), "yes"),
        (mesh.ResourceExhausted(reason="MESSAGE_TOO_LARGE"), "yes"),
        (mesh.Unknown(reason="HANDLER_FAILED"), "yes"),
        (mesh.Unavailable(reason="NO_INSTANCE", chain=("a.b", "c.d")), "yes"),
        (mesh.DeadlineExceeded(chain=("a.b",)), "maybe"),
        (mesh.Unavailable(reason="CONNECTION_LOST"), "maybe"),
        (mesh.Cancelled(reason="HANDLER_CANCELLED", chain=("a.b",)), "maybe"),
        (mesh.ResourceExhausted(reason="MESSAGE_TOO_LARGE", maybe_executed=False), "no"),
        (mesh.InvalidArgument(reason="UNDECODABLE", maybe_executed=False), "no"),
    ],
    ids=lambda one: f"{one.reason} {one.chain}" if isinstance(one, mesh.CallError) else one,
)
def test_whether_a_failed_call_ran_is_told_where_it_is_known(
    capsys: pytest.CaptureFixture[str], error: mesh.CallError, executed: str
) -> None:
    print_error("a.b", error)
    (line,) = (one for one in capsys.readouterr().err.splitlines() if "executed" in one)
    assert line.split()[1].strip(",") == executed


@pytest.mark.parametrize("reason", ["UNENCODABLE", "MESSAGE_TOO_LARGE"])
async def test_what_a_handler_returns_and_cannot_be_sent_was_executed(
    capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    result = object() if reason == "UNENCODABLE" else b"x" * 20_000
    limits = mesh.Limits(max_message=16_384)
    async with (
        mesh.Gateway(limits=limits) as gateway,
        mesh.connect("users", gateway=gateway) as users,
    ):
        users.register("get", lambda: result)
        with pytest.raises(mesh.CallError) as caught:
            await users.call("users", "get")
    assert caught.value.reason == reason
    print_error("users.get", caught.value)
    assert "  executed   yes\n" in capsys.readouterr().err


def test_a_failed_call_as_json(served: Mesh) -> None:
    result = served("call", "users", "nested", '"nobody"', "--json")
    assert (result.returncode, result.stderr) == (1, "")
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["result"] is None
    assert document["error"] == {
        "code": "not_found",
        "reason": "USER_NOT_FOUND",
        "message": "there is no user 'nobody'",
        "chain": ["users.nested", "users.get"],
        "details": {"user": "nobody"},
        "activity_id": document["activity_id"],
        "maybe_executed": True,
        "traceback": None,
    }


def test_a_message_cannot_steer_the_terminal(served: Mesh) -> None:
    result = served("call", "users", "bug")
    assert result.returncode == 1
    assert "ZeroDivisionError: by \\x1b[31mzero" in result.stderr
    assert "\x1b" not in result.stderr
    assert "its log has the traceback" in result.stderr


def test_a_call_that_runs_out_of_time_says_where_it_went(served: Mesh) -> None:
    result = served("call", "users", "wait", "--timeout", "0.05", "--json")
    assert result.returncode == 1
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "deadline_exceeded"
    assert error["details"]["spent"][0]["call"] == "users.wait"


def test_a_call_without_a_gateway_is_a_failed_call(shell: Mesh) -> None:
    """The gateway is waited for as long as the call may take, or two seconds."""
    for more, waited in (((), "2 s"), (("--timeout", "2.5"), "2.5 s")):
        result = shell("call", "users", "get", "--json", *more)
        assert result.returncode == 1
        error = json.loads(result.stdout)["error"]
        assert (error["reason"], error["maybe_executed"]) == ("GATEWAY_UNREACHABLE", False)
        assert f"within {waited}" in error["message"]


def test_ctrl_c_ends_a_call_quietly(
    shell: Mesh, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    with (
        shell.gateway() as (_, ready),
        shell.service(ready["addresses"][0]) as users,
        shell.start("call", "users", "wait") as call,
    ):
        assert next_line(users) == "waiting\n"
        call.send_signal(signal.SIGINT)
        assert call.wait(30) == 130
        assert call.communicate() == ("", "")
