"""`mesh top`: what is sorted how, at a real terminal and in a pipe, and restarts of the gateway."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from rich.console import Console

import mesh
from mesh.cli.keys import letters
from mesh.cli.top import Screen, compare, ordered
from mesh_telemetry import DURATION_BOUNDS
from tests.cli.conftest import start
from tests.cli.terminals import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Mesh

    NextLine = Callable[[subprocess.Popen[str]], str]

BUSY = """
import sys
import mesh
import trio

def work(client):
    @client.method()
    async def often() -> None:
        pass

    @client.method()
    async def failing() -> None:
        raise mesh.NotFound("there is nothing")

    @client.method()
    async def slow_as_a_method_with_a_long_name_may_be() -> None:
        await trio.sleep(0.05)

async def load(client):
    while True:
        for _ in range(6):
            await client.call("work", "often")
        for _ in range(3):
            try:
                await client.call("work", "failing")
            except mesh.NotFound:
                pass
        await client.call("work", "slow_as_a_method_with_a_long_name_may_be")

mesh.run(work, load, name="work", gateway=sys.argv[1])
"""
SLOW = "work.slow_as_a_method_with_a_long_name_may_be"


def counted(name: str, calls: int, failed: int, seconds: float, bucket: int) -> dict[str, Any]:
    """What a gateway has counted of one method, of which all calls took about as long."""
    service, _, method = name.partition(".")
    buckets = [0] * (len(DURATION_BOUNDS) + 1)
    buckets[bucket] = calls
    return {
        "service": service, "method": method, "calls": calls,
        "errors": {"not_found": failed} if failed else {}, "in_flight": 1,
        "duration_s": seconds, "buckets": buckets,
    }  # fmt: skip


def sample(uptime: float, *methods: dict[str, Any], gateway: str = "g") -> dict[str, Any]:
    """What a gateway tells at some moment."""
    about = {
        "gateway": gateway, "state": "running", "peers": 2, "in_flight": 0, "loop_lag_s": 0.0,
        "memory_bytes": 2**20, "uptime_s": uptime, "telemetry": True,
    }  # fmt: skip
    return {"gateway": about, "services": [], "methods": list(methods)}


BEFORE = sample(10.0, counted("a.often", 100, 100, 500.0, 15), counted("b.idle", 7, 1, 7.0, 9))
AFTER = sample(
    14.0,
    counted("b.idle", 7, 1, 7.0, 9),
    {**counted("a.often", 1100, 104, 500.8, 15), "buckets": [900, 100, *[0] * 13, 100, 0, 0]},
    counted("b.failing", 40, 20, 0.4, 7),
    counted("a.slow", 8, 0, 16.0, 13),
    counted("mesh.sample", 400, 400, 400.0, 15),
)


def test_figures_are_those_of_the_interval_alone() -> None:
    told = compare(BEFORE, AFTER)
    assert (told["seconds"], told["restarted"]) == (4.0, False)
    rows = {row["method"]: row for row in told["methods"]}
    assert rows.keys() == {"idle", "often", "failing", "slow"}, "asking is no call of the mesh"
    often, slow, idle = (rows[name] for name in ("often", "slow", "idle"))
    assert (often["calls"], often["calls_per_second"]) == (1000, 250.0)
    assert (often["errors"], often["errors_per_second"]) == ({"not_found": 4}, 1.0)
    assert 0 < often["p50"] < often["p95"] <= often["p99"] <= 0.00025
    assert often["time_per_second"] == pytest.approx(0.8 / 4)
    assert slow["time_per_second"] == 4.0, "two calls per second, of two seconds each"
    assert (idle["calls"], idle["errors"], idle["p50"], idle["p99"]) == (0, {}, None, None)
    assert (idle["time_per_second"], idle["in_flight"]) == (0.0, 1)


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("rate", ["often", "failing", "slow", "idle"]),
        ("errors", ["failing", "often", "slow", "idle"]),
        ("latency", ["slow", "failing", "often", "idle"]),
        ("time", ["slow", "often", "failing", "idle"]),
    ],
)
def test_most_of_something_comes_first(sort: str, names: list[str]) -> None:
    rows = ordered(compare(BEFORE, AFTER)["methods"], sort)
    assert [row["method"] for row in rows] == names
    assert ordered(rows[::-1], sort) == rows, "what is alike stands by name"


def test_methods_that_are_alike_stand_by_name() -> None:
    names = ["b.x", "a.y", "a.x"]
    rows = compare(sample(1.0), sample(2.0, *(counted(name, 3, 0, 1.0, 5) for name in names)))
    for sort in ("rate", "errors", "latency", "time"):
        told = ordered(rows["methods"], sort)
        assert [f"{one['service']}.{one['method']}" for one in told] == ["a.x", "a.y", "b.x"]


def test_one_service_alone() -> None:
    for service, names in (("b", ["idle", "failing"]), ("mesh", ["sample"]), ("nobody", [])):
        told = compare(BEFORE, AFTER, service)
        assert [row["method"] for row in told["methods"]] == names


def test_a_gateway_that_came_meanwhile_has_begun_at_zero() -> None:
    told = compare(BEFORE, sample(2.0, counted("a.often", 6, 2, 1.0, 9), gateway="h"))
    assert (told["seconds"], told["restarted"]) == (2.0, True)
    (row,) = told["methods"]
    assert (row["calls_per_second"], row["errors_per_second"]) == (3.0, 1.0)
    assert row["time_per_second"] == 0.5


def test_a_key_sorts_what_stands_there_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=80, height=8, color_system=None)
    screen = Screen(console, None, "rate", interactive=True)
    screen.press("e")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("sorted by errors  keys: ")
    screen.show(BEFORE, AFTER)
    for key, sort, first, left_out in (
        ("t", "time", "a.slow", "and 2 more, taking less time; a pipe shows all"),
        ("l", "latency", "a.slow", "and 2 more, faster; a pipe shows all"),
        ("x", "latency", "a.slow", "and 2 more, faster; a pipe shows all"),
        ("r", "rate", "a.often", "and 2 more, called less; a pipe shows all"),
        ("e", "errors", "b.failing", "and 2 more, with fewer errors; a pipe shows all"),
    ):
        capsys.readouterr()
        screen.press(key)
        *_, heading, row, _, more, last = capsys.readouterr().out.splitlines()
        assert heading.split() == ["METHOD", "CALLS/S", "ERRORS/S", "P50", "P95", "P99", "TIME/S"]
        assert (row.split()[0], more.strip()) == (first, left_out)
        assert last.strip() == (
            f"sorted by {sort}  keys: r rate  e errors  l latency  t time  q quit"
        )


@pytest.mark.parametrize(
    ("data", "keys"),
    [(b"q", "q"), (b"tE\n", "te\n"), (b"\x1b[Dr", "r"), (b"e\x1b[1;5Cl", "el"), (b"\x1bOQ", ""),
     (b"\x1b[15~t", "t"), (b"\x1bq", ""), (b"\x1b", ""), ("\u00e9r".encode(), "\u00e9r"),
     (b"\xc3", ""), (b"", "")],
)  # fmt: skip
def test_arrows_and_the_like_are_no_letters(data: bytes, keys: str) -> None:
    assert letters(data) == keys


@pytest.fixture(scope="module", name="busy")
def make_busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A shell with a gateway, and a service that calls itself without an end."""
    from tests.cli.conftest import Mesh

    shell = Mesh(tmp_path_factory.mktemp("run"))
    with shell.gateway() as (_, ready):
        shell.env["MESH_GATEWAY"] = address = ready["addresses"][0]
        with start([sys.executable, "-c", BUSY, address], shell.env):
            yield shell


