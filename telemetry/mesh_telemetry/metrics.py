"""Counting on the path of every call, in plain integers.

A call costs one :meth:`CallSeries.ended`; prometheus_client's ``labels(...).inc()`` alone costs
more. Nothing here locks: one event loop counts and
reads. How the figures become text is :mod:`mesh_telemetry.exposition`'s business.
"""

from __future__ import annotations

from bisect import bisect_left
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from mesh_telemetry.names import CODE_NAMES, DURATION_BOUNDS, OTHER
from mesh_telemetry.quantiles import quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh_telemetry.exemplars import Exemplar


class MethodSeries:
    """The counts of one method, over all callers.

    Attributes:
        service: Label value of ``rpc_service``.
        method: Label value of ``rpc_method``.
        name: Both, ``users.get``, or ``_OTHER``: never a name that only a call told, so that it may
            be a key of what must not grow.
        buckets: Calls by duration, *not* cumulated: one count per bound of
            :data:`~mesh_telemetry.names.DURATION_BOUNDS`, and one for what is longer than all.
        duration_sum: Seconds, over all observed calls.
        in_flight: Calls accepted that have no outcome yet; the gateway moves it by hand.
        abandoned: Calls whose caller was gone before the outcome.
        late: Results that came after the outcome.
        objective: Seconds within which it should answer, or None where nobody has said.
        slow_after: Seconds from which on a call of it is slow; whoever samples traces sets it, see
            :class:`~mesh_telemetry.slowness.SlowMethods`.
        baseline_from: When the baseline of traces may be asked for this method again; likewise.
        exemplars: Calls of it in kept traces, by the index of the bucket that counts them; see
            :class:`~mesh_telemetry.exemplars.Exemplars`, which sets them.
    """

    __slots__ = (
        "abandoned",
        "baseline_from",
        "buckets",
        "duration_sum",
        "exemplars",
        "in_flight",
        "late",
        "method",
        "name",
        "objective",
        "service",
        "slow_after",
    )

    def __init__(self, service: str, method: str) -> None:
        self.service = service
        self.method = method
        self.name = OTHER if service == OTHER else f"{service}.{method}"
        self.buckets = [0] * (len(DURATION_BOUNDS) + 1)
        self.duration_sum = 0.0
        self.in_flight = 0
        self.abandoned = 0
        self.late = 0
        self.objective: float | None = None
        self.slow_after = inf
        self.baseline_from = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, seconds: float) -> None:
        """Count a call that took ``seconds``. A bucket includes its upper bound, as ``le`` says."""
        self.buckets[bisect_left(DURATION_BOUNDS, seconds)] += 1
        self.duration_sum += seconds


class CallSeries:
    """The counts of one method as called by one caller.

    Attributes:
        method: The method's own series, shared by all its callers.
        caller: Label value of ``caller``.
        codes: Ended attempts by status code number (0 is ok), refused ones included.
        buckets: Calls by duration, as in :class:`MethodSeries`; refused ones are left out.
        duration_sum: Seconds, over the calls in ``buckets``.
    """

    __slots__ = ("buckets", "caller", "codes", "duration_sum", "method")

    def __init__(self, method: MethodSeries, caller: str) -> None:
        self.method = method
        self.caller = caller
        self.codes = [0] * len(CODE_NAMES)
        self.buckets = [0] * (len(DURATION_BOUNDS) + 1)
        self.duration_sum = 0.0

    def ended(self, code: int, seconds: float) -> None:
        """Count the end of a call that was in flight, here and in the method's own series."""
        bucket = bisect_left(DURATION_BOUNDS, seconds)
        self.codes[code] += 1
        self.buckets[bucket] += 1
        self.duration_sum += seconds
        method = self.method
        method.in_flight -= 1
        method.buckets[bucket] += 1
        method.duration_sum += seconds


