"""What a span says of a call, by OpenTelemetry's conventions, and how it travels."""

from __future__ import annotations

import gc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry import CODE_NAMES, spans
from mesh_telemetry.spans import CLIENT, ERROR, SERVER, UNSET, Batch, CallFacts, Span, build


def facts(**known: Any) -> CallFacts:
    base: dict[str, Any] = {
        "trace_id": b"t" * 16,
        "span_id": b"s" * 8,
        "parent_id": b"p" * 8,
        "kind": CLIENT,
        "method": "users.get",
        "start": 1_000,
        "end": 3_000,
        "code": 0,
    }
    return CallFacts(**{**base, **known})


def test_a_span_of_a_call_that_went_well() -> None:
    span = build(
        facts(
            activity_id="order-7",
            chain=("orders.place", "users.get"),
            deadline_ms=249.123456,
            attempt=2,
            caller="orders",
            instance="host-1-ab",
            server_address="users",
            peer_address="unix:/run/mesh.sock",
        )
    )
    assert span == Span(
        b"t" * 16,
        b"s" * 8,
        b"p" * 8,
        "users.get",
        CLIENT,
        1_000,
        3_000,
        {
            "rpc.system.name": "mesh",
            "rpc.method": "users.get",
            "server.address": "users",
            "network.peer.address": "unix:/run/mesh.sock",
            "mesh.activity.id": "order-7",
            "mesh.call.chain": ["orders.place", "users.get"],
            "mesh.call.depth": 2,
            "mesh.call.deadline_ms": 249.123,
            "mesh.call.attempt": 2,
            "mesh.caller": "orders",
            "mesh.instance.id": "host-1-ab",
            "rpc.status_code": "ok",
            "mesh.call.outcome": "ok",
        },
    )


def test_what_is_not_known_is_left_out() -> None:
    assert build(facts()).attributes == {
        "rpc.system.name": "mesh",
        "rpc.method": "users.get",
        "mesh.call.attempt": 1,
        "rpc.status_code": "ok",
        "mesh.call.outcome": "ok",
    }


def test_a_method_that_nobody_registered_names_no_span() -> None:
    span = build(facts(method="users.gett", known_method=False))
    assert span.name == "_OTHER"
    assert span.attributes["rpc.method"] == "_OTHER"
    assert span.attributes["rpc.method_original"] == "users.gett"


@pytest.mark.parametrize("code", range(len(CODE_NAMES)))
def test_callers_take_every_code_but_ok_for_an_error(code: int) -> None:
    span = build(facts(code=code))
    assert (span.status == ERROR) == (code != 0)
    assert ("error.type" in span.attributes) == (code != 0)
    assert span.attributes["rpc.status_code"] == CODE_NAMES[code]


@pytest.mark.parametrize("code", range(len(CODE_NAMES)))
def test_servers_take_only_their_own_faults_for_errors(code: int) -> None:
    fault = CODE_NAMES[code] in {
        "unknown",
        "deadline_exceeded",
        "unimplemented",
        "internal",
        "unavailable",
        "data_loss",
    }
    span = build(facts(kind=SERVER, code=code, message="it went wrong"))
    assert span.status == (ERROR if fault else UNSET)
    assert span.status_message == ("it went wrong" if fault else "")
    assert ("error.type" in span.attributes) == fault


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("ok", "ok"),
        ("cancelled", "cancelled"),
        ("deadline_exceeded", "deadline_exceeded"),
        ("unknown", "error"),
        ("not_found", "error"),
        ("unauthenticated", "error"),
    ],
)
def test_a_call_has_one_of_four_outcomes(name: str, outcome: str) -> None:
    code = CODE_NAMES.index(name)
    assert spans.outcome(code) == outcome
    assert build(facts(code=code)).attributes["mesh.call.outcome"] == outcome


@pytest.mark.parametrize(
    ("known", "error_type"),
    [
        ({"exception": "KeyError", "reason": "HANDLER_FAILED"}, "KeyError"),
        ({"reason": "OVERLOADED"}, "OVERLOADED"),
        ({}, "internal"),
    ],
)
def test_an_error_is_called_by_the_best_name_there_is(
    known: dict[str, str], error_type: str
) -> None:
    span = build(facts(code=CODE_NAMES.index("internal"), **known))
    assert span.attributes["error.type"] == error_type


def test_an_exception_is_an_event_of_the_span_that_it_failed() -> None:
    code = CODE_NAMES.index("unknown")
    span = build(facts(kind=SERVER, code=code, exception="KeyError", message="'x'"))
    (event,) = span.events
    assert (event.name, event.time) == ("exception", 3_000)
    assert event.attributes == {"exception.type": "KeyError", "exception.message": "'x'"}
    assert build(facts(kind=SERVER, code=code, message="'x'")).events == ()
    fine = build(facts(kind=SERVER, code=CODE_NAMES.index("not_found"), exception="NotFound"))
    assert fine.events == (), "to a server, that the caller asked for nothing is no failure"


def test_spans_do_not_share_what_they_hold() -> None:
    one, two = build(facts()), build(facts())
    one.attributes["mine"] = True
    one.events = (*one.events, spans.SpanEvent("mine", 1))
    one.links = (spans.SpanLink(b"t" * 16, b"s" * 8),)
    assert "mine" not in two.attributes
    assert (two.events, two.links) == ((), ())


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
atoms = st.one_of(
    texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)
)
attributes = st.dictionaries(texts, st.one_of(atoms, st.lists(atoms, max_size=3)), max_size=4)
built = st.builds(
    build,
    st.builds(
        facts,
        kind=st.sampled_from([CLIENT, SERVER]),
        method=texts,
        code=st.integers(0, 16),
        reason=texts,
        message=texts,
        exception=texts,
        activity_id=texts,
        chain=st.lists(texts, max_size=3),
        deadline_ms=st.floats(0, 1e6),
        known_method=st.booleans(),
    ),
)


@given(resource=attributes, made=st.lists(built, max_size=4), dropped=st.integers(0, 9))
def test_a_batch_survives_messagepack(
    resource: spans.Attributes, made: list[Span], dropped: int
) -> None:
    batch = Batch(resource, made, dropped)
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=Batch)
    assert read == batch
    assert repr(read) == repr(batch), "1, 1.0 and true stay apart"


@pytest.mark.parametrize("broken", [b"", b"\xc1", b"\x93\x80\x90\xa1x", b"\x92\x80\x91\x90"])
def test_what_is_no_batch_is_refused(broken: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(broken, type=Batch)


def test_the_garbage_collector_does_not_know_spans() -> None:
    """A store has tens of thousands: a pass that looks at them stops the loop."""
    one = build(facts(kind=SERVER))
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=spans.Span)
    for span in (one, read):
        assert not gc.is_tracked(span)
        assert (span.events, span.links) == ((), ())
        assert not gc.is_tracked(span.events)
