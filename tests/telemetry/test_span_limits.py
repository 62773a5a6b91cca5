"""OpenTelemetry's own limits hold for served calls' spans and for those of users' code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

from mesh_telemetry.callspan import CallSpan
from mesh_telemetry.propagation import Ratio
from mesh_telemetry.provider import MeshTracerProvider, convert
from mesh_telemetry.span_limits import MAX_TEXT, SpanLimits, span_limits
from mesh_telemetry.spans import CallFacts, Span, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENVIRONMENT = {
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "20",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "3",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "2",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "1",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "4",
    "OTEL_SPAN_LINK_COUNT_LIMIT": "0",
}


@pytest.fixture
def _fresh() -> Iterator[None]:
    span_limits.cache_clear()
    yield
    span_limits.cache_clear()


def _of_call(fill: Callable[[Any], None]) -> Span:
    span = CallSpan(7, 8, 1)
    fill(span)
    facts = CallFacts(
        trace_id=bytes(15) + b"\7", span_id=bytes(7) + b"\x08", parent_id=b"", kind=2,
        method="users.get", start=1, end=2, code=0,
    )  # fmt: skip
    return span.apply(build(facts))


def _of_user(fill: Callable[[Any], None]) -> Span:
    span = MeshTracerProvider(Ratio()).get_tracer("test").start_span("one")
    fill(span)
    span.end()
    return convert(span)  # type: ignore[arg-type]  # what the SDK makes can be read


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("make", [_of_call, _of_user])
def test_the_variables_of_opentelemetry_hold(
    make: Callable[[Callable[[Any], None]], Span], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def fill(span: Any) -> None:
        for number in range(5):
            span.set_attribute(f"a{number}", "x" * 50)
            span.add_event(f"e{number}", {f"b{n}": "y" * 50 for n in range(4)})
            span.add_link(trace.SpanContext(1, number + 1, is_remote=False), {"c": 1})

    span = make(fill)
    own = {key: value for key, value in span.attributes.items() if key.startswith("a")}
    assert own == dict.fromkeys(("a2", "a3", "a4"), "x" * 10)
    assert [event.name for event in span.events] == ["e1", "e2", "e3", "e4"]
    assert span.events[0].attributes == {"b2": "y" * 20, "b3": "y" * 20}
    assert list(span.links) == []
    assert span.attributes["otel.dropped_events_count"] == 1
    assert span.attributes["otel.dropped_links_count"] == 5


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("make", [_of_call, _of_user])
def test_a_text_has_a_limit_where_nothing_is_said(
    make: Callable[[Callable[[Any], None]], Span], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "")
    span = make(lambda span: span.set_attribute("large", "x" * 10_000_000))
    assert span.attributes["large"] == "x" * MAX_TEXT


def test_values_that_mean_nothing_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    found = SpanLimits.from_environment(
        {
            "OTEL_SPAN_EVENT_COUNT_LIMIT": "-1",
            "OTEL_ATTRIBUTE_COUNT_LIMIT": "many",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "99999999",
        }
    )
    assert found == SpanLimits()
    assert "OTEL_ATTRIBUTE_COUNT_LIMIT=many is no whole number of 0 or more" in caplog.text
