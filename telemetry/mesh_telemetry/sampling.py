"""Which traces are kept: decided by what happened in them (tail sampling), within bounds.

A trace is kept at once when something in it gives a reason (an error, a late answer), and otherwise
at the end of its entry call by a baseline, so that a quiet mesh keeps all. Every reason and method
has a quota, and the whole has a cap in spans, so that an outage cannot drown the mesh in its own
traces. All bounds are token buckets that hold one second's worth, kept as the one number of the
generic cell rate algorithm (ITU-T I.371): the moment at which the bucket will be full again. A
bucket that is full is thus the same as one that is not there, and forgetting it costs nothing.

A quota is a rate, and its bucket is full after a quiet second. So of twenty errors within one
second a quota of five keeps up to ten: five at once, and five as tokens come. That is meant: the
first traces of an incident are worth most, and over any time of t seconds no more than the quota
times t + 1 are kept. A bound for each second by the clock would let as many through in two
neighbouring halves.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf, isnan
from typing import TYPE_CHECKING

import msgspec

from mesh_telemetry.bounds import MIB, STORE_BYTES, STORE_SPANS
from mesh_telemetry.names import DROPPED, OTHER, OVER_CAP, OVER_QUOTA

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_METHODS = 1000
"""Methods that have a bucket of their own per reason; what exceeds it shares ``_OTHER``'s."""

MAX_DEBT = 3.0
"""Seconds' worth of spans that can be spent at most: a few huge traces must not keep every error of
the next minute out."""

_ROUNDING = 1e-6
"""Seconds by which sums of floats may be off; without it, five fifths exceed one."""


class Reason(StrEnum):
    """Why a trace is kept."""

    ERROR = "error"
    """A call in it failed."""
    REFUSED = "refused"
    """The gateway turned a call away."""
    CANCELLED = "cancelled"
    """A call was cancelled, or its caller went away."""
    SLOW = "slow"
    """A call took longer than its method usually does."""
    LATE = "late"
    """A result came after its call had ended."""
    FORCED = "forced"
    """Somebody asked for it."""
    BASELINE = "baseline"
    """Nothing special: so many of each method are kept."""


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What rules the keeping of traces.

    Raises:
        ValueError: A value is out of bounds; the message has the field, the bound and the value.
    """

    baseline: float = 10.0
    """Traces kept per second for each method of entry calls, whatever they are; 0 for none."""
    quota: float = 10.0
    """Traces kept per second for each reason and method; 0 for none."""
    max_spans_per_second: float = 2000.0
    """Spans kept per second over all, from all processes."""
    slow_after: float = 1.0
    """Seconds from which on a call is slow, whatever its method usually takes."""
    store_spans: int = STORE_SPANS
    """Spans in the gateway's store."""
    store_bytes: int = STORE_BYTES
    """Bytes that these may take there."""

    def __post_init__(self) -> None:
        for field, least in (
            ("baseline", 0),
            ("quota", 0),
            ("max_spans_per_second", 1),
            ("slow_after", 0.001),
            ("store_spans", 100),
            ("store_bytes", MIB),
        ):
            value = getattr(self, field)
            if isnan(value) or value < least:
                raise ValueError(f"{field} must be {least:g} or more, not {value:g}")


class Buckets:
    """Token buckets of one rate by key, in bounded number. Each holds one second's tokens, or one.

    Args:
        rate: Tokens per second; 0 for never any, ``inf`` for always.
        max_keys: Keys that have a bucket of their own; the others share that of ``_OTHER``.
    """

    __slots__ = ("_full_at", "_interval", "_max_keys", "_swept", "_tolerance")

    def __init__(self, rate: float, max_keys: int = MAX_METHODS) -> None:
        self._interval = 1.0 / rate if rate else inf
        # How far ahead "full again" may lie for a token to be there. Negative: never.
        self._tolerance = max(0.0, 1.0 - self._interval) + _ROUNDING if rate else -1.0
        self._max_keys = max_keys
        self._full_at: dict[str, float] = {}
        self._swept = -inf

    def __len__(self) -> int:
        return len(self._full_at)

    def has(self, key: str, now: float) -> bool:
        """Whether a token is there.

        Args:
            key: Whose bucket.
            now: Seconds on a clock that does not go back.
        """
        full_at = self._full_at.get(key)
        if full_at is None:
            if len(self._full_at) >= self._max_keys:
                full_at = self._full_at.get(self._crowded(key, now), now)
            else:
                return self._tolerance >= 0.0
        return full_at - now <= self._tolerance

    def take(self, key: str, now: float) -> None:
        """Take a token; only after :meth:`has` said at the same moment that there is one."""
        full_at = self._full_at
        if key not in full_at and len(full_at) >= self._max_keys:
            key = self._crowded(key, now)
        full_at[key] = max(full_at.get(key, now), now) + self._interval

    def _crowded(self, key: str, now: float) -> str:
        """Whose bucket a new key uses where all are taken; full ones are forgotten now and then."""
        if now - self._swept >= 1.0:
            self._swept = now
            self._full_at = {name: at for name, at in self._full_at.items() if at > now}
            if len(self._full_at) < self._max_keys:
                return key
        return OTHER