def is_sorted(lines: list[str], sort: str, first: str) -> bool:
    """Whether a whole screen is sorted by something, which has this method first."""
    last = lines[-1] if lines else ""
    named = first_method(lines).startswith(first)
    return named and last.startswith(f"sorted by {sort} ") and last.strip().endswith("q quit")


def first_method(lines: list[str]) -> str:
    """The method in the first row of the table on a screen; empty before there is one."""
    at = next((at for at, line in enumerate(lines) if line.startswith("METHOD ")), len(lines))
    return lines[at + 1].split()[0] if at + 1 < len(lines) else ""


@pytest.mark.parametrize("width", [80, 200])
def test_keys_sort_the_table_at_a_terminal(busy: Mesh, width: int) -> None:
    with terminal(busy.env, "top", "--interval", "0.5", width=width, height=24) as it:
        for key, sort, first in (
            ("", "rate", "work.often"),
            ("e", "errors", "work.failing"),
            ("l", "latency", "work.slow"),
            ("\x1b[D", "latency", "work.slow"),  # an arrow is no key of ours
            ("r", "rate", "work.often"),
            ("T", "time", "work.slow"),
        ):
            it.press(key)
            lines = it.until(partial(is_sorted, sort=sort, first=first))
            assert max(map(len, lines)) <= width
            assert lines[-1].strip().endswith("r rate  e errors  l latency  t time  q quit")
            (columns,) = [line.split() for line in lines if line.startswith("METHOD ")]
            assert columns == ["METHOD", "CALLS/S", "ERRORS/S", "P50", "P95", "P99", "TIME/S"]
            names = sorted(line.split()[0] for line in lines if line.startswith("work."))
            assert names[:2] == ["work.failing", "work.often"]
            assert len(names) == 3, "and none of its own"
            assert (names[2] == SLOW) == (width == 200)
            assert re.fullmatch("work.slow.*name_may_be", names[2])
        it.press("q")
        assert it.ended() == "status 0, terminal as before"


