"""The rows of a peer's process are found by trace, wherever they are held."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry.peer_records import GENERATION, MAX_AGE, PeerRecords, PeerRow, Source
from tests.telemetry.peer_rows import row

if TYPE_CHECKING:
    from types import FrameType

WEB = Source("web", lambda: 100.0)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.integers(1, 3 * GENERATION + 7),
    st.lists(st.frozensets(st.integers(0, 60), max_size=8), min_size=1, max_size=3),
)
def test_rows_are_found_newest_first(
    traces: list[int], rows: int, searches: list[frozenset[int]]
) -> None:
    """In several generations and the one that still grows, also when looked for in between."""
    records = PeerRecords(10 * GENERATION)
    added: list[PeerRow] = []
    for asked in searches:
        known = frozenset(number.to_bytes(16) for number in asked)
        for _ in range(rows):
            number = len(added)
            trace_id = (number * traces[number % len(traces)] % 61).to_bytes(16)
            added.append(row(WEB, number, 100.0, trace_id))
            records.add(added[-1])
        expected = [one for one in reversed(added) if one.trace_id in known]
        assert records.find(known) == expected


def test_rows_are_bounded_by_count_and_age() -> None:
    """And what has made way too early is counted."""
    now = 100.0
    web = Source("web", lambda: now)
    records = PeerRecords(5_000)
    for number in range(12_000):
        records.add(row(web, number, now))
    assert 4_500 <= len(records) <= 5_500
    assert records.dropped["too_many"] + len(records) == 12_000
    assert max(found.span_id for found in records.find(frozenset([b"t" * 16]))) == 11_999
    now += MAX_AGE - 1
    records.forget()
    dropped = records.dropped["too_many"]
    assert len(records) == 12_000 - dropped > 0
    now += MAX_AGE
    records.forget()
    assert (len(records), records.dropped["too_many"]) == (0, dropped)
    assert records.find(frozenset([b"t" * 16])) == []


def test_each_row_ages_by_the_clock_of_its_own_loop() -> None:
    """Every run of an event loop has its own; they may be days apart."""
    now = 5_000.0
    web = Source("web", lambda: now)
    jobs = Source("jobs", lambda: now + 1e6)
    records = PeerRecords()
    records.add(row(web, 1, now))
    records.forget()
    records.add(row(jobs, 2, now + 1e6))
    records.forget()
    now += MAX_AGE - 1
    records.forget()
    assert len(records) == 2
    records.add(row(web, 3, now))
    now += 2
    records.forget()
    assert [found.span_id for found in records.find(frozenset([b"t" * 16]))] == [3]


def test_two_threads_that_forget_at_once_drop_what_is_old_once() -> None:
    """Whichever is second finds what is young."""
    records = PeerRecords()
    now, others = 5_000.0, [threading.Thread(target=records.forget)]

    def clock() -> float:
        if now > 5_000 and others:
            other = others.pop()
            other.start()
            other.join(0.2)  # it waits for us, or has been let in where it should not
            started.append(other)
        return now

    started: list[threading.Thread] = []
    web = Source("web", clock)
    records.add(row(web, 1, now))
    records.forget()
    now += MAX_AGE + 1
    records.add(row(web, 2, now))
    records.forget()
    started[0].join()
    assert [found.span_id for found in records.find(frozenset([b"t" * 16]))] == [2]
    assert len(records) == 1


def test_a_row_of_a_thread_that_was_held_up_is_counted_and_found() -> None:
    """It comes into a generation that has ended meanwhile, and has been looked through."""
    records = PeerRecords(2 * GENERATION)
    held_up, go_on = threading.Event(), threading.Event()
    late = b"l" * 16

    def add() -> None:
        def stop(frame: FrameType, event: str, _: Any) -> Any:
            adds = event == "line" and frame.f_code is PeerRecords.add.__code__
            if adds and "rows" in frame.f_locals and not held_up.is_set():
                held_up.set()  # it knows where to add, and has not yet
                go_on.wait(30)
            return stop

        sys.settrace(stop)
        records.add(row(WEB, 1, 100.0, late))

    other = threading.Thread(target=add)
    other.start()
    assert held_up.wait(30)
    for number in range(GENERATION + 1):
        records.add(row(WEB, number, 100.0))
    assert records.find(frozenset([late])) == []
    go_on.set()
    other.join()
    assert [found.trace_id for found in records.find(frozenset([late]))] == [late]
    added = GENERATION + 2
    assert len(records) == added
    while not records.dropped["too_many"]:
        records.add(row(WEB, added, 100.0))
        added += 1
    assert records.dropped["too_many"] == GENERATION + 1
    assert len(records) == added - GENERATION - 1
