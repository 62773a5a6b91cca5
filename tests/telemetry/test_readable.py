"""A span of ours, built as the SDK's and encoded by it, is in OTLP what its fields say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from mesh_telemetry import spans
from mesh_telemetry.readable import Resources, convert, readable
from mesh_telemetry.spans import Span, SpanEvent, SpanLink

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

texts = st.text(max_size=20)
times = st.integers(0, 2**64 - 1)
numbers = st.integers(-(2**63), 2**63 - 1)
scalars = st.one_of(texts, st.booleans(), numbers, st.floats(allow_nan=False))
attributes = st.dictionaries(
    st.text(min_size=1, max_size=20), st.one_of(scalars, st.lists(scalars, max_size=4)), max_size=5
)


def ids(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length).filter(any)


states = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_*/-]{0,9}", fullmatch=True),
    st.from_regex(r"[!-+\--<>-~]{1,9}", fullmatch=True),
    max_size=3,
).map(lambda pairs: ",".join(f"{name}={value}" for name, value in pairs.items()))

any_span = st.builds(
    Span,
    trace_id=ids(16),
    span_id=ids(8),
    parent_id=st.one_of(st.just(b""), ids(8)),
    name=texts,
    kind=st.integers(1, 5),
    start=times,
    end=times,
    attributes=attributes,
    status=st.integers(0, 2),
    status_message=texts,
    events=st.lists(st.builds(SpanEvent, texts, times, attributes), max_size=3),
    links=st.lists(st.builds(SpanLink, ids(16), ids(8), attributes), max_size=3),
    scope=texts,
    scope_version=texts,
    trace_state=states,
)


def encoded(span: Span, resource: spans.Attributes) -> ResourceSpans:
    request = encode_spans([readable(span, Resources().get(resource))])
    (resource_spans,) = request.resource_spans
    return resource_spans


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)


def told(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


def exact(values: dict[str, Any]) -> str:
    """Tells 1 from True and 1.0."""
    return repr(sorted(values.items()))


@given(any_span, st.dictionaries(st.text(min_size=1), scalars, max_size=4))
def test_every_field_arrives(span: Span, resource: spans.Attributes) -> None:
    resource_spans = encoded(span, resource)
    assert exact(told(resource_spans.resource.attributes)) == exact(resource)
    (scope_spans,) = resource_spans.scope_spans
    assert (scope_spans.scope.name, scope_spans.scope.version) == (span.scope, span.scope_version)
    (found,) = scope_spans.spans
    assert (found.trace_id, found.span_id, found.parent_span_id) == (
        span.trace_id,
        span.span_id,
        span.parent_id,
    )
    assert (found.name, found.kind, found.trace_state) == (
        span.name,
        span.kind,
        span.trace_state,
    )
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (span.start, span.end)
    assert exact(told(found.attributes)) == exact(span.attributes)
    message = span.status_message if span.status == spans.ERROR else ""
    assert (found.status.code, found.status.message) == (span.status, message)
    assert [
        (event.name, event.time_unix_nano, exact(told(event.attributes))) for event in found.events
    ] == [(event.name, event.time, exact(event.attributes)) for event in span.events]
    assert [
        (link.trace_id, link.span_id, exact(told(link.attributes))) for link in found.links
    ] == [(link.trace_id, link.span_id, exact(link.attributes)) for link in span.links]
    dropped = (found.dropped_attributes_count, found.dropped_events_count)
    assert (*dropped, found.dropped_links_count) == (0, 0, 0)


def a_span(**changes: Any) -> Span:
    fields: dict[str, Any] = {
        "trace_id": b"t" * 16,
        "span_id": b"s" * 8,
        "parent_id": b"",
        "name": "users.get",
        "kind": spans.SERVER,
        "start": 1,
        "end": 2,
    }
    return Span(**(fields | changes))


@pytest.mark.parametrize(
    ("kind", "is_remote"),
    [(spans.SERVER, True), (spans.CONSUMER, True), (spans.CLIENT, False), (spans.INTERNAL, False)],
)
def test_who_serves_has_its_parent_elsewhere(kind: int, is_remote: bool) -> None:
    found = encoded(a_span(kind=kind, parent_id=b"p" * 8), {}).scope_spans[0].spans[0]
    assert bool(found.flags & 0x200) is is_remote  # SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_id": b"t" * 15},
        {"trace_id": bytes(16)},
        {"span_id": b""},
        {"span_id": bytes(8)},
        {"parent_id": b"p" * 9},
        {"kind": 0},
        {"kind": 6},
        {"status": 3},
        {"start": -1},
        {"end": 2**64},
        {"events": [SpanEvent("late", 2**64)]},
        {"links": [SpanLink(b"t", b"s" * 8)]},
    ],
    ids=",".join,
)
def test_what_otlp_cannot_express_is_left_out_and_the_others_stay(changes: dict[str, Any]) -> None:
    resources = Resources()
    with pytest.raises(ValueError, match=r"\w"):
        readable(a_span(**changes), resources.get({}))
    resource: spans.Attributes = {"service.name": "users"}
    batch = [(resource, a_span()), (resource, a_span(**changes)), (resource, a_span())]
    converted, invalid = convert(batch, resources)
    assert (len(converted), invalid) == (2, 1)
    assert len(encode_spans(converted).resource_spans) == 1


def test_text_and_numbers_are_made_to_fit() -> None:
    span = a_span(
        name="half \ud800",
        attributes={"big": 2**63, "small": -(2**63), "list": [2**64, "\udfff"], "\ud800": True},
        status=spans.ERROR,
        status_message="\ud800",
    )
    found = encoded(span, {"host": "\ud800"}).scope_spans[0].spans[0]
    assert (found.name, found.status.message) == ("half ?", "?")
    assert told(found.attributes) == {
        "big": str(2**63),
        "small": -(2**63),
        "list": [str(2**64), "?"],
        "?": True,
    }


def test_one_resource_for_equal_attributes_and_few_in_all() -> None:
    resources = Resources(size=2)
    first = resources.get({"service.name": "users", "service.instance.id": "1"})
    assert resources.get({"service.instance.id": "1", "service.name": "users"}) is first
    assert resources.get({"service.name": "orders"}) is not first
    assert resources.get({"service.name": "users", "service.instance.id": "1"}) is first
    resources.get({"service.name": "shop"})  # orders make way
    assert len(resources._known) == 2
    assert first.attributes == {"service.name": "users", "service.instance.id": "1"}