def test_ctrl_c_and_signals_leave_the_terminal_as_it_was(busy: Mesh) -> None:
    for number, status in (
        (signal.SIGINT, 130),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGHUP, 128 + signal.SIGHUP),
        (signal.SIGQUIT, 128 + signal.SIGQUIT),
    ):
        with terminal(busy.env, "top", "--interval", "0.2", width=80, height=24) as it:
            it.until(lambda lines: first_method(lines) == "work.often")
            assert it.is_raw
            if number == signal.SIGINT:
                it.press("\x03")
            elif number == signal.SIGQUIT:
                it.press("\x1c")
            else:
                os.kill(it.pid, number)
            assert it.ended() == f"status {status}, terminal as before"


def test_without_a_standard_input_no_keys_are_read(busy: Mesh) -> None:
    control, screen = pty.openpty()
    with subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$0" -m mesh.cli top --interval 0.2 <&-', sys.executable],
        env=busy.env, stdout=screen, stderr=screen,
    ) as process:  # fmt: skip
        os.close(screen)
        shown = ""
        while "work.often" not in shown:
            shown += os.read(control, 65_536).decode()
        process.terminate()
    os.close(control)
    assert "keys:" not in shown


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(busy: Mesh) -> None:
    with terminal(busy.env, "top", "--interval", "0.2", width=80, height=24) as it:
        for _ in range(2):
            it.until(lambda lines: it.is_raw and first_method(lines) == "work.often")
            it.press("\x1a")
            stopped = it.until(lambda lines: any(line.startswith("stopped") for line in lines))
            assert "stopped, terminal as before" in stopped
            it.press("\n")
        it.until(lambda lines: it.is_raw and first_method(lines) == "work.often")
        it.press("e")
        it.until(lambda lines: first_method(lines) == "work.failing")
        it.press("q")
        assert it.ended() == "status 0, terminal as before"


def test_a_gateway_that_goes_for_good_leaves_the_terminal_as_it_was(shell: Mesh) -> None:
    with (
        shell.gateway() as (process, _),
        terminal(shell.env, "top", "--interval", "0.1", width=80, height=24) as it,
    ):
        it.until(lambda lines: lines[:1] != [] and lines[0].startswith("gateway "))
        assert it.is_raw
        process.kill()
        assert it.ended() == "status 1, terminal as before"


