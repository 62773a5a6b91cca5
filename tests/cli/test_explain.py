"""`mesh explain` against a real gateway and a real service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Mesh


def test_a_call_that_failed_is_explained_by_activity_and_by_trace(served: Mesh) -> None:
    served("trace", "--call", "users", "nested", '"nobody"', "--activity", "order 7")
    result = served("explain", "order 7")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("users.nested by mesh-cli  not_found after ")
    assert lines[0].endswith("kept: forced")
    assert lines[1].endswith("activity order 7")
    assert lines[3].startswith("users.nested  30.00 s left, took ")
    assert lines[4].endswith(", the only instance of users")
    assert "failed: USER_NOT_FOUND: there is no user 'nobody' (from users (" in result.stdout
    assert "trace kept: somebody asked for it; up to 10 such traces per second" in result.stdout
    assert "            [traces.quota = 10/s]" in lines
    assert "\x1b" not in result.stdout
    document = json.loads(served("explain", "order 7", "--json").stdout)
    assert [step["decision"] for step in document["steps"]].count("failed") == 1
    assert document["steps"][0].keys() == {
        "at_ms", "call", "span_id", "depth", "decision", "sentence", "setting", "value", "left_ms",
        "took_ms",
    }  # fmt: skip
    trace_id = document["summary"]["trace_id"]
    for name in (trace_id, trace_id[:8]):
        assert served("explain", name).stdout == result.stdout


def test_a_deadline_is_explained_with_its_setting(served: Mesh) -> None:
    served("trace", "--call", "users", "wait", "--timeout", "0.2", "--activity", "too long")
    told = served("explain", "too long").stdout
    assert "out of time: users.wait was allowed " in told
    assert "[timeout = 0." in told


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], 2, "Missing argument 'ID'"),
        (["one", "two"], 2, "unexpected extra argument"),
        (["nothing"], 1, "no kept trace 'nothing': "),
        (["nothing"], 1, "what is over its quota or the baseline is forgotten after 1 s"),
        (["nothing"], 1, "an id is that of a trace, 32 hexadecimal digits, its first 6 or more"),
        (["nothing"], 1, "To have one kept: `mesh trace --call SERVICE METHOD`, or in code "),
    ],
)
def test_what_is_not_there_is_explained_too(
    served: Mesh, arguments: list[str], status: int, told: str
) -> None:
    result = served("explain", *arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_of_several_traces_of_an_activity_the_newest_is_told(served: Mesh) -> None:
    """And how many there are, and how to list them, on standard error."""
    for _ in range(3):
        served("trace", "--call", "users", "get", '"ada"', "--activity", "do it")
    newest = json.loads(served("trace", "--activity", "do it", "--json").stdout)[0]["trace_id"]
    for arguments in (["explain"], ["trace"], ["explain", "--json"], ["trace", "--otlp"]):
        result = served(*arguments, "do it")
        assert newest in result.stdout
        assert result.stderr == (
            "the newest of 3 traces of this activity; `mesh trace --activity 'do it'` lists them\n"
        )
        assert served(*arguments, newest).stderr == ""


def test_a_call_that_never_left_its_caller_is_not_there(served: Mesh) -> None:
    told = served("explain", "u-big").stderr
    assert "or the call failed in its caller and never came here" in told.splitlines()[0]
