"""Decisions: each kind is an event, details of an error, and a sentence, from one definition."""

from __future__ import annotations

from math import inf, isfinite, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry import Decision, DecisionKind
from mesh_telemetry.decision_forms import BY_CALLER, FORMS, GOES_ON, SETTINGS, UNITS
from mesh_telemetry.decisions import (
    Noted,
    from_event,
    picked,
    setting_text,
    tell_decisions,
)
from mesh_telemetry.spans import CLIENT, Span, SpanEvent

Kind = DecisionKind
SPENT = [
    {"depth": 1, "call": "orders.place", "ms": 250.0, "state": "running"},
    {"depth": 2, "call": "users.get", "ms": 4.25, "state": "ok"},
]
DEADLINE = "the deadline of orders.place (250.0 ms, set by shop)"
KEPT = {"reason": "error", "method": "users.get"}
BY = {"mesh.decision.by": "me", "mesh.decision.setting": "timeout", "mesh.decision.value": 1.0}
SLOW = {"mesh.decision.method": "a.f", "mesh.decision.took_ms": 1.0, "mesh.decision.value": 1.0}

# What no attribute can hold: the shares of a deadline, which the other spans tell, and the versions
# that there are, which the text does.
LEFT_OUT = {"spent", "offered"}

TABLE: dict[DecisionKind, tuple[float | None, dict[str, Any], str]] = {
    Kind.CONNECTION_AWAITED: (
        5.0,
        {"waited_ms": 1200.0},
        "waited 1.20 s for a connection to the gateway (calls wait for one for up to 5 s)",
    ),
    Kind.ROOM_AWAITED: (
        1024,
        {"waited_ms": 12.0},
        "waited 12.0 ms for the gateway to read what was queued for it",
    ),
    Kind.UNREACHABLE: (
        5.0,
        {"call": "users.get", "told": "refused"},
        "gave up: users.get: no connection to a gateway within 5 s: refused",
    ),
    Kind.LEFT_NO_TIME: (
        0.0,
        {"call": "users.get", "caller": "orders, which serves orders.place,"},
        (
            "out of time: no time was left for users.get when orders, which serves orders.place, "
            "called it"
        ),
    ),
    Kind.TOO_LARGE: (
        1024,
        {"call": "users.get", "bytes": 2048},
        "refused: parameters of users.get, 2,048 bytes, exceed max_message of 1,024",
    ),
    Kind.TOO_DEEP: (16, {"depth": 17}, "refused: depth 17 exceeds max_depth 16"),
    Kind.LOOPING: (
        3,
        {"visit": 4, "call": "a.f", "cycle": ["a.f", "b.g", "a.f"]},
        "refused: visit 4 of a.f exceeds max_visits 3; the cycle is a.f > b.g > a.f",
    ),
    Kind.PARENT_FOREIGN: (
        None,
        {"parent": 7, "caller": "shop"},
        "refused: call 7 is not served by shop, so nothing can be called on its behalf",
    ),
    Kind.PARENT_GONE: (
        None,
        {"call": "a.f"},
        (
            "refused: the call inside which a.f was called has ended; start work that outlives its "
            "call inside mesh.detached()"
        ),
    ),
    Kind.NO_TIME: (
        0.25,
        {"call": "users.get", "of": "orders.place", "allowed_ms": 250.0, "spent": SPENT},
        (
            "refused: no time was left when users.get was called: orders.place "
            "was allowed 250.0 ms; "
            "spent: orders.place 250.0 ms (running), users.get 4.2 ms (ok)"
        ),
    ),
    Kind.DRAINING: (
        10.0,
        {},
        "refused: the gateway is shutting down and takes no new calls; those in flight have 10 s",
    ),
    Kind.SERVICE_MISSING: (
        5.0,
        {"told": "no service 'x' is registered"},
        (
            "refused: no service 'x' is registered; what was never there is waited for only in the "
            "gateway's first 5 s"
        ),
    ),
    Kind.METHOD_MISSING: (
        None,
        {"told": "service 'users' has no method 'x'"},
        "refused: service 'users' has no method 'x'",
    ),
    Kind.INCOMPATIBLE: (
        None,
        {
            "caller": "orders",
            "call": "users.get",
            "version": "1.3.0",
            "told": "1.2.0 (users at u-1) is older",
            "advice": "deploy users 1.3.0 or later before what calls it",
            "offered": [{"version": "1.2.0", "fault": "too new"}],
        },
        (
            "refused: orders calls users.get by version 1.3.0 of its contract, which no instance "
            "serves: 1.2.0 (users at u-1) is older; deploy users 1.3.0 or later before what calls "
            "it"
        ),
    ),
    Kind.NO_VERSION: (
        None,
        {"caller": "orders", "call": "users.get", "version": "1", "told": "it must be three"},
        "refused: orders calls users.get by what is no version: it must be three",
    ),
    Kind.INSTANCE_MISSING: (
        30.0,
        {"told": "nobody serves 'a' since 20:55:56 UTC"},
        (
            "refused: nobody serves 'a' since 20:55:56 UTC; one that is gone is expected back for "
            "30 s"
        ),
    ),
    Kind.OVERLOADED: (
        1000,
        {"call": "a.f", "instances": 2},
        (
            "refused: every instance of a.f (2) has 1,000 calls in flight, the "
            "limit max_in_flight; "
            "start more instances, or call less"
        ),
    ),
    Kind.OUTBOX_FULL: (
        2048,
        {"call": "a.f", "callee": "a", "bytes": 3000},
        (
            "refused: 3,000 bytes wait for a, which serves a.f, at the limit of 2,048: it does not "
            "read fast enough"
        ),
    ),
    Kind.WAITING_FULL: (
        1000,
        {"waiting": 1000, "bytes": 5000, "max_outbox": 6000},
        "refused: 1,000 calls wait for services, 5,000 bytes; the limits are 1,000 and 6,000",
    ),
    Kind.AWAITED: (
        5.0,
        {"service": "users", "waited_ms": 1200.0, "because": "it had been gone for 3.00 s"},
        "waited 1.20 s for users (it had been gone for 3.00 s; services are waited for up to 5 s)",
    ),
    Kind.NOT_COME: (
        5.0,
        {
            "call": "users.get",
            "told": "it was here a moment ago, and no instance has come back",
            "because": "it had been gone for 3.00 s",
        },
        (
            "gave up: waited 5 s for users.get; it was here a moment ago, and no instance has come "
            "back (it had been gone for 3.00 s)"
        ),
    ),
    Kind.ONLY: (
        None,
        {"instance": "users-1", "service": "users"},
        "picked users-1, the only instance of users",
    ),
    Kind.PICKED: (
        1000,
        {
            "instance": "users-2",
            "instances": 3,
            "without_room": 0,
            "in_flight": 4,
            "elsewhere": [9, 12],
        },
        "picked users-2 of 3 instances: 4 calls in flight there, 9 and 12 elsewhere",
    ),
    Kind.REROUTED: (
        None,
        {"lost": "users-1", "instance": "users-2"},
        (
            "sent again: the connection to users-1 was lost before the call left, so it went to "
            "users-2"
        ),
    ),
    Kind.UNSENT: (
        None,
        {"service": "users"},
        (
            "failed: the connection to the instance of users was lost before the call left the "
            "gateway, and no other instance can take it"
        ),
    ),
    Kind.EXPIRED: (
        0.25,
        {"of": "orders.place", "allowed_ms": 250.0, "spent": SPENT, "by": DEADLINE},
        (
            "out of time: orders.place was allowed 250.0 ms; spent: orders.place "
            "250.0 ms (running), "
            "users.get 4.2 ms (ok)"
        ),
    ),
    Kind.CANCELLED: (
        None,
        {"by": "shop (shop-1) cancelled orders.place"},
        "cancelled: shop (shop-1) cancelled orders.place",
    ),
    Kind.PARENT_OVER: (
        None,
        {"call": "users.get", "parent": "orders.place", "by": "shop (shop-1) cancelled it"},
        (
            "ended: orders.place, inside which users.get was called, has ended: shop (shop-1) "
            "cancelled it"
        ),
    ),
    Kind.LOST: (
        None,
        {"call": "users.get", "callee": "users", "instance": "users-1", "after_ms": 1234.5},
        (
            "failed: the connection to users (users-1), which served users.get, was lost after "
            "1,234 ms"
        ),
    ),
    Kind.STOPPED: (
        10.0,
        {"call": "users.get", "after_ms": 1234.5},
        "ended: the gateway shut down 1,234 ms after users.get was called",
    ),
    Kind.ANSWER_DROPPED: (
        2048,
        {"call": "users.get", "bytes": 3000},
        (
            "failed: the answer of users.get was dropped: 3,000 bytes wait for "
            "you to read them, at "
            "the limit of 2,048"
        ),
    ),
    Kind.FAILED: (
        None,
        {"error": "OUT_OF_STOCK", "told": "3 wanted", "where": "inventory (inventory-1)"},
        "failed: OUT_OF_STOCK: 3 wanted (from inventory (inventory-1))",
    ),
    Kind.PASSED_ON: (
        None,
        {"error": "OUT_OF_STOCK", "of": "inventory.reserve"},
        "passed on: OUT_OF_STOCK of inventory.reserve",
    ),
    Kind.LATE: (
        None,
        {"callee": "users (users-1)", "after_ms": 12.0},
        (
            "late: users (users-1) answered 12.0 ms after the call had ended, and the answer was "
            "dropped"
        ),
    ),
    Kind.KEPT: (
        10.0,
        KEPT,
        "trace kept: a call in it failed (users.get); up to 10 per second are, for one method",
    ),
    Kind.KEPT_SLOW: (
        1.0,
        {**KEPT, "reason": "slow", "took_ms": 1500.0},
        "trace kept: users.get took 1.50 s; from 1.00 s on every call is slow",
    ),
    Kind.KEPT_OBJECTIVE: (
        0.2,
        {**KEPT, "reason": "slow", "took_ms": 300.0},
        "trace kept: users.get took 300.0 ms; its contract's objective is 200.0 ms",
    ),
    Kind.KEPT_UNUSUAL: (
        1.0,
        {**KEPT, "reason": "slow", "took_ms": 90.0, "usual_ms": 25.0},
        (
            "trace kept: users.get took 90.0 ms; 25.0 ms or more is unusual for it lately (from "
            "1.00 s on every call is slow)"
        ),
    ),
    Kind.KEPT_LONG: (
        10.0,
        {**KEPT, "reason": "slow", "took_ms": 10_500.0},
        "trace kept: users.get had been in flight for 10.50 s",
    ),
    Kind.KEPT_BASELINE: (
        10.0,
        {**KEPT, "reason": "baseline"},
        "trace kept: nothing special, but the first 10 per second of users.get are kept",
    ),
}


