"""The alerts that every mesh wants. What they mean and what to do is in ``runbooks/``, by name.

``page`` is for what callers feel, or will within minutes; ``ticket`` for what can wait until
somebody is at work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_dashboards.promql import OWN_SERVICE, Group, Rule, Scope, quoted
from mesh_dashboards.recording import INSTANCES
from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN = "7d"
"""For how long a service that has had an instance is expected to have one."""
COUNT = '{{ $value | printf "%.0f" }}'
"""The value in a description, where it is a number of something: growth may come out broken."""
SHED = 10
"""Calls refused for lack of room within two minutes that are too few to page anybody."""


def alerts(scope: Scope) -> list[Group]:
    """The groups of alerts."""
    return [
        {"name": "mesh-gateway", "rules": list(_gateway(scope))},
        {"name": "mesh-services", "rules": list(_services(scope))},
        {"name": "mesh-refusals", "rules": list(_refusals(scope))},
        {"name": "mesh-telemetry", "rules": list(_telemetry(scope))},
    ]


def _gateway(scope: Scope) -> Iterator[Rule]:
    up, job = scope.select("up"), quoted(scope.job)
    yield scope.alert(
        "MeshGatewayDown",
        f"{up} == 0",
        wait="1m",
        severity="page",
        summary="The gateway at {{ $labels.instance }} does not answer.",
        description="Prometheus has had no metrics of {{ $labels.instance }} for a minute "
        "(up is {{ $value }}). Without a gateway, no call reaches any service.",
    )
    yield scope.alert(
        "MeshGatewayAbsent",
        f"absent({up})",
        wait="5m",
        severity="page",
        summary="Prometheus knows no gateway.",
        description=f"There has been no target of the job {job} for five minutes, so that none of "
        "the mesh's alerts can fire.",
    )
    lag = scope.select(names.GATEWAY_LOOP_LAG.name)
    yield scope.alert(
        "MeshGatewayLoopLag",
        f"avg_over_time({lag}[{scope.span('5m')}]) > 0.1",
        wait="6m",  # one value is in five minutes' average for five minutes
        severity="page",
        summary="The gateway at {{ $labels.instance }} does not keep up.",
        description="Its event loop has been {{ $value | humanizeDuration }} late on average over "
        "five minutes, 0.1 s is the most that is fine. Every call waits for as long.",
    )
    yield scope.alert(
        "MeshOutboxFilling",
        f"{scope.select('mesh:outbox_fullest:ratio')} > 0.5",
        wait="2m",
        severity="ticket",
        summary="A peer of the gateway at {{ $labels.instance }} reads too slowly.",
        description="The fullest outbox has been filled by more than half for two minutes, now by "
        "{{ $value | humanizePercentage }}. When it is full, calls of that peer are refused.",
    )
    failed = scope.select(names.TLS_HANDSHAKES_FAILED.name, 'reason!="disconnected"')
    yield scope.alert(
        "MeshTlsHandshakesFailing",
        f"sum by (job, instance, reason) {scope.grown(failed, '15m')} > 5",
        severity="ticket",
        summary="TLS handshakes fail at the gateway at {{ $labels.instance }}.",
        description=COUNT + " handshakes have failed within 15 minutes, for the "
        "reason {{ $labels.reason }}. Who they belong to cannot call or serve.",
    )


def _services(scope: Scope) -> Iterator[Rule]:
    others = f"rpc_service!={quoted(OWN_SERVICE)}"
    known = scope.select(INSTANCES)
    there = scope.select(names.SERVICE_INSTANCES.name, others, 'state!="draining"')
    # The gateway forgets who is gone, also when it ends: Prometheus remembers for it.
    yield scope.alert(
        "MeshServiceWithoutInstances",
        f"max_over_time({known}[{scope.span(KNOWN)}]) > 0\n"
        f"unless sum by (job, rpc_service) ({there}) > 0\n"
        f"and on (job) max by (job) ({scope.select('up')}) == 1",
        wait="2m",
        severity="page",
        summary="No instance of {{ $labels.rpc_service }} is left.",
        description="{{ $labels.rpc_service }} has had instances at a gateway within seven days "
        "(at most {{ $value }} at once), and none for two minutes. Calls of it fail.",
    )
    late = scope.select(names.SERVICE_INSTANCES.name, others, 'state=~"late|unresponsive"')
    yield scope.alert(
        "MeshHeartbeatsLate",
        f"sum by (job, rpc_service) ({late}) > 0",
        wait="1m",
        severity="ticket",
        summary="Instances of {{ $labels.rpc_service }} give no sign of life.",
        description="Connected instances of {{ $labels.rpc_service }} that have missed three "
        "heartbeats or more for a minute: {{ $value }}. Calls that they have got may not end.",
    )
    lag = scope.select(names.PEER_LOOP_LAG.name, others)
    yield scope.alert(
        "MeshPeerLoopLag",
        f"avg_over_time({lag}[{scope.span('5m')}]) > 0.1",
        wait="5m",
        severity="ticket",
        summary="An instance of {{ $labels.rpc_service }} blocks its event loop.",
        description="The loop of {{ $labels.peer }} has been {{ $value | humanizeDuration }} late "
        "on average over five minutes, 0.1 s is the most that is fine. All its calls wait for as "
        "long.",
    )
    yield scope.alert(
        "MeshInstanceSaturated",
        f"{scope.select('mesh:peer_in_flight:ratio')} > 0.75",
        wait="5m",
        severity="ticket",
        summary="An instance of {{ $labels.rpc_service }} has nearly all the work it may have.",
        description="{{ $labels.peer }} has worked on more than three quarters of the calls that "
        "one instance may have in flight for five minutes, now on "
        "{{ $value | humanizePercentage }}. Calls beyond that are refused.",
    )


def _refusals(scope: Scope) -> Iterator[Rule]:
    def refused(reasons: str, window: str) -> str:
        series = scope.select(names.CALLS_REJECTED.name, f'reason=~"{reasons}"')
        return f"sum by (job, caller, rpc_service, reason) {scope.grown(series, window)}"

    made = f"sum by (job, caller, rpc_service) {scope.grown(scope.select(names.CALLS.name), '2m')}"

    yield scope.alert(
        "MeshCallsLooping",
        f"{refused('DEPTH_EXCEEDED|LOOP_DETECTED', '15m')} > 0",
        severity="ticket",
        summary="Calls of {{ $labels.caller }} to {{ $labels.rpc_service }} go in a circle or too "
        "deep.",
        description="Refused by the gateway within 15 minutes ({{ $labels.reason }}): "
        + COUNT
        + ".",
    )
    yield scope.alert(
        "MeshCallsShed",
        # Both a part of the caller's calls and a number, so that neither few nor one burst page.
        f"{refused('OVERLOADED|OUTBOX_FULL|WAITING_FULL', '2m')}\n"
        f"> on (job, caller, rpc_service) group_left ()\n"
        f"clamp_min(0.01 * {made}, {SHED})",
        wait="5m",  # longer than the window, in which bursts stay
        severity="page",
        summary="{{ $labels.rpc_service }} gets more calls than it can take.",
        description="The gateway has refused " + COUNT + " calls of "
        "{{ $labels.caller }} to {{ $labels.rpc_service }} within two minutes, more than 1% of "
        "them, and has gone on for five ({{ $labels.reason }}).",
    )
    yield scope.alert(
        "MeshVersionMismatch",
        f"{refused('INCOMPATIBLE_VERSION', '15m')} > 0",
        severity="ticket",
        summary="{{ $labels.caller }} calls {{ $labels.rpc_service }} by a version that nobody "
        "serves.",
        description="Refused by the gateway within 15 minutes ({{ $labels.reason }}): "
        + COUNT
        + ".",
    )


def _telemetry(scope: Scope) -> Iterator[Rule]:
    dropped = names.SPANS_DROPPED.name
    # not_kept: parts of traces that the gateway no longer has, or never wanted.
    lost = scope.select(dropped, 'reason!~"not_kept|export_.*"')
    yield scope.alert(
        "MeshTelemetryDropped",
        f"{scope.grown(lost, '15m')} > 0",
        severity="ticket",
        summary="Kept traces of the gateway at {{ $labels.instance }} are not complete.",
        description="Spans of kept traces that were lost within 15 minutes "
        "({{ $labels.reason }}): " + COUNT + ". Calls are not affected.",
    )
    unsent = scope.select(dropped, 'reason=~"export_.*"')
    yield scope.alert(
        "MeshExportFailing",
        f"{scope.grown(unsent, '15m')} > 0",
        severity="ticket",
        summary="Traces of the gateway at {{ $labels.instance }} do not reach the backend.",
        description="Spans that were lost on their way there within 15 minutes "
        "({{ $labels.reason }}): " + COUNT + ". Calls are not affected, and the gateway has the "
        "traces itself.",
    )
    # Of peers that serve their own metrics, by whatever job they are scraped.
    yield scope.alert(
        "MeshPeerRecordsDropped",
        f"{scope.grown(names.RECORDS_DROPPED.name, '15m')} > 0",
        severity="ticket",
        summary="{{ $labels.instance }} makes more records of calls than it can hold.",
        description="Records that made way within 15 minutes before they were old "
        "({{ $labels.reason }}): " + COUNT + ". Traces that are kept later lack them.",
    )
