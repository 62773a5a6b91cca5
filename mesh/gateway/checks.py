"""Is everything in order? What a gateway finds wrong with its mesh, and what to do about it.

A finding is about now: latencies and outboxes as they are, calls of the last minutes. What only was
wrong once is for metrics and their rules.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Literal

import msgspec

from mesh.errors import Code
from mesh.gateway.departures import UNREGISTERED
from mesh.gateway.losses import RECENT
from mesh.gateway.registry import RESERVED
from mesh.wire.codec import REQUIRES
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.gateway.core import Core
    from mesh.gateway.losses import Losses
    from mesh.gateway.views import GoneView, InstanceView, ServiceView, Views
    from mesh_telemetry import Record
    from mesh_telemetry.export import Exporter

LAG = 0.1
"""Seconds of loop lag from which on an event loop does not keep up."""
FULL = 0.25
"""The part of an outbox, or of the calls allowed in flight, from which on it fills."""
LAST = 2000
"""Calls that count, at most, of those of the last :data:`RECENT` seconds."""
ENOUGH, TOO_MANY = 20, 0.05
"""Calls from which on a rate means something, and the rate of faults that is too high."""
FAULTS = frozenset(
    code.number
    for code in (
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.RESOURCE_EXHAUSTED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    )
)
"""Outcomes that are a service's fault; others, such as not_found, are answers."""


GOES_ON = 60.0
"""Seconds from the first to the last call of a service that is not there, from which on, as from
:data:`ENOUGH` calls on, this is no mere typo."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is not in order."""

    level: Literal["error", "warning", "note"]
    """A note is of what may be over: it does not mean that anything is wrong."""
    subject: str
    """The service, method, instance or gateway that it is about."""
    what: str
    advice: str


_LEVELS = {"error": 0, "warning": 1, "note": 2}


def check(core: Core, views: Views) -> list[Finding]:
    """Everything that is not in order now, what is worst first."""
    services = [service for service in views.services() if service.name != RESERVED]
    there = {service.name for service in services if service.methods}
    gone = {service.name: service.gone for service in services if service.gone is not None}
    served, unserved = _recent(core, gone)
    found = [*_gateway(core), *_calls(served), *_missing(core, unserved), *_misfits(core)]
    for service in services:
        if service.gone is not None:
            calls = unserved.get(service.name, [])
            found.append(_gone(service.name, service.gone, calls, core.limits.service_memory))
        found += _service(service)
        found += _required(core, service, there)
        for instance in service.instances:
            found += _instance(service.name, instance, core.limits.max_in_flight)
    return sorted(found, key=lambda one: (_LEVELS[one.level], one.subject, one.what))


def _gateway(core: Core) -> Iterator[Finding]:
    subject = f"gateway {core.instance}"
    if core.draining:
        yield Finding(
            "warning", subject, "it drains, and takes no new calls", "Start another gateway."
        )
    if not core.observes:
        yield Finding(
            "warning",
            subject,
            "its telemetry is off: it neither counts nor records calls",
            "Start it with `--telemetry on`.",
        )
    if core.loop_lag > LAG:
        yield Finding(
            "warning",
            subject,
            f"its event loop was held up for {core.loop_lag * 1e3:,.0f} ms",
            "Look at its CPU with `mesh call mesh status`; give it a core of its own.",
        )
    if core.tracing is not None:
        yield from _export(subject, core.tracing.collector.exporter)
        yield from _losses(core.tracing.collector.debts.losses, core.clock())


def _export(subject: str, exporter: Exporter | None) -> Iterator[Finding]:
    if exporter is None:
        return
    lost = {reason: count for reason, count in exporter.dropped.items() if count}
    told = ", ".join(f"{reason} {count:,}" for reason, count in lost.items())
    so_far = f"{sum(lost.values()):,} are lost since its start" + (f" ({told})" if told else "")
    trouble, waiting, fullness = exporter.trouble, exporter.pending, exporter.fullness
    if trouble:
        yield Finding(
            "warning",
            subject,
            f"spans do not reach {exporter.place}: {trouble}; {so_far}, {waiting:,} wait",
            "See that the backend runs there and takes OTLP by OTEL_EXPORTER_OTLP_PROTOCOL; calls "
            "are not affected, and `mesh trace` shows the traces all the same.",
        )
    elif fullness > 1 - FULL:
        yield Finding(
            "warning",
            subject,
            f"{waiting:,} spans wait to be exported to {exporter.place}, {fullness:.0%} of what "
            f"may wait; {so_far}",
            "The backend takes them too slowly: give it more room, or keep fewer traces "
            "(traces.max_spans_per_second).",
        )


def _losses(losses: Losses, now: float) -> Iterator[Finding]:
    for loss in losses.recent(now):
        yield Finding(
            "warning",
            f"{loss.peer} at {loss.process}",
            f"at least {loss.spans:,} of its spans of kept traces are lost, the last "
            f"{now - loss.last:,.0f} s ago; these traces are not complete",
            "Its log tells of spans that cannot be told; its `mesh_records_dropped_total` rises "
            "where it makes more than it holds: start more instances.",
        )


def _gone(name: str, gone: GoneView, calls: list[Record], memory: float) -> Finding:
    """What is called is missed, and so is what has just left; the rest may have gone for good."""
    left = f"{gone.how} {duration(gone.gone_s)} ago"
    told = f"; {_told(calls)} since" if calls else ""
    just_left = gone.how != UNREGISTERED and gone.gone_s <= memory
    return Finding(
        "error" if calls or just_left else "note",
        name,
        f"no instance is connected any more: the last one, {gone.peer} at {gone.process_id}, "
        f"{left}{told}",
        f"Start it{', or change its callers' if calls else ''}; `mesh changes --service {name}` "
        "shows when and how it left.",
    )


