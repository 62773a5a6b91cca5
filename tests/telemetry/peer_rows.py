"""Rows of a peer as tests make them up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_telemetry.peer_records import PeerRow, Source
from mesh_telemetry.spans import CLIENT

if TYPE_CHECKING:
    from mesh_telemetry.callspan import CallSpan

TRACE = b"t" * 16


def row(
    source: Source,
    number: int,
    end: float,
    trace_id: bytes = TRACE,
    touched: CallSpan | None = None,
) -> PeerRow:
    """A call that took a second, with its number as its span's id."""
    return PeerRow(
        trace_id, source, CLIENT, number, b"", "users.get", 1.0, end - 1, end, 0, "", "", "", None,
        (), source.name, 1, touched,
    )  # fmt: skip
