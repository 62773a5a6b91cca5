"""`mesh trace` against a real gateway and a real service."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from mesh.cli.trace import COLUMNS, _print_list, fit
from mesh_telemetry.texts import milliseconds

if TYPE_CHECKING:
    from tests.cli.conftest import Mesh


def lists(shell: Mesh, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shell("trace", "--json", *arguments).stdout)
    return found


def test_a_call_is_made_and_drawn(served: Mesh) -> None:
    result = served("trace", "--call", "users", "nested", '"ada"', "--activity", "one call")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    value, _, drawing = result.stdout.partition("\n\n")
    assert json.loads(value) == {"user": "ada", "name": "Ada"}
    lines = drawing.splitlines()
    assert lines[0].startswith("users.nested by mesh-cli  ok after ")
    assert lines[0].endswith("kept: forced")
    assert lines[1].endswith("activity one call")
    assert "  8 spans of 3 services" in lines[2]
    assert lines[4].split() == ["milliseconds", "total", "own", "way", "left"]
    assert [line.split()[:2] for line in lines[5:7]] == [
        ["users.nested", lines[5].split()[1]],
        ["└─", "users.get"],
    ]
    assert any("30.00 s allowed went" in line for line in lines)
    again = served("trace", "one call")
    assert again.stdout == drawing
    asked = json.dumps({"id": "one call", "format": "text"})
    assert json.loads(served("call", "mesh", "trace", asked).stdout) == drawing
    everything = served("trace", "one call", "--all").stdout
    assert everything.count("mesh-gateway") == 4
    (found,) = lists(served, "--activity", "one call")
    assert lines[2].endswith(f"  at gateway {milliseconds(found['duration_ms'])}")
    prefix = found["trace_id"][:6]
    assert served("trace", prefix).stdout == drawing
    assert json.loads(served("trace", prefix, "--json").stdout)["summary"] == found
    otlp = json.loads(served("trace", prefix, "--otlp").stdout)
    assert len(otlp["resourceSpans"]) == 3


def test_a_second_call_of_an_activity_is_drawn_and_not_the_first(served: Mesh) -> None:
    for method in ("get", "nested"):
        result = served("trace", "--call", "users", method, '"ada"', "--activity", "twice")
        assert f"users.{method} by mesh-cli  ok after " in result.stdout
    assert len(lists(served, "--activity", "twice")) == 2


def test_a_call_that_fails_is_drawn_too(served: Mesh) -> None:
    result = served("trace", "--call", "users", "get", '"nobody"')
    assert result.returncode == 1
    assert "users.get failed: not_found USER_NOT_FOUND" in result.stderr
    assert "not_found after " in result.stdout
    assert "✗ USER_NOT_FOUND: there is no user 'nobody'" in result.stdout
    told = served("trace", "--call", "users", "bug", "--json")
    assert (told.returncode, told.stderr) == (1, "")
    document = json.loads(told.stdout)
    assert (document["trace"]["summary"]["errors"], document["error"]["code"]) == (1, "unknown")


def test_a_deadline_that_was_used_up_names_who_did_it(served: Mesh) -> None:
    start = time.monotonic()
    result = served("trace", "--call", "users", "wait", "--timeout", "0.2")
    assert time.monotonic() - start < 10
    assert result.returncode == 1
    assert "of the 200.0 ms allowed went" in result.stdout
    assert "users.wait was allowed 200.0 ms" in result.stdout


def test_the_list_is_of_lines_that_filters_choose(served: Mesh) -> None:
    for user in ("ada", "nobody"):
        served("trace", "--call", "users", "get", f'"{user}"')
    result = served("trace", "--method", "users.get", "--limit", "2")
    assert (result.returncode, result.stderr) == (0, "")
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == [
        "BEGAN", "AT", "GATEWAY", "CALL", "CODE", "KEPT", "SPANS", "SERVICES", "TRACE",
    ]  # fmt: skip
    assert [row.split("  ")[-1] for row in rows] == [
        found["trace_id"] for found in lists(served, "--method", "users.get", "--limit", "2")
    ]
    assert "mesh-cli > users.get" in rows[0]
    assert [trace["code"] for trace in lists(served, "--code", "not_found", "--limit", "1")] == [
        "not_found"
    ]
    assert lists(served, "--service", "nobody") == []
    nothing = served("trace", "--min-duration", "1h")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr == "No trace is kept that fits all of it.\n"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--code", "404"], 2, "Invalid value for '--code': '404' is not one of 'ok', "),
        (["--reason", "foo"], 2, "Invalid value for '--reason': 'foo' is not one of 'error', "),
        (["--min-duration", "5x"], 2, "Invalid value for '--min-duration': '5x' must be a "),
        (["000000000"], 1, "no kept trace '000000000': "),
        (["q-29"], 1, "32 hexadecimal digits, its first 6 or more, or an activity id"),
        (["one", "two"], 2, "one ID, not 2; to make a call, say --call"),
        (["one", "--code", "ok"], 2, "--code filters the list"),
        (["--call", "users"], 2, "--call wants SERVICE METHOD [PARAMS]"),
        (["--call", "users", "get", "{"], 2, "PARAMS is no JSON"),
        (["--call", "no such", "get"], 2, "'no such' is no service name"),
        (["--call", "users", "get", "--reason", "slow"], 2, "--reason filters the list"),
        (
            ["--call", "mesh", "status"],
            2,
            "calls of the gateway's own service 'mesh' have no trace",
        ),
        (["--timeout", "1"], 2, "--timeout and --version are for --call"),
        (["--all"], 2, "name its ID"),
    ],
)
def test_wrong_usage_is_explained(
    served: Mesh, arguments: list[str], status: int, told: str
) -> None:
    result = served("trace", *arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_without_telemetry_it_says_so(shell: Mesh) -> None:
    with shell.gateway("--telemetry", "off"):
        assert "keeps no traces, as its telemetry is off" in shell("trace").stderr
        called = shell("trace", "--call", "users", "get")
        assert called.returncode == 1
        assert "keeps no traces, as its telemetry is off" in called.stderr


def test_a_list_of_nothing_says_so(shell: Mesh) -> None:
    with shell.gateway():
        result = shell("trace")
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr == "No trace is kept yet.\n"
        assert lists(shell) == []


ROW: dict[str, Any] = {
    "began": "12:00:00.250",
    "at gateway": "300.0 ms",
    "call": "a-long-caller-name > a-long-service-name.a-long-method-name",
    "code": "deadline_exceeded",
    "kept": "cancelled",
    "spans": "2,000+",
    "services": "one,two,three,four,five,six,seven,eight,nine,ten",
    "trace": "0af7651916cd43dd8448eb211c80319c",
}


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_the_list_keeps_to_the_width(width: int) -> None:
    columns, widths = fit([ROW], width)
    assert sum(widths[name] + 2 for name in columns) <= width + 2
    assert {"at gateway", "call", "code", "trace"} <= set(columns)
    assert ("services" in columns) == (width >= 200)
    assert ("began" in columns) == (width >= 120)
    assert widths["trace"] == (32 if width >= 200 else 8)
    short = {**ROW, "call": "a > b.f", "services": "", "code": "ok"}
    columns, widths = fit([short], 100)
    assert (widths["trace"], set(columns) - {"services"}) == (32, set(COLUMNS) - {"services"})


def test_the_list_is_sorted_by_when_they_began(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"duration_ms": 1.0, "caller": "a", "service": "b", "method": "f", "code": "ok",
            "reason": "slow", "spans": 4, "complete": True, "services": ["a", "gw1"],
            "gateway": "gw1"}  # fmt: skip
    times = [f"2026-01-31T12:00:0{second}.250000Z" for second in (1, 3, 2)]
    found = [{**told, "started": at, "trace_id": at[18:19] * 32} for at in times]
    _print_list(Console(width=200), found)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1][0] for line in lines[-3:]] == ["3", "2", "1"]
    assert "gw1" not in "".join(lines)


def test_a_trace_that_goes_on_is_said_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    told: dict[str, Any] = {
            "started": "2026-01-31T12:00:00.250000Z", "duration_ms": None, "caller": "shop",
            "service": "orders", "method": "place", "code": "", "reason": "slow", "spans": 4,
            "complete": False, "services": [], "trace_id": "a" * 32}  # fmt: skip
    _print_list(Console(width=200), [told, {**told, "service": "", "method": ""}])
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.split()[1:6] == ["running", "shop", ">", "orders.place", "running"]
    assert second.split()[1:4] == ["running", "-", "running"]


def test_how_many_further_entry_calls_a_trace_has_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: dict[str, Any] = {
            "started": "2026-01-31T12:00:00.250000Z", "duration_ms": 1.0, "caller": "web",
            "service": "front", "method": "buy", "code": "ok", "reason": "slow", "spans": 4,
            "complete": True, "services": [], "trace_id": "a" * 32}  # fmt: skip
    _print_list(Console(width=200), [{**told, "entry_calls": count} for count in (0, 1, 3)])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[6] for line in lines] == ["ok", "ok", "+2"]


def test_a_reason_that_was_asked_for_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the one for which the trace was kept first."""
    told: dict[str, Any] = {
            "started": "2026-01-31T12:00:00.250000Z", "duration_ms": 1.0, "caller": "web",
            "service": "front", "method": "buy", "code": "ok", "spans": 4,
            "complete": True, "services": [], "trace_id": "a" * 32}  # fmt: skip
    found = [{**told, "reason": reason} for reason in ("baseline", "slow")]
    _print_list(Console(width=200), found, "slow")
    lines = capsys.readouterr().out.splitlines()[1:]
    assert ["baseline, slow" in line for line in lines] == [True, False]
    assert all(" slow " in line for line in lines)
