"""`mesh tap`: what it shows of a mesh under load, beside what the callers counted themselves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import mesh
from mesh.cli.tap import Allowance, _Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Mesh

CALLERS = 8


def taps_so_far(shell: Mesh) -> int:
    """How often a tap has had an answer from the gateway."""
    rows = json.loads(shell("call", "mesh", "stats", '"mesh"', "--json").stdout)["result"]
    return sum(int(row["calls"]) for row in rows if row["method"] == "tap")


@contextlib.contextmanager
def tapping(
    shell: Mesh, *arguments: str, notes: str = ""
) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, Any]]]]:
    """A tap that is open within the block; the list has what it wrote, after the block."""
    before = taps_so_far(shell)
    told: list[dict[str, Any]] = []

    def read() -> None:
        assert process.stdout is not None
        told.extend(json.loads(line) for line in process.stdout)

    with shell.start("tap", "--json", *arguments) as process:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        while taps_so_far(shell) == before:
            assert process.poll() is None
        yield process, told
        reader.join(30)
        assert not reader.is_alive()
        assert process.stderr is not None
        assert process.stderr.read() == notes


def apply_load(shell: Mesh, calls: int) -> Counter[tuple[str, str]]:
    """Make so many calls, some of which fail; returns how many ended how, as callers know it."""
    ended: Counter[tuple[str, str]] = Counter()

    async def caller(client: mesh.Client, number: int) -> None:
        for at in range(calls // CALLERS):
            method = ("get", "nested")[at % 2]
            user = "nobody" if (at + number) % 5 == 0 else "ada"
            code = "ok"
            try:
                await client.call("users", method, user)
            except mesh.NotFound:
                code = "not_found"
            ended[f"users.{method}", code] += 1
            if method == "nested":
                ended["users.get", code] += 1

    async def load() -> None:
        async with (
            mesh.connect("load", gateway=shell.env["MESH_GATEWAY"]) as client,
            trio.open_nursery() as nursery,
        ):
            for number in range(CALLERS):
                nursery.start_soon(caller, client, number)

    trio.run(load)
    return ended


def count(told: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """The calls among what a tap wrote."""
    return Counter((f"{one['service']}.{one['method']}", one["code"]) for one in told)


def test_every_call_is_shown_where_none_is_left_out(served: Mesh) -> None:
    total = 800 + 400  # every other call makes a nested one
    with tapping(served, "--rate", "10000", "--count", str(total)) as (process, told):
        made = apply_load(served, 800)
        assert process.wait(30) == 0
    assert made.total() == total
    assert count(told) == made, "no line tells of anything left out"
    assert len({one["call_id"] for one in told}) == total
    assert {one["caller"] for one in told} == {"load", "users"}
    moments = [one["ended"] for one in told]
    assert moments == sorted(moments)


def test_under_load_shown_and_left_out_are_all(served: Mesh) -> None:
    with tapping(served, "--rate", "20", "--service", "users") as (process, told):
        made = apply_load(served, 1600)
        served("call", "users", "bug")  # ends after all others
        asked = taps_so_far(served)
        while taps_so_far(served) < asked + 2:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    shown = [one for one in told if "service" in one]
    rest = [one for one in told if "service" not in one]
    assert len(shown) + sum(one["left_out"] for one in rest) == made.total() + 1
    assert {one["unread"] for one in rest} == {0}
    assert 20 <= len(shown) < 400


def test_a_tap_that_is_held_loses_calls_and_holds_up_nobody(served: Mesh) -> None:
    """It goes on where it was, and what made way meanwhile is counted."""
    with tapping(served, "--rate", "10000") as (process, told):
        process.send_signal(signal.SIGSTOP)
        made = apply_load(served, 8800)
        process.send_signal(signal.SIGCONT)
        asked = taps_so_far(served)
        while taps_so_far(served) < asked + 3:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert made.total() == 13_200, "more than are remembered"
    shown = [one for one in told if "service" in one]
    rest = [one for one in told if "service" not in one]
    unread = sum(one["unread"] for one in rest)
    assert 1000 < unread < 13_200, "the answer that it waited for had some of them"
    # The commands that looked meanwhile are among those that made way, or are shown to nobody.
    missing = made.total() - len(shown) - sum(one["left_out"] for one in rest)
    assert unread - 200 <= missing <= unread


def test_taps_that_are_killed_leave_nothing_behind(served: Mesh) -> None:
    for _ in range(3):
        with served.start("tap", "--json") as process:
            before = taps_so_far(served)
            while taps_so_far(served) == before:
                assert process.poll() is None
            process.kill()
            process.communicate()
    with tapping(served, "--count", "1", "--method", "users.get") as (_, told):
        assert served("call", "users", "get", '"ada"').returncode == 0
    assert count(told) == {("users.get", "ok"): 1}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (("--caller", "users"), ["users.get not_found"]),
        (("--method", "nested"), ["users.nested not_found"]),
        (("--method", "users.nested", "--code", "not_found"), ["users.nested not_found"]),
        (("--activity", "tapped"), ["users.get not_found", "users.nested not_found"]),
        (("--service", "absent"), ["absent.get not_found"]),
    ],
)
def test_filters(served: Mesh, filters: tuple[str, ...], expected: list[str]) -> None:
    absent = "no service 'absent' is registered; waiting for calls of it\n"
    notes = absent if "absent" in filters else ""
    with tapping(served, "--count", str(len(expected)), *filters, notes=notes) as (_, told):
        served("call", "users", "get", '"ada"')
        served("call", "users", "nested", '"nobody"', "--activity", "tapped")
        served("call", "absent", "get")
    assert [f"{one['service']}.{one['method']} {one['code']}" for one in told] == expected


def test_lines_and_trees_in_a_pipe(
    served: Mesh, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    with (
        served.start("tap", "--count", "2") as lines,
        served.start("tap", "--count", "1", "--tree", "--service", "users") as tree,
    ):
        for process in (lines, tree):
            assert next_line(process).split() == ["ENDED", "ID", "CALL", "TOOK", "CODE", "DEPTH"]
        served("call", "users", "nested", '"nobody"', "--activity", "order-42")
        out, errors = lines.communicate(timeout=30)
        assert (errors, lines.returncode) == ("", 0)
        moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
        nested, entry = out.splitlines()
        failed = r"[\d.]+ m?s  not_found USER_NOT_FOUND +"
        assert re.fullmatch(rf"{moment} order-42 +users > users\.get +{failed}2", nested)
        assert re.fullmatch(rf"{moment} order-42 +mesh-cli > users\.nested +{failed}1", entry)
        out, errors = tree.communicate(timeout=30)
        assert (errors, tree.returncode) == ("", 0)
        first, second = out.splitlines()
        assert re.fullmatch(rf"{moment} order-42 +mesh-cli > users\.nested +{failed}1", first)
        assert re.fullmatch(rf"└─ users\.get +{failed}2", second)
        assert first.index("not_found") == second.index("not_found")


def test_a_tree_as_json_is_one_line(served: Mesh) -> None:
    with tapping(served, "--tree", "--count", "1", "--method", "users.get") as (_, told):
        served("call", "users", "nested", '"ada"')
    (tree,) = told
    entry, nested = tree["calls"]
    assert (tree["entry_id"], tree["partial"]) == (entry["call_id"], False)
    assert (entry["method"], nested["method"]) == ("nested", "get")
    assert nested["parent_id"] == entry["call_id"]
    assert {tree["trace_id"]} == {one["trace_id"] for one in tree["calls"]}


def test_on_a_terminal_of_80_columns_and_ctrl_c(served: Mesh) -> None:
    """A real pseudo-terminal: no line is broken, and the end says nothing."""
    control, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "mesh.cli", "tap", "--tree", "--service", "users"],
        env=served.env, stdin=screen, stdout=screen, stderr=screen, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no thread is left
    ) as process:  # fmt: skip
        os.close(screen)
        text = read_until(control, r"DEPTH.*\n")
        served("call", "users", "nested", '"nobody"', "--activity", "an activity of many words")
        text += read_until(control, r"└─.*\n")
        os.write(control, b"\x03")  # Ctrl-C
        assert process.wait(30) == 130
        text += read_until(control, "$^")
    os.close(control)
    heading, first, second, *rest = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    assert max(map(len, (heading, first, second))) <= 80
    assert len({line.rstrip()[-1] and len(line) for line in (heading, first, second)}) == 1
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} [0-9a-f]{8}  mesh-cli > users\.nested +[\d.]+ m?s  "
        r"USER_NOT_FOUND +1", first,
    )  # fmt: skip
    assert re.fullmatch(r"└─ users\.get +[\d.]+ m?s  USER_NOT_FOUND +2", second)
    assert "".join(rest).strip() in {"", "^C"}


def read_until(control: int, wanted: str) -> str:
    """What a terminal shows until this is there; until its end, where it never is."""
    shown = b""
    while not re.search(wanted, shown.decode(errors="replace")):
        try:
            data = os.read(control, 65536)
        except OSError:  # its last process has ended
            break
        if not data:
            break
        shown += data
    return shown.decode()


def test_a_gateway_without_telemetry(shell: Mesh) -> None:
    with shell.gateway("--telemetry", "off"):
        result = shell("tap")
    assert (result.returncode, result.stdout) == (1, "")
    assert "records no calls, as its telemetry is off" in result.stderr


def test_a_gateway_that_makes_way_for_another(
    shell: Mesh, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    with contextlib.ExitStack() as stack:
        gateway, _ = stack.enter_context(shell.gateway())
        tap = stack.enter_context(shell.start("tap", "--json", "--count", "1"))
        while taps_so_far(shell) == 0:
            assert tap.poll() is None
        gateway.kill()
        gateway.communicate()
        _, ready = stack.enter_context(shell.gateway())
        shell("call", "absent", "get")  # refused once the gateway has been up for long enough
        assert json.loads(next_line(tap)) == {"restarted": True, "gateway": ready["gateway"]}
        assert json.loads(next_line(tap))["service"] == "absent"
        assert tap.wait(30) == 0


def test_a_name_that_nobody_has_registered_is_told_and_waited_for(
    served: Mesh, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    with served.start("tap", "--json", "--service", "user", "--count", "1") as tap:
        assert tap.stderr is not None
        assert tap.stderr.readline() == (
            "no service 'user' is registered (did you mean 'users'?); waiting for calls of it\n"
        )
        served("call", "user", "get", "--timeout", "0.01")
        assert json.loads(next_line(tap))["service"] == "user"
        assert tap.wait(30) == 0
        assert tap.stderr.read() == ""
    filters = ("--service", "users", "--method", "v2.get")  # which may come
    with served.start("tap", "--json", *filters, "--count", "1") as tap:
        assert tap.stderr is not None
        assert tap.stderr.readline().startswith("service 'users' has no method 'v2.get'")
        served("call", "users", "v2.get", "--timeout", "0.01")
        assert json.loads(next_line(tap))["method"] == "v2.get"
        assert tap.wait(30) == 0


@pytest.mark.parametrize("arguments", [("--min-duration", "soon"), ("--rate", "0"), ("users",)])
def test_wrong_usage(shell: Mesh, arguments: tuple[str, ...]) -> None:
    assert shell("tap", *arguments).returncode == 2


@pytest.mark.parametrize(
    ("rate", "steps", "asked"),
    [
        (100, [(0.0, 0), (0.0, 100), (0.1, 10), (5.0, 0)], [100, 100, 10, 100]),
        (5, [(0.0, 5), (0.1, 1), (0.1, 0), (2.0, 0)], [5, 1, 1, 5]),
        (10_000, [(0.0, 1000), (0.0, 1000)], [1000, 1000]),
    ],
)
def test_what_may_be_shown_now(rate: int, steps: list[tuple[float, int]], asked: list[int]) -> None:
    """One second's calls at once, then as many as time has passed for."""
    now = 0.0
    allowance = Allowance(rate, lambda: now)
    found = []
    for seconds, shown in steps:
        now += seconds
        now += allowance.pause()
        found.append(allowance.now())
        allowance.spend(shown)
    assert found == asked


