"""The store of kept traces: bounded, searchable, indifferent to what is sent twice."""

from __future__ import annotations

import logging
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mesh_telemetry import CODE_NAMES, KeptTrace, Party, TraceStore
from mesh_telemetry.kept_trace import EMPTY
from mesh_telemetry.spans import CLIENT, SERVER, Attributes, CallFacts, Span, SpanEvent, build
from mesh_telemetry.weights import attributes_weight, event_weight, span_weight

if TYPE_CHECKING:
    from collections.abc import Iterable

ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))
RESOURCE: Attributes = {"service.name": "users"}


def span(number: int, trace_id: bytes = ONE, **facts: Any) -> Span:
    known: dict[str, Any] = {
        "trace_id": trace_id,
        "span_id": number.to_bytes(8, "big"),
        "parent_id": b"",
        "kind": SERVER,
        "method": "users.get",
        "start": 1,
        "end": 2,
        "code": 0,
    }
    return build(CallFacts(**{**known, **facts}))


def spans(numbers: Iterable[int], trace_id: bytes = ONE) -> list[Span]:
    return [span(number, trace_id) for number in numbers]


def ids(trace: KeptTrace | None) -> list[int]:
    assert trace is not None
    return [int.from_bytes(one.span_id, "big") for _, one in trace.spans()]


def test_what_happens_after_a_span_came_is_told_with_it_and_weighed() -> None:
    """As long as there is room; a span that is not there is told of nothing."""
    store = TraceStore(1000, 10 * 20_000)
    trace = store.open(ONE, "error", 5)
    store.add(ONE, "p1", RESOURCE, spans([1, 2]))
    before = store.size
    late = SpanEvent("late", 7, {"by": "users-1"})
    store.happened(ONE, bytes(7) + b"\x02", late)
    store.happened(ONE, bytes(7) + b"\x03", late)
    store.happened(TWO, bytes(7) + b"\x02", late)
    assert [one.events for _, one in trace.spans()] == [(), (late,)]
    assert store.size - before == event_weight(late)
    store.happened(ONE, bytes(7) + b"\x02", SpanEvent("large", 8, {"text": "x" * 30_000}))
    assert [len(one.events) for _, one in trace.spans()] == [0, 1]
    assert store.size == trace.size


def test_what_happens_later_makes_way_like_all_else() -> None:
    """The bound in bytes holds for it as well."""
    store = TraceStore(1000, 100_000)
    numbers = range(1, 40)
    for number in numbers:
        trace_id = number.to_bytes(16)
        store.open(trace_id, "error", number)
        store.add(trace_id, "p", RESOURCE, spans([1], trace_id))
    for number in numbers:
        large = SpanEvent("late", 8, {"text": "x" * 4_000})
        store.happened(number.to_bytes(16), bytes(7) + b"\x01", large)
        assert store.size <= 100_000
    assert store.evicted


def test_spans_are_kept_by_process_with_their_resource() -> None:
    store = TraceStore(1000)
    trace = store.open(ONE, "error", 5)
    assert store.add(ONE, "p1", RESOURCE, spans([1, 2])) == spans([1, 2])
    store.add(ONE, "p2", {"service.name": "orders"}, spans([3]))
    store.add(ONE, "p1", RESOURCE, spans([4]))
    assert [(resource["service.name"], one.span_id[-1]) for resource, one in trace.spans()] == [
        ("users", 1),
        ("users", 2),
        ("users", 4),
        ("orders", 3),
    ]
    assert (len(store), store.span_count, len(trace)) == (1, 4, 4)
    assert store.get(ONE) is trace
    assert store.open(ONE, "slow", 9) is trace
    assert (trace.reason, trace.started) == ("error", 5)


def test_spans_of_a_trace_that_is_not_kept_are_not_taken() -> None:
    store = TraceStore(100)
    assert store.add(ONE, "p", RESOURCE, spans([1])) == []
    assert store.get(ONE) is None
    assert (len(store), store.span_count) == (0, 0)


