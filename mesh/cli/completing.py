"""What a shell completes: names of services, methods and parameters, asked of the gateway.

A person waits for it with a finger on the key, and anything printed lands in the line being typed:
it is quick and silent, and where there is no gateway it completes nothing.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import trio

from mesh.cli.checking import methods_of
from mesh.cli.commands import run
from mesh.cli.listing import BUILTIN
from mesh.cli.peer import peer

if TYPE_CHECKING:
    import click

PATIENCE = 0.3
"""Seconds to wait for a gateway."""
LONGEST = 1.0
"""Seconds in all."""

_KEY = re.compile(r"""(?P<before>.*[{,]\s*)(?P<key>"?[A-Za-z0-9_]*)""", re.DOTALL)
"""JSON in which the name of a parameter is being typed."""


def complete_service(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of services that begin so."""
    found = _ask(ctx, "services") or []
    names = [service["name"] for service in found if service["name"] != BUILTIN or incomplete]
    return [name for name in names if name.startswith(incomplete)]


def complete_method(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The methods that begin so: of the service before it, or of any, with its name or without."""
    if service := ctx.params.get("service"):
        return _methods(ctx, service, incomplete)
    names = {
        name
        for its in _ask(ctx, "services") or []
        for method in its["methods"]
        for name in (method, f"{its['name']}.{method}")
        if its["name"] != BUILTIN
    }
    return sorted(name for name in names if name.startswith(incomplete))


def complete_params(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The JSON so far with the names of the parameters that may come next.

    Nothing where it has not been begun: it needs quotes, and which ones the shell does not say.
    """
    service, method = (ctx.params.get(name, "") for name in ("service", "method"))
    return _params(ctx, service, method, incomplete)


def complete_call(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """All three of these, where one argument is all of them: SERVICE METHOD PARAMS of a call."""
    match ctx.params:
        case {"makes_call": True, "what": (service, method)}:
            return _params(ctx, service, method, incomplete)
        case {"makes_call": True, "what": (service,)}:
            return _methods(ctx, service, incomplete)
        case {"makes_call": True, "what": () | None}:
            return complete_service(ctx, parameter, incomplete)
    return []


def _methods(ctx: click.Context, service: str, incomplete: str) -> list[str]:
    found = _ask(ctx, "service", service)
    return [name for name in found["methods"] if name.startswith(incomplete)] if found else []


def _params(ctx: click.Context, service: str, its_method: str, incomplete: str) -> list[str]:
    typed = _KEY.fullmatch(incomplete)
    if typed is None or _is_inside(typed["before"]):
        return []
    found = _ask(ctx, "service", service)
    if not found:
        return []
    names: dict[str, None] = {}
    for contract in found.get("contracts", []):
        schema = contract["schema"]
        method = methods_of(schema).get(its_method)
        names |= dict.fromkeys(parameters_of(method))
    before, key = typed["before"], typed["key"].removeprefix('"')
    return [
        f'{before}"{name}": '
        for name in names
        if name.startswith(key) and f'"{name}"' not in before
    ]


def parameters_of(method: object) -> list[str]:
    """The names of a method's parameters: those alone that a shell will not take for more."""
    match method:
        case {"params": {"properties": dict(properties)}}:
            return [name for name in properties if name.isascii() and name.isidentifier()]
    return []


def _is_inside(text: str) -> bool:
    """Whether JSON ends within a text, or deeper than the names of parameters."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    depth = sum(bare.count(mark) for mark in "{[") - sum(bare.count(mark) for mark in "}]")
    return '"' in bare or depth != 1


def _ask(ctx: click.Context, method: str, params: object = None) -> Any:
    """What the built-in service answers; None where it does not, or not in time."""
    # Python's logging tells warnings to the terminal where nobody else takes them.
    logging.getLogger("mesh").addHandler(logging.NullHandler())

    async def ask() -> Any:
        with trio.move_on_after(LONGEST):
            async with peer(ctx.params.get("gateway"), patience=PATIENCE) as client:
                return await client.call(BUILTIN, method, params)
        return None

    try:
        return run(ask)
    except Exception:  # noqa: BLE001 - whatever it is, a shell that completes is no place to tell
        return None
