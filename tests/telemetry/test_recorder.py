"""The bounded buffer of records."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry import Record, Recorder


def row(call_id: int, *, entry_id: int = 1, activity_id: str = "a") -> Record:
    return Record(
        call_id,
        0,
        entry_id,
        bytes(16),
        activity_id,
        "orders",
        "host-1",
        bytes(8),
        77,
        "users",
        "get",
        "7f",
        ("users.get",),
        1,
        10.5,
        0.002,
        30.0,
        0.0,
        0,
        "",
        "",
        False,
        (),
        (),
    )


def test_records_are_found_by_activity_and_by_entry_call() -> None:
    recorder = Recorder()
    for call_id, entry_id, activity in [(1, 1, "a"), (2, 1, "a"), (3, 3, "a"), (4, 4, "b")]:
        recorder.append(row(call_id, entry_id=entry_id, activity_id=activity))
    assert [record.call_id for record in recorder.by_activity("a")] == [1, 2, 3]
    assert [record.call_id for record in recorder.by_entry(1)] == [1, 2]
    assert recorder.by_activity("c") == []
    assert recorder.by_entry(9) == []


@given(count=st.integers(0, 30), capacity=st.integers(1, 10), wanted=st.integers(0, 40))
def test_only_the_last_records_are_kept(count: int, capacity: int, wanted: int) -> None:
    recorder = Recorder(capacity)
    for call_id in range(count):
        recorder.append(row(call_id))
    kept = min(count, capacity)
    assert len(recorder) == kept
    assert recorder.capacity == capacity
    assert recorder.dropped(count) == count - kept
    newest_first = list(range(count - 1, count - 1 - kept, -1))
    assert [record.call_id for record in recorder.recent(wanted)] == newest_first[:wanted]


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity 0 is less than 1"):
        Recorder(0)


def test_the_garbage_collector_does_not_track_rows() -> None:
    """Otherwise each full pass would stop the loop for milliseconds."""
    one = row(1)
    recorder = Recorder()
    recorder.append(one)
    gc.collect()
    assert not gc.is_tracked(one)
