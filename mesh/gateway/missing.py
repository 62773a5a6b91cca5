"""What callers are told of a service or a method that nobody serves."""

from __future__ import annotations

import difflib
from itertools import islice
from typing import TYPE_CHECKING

from mesh.errors import Code, Reason
from mesh.gateway.departures import LOST
from mesh.gateway.registry import RESERVED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.gateway.core import Core
    from mesh.gateway.registry import Service


def explain_service(core: Core, name: str) -> str:
    """What to say of a service that is not there, with the nearest known name."""
    service = core.registry.services.get(name)
    if service is not None and service.left is not None:
        return service.left.tell(name, core.clock(), core.process.wall())
    known = {name: one for name, one in core.registry.services.items() if name != RESERVED}
    served = [one.name for one in known.values() if one.instances]
    hint = _nearest(name, known) or (f"; registered are {_some(served)}" if served else "")
    return f"no service {name[:128]!r} is registered{hint}"


def explain_call(core: Core, service_name: str, method_name: str) -> tuple[Code, Reason, str]:
    """Why a call cannot be served, with when its service or method went or the nearest names.

    Args:
        core: The gateway's state.
        service_name: The called service.
        method_name: The called method, which nobody serves now.
    """
    service = core.registry.services.get(service_name)
    if service is None:
        message = explain_service(core, service_name)
        return Code.NOT_FOUND, Reason.SERVICE_NOT_FOUND, message
    method = service.methods.get(method_name)
    gone = method.gone if method is not None else None
    if gone is None:
        return Code.UNIMPLEMENTED, Reason.METHOD_NOT_FOUND, _never(service, method_name)
    now, wall = core.clock(), core.process.wall()
    if service.left is not None:
        message = service.left.tell(service_name, now, wall)
        advice = "start one" if service.left.how == LOST else "start one, or call it no more"
        return Code.UNAVAILABLE, Reason.NO_INSTANCE, f"{message}; {advice}"
    message = gone.tell(f"{service_name}.{method_name}", now, wall)
    if gone.is_awaited(now, core.limits.service_memory):
        return Code.UNAVAILABLE, Reason.NO_INSTANCE, message
    message = f"service {service_name!r} has no method {method_name!r} any more: {message}"
    return Code.UNIMPLEMENTED, Reason.METHOD_NOT_FOUND, message


def _never(service: Service, method_name: str) -> str:
    """What to say of a method that a service has not and is not known to have had."""
    has, names = "has", [name for name, one in service.methods.items() if one.instances]
    if not names:
        has, names = "had", list(service.methods)
    hint = _nearest(method_name, names)
    return (
        f"service {service.name!r} {has} no method {method_name[:128]!r}"
        f"{hint or f'; it {has} {_some(names)}'}"
    )


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")


def _nearest(name: str, known: Iterable[str]) -> str:
    # Comparing costs 10 us for each pair of short names, and a refused call must cost little: only
    # a few that could be meant are looked at.
    size = len(name)
    if size > 64:
        return ""
    alike = (one for one in known if abs(len(one) - size) <= 2 and set(one[:2]) & set(name[:2]))
    near = difflib.get_close_matches(name, list(islice(alike, 20)), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
