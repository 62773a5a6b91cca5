"""Every metric and label name, once: dashboards, rules and tests import them from here.

Metrics follow Prometheus' naming practice (https://prometheus.io/docs/practices/naming/): base
units (seconds, bytes) in the name, ``_total`` on counters. The labels are ``rpc_service`` and
``peer``, not ``service`` and ``instance``: Prometheus and ServiceMonitors own those target labels
and would rename ours to ``exported_*``. No label of a metric ever carries a trace, activity,
connection or user id; a trace's is on exemplars, which make no series.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

OTHER: Final = "_OTHER"
"""The label value of whatever is no registered name, as in OpenTelemetry's conventions."""

CODE_NAMES: Final = (
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
)
"""The status codes by number; numbers and order are gRPC's (grpc.io/docs/guides/status-codes)."""

SERVER_FAULTS: Final = (
    "unknown",
    "deadline_exceeded",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
)
"""The codes that are the callee's failures; with any other one it has answered.

As OpenTelemetry's conventions have it for spans of servers
(https://opentelemetry.io/docs/specs/semconv/rpc/grpc/).
"""

DURATION_BOUNDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
"""Inclusive upper bounds of the duration buckets, in seconds; a local mesh lives in the first."""

DEPTH_BOUNDS: Final = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Inclusive upper bounds of the depth buckets, in links; 16 is the deepest chain by default."""

# Label names.
CALLER: Final = "caller"
RPC_SERVICE: Final = "rpc_service"
RPC_METHOD: Final = "rpc_method"
CODE: Final = "code"
REASON: Final = "reason"
OUTCOME: Final = "outcome"
STATE: Final = "state"
PEER: Final = "peer"
KIND: Final = "kind"
DIRECTION: Final = "direction"
DECISION: Final = "decision"
VERSION: Final = "version"
CLIENT: Final = "client"
SERVER: Final = "server"
TRACE_ID: Final = "trace_id"
"""The label of an exemplar, in hexadecimal."""

# Attributes of spans: OpenTelemetry's conventions for RPC
# (https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/), then our own.
RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_METHOD_NAME: Final = "rpc.method"
RPC_METHOD_ORIGINAL: Final = "rpc.method_original"
RPC_STATUS_CODE: Final = "rpc.status_code"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE_ID: Final = "service.instance.id"

RPC_SYSTEM: Final = "mesh"
"""The value of ``rpc.system.name``."""

ACTIVITY_ID: Final = "mesh.activity.id"
CALL_CHAIN: Final = "mesh.call.chain"
CALL_DEPTH_LINKS: Final = "mesh.call.depth"
CALL_DEADLINE_MS: Final = "mesh.call.deadline_ms"
"""Left at the span's start, in milliseconds."""
CALL_ATTEMPT: Final = "mesh.call.attempt"
CALL_OUTCOME: Final = "mesh.call.outcome"
"""``ok``, ``error``, ``cancelled`` or ``deadline_exceeded``."""
CALL_CALLER: Final = "mesh.caller"
INSTANCE_ID: Final = "mesh.instance.id"
ROLE: Final = "mesh.role"
"""Of a resource: :data:`GATEWAY_ROLE` for a gateway, whatever it is called."""
GATEWAY_ROLE: Final = "gateway"
CALL_WAITED_MS: Final = "mesh.call.waited_ms"
"""On the gateway's SERVER span: milliseconds that the call waited for an instance to come."""
CALL_DETACHED: Final = "mesh.call.detached"
"""On the gateway's SERVER span: that the call may outlive the one inside which it was made."""
KEEP_REASON: Final = "mesh.keep.reason"
"""On the root span of the gateway: why the trace was kept."""

DECISION_EVENT: Final = "mesh.decision"
"""What the events that tell of decisions, and their attributes, begin with."""

CLIPPED: Final = "mesh.clipped"
"""On a span that was too large for one frame: that it was larger."""