def test_what_is_sent_again_adds_nothing() -> None:
    store = TraceStore(100)
    trace = store.open(ONE, "error", 0)
    assert len(store.add(ONE, "p", RESOURCE, spans([1, 2, 2]), dropped=3)) == 2
    assert store.add(ONE, "p", RESOURCE, spans([2, 1]), dropped=3) == []
    assert len(store.add(ONE, "p", RESOURCE, spans(range(1, 20)), dropped=3)) == 8
    assert store.add(ONE, "p", RESOURCE, spans(range(1, 20)), dropped=3) == []
    assert ids(trace) == list(range(1, 11)), "a tenth of the store"
    assert trace.dropped == 3 + 9
    assert store.span_count == 10
    store.add(ONE, "p", RESOURCE, spans(range(1, 40)), dropped=1)
    assert trace.dropped == 3 + 29


@pytest.mark.parametrize(
    "wrong",
    [
        span(1, TWO),
        span(0),
        span(1, span_id=b"\1"),
        span(1, span_id=b"\1" * 9),
        span(1, parent_id=b"\1"),
    ],
)
def test_spans_without_proper_ids_are_left_out(wrong: Span) -> None:
    store = TraceStore(100)
    trace = store.open(ONE, "error", 0)
    assert store.add(ONE, "p", RESOURCE, [wrong, span(7)]) == [span(7)]
    assert ids(trace) == [7]


def test_the_oldest_traces_make_way_and_are_gone() -> None:
    gone: list[bytes] = []
    store = TraceStore(100)
    store.on_evict.append(gone.append)
    for number in range(1, 26):
        trace_id = bytes([number]) * 16
        store.open(trace_id, "error", number)
        store.add(trace_id, "p", RESOURCE, spans(range(1, 5), trace_id))
    assert (len(store), store.span_count, gone) == (25, 100, [])
    new = store.open(b"n" * 16, "error", 99)
    assert gone == [ONE]
    store.add(b"n" * 16, "p", RESOURCE, spans(range(1, 10), b"n" * 16))
    assert gone == [ONE, TWO, THREE]
    assert store.evicted == 3
    assert store.span_count == 22 * 4 + 9
    assert store.get(ONE) is None
    assert store.add(ONE, "p", RESOURCE, spans([9])) == []
    assert store.starting_with("01") == []
    found = store.find(limit=1000)
    assert found[0] is new
    assert [trace.started for trace in found[1:]] == list(range(25, 3, -1))


def test_the_baseline_makes_way_for_what_somebody_will_look_for() -> None:
    """And keeps a quarter against it."""
    store = TraceStore(400)  # a hundred traces

    def held(reason: str) -> list[int]:
        return [trace.started for trace in store.find(reason=reason, limit=1000)]

    def keep(reason: str, numbers: range) -> None:
        for number in numbers:
            store.open(number.to_bytes(16), reason, number)

    keep("error", range(1, 11))
    late = store.open((11).to_bytes(16), "baseline", 11)
    late.reasons = ("baseline", "late")  # a result came after its call's end
    keep("baseline", range(12, 2000))
    assert held("error") == list(range(10, 0, -1))
    assert held("late") == [11]
    keep("error", range(2000, 3000))
    assert held("error") == list(range(2999, 2924, -1))
    assert held("baseline") == list(range(1999, 1974, -1))


def test_late_spans_do_not_evict_their_own_trace() -> None:
    store = TraceStore(40)
    store.open(ONE, "error", 0)
    for number in range(2, 11):
        trace_id = bytes([number]) * 16
        store.open(trace_id, "error", 0)
        store.add(trace_id, "p", RESOURCE, spans(range(1, 5), trace_id))
    store.add(ONE, "p", RESOURCE, spans(range(1, 4)))
    assert (store.span_count, store.evicted) == (39, 0)
    assert len(store.add(ONE, "p", RESOURCE, spans([5]))) == 1
    assert (store.span_count, store.evicted) == (40, 0)
    new = store.open(b"n" * 16, "error", 0)
    assert store.get(ONE) is None, "but newer traces do"
    for number in range(1, 5):
        assert len(store.add(b"n" * 16, "p", RESOURCE, [span(number, b"n" * 16)])) == 1
    assert store.get(b"n" * 16) is new
    assert (store.span_count, store.evicted) == (40, 1)


