"""*Service*: one service; its methods, its callers and callees, its instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_dashboards.frame import board, choice, method_choice, service_choice, sources
from mesh_dashboards.look import CHART_HEIGHT, Section, chart, figure
from mesh_dashboards.parts import (
    deprecated_chart,
    edges_table,
    golden_charts,
    golden_figures,
    instances_chart,
    methods_table,
    peers_table,
    refused_chart,
    unwanted_chart,
)
from mesh_dashboards.queries import (
    BY_METHOD,
    MANY,
    METHOD,
    PEERS,
    SERVICE,
    happening,
    most,
    or_zero,
    quantile,
    rate,
    series,
    total,
)
from mesh_telemetry import names

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from mesh_dashboards.look import Panel

_CALLS = (SERVICE, METHOD)
_SERVED = f'{names.SERVER}=~"$service"'
_MADE = f'{names.CLIENT}=~"$service"'


def service() -> Dashboard:
    """One service."""
    peers = series(f"{names.RPC_SERVER_DURATION.name}_count", SERVICE, scope='job=~"$job"')
    return board(
        "mesh-service",
        "Mesh service",
        "One service: how well it does, method by method; who calls it, what it calls, and the "
        "instances that serve it.",
        [
            *sources(names.BUILD_INFO.name),
            service_choice(single=True),
            method_choice(),
            # All of them are those of this service only: there is no value for all.
            choice(
                "peer",
                "Peer",
                f"label_values({peers}, instance)",
                "Processes of the service that serve metrics of their own, by their address.",
                everything="",
            ),
        ],
        [
            Section("Is it healthy?", [*golden_figures(*_CALLS), *_health()]),
            Section("Golden signals", golden_charts(*_CALLS, by=names.RPC_METHOD)),
            Section("Methods", [methods_table(*_CALLS)]),
            Section("Callers and callees", [_callers(), _callees(), *_by_caller()]),
            Section("Instances", [instances_chart(SERVICE), peers_table(SERVICE), *_instances()]),
            Section(
                "Trouble",
                [refused_chart(SERVICE), unwanted_chart(*_CALLS), deprecated_chart(*_CALLS)],
            ),
            Section("As its processes see it", [*_own_calls(), *_own_process()]),
        ],
    )


def _health() -> list[Panel]:
    in_flight = total(names.CALLS_IN_FLIGHT, *_CALLS)
    beat = total(names.PEER_LAST_HEARTBEAT, SERVICE, how="min")
    return [
        figure(
            "Healthy instances",
            "Connected instances whose heartbeats come in time.",
            total(names.SERVICE_INSTANCES, SERVICE, f'{names.STATE}="healthy"'),
            "none",
            steps=((None, "red"), (1, "green")),
        ),
        figure(
            "Oldest heartbeat",
            "How long ago that instance told of itself which has been silent for longest; late is "
            "after three missed, 15 s by default.",
            f"clamp_min(time() - {beat}, 0)",
            "s",
            steps=((None, "green"), (15, "orange"), (30, "red")),
            decimals=1,
            empty="no instances",
        ),
        figure(
            "In flight",
            "Calls that a gateway has accepted and that have no outcome yet.",
            in_flight,
            "none",
        ),
    ]


def _callers() -> Panel:
    return edges_table(
        "Callers",
        "Who calls this service.",
        {names.CLIENT: "Caller"},
        _SERVED,
    )


def _callees() -> Panel:
    return edges_table(
        "Callees",
        "What this service calls.",
        {names.SERVER: "Service"},
        _MADE,
    )


def _by_caller() -> list[Panel]:
    by = (names.CALLER, names.CODE)
    not_ok = rate(names.CALLS, *_CALLS, f'{names.CODE}!="ok"', by=by)
    return [
        chart(
            f"Calls: the {MANY} busiest callers",
            "Who calls how much over time.",
            {"{{caller}}": most(rate(names.CALLS, *_CALLS, by=(names.CALLER,)))},
            "reqps",
            stacked=True,
            empty="no calls",
        ),
        chart(
            f"Not ok: the {MANY} most by caller",
            "Whose calls end with which other code than ok.",
            {"{{caller}} {{code}}": most(not_ok)},
            "reqps",
            stacked=True,
            empty="none",
        ),
        chart(
            f"The {MANY} slowest methods",
            "By their p99.",
            {"{{rpc_method}}": most(quantile(0.99, names.CALL_DURATION, *_CALLS, by=BY_METHOD))},
            "s",
            exemplars=True,
            empty="no calls",
        ),
    ]


def _instances() -> list[Panel]:
    by = (names.PEER,)
    limit = total(names.IN_FLIGHT_LIMIT, how="min")
    return [
        chart(
            f"In flight: the {MANY} busiest",
            "Calls in flight as each instance told in its last heartbeat. At the limit, further "
            "ones are refused as OVERLOADED.",
            {
                "{{peer}}": most(total(names.PEER_IN_FLIGHT, SERVICE, by=by)),
            },
            "none",
            span=6,
            empty="no instances",
        ),
        figure(
            "Fullest instance",
            "Calls in flight at the busiest instance, of those that it may have; at 100 % the "
            "gateway refuses further ones.",
            f"{total(names.PEER_IN_FLIGHT, SERVICE, how='max')} / {limit}",
            "percentunit",
            steps=((None, "green"), (0.5, "orange"), (0.8, "red")),
            span=6,
            height=CHART_HEIGHT,
            empty="no instances",
        ),
        chart(
            f"Loop lag: the {MANY} latest",
            "How late each instance's event loop woke: work that does not yield.",
            {"{{peer}}": most(total(names.PEER_LOOP_LAG, SERVICE, by=by, how="max"))},
            "s",
            span=6,
            empty="no instances",
        ),
        chart(
            "Versions",
            "Instances by the version of their contract; two at once while one is rolled out.",
            {"{{version}}": total(names.SERVICE_VERSIONS, SERVICE, by=(names.VERSION,))},
            "none",
            span=6,
            stacked=True,
            steps=True,
            empty="no instances",
        ),
    ]


def _own_calls() -> list[Panel]:
    served, method = (SERVICE, METHOD), (names.RPC_METHOD,)
    return [
        chart(
            f"Served: the {MANY} highest p95",
            "From a call's arrival at the process to its answer: without the gateway and the way. "
            "Only of processes that serve metrics of their own.",
            {
                "{{rpc_method}}": most(
                    quantile(0.95, names.RPC_SERVER_DURATION, *served, by=method, scope=PEERS)
                )
            },
            "s",
            empty="no metrics of its own",
        ),
        chart(
            f"Made: the {MANY} highest p95",
            "Calls that the process made, with the way to the gateway and the wait for a "
            "connection.",
            {
                "{{rpc_service}}.{{rpc_method}}": most(
                    quantile(0.95, names.RPC_CLIENT_DURATION, by=BY_METHOD, scope=PEERS)
                )
            },
            "s",
            empty="no metrics of its own",
        ),
        chart(
            "Work under way",
            "Calls that the process works on, and that it waits for.",
            {
                "served by {{instance}}": total(
                    names.RPC_SERVER_IN_FLIGHT, *served, by=("instance",), scope=PEERS
                ),
                "made by {{instance}}": total(
                    names.RPC_CLIENT_IN_FLIGHT, by=("instance",), scope=PEERS
                ),
            },
            "none",
            empty="no metrics of its own",
        ),
    ]


def _own_process() -> list[Panel]:
    by = ("instance",)
    return [
        chart(
            "Loop lag",
            "How late the process's event loop last woke.",
            {"{{instance}}": total(names.RUNTIME_LOOP_LAG, by=by, how="max", scope=PEERS)},
            "s",
            span=6,
            empty="no metrics of its own",
        ),
        chart(
            "Threads",
            "Threads that run plain functions, and how many there may be.",
            {
                "in use, {{instance}}": total(names.RUNTIME_THREADS, by=by, scope=PEERS),
                "limit": total(names.RUNTIME_THREADS_LIMIT, how="min", scope=PEERS),
            },
            "none",
            span=6,
            empty="no metrics of its own",
        ),
        chart(
            "Memory",
            "Resident memory of the process.",
            {"{{instance}}": total("process_resident_memory_bytes", by=by, scope=PEERS)},
            "bytes",
            span=6,
            empty="no metrics of its own",
        ),
        chart(
            "Records for traces",
            "Records of calls that are held until their trace is kept or dropped, and those that "
            "made way too early: traces then lack them.",
            {
                "held, {{instance}}": total(names.RECORDS, by=by, scope=PEERS),
                "lost per second, {{reason}}": or_zero(
                    happening(rate(names.RECORDS_DROPPED, by=(names.REASON,), scope=PEERS)),
                    names.REASON,
                ),
            },
            "short",
            span=6,
            empty="no metrics of its own",
        ),
    ]