# Values of the label ``decision`` besides ``kept_`` and the reason.
DROPPED: Final = "dropped"
"""Nothing spoke for the trace, and the baseline had enough of its method."""
OVER_QUOTA: Final = "over_quota"
"""It had a reason, but enough traces had been kept for the same one and the same method."""
OVER_CAP: Final = "over_cap"
"""It would have been kept, but too many spans had been kept."""

MetricType = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """What one metric is called, and what it means.

    ``name`` is the name in queries, so a counter's ends in ``_total`` (a histogram's samples add
    ``_bucket``, ``_sum`` and ``_count``). ``labels`` are in the order in which they are rendered.
    """

    name: str
    type: MetricType
    labels: tuple[str, ...]
    help: str

    @property
    def base(self) -> str:
        """The name without ``_total``: what OpenMetrics and prometheus_client call a counter."""
        return self.name.removesuffix("_total") if self.type == "counter" else self.name


CALLS: Final = Family(
    "mesh_calls_total",
    "counter",
    (CALLER, RPC_SERVICE, RPC_METHOD, CODE),
    "Attempts of calls that ended, refused ones included, by status code.",
)
CALL_DURATION: Final = Family(
    "mesh_call_duration_seconds",
    "histogram",
    (RPC_SERVICE, RPC_METHOD),
    "Time from a call's arrival at the gateway to its outcome; refused calls are left out.",
)
CALLS_IN_FLIGHT: Final = Family(
    "mesh_calls_in_flight",
    "gauge",
    (RPC_SERVICE, RPC_METHOD),
    "Calls that the gateway has accepted and that have no outcome yet.",
)
CALL_DEPTH: Final = Family(
    "mesh_call_depth",
    "histogram",
    (),
    "Links of nested calls that led to a call, its own included: entry calls are 1.",
)
CALLS_REJECTED: Final = Family(
    "mesh_calls_rejected_total",
    "counter",
    (CALLER, RPC_SERVICE, REASON),
    "Calls that the gateway refused before any service saw them.",
)
CALLS_ABANDONED: Final = Family(
    "mesh_calls_abandoned_total",
    "counter",
    (RPC_SERVICE, RPC_METHOD),
    "Calls whose caller was gone before they ended: cancelled, timed out or disconnected.",
)
CALLS_LATE: Final = Family(
    "mesh_calls_late_total",
    "counter",
    (RPC_SERVICE, RPC_METHOD),
    "Results that arrived after their call had already ended, and were dropped.",
)
DEPRECATED_CALLS: Final = Family(
    "mesh_deprecated_calls_total",
    "counter",
    (CALLER, RPC_SERVICE, RPC_METHOD),
    "Ended calls of methods whose contracts call them deprecated, since these said so.",
)
RETRIES: Final = Family(
    "mesh_retries_total",
    "counter",
    (CALLER, RPC_SERVICE, RPC_METHOD, OUTCOME),
    "Attempts after the first, by how they ended.",
)
SERVICE_INSTANCES: Final = Family(
    "mesh_service_instances",
    "gauge",
    (RPC_SERVICE, STATE),
    "Connected instances of a service by state (healthy, late, unresponsive, draining).",
)
PEER_LAST_HEARTBEAT: Final = Family(
    "mesh_peer_last_heartbeat_timestamp_seconds",
    "gauge",
    (RPC_SERVICE, PEER),
    "Unix time of a peer's last heartbeat.",
)
PEER_LOOP_LAG: Final = Family(
    "mesh_peer_loop_lag_seconds",
    "gauge",
    (RPC_SERVICE, PEER),
    "Event loop lag that a peer reported in its last heartbeat.",
)
PEER_IN_FLIGHT: Final = Family(
    "mesh_peer_in_flight",
    "gauge",
    (RPC_SERVICE, PEER),
    "Calls in flight at a peer, as it reported in its last heartbeat.",
)
BREAKER_STATE: Final = Family(
    "mesh_breaker_state",
    "gauge",
    (RPC_SERVICE, PEER),
    "State of a peer's circuit breaker: 0 closed, 1 half open, 2 open.",
)
CONNECTIONS: Final = Family("mesh_connections", "gauge", (), "Connections that are open now.")
CONNECTIONS_OPENED: Final = Family(
    "mesh_connections_opened_total", "counter", (), "Connections that finished the handshake."
)
CONNECTIONS_CLOSED: Final = Family(
    "mesh_connections_closed_total", "counter", (), "Connections that ended after the handshake."
)
CONNECTIONS_REFUSED: Final = Family(
    "mesh_connections_refused_total",
    "counter",
    (),
    "Connections closed before the end of the handshake: over a limit, too slow, or not let in.",
)
TLS_HANDSHAKES_FAILED: Final = Family(
    "mesh_tls_handshakes_failed_total",
    "counter",
    (REASON,),
    "Connections to a TLS address that ended before the end of the TLS handshake, by reason.",
)
PROTOCOL_ERRORS: Final = Family(
    "mesh_protocol_errors_total", "counter", (), "Connections closed for malformed input."
)
OUTBOX_BYTES: Final = Family(
    "mesh_outbox_bytes", "gauge", (), "Bytes queued for all connections together."
)
OUTBOX_FULLEST: Final = Family(
    "mesh_outbox_fullest_bytes",
    "gauge",
    (),
    "Bytes queued for the one connection for which most are.",
)
OUTBOX_LIMIT: Final = Family(
    "mesh_outbox_limit_bytes", "gauge", (), "Bytes that may be queued for one connection."
)
IN_FLIGHT_LIMIT: Final = Family(
    "mesh_in_flight_limit", "gauge", (), "Calls that may be in flight at one instance."
)
FRAMES: Final = Family(
    "mesh_frames_total",
    "counter",
    (KIND, DIRECTION),
    "Frames by kind and direction: in or out of the gateway.",
)
BYTES: Final = Family(
    "mesh_bytes_total", "counter", (DIRECTION,), "Bytes by direction: in or out of the gateway."
)
EVENTS_DROPPED: Final = Family(
    "mesh_events_dropped_total",
    "counter",
    (),
    "Changes of the registry that peers which asked for them were not told: they read too slowly.",
)
TRACES: Final = Family(
    "mesh_traces_total", "counter", (DECISION,), "Traces by what the tail sampler decided."
)
SPANS_DROPPED: Final = Family(
    "mesh_spans_dropped_total",
    "counter",
    (REASON,),
    "Spans of kept traces that were lost, by reason.",
)
TRACES_PENDING: Final = Family(
    "mesh_traces_pending",
    "gauge",
    (),
    "Traces that go on, or ended a moment ago, of which the gateway holds records.",
)
TRACES_STORED: Final = Family(
    "mesh_traces_stored", "gauge", (), "Kept traces that the gateway holds."
)
SPANS_STORED: Final = Family("mesh_spans_stored", "gauge", (), "Spans of these.")
TRACES_EVICTED: Final = Family(
    "mesh_traces_evicted_total", "counter", (), "Kept traces that made way for newer ones."
)
SPANS_EXPORTED: Final = Family(
    "mesh_spans_exported_total", "counter", (), "Spans that a backend has taken."
)
SPANS_WAITING: Final = Family(
    "mesh_spans_waiting", "gauge", (), "Spans that wait for a backend to take them."
)
GATEWAY_LOOP_LAG: Final = Family(
    "mesh_gateway_loop_lag_seconds",
    "gauge",
    (),
    "How late the gateway's event loop last ran a timer.",
)
SERVICE_GRAPH_REQUESTS: Final = Family(
    "traces_service_graph_request_total",
    "counter",
    (CLIENT, SERVER),
    "Calls from one service to another, as Grafana's service graph expects.",
)
SERVICE_GRAPH_FAILED: Final = Family(
    "traces_service_graph_request_failed_total",
    "counter",
    (CLIENT, SERVER),
    "Failed calls from one service to another, as Grafana's service graph expects.",
)
SERVICE_GRAPH_SECONDS: Final = Family(
    "traces_service_graph_request_server_seconds",
    "histogram",
    (CLIENT, SERVER),
    "Duration of calls from one service to another, as Grafana's service graph expects.",
)
RPC_CLIENT_DURATION: Final = Family(
    "rpc_client_call_duration_seconds",
    "histogram",
    (RPC_SERVICE, RPC_METHOD, CODE),
    "Duration of the calls that this peer made, waiting for a connection included.",
)
RPC_CLIENT_IN_FLIGHT: Final = Family(
    "rpc_client_calls_in_flight",
    "gauge",
    (RPC_SERVICE, RPC_METHOD),
    "Calls that this peer has made and that have not ended.",
)
RPC_SERVER_DURATION: Final = Family(
    "rpc_server_call_duration_seconds",
    "histogram",
    (RPC_SERVICE, RPC_METHOD, CODE),
    "Time from a call's arrival at this peer to its answer.",
)
RPC_SERVER_IN_FLIGHT: Final = Family(
    "rpc_server_calls_in_flight",
    "gauge",
    (RPC_SERVICE, RPC_METHOD),
    "Calls that this peer works on.",
)
RUNTIME_LOOP_LAG: Final = Family(
    "mesh_runtime_loop_lag_seconds",
    "gauge",
    (),
    "How late this peer's event loop last woke its heartbeat.",
)
RUNTIME_THREADS: Final = Family(
    "mesh_runtime_threads_in_use", "gauge", (), "Threads that run plain functions as handlers."
)
RUNTIME_THREADS_LIMIT: Final = Family(
    "mesh_runtime_threads_limit", "gauge", (), "Such threads that there may be at once."
)
RECORDS: Final = Family(
    "mesh_records", "gauge", (), "Records of this process's calls that are held for kept traces."
)
RECORDS_DROPPED: Final = Family(
    "mesh_records_dropped_total",
    "counter",
    (REASON,),
    "Such records, and spans of users, that made way before they were old, by reason; traces that "
    "are kept later lack them.",
)
BUILD_INFO: Final = Family(
    "mesh_build_info", "gauge", (VERSION,), "Always 1; the label tells the version that runs."
)

