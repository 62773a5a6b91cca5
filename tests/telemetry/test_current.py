"""The OpenTelemetry context of a served call, wherever its handler's code runs."""

from __future__ import annotations

import contextvars
import logging
import subprocess
import sys
import threading
import timeit
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from mesh_telemetry.current import (
    BAGGAGE,
    TRACESTATE,
    CallContext,
    CallSpan,
    Outgoing,
    innermost,
    outgoing,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

TRACE = bytes(range(1, 17))
SPAN = 0xB2 << 56


def call_context(
    metadata: Mapping[str, str] | None = None, *, flags: int = 3, trace_id: bytes = TRACE
) -> CallContext:
    return CallContext(trace_id, SPAN, flags, metadata or {})


def within(attached: Context, function: Callable[[], Any]) -> Any:
    """Run it as a handler of the call that this is the context of."""
    fresh = contextvars.Context()
    fresh.run(context.attach, attached)
    return fresh.run(function)


def provider(**options: Any) -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False, **options)


def test_nothing_is_made_until_somebody_looks() -> None:
    call = call_context({"baggage": "a=1", "other": "x"})

    def handler() -> None:
        assert outgoing() is None
        assert context.get_value("something else") is None
        assert call.span is None
        current = trace.get_current_span()
        assert isinstance(current, CallSpan)
        assert call.span is current is trace.get_current_span()

    within(call, handler)
    assert call.finish() is call.span is not None
    assert not call.span.is_recording()


def test_a_call_that_nobody_looked_into_has_no_span() -> None:
    assert call_context().finish() is None


def test_a_span_looked_for_after_the_call_has_ended_records_nothing() -> None:
    call = call_context()
    call.finish()
    span = within(call, trace.get_current_span)
    assert not span.is_recording()
    assert span.get_span_context().span_id == SPAN


@pytest.mark.parametrize(
    "read",
    [
        dict,
        lambda call: {**call},
        lambda call: dict(call.items()),
        lambda call: call.copy(),
        lambda call: {key: call[key] for key in call},
        lambda call: dict(zip(call.keys(), call.values(), strict=True)),
        lambda call: len(call) and call.copy(),
        Context,
    ],
)
def test_it_is_a_map_however_it_is_read(read: Callable[[CallContext], dict[str, object]]) -> None:
    call = call_context({BAGGAGE: "a=1"})
    values = read(call)
    assert call.span in values.values()
    assert {"a": "1"} in values.values()
    assert all(key in call for key in values)


