"""Which instances serve a caller, by the version of the contract that it was written for.

Callers are compared when they first call a method by a version, and again after every change of its
registrations; what was found is kept until then, so that a call costs one look.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from mesh.contracts.versions import Fit, Version, fit
from mesh.errors import Code, Reason
from mesh.gateway.forwarding import overloaded
from mesh.gateway.losses import RECENT
from mesh_telemetry import Decision, DecisionKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh.gateway.core import Core
    from mesh.gateway.observing import Refusal
    from mesh.gateway.registry import Method, Registration, Service
    from mesh.gateway.session import Session
    from mesh_telemetry.decision_forms import Facts

MOST_VERSIONS = 64
"""Callers' versions that are remembered of a method."""
MOST_MISFITS = 100
"""Callers that were refused of late and are remembered, with their version and service."""
SLICE = RECENT / 10
"""Seconds of which refusals are counted together."""
TOLD = 8
"""Versions, and process ids of each, that one refusal tells."""
_FAULTS = {Fit.MISMATCH: "another contract", Fit.TOO_NEW: "older"}


class Offer(msgspec.Struct):
    """Instances of one name and version that do not serve a caller."""

    version: Version
    fault: Fit
    peer: str
    instances: list[str]
    """Some of their process ids."""
    count: int

    def __str__(self) -> str:
        more = self.count - len(self.instances)
        where = ", ".join(self.instances) + (f" and {more:,} more" if more else "")
        return f"{self.version} ({self.peer} at {where}) is {_FAULTS[self.fault]}"


class Misfit(msgspec.Struct):
    """A caller that nobody serves by its version of a service."""

    service: str
    caller: str
    version: str
    counts: dict[int, int]
    """Refused calls, by the :data:`SLICE` of time in which they were."""

    def recent(self, now: float) -> int:
        """Calls that were refused in the last :data:`~mesh.gateway.losses.RECENT` seconds."""
        first = int((now - RECENT) / SLICE)
        return sum(count for slot, count in self.counts.items() if slot > first)


