"""What every alert is tried with: series as promtool writes them, and when the alert must fire.

A sample a minute (https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/):
`2x9` is ten samples of 2, `0+6x60` counts up from 0 by 6 sixty times, `_x9` is nine without any.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mesh_dashboards.burning import Promise

GATEWAY = 'job="mesh-gateway", instance="gw:9464"'
UP = f"up{{{GATEWAY}}}"
CALLS = f'mesh_calls_total{{{GATEWAY}, caller="shop", rpc_service="users", rpc_method="get"'
DURATION = f'{{{GATEWAY}, rpc_service="users", rpc_method="get"'
IS_UP = {UP: "1x3000"}

PROMISES = (Promise("users", "get", success=0.999, within=0.2, target=0.99),)
"""Whose `within` is no bucket: the one of 0.25 s counts."""


class Case(NamedTuple):
    """One alert: its series; the minutes at which it must not fire yet, fire, and have ended."""

    alert: str
    series: dict[str, str]
    before: int
    fires: int
    after: int
    labels: dict[str, str]
    value: str = ""
    """How the description writes the value."""

    @property
    def name(self) -> str:
        return f"{self.alert}-{self.labels.get('slo', '')}".rstrip("-")


def rejected(reason: str, service: str = "orders") -> str:
    return (
        f'mesh_calls_rejected_total{{{GATEWAY}, caller="shop", rpc_service="{service}", '
        f'reason="{reason}"}}'
    )


def instances(state: str) -> str:
    return f'mesh_service_instances{{{GATEWAY}, rpc_service="users", state="{state}"}}'


def dropped(reason: str) -> str:
    return f'mesh_spans_dropped_total{{{GATEWAY}, reason="{reason}"}}'


PEER = f'{{{GATEWAY}, rpc_service="users", peer="host-1"}}'
OF_GATEWAY = {"job": "mesh-gateway", "instance": "gw:9464"}
OF_SERVICE = {"job": "mesh-gateway", "rpc_service": "users"}
OF_PEER = {**OF_GATEWAY, "rpc_service": "users", "peer": "host-1"}
OF_CALLS = {"job": "mesh-gateway", "caller": "shop", "rpc_service": "orders"}
OF_METHOD = {"job": "mesh-gateway", "rpc_service": "users", "rpc_method": "get"}

CASES = (
    Case("MeshGatewayDown", {UP: "1x9 0x10 1x20"}, 10, 11, 22, OF_GATEWAY, "0"),
    Case(
        "MeshGatewayAbsent",
        {UP: "1x9 stale _x14 1x20"},
        14,
        15,
        26,
        {"job": "mesh-gateway"},
    ),
    Case(
        "MeshGatewayLoopLag",
        {**IS_UP, f"mesh_gateway_loop_lag_seconds{{{GATEWAY}}}": "0.001x9 0.5x15 0.001x30"},
        15,
        16,
        32,
        OF_GATEWAY,
        "500ms",
    ),
    Case(
        "MeshOutboxFilling",
        {
            **IS_UP,
            f"mesh_outbox_fullest_bytes{{{GATEWAY}}}": "0x9 30000000x10 0x20",
            f"mesh_outbox_limit_bytes{{{GATEWAY}}}": "40000000x60",
        },
        11,
        12,
        22,
        OF_GATEWAY,
        "75%",
    ),
    Case(
        "MeshTlsHandshakesFailing",
        {
            **IS_UP,
            f'mesh_tls_handshakes_failed_total{{{GATEWAY}, reason="timeout"}}': "_x20 6x40",
            f'mesh_tls_handshakes_failed_total{{{GATEWAY}, reason="disconnected"}}': "0+9x60",
        },
        19,
        20,
        36,
        {**OF_GATEWAY, "reason": "timeout"},
        "6",
    ),
    Case(
        "MeshServiceWithoutInstances",
        {
            **IS_UP,
            instances("healthy"): "2x9 0x10 stale _x9 1x20",  # forgotten after a while
            instances("draining"): "0x9 1x10 stale",
        },
        11,
        25,
        32,
        OF_SERVICE,
        "2",
    ),
    Case(
        "MeshHeartbeatsLate",
        {**IS_UP, instances("healthy"): "2x60", instances("late"): "0x9 1x10 0x20"},
        10,
        11,
        22,
        OF_SERVICE,
        "1",
    ),
    Case(
        "MeshPeerLoopLag",
        {**IS_UP, f"mesh_peer_loop_lag_seconds{PEER}": "0.001x9 1.5x15 0.001x30"},
        14,
        16,
        32,
        OF_PEER,
        "1.5s",
    ),
    Case(
        "MeshInstanceSaturated",
        {
            **IS_UP,
            f"mesh_peer_in_flight{PEER}": "10x9 900x10 10x20",
            f"mesh_in_flight_limit{{{GATEWAY}}}": "1000x60",
        },
        14,
        15,
        22,
        OF_PEER,
        "90%",
    ),
    Case(
        "MeshCallsLooping",
        {**IS_UP, rejected("LOOP_DETECTED"): "_x20 3x60", rejected("PARENT_ENDED"): "0+1x60"},
        19,
        20,
        36,
        {**OF_CALLS, "reason": "LOOP_DETECTED"},
        "3",
    ),
    Case(
        "MeshCallsShed",
        {**IS_UP, rejected("OVERLOADED"): "_x20 10+10x9 100x40"},
        24,
        25,
        35,
        {**OF_CALLS, "reason": "OVERLOADED"},
        "50",
    ),
    Case(
        "MeshVersionMismatch",
        {**IS_UP, rejected("INCOMPATIBLE_VERSION"): "0x20 7x60"},
        20,
        21,
        37,
        {**OF_CALLS, "reason": "INCOMPATIBLE_VERSION"},
        "7",
    ),
    Case(
        "MeshTelemetryDropped",
        {**IS_UP, dropped("trace_too_long"): "0x20 30x60", dropped("not_kept"): "0+5x60"},
        20,
        21,
        37,
        {**OF_GATEWAY, "reason": "trace_too_long"},
        "30",
    ),
    Case(
        "MeshExportFailing",
        {**IS_UP, dropped("export_failed"): "0x20 1500x60"},
        20,
        21,
        37,
        {**OF_GATEWAY, "reason": "export_failed"},
        "1500",
    ),
    Case(
        "MeshPeerRecordsDropped",
        {
            'mesh_records_dropped_total{job="mesh-peers", instance="users:9465", reason="full"}': (
                "0x20 30x60"
            ),
            **IS_UP,
        },
        20,
        21,
        37,
        {"job": "mesh-peers", "instance": "users:9465", "reason": "full"},
        "30",
    ),
)
"""The alerts that every mesh wants."""

FAST_CASES = (
    # A tenth of all calls fails, or half of them take too long, for an hour.
    Case(
        "MeshObjectiveBurnsFast",
        {
            **IS_UP,
            f'{CALLS}, code="ok"}}': "0+90x600",
            f'{CALLS}, code="not_found"}}': "0+90x600",  # an answer
            f'{CALLS}, code="unavailable"}}': "0x120 0+20x60 1200x400",
        },
        121,
        140,
        220,
        {**OF_METHOD, "slo": "success"},
        "10%",
    ),
    Case(
        "MeshObjectiveBurnsFast",
        {
            **IS_UP,
            f"mesh_call_duration_seconds_count{DURATION}}}": "0+100x600",
            f'mesh_call_duration_seconds_bucket{DURATION}, le="0.1"}}': "0x600",
            f'mesh_call_duration_seconds_bucket{DURATION}, le="0.25"}}': (
                "0+100x120 12000+50x60 15000+100x400"
            ),
        },
        121,
        145,
        220,
        {**OF_METHOD, "slo": "latency"},
        "50%",
    ),
)
"""Those of objectives that fire within minutes."""

SLOW_CASES = (
    # Half a per cent for twelve hours, after a day without.
    Case(
        "MeshObjectiveBurnsSlowly",
        {
            **IS_UP,
            f'{CALLS}, code="ok"}}': "0+597x2600",
            f'{CALLS}, code="internal"}}': "0x1440 0+3x720 2160x500",
        },
        1440 + 240,
        1440 + 480,
        1440 + 720 + 360,
        {**OF_METHOD, "slo": "success"},
        "0.5%",
    ),
    Case(
        "MeshObjectiveBurnsSlowly",
        {
            **IS_UP,
            f"mesh_call_duration_seconds_count{DURATION}}}": "0+100x2600",
            f'mesh_call_duration_seconds_bucket{DURATION}, le="0.25"}}': (
                "0+100x1440 144000+95x720 212400+100x500"
            ),
        },
        1440 + 240,
        1440 + 480,
        1440 + 720 + 360,
        {**OF_METHOD, "slo": "latency"},
        "5%",
    ),
)
"""Those that need hours."""


def unit_test(case: Case, rule: dict[str, Any]) -> dict[str, Any]:
    """The case as promtool reads it.

    Args:
        case: What is tried.
        rule: The alert, as it was generated; its annotations must come out as the case says.
    """
    values = {f"$labels.{name}": value for name, value in case.labels.items()}
    annotations = {
        name: re.sub(
            r"\{\{ (.*?) \}\}",
            # What is not in the case is left, and fails.
            lambda found: values.get(found[1], case.value if "$value" in found[1] else found[0]),
            text,
        )
        for name, text in rule["annotations"].items()
    }
    fired = {
        "exp_labels": {**rule["labels"], **case.labels},
        "exp_annotations": annotations,
    }
    return {
        "name": case.name,
        "interval": "1m",
        "input_series": [
            {"series": series, "values": values} for series, values in case.series.items()
        ],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": alerts}
            for minute, alerts in ((case.before, []), (case.fires, [fired]), (case.after, []))
        ],
    }
