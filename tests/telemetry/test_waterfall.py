"""Kept traces for people: the line in a list, and the tree of spans."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry import (
    CODE_NAMES,
    KeptTrace,
    Party,
    TraceStore,
    WaterfallRow,
    summary,
    waterfall,
)
from mesh_telemetry.spans import (
    CLIENT,
    ERROR,
    INTERNAL,
    SERVER,
    Attributes,
    CallFacts,
    Span,
    SpanEvent,
    build,
)

TRACE = b"t" * 16
MS = 1_000_000
BEGIN = 1_700_000_000_000_000_000


def span_id(number: int) -> bytes:
    return number.to_bytes(8, "big")


def plain(number: int, parent: int, start: float, end: float, **more: Any) -> Span:
    """A span by its numbers; times in milliseconds."""
    return Span(
        TRACE,
        span_id(number),
        span_id(parent) if parent else b"",
        more.pop("name", f"s{number}"),
        more.pop("kind", INTERNAL),
        BEGIN + round(start * MS),
        BEGIN + round(end * MS),
        **more,
    )


def call(number: int, parent: int, start: float, end: float, **facts: Any) -> Span:
    """A span of a call; times in milliseconds."""
    known = {"kind": SERVER, "method": "users.get", "code": 0, **facts}
    return build(
        CallFacts(
            trace_id=TRACE,
            span_id=span_id(number),
            parent_id=span_id(parent) if parent else b"",
            start=BEGIN + round(start * MS),
            end=BEGIN + round(end * MS),
            **known,
        )
    )


def kept(**processes: list[Span]) -> KeptTrace:
    store = TraceStore(10_000)
    trace = store.open(TRACE, "error", BEGIN)
    for process, spans in processes.items():
        host = {"host.name": "h"} if process.startswith("h_") else {}
        store.add(TRACE, process, {"service.name": process.removeprefix("h_"), **host}, spans)
    return trace


def drawn(trace: KeptTrace) -> list[str]:
    """The tree by indentation: name, start and duration in milliseconds."""
    return [
        f"{'  ' * row.depth}{row.name} {row.start_ms:g}+{row.duration_ms:g}"
        for row in waterfall(trace)
    ]


def rows(trace: KeptTrace) -> dict[str, WaterfallRow]:
    return {row.name: row for row in waterfall(trace)}


def test_a_hop_is_drawn_from_caller_to_callee() -> None:
    trace = kept(
        users=[call(4, 3, 2, 8, kind=SERVER)],
        gateway=[call(2, 1, 1, 9, kind=SERVER), call(3, 2, 1.5, 8.5, kind=CLIENT)],
        orders=[call(1, 0, 0, 10, kind=CLIENT)],
    )
    found = [(row.depth, row.service, row.kind, row.self_ms) for row in waterfall(trace)]
    assert found == [
        (0, "orders", "client", 2.0),
        (1, "gateway", "server", 1.0),
        (2, "gateway", "client", 1.0),
        (3, "users", "server", 6.0),
    ]


def test_a_row_tells_what_was_called_whatever_its_span_is_named() -> None:
    served = call(1, 0, 0, 10, kind=SERVER)
    served.name = "GET /users"
    unknown = msgspec.structs.replace(call(2, 1, 1, 2, kind=CLIENT), name="_OTHER")
    unknown.attributes = {**unknown.attributes, "rpc.method_original": "users.gett"}
    trace = kept(users=[served, unknown, plain(3, 1, 3, 4)])
    assert [(row.name, row.method) for row in waterfall(trace)] == [
        ("GET /users", "users.get"),
        ("_OTHER", "users.gett"),
        ("s3", ""),
    ]


def test_children_come_by_start_and_depth_first() -> None:
    trace = kept(
        a=[
            plain(1, 0, 0, 100),
            plain(5, 1, 50, 60),
            plain(2, 1, 10, 40),
            plain(4, 2, 30, 35),
            plain(3, 2, 12, 20),
            plain(7, 1, 70, 75),
            plain(6, 1, 70, 90),
        ]
    )
    assert drawn(trace) == [
        "s1 0+100",
        "  s2 10+30",
        "    s3 12+8",
        "    s4 30+5",
        "  s5 50+10",
        "  s6 70+20",
        "  s7 70+5",
    ]


@pytest.mark.parametrize(
    ("children", "self_ms"),
    [
        ([], 100),
        ([(0, 100)], 0),
        ([(10, 20), (30, 50)], 70),
        ([(10, 50), (20, 30)], 60),  # one within the other
        ([(10, 50), (40, 60)], 50),  # overlapping
        ([(-10, 10), (90, 150)], 80),  # beyond their parent
        ([(150, 200)], 100),  # after it, as detached calls are
    ],
)
def test_self_time_is_what_no_child_fills(
    children: list[tuple[float, float]], self_ms: float
) -> None:
    spans = [plain(2 + at, 1, start, end) for at, (start, end) in enumerate(children)]
    assert rows(kept(a=[plain(1, 0, 0, 100), *spans]))["s1"].self_ms == self_ms


def test_a_row_says_what_is_known_of_a_call() -> None:
    failed = call(
        2,
        1,
        5,
        10,
        code=CODE_NAMES.index("unknown"),
        exception="KeyError",
        message="'x'",
        deadline_ms=245.0,
        activity_id="order-7",
        chain=("users.get",),
        instance="p-1",
        server_address="users",
    )
    failed.attributes["user.tier"] = "gold"
    failed.events = (SpanEvent("cache miss", BEGIN + 6 * MS, {"key": 7}), *failed.events)
    row = rows(kept(orders=[plain(1, 0, 0, 20)], users=[failed]))["users.get"]
    assert (row.span_id, row.parent_id) == ("0000000000000002", "0000000000000001")
    assert (row.service, row.instance, row.kind) == ("users", "users", "server")
    assert (row.code, row.outcome) == ("unknown", "error")
    assert (row.error, row.error_type, row.error_message) == (True, "KeyError", "'x'")
    assert row.deadline_ms == 245.0
    assert row.attributes == {"user.tier": "gold"}
    assert [(event.name, event.at_ms) for event in row.events] == [
        ("cache miss", 6.0),
        ("exception", 10.0),
    ]
    assert (row.orphan, row.shifted_ms) == (False, 0.0)


def test_a_row_of_no_call_keeps_all_its_attributes() -> None:
    attributes: Attributes = {"server.address": "db", "error.type": "Timeout", "rpc.method": "x"}
    span = plain(1, 0, 0, 5, attributes=attributes, status=ERROR, status_message="too late")
    (row,) = waterfall(kept(orders=[span]))
    assert row.attributes == attributes
    assert (row.code, row.outcome, row.deadline_ms) == ("", "", None)
    assert (row.error_type, row.error_message) == ("Timeout", "too late")


def test_an_exception_speaks_for_a_span_that_says_no_more() -> None:
    told: Attributes = {"exception.type": "ValueError", "exception.message": "no"}
    span = plain(1, 0, 0, 5, status=ERROR, events=[SpanEvent("exception", BEGIN, told)])
    (row,) = waterfall(kept(a=[span]))
    assert (row.error_type, row.error_message) == ("ValueError", "no")
    span.status = 0
    (row,) = waterfall(kept(a=[span]))
    assert (row.error, row.error_type, row.error_message) == (False, "", "")


@pytest.mark.parametrize(
    ("attributes", "status", "error"),
    [
        ({}, "ValueError: bad", ("app.ValueError", "bad")),  # as start_as_current_span sets it
        ({}, "app.ValueError: bad", ("app.ValueError", "bad")),
        ({}, "", ("app.ValueError", "bad")),
        ({}, "ignored", ("", "ignored")),  # of the exception it says nothing
        ({"error.type": "ValueError"}, "ValueError: bad", ("ValueError", "bad")),
        ({"error.type": "HANDLER_FAILED"}, "E: x", ("HANDLER_FAILED", "E: x")),
    ],
)
def test_type_and_message_belong_together(
    attributes: Attributes, status: str, error: tuple[str, str]
) -> None:
    told: Attributes = {"exception.type": "app.ValueError", "exception.message": "bad"}
    span = plain(1, 0, 0, 5, status=ERROR, status_message=status, attributes=attributes)
    span.events = (*span.events, SpanEvent("exception", BEGIN, told))
    (row,) = waterfall(kept(a=[span]))
    assert (row.error_type, row.error_message) == error


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"http.status_code": 503}, "HTTP 503"),
        ({"http.response.status_code": 503, "error.type": "503"}, "HTTP 503"),
        ({"error.type": "ConnectError", "http.status_code": 503}, "ConnectError"),
        ({"rpc.grpc.status_code": 14}, "gRPC 14"),
    ],
)
def test_a_status_code_stands_for_the_type(attributes: Attributes, kind: str) -> None:
    (row,) = waterfall(kept(a=[plain(1, 0, 0, 5, status=ERROR, attributes=attributes)]))
    assert (row.error_type, row.error_message) == (kind, "")


def test_orphans_hang_under_the_root() -> None:
    trace = kept(
        a=[plain(1, 0, 0, 100), plain(2, 1, 5, 50)],
        b=[plain(9, 77, 20, 30), plain(10, 9, 22, 25)],
    )
    assert drawn(trace) == ["s1 0+100", "  s2 5+45", "  s9 20+10", "    s10 22+3"]
    assert [name for name, row in rows(trace).items() if row.orphan] == ["s9"]
    assert rows(trace)["s9"].parent_id == "000000000000004d"
    assert rows(trace)["s1"].self_ms == 55, "an orphan is no child of the root's"


def test_the_earliest_is_the_root_where_the_trace_began_outside() -> None:
    trace = kept(a=[plain(2, 88, 5, 6), plain(1, 77, 0, 100), plain(3, 1, 1, 2)])
    assert drawn(trace) == ["s1 0+100", "  s3 1+1", "  s2 5+1"]
    assert [row.orphan for row in waterfall(trace)] == [False, False, True]


def test_entry_calls_that_were_made_in_another_program_are_roots() -> None:
    """So are spans of a program of ours around them; a nested call is none that lost its parent."""
    entry, nested = ("users.get",), ("a.f", "users.get")
    trace = kept(
        a=[
            call(1, 77, 0, 10, kind=CLIENT, method="first", chain=entry),
            call(2, 77, 20, 30, kind=CLIENT, method="second", chain=entry),
            plain(3, 78, 40, 60),
            call(4, 3, 45, 50, kind=CLIENT, method="third", chain=entry),
            plain(5, 78, 70, 80),
            call(6, 79, 5, 6, kind=CLIENT, method="nested", chain=nested),
            call(7, 80, 7, 8, method="served", chain=entry),
            plain(8, 81, 9, 10),
        ]
    )
    role: Attributes = {"service.name": "gw1", "mesh.role": "gateway"}
    trace.batches["g", "gw1"] = (
        role,
        [
            call(9, 82, 90, 95, method="without its caller", chain=entry),
            call(10, 83, 3, 4, kind=CLIENT, method="passed on", chain=entry),
        ],
    )
    assert drawn(trace) == [
        "first 0+10",
        "  passed on 3+1",
        "  nested 5+1",
        "  served 7+1",
        "  s8 9+1",
        "second 20+10",
        "s3 40+20",
        "  third 45+5",
        "s5 70+10",
        "without its caller 90+5",
    ]
    assert [name for name, row in rows(trace).items() if row.orphan] == [
        "passed on", "nested", "served", "s8",
    ]  # fmt: skip


def test_several_roots_stand_side_by_side() -> None:
    trace = kept(a=[plain(2, 0, 50, 60), plain(1, 0, 0, 10), plain(3, 99, 55, 56)])
    assert drawn(trace) == ["s1 0+10", "  s3 55+1", "s2 50+10"]


def test_spans_below_each_other_are_shown_once() -> None:
    trace = kept(
        a=[plain(1, 0, 0, 10), plain(2, 4, 3, 4), plain(3, 2, 1, 2), plain(4, 3, 5, 6)],
        b=[plain(5, 5, 7, 8)],
    )
    assert drawn(trace) == ["s1 0+10", "  s3 1+1", "    s4 5+1", "      s2 3+1", "  s5 7+1"]
    assert drawn(kept(a=[plain(1, 1, 0, 10)])) == ["s1 0+10"]


@pytest.mark.parametrize(
    ("child", "shown", "shifted"),
    [
        ((10, 90), "10+80", 0),
        ((-5, 5), "-5+10", 0),  # partly outside: nothing is known for sure
        ((90, 110), "90+20", 0),
        ((1000, 1040), "30+40", -970),  # wholly outside: into the middle
        ((-1000, -960), "30+40", 1030),
        ((1000, 1200), "0+200", -1000),  # longer than its parent: from its start
        ((101, 101), "50+0", -51),
    ],
)
def test_a_span_wholly_outside_its_parent_is_moved_into_it(
    child: tuple[float, float], shown: str, shifted: float
) -> None:
    trace = kept(a=[plain(1, 0, 0, 100)], b=[plain(2, 1, *child)])
    row, root = rows(trace)["s2"], rows(trace)["s1"]
    assert f"{row.start_ms - root.start_ms:g}+{row.duration_ms:g}" == shown
    assert row.shifted_ms == shifted


def test_what_has_one_clock_moves_together() -> None:
    trace = kept(
        a=[plain(1, 0, 0, 100), plain(5, 4, 45, 55)],
        b=[
            plain(2, 1, 3_600_010, 3_600_090, events=[SpanEvent("e", BEGIN + 3_600_020 * MS)]),
            plain(3, 2, 3_600_020, 3_600_030),
            plain(4, 2, 3_600_035, 3_600_070),
            plain(6, 5, 3_600_050, 3_600_053),
        ],
    )
    assert drawn(trace) == [
        "s1 0+100",
        "  s2 10+80",
        "    s3 20+10",
        "    s4 35+35",
        "      s5 45+10",
        "        s6 50+3",
    ]
    assert rows(trace)["s2"].events[0].at_ms == 20.0
    assert {name for name, row in rows(trace).items() if row.shifted_ms} == {"s2", "s3", "s4", "s6"}


def test_what_ran_after_its_parent_by_the_same_clock_stays_where_it_was() -> None:
    detached = plain(2, 1, 200, 300)
    assert drawn(kept(a=[plain(1, 0, 0, 100), detached])) == ["s1 0+100", "  s2 200+100"]
    one_host = kept(h_a=[plain(1, 0, 0, 100)], h_b=[plain(2, 1, 200, 300)])
    assert drawn(one_host) == ["s1 0+100", "  s2 200+100"]


def test_a_span_that_ends_before_it_starts_lasts_no_time() -> None:
    assert drawn(kept(a=[plain(1, 0, 0, -5), plain(2, 1, 0, 10)])) == ["s1 0+0", "  s2 0+10"]


def test_an_empty_trace_has_no_rows() -> None:
    assert waterfall(kept()) == []


def test_a_deep_trace_is_no_trouble() -> None:
    spans = [plain(number, number - 1, number, 3000) for number in range(1, 801)]
    assert [row.depth for row in waterfall(kept(a=spans))] == list(range(800))


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(0, 25), st.integers(-50, 50), st.integers(-5, 50)
        ),
        max_size=20,
    )
)
def test_any_spans_are_each_shown_once(shape: list[tuple[str, int, int, int]]) -> None:
    """Any parents: roots, absent ones, oneself, circles; any clocks."""
    processes: dict[str, list[Span]] = {}
    for number, (process, parent, start, duration) in enumerate(shape, 1):
        span = plain(number, parent, start, start + duration)
        processes.setdefault(process, []).append(span)
    trace = kept(**processes)
    found = waterfall(trace)
    assert sorted(row.span_id for row in found) == sorted(
        span.span_id.hex() for _, span in trace.spans()
    )
    spans = {span.span_id.hex(): span for _, span in trace.spans()}
    above: list[WaterfallRow] = []
    for row in found:
        del above[row.depth :]
        assert row.depth == len(above), "no row is more than one deeper than the one before"
        if above and not row.orphan:
            assert row.parent_id == above[-1].span_id
        if row.depth == 0 and row.parent_id:
            assert row is found[0], "only what came from outside may be a root with a parent"
        assert 0 <= row.self_ms <= row.duration_ms
        assert row.start_ms >= 0
        lasted = spans[row.span_id].end - spans[row.span_id].start
        assert row.duration_ms == pytest.approx(max(0, lasted) / MS)
        above.append(row)
    if found:
        assert min(row.start_ms for row in found) == 0
    json.loads(msgspec.json.encode(found))
    summary(trace)


def test_a_summary_says_what_a_list_shows() -> None:
    store = TraceStore(1000)
    trace = store.open(bytes(range(16)), "slow", BEGIN + 250_000_000)
    assert summary(trace).duration_ms is None
    assert summary(trace).code == ""
    trace.caller, trace.service, trace.method = "shop", "orders", "place"
    trace.code, trace.duration, trace.activity_id = 4, 1.25, "order-7"
    trace.missed(Party("p-9", "stock"), "disconnected before it sent its spans")
    for process, name in (("p-1", "users"), ("p-2", "orders"), ("p-3", "users")):
        span = plain(1, 0, 0, 1)
        span.trace_id, span.span_id = trace.trace_id, process.encode() + b"-abcd"
        store.add(trace.trace_id, process, {"service.name": name}, [span], dropped=1)
    assert msgspec.to_builtins(summary(trace)) == {
        "trace_id": "000102030405060708090a0b0c0d0e0f",
        "reason": "slow",
        "started": "2023-11-14T22:13:20.250000Z",
        "duration_ms": 1250.0,
        "caller": "shop",
        "service": "orders",
        "method": "place",
        "code": "deadline_exceeded",
        "activity_id": "order-7",
        "spans": 3,
        "services": ["orders", "users"],
        "errors": 0,
        "complete": False,
        "missing": ["stock (p-9): disconnected before it sent its spans"],
        "dropped": 3,
        "gateway": "",
        "reasons": ["slow"],
        "entry_calls": 0,
    }


def test_the_gateway_is_known_by_its_role_whatever_it_is_called() -> None:
    trace = kept(orders=[call(1, 0, 0, 10, kind=CLIENT)])
    resource: Attributes = {"service.name": "gw1", "mesh.role": "gateway"}
    other: Attributes = {"service.name": "mesh-gateway"}
    trace.batches["g", "gw1"] = (resource, [call(2, 1, 1, 9), call(3, 2, 2, 8, kind=CLIENT)])
    trace.batches["x", "mesh-gateway"] = (other, [call(4, 3, 3, 7)])
    found = [(row.service, row.of_gateway) for row in waterfall(trace)]
    assert found == [("orders", False), ("gw1", True), ("gw1", True), ("mesh-gateway", False)]
    assert summary(trace).gateway == "gw1"


@pytest.mark.parametrize(
    ("failed", "errors"),
    [
        ([], 0),
        ([5], 1),
        ([1, 2, 3, 4, 5], 1),  # one failure that everything above passed on
        ([1, 3, 5], 1),  # also where what lies between took it for no error of its own
        ([5, 7], 2),
        ([1, 2, 5, 7], 2),
        ([1, 9], 2),  # what has lost its parent stands for itself
    ],
)
def test_failures_are_counted_where_they_began(failed: list[int], errors: int) -> None:
    parents = {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 2, 7: 6, 9: 88}
    spans = [
        plain(number, parent, 0, 1, status=ERROR if number in failed else 0)
        for number, parent in parents.items()
    ]
    assert summary(kept(a=spans)).errors == errors
