"""Log formatters: one JSON object or one aligned line per record, whatever it holds."""

from __future__ import annotations

import json
import logging
import math
import sys
from typing import Any

import pytest

from mesh_telemetry.logs import JsonFormatter, PeopleFormatter, clean, timestamp


def record(message: str = "hello", *arguments: object, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("shop", logging.WARNING, __file__, 1, message, arguments, None)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    made.__dict__.update(fields)
    return made


def as_json(made: logging.LogRecord) -> Any:
    text = JsonFormatter().format(made)
    assert "\n" not in text
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def failed() -> Any:
    nothing: dict[str, int] = {}
    try:
        nothing["a\x1b[31mb"]
    except KeyError:
        return sys.exc_info()


def test_a_json_line_has_the_standard_fields() -> None:
    assert as_json(record("%s of %d", "one", 2)) == {
        "timestamp": "2023-11-14T22:13:20.250000Z",
        "level": "warning",
        "logger": "shop",
        "message": "one of 2",
    }


def test_a_json_line_has_the_call_and_what_the_program_added() -> None:
    line = as_json(record(activity_id="a", chain=("x.y",), service=None, order=7))
    assert line["activity_id"] == "a"
    assert line["chain"] == ["x.y"]
    assert "service" not in line
    assert line["order"] == 7


def test_a_json_line_holds_a_whole_traceback() -> None:
    line = as_json(record(exc_info=failed(), stack_info="Stack (most recent call last):\n  x"))
    assert line["exception"].startswith("Traceback")
    assert line["exception"].count("\n") >= 3
    assert line["stack"].startswith("Stack")
    assert as_json(record(exc_text="came through a queue"))["exception"] == "came through a queue"


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, CIRCLE, {("a",): 1}, object(), b"bytes", "half \ud800", "a\nb"]
)
def test_no_value_breaks_a_json_line(value: object) -> None:
    line = as_json(record("the message stays", value=value))
    assert line["message"] == "the message stays"
    assert "value" in line


@pytest.mark.parametrize("text", ["half \ud800 a pair", "two\nlines", '"quoted" \\'])
def test_any_message_survives_json(text: str) -> None:
    assert as_json(record("%s", text))["message"] == text


def test_a_field_cannot_pose_as_a_standard_one() -> None:
    assert as_json(record("true", timestamp="false", level="false"))["level"] == "warning"


def test_a_line_for_people_is_short_and_aligned() -> None:
    lines = [PeopleFormatter().format(record(levelname=name)) for name in ("INFO", "WARNING")]
    assert [line[12:] for line in lines] == [" info    hello", " warning hello"]
    assert lines[0][8:12] == ".250"


def test_a_line_for_people_ends_with_the_call() -> None:
    line = PeopleFormatter().format(record(activity_id="order-1", chain=("a.b", "c.d")))
    assert line.endswith("warning hello  [a.b > c.d]  order-1")


def test_the_trace_is_short_and_there_once() -> None:
    """Where no activity was given, its id is the trace's."""
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    of_call: dict[str, Any] = {"chain": ("a.b",), "trace_id": trace, "span_id": span}
    line = PeopleFormatter().format(record(activity_id="order-1", **of_call))
    assert line.endswith("hello  [a.b]  order-1  0af76519")
    assert PeopleFormatter().format(record(activity_id=trace, **of_call)).endswith(f"]  {trace}")
    told = as_json(record(activity_id="order-1", **of_call))
    assert (told["trace_id"], told["span_id"]) == (trace, span)


def test_nothing_steers_the_terminal() -> None:
    made = record("\x1b[2J%s", "\x07", activity_id="\x9b1m", exc_info=failed())
    line = PeopleFormatter().format(made)
    assert clean(line) == line
    assert "\\x1b[2J\\x07" in line
    assert "Traceback" in line


def test_colours_are_only_for_terminals() -> None:
    made = record(chain=("a.b",))
    assert "\x1b[33mwarning" in PeopleFormatter(colour=True).format(made)
    assert "\x1b" not in PeopleFormatter().format(made)


def test_timestamps_are_rfc_3339_to_the_microsecond() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000000Z"
    assert timestamp(1.000001) == "1970-01-01T00:00:01.000001Z"
