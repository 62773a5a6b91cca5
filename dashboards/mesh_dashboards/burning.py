"""Rules for the objectives of contracts: error ratios, budgets and burn-rate alerts.

The windows and burn rates are those of the Google SRE workbook, chapter 5, "Multiwindow,
Multi-Burn-Rate Alerts" (https://sre.google/workbook/alerting-on-slos/), for a budget of 30 days. A
page has spent 2 % of it within an hour or 5 % within six, a ticket 10 % within one day or three.

Ratios over more than five minutes are made of the recorded rates over five: a sum of misses over a
sum of calls, so that every call counts the same, at the cost of one series of one sample a minute.
Nobody is paged for a few calls, however large a part of all they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mesh_dashboards.promql import FAULTS, Group, Rule, Scope, quoted, record
from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHORT: Final = ("5m", "30m", "1h", "2h", "6h")
LONG: Final = ("1d", "3d", "30d")
WINDOWS: Final = SHORT + LONG
PAGE: Final = (("5m", "1h", 14.4), ("30m", "6h", 6.0))
"""Short window, long window and the burn rate that both must exceed."""
TICKET: Final = (("2h", "1d", 3.0), ("6h", "3d", 1.0))
FEW: Final = 5
"""Misses within the long window that are too few to page anybody."""

_EVERY: Final = "1m"
"""How often rates are recorded, so that their sum times this is a number of calls."""

CALLS: Final = "mesh:slo_calls:rate5m"
MISSES: Final = "mesh:slo_misses:rate5m"
ERRORS: Final = "mesh:slo_errors:ratio_rate"
"""The part of the calls that missed, over a window that the name ends in, such as ``5m``."""
OBJECTIVE: Final = "mesh:slo_objective:ratio"
"""The part of the calls that shall be good, by service, method and objective."""
BUDGET_LEFT: Final = "mesh:slo_budget_left:ratio"


class Promise(NamedTuple):
    """What the contract of a service promises of one method."""

    service: str
    method: str
    success: float | None
    """The part of calls that must not fail; None where nothing is promised."""
    within: float | None
    """Seconds within which calls should end, likewise."""
    target: float
    """The part of calls that must end within these."""

    @property
    def bucket(self) -> float | None:
        """The bound that stands for :attr:`within`: the nearest bucket at or above it.

        So no call that is in time ever counts as a miss. None where there is no such bucket.
        """
        if self.within is None:
            return None
        return next((bound for bound in names.DURATION_BOUNDS if bound >= self.within), None)

    def warnings(self) -> Iterator[str]:
        """What the rules cannot do as the contract says."""
        name, bucket = f"{self.service}.{self.method}", self.bucket
        if self.within is not None and bucket is None:
            yield (
                f"{name}: its {self.within:g} s are above the longest bucket of "
                f"{names.CALL_DURATION.name}, {names.DURATION_BOUNDS[-1]:g} s: there is no rule "
                "for its latency"
            )
        elif bucket != self.within:
            yield (
                f"{name}: its {self.within:g} s are no bucket of {names.CALL_DURATION.name}: calls "
                f"count as slow above the next one, {bucket:g} s"
            )
        for objective in self.objectives():
            burn = PAGE[-1][-1]
            if burn * objective.allowed >= 1:
                yield (
                    f"{name}: a {objective.slo} objective of {objective.target:g} cannot be missed "
                    f"{burn:g} times as often as allowed, so that no alert of it pages"
                )

    def objectives(self) -> Iterator[Objective]:
        """The objectives that rules can be made of."""
        if self.success is not None:
            yield Objective(self, "success", self.success)
        if self.bucket is not None:
            yield Objective(self, "latency", self.target)


class Objective(NamedTuple):
    """One of a method: ``success`` or ``latency``."""

    promise: Promise
    slo: str
    target: float

    @property
    def allowed(self) -> float:
        """The part of calls that may miss it, without what floating point adds to that."""
        return round(1 - self.target, 12)

    @property
    def labels(self) -> dict[str, str]:
        """Those of its rules. Each has all of them, as promtool wants no two rules to be alike."""
        promise = self.promise
        return {"rpc_service": promise.service, "rpc_method": promise.method, "slo": self.slo}

    @property
    def matchers(self) -> list[str]:
        """Those of its recorded series."""
        return [f"{name}={quoted(value)}" for name, value in self.labels.items()]


def burning(promises: Sequence[Promise], scope: Scope) -> list[Group]:
    """The groups of rules for the methods of contracts; none where nothing is promised."""
    objectives = [one for promise in promises for one in promise.objectives()]
    if not objectives:
        return []
    base = [rule for one in objectives for rule in _base(one, scope)]
    errors = {window: _errors(window, scope) for window in WINDOWS}
    left = record(
        BUDGET_LEFT,
        f"1 - {scope.select(f'{ERRORS}30d')}\n/ (1 - {scope.select(OBJECTIVE)})",
    )
    return [
        {
            "name": "mesh-objectives",
            "interval": scope.span(_EVERY),
            "rules": [*base, *(errors[window] for window in SHORT)],
        },
        {
            "name": "mesh-objectives-long",
            # They change slowly and cost most, and are seen for five minutes.
            "interval": scope.span("2m"),
            "rules": [*(errors[window] for window in LONG), left],
        },
        {
            "name": "mesh-objectives-burn",
            "rules": [rule for one in objectives for rule in _alerts(one, scope)],
        },
    ]


def _base(objective: Objective, scope: Scope) -> Iterator[Rule]:
    method, by = objective.matchers[:2], "job, rpc_service, rpc_method"

    def rate(name: str, *more: str) -> str:
        return scope.rate(scope.select(name, *method, *more), "5m", by)

    counted = f"sum by ({by}) ({scope.select(CALLS, *objective.matchers)})"
    if objective.slo == "success":
        calls = rate(names.CALLS.name)
        # Counters of codes come with the first call that ends so: until then it is none.
        misses = f"{rate(names.CALLS.name, f'code=~{quoted(FAULTS)}')}\nor 0 * {counted}"
    else:
        duration = names.CALL_DURATION.name
        calls = rate(f"{duration}_count")
        in_time = rate(f"{duration}_bucket", f'le="{objective.promise.bucket!r}"')
        misses = f"clamp_min(\n  {counted}\n  - {in_time},\n  0\n)"
    yield record(CALLS, calls, **objective.labels)
    yield record(MISSES, misses, **objective.labels)
    yield record(OBJECTIVE, f"vector({objective.target!r})", job=scope.job, **objective.labels)


def _errors(window: str, scope: Scope) -> Rule:
    misses, calls = scope.select(MISSES), scope.select(CALLS)
    if window != "5m":
        span = scope.span(window)
        misses, calls = f"sum_over_time({misses}[{span}])", f"sum_over_time({calls}[{span}])"
    # Where nobody calls, nothing is missed, and there is no ratio.
    return record(f"{ERRORS}{window}", f"{misses}\n/ ({calls} > 0)")


def _alerts(objective: Objective, scope: Scope) -> Iterator[Rule]:
    promise = objective.promise
    name = f"{promise.service}.{promise.method}"
    allowed = f"{100 * objective.allowed:.10g}%"
    if objective.slo == "success":
        missed, what = "failed", "fail"
        counted = f"codes {', '.join(names.SERVER_FAULTS)}"
    else:
        missed, what = f"took longer than {promise.bucket:g} s", "are too slow"
        counted = f"above {promise.bucket:g} s"
        if promise.bucket != promise.within:
            counted += f", the bucket next to the {promise.within:g} s of the contract"
    for alert, severity, pairs, since in (
        ("MeshObjectiveBurnsFast", "page", PAGE, "the last 5 or 30 minutes"),
        ("MeshObjectiveBurnsSlowly", "ticket", TICKET, "the last 2 or 6 hours"),
    ):

        def over(window: str, burn: float) -> str:
            series = scope.select(f"{ERRORS}{window}", *objective.matchers)
            return f"{series} > {burn:g} * {objective.allowed!r}"

        def many(window: str) -> str:
            series = scope.select(MISSES, *objective.matchers)
            number = f"{scope.seconds(_EVERY):g} * sum_over_time({series}[{scope.span(window)}])"
            return f"\n  and {number} > {FEW}"

        yield scope.alert(
            alert,
            "\nor\n".join(
                f"(\n  {over(short, burn)}\n  and {over(long, burn)}"
                f"{many(long) if severity == 'page' else ''}\n)"
                for short, long, burn in pairs
            ),
            severity=severity,
            labels=objective.labels,
            summary=f"Too many calls of {name} {what}.",
            description=f"{{{{ $value | humanizePercentage }}}} of the calls of {name} {missed} in "
            f"{since}, and {allowed} may ({counted}). At that rate, the budget of 30 days is gone "
            f"{'within days' if severity == 'page' else 'before they are over'}.",
        )