def test_a_hook_that_fails_is_removed(caplog: pytest.LogCaptureFixture) -> None:
    gone: list[bytes] = []
    store = TraceStore(10)  # two traces

    def fail(trace_id: bytes) -> None:
        raise KeyError(trace_id)

    store.on_evict += [fail, gone.append]
    with caplog.at_level(logging.ERROR):
        for trace_id in (ONE, TWO, THREE, b"4" * 16):
            store.open(trace_id, "error", 0)
    assert gone == [ONE, TWO]
    assert store.on_evict == [gone.append]
    assert [record.message for record in caplog.records] == [
        "a hook of the trace store failed and is removed"
    ]


def test_a_trace_is_complete_once_it_has_ended_and_nothing_is_missing() -> None:
    store = TraceStore(100)
    trace = store.open(ONE, "error", 0)
    complete = partial(getattr, trace, "complete")
    assert not complete()
    trace.duration = 0.5
    assert complete()
    orders = Party("host-1-ab", "orders")
    for why in ("nothing within 5 s", "disconnected before it sent its spans"):
        trace.missed(orders, why)
    assert trace.missing == ["orders (host-1-ab): disconnected before it sent its spans"]
    trace.missed(Party("host-2-ab", "users"), "disconnected before it sent its spans")
    assert not complete()
    store.add(ONE, "host-1-ab", RESOURCE, spans([1]))
    assert trace.missing == ["users (host-2-ab): disconnected before it sent its spans"]
    store.add(ONE, "host-2-ab", RESOURCE, [])
    assert complete()
    store.add(ONE, "host-2-ab", RESOURCE, [], dropped=2)
    assert not complete()
    assert trace.dropped == 2
    assert bool(store.open(TWO, "error", 0)), "a trace without spans is one, too"


def entered(
    trace: KeptTrace, name: str, started: float, took: float, code: int = 0, **more: bool
) -> None:
    """An entry call of it has ended; times in seconds."""
    service, method = name.split(".")
    trace.entered(
        caller="web", service=service, method=method, started=round(started * 1e9),
        duration=took, code=code, **more,
    )  # fmt: skip


def filled() -> TraceStore:
    """Three traces: orders.place over users.get (failed), users.get, and one that still runs."""
    store = TraceStore(1000)
    one, two, three = (
        store.open(trace_id, reason, 0)
        for trace_id, reason in ((ONE, "error"), (TWO, "baseline"), (THREE, "slow"))
    )
    entered(one, "orders.place", 0, 0.25, 13)
    one.activity_id = "order-1"
    entered(two, "users.get", 0, 0.001)
    one_spans = [
        span(1, ONE, method="orders.place", code=13),
        span(2, ONE, method="users.get", code=5, activity_id="inner"),
        span(3, ONE, method="stock.reserve", kind=CLIENT),
        span(4, ONE, method="users.gett", code=12, known_method=False),
    ]
    store.add(ONE, "gateway", RESOURCE, one_spans)
    store.add(TWO, "gateway", RESOURCE, [span(1, TWO)])
    store.add(THREE, "gateway", RESOURCE, [span(1, THREE, method="geo.eu.city.find")])
    assert three.service == ""
    return store


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [THREE, TWO, ONE]),
        ({"limit": 2}, [THREE, TWO]),
        ({"limit": 0}, []),
        ({"service": "users"}, [TWO, ONE]),
        ({"service": "user"}, []),
        ({"method": "get"}, [TWO, ONE]),
        ({"method": "users.get"}, [TWO, ONE]),
        ({"service": "users", "method": "get"}, [TWO, ONE]),
        ({"service": "users", "method": "users.get"}, [TWO, ONE]),
        ({"service": "orders", "method": "get"}, []),
        ({"service": "users", "method": "get", "code": 5}, [ONE]),
        ({"service": "users", "method": "get", "code": 13}, []),
        ({"code": 13}, [ONE]),
        ({"method": "gett"}, [ONE]),
        ({"service": "stock"}, []),  # only a client's span: nobody served it
        ({"service": "geo"}, [THREE]),
        ({"service": "geo.eu"}, [THREE]),
        ({"service": "geo.eu", "method": "city.find"}, [THREE]),
        ({"service": "geo.eu", "method": "find"}, []),
        ({"method": "find"}, [THREE]),
        ({"min_duration": 0.1}, [ONE]),
        ({"min_duration": 0.001}, [TWO, ONE]),
        ({"activity_id": "order-1"}, [ONE]),
        ({"activity_id": "inner"}, [ONE]),
        ({"activity_id": "order"}, []),
        ({"reason": "slow"}, [THREE]),
        ({"reason": "slow", "service": "users"}, []),
    ],
)
def test_traces_are_found_by_any_call_in_them(wanted: dict[str, Any], found: list[bytes]) -> None:
    assert [trace.trace_id for trace in filled().find(**wanted)] == found


