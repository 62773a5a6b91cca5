"""The rows of a peer's process are found by trace, wherever they are held."""

from __future__ import annotations

import sys
import threading

from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry.peer_records import GENERATION, MAX_AGE, PeerRecords, PeerRow, Source
from tests.telemetry.peer_rows import row

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


def test_rows_of_several_threads_are_held_within_the_bounds() -> None:
    """What is accounted is there, whoever adds and forgets at the same time."""
    records = PeerRecords(4 * GENERATION)
    threads, each = 4, 20_000

    def add(number: int) -> None:
        for count in range(each):
            records.add(row(WEB, number * each + count, 100.0))
            if count % 50 == 0:
                records.forget()

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=add, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(switching)
    found = records.find(frozenset([b"t" * 16]))
    # A row that is added while its generation closes is there, and not in the account.
    assert len(records) <= len(found) <= len(records) + threads * (len(found) // 10)
    assert len(records) <= 5 * GENERATION
    assert records.dropped["too_many"] + len(records) <= threads * each
    assert len({one.span_id for one in found}) == len(found)
