"""*Mesh overview*: is it healthy, and if not, where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import nodegraph
from grafana_foundation_sdk.models import dashboard as models

from mesh_dashboards.frame import board, service_choice, sources
from mesh_dashboards.look import (
    DATASOURCE,
    LATENCIES,
    Column,
    Section,
    chart,
    figure,
    instant,
    rows,
)
from mesh_dashboards.parts import (
    ENDS,
    QUANTILES,
    attention,
    deprecated_chart,
    edges_table,
    gateways_figure,
    golden_charts,
    golden_figures,
    instances_chart,
    methods_table,
    peers_table,
    refused_chart,
    unwanted_chart,
)
from mesh_dashboards.queries import (
    MANY,
    SERVICE,
    USERS_OWN,
    happening,
    increase,
    most,
    or_zero,
    quantile,
    rate,
    series,
    total,
)
from mesh_telemetry import names

if TYPE_CHECKING:
    from mesh_dashboards.look import Panel

_CALLS = (SERVICE, USERS_OWN)
_SERVED = f'{names.SERVER}=~"$service"'
_TALL = 11
"""Of what has a row, or a place, for each of many."""


def overview() -> models.Dashboard:
    """The whole mesh on one page."""
    return board(
        "mesh-overview",
        "Mesh overview",
        "Is the mesh healthy? What is called, by whom, and how well; who serves it.",
        [*sources(), service_choice(single=False)],
        [
            Section(
                "Is it healthy?",
                [gateways_figure(span=3), *golden_figures(*_CALLS, span=3), *_health(), _alerts()],
            ),
            Section("Golden signals", golden_charts(*_CALLS, by=names.RPC_SERVICE)),
            Section("Methods", [methods_table(*_CALLS, height=_TALL)]),
            Section("Who calls whom", [_graph(), _edges()]),
            Section(
                "Heartbeats and instances",
                [
                    instances_chart(*_CALLS, height=_TALL),
                    peers_table(*_CALLS, height=_TALL),
                ],
            ),
            Section(
                "Refusals", [refused_chart(SERVICE), _refused_table(), unwanted_chart(*_CALLS)]
            ),
            Section("Calls", [_in_flight(), _depth(), deprecated_chart(*_CALLS)]),
        ],
    )


def _health() -> list[Panel]:
    well = f'{names.STATE}="healthy"'
    unwell = f'{names.STATE}!="healthy"'
    # The mesh's own rules remember for six hours, this for the time that is shown.
    had = f"max_over_time({series(names.SERVICE_INSTANCES.name, *_CALLS, well)}[$__range])"
    there = total(
        names.SERVICE_INSTANCES, *_CALLS, f'{names.STATE}!="draining"', by=(names.RPC_SERVICE,)
    )
    gone = f"max by ({names.RPC_SERVICE}) ({had}) > 0 unless {there} > 0"
    return [
        figure(
            "Healthy instances",
            "Connected instances of all services whose heartbeats come in time.",
            total(names.SERVICE_INSTANCES, *_CALLS, well),
            "none",
            steps=((None, "red"), (1, "green")),
            span=3,
        ),
        attention(
            "Without instances",
            "Services that had a healthy instance in the time that is shown, and have none now but "
            "such as drain. Calls of them fail.",
            or_zero(f"count ({gone})"),
            "none",
            empty="no gateway",
            span=3,
        ),
        attention(
            "Late or leaving",
            "Instances that are late with their heartbeats, unresponsive or draining.",
            total(names.SERVICE_INSTANCES, *_CALLS, unwell),
            "none",
            span=3,
        ),
        attention(
            "Refused",
            "Calls that a gateway refused before any service saw them.",
            or_zero(rate(names.CALLS_REJECTED, SERVICE)),
            "reqps",
            empty="no gateway",
            span=3,
        ),
    ]


def _alerts() -> Panel:
    about = (names.RPC_SERVICE, names.RPC_METHOD, names.CALLER, names.REASON, "instance")
    inside = 'alertname=~"Mesh.+", job=~"$job"'
    firing = f'ALERTS{{{inside}, alertstate="firing"}}'
    since = f"ALERTS_FOR_STATE{{{inside}}} and ignoring (alertstate) {firing}"
    joined = ", ".join(f'"{label}"' for label in about)
    told = f'min by (alertname, severity, about) (label_join({since}, "about", " ", {joined}))'
    return rows(
        "Alerts that fire",
        "Of the mesh's own rules, where Prometheus has them: `mesh dashboards runbook NAME` says "
        "what each means and what to do.",
        {"alertname": "Alert", "severity": "Severity", "about": "About"},
        [Column("For", f"time() - {told}", "s", 0)],
        height=5,
        empty="none",
    )


def _graph() -> nodegraph.Panel:
    """Grafana's node graph wants an id on nodes, and on edges an id, source and target."""
    calls = rate(names.SERVICE_GRAPH_REQUESTS, _SERVED, by=ENDS)
    edges = calls
    for label, end in (("source", names.CLIENT), ("target", names.SERVER)):
        edges = _also(edges, end, label)
    edges = f'label_join({edges}, "id", " > ", "{names.CLIENT}", "{names.SERVER}")'
    answered, asking = (
        _also(rate(names.SERVICE_GRAPH_REQUESTS, _SERVED, by=(end,)), end, "id")
        for end in (names.SERVER, names.CLIENT)
    )
    nodes = _also(f"(sum by (id) ({answered}) or 0 * sum by (id) ({asking}))", "id", "title")
    return (
        nodegraph.Panel()
        .title("Service graph")
        .description("Who calls whom. In a circle: calls that a service gets; on an arrow: those.")
        .datasource(DATASOURCE)
        .span(12)
        .height(_TALL)
        .unit("reqps")
        .no_value("no calls")
        .nodes(nodegraph.NodeOptions().main_stat_unit("reqps"))
        .edges(nodegraph.EdgeOptions().main_stat_unit("reqps"))
        # Which frame is which, Grafana knows by the letters of the queries.
        .with_target(instant(nodes, ref="nodes"))
        .with_target(instant(edges, ref="edges"))
        # It looks for fields by their own names, which `organize` does not change: so the figure
        # of a row, its only one, comes once more as the sum of them. Frames stay apart.
        .with_transformation(
            models.DataTransformerConfig(
                id_val="calculateField",
                options={
                    "mode": "reduceRow",
                    "reduce": {"reducer": "sum"},
                    "alias": "mainstat",
                    "timeSeries": False,
                },
            )
        )
    )