def test_traces_are_found_by_their_ended_entry_call_before_any_span_is_there() -> None:
    store = TraceStore(100)
    trace = store.open(ONE, "refused", 0)
    assert store.find(service="users") == []
    entered(trace, "users.get", 0, 0.1, CODE_NAMES.index("unavailable"))
    assert store.find(service="users", method="get", code=14) == [trace]


def test_of_several_entry_calls_the_whole_is_told_and_each_is_found() -> None:
    """Whatever the order in which they end."""
    not_found, unavailable = map(CODE_NAMES.index, ("not_found", "unavailable"))
    calls = [
        ("a.one", 1.0, 0.1, 0),
        ("a.two", 1.5, 0.5, not_found),
        ("a.three", 3.0, 0.2, unavailable),
    ]
    for order in permutations(calls):
        store = TraceStore(100)
        trace = store.open(ONE, "error", 0)
        entered(trace, "a.detached", 0.0, 9.0, 13, stands_in=True)
        assert (trace.method, trace.duration, trace.entry_calls) == ("detached", 9.0, 0)
        for name, started, took, code in order:
            entered(trace, name, started, took, code)
        assert (trace.service, trace.method, trace.started) == ("a", "one", 1_000_000_000)
        assert (trace.entry_calls, trace.code) == (3, unavailable)
        assert trace.duration == pytest.approx(2.2)
        assert store.find(min_duration=0.5) == [trace]
        assert store.find(min_duration=0.6) == [], "what is in between was no call"
        for name, _, _, code in calls:
            assert store.find(method=name, code=code) == [trace]
        assert store.find(method="a.one", code=unavailable) == []


def test_traces_are_found_by_the_start_of_their_id() -> None:
    store = filled()
    assert [trace.trace_id for trace in store.starting_with("0202")] == [TWO]
    assert store.starting_with("0203") == []
    assert [trace.trace_id for trace in store.starting_with("0")] == [THREE, TWO, ONE]
    store.open(b"\xab" * 16, "error", 0)
    assert [trace.trace_id for trace in store.starting_with("ABab")] == [b"\xab" * 16]


@pytest.mark.parametrize("max_spans", [-1, 0, 9])
def test_a_store_that_can_hold_no_trace_is_refused(max_spans: int) -> None:
    with pytest.raises(ValueError, match=f"max_spans {max_spans} is less than 10"):
        TraceStore(max_spans)


def size_of(trace: KeptTrace) -> int:
    """What is in a trace, weighed anew."""
    size = EMPTY + sum(span_weight(one) for _, one in trace.spans())
    return size + sum(EMPTY + attributes_weight(resource) for resource, _ in trace.batches.values())


