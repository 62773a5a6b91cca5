"""The explanation of a trace: what its spans tell of decisions, and what needs no telling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from mesh_telemetry import (
    Decision,
    DecisionKind,
    Explanation,
    Step,
    TraceSummary,
    explain,
    explanation_lines,
)
from mesh_telemetry.texts import cells, to_text
from tests.telemetry.rows import SUMMARY, call, nested, row, tree

if TYPE_CHECKING:
    from tests.telemetry.rows import Row


def event(kind: DecisionKind, at_ms: float, value: float | None = None, **facts: Any) -> Row:
    """An event of a row."""
    told = Decision(kind, 0.0, value, facts).event(0)
    return {"name": told.name, "at_ms": at_ms, "attributes": told.attributes}


def refused(depth: int, caller: str, name: str, at: float) -> list[Row]:
    """The two spans of a call that the gateway turned away."""
    failed = {"code": "failed_precondition", "outcome": "error"}
    told = event(DecisionKind.LOOPING, at, 3, visit=4, call=name, cycle=[name, name])
    return [
        row(depth, caller, name, "client", at, at + 1, error=True,
            error_type="LOOP_DETECTED", error_message="visit 4", **failed),
        row(depth + 1, "gw1", name, "server", at, at + 1, events=[told], **failed),
    ]  # fmt: skip


def told(steps: list[Step]) -> list[tuple[float, str, str]]:
    return [(step.at_ms, step.call, step.sentence) for step in steps]


def test_the_only_instance_needs_no_event() -> None:
    rows = nested()
    for one in rows:
        one["served_by"] = f"{one['name'].partition('.')[0]}-1"
    steps = explain(tree(*rows))
    assert told(steps) == [
        (0.5, "orders.place", "picked orders-1, the only instance of orders"),
        (2.5, "users.get", "picked users-1, the only instance of users"),
        (12, "payments.charge", "picked payments-1, the only instance of payments"),
    ]
    assert [(step.depth, step.left_ms, step.took_ms) for step in steps] == [
        (0, 500.0, 30.0),
        (1, 498.0, 6.0),
        (1, 490.0, 18.0),
    ]


def test_what_spans_tell_is_in_the_order_of_its_time_with_its_setting() -> None:
    rows = [*call(0, "shop", "orders.place", 0, 30), *refused(4, "orders", "users.get", 5)]
    rows[1]["events"] = [
        event(DecisionKind.AWAITED, 3.0, 5.0, service="orders", waited_ms=3.0, because="it left"),
        event(DecisionKind.PICKED, 3.5, 100, instance="orders-2", instances=2, without_room=0,
              in_flight=0, elsewhere=[3]),
        {"name": "mine", "at_ms": 4.0, "attributes": {}},
        event(DecisionKind.KEPT, 6.0, 10.0, reason="refused", method="users.get"),
    ]  # fmt: skip
    steps = explain(tree(*rows))
    assert [(step.decision, step.setting, step.value) for step in steps] == [
        ("awaited", "limits.service_wait", 5),
        ("picked", "limits.max_in_flight", 100),
        ("looping", "limits.max_visits", 3),
        ("kept", "traces.quota", 10),
    ]
    assert [step.call for step in steps] == ["orders.place"] * 2 + ["users.get", "orders.place"]


def test_a_failure_is_told_where_it_arose_and_by_whom() -> None:
    """In full once, and not where the gateway has said so already; those above pass it on."""
    failed: dict[str, Any] = {"code": "failed_precondition", "outcome": "error"}
    rows = [
        *call(0, "shop", "orders.place", 0, 30, **failed),
        *call(4, "orders", "users.get", 5, 9, **failed),
    ]
    for one in (0, 2, 4, 6):
        rows[one] |= {"error": True, "error_type": "BLOCKED", "error_message": "ada is blocked"}
    assert [one for one in told(explain(tree(*rows))) if "picked" not in one[2]] == [
        (8, "users.get", "failed: BLOCKED: ada is blocked (from users (users-1))"),
        (29, "orders.place", "passed on: BLOCKED of users.get"),
    ]


def test_a_call_that_never_left_its_caller_says_so() -> None:
    rows = [
        row(0, "shop", "users.get", "client", 0, 5, code="unavailable", outcome="error",
            error=True, error_type="GATEWAY_UNREACHABLE", error_message="no connection"),
    ]  # fmt: skip
    assert told(explain(tree(*rows))) == [
        (5, "users.get", "failed: GATEWAY_UNREACHABLE: no connection (from shop (shop-1))")
    ]


@pytest.mark.parametrize("at", [0, 3])
def test_what_handlers_call_a_decision_is_none(at: int) -> None:
    """On the callee's span, and on the caller's what no caller decides: neither hides the fault."""
    rows = call(0, "shop", "users.get", 0, 10, code="internal", outcome="error")
    for one in rows:
        one |= {"error": True, "error_type": "ValueError", "error_message": "the real fault"}
        one["served_by"] = "users-1"
    rows[at]["events"] = [
        event(DecisionKind.CANCELLED, 5.0, None, by="the gateway's operator"),
        event(DecisionKind.PICKED, 5.0, 100, instance="mine", instances=2, without_room=0,
              in_flight=0, elsewhere=[3]),
    ]  # fmt: skip
    assert [sentence for _, _, sentence in told(explain(tree(*rows)))] == [
        "picked users-1, the only instance of users",
        "failed: ValueError: the real fault (from users (users-1))",
    ]


def test_a_caller_is_believed_what_it_decided_before_the_call_left() -> None:
    rows = call(0, "shop", "users.get", 10, 20)
    rows[0]["events"] = [
        event(DecisionKind.ROOM_AWAITED, 12.0, 1024, waited_ms=2.0),
        # Of a clock, or a peer, that says it was long before.
        event(DecisionKind.CONNECTION_AWAITED, -1.7e12, 5.0, waited_ms=1.0),
    ]
    steps = [(step.at_ms, step.decision) for step in explain(tree(*rows))]
    assert steps[0] == (10.0, "connection_awaited")
    assert steps[-1] == (12.0, "room_awaited")


def test_what_is_no_call_has_no_decisions() -> None:
    rows = [row(0, "shop", "price", "internal", 0, 5), *call(1, "shop", "users.get", 1, 4)]
    rows[0]["events"] = [event(DecisionKind.TOO_DEEP, 1.0, 16, depth=17)]
    assert [(step.call, step.depth) for step in explain(tree(*rows))] == [("users.get", 0)]
    assert explain([]) == []


def lines(rows: list[Row], width: int, **more: Any) -> list[str]:
    summary = msgspec.convert({**SUMMARY, **more}, TraceSummary)
    explained = Explanation(summary=summary, steps=explain(tree(*rows)))
    return [to_text(line) for line in explanation_lines(explained, width)]


def test_it_is_told_call_by_call() -> None:
    rows = [
        *call(0, "shop", "orders.place", 0, 30, deadline_ms=60.0),
        *refused(4, "orders", "users.get", 5),
    ]
    rows[1]["events"] = [event(DecisionKind.KEPT, 6, 10.0, reason="refused", method="users.get")]
    for one in rows:
        one["served_by"] = "orders-1"
    assert lines(rows, 80, missing=["users (users-1): disconnected"]) == [
        "orders.place by shop  ok after 29.0 ms at gateway  kept: slow",
        "trace 0af7651916cd43dd8448eb211c80319c  activity order-42",
        "! missing: users (users-1): disconnected",
        "",
        "orders.place  60.0 ms left, took 30.0 ms, 50%",
        "   0.50 ms  picked orders-1, the only instance of orders",
        "",
        "users.get  no deadline, took 1.00 ms",
        "   5.00 ms  refused: visit 4 of users.get exceeds max_visits 3; the cycle is",
        "            users.get > users.get",
        "            [limits.max_visits = 3]",
        "",
        "orders.place",
        "   6.00 ms  trace kept: a call in it was refused (users.get); up to 10 per",
        "            second are, for one method",
        "            [traces.quota = 10/s]",
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_keeps_to_the_width(width: int) -> None:
    name = "a-service-of-a-long-name.method"
    rows = [*call(0, "shop", "orders.place", 0, 30), *refused(4, "orders", name, 5)]
    shown = lines(rows, width, missing=["a-service (of-a-long-name-1): disconnected"])
    assert max(map(cells, shown[2:])) <= width


def test_what_others_have_named_moves_no_cursor() -> None:
    rows = call(0, "shop", "orders.place", 0, 30)
    rows[1]["events"] = [event(DecisionKind.METHOD_MISSING, 1.0, None, told="a\x1b[31mb\nc")]
    assert "\x1b" not in "".join(lines(rows, 80))


def test_a_setting_of_another_version_is_clean_and_keeps_to_the_width() -> None:
    """The gateway that tells it need not be of the command's own version."""
    (step,) = [one for one in explain(tree(*refused(0, "a", "b.f", 5))) if one.setting]
    odd = msgspec.structs.replace(step, setting="\x1b[31mred\n" + "x" * 100)
    explained = Explanation(summary=msgspec.convert(SUMMARY, TraceSummary), steps=[odd])
    shown = [to_text(line) for line in explanation_lines(explained, 60)]
    assert not any(char in line for line in shown for char in "\x1b\n")
    assert max(map(cells, shown[2:])) <= 60


def test_a_trace_without_decisions_says_so() -> None:
    assert lines([], 80)[-1] == "none of its spans tells of a decision"
