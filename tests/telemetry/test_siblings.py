"""Many calls side by side: some have a line, the others are told as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry import Hop, fold
from mesh_telemetry.siblings import MANY, SLOWEST, Siblings, collapse, failures
from tests.telemetry.rows import call, row, tree

if TYPE_CHECKING:
    from tests.telemetry.rows import Row


def below(*calls: list[Row]) -> list[Hop]:
    """The hops under one call; every list is the rows of one of them."""
    rows = call(0, "shop", "orders.place", 0, 10_000)
    (entry,) = fold(tree(*rows, *(row for one in calls for row in one)))
    return entry.children


def collapsed(hops: list[Hop]) -> list[Siblings]:
    numbers, steps = failures(hops)
    for _ in steps:
        pass
    return list(collapse(hops, numbers))


def gets(count: int, took: float = 2, name: str = "users.get") -> list[list[Row]]:
    """Calls one after the other."""
    return [call(4, "orders", name, 10 * at, 10 * at + took) for at in range(count)]


def failed(message: str) -> Row:
    return {"code": "not_found", "error": True, "error_type": "E", "error_message": message}


def test_a_few_have_a_line_each() -> None:
    hops = below(*gets(MANY))
    assert collapsed(hops) == [Siblings(hop) for hop in hops]
    hops = below(*gets(MANY), *gets(MANY, name="stock.get"))
    assert len(collapsed(hops)) == 2 * MANY


def test_of_many_the_slowest_have_a_line_and_the_others_one_after_them() -> None:
    calls = gets(400)
    for slow, took in ((7, 9), (3, 8), (90, 7)):
        calls[slow] = call(4, "orders", "users.get", 10 * slow, 10 * slow + took)
    first, second, third, others = collapsed(below(*calls))
    assert [one.hop.start for one in (first, second, third)] == [30, 70, 900]
    assert (others.hop.name, len(others.alike), others.spread) == (
        "users.get",
        397,
        "p50 2.00  max 2.00",
    )


def test_of_other_calls_in_between_none_is_lost() -> None:
    found = collapsed(below(*gets(20), call(4, "orders", "payments.charge", 900, 950), *gets(20)))
    assert [one.hop.name for one in found] == ["users.get"] * (SLOWEST + 1) + ["payments.charge"]
    assert sum(len(one.alike) or 1 for one in found) == 41


def test_each_different_failure_has_a_line() -> None:
    calls = gets(100)
    for at in range(12):
        calls[at] = call(4, "orders", "users.get", 10 * at, 10 * at + 1, **failed(f"no user {at}"))
    lines = collapsed(below(*calls))
    told = {one.hop.error for one in lines if not one.alike} - {None}
    assert told == {("E", f"no user {at}") for at in range(12)}
    assert [len(one.alike) for one in lines if one.alike] == [100 - 12 - SLOWEST]


def test_failures_that_say_the_same_are_told_as_one_that_names_their_code() -> None:
    calls = [
        call(4, "orders", "users.get", 10 * at, 10 * at + 2, **failed("closed")) for at in range(50)
    ]
    lines = collapsed(below(*calls))
    assert [len(one.alike) for one in lines] == [0] * SLOWEST + [50 - SLOWEST]
    assert lines[-1].hop.error == ("E", "closed")


def test_a_call_inside_which_something_failed_is_not_like_the_others() -> None:
    calls = gets(30)
    calls[20] += call(8, "users", "stock.get", 200.5, 201, **failed("no stock"))
    lines = collapsed(below(*calls))
    assert calls[20][0]["start_ms"] in {one.hop.start for one in lines if not one.alike}


def test_spans_of_users_are_told_as_one_too_and_what_is_inside_is_counted() -> None:
    spans = [row(4, "orders", "SELECT", "internal", 10 * at, 10 * at + 2) for at in range(30)]
    for number, one in enumerate(spans):
        one["instance"] = str(number)
    inner = [row(5, "orders", "fetch", "internal", 10 * at, 10 * at + 1) for at in range(30)]
    pairs = [[span, fetch] for span, fetch in zip(spans, inner, strict=True)]
    *_, others = collapsed(below(*pairs))
    assert (others.hop.name, len(others.alike), others.inside) == ("SELECT", 27, 27)


kinds = st.tuples(st.sampled_from("ab"), st.sampled_from(("", "", "x", "y")), st.integers(1, 9))


@given(st.lists(kinds, max_size=60))
def test_every_call_is_in_one_line_and_every_kind_of_failure_in_one_of_its_own(
    made: list[tuple[str, str, int]],
) -> None:
    hops = below(
        *(
            call(4, "orders", f"{name}.f", 20 * at, 20 * at + took, **(failed(why) if why else {}))
            for at, (name, why, took) in enumerate(made)
        )
    )
    lines = collapsed(hops)
    told = [hop for one in lines for hop in one.alike or (one.hop,)]
    assert sorted(told, key=lambda hop: hop.start) == hops
    assert [one.hop for one in lines if not one.alike] == [
        hop for hop in hops if any(one.hop is hop and not one.alike for one in lines)
    ], "in their order"
    assert {hop.error for hop in hops} == {one.hop.error for one in lines if not one.alike}
    for one in lines:
        if one.alike:
            assert len(one.alike) > MANY - SLOWEST
            assert {(hop.name, hop.error) for hop in one.alike} == {(one.hop.name, one.hop.error)}
    assert len(lines) <= 6 * MANY
