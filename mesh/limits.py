"""Every limit with its default, in one place.

A gateway's limits rule its whole mesh: peers learn those that concern them in the handshake.
What a field is (a duration, a size, a count) and its bounds stand in its type, so that
configuration is read, checked and shown from this table alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

from mesh.units import KIB, MIB, format_duration, format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FRAME = 0xFFFF_FFFF
"""The longest frame that its length, 32 bits, can announce."""
MAX_HEADER = 0xFFFF
"""The longest header that its length, 16 bits, can announce."""
HOP = 257 * 4 + 3
"""Bytes of one link of a chain in a header, at most: two names, the point, MessagePack's prefix."""
ADDED = 1024
"""Bytes that a gateway adds to a header besides the chain, at most: activity, caller, ids."""


class Bound(NamedTuple):
    """What the values of a limit are, and between which two they must be."""

    unit: str
    """``s``, ``B``, ``/s`` for a rate, or nothing for a count."""
    least: float
    most: float

    def parse(self, text: str) -> float:
        """A value from text: ``250ms``, ``16MiB``, ``1000``.

        Raises:
            ValueError: The text is none; the message is what should be there.
        """
        if self.unit == "s":
            return parse_duration(text)
        if self.unit == "B":
            return parse_size(text)
        if self.unit == "/s":
            return _parse_rate(text)
        if text.strip().lstrip("-").isdecimal():
            return int(text)
        raise ValueError("a whole number")

    def format(self, value: float) -> str:
        """A value as text that :meth:`parse` reads."""
        if not 0 <= value < inf:
            return f"{value:g}{self.unit.removeprefix('/s')}"
        if self.unit == "s":
            return format_duration(value)
        if self.unit == "/s":
            return f"{value:g}"
        return format_size(int(value)) if self.unit == "B" else str(value)

    def fault(self, value: float) -> str | None:
        """Why a value is out of bounds; None where it is within."""
        if self.least <= value <= self.most:
            return None
        if value != value:  # noqa: PLR0124 - only what is not a number differs from itself
            return "must be a number, not nan"
        less = value < self.least
        limit = self.format(self.least if less else self.most)
        return f"must be {limit} or {'more' if less else 'less'}, not {self.format(value)}"


def _parse_rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number") from None


_YEAR = 365 * 86400.0
Pause = Annotated[float, Bound("s", 0.0, _YEAR)]
Duration = Annotated[float, Bound("s", 0.001, _YEAR)]
Count = Annotated[int, Bound("", 1, 10**9)]
CountOrNone = Annotated[int, Bound("", 0, 10**9)]
Size = Annotated[int, Bound("B", 1, 2**40)]

LONGEST = 10 * 365 * 86_400.0
"""Seconds that stand for "no limit" on the wire: more would round to what no callee accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of a gateway and its peers. Durations are seconds, sizes are bytes.

    Raises:
        ValueError: A value is out of bounds, or two do not go together.
    """

    call_timeout: Duration = 30.0
    """What a call may take where nobody says otherwise."""
    max_depth: Annotated[int, Bound("", 1, 62)] = 16
    """Links of nested calls in one chain."""
    max_visits: Count = 3
    """How often one method may stand in one chain."""
    max_message: Size = 16 * MIB
    """The payload of one call or result."""
    max_chunk: Annotated[int, Bound("B", 16, MAX_FRAME - MAX_HEADER - 4)] = 64 * KIB
    """The payload of one frame; longer messages travel as several."""
    max_header: Annotated[int, Bound("B", 16, MAX_HEADER)] = 32 * KIB
    """The header of one frame."""
    max_outbox: Size = 32 * MIB
    """What may be queued for one connection."""
    max_in_flight: Count = 1000
    """Calls in flight at one instance."""
    max_waiting: CountOrNone = 1000
    """Calls that wait for a service that is not there yet."""
    max_assembly: Size = 256 * MIB
    """Bytes of half-arrived chunked messages that one peer holds."""
    max_methods: Count = 1_000
    """Methods that one connection may register."""
    max_schema: Size = 1 * MIB
    """Schemas of contracts that one connection may register."""
    max_connections: Count = 10_000
    """Connections of one gateway."""
    max_callers: CountOrNone = 1000
    """Distinct callers as metric labels; the rest share one label."""
    max_threads: Count = 64
    """Threads for plain functions in one peer."""
    handshake: Duration = 5.0
    """From connection to a whole HELLO."""
    heartbeat: Duration = 5.0
    """Between two heartbeats."""
    late_after: Count = 3
    """Missed heartbeats until an instance is late."""
    unresponsive_after: Count = 6
    """Missed heartbeats until an instance is unresponsive."""
    silent_after: Count = 12
    """Heartbeats without a byte until a TCP connection is closed."""
    reconnect_first: Duration = 0.05
    """The first pause before a new connection is tried; doubled each time, with full jitter."""
    reconnect_longest: Duration = 5.0
    """The longest such pause; a quarter of a second while a gateway is expected back."""
    service_wait: Pause = 5.0
    """How long a call waits for a connection or a service that should be there soon."""
    service_memory: Pause = 30.0
    """How long a service that has left is expected back."""
    drain: Pause = 10.0
    """What running calls are given before a shutdown ends them."""

    def __post_init__(self) -> None:
        for name, bound in BOUNDS.items():
            fault = bound.fault(getattr(self, name))
            if fault is not None:
                raise ValueError(f"{name} {fault}")
        for _, fault in disagreements({name: getattr(self, name) for name in BOUNDS}):
            raise ValueError(fault)


def disagreements(limits: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """Which limits do not go together: their names, and why."""
    found: list[tuple[tuple[str, ...], str]] = []
    for less, more in (
        ("late_after", "unresponsive_after"),
        ("unresponsive_after", "silent_after"),
    ):
        one, other = limits[less], limits[more]
        if one >= other:
            found.append(((less, more), f"{less} {one} must be less than {more} {other}"))
    if limits["reconnect_first"] > limits["reconnect_longest"]:
        first, longest = map(
            format_duration, (limits["reconnect_first"], limits["reconnect_longest"])
        )
        names = ("reconnect_first", "reconnect_longest")
        found.append((names, f"{names[0]} {first} must not exceed {names[1]} {longest}"))
    header, depth = limits["max_header"], limits["max_depth"]
    left = MAX_HEADER - ADDED - header
    if depth * HOP > left:
        fault = (
            f"max_header {header:,} leaves {max(left, 0):,} of a header's "
            f"{MAX_HEADER:,} bytes for the chain, and max_depth {depth} needs "
            f"{depth * HOP:,}"
        )
        found.append((("max_header", "max_depth"), fault))
    return found


BOUNDS: dict[str, Bound] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Limits, include_extras=True).items()
}
"""The bound of every limit, by its name."""