def test_a_pipe_is_not_read_and_not_drawn_over(busy: Mesh) -> None:
    result = busy("top", "--once", "--interval", "0.5", stdin="q")
    assert (result.returncode, result.stderr) == (0, "")
    gateway, heading, *rows = result.stdout.splitlines()
    assert gateway.startswith("gateway ")
    assert heading.split()[0] == "METHOD"
    assert [row.split()[0] for row in rows] == ["work.often", "work.failing", SLOW]
    assert "\x1b" not in result.stdout
    assert "keys" not in result.stdout

    result = busy("top", "work", "--once", "--interval", "0.5", "--sort", "time", "--json")
    document = json.loads(result.stdout)
    assert [row["method"] for row in document["methods"]] == [
        SLOW.partition(".")[2],
        *sorted(("often", "failing"), key=lambda name: -_time(document, name)),
    ]
    assert (document["gateway"]["peers"], document["restarted"]) == (1, False)
    shown = busy("top", "work", "--once", "--interval", "0.05").stdout.splitlines()[0]
    assert " calls/s of work  " in shown, "all else in this line is the whole gateway's"
    assert " calls/s  " in gateway
    result = busy("top", "nobody", "--once", "--interval", "0.05")
    assert result.stdout.splitlines()[1:] == ["No method of 'nobody' has been registered."]


def _time(document: dict[str, Any], method: str) -> float:
    (row,) = [row for row in document["methods"] if row["method"] == method]
    return float(row["time_per_second"])


def test_keys_are_not_read_where_the_table_goes_into_a_pipe(
    busy: Mesh, next_line: NextLine
) -> None:
    """It does not end by what its standard input holds, and shows interval after interval."""
    with start(
        ["/bin/sh", "-c", 'echo q | "$0" -m mesh.cli top --interval 0.1 --json', sys.executable],
        busy.env,
    ) as process:
        assert [json.loads(next_line(process))["seconds"] > 0 for _ in range(3)] == [True] * 3


@pytest.mark.parametrize("command", ["stat", "top"])
def test_a_mesh_at_rest_does_not_show_who_looks_at_it(served: Mesh, command: str) -> None:
    gateway, *rows = served(command, "--once", "--interval", "0.05").stdout.splitlines()
    assert re.search(r"  1 peers  0\.0 calls/s  0 in flight  ", gateway), gateway
    assert not [row for row in rows if row.startswith("mesh")]
    document = json.loads(served(command, "--once", "--interval", "0.05", "--json").stdout)
    assert (document["gateway"]["peers"], document["gateway"]["in_flight"]) == (1, 0)
    assert {row["service"] for row in document["methods"]} <= {"users"}


def test_without_telemetry_it_says_that_nothing_is_counted(shell: Mesh) -> None:
    with shell.gateway("--telemetry", "off") as (_, ready), shell.service(ready["addresses"][0]):
        assert shell("call", "users", "get", '"ada"').returncode == 0
        _, *told = shell("top", "--once", "--interval", "0.05").stdout.splitlines()
        assert told == ["This gateway counts no calls: its telemetry is off."]


def test_a_mesh_that_nobody_has_called(shell: Mesh) -> None:
    with shell.gateway() as (_, ready), shell.service(ready["addresses"][0]):
        _, heading, *rows = shell("top", "--once", "--interval", "0.05").stdout.splitlines()
        assert heading.split()[0] == "METHOD"
        assert [row.split() for row in rows] == [
            [f"users.{method}", "0.0", "0.0", "-", "-", "-", "0.00", "ms"]
            for method in ("bug", "get", "many", "nested", "wait")
        ]