@pytest.mark.parametrize("kind", DecisionKind)
def test_each_kind_is_an_event_the_details_of_an_error_and_a_sentence(kind: DecisionKind) -> None:
    value, facts, sentence = TABLE[kind]
    decision = Decision(kind, 2.0, value, facts)
    assert decision.sentence == sentence
    assert decision.text in sentence
    assert (decision.setting == "") == (value is None)
    assert Decision.read(decision.details(), 2.0) == decision
    event = decision.event(5)
    assert (event.name, event.time) == (f"mesh.decision.{kind}", 5)
    read = from_event(event.name, event.attributes, 2.0)
    assert read is not None
    told = read.decision
    assert (told.kind, told.at, told.value, told.setting) == (kind, 2.0, value, decision.setting)
    assert told.facts == {name: fact for name, fact in facts.items() if name not in LEFT_OUT}
    assert read.sentence == told.sentence


def test_every_kind_has_a_form_and_every_setting_of_one_is_known() -> None:
    assert set(FORMS) == set(DecisionKind) == set(TABLE)
    assert set(DecisionKind) > GOES_ON
    numbers = {"limits.max_depth", "limits.max_visits", "limits.max_in_flight"}
    assert UNITS.keys() | numbers | {"", "limits.max_waiting"} == SETTINGS
    assert set(DecisionKind) > BY_CALLER