FAMILIES: Final[dict[str, Family]] = {
    family.name: family
    for family in (
        CALLS,
        CALL_DURATION,
        CALLS_IN_FLIGHT,
        CALL_DEPTH,
        CALLS_REJECTED,
        CALLS_ABANDONED,
        CALLS_LATE,
        DEPRECATED_CALLS,
        RETRIES,
        SERVICE_INSTANCES,
        PEER_LAST_HEARTBEAT,
        PEER_LOOP_LAG,
        PEER_IN_FLIGHT,
        BREAKER_STATE,
        CONNECTIONS,
        CONNECTIONS_OPENED,
        CONNECTIONS_CLOSED,
        CONNECTIONS_REFUSED,
        PROTOCOL_ERRORS,
        TLS_HANDSHAKES_FAILED,
        OUTBOX_BYTES,
        OUTBOX_FULLEST,
        OUTBOX_LIMIT,
        IN_FLIGHT_LIMIT,
        FRAMES,
        BYTES,
        EVENTS_DROPPED,
        TRACES,
        SPANS_DROPPED,
        TRACES_PENDING,
        TRACES_STORED,
        SPANS_STORED,
        TRACES_EVICTED,
        SPANS_EXPORTED,
        SPANS_WAITING,
        GATEWAY_LOOP_LAG,
        SERVICE_GRAPH_REQUESTS,
        SERVICE_GRAPH_FAILED,
        SERVICE_GRAPH_SECONDS,
        RPC_CLIENT_DURATION,
        RPC_CLIENT_IN_FLIGHT,
        RPC_SERVER_DURATION,
        RPC_SERVER_IN_FLIGHT,
        RUNTIME_LOOP_LAG,
        RUNTIME_THREADS,
        RUNTIME_THREADS_LIMIT,
        RECORDS,
        RECORDS_DROPPED,
        BUILD_INFO,
    )
}
"""All metrics by the name that queries use."""