def test_threads_that_look_at_once_see_one_span() -> None:
    for _ in range(50):
        call = call_context()
        ready = threading.Barrier(4)
        seen: list[object] = []

        def look(call: CallContext, ready: threading.Barrier, seen: list[object]) -> None:
            ready.wait()
            seen.append(trace.get_current_span(call))

        threads = [threading.Thread(target=look, args=(call, ready, seen)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [call.span] * 4


def test_tracestate_and_baggage_come_in_with_the_metadata() -> None:
    call = call_context({TRACESTATE: "vendor=a", BAGGAGE: "user=u%201,tier=gold;ttl=5"})

    def handler() -> tuple[Mapping[str, object], str]:
        state = trace.get_current_span().get_span_context().trace_state
        return baggage.get_all(), state.to_header()

    found, state = within(call, handler)
    assert found == {"user": "u 1", "tier": "gold;ttl=5"}
    assert state == "vendor=a"


@pytest.mark.parametrize(
    "metadata",
    [
        {TRACESTATE: "not a state"},
        {TRACESTATE: "a=" + "x" * 9000},
        {BAGGAGE: "no pair"},
        {BAGGAGE: "a=" + "x" * 9000},
        {TRACESTATE: "a=1,a=2", BAGGAGE: ";;;"},
    ],
)
def test_what_cannot_be_read_is_forgotten(metadata: dict[str, str]) -> None:
    """Also where a handler of logs looks for the current span while it is being made."""
    call = call_context(metadata)
    seen: list[object] = []

    class Looking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            del record
            seen.append(trace.get_current_span())

    handler = Looking()
    logging.getLogger("opentelemetry").addHandler(handler)
    try:
        span = within(call, trace.get_current_span)
    finally:
        logging.getLogger("opentelemetry").removeHandler(handler)
    assert len(span.get_span_context().trace_state) == 0
    assert within(call, baggage.get_all) == {}
    assert all(one is trace.INVALID_SPAN for one in seen)


# What a call made here continues.


def test_outside_of_any_call_nothing_is_continued() -> None:
    assert within(Context(), outgoing) is None


def test_a_span_of_the_users_is_continued() -> None:
    def handler() -> tuple[Outgoing | None, SpanContext]:
        with provider().get_tracer("t").start_as_current_span("step") as span:
            return outgoing(), span.get_span_context()

    for attached in (Context(), call_context({TRACESTATE: "vendor=a", BAGGAGE: "user=u-1"})):
        told, span = within(attached, handler)
        assert told.trace_id == span.trace_id.to_bytes(16)
        assert told.span_id == span.span_id
        assert told.flags & TraceFlags.SAMPLED
        carries = isinstance(attached, CallContext)
        assert told.metadata == ({TRACESTATE: "vendor=a", BAGGAGE: "user=u-1"} if carries else None)
        assert (told.trace_id == TRACE) is carries


@pytest.mark.parametrize("flags", ["00", "01", "03"])
def test_w3c_context_that_comes_in_is_continued(flags: str) -> None:
    """By a web framework, say. `00` says what others sample, and does not blind the mesh."""
    headers = {
        "traceparent": f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}",
        "tracestate": "vendor=a",
        "baggage": "user=u-1",
    }
    told = within(propagate.extract(headers), outgoing)
    assert told == Outgoing(
        bytes.fromhex("0af7651916cd43dd8448eb211c80319c"),
        0xB7AD6B7169203331,
        int(flags, 16),
        {TRACESTATE: "vendor=a", BAGGAGE: "user=u-1"},
    )


def test_a_call_with_flags_of_00_is_recorded_and_says_00_to_the_outside() -> None:
    def handler() -> tuple[bool, dict[str, str]]:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        return trace.get_current_span().is_recording(), headers

    recording, headers = within(call_context(flags=0), handler)
    assert recording
    assert headers["traceparent"] == f"00-{TRACE.hex()}-{SPAN:016x}-00"


def test_baggage_set_in_a_handler_travels_with_the_calls_own_span() -> None:
    def handler() -> Outgoing | None:
        context.attach(baggage.set_baggage("tier", "gold"))
        return outgoing()

    told = within(call_context({BAGGAGE: "user=u-1", "own": "x"}), handler)
    assert told == Outgoing(TRACE, SPAN, 3, {BAGGAGE: "user=u-1,tier=gold"})


def test_baggage_that_a_handler_has_cleared_does_not_travel() -> None:
    def handler() -> Outgoing | None:
        context.attach(baggage.clear())
        return outgoing()

    assert within(call_context({BAGGAGE: "user=u-1"}), handler) == Outgoing(TRACE, SPAN, 3, None)


def test_baggage_travels_without_any_span() -> None:
    told = within(baggage.set_baggage("user", "u-1", Context()), outgoing)
    assert told == Outgoing(b"", 0, 0, {BAGGAGE: "user=u-1"})


def test_a_span_that_a_sampler_has_dropped_is_nobodys_parent() -> None:
    """Its id is recorded nowhere: the call's own span is the parent, or none."""

    def handler() -> Outgoing | None:
        tracer = provider(sampler=ALWAYS_OFF).get_tracer("t")
        with tracer.start_as_current_span("a"), tracer.start_as_current_span("b"):
            return outgoing()

    told = within(call_context(), handler)
    assert (told.trace_id, told.span_id, told.flags & 1) == (TRACE, SPAN, 0)
    root = within(Context(), handler)
    assert (root.span_id, root.flags & 1) == (0, 0)
    assert root.trace_id != bytes(16)


def test_the_innermost_span_is_one_of_this_trace_that_is_recorded() -> None:
    """And the asking makes no span."""
    call = call_context()
    own, span_id = int.from_bytes(TRACE), 0xC3 << 56
    told: dict[str, int] = {}

    def handler() -> None:
        told["nothing"] = innermost(TRACE, SPAN)
        assert call.span is None
        told["only baggage"] = within(baggage.set_baggage("a", "b"), lambda: innermost(TRACE, SPAN))
        with provider().get_tracer("t").start_as_current_span("inner") as inner:
            told["theirs"] = innermost(TRACE, SPAN)
            assert told["theirs"] == inner.get_span_context().span_id
        with provider(sampler=ALWAYS_OFF).get_tracer("t").start_as_current_span("not sampled"):
            told["not sampled"] = innermost(TRACE, SPAN)
        for name, trace_id in (("from elsewhere", own), ("another trace", own + 1)):
            some = NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True))
            attached = trace.set_span_in_context(some)
            told[name] = within(attached, lambda: innermost(TRACE, SPAN))
        with provider().get_tracer("t").start_as_current_span("root", context=Context()):
            told["a root"] = innermost(TRACE, SPAN)

    within(call, handler)
    told["no call's"] = contextvars.Context().run(innermost, TRACE, SPAN)
    theirs = told.pop("theirs")
    assert theirs != SPAN
    assert set(told.values()) == {SPAN}


def test_the_call_being_served_is_found_below_every_context_derived_from_its_own() -> None:
    call = call_context()
    found: list[CallSpan | None] = []

    def handler() -> None:
        found.append(serving())
        with provider().get_tracer("t").start_as_current_span("inner"):
            found.append(within(baggage.set_baggage("a", "b"), serving))
        with provider().get_tracer("t").start_as_current_span("root", context=Context()):
            found.append(serving())

    within(call, handler)
    assert found == [call.span] * 3
    assert call.span is not None
    assert within(call, lambda: within(Context(), serving)) is None
    assert contextvars.Context().run(serving) is None


