"""The demo's orders, and which of them are shown."""

from __future__ import annotations

from mesh.cli.demo.orders import Order, Outcome, Played, load, unexpected
from mesh.cli.demo.report import describe, slowest, telling_failure
from mesh.errors import Code, Unavailable


def play(number: int, expect: Outcome = Outcome(), outcome: Outcome = Outcome()) -> Played:  # noqa: B008 - frozen
    lines = [{"sku": "mug", "quantity": 1}, {"sku": "lamp", "quantity": 2}]
    params = {"user": "ada", "lines": lines, "card": "1"}
    return Played(Order(f"order-{number}", params, expect), outcome, "it [broke]", number / 10)


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


def test_the_slowest_order_that_went_well_is_shown() -> None:
    failed = Outcome("not_found", "USER_NOT_FOUND")
    played = [play(1), play(3), play(2), play(4, outcome=failed)]
    assert slowest(played) is played[1]
    assert slowest(played[3:]) is None
    assert describe(played[0]) == "order-1, 1 x mug, 2 x lamp for ada"


def test_the_failure_that_is_shown_is_the_one_that_needs_it_most() -> None:
    failed = Outcome("not_found", "USER_NOT_FOUND")
    loop = Outcome("failed_precondition", "LOOP_DETECTED")
    late = Outcome("deadline_exceeded", "DEADLINE_EXCEEDED")
    played = [play(number, outcome=outcome) for number, outcome in
              enumerate([Outcome(), failed, loop, late, late])]  # fmt: skip
    assert telling_failure(played) is played[4]
    assert telling_failure(played[:3]) is played[2]
    assert telling_failure(played[:2]) is played[1]
    assert telling_failure(played[:1]) is None
