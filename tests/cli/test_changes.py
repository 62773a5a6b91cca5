"""`mesh changes`: what it tells of real processes that come, go and are killed."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from mesh.cli.changes import DAY, Layout
from mesh_telemetry.texts import cells, to_text
from tests.cli.terminals import terminal

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.cli.conftest import Mesh


def told(shell: Mesh, *arguments: str) -> list[dict[str, Any]]:
    result = shell("changes", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def until(shell: Mesh, change: str) -> None:
    """Return once the newest change is this one."""
    while told(shell)[-1]["change"] != change:
        pass


def test_what_happened_to_a_service_is_told_in_order(shell: Mesh) -> None:
    with shell.gateway() as (_, ready):
        address = ready["addresses"][0]
        with shell.service(address) as users:
            users.kill()
            users.wait(30)
        until(shell, "lost")
        with shell.service(address) as users:
            users.terminate()
            assert users.wait(30) == 0
        until(shell, "left")
        lines = told(shell)
        assert [one["change"] for one in lines] == [
            "started", "registered", "lost", "registered", "left",
        ]  # fmt: skip
        assert [one["peer"] for one in lines] == ["", *["users"] * 4]
        assert lines[0]["process_id"] == ready["gateway"]
        assert lines[1]["methods"] == ["get", "nested", "many", "bug", "wait"]
        assert lines[1]["process_id"] == lines[2]["process_id"] != lines[3]["process_id"]
        assert told(shell, "--service", "users") == lines[1:]
        assert told(shell, "--since", "1h") == lines
        text = shell("changes")
        assert (text.returncode, text.stderr) == (0, "")
        assert "\x1b" not in text.stdout
        heading, _, *rows = text.stdout.splitlines()
        assert heading.split() == ["AT", "CHANGE", "WHO", "HOW"]
        assert re.fullmatch(
            rf"\d{{4}}-\d\d-\d\dT[\d:.]+Z  registered    users {lines[1]['process_id']} +"
            r"get, nested, many, bug, wait; from pid \d+",
            rows[0],
        )
        assert re.search(r"  lost +users \S+ +without a goodbye, after [\d.]+ m?s$", rows[1])
        assert re.search(r"  left +users \S+ +in order, after [\d.]+ m?s$", rows[3])
        nothing = shell("changes", "--service", "orders")
        assert (nothing.returncode, nothing.stdout) == (0, "")
        assert nothing.stderr == "Nothing has changed that fits.\n"
        check = shell("check")
        assert "`mesh changes --service users` shows when and how it left" in check.stdout


def test_it_follows_what_changes_also_to_the_next_gateway(
    shell: Mesh, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    with (
        shell.gateway("--admin", "none") as (first, ready),
        shell.start("changes", "--follow", "--json") as process,
    ):
        assert json.loads(next_line(process))["change"] == "started"
        with shell.service(ready["addresses"][0]):
            change = json.loads(next_line(process))
            assert (change["change"], change["services"]) == ("registered", ["users"])
        change = json.loads(next_line(process))
        assert (change["change"], change["services"]) == ("lost", ["users"])
        first.kill()
        first.wait(30)
        with shell.gateway("--admin", "none") as (_, second):
            change = json.loads(next_line(process))
            assert (change["change"], change["process_id"]) == ("started", second["gateway"])
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130


@pytest.mark.parametrize("width", [80, 200])
def test_at_a_terminal_lines_keep_to_its_width(shell: Mesh, width: int) -> None:
    with shell.gateway() as (_, ready), shell.service(ready["addresses"][0]):
        with terminal(shell.env, "changes", width=width, height=24) as screen:
            assert screen.ended().startswith("status 0")
            lines = screen.lines
        assert [line for line in lines if len(line) > width] == []
        (row,) = [line for line in lines if "registered" in line]
        assert re.match(
            r"\d\d:\d\d:\d\d  registered    users \S+ +get, nested, many, bug, wait", row
        )


def change(**more: Any) -> dict[str, Any]:
    """What a gateway tells."""
    return {
        "at": 1e9, "first": 1e9, "count": 1, "change": "lost", "what": "without a goodbye",
        "peer": "users", "process_id": "a-host-of-a-name-4711-0a050287", "services": ["users"],
        **more,
    }  # fmt: skip


def drawn(width: int | None, now: float = 1e9, **more: Any) -> list[str]:
    layout = Layout(width, days=now - 1e9 >= DAY)
    return [to_text(line) for line in layout.lines(change(**more), now)]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "01:46:40  lost          users …0a050287       without a goodbye"),
        ({"now": 1e9 + DAY}, "09-09 01:46  lost          users …0a050287       without a goodbye"),
        (
            {"count": 1200, "first": 1e9 - 60},
            "01:46:40  lost          users …0a050287       x1,200 without a goodbye (first",
        ),
        ({"services": ["users", "files"]}, "01:46:40  lost          users +1 …0a050287    without"),
        ({"services": []}, "01:46:40  lost          users …0a050287       without"),
        ({"services": ["s" * 60]}, "01:46:40  lost          ssss…sssss …0a050287  without"),
        (
            {"services": [], "peer": "", "change": "started"},
            "01:46:40  started       gateway …0a050287     without",
        ),
        (
            {"services": [], "peer": "", "change": "refused", "process_id": ""},
            "01:46:40  refused       a peer                without",
        ),
        ({"what": "a\x1b[31m\nb"}, r"01:46:40  lost          users …0a050287       a\x1b[31m\nb"),
    ],
)
def test_a_line_of_a_narrow_terminal(more: dict[str, Any], says: str) -> None:
    lines = drawn(80, **more)
    assert lines[0].startswith(says)
    assert max(map(cells, lines)) <= 80


def test_the_end_of_a_long_line_stands_below_it_but_in_a_pipe() -> None:
    what = "by the gateway, after 12.30 s, 3 in flight: " + "its frame is broken " * 9
    for width in (20, 40, 80, 200):
        lines = drawn(width, what=what, process_id="p" * 80)
        assert max(map(cells, lines)) <= width
        if width >= 80:
            assert " ".join(" ".join(lines).split()).endswith(what.strip())
    (line,) = drawn(None, what=what)
    assert line.startswith(
        "2001-09-09T01:46:40.000000Z  lost          users a-host-of-a-name-4711-"
    )
    assert line.endswith(what.strip())
