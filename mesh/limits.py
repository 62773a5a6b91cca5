"""Every limit with its default, in one place.

A gateway's limits rule its whole mesh: peers learn those that concern them in the handshake.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB

LONGEST = 10 * 365 * 86_400.0
"""Seconds that stand for "no limit" on the wire: more would round to what no callee accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of a gateway and its peers. Durations are seconds, sizes are bytes."""

    call_timeout: float = 30.0
    """What a call may take where nobody says otherwise."""
    max_depth: int = 16
    """Links of nested calls in one chain."""
    max_visits: int = 3
    """How often one method may stand in one chain."""
    max_message: int = 16 * MIB
    """The payload of one call or result."""
    max_chunk: int = 64 * KIB
    """The payload of one frame; longer messages travel as several."""
    max_header: int = 32 * KIB
    """The header of one frame."""
    max_outbox: int = 32 * MIB
    """What may be queued for one connection."""
    max_in_flight: int = 1000
    """Calls in flight at one instance."""
    max_waiting: int = 1000
    """Calls that wait for a service that is not there yet."""
    max_assembly: int = 256 * MIB
    """Bytes of half-arrived chunked messages that one peer holds."""
    max_methods: int = 1_000
    """Methods that one connection may register."""
    max_connections: int = 10_000
    """Connections of one gateway."""
    max_callers: int = 1000
    """Distinct callers as metric labels; the rest share one label."""
    max_threads: int = 64
    """Threads for plain functions in one peer."""
    handshake: float = 5.0
    """From connection to a whole HELLO."""
    heartbeat: float = 5.0
    """Between two heartbeats."""
    late_after: int = 3
    """Missed heartbeats until an instance is late."""
    unresponsive_after: int = 6
    """Missed heartbeats until an instance is unresponsive."""
    silent_after: int = 12
    """Heartbeats without a byte until a TCP connection is closed."""
    reconnect_first: float = 0.05
    """The first pause before a new connection is tried; doubled each time, with full jitter."""
    reconnect_longest: float = 5.0
    """The longest such pause."""
    service_wait: float = 5.0
    """How long a call waits for a connection or a service that should be there soon."""
    service_memory: float = 30.0
    """How long a service that has left is expected back."""
    drain: float = 10.0
    """What running calls are given before a shutdown ends them."""