def _also(query: str, label: str, name: str) -> str:
    """The same with a label under another name, too."""
    return f'label_replace({query}, "{name}", "$1", "{label}", "(.*)")'


def _edges() -> Panel:
    return edges_table(
        "Calls between services",
        "The same as a table. Not ok is every other code, callers' own faults among them.",
        {names.CLIENT: "Caller", names.SERVER: "Service"},
        _SERVED,
        height=_TALL,
    )


def _refused_table() -> Panel:
    by = (names.CALLER, names.RPC_SERVICE, names.REASON)
    return rows(
        "Refused calls",
        "Whose calls were refused, of what, and why, in the time that is shown.",
        {names.CALLER: "Caller", names.RPC_SERVICE: "Service", names.REASON: "Reason"},
        [Column("Calls", happening(increase(names.CALLS_REJECTED, SERVICE, by=by)), "short", 0)],
        span=8,
        height=7,
        empty="none",
    )


def _in_flight() -> Panel:
    return chart(
        f"In flight: the {MANY} busiest services",
        "Calls that a gateway has accepted and that have no outcome yet, by service.",
        {"{{rpc_service}}": most(total(names.CALLS_IN_FLIGHT, *_CALLS, by=(names.RPC_SERVICE,)))},
        "none",
        stacked=True,
        empty="no calls",
    )


def _depth() -> Panel:
    return chart(
        "Depth of calls to all services",
        "Links of nested calls that led to a call, its own included: entry calls are 1, and more "
        "than 16 are refused.",
        {f"p{q * 100:.0f}": quantile(q, names.CALL_DEPTH) for q in QUANTILES},
        "none",
        colours=LATENCIES,
        empty="no calls",
    )
