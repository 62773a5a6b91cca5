"""What waits is bounded by number and by bytes, and what is accounted is what is there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from opentelemetry.sdk.trace import TracerProvider

from mesh_telemetry.backlog import Backlog
from mesh_telemetry.peer_records import PeerRecords, PeerRow, Source
from mesh_telemetry.user_spans import UserSpans, weigh
from tests.telemetry.peer_rows import row


class AnyBacklog(RuleBasedStateMachine):
    """Against a plain list: the oldest goes first, and what alone is too large never comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog: Backlog[int] = Backlog(5, 100)
        self.model: list[tuple[int, int]] = []
        self.put_so_far = self.taken = 0

    @rule(weight=st.integers(0, 120))
    def put(self, weight: int) -> None:
        self.put_so_far += 1
        self.backlog.put(self.put_so_far, weight)
        if weight <= 100:
            self.model.append((self.put_so_far, weight))
        while len(self.model) > 5 or sum(weight for _, weight in self.model) > 100:
            self.model.pop(0)

    @rule()
    def take(self) -> None:
        assert self.backlog.oldest() == (self.model[0][0] if self.model else None)
        taken = self.backlog.take()
        assert taken == (self.model.pop(0)[0] if self.model else None)
        self.taken += taken is not None

    @rule()
    def empty(self) -> None:
        taken = self.backlog.empty()
        assert taken == [one for one, _ in self.model]
        self.taken += len(taken)
        self.model.clear()

    @invariant()
    def it_adds_up(self) -> None:
        assert self.backlog.look() == [one for one, _ in self.model]
        assert self.backlog.size == sum(weight for _, weight in self.model) <= 100
        assert len(self.backlog) == len(self.model) <= 5
        gone = sum(self.backlog.dropped.values())
        assert gone + self.taken + len(self.model) == self.put_so_far


AnyBacklog.TestCase.settings = settings(max_examples=50, stateful_step_count=40)
TestAnyBacklog = AnyBacklog.TestCase


class Touched:
    """As much of a call's span as its weight."""

    def __init__(self, weight: int) -> None:
        self.weight = weight


class AnyRecords(RuleBasedStateMachine):
    """Rows of any weight, plain ones, and time that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.records = PeerRecords(2_000, 8_000)
        self.now, self.added = 100.0, 0
        self.source = Source("web", lambda: self.now)

    def row(self, touched: Any) -> PeerRow:
        return row(self.source, self.added, self.now, self.added.to_bytes(16), touched)

    @rule(weights=st.lists(st.integers(0, 900), max_size=30))
    def touched(self, weights: list[int]) -> None:
        for weight in weights:
            self.added += 1
            touched: Any = Touched(weight)
            self.records.add_touched(self.row(touched), touched)
            assert self.records.size <= 8_000

    @rule(count=st.integers(0, 900))
    def plain(self, count: int) -> None:
        for _ in range(count):
            self.added += 1
            self.records.add(self.row(None))

    @rule(seconds=st.sampled_from([0.1, 30.0, 100.0]))
    def forget(self, seconds: float) -> None:
        self.now += seconds
        self.records.forget()

    @invariant()
    def what_is_accounted_is_there(self) -> None:
        found = self.records.find(
            frozenset(number.to_bytes(16) for number in range(self.added + 1))
        )
        assert len(found) == len(self.records) <= 2_500
        weights = [found.touched.weight for found in found if found.touched is not None]
        assert self.records.size == sum(weights) <= 8_000


AnyRecords.TestCase.settings = settings(max_examples=30, stateful_step_count=20)
TestAnyRecords = AnyRecords.TestCase


def test_spans_of_users_are_bounded_by_what_they_hold() -> None:
    spans = UserSpans(lambda _: False, lambda *_: None, 100, 100_000)
    tracer = TracerProvider().get_tracer("test")
    for number in range(50):
        span = tracer.start_span("one", attributes={"large": "x" * 10_000, "number": number})
        span.end()
        spans.ended(span)  # type: ignore[arg-type]  # what the SDK makes can be read
        assert spans.size <= 100_000
    assert 5 <= len(spans) <= 10
    assert spans.dropped == {"too_many": 0, "too_large": 50 - len(spans)}


@pytest.mark.parametrize(
    ("fill", "least"),
    [
        (lambda span: span.set_attribute("text", "x" * 50_000), 50_000),
        (lambda span: span.set_attribute("text", "\u20ac" * 50_000), 100_000),
        (lambda span: span.set_attribute("texts", ["x" * 1000] * 50), 50_000),
        (lambda span: span.add_event("x" * 50_000), 50_000),
        (lambda span: span.add_event("one", {"text": "x" * 50_000}), 50_000),
        (lambda span: span.set_status(2, "x" * 50_000), 3_000),
        (lambda span: span.update_name("x" * 50_000), 50_000),
    ],
)
def test_everything_that_a_span_can_hold_has_its_weight(fill: Any, least: int) -> None:
    span = TracerProvider().get_tracer("test").start_span("one")
    fill(span)
    span.end()
    assert least <= weigh(span) <= 4 * least + 5_000  # type: ignore[arg-type]  # as above