class MethodSummary(NamedTuple):
    """What one method has done since the start. Quantiles are seconds, None before any call."""

    calls: int
    """Ended attempts, refused ones included."""
    errors: dict[str, int]
    """Those of them that did not end with ok, by the code's name; no zeros."""
    in_flight: int
    p50: float | None
    p95: float | None
    p99: float | None


def errors_of(codes: Sequence[int]) -> dict[str, int]:
    """Of counts by status code number, those that are not ok, by the code's name; no zeros."""
    return {CODE_NAMES[number]: count for number, count in enumerate(codes) if count and number}


class CallMetrics:
    """All call series of a gateway, created when first asked for and kept for the process's life.

    Every dimension is bounded, so that no peer can make the gateway grow: what exceeds a bound is
    counted under :data:`~mesh_telemetry.names.OTHER` instead, and never lost.

    Args:
        max_callers: Distinct caller labels.
        max_methods: Distinct pairs of service and method.
        max_series: Distinct triples of caller, service and method.

    Attributes:
        slow_after: Seconds from which on a call is slow, of methods that are new.
    """

    def __init__(
        self, max_callers: int = 1000, *, max_methods: int = 10_000, max_series: int = 100_000
    ) -> None:
        self._max_callers = max_callers
        self._max_methods = max_methods
        self._max_series = max_series
        self._callers: set[str] = set()
        self.slow_after = inf
        self._methods: dict[tuple[str, str], MethodSeries] = {}
        self._calls: dict[tuple[str, str, str], CallSeries] = {}
        self._deprecated: dict[MethodSeries, dict[CallSeries, int]] = {}

    def caller(self, name: str) -> str:
        """The label value for a caller: its name, or ``_OTHER`` once there are too many.

        Ask once per connection and keep the answer, also for :meth:`GatewayCounters.reject`.
        """
        if name in self._callers:
            return name
        if name == OTHER or len(self._callers) >= self._max_callers:
            return OTHER
        self._callers.add(name)
        return name

    def method(self, service: str, method: str) -> MethodSeries:
        """The series of a method; asked at registration, it shows zeros before the first call.

        Args:
            service: A registered service's name, or ``_OTHER``.
            method: A registered method's name, or ``_OTHER``.
        """
        found = self._methods.get((service, method))
        if found is None:
            # The catch-all itself may exceed the bound by one.
            if len(self._methods) >= self._max_methods:
                service = method = OTHER
                found = self._methods.get((OTHER, OTHER))
            if found is None:
                found = self._methods[service, method] = MethodSeries(service, method)
                found.slow_after = self.slow_after
        return found

    def series(self, caller: str, service: str, method: str) -> CallSeries:
        """The series of a method as called by a caller. Keep it: its counts are bumped in place.

        Args:
            caller: The calling peer's name, whatever it is.
            service: A registered service's name, or ``_OTHER``: never a name that only a call told.
            method: A registered method's name, or ``_OTHER``.
        """
        found = self._calls.get((caller, service, method))
        if found is None:
            of_method = self.method(service, method)
            label = self.caller(caller)
            if len(self._calls) >= self._max_series:
                label = OTHER
            key = (label, of_method.service, of_method.method)
            found = self._calls.get(key)
            if found is None:
                found = self._calls[key] = CallSeries(of_method, label)
        return found

    def declare(
        self, service: str, method: str, *, objective: float | None, deprecated: bool
    ) -> None:
        """What is said of a method when it is registered; of several who do, the last one counts.

        Args:
            service: The registered service's name.
            method: The registered method's name.
            objective: Seconds within which it should answer, if that is said.
            deprecated: Whether calls of it are to be counted as such from now on, for good.
        """
        found = self._methods.get((service, method))
        if found is None:
            if objective is None and not deprecated:
                return
            found = self.method(service, method)
        if found.name == OTHER:  # shared by methods of which nobody has said so
            return
        if found.objective != objective:
            found.objective = objective
            found.slow_after = self.slow_after if objective is None else objective
        if deprecated and found not in self._deprecated:
            own = (series for series in self._calls.values() if series.method is found)
            self._deprecated[found] = {series: sum(series.codes) for series in own}

    def deprecated(self) -> list[tuple[CallSeries, int]]:
        """How often each caller has called deprecated methods since they were declared so."""
        if not self._deprecated:
            return []
        counted = (
            (series, sum(series.codes) - self._deprecated[series.method].get(series, 0))
            for series in self._calls.values()
            if series.method in self._deprecated
        )
        return [(series, count) for series, count in counted if count]

    def counted_in(self, service: str, method: str) -> MethodSeries | None:
        """The series in which calls of a method are counted, of any name; None before the first."""
        return self._methods.get((service, method)) or self._methods.get((OTHER, OTHER))

    def methods(self) -> tuple[MethodSeries, ...]:
        """All methods' series at this moment, oldest first."""
        return tuple(self._methods.values())

    def calls(self) -> tuple[CallSeries, ...]:
        """All callers' series at this moment, oldest first."""
        return tuple(self._calls.values())

    def ended(self) -> int:
        """Attempts that have ended, over all series; see :meth:`Recorder.dropped`."""
        return sum(sum(series.codes) for series in self._calls.values())

    def snapshot(self, service: str | None = None) -> dict[tuple[str, str], MethodSummary]:
        """Figures for people, by (service, method).

        Args:
            service: Only this service's methods; every service's where None.
        """
        codes = {
            key: [0] * len(CODE_NAMES)
            for key in self._methods
            if service is None or key[0] == service
        }
        for series in self._calls.values():
            totals = codes.get((series.method.service, series.method.method))
            if totals is not None:
                for number, count in enumerate(series.codes):
                    if count:
                        totals[number] += count
        found: dict[tuple[str, str], MethodSummary] = {}
        for key, totals in codes.items():
            method = self._methods[key]
            found[key] = MethodSummary(
                sum(totals),
                errors_of(totals),
                method.in_flight,
                *(
                    quantile(method.buckets, q, total=method.duration_sum)
                    for q in (0.5, 0.95, 0.99)
                ),
            )
        return found


