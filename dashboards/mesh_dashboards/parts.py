"""Panels that several dashboards have: tables of methods, edges and peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_dashboards.frame import to_service, to_traces
from mesh_dashboards.look import (
    BAD_ABOVE_ZERO,
    CHART_HEIGHT,
    CODES,
    GOOD_SUCCESS,
    LATENCIES,
    STATES,
    Column,
    chart,
    coloured,
    figure,
    rows,
    target,
)
from mesh_dashboards.queries import (
    BY_METHOD,
    MANY,
    failure_ratio,
    happening,
    least,
    most,
    or_zero,
    quantile,
    rate,
    series,
    success_ratio,
    total,
)
from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grafana_foundation_sdk.builders import stat, table, timeseries

ENDS = (names.CLIENT, names.SERVER)
QUANTILES = (0.5, 0.95, 0.99)

_FAILED = ((None, "text"), (0.001, "orange"), (0.01, "red"))
_OVERDUE = ((None, "text"), (15, "orange"), (30, "red"))
"""Seconds: a heartbeat comes every five, three missed are late, six unresponsive."""


def golden_figures(*matchers: str, span: int = 4) -> list[stat.Panel]:
    """Success rate, rate and p95: whether all is well, in three figures."""
    return [
        figure(
            "Success rate",
            "Calls that did not fail by a fault of a service or the mesh. What callers get wrong "
            "(not_found, invalid_argument and the like) is no failure.",
            success_ratio(*matchers),
            "percentunit",
            steps=GOOD_SUCCESS,
            decimals=2,
            empty="no calls",
            span=span,
        ),
        figure(
            "Calls",
            "Attempts that ended, nested and refused ones included.",
            or_zero(rate(names.CALLS, *matchers)),
            "reqps",
            empty="no gateway",
            span=span,
        ),
        figure(
            "p95",
            "95 of 100 calls took no longer, as the gateway measures it.",
            quantile(0.95, names.CALL_DURATION, *matchers),
            "s",
            empty="no calls",
            span=span,
        ),
    ]


def gateways_figure(*, span: int = 4) -> stat.Panel:
    """How many gateways Prometheus reaches, and how many it does not."""
    # Jobs that had a gateway in this time: `up` alone does not say what it is of.
    had = f"last_over_time({series(names.GATEWAY_LOOP_LAG.name)}[$__range])"
    known = f"({series('up')} and on (job) {had})"
    return (
        figure(
            "Gateways",
            "Gateways that Prometheus reaches, and that it does not. Without one no call arrives.",
            f"sum {known}",
            "none",
            steps=((None, "red"), (1, "green")),
            span=span,
            legend="up",
        )
        .with_target(target(f"count ({known} == 0) or 0 * count {known}", "down", ref="B"))
        .override_by_name("down", [coloured(((None, "green"), (1, "red")))])
    )


def golden_charts(*matchers: str, by: str) -> list[timeseries.Panel]:
    """The same three over time; success by one label."""
    return [
        chart(
            f"Success rate: the {MANY} lowest",
            "As above, over time.",
            {f"{{{{{by}}}}}": least(success_ratio(*matchers, by=(by,)))},
            "percentunit",
            highest=1,
            lowest=None,
            empty="no calls",
        ),
        chart(
            "Calls by code",
            "How calls ended: ok, or one of gRPC's sixteen codes.",
            {"{{code}}": happening(rate(names.CALLS, *matchers, by=(names.CODE,)))},
            "reqps",
            stacked=True,
            colours=CODES,
            empty="no calls",
        ),
        chart(
            "Latency",
            "Quantiles of all calls. Each dot is one call, and opens its trace.",
            {f"p{q * 100:.0f}": quantile(q, names.CALL_DURATION, *matchers) for q in QUANTILES},
            "s",
            exemplars=True,
            colours=LATENCIES,
            empty="no calls",
        ),
    ]


def methods_table(*matchers: str, height: int = 8) -> table.Panel:
    """Every method with its rate, errors and latencies."""
    return rows(
        "Methods",
        "What is called. A click on a name leads to its service's dashboard and to its traces.",
        {names.RPC_SERVICE: "Service", names.RPC_METHOD: "Method"},
        [
            Column("Calls", rate(names.CALLS, *matchers, by=BY_METHOD), "reqps", 2),
            Column("Failed", failure_ratio(*matchers, by=BY_METHOD), "percentunit", 2, _FAILED),
            *(
                Column(
                    f"p{q * 100:.0f}",
                    quantile(q, names.CALL_DURATION, *matchers, by=BY_METHOD),
                    "s",
                )
                for q in QUANTILES
            ),
            Column("In flight", total(names.CALLS_IN_FLIGHT, *matchers, by=BY_METHOD), "none", 0),
        ],
        height=height,
        links=[to_service(), *to_traces()],
        empty="no calls",
    )


def edges_table(
    title: str, description: str, labels: Mapping[str, str], *matchers: str, height: int = 7
) -> table.Panel:
    """Who calls whom, with rates, failures and latency."""
    ends = tuple(labels)
    failed = rate(names.SERVICE_GRAPH_FAILED, *matchers, by=ends)
    calls = rate(names.SERVICE_GRAPH_REQUESTS, *matchers, by=ends)
    return rows(
        title,
        description,
        labels,
        [
            Column("Calls", calls, "reqps", 2),
            Column("Not ok", f"{failed} / ({calls} > 0)", "percentunit", 2, _FAILED),
            Column("p95", quantile(0.95, names.SERVICE_GRAPH_SECONDS, *matchers, by=ends), "s"),
        ],
        span=12,
        height=height,
        links=[to_service(name) for name in labels.values()],
        empty="no calls",
    )


def instances_chart(*matchers: str, height: int = CHART_HEIGHT) -> timeseries.Panel:
    """Instances over time, by how they are."""
    return chart(
        "Instances by state",
        "Connected instances: healthy; late and unresponsive, which miss heartbeats; draining, "
        "which take no new calls.",
        {"{{state}}": happening(total(names.SERVICE_INSTANCES, *matchers, by=(names.STATE,)))},
        "none",
        height=height,
        stacked=True,
        steps=True,
        colours=STATES,
        empty="no instances",
    )


def peers_table(*matchers: str, height: int = CHART_HEIGHT) -> table.Panel:
    """Every connected instance, with what its last heartbeat told."""
    by = (names.RPC_SERVICE, names.PEER)
    beat = total(names.PEER_LAST_HEARTBEAT, *matchers, by=by, how="max")
    return rows(
        "Heartbeats",
        "Every connected instance: how long ago its last heartbeat was, and what that said.",
        {names.RPC_SERVICE: "Service", names.PEER: "Peer"},
        [
            Column("Heartbeat", f"clamp_min(time() - {beat}, 0)", "s", 1, _OVERDUE),
            Column("Loop lag", total(names.PEER_LOOP_LAG, *matchers, by=by, how="max"), "s"),
            Column("In flight", total(names.PEER_IN_FLIGHT, *matchers, by=by), "none", 0),
        ],
        span=16,
        height=height,
        links=[to_service()],
        empty="no instances",
    )


def refused_chart(*matchers: str) -> timeseries.Panel:
    """Refusals by reason."""
    by_reason = rate(names.CALLS_REJECTED, *matchers, by=(names.REASON,))
    return chart(
        "Refused by reason",
        "Calls that a gateway refused before any service saw them: nobody serves it, too deep, a "
        "loop, overloaded, no time left, ...",
        {"{{reason}}": or_zero(by_reason, names.REASON)},
        "reqps",
        stacked=True,
    )


def unwanted_chart(*matchers: str) -> timeseries.Panel:
    """Work that nobody waited for."""
    return chart(
        "Abandoned and late",
        "Abandoned: the caller was gone before the end. Late: the result came after the end, and "
        "was dropped.",
        {
            "abandoned": or_zero(rate(names.CALLS_ABANDONED, *matchers)),
            "late": or_zero(rate(names.CALLS_LATE, *matchers)),
        },
        "reqps",
    )


def deprecated_chart(*matchers: str) -> timeseries.Panel:
    """Who calls what its contract calls deprecated."""
    by = (names.CALLER, names.RPC_SERVICE, names.RPC_METHOD)
    return chart(
        f"Deprecated calls: the {MANY} most",
        "Calls of methods that their contracts call deprecated, by caller. At zero they can go.",
        {
            "{{caller}} > {{rpc_service}}.{{rpc_method}}": most(
                rate(names.DEPRECATED_CALLS, *matchers, by=by)
            )
        },
        "reqps",
        empty="none",
    )


def attention(
    title: str, description: str, query: str, unit: str, *, empty: str = "0", span: int = 4
) -> stat.Panel:
    """A figure that is zero where all is well."""
    return figure(title, description, query, unit, steps=BAD_ABOVE_ZERO, empty=empty, span=span)
