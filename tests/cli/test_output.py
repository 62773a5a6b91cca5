"""How values and tables are printed."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from mesh.cli.check import print_hanging
from mesh.cli.output import outcome, print_table, to_json
from mesh.cli.readings import method_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [None, True, 1.5]}, '{"b":1,"a":[null,true,1.5]}'),
        ({2: "int", b"xy": "bytes", None: "nil", True: "yes"},
         '{"2":"int","eHk=":"bytes","null":"nil","true":"yes"}'),
        ({"raw": b"xy"}, '{"raw":"eHk="}'),
        (float("nan"), "null"),
        ("\u00e9\x1b", '"\u00e9\\u001b"'),
        ("\x7f\x80\x9b31m\x9f\u2028\u202e", '"\\u007f\\u0080\\u009b31m\\u009f\\u2028\\u202e"'),
        ({"\x9b": 1}, '{"\\u009b":1}'),
    ],
)  # fmt: skip
def test_json_of_whatever_a_call_returned(value: Any, text: str) -> None:
    assert to_json(value) == text
    json.loads(text)


def test_a_reason_that_repeats_the_code_is_left_out() -> None:
    assert outcome("not_found", "NOT_FOUND").plain == "not_found"
    assert outcome("not_found", "USER_NOT_FOUND").plain == "not_found USER_NOT_FOUND"


def test_a_table_in_a_pipe_is_aligned_and_never_wrapped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "x" * 200
    print_table(Console(), ("service", "calls"), [("a", "1"), (long, "1000")], figures={"calls"})
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["SERVICE", "CALLS"]
    assert first.split() == ["a", "1"]
    assert second == f"{long}   1000"
    assert len(heading) == len(first) == len(second)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_on_a_terminal_keeps_to_its_width(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    print_table(
        console, ("service", "methods", "calls"), [("users", "get, " * 40, "17")], figures={"calls"}
    )
    lines = file.getvalue().splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= width


def test_a_finding_is_broken_between_words_with_its_text_in_a_column() -> None:
    console = Console(force_terminal=True, width=40, color_system=None)
    with console.capture() as printed:
        print_hanging(console, Text("error    users: " + "what is wrong with it " * 5))
    first, *others = printed.get().splitlines()
    assert first == "error    users: what is wrong with it"
    assert all(one.startswith(" " * 9) and len(one) <= 40 for one in others)
    assert " ".join(one.strip() for one in others) == ("what is wrong with it " * 4).strip()


def test_calls_of_what_nobody_has_registered_are_told_as_such() -> None:
    assert method_name({"service": "_OTHER", "method": "_OTHER"}) == "(not registered)"
    assert method_name({"service": "users", "method": "get"}) == "users.get"