class GatewayCounters:
    """What a gateway counts besides calls; it bumps the integers itself.

    Attributes:
        rejected: Refused calls by (caller, service, reason); see :meth:`reject`.
        depths: Calls that ended by their depth; its length bounds the depth. Refused ones are left
            out.
        connections_opened: Connections that finished the handshake.
        connections_closed: Connections that ended after the handshake.
        connections_refused: Connections closed before the end of the handshake.
        protocol_errors: Connections closed for malformed input.
        tls_handshakes_failed: TLS handshakes that did not succeed, by reason.
    """

    __slots__ = (
        "connections_closed",
        "connections_opened",
        "connections_refused",
        "depths",
        "protocol_errors",
        "rejected",
        "tls_handshakes_failed",
    )

    def __init__(self, max_depth: int = 16) -> None:
        self.depths = [0] * (max_depth + 1)
        self.rejected: dict[tuple[str, str, str], int] = {}
        self.connections_opened = 0
        self.connections_closed = 0
        self.connections_refused = 0
        self.protocol_errors = 0
        self.tls_handshakes_failed: dict[str, int] = {}

    def fail_tls_handshake(self, reason: str) -> None:
        """Count a TLS handshake that failed; ``reason`` is one of a few words."""
        self.tls_handshakes_failed[reason] = self.tls_handshakes_failed.get(reason, 0) + 1

    def reject(self, caller: str, service: str, reason: str) -> None:
        """Count a refused call.

        Args:
            caller: A label from :meth:`CallMetrics.caller`, which bounds their number.
            service: A registered service's name, or ``_OTHER``.
            reason: One of the mesh's own stable reasons, never a user's text.
        """
        key = (caller, service, reason)
        self.rejected[key] = self.rejected.get(key, 0) + 1
