"""`mesh info`, `stat`, `check` and `drain` against a real gateway and a real service."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from mesh.cli.info import _print as _print_info
from mesh.cli.stat import COLUMNS, _print, compare, fit

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.cli.conftest import Mesh


def test_info_shows_methods_instances_and_callers(served: Mesh) -> None:
    assert served("call", "users", "get", '"ada"').returncode == 0
    assert served("call", "users", "get", '"nobody"').returncode == 1
    result = served("info", "users")
    assert (result.returncode, result.stderr) == (0, "")
    title, methods, instances, callers = result.stdout.split("\n\n")
    assert title == "users  version none named"
    assert methods.split()[:2] == ["METHOD", "CALLS"]
    assert [line.split()[0] for line in methods.splitlines()[1:]] == [
        "bug",
        "get",
        "many",
        "nested",
        "wait",
    ]
    (instance,) = instances.splitlines()[1:]
    assert "healthy" in instance
    caller = next(line.split() for line in callers.splitlines() if " get " in line)
    assert caller[0] == "mesh-cli"
    assert int(caller[2]) >= 2
    assert int(caller[3]) >= 1
    assert "\x1b" not in result.stdout


def test_info_as_json_is_one_document(served: Mesh) -> None:
    served("call", "users", "get", '"ada"')
    document = json.loads(served("info", "users", "--json").stdout)
    assert document["name"] == "users"
    (instance,) = document["instances"]
    assert (instance["state"], instance["methods"]) == ("healthy", document["methods"])
    assert {row["service"] for row in document["stats"]} == {"users"}
    assert "mesh-cli" in {edge["caller"] for edge in document["callers"]}


def instance(number: int, address: str, remote: str, **metadata: str) -> dict[str, Any]:
    """What a gateway tells of an instance."""
    return {
        "process_id": f"a-machine-with-a-name-{number}-0a050287", "state": "late",
        "version": "", "address": address, "remote": remote, "in_flight": 3,
        "loop_lag_s": 0.25, "connected_s": 7260.0, "metadata": metadata,
    }  # fmt: skip


def about(name: str, instances: list[dict[str, Any]]) -> dict[str, Any]:
    """What `mesh info` has found out of a service with two methods, one of a long name."""
    methods = ["get", "reserve_the_stock_of_a_warehouse_somewhere"]
    row = {"calls": 12_345, "errors": {"internal": 7}, "p50": 0.002, "p99": 0.25}
    return {
        "name": name, "versions": [], "methods": methods, "instances": instances,
        "stats": [{**row, "method": method, "in_flight": 3, "p95": 0.1} for method in methods],
        "callers": [{**row, "method": method, "caller": f"{name}-caller"} for method in methods],
    }  # fmt: skip


LONG = "a.service.with.a.name.that.is.longer.than.any.terminal.would.like.inventory"
REACHED = (
    ("unix:/run/user/1000/mesh/gateway.sock", "pid 4711"),
    ("tcp:127.0.0.1:17100", "127.0.0.1:47456"),
    ("tls:mesh.example:7443", ""),
)


@pytest.mark.parametrize("name", ["users", LONG])
@pytest.mark.parametrize("count", [1, 3])
def test_info_fits_80_columns(capsys: pytest.CaptureFixture[str], name: str, count: int) -> None:
    """No heading and no id is broken, no address is cut, whatever the names."""
    instances = [
        instance(number, *where, zone="eu-west-1a", version="2026.11.21-rc4")
        for number, where in enumerate(REACHED[:count])
    ]
    console = Console(force_terminal=True, width=80, color_system=None)
    _print_info(console, about(name, instances))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines[1:] if len(line) > 80] == []
    told = [line.strip() for line in lines]
    assert told.count("address   unix:/run/user/1000/mesh/gateway.sock from pid 4711") == 1
    assert told.count("now       in flight 3  loop lag 250.0 ms  connected 2h 1m") == count
    assert told.count("metadata  zone=eu-west-1a version=2026.11.21-rc4") == count
    assert told.count("a-machine-with-a-name-0-0a050287  late") == 1
    assert ("address   tls:mesh.example:7443" in told) == (count == 3)
    headings = [line.split() for line in told if line.startswith(("METHOD", "CALLER"))]
    assert headings[0][:3] == ["METHOD", "CALLS", "ERRORS"]
    assert headings[1][:4] == ["CALLER", "METHOD", "CALLS", "ERRORS"]
    assert sum("reserve" in line and "…" in line and "where" in line for line in told) == 2


def test_info_on_a_wide_terminal_has_a_line_for_each_instance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    instances = [instance(number, *where) for number, where in enumerate(REACHED)]
    console = Console(force_terminal=True, width=200, color_system=None)
    _print_info(console, about("users", instances))
    _, methods, table, callers = capsys.readouterr().out.split("\n\n")
    assert len(table.splitlines()) == 4
    assert table.split()[:4] == ["INSTANCE", "STATE", "VERSION", "ADDRESS"]
    assert "reserve_the_stock_of_a_warehouse_somewhere" in methods
    assert "users-caller" in callers


def test_info_of_the_gateway_s_own_service_tells_its_calls(shell: Mesh) -> None:
    with shell.gateway():
        assert shell("list").returncode == 0
        document = json.loads(shell("info", "mesh", "--json").stdout)
        calls = {row["method"]: row["calls"] for row in document["stats"]}
        assert {method: count for method, count in calls.items() if count} == {
            "services": 1,
            "service": 1,
        }
        assert {edge["caller"] for edge in document["callers"]} == {"mesh-cli"}


def test_info_of_an_unknown_service_names_the_nearest(served: Mesh) -> None:
    result = served("info", "userz")
    assert (result.returncode, result.stdout) == (1, "")
    assert "did you mean 'users'?" in result.stderr


def test_stat_shows_every_method_once(served: Mesh) -> None:
    result = served("stat", "--once", "--interval", "0.05")
    assert (result.returncode, result.stderr) == (0, "")
    gateway, heading, *rows = result.stdout.splitlines()
    assert gateway.startswith("gateway ")
    assert " running " in gateway
    assert heading.split()[:3] == ["SERVICE", "METHOD", "INSTANCES"]
    assert {tuple(row.split()[:3]) for row in rows} >= {
        ("users", method, "1") for method in ("bug", "get", "many", "nested", "wait")
    }
    assert "\x1b" not in result.stdout


def test_stat_goes_on_and_tells_rates_as_json(
    served: Mesh, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    with served.start("stat", "--interval", "0.2", "--json") as process:
        json.loads(next_line(process))
        assert served("call", "users", "nested", '"nobody"').returncode == 1
        rates = 0.0
        while not rates:
            document = json.loads(next_line(process))
            rates = sum(row["errors_per_second"] for row in document["methods"])
        called = {row["method"]: row for row in document["methods"] if row["calls_per_second"]}
        assert called["get"]["errors_per_second"] == pytest.approx(
            1 / document["seconds"], abs=0.01
        )
        assert 0 < called["get"]["p50"] <= called["get"]["p99"] < 30


def sample(
    at: float,
    calls: int,
    failed: int,
    buckets: list[int],
    gateway: str = "g",
    spent: float | None = None,
) -> dict[str, Any]:
    """What a gateway tells of the method `users.get` at some moment."""
    instance = {"methods": ["get"], "state": "healthy", "loop_lag_s": 0.25}
    method: dict[str, Any] = {"service": "users", "method": "get", "calls": calls}
    method["errors"] = {"internal": failed} if failed else {}
    method["duration_s"] = calls * 0.5 if spent is None else spent
    return {
        "gateway": {"gateway": gateway, "uptime_s": at},
        "services": [{"name": "users", "instances": [instance, {**instance, "state": "late"}]}],
        "methods": [{**method, "in_flight": 3, "buckets": [*buckets, *[0] * (18 - len(buckets))]}],
    }


def test_rates_and_latencies_are_those_of_the_interval_alone() -> None:
    """A method that was slow long ago is fast now."""
    before, after = (
        sample(10.0, 100, 50, [0] * 15 + [100]),
        sample(12.0, 110, 51, [10] + [0] * 14 + [100], spent=50.0006),
    )
    (row,) = compare(before, after)["methods"]
    assert (row["calls_per_second"], row["errors_per_second"]) == (5, 0.5)
    assert (row["instances"], row["healthy"], row["in_flight"]) == (2, 1, 3)
    assert 0 < row["p50"] < row["p99"] <= 0.0001
    assert row["p50"] == round(row["p50"], 6)
    assert row["loop_lag_s"] == 0.25
    later = {**after, "gateway": {"gateway": "g", "uptime_s": 13.0}}
    (row,) = compare(after, later)["methods"]
    assert (row["calls_per_second"], row["p50"]) == (0, None)
    (row,) = compare({**before, "methods": []}, after)["methods"]  # it has just come
    assert row["calls_per_second"] == 55


def test_of_a_gateway_that_came_meanwhile_all_counts_and_nothing_is_negative() -> None:
    before, after = sample(100.0, 50, 5, [50]), sample(2.0, 6, 1, [6], gateway="h")
    told = compare(before, after)
    assert (told["seconds"], told["restarted"]) == (2.0, True)
    (row,) = told["methods"]
    assert (row["calls_per_second"], row["errors_per_second"]) == (3.0, 0.5)
    assert (
        compare(before, {**before, "gateway": {"gateway": "g", "uptime_s": 101.0}})["restarted"]
        is False
    )


NAMES = ("users", "a.service.with.a.name.that.is.longer.than.any.terminal.would.like.inventory")


def rows_of(*names: str) -> list[list[Any]]:
    return [[name, "reserve_stock", "1", "0", "31.8", "4.0", "6 ms", "9 ms", "0 ms"]
            for name in names]  # fmt: skip


def test_a_wide_terminal_shows_names_whole() -> None:
    columns, rows = fit(rows_of(*NAMES), 200)
    assert columns == COLUMNS
    assert [row[0] for row in rows] == list(NAMES)


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_a_narrow_one_shortens_names_and_wraps_nothing(width: int) -> None:
    """Columns that tell least go first; both ends of a name stay."""
    columns, rows = fit(rows_of(*NAMES), width)
    assert columns[:2] == ("service", "method")
    assert [len(row) for row in rows] == [len(columns)] * 2
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width >= 60:
        assert sum(map(max, widths, map(len, columns))) + 2 * len(columns) <= width
        assert rows[0][0] == "users"
        assert "…" in rows[1][0]
        assert str(rows[1][0]).endswith("ory")
    assert ("loop lag" in columns) == (width >= 120)
    assert ("p50" in columns) == (width >= 80)


def test_stat_on_a_terminal_shows_what_fits_its_height(capsys: pytest.CaptureFixture[str]) -> None:
    """The busiest methods, in their usual order, and how many there are besides."""
    gateway = {
        "gateway": "g", "state": "running", "peers": 1, "in_flight": 0, "loop_lag_s": 0.0,
        "memory_bytes": 2**20, "uptime_s": 5.0,
    }  # fmt: skip
    methods = [
        {"service": "s", "method": f"m{number}", "instances": 1, "healthy": 1, "in_flight": 0,
         "calls_per_second": float(number % 7), "errors_per_second": 0.0, "p50": None, "p99": None,
         "loop_lag_s": None}
        for number in range(10)
    ]  # fmt: skip
    console = Console(force_terminal=True, width=60, height=10, color_system=None)
    _print(console, {"gateway": gateway, "methods": methods, "restarted": False})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("gateway g  running  1 peers")
    assert lines[1].startswith("loop lag 0.00 ms")
    shown = [line.split()[1] for line in lines[3:-1]]
    assert shown == ["m2", "m3", "m4", "m5", "m6"]
    assert lines[-1].strip() == "and 5 more, called less; a pipe shows all"
    assert len(lines) < console.height
    assert max(map(len, lines)) <= 60


def test_check_of_a_mesh_in_order(shell: Mesh) -> None:
    with shell.gateway() as (_, ready), shell.service(ready["addresses"][0]):
        result = shell("check")
        assert (result.returncode, result.stdout) == (0, "Everything is in order.\n")
        assert json.loads(shell("check", "--json").stdout) == {"ok": True, "findings": []}


def test_check_says_what_is_wrong_and_what_to_do(shell: Mesh) -> None:
    with shell.gateway() as (_, ready):
        with shell.service(ready["addresses"][0]) as users:
            users.terminate()
            assert users.wait(30) == 0
        result = shell("check")
        assert result.returncode == 1
        first, advice = result.stdout.splitlines()
        assert first.startswith("error    users: no instance is connected any more: the last one, ")
        assert " left in order " in first
        assert advice.strip().startswith("Start it")
        document = json.loads(shell("check", "--json").stdout)
        assert document["ok"] is False
        assert [one["subject"] for one in document["findings"]] == ["users"]
        listed = shell("list").stdout.splitlines()[1].split()
        assert (listed[0], listed[3]) == ("users", "gone")
        told = shell("info", "users").stdout
        assert re.search(r"no instance is connected; the last one, \S+ at \S+, left in order", told)


def test_check_of_a_typo_is_no_failure(shell: Mesh) -> None:
    with shell.gateway() as (_, ready), shell.service(ready["addresses"][0]):
        assert shell("call", "usres", "get", "--timeout", "0.2").returncode == 1
        result = shell("check")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith(
            "note     usres: nobody serves it, and it was called 1 time"
        )
        document = json.loads(shell("check", "--json").stdout)
        assert (document["ok"], document["findings"][0]["level"]) == (True, "note")


def test_check_without_a_gateway_fails(shell: Mesh) -> None:
    result = shell("check")
    assert result.returncode == 1
    assert "start one with `mesh gateway`" in result.stderr


def test_drain_ends_the_gateway(shell: Mesh) -> None:
    with shell.gateway() as (process, ready):
        result = shell("drain", "--wait", "--json")
        assert (result.returncode, result.stderr) == (0, "")
        document = json.loads(result.stdout)
        assert document["gateway"] == ready["gateway"]
        assert (document["state"], document["stopped"]) == ("draining", True)
        assert process.wait(30) == 0


def test_drain_lets_calls_in_flight_end(
    shell: Mesh, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    with shell.gateway() as (process, ready), shell.service(ready["addresses"][0]) as users:
        with shell.start("call", "users", "wait", "--timeout", "6") as call:
            assert next_line(users) == "waiting\n"
            result = shell("drain")
            assert result.returncode == 0
            assert result.stdout.endswith("drains; 1 calls are in flight\n")
            assert process.poll() is None
            assert call.wait(30) == 1
            assert call.stderr is not None
            assert "deadline_exceeded" in call.stderr.read()
        assert process.wait(30) == 0
