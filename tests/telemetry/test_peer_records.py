"""The rows of a peer's process are found by trace, wherever they are held."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry.peer_records import GENERATION, PeerRecords, PeerRow
from mesh_telemetry.spans import CLIENT


def row(number: int, trace_id: bytes) -> PeerRow:
    return PeerRow(
        trace_id, "web", CLIENT, number, b"", "users.get", 1.0, 0.0, float(number), 0, "", "", "",
        None, (), "web", 1, None,
    )  # fmt: skip


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
            added.append(row(number, (number * traces[number % len(traces)] % 61).to_bytes(16)))
            records.add(added[-1])
        expected = [one for one in reversed(added) if one.trace_id in known]
        assert records.find(known) == expected
