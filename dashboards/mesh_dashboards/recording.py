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
        if level:
            yield record(rate, f"sum by ({labels}) (mesh:calls:rate{window})")
            yield record(failed, f"sum by ({labels}) (mesh:call_faults:rate{window})")
        else:
            yield record(rate, f"sum by ({labels}) (rate({calls}[{span}]))")
            # Counters of codes come with the first call that ends so: until then it is none.
            yield record(failed, f"sum by ({labels}) (rate({faults}[{span}]))\nor 0 * {rate}")
        yield record(f"mesh:{level}call_faults:ratio_rate{window}", f"{failed} / ({rate} > 0)")
    for level, labels in LEVELS.items():
        for quantile in QUANTILES:
            yield record(
                f"mesh:{level}call_duration_seconds:quantile_rate{window}",
                f"histogram_quantile({quantile}, sum by ({labels}, le) (rate({buckets}[{span}])))",
                quantile=str(quantile),
            )


def _saturation(scope: Scope) -> Iterator[Rule]:
    in_flight = scope.select(names.CALLS_IN_FLIGHT.name, f"rpc_service!={quoted(OWN_SERVICE)}")
    for level, labels in LEVELS.items():
        yield record(f"mesh:{level}calls_in_flight:sum", f"sum by ({labels}) ({in_flight})")
    peers = scope.select(names.PEER_IN_FLIGHT.name, f"rpc_service!={quoted(OWN_SERVICE)}")
    limit = scope.select(names.IN_FLIGHT_LIMIT.name)
    yield record(
        "mesh:peer_in_flight:ratio", f"{peers}\n/ on (job, instance) group_left ()\n{limit}"
    )
    fullest = scope.select(names.OUTBOX_FULLEST.name)
    yield record(
        "mesh:outbox_fullest:ratio", f"{fullest}\n/ {scope.select(names.OUTBOX_LIMIT.name)}"
    )