class Sampler:
    """Decides which traces are kept.

    Args:
        settings: The rates.
        clock: Seconds, never going back: :func:`time.monotonic` or :func:`trio.current_time`.

    Attributes:
        counts: Traces by decision, the values of the label of ``mesh_traces_total``. All are there
            from the beginning.
        refusal: Why the last :meth:`wants` or :meth:`baseline` said no: ``over_quota``,
            ``over_cap`` or ``dropped``; :meth:`dropped` wants to hear it when the trace has ended.
    """

    __slots__ = ("_again", "_buckets", "_clock", "_interval", "_spent_until", "counts", "refusal")

    def __init__(self, settings: TraceSettings, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets = {
            reason: Buckets(settings.baseline if reason is Reason.BASELINE else settings.quota)
            for reason in Reason
        }
        self._again = Buckets(settings.quota)
        # The cap, in the same form: the moment at which its bucket will be full again.
        self._interval = 1.0 / settings.max_spans_per_second
        self._spent_until = -inf
        self.counts = {f"kept_{reason}": 0 for reason in Reason} | {
            DROPPED: 0,
            OVER_QUOTA: 0,
            OVER_CAP: 0,
        }
        self.refusal = DROPPED

    def wants(self, reason: Reason, method: str, *, again: bool = False) -> bool:
        """Whether to keep a trace for this reason. If so it is counted as kept.

        Ask until a trace is kept, not again after that. A forced trace has one quota over all
        methods, and is kept even where too many spans have been kept.

        Args:
            reason: What speaks for it.
            method: The method of the call that gives the reason, ``users.get``, or ``_OTHER``.
            again: Whether the same was asked before, as the reason lasts: such traces have a quota
                of their own, and take nothing from those that come new.
        """
        now = self._clock()
        buckets = self._again if again else self._buckets[reason]
        if reason is Reason.FORCED:
            method = OTHER
        if not buckets.has(method, now):
            self.refusal = DROPPED if reason is Reason.BASELINE else OVER_QUOTA
            return False
        if self._spent_until - now >= 1.0 and reason is not Reason.FORCED:
            self.refusal = OVER_CAP
            return False
        buckets.take(method, now)
        self.counts[_KEPT[reason]] += 1
        return True

    def baseline(self, method: str) -> bool:
        """Whether to keep a trace that nothing else has kept, when its entry call has ended.

        Args:
            method: The entry call's method, or ``_OTHER``.
        """
        return self.wants(Reason.BASELINE, method)

    def spent(self, spans: int) -> None:
        """Count spans of kept traces against the cap, whichever process they are from.

        They are there already, so they are never refused; what goes beyond the cap is a debt, and
        nothing but forced traces is kept until it is paid.
        """
        now = self._clock()
        spent_until = max(self._spent_until, now) + spans * self._interval
        self._spent_until = min(spent_until, now + MAX_DEBT)

    def dropped(self, *, over: str | None = None) -> None:
        """Count a trace that ended unkept.

        Args:
            over: The :attr:`refusal` of a reason that it had; None where it had none, or the
                baseline's.

        Raises:
            ValueError: ``over`` is none of the values of :attr:`refusal`.
        """
        if over not in {None, DROPPED, OVER_QUOTA, OVER_CAP}:
            raise ValueError(f"{over!r} is neither {DROPPED}, {OVER_QUOTA} nor {OVER_CAP}")
        self.counts[over or DROPPED] += 1


_KEPT = {reason: f"kept_{reason}" for reason in Reason}