def test_figures_are_what_the_callers_count(served: Mesh, next_line: NextLine) -> None:
    """All intervals together hold each call once, with its outcome and its time."""
    ok, failed, took = 0, 0, 0.0

    async def call() -> None:
        nonlocal ok, failed, took
        async with mesh.connect("shop", gateway=served.env["MESH_GATEWAY"]) as client:
            for number in range(300):
                began = trio.current_time()
                try:
                    await client.call("users", "get", "nobody" if number % 3 == 0 else "ada")
                    ok += 1
                except mesh.NotFound:
                    failed += 1
                took += trio.current_time() - began

    with served.start("top", "users", "--interval", "0.1", "--json") as process:
        json.loads(next_line(process))
        trio.run(call)
        calls, by_rate, errors, errors_by_rate, busy = 0, 0.0, 0, 0.0, 0.0
        while calls < ok + failed:
            document = json.loads(next_line(process))
            rows = [row for row in document["methods"] if row["method"] == "get"]
            for row in rows:
                calls += row["calls"]
                errors += row["errors"].get("not_found", 0)
                by_rate += row["calls_per_second"] * document["seconds"]
                errors_by_rate += row["errors_per_second"] * document["seconds"]
                busy += row["time_per_second"] * document["seconds"]
                assert not row["calls"] or 0 < row["p50"] <= row["p95"] <= row["p99"] < 30
    assert (ok, failed) == (200, 100)
    assert (calls, errors) == (300, 100)
    assert by_rate == pytest.approx(300, abs=0.01)
    assert errors_by_rate == pytest.approx(100, abs=0.01)
    assert 0 < busy < took


@pytest.mark.parametrize("command", ["stat", "top"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_restart_of_the_gateway_is_told(
    shell: Mesh, next_line: NextLine, command: str, number: signal.Signals
) -> None:
    """Its counts begin anew, and no rate is negative."""

    def call(times: int) -> None:
        async def run() -> None:
            async with mesh.connect("shop", gateway=address) as client:
                for _ in range(times):
                    await client.call("users", "get", "ada")

        trio.run(run)

    with shell.gateway() as (process, ready):
        address = ready["addresses"][0]
        with shell.service(address), shell.start(command, "--interval", "0.2", "--json") as watch:
            call(50)
            documents = [json.loads(next_line(watch)) for _ in range(2)]
            process.send_signal(number)
            process.wait(30)
            with shell.gateway():
                call(3)
                while not documents[-1]["restarted"]:
                    documents.append(json.loads(next_line(watch)))
                documents += [json.loads(next_line(watch)) for _ in range(2)]
    assert [one["restarted"] for one in documents].count(True) == 1
    assert len({one["gateway"]["gateway"] for one in documents}) == 2
    since = next(one for one in documents if one["restarted"])
    assert since["seconds"] == since["gateway"]["uptime_s"]
    for document in documents:
        assert document["gateway"]["in_flight"] >= 0
        for row in document["methods"]:
            assert 0 <= row["errors_per_second"] <= row["calls_per_second"] <= 50 / 0.1
            assert row.get("time_per_second", 0) >= 0


def test_a_restart_between_two_readings_of_edges_is_told(shell: Mesh) -> None:
    with shell.gateway() as (process, ready), shell.service(ready["addresses"][0]):
        assert shell("call", "users", "get", '"ada"').returncode == 0
        with shell.start("edges", "--interval", "5") as edges:
            asked = seen = 0
            while seen < 2 * asked + 1:  # two for each reading; the last one of its own is to come
                told = json.loads(shell("edges", "--all", "--json").stdout)["edges"]
                asked += 1
                seen = sum(one["calls"] for one in told if one["method"] == "status")
            process.kill()
            process.wait(30)
            with shell.gateway():
                assert edges.wait(30) == 0
                assert edges.stdout is not None
                assert edges.stderr is not None
                assert edges.stdout.read() == ""
                told = edges.stderr.read()
    assert told.startswith("the gateway was restarted; this is since its start, ")
    assert told.endswith(" ago\nNobody has called anything yet.\n")