def test_without_an_sdk_the_users_spans_are_no_spans() -> None:
    def handler() -> Outgoing | None:
        with trace.NoOpTracer().start_as_current_span("a"):
            return outgoing()

    # Older APIs leave the context untouched.
    assert within(call_context(), handler) in (None, Outgoing(TRACE, SPAN, 3, None))


def test_another_trace_that_a_handler_attaches_is_continued() -> None:
    """A message from a queue, say, that brings its own."""
    remote = SpanContext(0xAB, 0xCD, is_remote=True, trace_flags=TraceFlags(1))

    def handler() -> Outgoing | None:
        context.attach(trace.set_span_in_context(NonRecordingSpan(remote)))
        return outgoing()

    assert within(call_context(), handler) == Outgoing((0xAB).to_bytes(16), 0xCD, 1, None)


# Where handlers' code runs.


class Workers:
    """Plays the dispatcher's part: one parked worker, its context swapped for each call."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._task: trio.lowlevel.Task | None = None
        self.calls = 0

    def serve(self, call: CallContext, handler: Callable[[], Awaitable[None]]) -> None:
        fresh = contextvars.Context()
        fresh.run(context.attach, call)
        if self._task is None:
            fresh.run(self._nursery.start_soon, self._work, handler)
        else:
            self._task.context = fresh
            trio.lowlevel.reschedule(self._task, outcome.Value(handler))

    async def _work(self, handler: Callable[[], Awaitable[None]]) -> None:
        self._task = trio.lowlevel.current_task()
        while True:
            await handler()
            self.calls += 1
            handler = await trio.lowlevel.wait_task_rescheduled(
                lambda _: trio.lowlevel.Abort.SUCCEEDED
            )


async def test_a_reused_worker_shows_each_call_its_own_span(
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    calls = [call_context(trace_id=bytes([n]) * 16) for n in (1, 2, 3)]

    async def handler() -> None:
        trace.get_current_span().set_attribute("mine", True)
        context.attach(baggage.set_baggage("left", "behind"))  # and never detached

    async with trio.open_nursery() as nursery:
        workers = Workers(nursery)
        for call in calls:
            workers.serve(call, handler)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert workers.calls == 3
    for call in calls:
        assert call.span is not None
        assert call.span.attributes == {"mine": True}
        assert within(call, baggage.get_all) == {}
    assert len({call.span for call in calls}) == 3


async def test_child_tasks_and_threads_see_the_span_of_their_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    tracer = provider().get_tracer("t")
    parents: list[int] = []

    def look(where: str) -> None:
        trace.get_current_span().set_attribute(where, True)
        with tracer.start_as_current_span(where) as span:
            parent: Any = span
            parents.append(parent.parent.span_id)
            told = outgoing()
            assert told is not None
            assert told.span_id == span.get_span_context().span_id

    async def child() -> None:
        await trio.sleep(1)
        look("child")

    async def handler() -> None:
        look("handler")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.to_thread.run_sync(look, "thread")
        look("afterwards")

    call = call_context()
    async with trio.open_nursery() as nursery:
        Workers(nursery).serve(call, handler)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert call.span is not None
    assert set(call.span.attributes) == {"handler", "child", "thread", "afterwards"}
    assert parents == [SPAN] * 4


# What it costs.


def test_the_propagator_of_baggage_is_the_one_that_others_use() -> None:
    """What the mesh writes, and what a gateway to the outside would, are the same text."""
    carrier: dict[str, str] = {}
    W3CBaggagePropagator().inject(carrier, baggage.set_baggage("a b", "c;d", Context()))
    told = within(baggage.set_baggage("a b", "c;d", Context()), outgoing)
    assert told is not None
    assert told.metadata == carrier


def test_only_the_api_is_imported() -> None:
    """A peer that uses no SDK does not pay for its import."""
    script = "import sys, mesh_telemetry.current; print('opentelemetry.sdk' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert told.stdout == "False\n"


def test_a_served_call_pays_little_for_a_context_that_nobody_asks() -> None:
    """Measured alone: 0.3 us to make and attach, 0.1 us to ask. The bounds are for accidents."""
    metadata: dict[str, str] = {}

    def serve() -> None:
        context.attach(CallContext(TRACE, SPAN, 3, metadata))

    def measure() -> tuple[float, float]:
        made = min(timeit.repeat(serve, number=1000, repeat=5)) / 1000
        return made, min(timeit.repeat(outgoing, number=1000, repeat=5)) / 1000

    made, asked = contextvars.Context().run(measure)
    assert made < 6e-6
    assert asked < 2e-6