def _service(service: ServiceView) -> Iterator[Finding]:
    # Other contracts live side by side on purpose; of one, the newest version serves everybody.
    versions: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for instance in service.instances:
        versions[_contract_of(instance.version)][instance.version] += 1
    for some in versions.values():
        if len(some) > 1:
            mix = ", ".join(f"{version} ({some[version]})" for version in sorted(some))
            yield Finding(
                "warning",
                service.name,
                f"its instances have different versions of one contract: {mix}",
                "Finish the deployment, or take it back.",
            )
    if len(versions) > 1 and (plain := versions.get("")):
        yield Finding(
            "warning",
            service.name,
            f"{plain.total()} of its instances have no version, and get calls of every version",
            "Serve them by a contract, too.",
        )


def _contract_of(version: str) -> str:
    """What the versions have in common between which a caller may be served."""
    if not version:
        return ""
    major, minor, _ = version.split(".")
    return f"{major}.{minor}" if major == "0" else major


def _misfits(core: Core) -> Iterator[Finding]:
    now = core.clock()
    for misfit, offered, advice in core.fitting.misfits(now):
        yield Finding(
            "error",
            misfit.service,
            f"{misfit.caller} calls it by version {misfit.version}, which no instance serves: "
            f"{misfit.recent(now):,} refused in the last five minutes; {offered}",
            f"{advice[0].upper()}{advice[1:]}.",
        )


def _required(core: Core, service: ServiceView, there: set[str]) -> Iterator[Finding]:
    told = (one.metadata.get(f"{REQUIRES}{service.name}", "") for one in service.instances)
    for one in sorted({one for some in told for one in some.split(",") if one}):
        name, _, version = one.partition(" ")
        if name not in there:
            yield Finding(
                "error",
                service.name,
                f"{service.name} requires {name}, which nobody serves",
                f"Start {name}; `mesh list` shows what there is.",
            )
        elif not core.fitting.is_served(name, version):
            yield Finding(
                "error",
                service.name,
                f"{service.name} requires {name} {version}, which no instance of {name} serves",
                f"Run an instance that does beside the others; `mesh info {name}` shows their "
                "versions.",
            )


def _instance(service: str, instance: InstanceView, max_in_flight: int) -> Iterator[Finding]:
    subject = f"{service} at {instance.process_id}"
    if instance.state in {"late", "unresponsive"}:
        yield Finding(
            "error" if instance.state == "unresponsive" else "warning",
            subject,
            f"it is {instance.state}: no heartbeat for {instance.heartbeat_age_s:,.1f} s",
            f"Its event loop is blocked: `mesh ping {service}` shows for how long; move slow work "
            "into plain functions, which run in threads.",
        )
    elif instance.loop_lag_s is not None and instance.loop_lag_s > LAG:
        yield Finding(
            "warning",
            subject,
            f"its event loop was held up for {instance.loop_lag_s * 1e3:,.0f} ms",
            "Move slow work into plain functions, which run in threads.",
        )
    if instance.queued_bytes > FULL * instance.queue_limit_bytes:
        yield Finding(
            "warning",
            subject,
            f"{instance.queued_bytes:,} bytes wait to be read by it, of "
            f"{instance.queue_limit_bytes:,} at most",
            "It reads too slowly: start more instances, or send less.",
        )
    if instance.in_flight > (1 - FULL) * max_in_flight:
        yield Finding(
            "warning",
            subject,
            f"it works on {instance.in_flight:,} calls, of {max_in_flight:,} at most",
            "Start more instances, or call less.",
        )


def _recent(
    core: Core, gone: dict[str, GoneView]
) -> tuple[dict[tuple[str, str], list[Record]], dict[str, list[Record]]]:
    """The last calls of what is served, by method; of what is not, those that nobody took."""
    now = core.clock()
    served: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    unserved: defaultdict[str, list[Record]] = defaultdict(list)
    for record in core.recorder.recent(LAST):
        service = record.service
        if record.started < now - RECENT or service == RESERVED:
            continue
        if service in core.registry.services and service not in gone:
            served[service, record.method].append(record)
        # Also those that waited for it until their time was over.
        elif not record.instance:
            left = gone.get(service)
            if left is None or record.started + record.duration >= now - left.gone_s:
                unserved[service].append(record)
    return served, unserved


def _calls(served: dict[tuple[str, str], list[Record]]) -> Iterator[Finding]:
    for (service, method), records in served.items():
        faults = Counter(one.reason for one in records if one.code in FAULTS and one.reason != "")
        total, failed = len(records), sum(faults.values())
        if total >= ENOUGH and failed > TOO_MANY * total:
            worst = ", ".join(f"{reason} ({count})" for reason, count in faults.most_common(3))
            yield Finding(
                "error",
                f"{service}.{method}",
                f"{failed} of its last {total} calls failed: {worst}",
                f"`mesh info {service}` shows its instances and callers; their logs tell why.",
            )


def _missing(core: Core, unserved: dict[str, list[Record]]) -> Iterator[Finding]:
    """What was called and never there."""
    for service, records in unserved.items():
        if service in core.registry.services:
            continue
        times = [one.started for one in records]
        goes_on = max(times) - min(times) >= GOES_ON or len(times) >= ENOUGH
        yield Finding(
            "error" if goes_on else "note",
            service,
            f"nobody serves it, and {_told(records)}",
            "Start it, or mend the name in the callers; `mesh list` shows what there is.",
        )


def _told(calls: list[Record]) -> str:
    """How often something was called, and by whom."""
    callers = sorted({one.caller for one in calls})
    times = "time" if len(calls) == 1 else "times"
    return f"it was called {len(calls):,} {times} by {', '.join(callers[:5])}"
