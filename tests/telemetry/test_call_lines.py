"""The log lines of a call: how many are held, and with which span they are told."""

from __future__ import annotations

import contextvars
import gc
import logging
import sys

import pytest
from opentelemetry.context import attach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh_telemetry import spans
from mesh_telemetry.bounds import CALL_LINES, CALL_LINES_BYTES
from mesh_telemetry.call_lines import LEFT_OUT, LOG, LONGEST, MESSAGE, CallLines, Room, add_lines
from mesh_telemetry.callspan import EMPTY, CallSpan
from mesh_telemetry.current import CallContext, innermost, serving
from mesh_telemetry.user_spans import convert

TRACE, OWN, INNER, OTHER = b"t" * 16, b"ownown!!", b"inner!!!", b"other!!!"
PLENTY = 1 << 30


def lines(room: Room | None = None) -> CallLines:
    return CallLines(TRACE, OWN, room or Room(PLENTY))


def texts(events: tuple[spans.SpanEvent, ...]) -> list[object]:
    return [event.attributes[MESSAGE] for event in events if event.name == LOG]


def span(span_id: bytes, trace_id: bytes = TRACE) -> spans.Span:
    return spans.Span(trace_id, span_id, OWN, "inner", spans.INTERNAL, 1_000, 2_000)


def test_a_line_is_an_event_with_its_level_its_text_and_its_time() -> None:
    held = lines()
    held.add(OWN, 30, "WARNING", "stock is low", 1_500)
    told: spans.Attributes = {"log.severity": "WARNING", "log.message": "stock is low"}
    assert held.rest() == (spans.SpanEvent("log", 1_500, told),)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x" * LONGEST, "x" * LONGEST),
        ("x" * (LONGEST + 1), "x" * (LONGEST - 1) + "…"),
        ("half \ud800 a pair", "half ? a pair"),
    ],
)
def test_a_text_is_cut_and_can_be_encoded(text: str, kept: str) -> None:
    held = lines()
    held.add(OWN, 20, "INFO", text, 0)
    assert texts(held.rest()) == [kept]


def test_the_newest_lines_stay_and_the_others_are_counted() -> None:
    held = lines()
    for number in range(CALL_LINES + 12):
        held.add(OWN, 20, "INFO", str(number), number)
    assert texts(held.rest()) == [str(number) for number in range(12, CALL_LINES + 12)]
    assert held.left_out == 12


def test_lines_of_a_lower_level_make_way_first() -> None:
    """And of each level the oldest; they are told by time all the same."""
    held = lines()
    for number in range(300):
        held.add(OWN, 20, "INFO", f"info {number}", 10 * number)
        if number in {1, 150}:
            held.add(OWN, 30, "WARNING", f"warning {number}", 10 * number + 1)
    told = texts(held.rest())
    assert len(told) == CALL_LINES
    assert told == ["warning 1", "warning 150", *(f"info {number}" for number in range(202, 300))]
    assert held.left_out == 302 - CALL_LINES
    for number in range(CALL_LINES):
        held.add(OWN, 40, "ERROR", f"error {number}", 10_000 + number)
    held.add(OWN, 10, "DEBUG", "no room for this", 20_000)
    assert texts(held.rest()) == [f"error {number}" for number in range(CALL_LINES)]
    assert held.left_out == 403 - CALL_LINES


@pytest.mark.parametrize("char", ["x", "\N{SNOWMAN}"])
def test_bytes_are_bounded_too(char: str) -> None:
    held = lines()
    for number in range(CALL_LINES):
        held.add(OWN, 20, "INFO", char * LONGEST, number)
        assert held.size <= CALL_LINES_BYTES
    kept = len(held.rest())
    assert 0 < kept < CALL_LINES
    assert kept + held.left_out == CALL_LINES


def test_calls_that_run_share_a_room_and_give_it_back() -> None:
    one = lines()
    one.add(OWN, 20, "INFO", "x" * 1_000, 0)
    room = Room(3 * one.size)
    calls = [lines(room) for _ in range(4)]
    for call in calls:
        call.add(OWN, 20, "INFO", "x" * 1_000, 0)
    assert [call.left_out for call in calls] == [0, 0, 0, 1]
    calls[0].finish()
    calls[0].finish()
    calls[3].add(OWN, 20, "INFO", "x" * 1_000, 0)
    calls[3].add(OWN, 20, "INFO", "x" * 1_000, 0)
    assert [call.left_out for call in calls] == [0, 0, 0, 2]
    calls[0].add(OWN, 20, "INFO", "too late", 0)
    assert texts(calls[0].rest()) == ["x" * 1_000]
    for call in calls:
        call.finish()
    assert room.take(3 * one.size)
    assert not room.take(1)