def fact_like(fact: Any) -> st.SearchStrategy[Any]:
    """Any other fact of the same type."""
    if isinstance(fact, list):
        return st.lists(fact_like(fact[0]), min_size=1, max_size=4)
    if isinstance(fact, dict):
        return st.fixed_dictionaries({name: fact_like(one) for name, one in fact.items()})
    if isinstance(fact, float):
        return st.floats(0, 1e9, allow_nan=False)
    return st.integers(0, 2**40) if isinstance(fact, int) else st.text(max_size=30)


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    kind = draw(st.sampled_from(DecisionKind))
    value, facts, _ = TABLE[kind]
    drawn = {name: draw(fact_like(fact)) for name, fact in facts.items()}
    if "reason" in drawn:
        drawn["reason"] = draw(st.sampled_from(["error", "refused", "cancelled", "forced", "late"]))
    if kind is DecisionKind.PICKED:
        drawn["elsewhere"] = sorted(drawn["elsewhere"])
    at = draw(st.floats(0, 1e6))
    return Decision(kind, at, None if value is None else draw(fact_like(value)), drawn)


@given(decisions())
def test_any_decision_is_told_in_all_three_ways_and_read_back(decision: Decision) -> None:
    assert decision.sentence
    assert Decision.read(decision.details(), decision.at) == decision
    event = decision.event(7)
    read = from_event(event.name, event.attributes, decision.at)
    assert read is not None
    told = read.decision
    assert (told.kind, told.setting, told.value) == (
        decision.kind,
        decision.setting,
        decision.value,
    )
    assert told.facts == {name: one for name, one in decision.facts.items() if name not in LEFT_OUT}
    for key in event.attributes:
        assert key.startswith("mesh.decision.")


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("exception", {}),
        ("mesh.decision.of_a_later_version", {}),
        ("mesh.decision.too_deep", {}),
        ("mesh.decision.picked", {"mesh.decision.elsewhere": 3}),
        ("mesh.decision.kept", {"mesh.decision.reason": "none that there is"}),
        ("mesh.decision.kept_slow", {**SLOW, "mesh.decision.took_ms": inf}),
        ("mesh.decision.kept_slow", {**SLOW, "mesh.decision.took_ms": nan}),
        ("mesh.decision.kept_slow", {**SLOW, "mesh.decision.value": inf}),
        ("mesh.decision.cancelled", {**BY, "mesh.decision.value": nan}),
        ("mesh.decision.cancelled", {**BY, "mesh.decision.value": "abc"}),
        ("mesh.decision.cancelled", {**BY, "mesh.decision.value": ["a"]}),
        ("mesh.decision.cancelled", {**BY, "mesh.decision.value": True}),
        ("mesh.decision.cancelled", {**BY, "mesh.decision.setting": 5}),
        ("mesh.decision.cancelled", {**BY, "mesh.decision.setting": ["timeout"]}),
        ("mesh.decision.cancelled", {**BY, "mesh.decision.setting": "\x1b[31mred\n"}),
    ],
)
def test_events_of_others_are_no_decisions(name: str, attributes: dict[str, Any]) -> None:
    """Users' code may call its events what it likes."""
    assert from_event(name, attributes, 0.0) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
)


