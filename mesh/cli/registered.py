"""Whether what people name is registered: a watch for a name that is mistyped waits for ever."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def tell_missing(services: list[dict[str, Any]], service: str, method: str) -> str:
    """What to say of names that nobody has registered; empty where all is there.

    Args:
        services: As the gateway tells them.
        service: The name of one; empty for any.
        method: The name of one, with its service or without; empty for any.

    """
    methods = {one["name"]: one["methods"] for one in services}
    if service and service not in methods:
        return f"no service {service!r} is registered{_nearest(service, methods)}"
    names = {
        name: None
        for its_service, some in methods.items()
        if service in {"", its_service}
        for one in some
        for name in (one, f"{its_service}.{one}")
    }
    # One that has just gone is expected back, with methods that nobody knows now.
    if not method or method in names or (service and not names):
        return ""
    others = [name for name, some in methods.items() for one in some if f"{name}.{one}" == method]
    if service and others:
        return f"{method!r} is a method of {others[0]!r}, and {service!r} has none of this name"
    whose = f"service {service!r} has" if service else "there is"
    return f"{whose} no method {method!r}{_nearest(method, names)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
