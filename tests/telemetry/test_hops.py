"""The spans of a hop as one, and where an entry call's time went."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mesh_telemetry import Hop, fold, spent
from mesh_telemetry.names import OTHER
from tests.telemetry.rows import call, row, tree

if TYPE_CHECKING:
    from mesh_telemetry import WaterfallRow
    from tests.telemetry.rows import Row


def only(rows: list[WaterfallRow]) -> Hop:
    (hop,) = fold(rows)
    return hop


def shares(hop: Hop) -> dict[str, float]:
    found = {share.name: round(share.ms, 6) for share in spent(hop)}
    assert sum(found.values()) == pytest.approx(hop.end - hop.start)
    return found


def test_the_four_spans_of_a_hop_are_one() -> None:
    hop = only(tree(*call(0, "shop", "orders.place", 0, 20), *call(4, "orders", "users.get", 5, 9)))
    (inner,) = hop.children
    assert ([len(one.rows) for one in (hop, inner)], inner.children) == ([4, 4], [])
    assert (hop.name, hop.is_call, hop.start, hop.end, hop.work) == (
        "orders.place",
        True,
        0,
        20,
        (1, 19),
    )
    assert (hop.way_ms, hop.own_ms, inner.way_ms, inner.own_ms) == (2, 14, 2, 2)
    assert [one.name for one in hop.walk()] == ["orders.place", "users.get"]


def test_what_was_decided_for_it_is_none_of_its_events() -> None:
    """That is told by its explanation, and would be said twice."""
    rows = call(0, "shop", "orders.place", 0, 20)
    mine = {"name": "mine", "at_ms": 2.0, "attributes": {}}
    unsent = {"mesh.decision.service": "orders"}
    rows[1]["events"] = [{"name": "mesh.decision.unsent", "at_ms": 1.0, "attributes": unsent}, mine]
    assert [event.name for event in only(tree(*rows)).events] == ["mine"]


def test_an_event_that_only_has_the_name_of_a_decision_is_one_as_others() -> None:
    """Of a handler, of a later version, or of a caller that cannot have decided that."""
    rows = call(0, "shop", "orders.place", 0, 20)
    unsent = {"mesh.decision.service": "orders"}
    rows[0]["events"] = [{"name": "mesh.decision.unsent", "at_ms": 1.0, "attributes": unsent}]
    rows[1]["events"] = [
        {"name": "mesh.decision.of_a_later_version", "at_ms": 2.0, "attributes": {}}
    ]
    rows[3]["events"] = [{"name": "mesh.decision.unsent", "at_ms": 3.0, "attributes": unsent}]
    assert [event.at_ms for event in only(tree(*rows)).events] == [1.0, 2.0, 3.0]


def test_every_span_may_stay_one_of_its_own() -> None:
    hops = fold(tree(*call(0, "shop", "orders.place", 0, 20)), whole=True)
    found = [(len(one.rows), one.own_ms, one.way_ms) for one in hops[0].walk()]
    assert found == [(1, 0, 1), (1, 0, None), (1, 0, 1), (1, 18, None)]


def test_a_wait_is_no_time_of_the_gateways_own() -> None:
    rows = call(0, "shop", "orders.place", 0, 20)
    rows[1] |= {"waited_ms": 7.0, "start_ms": 1.0, "duration_ms": 18.0}
    rows[2] |= {"start_ms": 8.0, "duration_ms": 10.0}
    rows[3] |= {"start_ms": 10.0, "duration_ms": 7.0}
    found = [
        (one.own_ms, one.way_ms, one.waited_ms) for one in fold(tree(*rows), whole=True)[0].walk()
    ]
    assert found == [(0, 2, 0), (1, None, 7), (0, 3, 0), (7, None, 0)]
    assert [sum(ms or 0 for ms in one) for one in found] == [2, 8, 3, 7]
    hop = only(tree(*rows))
    assert (hop.own_ms, hop.way_ms, hop.waited_ms) == (7, 6, 7)


def test_a_span_that_passed_a_call_to_somebody_who_has_not_told_is_no_way() -> None:
    *_, last = fold(tree(*call(0, "shop", "orders.place", 0, 20)[:3]), whole=True)[0].walk()
    assert (last.is_unseen, last.is_passing, last.own_ms, last.way_ms) == (True, False, 19, None)


@pytest.mark.parametrize("renamed", [0, 3])
def test_who_renames_a_span_leaves_it_in_its_hop(renamed: int) -> None:
    rows = call(0, "shop", "orders.place", 0, 20)
    rows[renamed]["name"] = "GET /orders.html"
    hop = only(tree(*rows))
    assert (len(hop.rows), hop.children, hop.is_unseen, hop.own_ms) == (4, [], False, 18)
    assert (hop.name, hop.service) == ("orders.place", "orders")
    assert [one.name for one in fold(tree(*rows), whole=True)[0].walk()][renamed] == (
        "GET /orders.html"
    )


def test_a_call_of_the_same_method_inside_is_another_hop() -> None:
    rows = tree(*call(0, "a", "a.f", 0, 20), *call(4, "a", "a.f", 5, 9))
    assert [len(one.rows) for one in only(rows).walk()] == [4, 4]


def test_users_spans_stand_between_hops() -> None:
    rows = tree(
        *call(0, "shop", "orders.place", 0, 20),
        row(4, "orders", "validate", "internal", 2, 10),
        *call(5, "orders", "users.get", 3, 9),
    )
    hop = only(rows)
    (own,) = hop.children
    assert (own.name, own.is_call, own.way_ms, own.own_ms) == ("validate", False, None, 2)
    assert own.children[0].name == "users.get"


@pytest.mark.parametrize(
    ("present", "way", "own", "unseen"),
    [
        ([0, 1, 2, 3], 2, 18, False),
        ([1, 2, 3], 1, 18, False),
        ([3], None, 18, False),
        ([0, 1, 2], None, 20, True),
        ([0, 1], 20, 0, False),  # refused, or waiting for a service in vain
        ([0], 20, 0, False),
    ],
)
def test_parts_of_a_hop_may_be_missing(
    present: list[int],
    way: float | None,
    own: float,
    unseen: bool,
) -> None:
    rows = call(0, "shop", "orders.place", 0, 20)
    some = [rows[number] for number in present]
    for depth, one in enumerate(some):
        one["depth"] = depth
    hop = only(tree(*some))
    assert (hop.way_ms, hop.own_ms, hop.is_unseen) == (way, own, unseen)
    assert sum(shares(hop).values()) == pytest.approx(hop.end - hop.start)


def test_a_method_that_the_gateway_does_not_know_is_still_one_hop() -> None:
    rows = call(0, "shop", "nobody.get", 0, 2)[:2]
    rows[1]["name"] = OTHER
    hop = only(tree(*rows))
    assert (hop.name, len(hop.rows)) == ("nobody.get", 2)


def test_who_was_nearest_to_a_failure_tells_it() -> None:
    rows = call(
        0, "shop", "a.f", 0, 9, error=True, error_type="HANDLER_FAILED", error_message="E: x"
    )
    rows[3] |= {"error_type": "E", "error_message": "x"}
    assert only(tree(*rows)).error == ("E", "x")


def test_a_deadline_is_told_by_the_caller() -> None:
    """The callee only knows that it was cancelled."""
    ended: Row = {"error": True, "outcome": "deadline_exceeded", "error_type": "DEADLINE_EXCEEDED"}
    rows = call(0, "shop", "a.f", 0, 9, **ended, error_message="was cancelled")
    rows[0]["error_message"] = "was allowed 9 ms, spent by ..."
    assert only(tree(*rows)).error == ("DEADLINE_EXCEEDED", "was allowed 9 ms, spent by ...")
    assert only(tree(*call(0, "shop", "a.f", 0, 9))).error is None


def test_time_goes_to_the_hop_that_all_above_waited_for() -> None:
    hop = only(
        tree(
            *call(0, "shop", "orders.place", 0, 30),
            *call(4, "orders", "users.get", 2, 8),
            *call(4, "orders", "payments.charge", 10, 28, way=2),
        )
    )
    assert shares(hop) == {"payments.charge": 14, "": 8, "orders.place": 4, "users.get": 4}
    way = next(share for share in spent(hop) if not share.name)
    assert (way.times, way.most, way.most_ms) == (3, "payments.charge", 4)


def test_of_calls_at_the_same_time_the_last_one_counts() -> None:
    hop = only(
        tree(
            *call(0, "shop", "a.f", 0, 30, way=0),
            *call(4, "a", "b.quick", 2, 8, way=0),
            *call(4, "a", "b.slow", 2, 25, way=0),
            *call(4, "a", "b.middle", 3, 20, way=0),
        )
    )
    assert shares(hop) == {"b.slow": 23, "a.f": 7}


def test_what_outlives_its_caller_for_long_was_not_waited_for() -> None:
    hop = only(
        tree(*call(0, "shop", "a.f", 0, 10, way=0), *call(4, "a", "b.detached", 8, 50, way=0))
    )
    assert shares(hop) == {"a.f": 10}


def test_what_ends_a_little_after_its_cancelled_caller_was_waited_for() -> None:
    hop = only(tree(*call(0, "shop", "a.f", 0, 10, way=0), *call(4, "a", "b.late", 1, 11, way=0)))
    assert shares(hop) == {"b.late": 9, "a.f": 1}


def test_calls_of_one_method_are_summed() -> None:
    rows = call(0, "shop", "a.f", 0, 10, way=0)
    for start in (1, 4, 7):
        rows += call(4, "a", "b.g", start, start + 2, way=0)
    found = spent(only(tree(*rows)))
    assert [(share.name, share.ms, share.times) for share in found] == [
        ("b.g", 6, 3),
        ("a.f", 4, 1),
    ]


def test_an_entry_call_that_took_no_time_has_no_shares() -> None:
    assert spent(only(tree(*call(0, "shop", "a.f", 5, 5, way=0)))) == []
