"""The alerts that every mesh wants. What they mean and what to do is in ``runbooks/``, by name.

``page`` is for what callers feel, or will within minutes; ``ticket`` for what can wait until
somebody is at work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_dashboards.promql import NOT_KEPT, OWN_SERVICE, Group, Rule, Scope, quoted, record
from mesh_dashboards.recording import INSTANCES
from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN = "7d"
"""For how long a service that has had an instance is expected to have one."""
GONE = "mesh:service_gone:max"
"""Services that have had instances and have none: how many they have had at most."""
MISSED = "mesh:service_missed:max"
"""Those of them whose calls have failed within five minutes."""
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
    yield from _gone(scope, others)
    gone, missed = scope.select(GONE), scope.select(MISSED)
    for severity, expression, calls in (
        ("page", missed, "Calls of it fail."),
        (
            "ticket",
            f"{gone}\nunless {missed}",
            "None of its calls has failed within five minutes; the next will.",
        ),
    ):
        yield scope.alert(
            "MeshServiceWithoutInstances",
            expression,
            wait="2m",
            severity=severity,
            summary="No instance of {{ $labels.rpc_service }} is left.",
            description="{{ $labels.rpc_service }} has had instances at a gateway within seven "
            "days (at most {{ $value }} at once), and none for two minutes. " + calls,
        )
    state = names.SERVICE_INSTANCES.name
    late = scope.select(state, others, 'state=~"late|unresponsive"')
    healthy = scope.select(state, others, 'state="healthy"')
    for severity, other, who, calls in (
        ("page", "unless", "All instances", "None is healthy, and calls of it may not end."),
        ("ticket", "and", "Instances", "Calls that they have got may not end."),
    ):
        yield scope.alert(
            "MeshHeartbeatsLate",
            f"sum by (job, rpc_service) ({late}) > 0\n"
            f"{other} sum by (job, rpc_service) ({healthy}) > 0",
            wait="1m",
            severity=severity,
            summary=f"{who} of {{{{ $labels.rpc_service }}}} give no sign of life.",
            description="Connected instances of {{ $labels.rpc_service }} that have missed three "
            "heartbeats or more for a minute: {{ $value }}. " + calls + " "
            "`mesh info {{ $labels.rpc_service }}` names them.",
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


def _gone(scope: Scope, others: str) -> Iterator[Rule]:
    """What is recorded of services that are gone, just before the alerts that read it."""
    known, up = scope.select(INSTANCES), scope.select("up")
    there = scope.select(names.SERVICE_INSTANCES.name, others, 'state!="draining"')
    # A gateway forgets who is gone, at the latest when it ends: Prometheus remembers for it. While
    # it does not answer, nobody knows of its services, and its own alert is enough.
    yield record(
        GONE,
        f"max by (job, rpc_service) (\n"
        f"  max_over_time({known}[{scope.span(KNOWN)}]) > 0\n"
        f"  unless on (job, instance) {up} == 0\n"
        f")\n"
        f"unless sum by (job, rpc_service) ({there}) > 0\n"
        f"and on (job) max by (job) ({up}) == 1",
    )
    gone, remembered = scope.select(GONE), scope.select(names.SERVICE_INSTANCES.name, others)
    failed = scope.select(names.CALLS.name, others, 'code="unavailable"')
    unknown = scope.select(names.CALLS.name, 'rpc_service="_OTHER"', 'code="not_found"')
    # Calls of what a gateway has never heard of have no name of their own there.
    yield record(
        MISSED,
        f"{gone}\n"
        f"and on (job, rpc_service) sum by (job, rpc_service) {scope.grown(failed, '5m')} > 0\n"
        f"or ({gone} unless on (job, rpc_service) {remembered})\n"
        f"and on (job) sum by (job) {scope.grown(unknown, '5m')} > 0",
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
    lost = scope.select(dropped, f'reason!~"{NOT_KEPT}|export_.*"')
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
