"""How much may be held of records, spans and traces, in each place where they wait.

What users' code and other processes put into them has any size, so every place is bounded by bytes
as well as by number. What makes way is counted, with its reason.
"""

from __future__ import annotations

MIB = 1 << 20

RECORDS, RECORD_BYTES = 20_000, 32 * MIB
"""Rows of ended calls in a peer's process, and what handlers have put into the spans of these."""
CALL_LINES, CALL_LINES_BYTES = 100, 64 << 10
"""Log lines that are kept of one call; those of a call that has ended count with its record."""
RUNNING_LINES_BYTES = 16 * MIB
"""Log lines of all calls that run, in a peer's process."""
USER_SPANS, USER_SPAN_BYTES = 5_000, 32 * MIB
"""Spans that users' code made, in a peer's process."""
UNTOLD, UNTOLD_BYTES = 5_000, 16 * MIB
"""Rows, and as many spans of users, that a peer has yet to tell a gateway that does not read."""
STORE_SPANS, STORE_BYTES = 20_000, 128 * MIB
"""Spans in a gateway's store, unless its settings say otherwise."""
GATEWAY_ROWS = 50_000
"""Rows of traces in a gateway that go on or ended a moment ago, or wait for their spans to be
built. All texts of a row are bounded: it takes less than a kilobyte mostly, and 9 at most."""
EXPORT_BYTES = 64 * MIB
"""Spans that wait for a backend."""
