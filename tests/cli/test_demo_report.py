"""The demo's orders, and the trees that are drawn of them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from mesh.cli.demo.orders import Order, Outcome, Played, load, unexpected
from mesh.cli.demo.report import arrange, nested_success, print_tree, telling_failure
from mesh.errors import Code, Unavailable


def record(call_id: int, parent_id: int, name: str, started: float, **rest: Any) -> dict[str, Any]:
    service, _, method = name.partition(".")
    return {
        "call_id": call_id,
        "parent_id": parent_id,
        "service": service,
        "method": method,
        "started": started,
        "duration": 0.01,
        "depth": 1 if not parent_id else 2,
        "code": "ok",
        "reason": "",
        "refused": False,
    } | rest


TREE = [
    record(5, 4, "users.region", 0.012, code="failed_precondition", reason="LOOP", refused=True),
    record(1, 0, "orders.place", 0.0, duration=0.04, code="unknown", reason="BROKEN"),
    record(4, 1, "inventory.reserve", 0.011),
    record(2, 1, "users.get", 0.001),
]


def play(number: int, expect: Outcome = Outcome(), outcome: Outcome = Outcome()) -> Played:  # noqa: B008 - frozen
    params = {"user": "ada", "sku": "mug", "quantity": 1, "card": "1"}
    return Played(Order(f"order-{number}", params, expect), outcome, "it [broke]", 0.1)


def test_the_orders_that_ship_fail_in_all_ways_that_the_demo_shows() -> None:
    orders = load()
    assert len(orders) > 100
    assert len({order.id for order in orders}) == len(orders)
    outcomes = {(order.expect.code, order.expect.reason) for order in orders}
    assert {
        ("ok", ""),
        ("not_found", "USER_NOT_FOUND"),
        ("failed_precondition", "OUT_OF_STOCK"),
        ("deadline_exceeded", "DEADLINE_EXCEEDED"),
        ("failed_precondition", "LOOP_DETECTED"),
        ("unavailable", "CONNECTION_LOST"),
        ("unknown", "HANDLER_FAILED"),
    } <= outcomes
    assert {code for code, _ in outcomes} <= set(Code)
    assert [order.kill for order in orders if order.kill] == ["payments"]
    assert all(order.about for order in orders if order.expect.code != "ok")


def test_an_outcome_is_code_reason_and_where_it_matters_whether_it_ran() -> None:
    lost = Outcome.of(Unavailable(reason="CONNECTION_LOST", maybe_executed=True))
    assert lost.is_as(Outcome("unavailable", "CONNECTION_LOST"))
    assert lost.is_as(Outcome("unavailable", "CONNECTION_LOST", maybe_executed=True))
    assert not lost.is_as(Outcome("unavailable", "CONNECTION_LOST", maybe_executed=False))
    assert not lost.is_as(Outcome("unavailable", "NO_INSTANCE"))
    assert Outcome.of(None).is_as(Outcome())


def test_the_unexpected_is_what_did_not_end_as_it_must() -> None:
    failed = Outcome("not_found", "USER_NOT_FOUND")
    played = [play(1), play(2, failed, failed), play(3, failed), play(4, outcome=failed)]
    assert [one.order.id for one in unexpected(played)] == ["order-3", "order-4"]
    assert nested_success(played) is played[0]
    assert telling_failure(played) is played[1]
    assert telling_failure([]) is None


def test_a_tree_is_arranged_from_the_entry_call_down() -> None:
    arranged = [(path, row["call_id"]) for path, row in arrange(TREE)]
    assert arranged == [
        ((True,), 1),
        ((True, False), 2),
        ((True, True), 4),
        ((True, True, True), 5),
    ]


def test_records_without_their_parent_stand_at_the_top() -> None:
    """The entry call's record may have made way for newer ones, or not be there yet."""
    assert [len(path) for path, _ in arrange(TREE[2:])] == [1, 1]


@pytest.mark.parametrize(
    ("encoding", "lines"),
    [
        (
            "utf-8",
            [
                "order-1: 1 x mug for ada",
                "  orders.place           40.0 ms  BROKEN  ████████",
                "  ├─ users.get           10.0 ms  ok      ██",
                "  └─ inventory.reserve   10.0 ms  ok        ██",
                "     └─ users.region     refused  LOOP      ▏",
                "  why: it [broke]",
            ],
        ),
        (
            "ascii",
            [
                "order-1: 1 x mug for ada",
                "  orders.place           40.0 ms  BROKEN  ########",
                "  |- users.get           10.0 ms  ok      ##",
                "  `- inventory.reserve   10.0 ms  ok        ##",
                "     `- users.region     refused  LOOP      |",
                "  why: it [broke]",
            ],
        ),
    ],
)
def test_a_tree_is_drawn_with_what_the_output_can_show(encoding: str, lines: list[str]) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, force_terminal=True, color_system=None, width=50)
    print_tree(console, play(1), TREE)
    file.seek(0)
    assert [line.rstrip() for line in file.read().splitlines()] == lines