@given(st.integers(1, 10_000), st.lists(st.floats(0.1, 1.5), min_size=1, max_size=60))
def test_the_rate_is_kept_in_a_flood_and_nothing_is_owed_after_it(
    rate: int, looks: list[float]
) -> None:
    """Each look shows all that it may; no pause is longer than one call's share of a second."""
    now, shown = 0.0, 0
    allowance = Allowance(rate, lambda: now)
    for look in looks:
        pause = allowance.pause()
        assert 0 <= pause <= 1 / rate + 1e-9
        now += pause
        shown += allowance.now()
        allowance.spend(allowance.now())
        assert shown <= rate * (now + 1) + 1e-6
        now += look


def test_a_small_rate_is_kept_under_load(served: Mesh) -> None:
    with tapping(served, "--rate", "2", "--count", "10") as (process, told):
        while process.poll() is None:
            apply_load(served, 80)
    shown = [one for one in told if "service" in one]
    first, last = (datetime.fromisoformat(one["ended"]) for one in (shown[0], shown[-1]))
    assert len(shown) == 10
    assert (last - first).total_seconds() > 2.5, "two at once, eight at two per second"


@pytest.mark.parametrize(
    ("by_rate", "note"),
    [
        (True, "7 more trees left out: --rate shows more of them\n"),
        (
            False,
            (
                "7 more trees left out: the gateway tells 1,000 calls in a tenth of a second at "
                "most; filters leave fewer to tell\n"
            ),
        ),
    ],
)
def test_what_is_left_out_is_told_with_what_shows_it(
    capsys: pytest.CaptureFixture[str], by_rate: bool, note: str
) -> None:
    screen = _Text(tree=True)
    screen.left_out(3, 0, by_rate=by_rate)
    screen.left_out(7, 0, by_rate=by_rate)
    screen.end()
    assert capsys.readouterr().err == note.replace("7", "3", 1) + note


def test_trees_too_many_for_one_answer_are_not_said_to_come_by_rate(served: Mesh) -> None:
    """Forty calls a tree, of which the gateway tells 1,000 calls at once."""

    async def load() -> None:
        async with (
            mesh.connect("load", gateway=served.env["MESH_GATEWAY"]) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(60):
                nursery.start_soon(client.call, "users", "many", 40)

    with served.start("tap", "--tree", "--rate", "10000", "--method", "many") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        # More than a pipe holds: what nobody reads would stop the tap.
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        while not (asked := taps_so_far(served)):
            pass
        process.send_signal(signal.SIGSTOP)
        trio.run(load)
        process.send_signal(signal.SIGCONT)
        while taps_so_far(served) < asked + 3:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.wait(30)
        reader.join()
        notes = process.stderr.read().splitlines()
    assert notes
    assert all("more trees left out: the gateway tells 1,000 calls" in note for note in notes)