@given(
    st.sampled_from(DecisionKind),
    st.dictionaries(
        st.sampled_from(
            sorted({"value", "setting"} | {key for _, of, _ in TABLE.values() for key in of})
        ),
        VALUES,
    ),
)
def test_whatever_an_event_holds_is_a_decision_that_can_be_told_or_none(
    kind: DecisionKind, facts: dict[str, Any]
) -> None:
    _, honest, _ = TABLE[kind]
    for some in (facts, honest | facts):
        attributes = {f"mesh.decision.{name}": value for name, value in some.items()}
        told = from_event(f"mesh.decision.{kind}", attributes, 0.0)
        if told is not None:
            value = told.decision.value
            assert value is None or (type(value) in {int, float} and isfinite(value))
            assert told.decision.setting in SETTINGS
            assert isinstance(told.sentence, str)
            assert isinstance(setting_text(told.decision.setting, value), str)


@pytest.mark.parametrize(
    ("compared", "told"),
    [
        ((2, 0, 0, 3), "of 2 instances: 0 calls in flight there, 3 elsewhere"),
        ((3, 0, 4, 9, 12), "of 3 instances: 4 calls in flight there, 9 and 12 elsewhere"),
        ((4, 0, 1, 2, 3, 4), "of 4 instances: 1 call in flight there, 2, 3 and 4 elsewhere"),
        ((9, 0, 1, 2, 40), "of 9 instances: 1 call in flight there, 2 to 40 elsewhere"),
        (
            (2, 0, 0, 0),
            (
                "of 2 instances: 0 calls in flight there, 0 elsewhere; of equals the one picked "
                "longest ago"
            ),
        ),
        (
            (2, 0, 5, 1),
            "of 2 instances: 5 calls in flight there, 1 elsewhere, where health is worse",
        ),
        ((3, 1, 4, 9), "of 3 instances: 4 calls in flight there, 9 elsewhere; 1 had no room"),
        ((2, 1, 4), "of 2 instances: the only one with room, 4 calls in flight there"),
    ],
)
def test_why_an_instance_was_picked(compared: tuple[int, ...], told: str) -> None:
    decided = picked(1.0, "users-2", compared, 1000)
    assert decided.text == f"users-2 {told}"
    # The limit has decided something only where it left an instance out.
    assert decided.setting == ("limits.max_in_flight" if compared[1] else "")


