"""Which ended calls a tap is told, from rows alone: filters, samples, trees, what is missing."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.gateway.filters import MOST, TapFilters
from mesh.gateway.sifting import (
    Ended,
    Trees,
    by_arrival,
    count_missing,
    find_ended,
    fitting,
    outlived,
    pick,
    sample,
    sample_held,
)
from mesh_telemetry import CODE_NAMES, Record

NOT_FOUND = CODE_NAMES.index("not_found")
PLAIN = Record(
    1, 0, 1, bytes(16), "order-1", "shop", "shop-1", bytes(8), 7, "users", "get", "users-1",
    ("users.get",), 1, 10.0, 0.25, 30.0, 0.0, 0, "", "", False,
)  # fmt: skip


def row(call: int = 1, entry: int = 0, **fields: Any) -> Record:
    """A recorded call; without an entry call it is one."""
    return msgspec.structs.replace(PLAIN, call_id=call, entry_id=entry or call, **fields)


def ids(rows: list[Record]) -> list[int]:
    return [found.call_id for found in rows]


@pytest.mark.parametrize(
    ("limit", "held", "told"),
    [(9, {2}, 9), (4, {1, 3, 5}, 4), (3, {1, 3, 5}, 3), (2, {1, 3, 5}, 2), (5, set(), 5)],
)
def test_a_sample_has_what_is_held_before_others(limit: int, held: set[int], told: int) -> None:
    rows = [row(at) for at in range(1, 10)]
    found = ids(sample_held(rows, limit, random.Random(1), held))
    assert (len(found), found) == (told, sorted(set(found)))
    assert len(held & set(found)) == min(limit, len(held))


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"service": "users"}, True),
        ({"service": "user"}, False),
        ({"method": "get"}, True),
        ({"method": "users.get"}, True),
        ({"method": "orders.get"}, False),
        ({"method": "ge"}, False),
        ({"service": "users", "method": "get"}, True),
        ({"service": "orders", "method": "users.get"}, False),
        ({"caller": "shop"}, True),
        ({"caller": "users"}, False),
        ({"code": "ok"}, True),
        ({"code": "not_found"}, False),
        ({"min_duration": 0.25}, True),
        ({"min_duration": 0.2501}, False),
        ({"activity_id": "order-1"}, True),
        ({"activity_id": "order-"}, False),
        ({"service": "users", "caller": "shop", "code": "ok", "activity_id": "order-1"}, True),
        ({"service": "users", "caller": "shop", "code": "ok", "activity_id": "order-2"}, False),
    ],
)
def test_a_call_must_fit_all_filters(wanted: dict[str, Any], fits: bool) -> None:
    assert bool(fitting([PLAIN], TapFilters(**wanted))) is fits


@pytest.mark.parametrize(
    ("method", "wanted", "fits"),
    [
        ("status", {}, False),
        ("status", {"service": "mesh"}, True),
        ("tap", {}, False),
        ("tap", {"service": "mesh"}, False),
        ("status", {"method": "mesh.status"}, False),
    ],
)
def test_the_gateway_s_own_calls_are_told_where_it_is_named(
    method: str,
    wanted: dict[str, Any],
    fits: bool,
) -> None:
    own = row(service="mesh", method=method)
    assert bool(fitting([own], TapFilters(**wanted))) is fits


def test_a_service_of_one_s_own_may_have_a_method_named_tap() -> None:
    assert fitting([row(method="tap")], TapFilters()) != []


calls = st.builds(
    row,
    st.integers(1, 50),
    st.integers(0, 10),
    service=st.sampled_from(["users", "orders", "mesh"]),
    method=st.sampled_from(["get", "place", "tap"]),
    caller=st.sampled_from(["shop", "web"]),
    code=st.sampled_from([0, NOT_FOUND]),
    duration=st.sampled_from([0.0, 0.1, 1.0]),
    activity_id=st.sampled_from(["a", "b"]),
)
filters = st.builds(
    TapFilters,
    service=st.sampled_from(["", "users", "mesh"]),
    method=st.sampled_from(["", "get", "orders.place", "mesh.tap"]),
    caller=st.sampled_from(["", "shop"]),
    code=st.sampled_from(["", "ok", "not_found"]),
    min_duration=st.sampled_from([0.0, 0.1]),
    activity_id=st.sampled_from(["", "b"]),
)


@given(st.lists(calls), filters)
def test_what_fits_is_what_each_filter_alone_lets_pass(
    rows: list[Record], wanted: TapFilters
) -> None:
    def lets_pass(record: Record) -> bool:
        name = f"{record.service}.{record.method}"
        return all(
            [
                wanted.service == record.service or (not wanted.service and name[:5] != "mesh."),
                wanted.method in {"", record.method, name},
                wanted.caller in {"", record.caller},
                wanted.code in {"", CODE_NAMES[record.code]},
                wanted.min_duration <= record.duration,
                wanted.activity_id in {"", record.activity_id},
                name != "mesh.tap",
            ]
        )

    assert fitting(rows, wanted) == [one for one in rows if lets_pass(one)]


@given(st.integers(0, 300), st.integers(1, 100), st.integers())
def test_a_sample_is_as_large_as_may_be_and_in_order(count: int, limit: int, seed: int) -> None:
    told = sample(range(count), limit, random.Random(seed))
    assert len(told) == min(count, limit)
    assert told == sorted(set(told))
    assert set(told) <= set(range(count))


def test_each_call_is_as_likely_in_a_sample_as_any_other() -> None:
    """Also where methods are called in turns of as many as would be left out."""
    source, seen = random.Random(1), [0] * 4
    for _ in range(1000):
        for at in sample(range(40), 10, source):
            seen[at % 4] += 1
    assert min(seen) > 0.9 * max(seen)


def test_which_entry_calls_have_ended() -> None:
    new = [
        row(5, entry=4),  # its entry call is new, too
        row(4),
        row(7, entry=6),  # its entry call still runs
        row(3, entry=2),  # its entry call ended before
        row(9),
    ]
    assert find_ended(new, {6}) == Ended(whole={4, 9}, late={2})


@given(st.lists(calls, unique_by=lambda one: one.call_id), st.sets(st.integers(1, 50)))
def test_an_entry_call_ends_whole_or_late_and_never_while_it_runs(
    new: list[Record], running: set[int]
) -> None:
    ended = find_ended(new, running)
    assert not ended.whole & ended.late
    assert ended.whole | ended.late == {one.entry_id for one in new} - running
    assert ended.whole == {one.call_id for one in new if one.call_id == one.entry_id} - running


def call(number: int, entry: int, parent: int, way: str) -> Record:
    """A call as it went: ``caller > instance``."""
    caller, _, instance = way.partition(" > ")
    return row(number, entry, parent_id=parent, caller_process=caller, instance=instance)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        pytest.param(
            [call(1, 1, 0, "a > b"), call(2, 1, 1, "b > c"), call(3, 1, 2, "c > d")],
            {1: [1, 2, 3]},
            id="nested",
        ),
        pytest.param(
            [call(1, 1, 0, "a > b"), call(2, 1, 0, "b > c"), call(3, 1, 0, "c > ")],
            {1: [1, 2, 3]},
            id="by who served a call of the tree",
        ),
        pytest.param(
            [call(1, 1, 0, "a > b"), call(2, 1, 0, "a > b"), call(3, 1, 0, "x > c")],
            {1: [1], 2: [2], 3: [3]},
            id="by who did not",
        ),
        pytest.param(
            [call(1, 1, 0, "a > b"), call(2, 1, 0, "x > c"), call(3, 1, 2, "c > d"),
             call(4, 1, 0, "d > e"), call(5, 1, 0, "b > c")],
            {1: [1, 5], 2: [2, 3], 4: [4]},
            id="inside one by who did not",
        ),
        pytest.param(
            [call(1, 1, 0, "a > "), call(2, 1, 0, " > b")], {1: [1], 2: [2]}, id="of nobody"
        ),
        pytest.param([call(5, 1, 3, "a > b"), call(6, 1, 5, "b > c")], {5: [5, 6]}, id="not known"),
        pytest.param([call(2, 9, 0, "x > "), call(9, 9, 0, "a > b")], {2: [2], 9: [9]}, id="early"),
    ],
)  # fmt: skip
def test_which_tree_a_call_belongs_to(rows: list[Record], found: dict[int, list[int]]) -> None:
    trees = Trees(TapFilters())
    trees.add(by_arrival(reversed(rows)))
    assert {tree[0].entry_id: ids(tree) for tree in trees.fitting()} == found


def test_calls_that_have_been_told_still_show_who_belongs_to_their_tree() -> None:
    trees = Trees(TapFilters(), told={1})
    trees.add([call(1, 1, 0, "a > b"), call(2, 1, 0, "b > c")])
    assert [(tree[0].entry_id, ids(tree)) for tree in trees.fitting()] == [(1, [2])]


@given(st.lists(calls, unique_by=lambda one: one.call_id), filters, st.integers(1, 7))
def test_trees_are_the_same_in_slices_of_any_size(
    rows: list[Record], wanted: TapFilters, step: int
) -> None:
    rows, trees = by_arrival(rows), Trees(wanted)
    for start in range(0, len(rows), step):
        trees.add(rows[start : start + step])
    whole = Trees(wanted)
    whole.add(rows)
    told = trees.fitting()
    assert told == whole.fitting()
    for tree in told:
        assert fitting(tree, wanted)
        assert len({one.entry_id for one in tree}) == 1
    calls_told = [one.call_id for tree in told for one in tree]
    assert len(set(calls_told)) == len(calls_told)
    assert {one.call_id for one in fitting(rows, wanted)} <= set(calls_told)


@given(st.lists(st.integers(1, 1200), max_size=12), st.integers(1, 10), st.integers())
def test_trees_that_are_picked_fit_the_room(sizes: list[int], limit: int, seed: int) -> None:
    trees = [
        [row(number * 10_000 + call, entry=number * 10_000) for call in range(size)]
        for number, size in enumerate(sizes, 1)
    ]
    picked = pick(trees, limit, random.Random(seed))
    assert picked.left_out == len(sizes) - len(picked.trees)
    assert len(picked.trees) <= limit
    assert bool(picked.trees) is bool(sizes)
    assert sum(map(len, picked.trees)) <= MOST
    assert [tree[0].call_id for tree in picked.trees] == sorted(
        tree[0].call_id for tree in picked.trees
    )
    for tree in picked.trees:
        size = sizes[tree[0].entry_id // 10_000 - 1]
        assert ids(tree) == list(range(tree[0].entry_id, tree[0].entry_id + min(size, MOST)))
        assert (tree[0].entry_id in picked.partial) is (size > MOST)


def test_trees_that_began_before_the_oldest_row_ended_may_lack_calls() -> None:
    rows = [row(8, started=10.0, duration=0.5), row(9, started=10.0, duration=0.6)]
    before = [row(1, started=10.4)]
    after = [row(2, started=10.6)]
    late = [row(4, entry=3, started=1.0)]
    assert outlived(rows, [before, after, late]) == [1]
    assert outlived([], [before]) == []


@pytest.mark.parametrize(
    ("position", "cursor", "kept", "found"),
    [(0, 0, 0, (0, 0)), (7, 7, 5, (0, 0)), (7, 4, 5, (3, 0)), (7, 2, 5, (5, 0)), (7, 0, 5, (5, 2)),
     (3, 0, 3, (3, 0))],
)  # fmt: skip
def test_rows_that_made_way_are_counted(
    position: int, cursor: int, kept: int, found: tuple[int, int]
) -> None:
    assert count_missing(position, cursor, kept) == found
