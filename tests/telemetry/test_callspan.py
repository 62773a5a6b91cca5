"""The span of a served call fulfils the OpenTelemetry API, with the semantics of the SDK."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from mesh_telemetry import names, spans
from mesh_telemetry.callspan import CallSpan
from mesh_telemetry.span_limits import MAX_TEXT, MOST

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE, SPAN = 0xA1 << 120, 0xB2 << 56


def call_span(flags: int = 1, trace_state: str = "") -> CallSpan:
    return CallSpan(TRACE, SPAN, flags, trace_state)


def built(code: int = 0, **facts: Any) -> spans.Span:
    return spans.build(
        spans.CallFacts(
            trace_id=TRACE.to_bytes(16),
            span_id=SPAN.to_bytes(8),
            parent_id=bytes(8),
            kind=spans.SERVER,
            method="users.get",
            start=1_000,
            end=2_000,
            code=code,
            **facts,
        )
    )


UNKNOWN = names.CODE_NAMES.index("unknown")


def test_it_says_where_it_is() -> None:
    context = call_span(3, "vendor=a,other=b").get_span_context()
    assert (context.trace_id, context.span_id, context.trace_flags) == (TRACE, SPAN, 3)
    assert dict(context.trace_state) == {"vendor": "a", "other": "b"}
    assert context.is_valid
    assert not context.is_remote


def test_attributes_events_and_links_arrive() -> None:
    span = call_span(trace_state="vendor=a")
    span.set_attribute("user", "u-1")
    span.set_attributes({"sizes": (1, 2), "ok": True})
    before = time.time_ns()
    span.add_event("looked up", {"rows": 3})
    span.add_event("earlier", timestamp=5)
    other = SpanContext(0xC3, 0xD4, is_remote=True)
    span.add_link(other, {"why": "batch"})
    span.update_name("users.get by id")
    made = span.apply(built())
    assert made.name == "users.get by id"
    assert made.attributes["user"] == "u-1"
    assert made.attributes["sizes"] == [1, 2]
    assert made.attributes["ok"] is True
    assert made.attributes[names.RPC_METHOD_NAME] == "users.get"
    (now, then) = made.events
    assert (now.name, now.attributes) == ("looked up", {"rows": 3})
    assert before <= now.time <= time.time_ns()
    assert then == spans.SpanEvent("earlier", 5, {})
    assert made.links == (
        spans.SpanLink((0xC3).to_bytes(16), (0xD4).to_bytes(8), {"why": "batch"}),
    )
    assert made.trace_state == "vendor=a"


def test_what_the_mesh_knows_is_not_overwritten_except_the_type_of_an_error() -> None:
    span = call_span()
    span.set_attributes({names.RPC_METHOD_NAME: "mine", names.ERROR_TYPE: "card_declined"})
    assert span.apply(built()).attributes[names.RPC_METHOD_NAME] == "users.get"
    failed = span.apply(built(UNKNOWN, reason="HANDLER_FAILED"))
    assert failed.attributes[names.ERROR_TYPE] == "card_declined"


def test_a_span_that_nobody_filled_changes_nothing() -> None:
    assert call_span().apply(built(UNKNOWN, message="no")) == built(UNKNOWN, message="no")


Step = tuple[Any, ...]


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [(StatusCode.OK,)],
        [(StatusCode.ERROR, "bad")],
        [(Status(StatusCode.ERROR, "bad"),)],
        [(StatusCode.ERROR, "bad"), (StatusCode.OK,)],
        [(StatusCode.OK,), (StatusCode.ERROR, "bad")],
        [(StatusCode.ERROR, "bad"), (StatusCode.UNSET,)],
        [(StatusCode.ERROR, "bad"), (StatusCode.ERROR, "worse")],
        [(StatusCode.OK, "fine")],
        [(Status(StatusCode.ERROR, "bad"), "worse")],
    ],
)
def test_the_status_follows_the_rules_of_the_sdk(steps: list[Step]) -> None:
    theirs: Any = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    ours = call_span()
    for step in steps:
        theirs.set_status(*step)
        ours.set_status(*step)
    made = ours.apply(built())
    assert made.status == theirs.status.status_code.value
    assert made.status_message == (theirs.status.description or "")


def test_the_users_status_rules_over_the_calls() -> None:
    forgiven = call_span()
    forgiven.set_status(StatusCode.OK)
    assert forgiven.apply(built(UNKNOWN, message="no")).status == spans.OK
    blamed = call_span()
    blamed.set_status(StatusCode.ERROR)
    made = blamed.apply(built(UNKNOWN, message="no"))
    assert (made.status, made.status_message) == (spans.ERROR, "no")


def fail() -> None:
    raise LookupError("nobody")


def test_a_recorded_exception_is_as_the_sdk_tells_it() -> None:
    theirs: Any = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    ours = call_span()
    with pytest.raises(LookupError) as caught:
        fail()
    for span in (theirs, ours):
        span.record_exception(caught.value, {"id": 7}, timestamp=9, escaped=True)
    (event,) = ours.apply(built()).events
    assert event.name == "exception"
    assert event.time == 9
    assert event.attributes == dict(theirs.events[0].attributes)


def test_the_end_of_a_long_traceback_is_kept() -> None:
    span = call_span()
    span.record_exception(ValueError("x" * MAX_TEXT + "the end"))
    trace_text = str(span.apply(built()).events[0].attributes["exception.stacktrace"])
    assert len(trace_text) == MAX_TEXT
    assert trace_text.endswith("the end\n")


def test_an_exception_whose_text_raises_is_recorded() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise KeyError

    span = call_span()
    span.record_exception(UnspeakableError())
    message = span.apply(built()).events[0].attributes["exception.message"]
    assert message == "<its text raised KeyError>"


@pytest.mark.parametrize("message", ["LookupError: nobody", "nobody", "nobo"])
def test_an_exception_is_not_told_twice(message: str) -> None:
    """`use_span` records it with its traceback, and the mesh what came out of the handler."""
    span = call_span()
    with pytest.raises(LookupError), trace.use_span(span):
        fail()
    span.add_event("afterwards")
    facts = {"exception": "LookupError", "message": message}
    made = span.apply(built(UNKNOWN, **facts))
    assert [event.name for event in made.events] == ["exception", "afterwards"]
    assert "exception.stacktrace" in made.events[0].attributes
    assert made.status_message == "LookupError: nobody"
    facts = {"exception": "LookupError", "message": "LookupError: somebody else"}
    assert len(span.apply(built(UNKNOWN, **facts)).events) == 3


def test_as_a_context_manager_it_records_and_does_not_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    span = call_span()
    with pytest.raises(LookupError), span:
        fail()
    assert span.is_recording()
    made = span.apply(built())
    assert made.events[0].attributes["exception.escaped"] == "True"
    assert made.status == spans.ERROR
    cancelled = call_span()
    with pytest.raises(KeyboardInterrupt), cancelled:
        raise KeyboardInterrupt
    assert cancelled.apply(built()) == built()
    assert caplog.text.count("ends with its call") == 2


def test_a_users_end_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    span = call_span()
    span.end()
    span.end(end_time=5)
    span.set_attribute("still", "there")
    assert span.apply(built()).attributes["still"] == "there"
    assert caplog.text.count("end() of a served call's span is ignored") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda span: span.set_attribute("late", 1),
        lambda span: span.set_attributes({"late": 1}),
        lambda span: span.add_event("late"),
        lambda span: span.add_link(SpanContext(1, 1, is_remote=False)),
        lambda span: span.set_status(StatusCode.ERROR),
        lambda span: span.update_name("late"),
        lambda span: span.record_exception(ValueError("late")),
    ],
)
def test_after_its_call_it_records_no_more(
    change: Callable[[CallSpan], None], caplog: pytest.LogCaptureFixture
) -> None:
    span = call_span()
    span.finish()
    assert not span.is_recording()
    change(span)
    assert span.apply(built()) == built()
    assert "a call that has ended" in caplog.text


def test_the_oldest_make_way_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    span = call_span()
    for number in range(MOST + 1):
        span.set_attribute(f"a{number}", number)
    for number in range(MOST + 2):
        span.add_event(str(number))
    for number in range(MOST + 3):
        span.add_link(SpanContext(1, number + 1, is_remote=False))
    made = span.apply(built())
    assert "a0" not in made.attributes
    assert [event.name for event in made.events][:1] == ["2"]
    assert len(made.links) == MOST
    assert made.attributes["otel.dropped_attributes_count"] == 1
    assert made.attributes["otel.dropped_events_count"] == 2
    assert made.attributes["otel.dropped_links_count"] == 3


def test_a_link_that_leads_nowhere_and_says_nothing_is_ignored() -> None:
    span = call_span()
    span.add_link(trace.INVALID_SPAN_CONTEXT)
    assert span.apply(built()).links == ()
    span.add_link(trace.INVALID_SPAN_CONTEXT, {"but": "told"})
    assert len(span.apply(built()).links) == 1


def test_threads_may_fill_it_together() -> None:
    span = call_span()

    def fill(name: str) -> None:
        for number in range(200):
            span.set_attribute(f"{name}{number % 10}", number)
            span.add_event(name)

    threads = [threading.Thread(target=fill, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = span.apply(built())
    assert {made.attributes[f"{name}{n}"] for name in "abcd" for n in range(10)} == set(
        range(190, 200)
    )
    assert made.attributes["otel.dropped_events_count"] == 4 * 200 - MOST


def test_a_handler_of_logs_may_use_the_span_that_warns() -> None:
    span = call_span()

    class Telling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            span.add_event(record.getMessage()[:9])

    handler = Telling()
    logging.getLogger("mesh.telemetry").addHandler(handler)
    try:
        span.set_attribute("nothing", None)
    finally:
        logging.getLogger("mesh.telemetry").removeHandler(handler)
    assert [event.name for event in span.apply(built()).events] == ["attribute"]


def test_flags_are_what_came_in() -> None:
    """Whatever they say, the span records; samplers of users' providers obey them."""
    span = call_span(flags=0)
    assert span.is_recording()
    assert span.get_span_context().trace_flags == TraceFlags.DEFAULT


def test_what_makes_way_frees_what_it_took_whatever_its_letters() -> None:
    """Else a span full of events would come to weigh less than nothing, and take any number."""
    span = CallSpan(1, 2, 1)
    for _ in range(2_000):
        span.add_event("step", {"größe": 1, "customer.name": "x", "customer.address.city": "y"})
    full = span.weight
    span.add_event("step", {"größe": 1, "customer.name": "x", "customer.address.city": "y"})
    assert span.weight == full > 0