@pytest.mark.parametrize(
    ("reason", "more", "told"),
    [
        ("refused", {}, "refused (users.get); up to 10 per second are, for one method"),
        (
            "refused",
            {"shared": True},
            (
                "refused (users.get); up to 10 per second are, for all methods without a quota of "
                "their own"
            ),
        ),
        (
            "error",
            {"cancelled": True},
            "cancelled (users.get); up to 10 per second are, for one method",
        ),
    ],
)
def test_why_a_trace_was_kept(reason: str, more: dict[str, Any], told: str) -> None:
    facts = {"reason": reason, "method": "users.get", **more}
    assert Decision(DecisionKind.KEPT, 0.0, 10.0, facts).text == f"a call in it was {told}"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("limits.max_depth", 16, "limits.max_depth = 16"),
        ("limits.max_outbox", 33_554_432, "limits.max_outbox = 33,554,432 B"),
        ("limits.service_wait", 5.0, "limits.service_wait = 5s"),
        ("timeout", 0.25, "timeout = 0.25s"),
        ("traces.quota", 10.0, "traces.quota = 10/s"),
        ("", None, ""),
    ],
)
def test_a_setting_is_written_with_its_unit(name: str, value: float | None, text: str) -> None:
    assert setting_text(name, value) == text


def test_a_deadline_names_the_call_that_set_it_where_that_is_another() -> None:
    facts = {"of": "users.get", "allowed_ms": 100.0, "by": DEADLINE}
    inherited = Decision(DecisionKind.EXPIRED, 0.0, 0.1, facts)
    assert inherited.sentence == f"out of time: users.get was allowed 100.0 ms; that was {DEADLINE}"
    assert inherited.text == "users.get was allowed 100.0 ms"


@pytest.mark.parametrize(
    "kind",
    [DecisionKind.LOST, DecisionKind.EXPIRED, DecisionKind.CANCELLED, DecisionKind.PARENT_OVER],
)
@pytest.mark.parametrize(
    ("ran", "told"), [(True, "; it may have run"), (False, "; it did not run")]
)
def test_whether_the_callee_may_have_run_is_told_where_it_is_known(
    kind: DecisionKind, ran: bool, told: str
) -> None:
    value, facts, sentence = TABLE[kind]
    decision = Decision(kind, 0.0, value, {**facts, "maybe_executed": ran})
    assert decision.sentence == f"{sentence}{told}"
    assert decision.text == Decision(kind, 0.0, value, facts).text


def test_a_kind_may_have_another_setting_behind_it() -> None:
    facts = {"call": "users.get", "parent": "orders.place", "by": "the gateway shut down"}
    over = Decision(DecisionKind.PARENT_OVER, 0.0, 10.0, facts, "limits.drain")
    assert over.setting == "limits.drain"
    assert over.details()["setting"] == "limits.drain"
    assert Decision.read(over.details(), 0.0) == over
    event = over.event(0)
    assert from_event(event.name, event.attributes, 0.0) == (over, over.sentence)


def test_of_many_hops_the_first_are_told() -> None:
    spent = [{"depth": 1, "call": f"a.f{number}", "ms": 1.0, "state": "ok"} for number in range(15)]
    facts = {"of": "a.f", "allowed_ms": 1.0, "spent": spent, "by": ""}
    text = Decision(DecisionKind.EXPIRED, 0.0, 0.1, facts).text
    assert text.count("(ok)") == 12
    assert text.endswith(", and 3 more")


def a_span() -> Span:
    return Span(bytes(16), bytes(8), b"", "users.get", CLIENT, 5_000_000_000, 9_000_000_000)


def test_events_are_in_the_order_of_their_times() -> None:
    span = a_span()
    span.events = (SpanEvent("mine", 6_500_000_000),)
    late = Decision(DecisionKind.TOO_DEEP, 7.0, 16, {"depth": 17})
    early = Decision(DecisionKind.UNSENT, 6.0, None, {"service": "users"})
    tell_decisions(span, [late, early], 0.0)
    assert [(event.name.rpartition(".")[2], event.time) for event in span.events] == [
        ("unsent", 6_000_000_000),
        ("mine", 6_500_000_000),
        ("too_deep", 7_000_000_000),
    ]


def test_what_a_peer_noted_is_told_on_the_clock_of_its_span() -> None:
    waited = Decision(DecisionKind.CONNECTION_AWAITED, 101.5, 5.0, {"waited_ms": 1500.0})
    noted = Noted(100.0, (waited,))
    (event,) = noted.apply(a_span()).events
    assert event.time == pytest.approx(6_500_000_000, abs=1000)
    assert noted.weight > 0
