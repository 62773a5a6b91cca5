"""Spans nested deeper than calls of Python may be: a drawing costs the same for each of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from mesh_telemetry import Drawing, Hop, TraceSummary, fold
from mesh_telemetry.siblings import failures
from mesh_telemetry.texts import to_text
from tests.telemetry.rows import SUMMARY, row, tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh_telemetry import WaterfallRow
    from tests.telemetry.rows import Row

DEEP = 5000
ENDED: Row = {"code": "not_found", "outcome": "error"}
FAILED: Row = {"error": True, "error_type": "NO_USER", "error_message": "no user 'x'"}


def chain(count: int, **rest: Any) -> list[Row]:
    """Spans below each other."""
    return [row(at, "a", "a.f", "server", at, 3 * count - at, **rest) for at in range(count)]


def passed_on(count: int) -> list[WaterfallRow]:
    """The last one fails; those above it end as it does, and are no failures themselves."""
    rows = chain(count, **ENDED)
    rows[-1] |= FAILED
    return tree(*rows)


def failed_alike(count: int) -> list[WaterfallRow]:
    """An exception passes through all of them."""
    return tree(*chain(count, **(FAILED | {"code": ""})))


def failed_differently(count: int) -> list[WaterfallRow]:
    """Each fails in its own way."""
    rows = chain(count, **(FAILED | {"code": ""}))
    for at, one in enumerate(rows):
        one["error_message"] = f"no user {at}"
    return tree(*rows)


def quiet_in_between(count: int) -> list[WaterfallRow]:
    """Every tenth fails as the last one does; those in between take that for no failure."""
    rows = chain(count, **ENDED)
    for one in [*rows[::10], rows[-1]]:
        one.update(FAILED)
    return tree(*rows)


KINDS = [passed_on, failed_alike, failed_differently, quiet_in_between]


def drawing(rows: list[WaterfallRow], *, whole: bool, clips: bool = False) -> Drawing:
    return Drawing(msgspec.convert(SUMMARY, TraceSummary), rows, whole=whole, clips=clips)


@pytest.mark.parametrize(
    ("made", "whole"), [(passed_on, False), (quiet_in_between, False), (quiet_in_between, True)]
)
def test_a_failure_is_found_however_deep_it_arose(
    made: Callable[[int], list[WaterfallRow]], whole: bool
) -> None:
    (top,) = fold(made(DEEP), whole=whole)
    *above, last = top.walk()
    assert len(above) == DEEP - 1
    assert (top.origin, last.origin, last.error) == (last, None, ("NO_USER", "no user 'x'"))
    assert top.error is not None
    assert {hop.origin for hop in above if hop.error} == {last}
    assert {hop.error[1] for hop in above if hop.error} <= {"", "no user 'x'"}


@pytest.mark.parametrize("first", [0, DEEP // 2, DEEP - 1])
def test_it_is_the_same_wherever_one_looks_first(first: int) -> None:
    def found(hops: list[Hop]) -> list[tuple[Any, int | None]]:
        number = {hop: at for at, hop in enumerate(hops)}
        return [(hop.error, number[hop.origin] if hop.origin else None) for hop in hops]

    hops, others = (list(fold(quiet_in_between(DEEP))[0].walk()) for _ in range(2))
    assert others[first].error is not None
    assert found(others) == found(hops)


def test_what_failed_below_is_told_apart_at_every_depth() -> None:
    (top,) = fold(failed_differently(DEEP))
    numbers, steps = failures([top])
    assert sum(1 for _ in steps) == 2 * DEEP, "none of them for more than one hop"
    assert len({numbers[hop] for hop in top.walk()}) == DEEP


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("made", KINDS)
def test_a_drawing_costs_no_more_for_each_span_of_a_deeper_tree(
    made: Callable[[int], list[WaterfallRow]], whole: bool
) -> None:
    def cost(count: int) -> tuple[int, int]:
        """Calls of functions, and characters."""
        rows = made(count)
        calls = 0

        def count_call(_frame: object, _event: str, _arg: object) -> None:
            nonlocal calls
            calls += 1

        before = sys.getprofile()
        sys.setprofile(count_call)
        try:
            lines = list(drawing(rows, whole=whole).lines())
        finally:
            sys.setprofile(before)
        return calls, sum(len(to_text(line)) for line in lines)

    for less, more in zip(cost(400), cost(800), strict=True):
        assert more < 2.3 * less


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("made", KINDS)
def test_a_deep_tree_is_drawn_with_a_line_for_each_span(
    made: Callable[[int], list[WaterfallRow]], clips: bool, whole: bool
) -> None:
    steps = list(drawing(made(DEEP), clips=clips, whole=whole).steps())
    lines = [to_text(line) for line in steps if line is not None]
    assert len(lines) >= DEEP
    assert max(map(len, lines)) <= (120 if clips else 200)
    assert steps.count(None) >= (1 if whole else 3) * DEEP // 100, "others run in between"
