"""*Gateway*: the process in the middle, and what it does beside routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_dashboards.frame import board, sources
from mesh_dashboards.look import Column, Section, chart, figure, rows
from mesh_dashboards.parts import attention, gateways_figure
from mesh_dashboards.promql import NOT_KEPT
from mesh_dashboards.queries import happening, or_zero, rate, series, total
from mesh_telemetry import names

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from mesh_dashboards.look import Panel

_EACH = ("instance",)
_STARTED = "process_start_time_seconds"


def gateway() -> Dashboard:
    """The gateways, side by side."""
    return board(
        "mesh-gateway",
        "Mesh gateway",
        "The gateways: what goes through them, what waits in them, what they keep.",
        sources(),
        [
            Section("Is it healthy?", _health()),
            Section("Load", _load()),
            Section("Connections", _connections()),
            Section("Process", _process()),
            Section("Traces", _traces()),
            Section("Export and losses", _export()),
        ],
    )


def _health() -> list[Panel]:
    lag = total(names.GATEWAY_LOOP_LAG, how="max")
    limit = total(names.OUTBOX_LIMIT, how="min")
    return [
        gateways_figure(),
        figure(
            "Loop lag",
            "How late the event loop of the slowest gateway last ran a timer. Every call waits as "
            "long.",
            lag,
            "s",
            steps=((None, "green"), (0.05, "orange"), (0.25, "red")),
        ),
        figure("Connections", "Peers that are connected now.", total(names.CONNECTIONS), "none"),
        figure(
            "Fullest outbox",
            "Bytes that wait for the peer that reads slowest, of those that may wait. A full one "
            "is answered with resource_exhausted.",
            f"{total(names.OUTBOX_FULLEST, how='max')} / {limit}",
            "percentunit",
            steps=((None, "green"), (0.5, "orange"), (0.8, "red")),
        ),
        attention(
            "Draining",
            "Gateways that take no new calls, as they are about to end.",
            total(names.GATEWAY_DRAINING),
            "none",
        ),
        figure(
            "Up for",
            "How long ago the youngest gateway was started.",
            f"time() - max ({series(_STARTED)} and on (job, instance) "
            f"{series(names.GATEWAY_LOOP_LAG.name)})",
            "s",
            decimals=0,
        ),
    ]


def _load() -> list[Panel]:
    return [
        chart(
            "Calls",
            "Attempts that ended, through each gateway.",
            {"{{instance}}": rate(names.CALLS, by=_EACH)},
            "reqps",
            span=6,
            empty="no calls",
        ),
        *(
            chart(
                f"Frames {direction}",
                f"Frames of the wire protocol that go {direction}, by kind.",
                {
                    "{{kind}}": happening(
                        rate(names.FRAMES, f'{names.DIRECTION}="{direction}"', by=(names.KIND,))
                    )
                },
                "cps",
                span=6,
            )
            for direction in ("in", "out")
        ),
        chart(
            "Bytes",
            "What goes in and out of the gateways.",
            {"{{direction}}": rate(names.BYTES, by=(names.DIRECTION,))},
            "binBps",
            span=6,
        ),
    ]


def _connections() -> list[Panel]:
    return [
        chart(
            "Open",
            "Connections that are open now.",
            {"{{instance}}": total(names.CONNECTIONS, by=_EACH)},
            "none",
            steps=True,
            span=6,
        ),
        chart(
            "Opened and closed",
            "Connections that come and go. Many of both: peers that restart, or are turned away.",
            {
                "opened": rate(names.CONNECTIONS_OPENED),
                "closed": rate(names.CONNECTIONS_CLOSED),
            },
            "cps",
            span=6,
        ),
        chart(
            "Turned away",
            "Refused before the end of the handshake; closed for malformed input; failed TLS "
            "handshakes by reason.",
            {
                "refused": rate(names.CONNECTIONS_REFUSED),
                "malformed": rate(names.PROTOCOL_ERRORS),
                "TLS: {{reason}}": or_zero(
                    rate(names.TLS_HANDSHAKES_FAILED, by=(names.REASON,)), names.REASON
                ),
            },
            "cps",
            span=6,
        ),
        chart(
            "Outboxes",
            "Bytes that wait to be read by peers: of all, and of the one that reads slowest.",
            {
                "all, {{instance}}": total(names.OUTBOX_BYTES, by=_EACH),
                "fullest, {{instance}}": total(names.OUTBOX_FULLEST, by=_EACH, how="max"),
            },
            "bytes",
            span=6,
        ),
    ]


def _process() -> list[Panel]:
    own = series(names.GATEWAY_LOOP_LAG.name)

    def of_gateways(query: str) -> str:
        # Peers have such series, too.
        return f"{query} and on (job, instance) {own}"

    return [
        chart(
            "Loop lag",
            "How late the gateway's event loop last ran a timer.",
            {"{{instance}}": total(names.GATEWAY_LOOP_LAG, by=_EACH, how="max")},
            "s",
            span=6,
        ),
        chart(
            "Memory",
            "Resident memory of the gateway.",
            {"{{instance}}": of_gateways(series("process_resident_memory_bytes"))},
            "bytes",
            span=6,
        ),
        chart(
            "Processor",
            "Of one core: a gateway uses one at most.",
            {
                "{{instance}}": of_gateways(
                    f"rate({series('process_cpu_seconds_total')}[$__rate_interval])"
                )
            },
            "percentunit",
            span=6,
        ),
        rows(
            "Versions",
            "What runs where.",
            {"instance": "Gateway", names.VERSION: "Version"},
            [
                Column(
                    "Up for",
                    f"(time() - max by (instance) ({series(_STARTED)})) "
                    "* on (instance) group_right () "
                    f"max by (instance, {names.VERSION}) "
                    f"({of_gateways(series(names.BUILD_INFO.name))})",
                    "s",
                    0,
                ),
            ],
            span=6,
            height=7,
        ),
    ]


def _traces() -> list[Panel]:
    return [
        chart(
            "Traces by decision",
            "What became of each entry call's trace: kept, and why; dropped, as nothing spoke for "
            "it; over a quota or the cap.",
            {"{{decision}}": happening(rate(names.TRACES, by=(names.DECISION,)))},
            "cps",
            stacked=True,
            empty="telemetry is off",
        ),
        chart(
            "Traces held",
            "Kept ones that can be looked at, and those that are not decided yet.",
            {
                "stored": total(names.TRACES_STORED),
                "pending": total(names.TRACES_PENDING),
            },
            "short",
            empty="telemetry is off",
        ),
        chart(
            "Spans held",
            "Spans of the kept traces.",
            {"{{instance}}": total(names.SPANS_STORED, by=_EACH)},
            "short",
            empty="telemetry is off",
        ),
    ]


def _export() -> list[Panel]:
    lost = f'{names.REASON}!="{NOT_KEPT}"'
    return [
        chart(
            "Spans exported",
            "Spans that a backend has taken, where OTEL_EXPORTER_OTLP_ENDPOINT names one.",
            {"{{instance}}": rate(names.SPANS_EXPORTED, by=_EACH)},
            "cps",
            span=6,
            empty="no backend",
        ),
        chart(
            "Spans that wait",
            "Spans that wait for the backend. A queue that stays full loses spans.",
            {"{{instance}}": total(names.SPANS_WAITING, by=_EACH)},
            "short",
            span=6,
            empty="no backend",
        ),
        chart(
            "Spans lost",
            "Spans of kept traces that were lost, by reason.",
            {
                "{{reason}}": or_zero(
                    happening(rate(names.SPANS_DROPPED, lost, by=(names.REASON,))), names.REASON
                )
            },
            "cps",
            span=6,
        ),
        chart(
            "Made way",
            "Kept traces that made way for newer ones, and changes of the registry that watchers "
            "were not told.",
            {
                "traces": or_zero(rate(names.TRACES_EVICTED)),
                "events": rate(names.EVENTS_DROPPED),
            },
            "cps",
            span=6,
        ),
    ]