def test_spans_are_bounded_by_what_they_hold() -> None:
    """A trace may take a tenth of the bytes; the oldest makes way; both are counted."""
    store = TraceStore(1_000, 100_000)
    for number in range(1, 31):
        trace_id = bytes([number]) * 16
        store.open(trace_id, "error", 0)
        some = spans(range(1, 6), trace_id)
        for one in some:
            one.attributes["large"] = "x" * 2_000
        assert len(store.add(trace_id, "p", RESOURCE, some)) in {1, 2}
        assert store.size <= 100_000
    (newest, *_) = store.newest()
    assert newest.dropped == 5 - len(newest) == newest.too_large
    assert not newest.complete
    assert store.too_large == store.refused == 30 * newest.too_large
    assert len(store) >= 9
    assert store.evicted == 30 - len(store)


class AnySequence(RuleBasedStateMachine):
    """Opens and adds in any order, and twice, never exceed the bounds nor leave anything behind."""

    def __init__(self) -> None:
        super().__init__()
        self.store = TraceStore(80, 60_000)
        self.gone: list[bytes] = []
        self.opened: list[bytes] = []
        self.store.on_evict.append(self.gone.append)

    @rule(number=st.integers(1, 15), reason=st.sampled_from(["error", "baseline"]))
    def open(self, number: int, reason: str) -> None:
        trace_id = bytes([number]) * 16
        if self.store.get(trace_id) is None:
            self.opened.append(trace_id)
        self.store.open(trace_id, reason, 0)
        assert self.store.get(trace_id) is not None

    @rule(number=st.integers(1, 15))
    def more_speaks_for_it(self, number: int) -> None:
        trace = self.store.get(bytes([number]) * 16)
        if trace is not None:
            trace.reasons = (trace.reason, "late")

    @rule(
        number=st.integers(1, 15),
        process=st.sampled_from("pqr"),
        wanted=st.lists(st.integers(1, 8)),
        dropped=st.integers(0, 3),
        large=st.integers(0, 4_000),
    )
    def add_twice(
        self, number: int, process: str, wanted: list[int], dropped: int, large: int
    ) -> None:
        trace_id = bytes([number]) * 16
        was_there = self.store.get(trace_id)
        already = set(ids(was_there)) if was_there else set()
        some = spans(wanted, trace_id)
        for one in some:
            one.attributes["large"] = "x" * large
        taken = self.store.add(trace_id, process, RESOURCE, some, dropped)
        if was_there is None:
            assert taken == []
            return
        assert self.store.get(trace_id) is was_there
        new = {int.from_bytes(one.span_id, "big") for one in taken}
        assert not new & already
        assert set(ids(was_there)) == already | new
        counted = self.store.span_count, was_there.dropped
        assert self.store.add(trace_id, process, RESOURCE, some, dropped) == []
        assert (self.store.span_count, was_there.dropped) == counted

    @invariant()
    def it_is_bounded_and_adds_up(self) -> None:
        traces = self.store.find(limit=1000)
        assert self.store.span_count == sum(len(ids(trace)) for trace in traces) <= 80
        assert len(self.store) == len(traces) <= 20
        for trace in traces:
            assert len(trace) == len(set(ids(trace))) <= 8
            assert trace.size == size_of(trace) <= 6_000
        assert self.store.size == sum(size_of(trace) for trace in traces) <= 60_000

    @invariant()
    def what_was_evicted_is_gone_and_said_once(self) -> None:
        assert self.store.evicted == len(self.gone)
        here = [trace.trace_id for trace in self.store.find(limit=1000)]
        assert sorted(here + self.gone) == sorted(self.opened)
        assert all(self.store.get(trace_id) is not None for trace_id in here)
        groups = self.store._ordinary, self.store._others
        assert sorted(trace_id for group in groups for trace_id in group) == sorted(here)


AnySequence.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
TestAnySequence = AnySequence.TestCase


@given(st.lists(st.tuples(st.integers(1, 255), st.integers(1, 60)), max_size=60))
def test_no_sequence_of_adds_exceeds_the_store(adds: list[tuple[int, int]]) -> None:
    store = TraceStore(200)
    for number, count in adds:
        trace_id = bytes([number]) * 16
        store.open(trace_id, "error", 0)
        store.add(trace_id, "p", RESOURCE, spans(range(1, count), trace_id))
        assert store.span_count <= 200
        assert len(store) <= 50