class Fitting:
    """Compares versions for one gateway."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._misfits: OrderedDict[tuple[str, str, str], Misfit] = OrderedDict()

    def instances(self, method: Method, version: str) -> list[Session]:
        """The instances of a method that serve callers of a version; none where it is malformed."""
        found = method.fitting.get(version)
        if found is None:
            if len(method.fitting) >= MOST_VERSIONS:
                method.fitting.clear()
            found = method.fitting[version] = self._compare(method, version)
        return found

    def _compare(self, method: Method, version: str) -> list[Session]:
        registered = self._core.registry.services[method.service].instances
        return [one for one in method.instances if _serves(registered[one].parsed, version)]

    def is_served(self, service: str, version: str) -> bool:
        """Whether some instance of a service serves callers of a version."""
        known = self._core.registry.services.get(service)
        return known is not None and _is_served(known, version)

    def was_served(self, service: str, version: str, since: float) -> bool:
        """Whether some instance serves callers of a version, or one has that left since then.

        One that left longer ago than such are remembered counts no more.
        """
        known = self._core.registry.services.get(service)
        return known is not None and (
            _is_served(known, version)
            or any(at >= since and _serves(one, version) for one, at in known.gone.items())
        )

    def is_expected(self, method: Method, version: str, now: float) -> bool:
        """Whether an instance that serves such a caller should be there soon."""
        core = self._core
        if not _is_version(version):
            return False
        if now - core.started < core.limits.service_wait:
            return True
        memory = core.limits.service_memory
        gone = core.registry.services[method.service].gone
        return any(now - at <= memory and _serves(one, version) for one, at in gone.items())

    def turn_away(
        self,
        caller: str,
        method: Method,
        instances: list[Session],
        version: str | None,
        now: float,
    ) -> Refusal | None:
        """Why none of a method's instances takes a call now; nothing where it is to wait.

        Args:
            caller: Who called.
            method: What is called.
            instances: Those of its instances that serve such a caller.
            version: Of the contract that the caller was written for.
            now: On trio's clock.
        """
        if instances or version is None:
            return overloaded(self._core, method.full_name, instances)
        if self.is_expected(method, version, now):
            return None
        return self.refuse(caller, method, version)

    def refuse(self, caller: str, method: Method, version: str) -> Refusal:
        """Why no instance of a method serves a caller of a version."""
        core = self._core
        facts: Facts = {"caller": caller, "call": method.full_name, "version": version}
        try:
            wanted = Version.parse(version)
        except ValueError as fault:
            why = Decision(
                DecisionKind.NO_VERSION, core.clock(), None, facts | {"told": str(fault)}
            )
            return Code.INVALID_ARGUMENT, Reason.INCOMPATIBLE_VERSION, why
        self._note(method.service, caller, version)
        service = core.registry.services[method.service]
        offers = _offers(((one, service.instances[one]) for one in method.instances), wanted)
        facts |= {
            "told": "; ".join(str(offer) for offer in offers[:TOLD]),
            "advice": _advise(method.service, wanted, offers),
            "offered": [
                {
                    "version": str(offer.version),
                    "fault": offer.fault.value,
                    "peer": offer.peer,
                    "instances": offer.instances,
                    "count": offer.count,
                }
                for offer in offers[:TOLD]
            ],
        }
        why = Decision(DecisionKind.INCOMPATIBLE, core.clock(), None, facts)
        return Code.FAILED_PRECONDITION, Reason.INCOMPATIBLE_VERSION, why

    def _note(self, service: str, caller: str, version: str) -> None:
        key = service, caller, version
        misfit = self._misfits.pop(key, None) or Misfit(*key, {})
        self._misfits[key] = misfit
        now = self._core.clock()
        slot = int(now / SLICE)
        if slot not in misfit.counts:
            first = int((now - RECENT) / SLICE)
            misfit.counts = {one: count for one, count in misfit.counts.items() if one > first}
        misfit.counts[slot] = misfit.counts.get(slot, 0) + 1
        if len(self._misfits) > MOST_MISFITS:
            self._misfits.popitem(last=False)

    def misfits(self, now: float) -> Iterator[tuple[Misfit, str, str]]:
        """Callers that were refused of late and would be still: with who is there, and advice."""
        for misfit in self._misfits.values():
            service = self._core.registry.services.get(misfit.service)
            if service is None or not misfit.recent(now) or _is_served(service, misfit.version):
                continue
            wanted = Version.parse(misfit.version)
            offers = _offers(service.instances.items(), wanted)
            if offers:
                told = "; ".join(str(offer) for offer in offers[:TOLD])
                yield misfit, told, _advise(misfit.service, wanted, offers)


def _is_served(service: Service, version: str) -> bool:
    return any(_serves(one.parsed, version) for one in service.instances.values())


def _is_version(text: str) -> bool:
    try:
        Version.parse(text)
    except ValueError:
        return False
    return True


def _serves(instance: Version | None, caller: str) -> bool:
    """Whether an instance of a version, or of none, serves a caller; never a malformed version."""
    try:
        wanted = Version.parse(caller)
    except ValueError:
        return False
    return instance is None or fit(wanted, instance) is Fit.SERVED


def _offers(registered: Iterable[tuple[Session, Registration]], wanted: Version) -> list[Offer]:
    """What is there instead, the newest first."""
    found: dict[tuple[Version, str], Offer] = {}
    for session, registration in registered:
        version = registration.parsed
        if version is None:
            continue  # serves everybody
        key = version, session.name
        offer = found.get(key)
        if offer is None:
            offer = found[key] = Offer(version, fit(wanted, version), session.name, [], 0)
        offer.count += 1
        if len(offer.instances) < TOLD:
            offer.instances.append(session.process_id)
    return sorted(found.values(), key=lambda offer: (offer.version, offer.peer), reverse=True)


def _advise(service: str, wanted: Version, offers: list[Offer]) -> str:
    """What to do about it."""
    older = [offer.version for offer in offers if offer.fault is Fit.TOO_NEW]
    if older:
        return (
            f"deploy {service} {wanted} or later before what calls it, or call by the contract "
            f"{max(older)}"
        )
    return (
        f"run an instance of {service} {wanted} beside these, or call by the contract "
        f"{offers[0].version}"
    )