def test_lines_that_make_way_in_a_call_make_room_for_others() -> None:
    room = Room(CALL_LINES_BYTES + 5_000)
    one, other = lines(room), lines(room)
    for number in range(10 * CALL_LINES):
        one.add(OWN, 20, "INFO", "x" * LONGEST, number)
    other.add(OWN, 20, "INFO", "x" * LONGEST, 0)
    assert other.left_out == 0


def test_a_line_goes_with_the_span_that_it_was_made_in() -> None:
    held = lines()
    for where, text in ((OWN, "before"), (INNER, "inside"), (OTHER, "elsewhere"), (OWN, "after")):
        held.add(where, 20, "INFO", text, 0)
    for _ in range(2):  # a trace is told again after a reconnect
        assert texts(add_lines(span(INNER)).events) == ["inside"]
        # Nobody has told the other one, and perhaps nobody will.
        assert texts(held.rest()) == ["before", "elsewhere", "after"]
        assert add_lines(span(OTHER)).events == ()
    assert add_lines(span(INNER, b"another trace...")).events == ()
    assert add_lines(span(OWN)).events == ()


def test_no_more_is_held_of_many_spans_than_of_their_lines() -> None:
    held = lines()
    ids = [number.to_bytes(8) for number in range(10 * CALL_LINES)]
    for span_id in ids:
        held.add(span_id, 20, "INFO", "x", 0)
    assert list(held._goes_with_span) == ids[-CALL_LINES:]
    assert [len(add_lines(span(one)).events) for one in ids[-CALL_LINES - 1 :]] == [
        0,
        *[1] * CALL_LINES,
    ]


def test_a_provider_of_the_users_own_exports_no_lines() -> None:
    """The gateway, which shows copies of its spans, has them."""
    call = CallContext(TRACE, int.from_bytes(OWN), 1, {})
    seen = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(seen))

    def handler() -> None:
        own = serving()
        assert own is not None
        with provider.get_tracer("t").start_as_current_span("inner"):
            own.add_line(innermost(TRACE, int.from_bytes(OWN)), 20, "INFO", "inside", 1)

    fresh = contextvars.Context()
    fresh.run(attach, call)
    fresh.run(handler)
    (ended,) = seen.get_finished_spans()
    assert ended.events == ()
    assert texts(convert(ended).events) == ["inside"]


def test_nothing_is_held_by_lines_whose_call_is_forgotten() -> None:
    held = lines()
    held.add(INNER, 20, "INFO", "inside", 0)
    del held
    gc.collect()
    assert add_lines(span(INNER)).events == ()


def test_lines_are_a_part_of_what_the_calls_span_weighs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = CallSpan(int.from_bytes(TRACE), int.from_bytes(OWN), 1)
    assert own.weight == EMPTY
    own.add_event("looked up")
    before = own.weight
    for number in range(CALL_LINES + 1):
        own.add_line(int.from_bytes(OWN), 20, "INFO", str(number), number)
    assert before + CALL_LINES * 100 < own.weight < EMPTY + CALL_LINES_BYTES
    own.finish()
    own.add_line(int.from_bytes(OWN), 20, "INFO", "too late", 0)
    assert caplog.records == []
    facts = {"trace_id": TRACE, "span_id": OWN, "parent_id": b"", "kind": spans.SERVER}
    built = spans.build(
        spans.CallFacts(**facts, method="users.get", start=1, end=2, code=0)  # type: ignore[arg-type]
    )
    made = own.apply(built)
    assert [event.name for event in made.events[:2]] == ["looked up", LOG]
    assert texts(made.events)[-1] == str(CALL_LINES)
    assert made.attributes[LEFT_OUT] == 1


def test_levels_are_told_as_the_program_names_them() -> None:
    logging.addLevelName(25, "NOTICE")
    held = lines()
    held.add(OWN, 25, logging.getLevelName(25), "by and by", sys.maxsize)
    assert held.rest()[0].attributes["log.severity"] == "NOTICE"
