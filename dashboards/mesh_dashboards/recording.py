"""Recording rules for the golden signals: traffic, errors, latency and saturation.

Each is there for every method (``mesh:...``), every service (``mesh:service_...``) and the whole
mesh (``mesh:all_...``), named in Prometheus' manner, ``level:metric:operations``
(https://prometheus.io/docs/practices/rules/). Calls of the gateway's own service are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mesh_dashboards.promql import FAULTS, OWN_SERVICE, Group, Rule, Scope, quoted, record
from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOWS: Final = ("5m", "30m", "1h")
QUANTILES: Final = (0.5, 0.95, 0.99)
INSTANCES: Final = "mesh:service_instances:max"
"""Healthy instances of a service, at the gateway that has most of them."""
LEVELS: Final = {
    "": "job, rpc_service, rpc_method",
    "service_": "job, rpc_service",
    "all_": "job",
}
"""The labels that are left, by how names of the level begin."""


def signals(scope: Scope) -> list[Group]:
    """The groups of recording rules that every mesh wants."""
    rates = [{"name": f"mesh-rates-{w}", "rules": list(_rates(scope, w))} for w in WINDOWS]
    return [*rates, {"name": "mesh-saturation", "rules": list(_saturation(scope))}]


def _rates(scope: Scope, window: str) -> Iterator[Rule]:
    span, others = scope.span(window), f"rpc_service!={quoted(OWN_SERVICE)}"
    calls = scope.select(names.CALLS.name, others)
    faults = scope.select(names.CALLS.name, others, f'code=~"{FAULTS}"')
    buckets = scope.select(f"{names.CALL_DURATION.name}_bucket", others)
    for level, labels in LEVELS.items():
        rate, failed = f"mesh:{level}calls:rate{window}", f"mesh:{level}call_faults:rate{window}"
        # With the job, as the rules of another mesh may be beside these.
        rated = scope.select(rate)
        if level:
            all_calls = scope.select(f"mesh:calls:rate{window}")
            all_faults = scope.select(f"mesh:call_faults:rate{window}")
            yield record(rate, f"sum by ({labels}) ({all_calls})")
            yield record(failed, f"sum by ({labels}) ({all_faults})")
        else:
            yield record(rate, scope.rate(calls, window, labels))
            # Counters of codes come with the first call that ends so: until then it is none.
            yield record(failed, f"{scope.rate(faults, window, labels)}\nor 0 * {rated}")
        yield record(
            f"mesh:{level}call_faults:ratio_rate{window}",
            f"{scope.select(failed)} / ({rated} > 0)",
        )
    for level, labels in LEVELS.items():
        for quantile in QUANTILES:
            yield record(
                f"mesh:{level}call_duration_seconds:quantile_rate{window}",
                f"histogram_quantile({quantile}, sum by ({labels}, le) (rate({buckets}[{span}])))",
                quantile=str(quantile),
            )


def _saturation(scope: Scope) -> Iterator[Rule]:
    others = f"rpc_service!={quoted(OWN_SERVICE)}"
    in_flight = scope.select(names.CALLS_IN_FLIGHT.name, others)
    for level, labels in LEVELS.items():
        yield record(f"mesh:{level}calls_in_flight:sum", f"sum by ({labels}) ({in_flight})")
    healthy = scope.select(names.SERVICE_INSTANCES.name, others, 'state="healthy"')
    yield record(INSTANCES, f"max by (job, rpc_service) ({healthy})")
    peers = scope.select(names.PEER_IN_FLIGHT.name, others)
    limit = scope.select(names.IN_FLIGHT_LIMIT.name)
    yield record(
        "mesh:peer_in_flight:ratio", f"{peers}\n/ on (job, instance) group_left ()\n{limit}"
    )
    fullest = scope.select(names.OUTBOX_FULLEST.name)
    yield record(
        "mesh:outbox_fullest:ratio", f"{fullest}\n/ {scope.select(names.OUTBOX_LIMIT.name)}"
    )
