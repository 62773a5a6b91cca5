"""How changes are remembered: counted, bounded, shared out, found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.gateway.changes import ALONE, NAMES, QUIET, SETTLING, SHARE, TEXT, Change, Changes
from mesh.gateway.filters import ChangeFilters

if TYPE_CHECKING:
    from collections.abc import Sequence


def change(at: float, peer: str = "users", what: Any = "lost", **more: Any) -> Change:
    return Change(at=at, change=what, what=more.pop("how", "somehow"), peer=peer, **more)


def all_of(changes: Changes, **wanted: Any) -> list[Change]:
    return changes.find(ChangeFilters(**wanted), 1e6)


@pytest.mark.parametrize(
    ("moments", "counts"),
    [
        ([0], [1]),
        ([0, 0, 0, 0, 0], [1] * ALONE),  # the instances of a deployment
        ([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 2]),
        (range(100), [1, 1, 1, 1, 96]),
        ([*range(7), 6 + QUIET], [1, 1, 1, 1, 4]),  # it goes on
        ([*range(7), 7 + QUIET], [1, 1, 1, 1, 3, 1]),  # a row has ended
        ([number * (QUIET + 1) for number in range(8)], [1] * 8),
    ],
)
def test_the_same_again_and_again_is_counted(moments: Sequence[float], counts: list[int]) -> None:
    changes = Changes()
    for at in moments:
        changes.add(change(at))
    told = all_of(changes)
    assert [one.count for one in told] == counts
    begins = [sum(counts[:at]) for at in range(len(counts))]
    assert [one.first for one in told] == [moments[at] for at in begins]
    assert told[-1].at == moments[-1]
    assert changes.dropped == 0


def test_what_differs_is_counted_apart() -> None:
    """By what it is, who, which services, and why; not by the process, which is new each time."""
    changes = Changes()
    for number in range(10):
        for one in (
            {"what": "registered"}, {"what": "lost"}, {"peer": "orders"}, {"services": ["files"]},
            {"what": "refused", "reason": "timeout"}, {"what": "refused", "reason": "hello"},
        ):  # fmt: skip
            changes.add(change(number, process_id=f"p{number}", **one))
    told = all_of(changes)
    assert len(told) == 6 * ALONE
    assert [one.count for one in told[-6:]] == [6] * 6
    assert {one.process_id for one in told[-6:]} == {"p9"}


def test_what_is_counted_once_more_stands_last_and_is_new() -> None:
    changes = Changes()
    for number in range(6):
        changes.add(change(number))
    changes.add(change(6, "orders"))
    seen = changes.last
    changes.add(change(7))
    assert [(one.peer, one.count) for one in all_of(changes)[-2:]] == [("orders", 1), ("users", 3)]
    (new,) = changes.find(ChangeFilters(), 8, after=seen)
    assert (new.peer, new.count, new.first, new.at) == ("users", 3, 4, 7)


def test_what_comes_bit_by_bit_is_one_change() -> None:
    """Of one process and soon; else there is nothing to amend."""
    changes = Changes()
    assert not changes.amend(change(0))
    changes.add(change(0, process_id="a", methods=["get"]))
    assert changes.amend(change(SETTLING, process_id="a", methods=["get", "put"]))
    assert not changes.amend(change(SETTLING, process_id="b"))
    assert not changes.amend(change(2 * SETTLING + 0.1, process_id="a"))
    (line,) = all_of(changes)
    assert (line.methods, line.count, line.first) == (["get", "put"], 1, 0)


def test_which_are_asked_for() -> None:
    changes = Changes()
    for at, service in ((10, "users"), (20, "orders"), (30, "users")):
        changes.add(change(at, services=[service, "files"]))
    assert [one.at for one in all_of(changes, service="users")] == [10, 30]
    assert [one.at for one in all_of(changes, service="files")] == [10, 20, 30]
    assert all_of(changes, service="user") == []
    recent = changes.find(ChangeFilters(since=15), 35)
    assert [one.at for one in recent] == [20, 30]
    assert [one.at for one in changes.find(ChangeFilters(), 35, after=2)] == [30]


def test_a_line_is_bounded() -> None:
    changes = Changes(capacity=1)
    many = [f"m{number}" for number in range(1000)]
    for _ in range(2 * ALONE):
        changes.add(change(0, services=many, methods=many, how="x" * 10_000))
    (line,) = all_of(changes)
    assert (len(line.services), len(line.methods), len(line.what)) == (NAMES, NAMES, TEXT)


added = st.tuples(
    st.sampled_from(["registered", "lost", "late"]),
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from([0.0, 0.1, SETTLING, QUIET, QUIET + 1]),
    st.booleans(),
)


@given(st.lists(added, max_size=300), st.integers(1, 40))
def test_all_are_told_or_counted_and_nobody_pushes_out_others(
    events: list[tuple[str, str, float, bool]], capacity: int
) -> None:
    """Whoever has no more lines than his share keeps them all, whatever others do."""
    bounded, endless, now = Changes(capacity), Changes(10**6), 0.0
    for what, peer, later, amends in events:
        now += later
        one = change(now, peer, what)
        for changes in (bounded, endless):
            if not (amends and changes.amend(one)):
                changes.add(one)
        numbers = [line.number for line in all_of(bounded)]
        assert len(bounded) == len(numbers) <= capacity
        assert numbers == sorted(numbers)
        assert numbers[-1] == bounded.last
        held = [number for own in bounded._numbers.values() for number in own]
        assert sorted(held) == numbers
        assert len(bounded._rows) <= len(bounded)
    whole, kept = all_of(endless), all_of(bounded)
    share = max(1, capacity // SHARE)
    assert endless.dropped == 0
    by_peer = [[line for line in whole if line.peer == peer] for peer in "abcd"]
    fits = sum(min(len(lines), share) for lines in by_peer) <= capacity
    for peer, lines in zip("abcd", by_peer, strict=True):
        told = [line for line in kept if line.peer == peer]
        assert len(told) <= share
        if fits and len(lines) <= share:
            assert [(line.at, line.count) for line in told] == [
                (line.at, line.count) for line in lines
            ]
    if max(map(len, by_peer)) <= share and len(whole) <= capacity:
        assert kept == whole
        assert bounded.dropped == 0


def test_one_who_changes_all_the_time_leaves_room_for_others() -> None:
    changes = Changes()
    for number in range(700):
        changes.add(change(0, f"peer{number}"))
    for number in range(5000):
        changes.add(change(1, "busy", services=[f"s{number}"]))
    told = all_of(changes)
    assert [one.peer for one in told] == [f"peer{number}" for number in range(700)] + ["busy"] * 250
    assert changes.dropped == 4750
