"""What every alert that every mesh wants is tried with, and when it must fire."""

from __future__ import annotations

from tests.dashboards.series import GATEWAY, IS_UP, UP, Case


def rejected(reason: str, service: str = "orders") -> str:
    return (
        f'mesh_calls_rejected_total{{{GATEWAY}, caller="shop", rpc_service="{service}", '
        f'reason="{reason}"}}'
    )


def instances(state: str) -> str:
    return f'mesh_service_instances{{{GATEWAY}, rpc_service="users", state="{state}"}}'


def dropped(reason: str) -> str:
    return f'mesh_spans_dropped_total{{{GATEWAY}, reason="{reason}"}}'


def made(code: str, service: str = "orders") -> str:
    return (
        f'mesh_calls_total{{{GATEWAY}, caller="shop", rpc_service="{service}", '
        f'rpc_method="place", code="{code}"}}'
    )


PEER = f'{{{GATEWAY}, rpc_service="users", peer="host-1"}}'
OF_GATEWAY = {"job": "mesh-gateway", "instance": "gw:9464"}
OF_SERVICE = {"job": "mesh-gateway", "rpc_service": "users"}
OF_PEER = {**OF_GATEWAY, "rpc_service": "users", "peer": "host-1"}
OF_CALLS = {"job": "mesh-gateway", "caller": "shop", "rpc_service": "orders"}

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
        16,
        17,
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
        {
            **IS_UP,
            rejected("OVERLOADED"): "_x20 10+10x9 100x40",
            made("resource_exhausted"): "_x20 10+10x9 100x40",
            made("ok"): "0+100x60",
        },
        25,
        26,
        35,
        {**OF_CALLS, "reason": "OVERLOADED"},
        "20",
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
        {**IS_UP, dropped("trace_too_long"): "_x21 30x60", dropped("not_kept"): "0+5x60"},
        20,
        21,
        37,
        {**OF_GATEWAY, "reason": "trace_too_long"},
        "30",
    ),
    Case(
        "MeshExportFailing",
        {**IS_UP, dropped("export_failed"): "_x21 1500x60"},
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
                "_x21 30x60"
            ),
            'up{job="mesh-peers", instance="users:9465"}': "1x60",
        },
        20,
        21,
        37,
        {"job": "mesh-peers", "instance": "users:9465", "reason": "full"},
        "30",
    ),
)
