"""A contract for people: what its methods take, return and raise, and what its types are."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mesh.contracts.telling import Shape, error_shape, method_shape, type_shapes
from mesh.units import format_duration
from mesh_telemetry.logs import clean, clean_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

_INSTANCES = 3
"""Process ids that are told of a contract where there are several; the table has all."""
_UNBOUNDED = 10**9


def print_contracts(console: Console, contracts: list[dict[str, Any]]) -> None:
    """Print the contracts of a service, the newest first."""
    width = console.width if console.is_terminal else _UNBOUNDED
    for contract in contracts:
        if len(contracts) > 1:
            ids = [clean_line(one) for one in contract["instances"]]
            more = f" and {len(ids) - _INSTANCES} more" if len(ids) > _INSTANCES else ""
            where = ", ".join(ids[:_INSTANCES]) + more
            heading = f"contract {clean_line(contract['version']) or 'without a version'}"
            console.print()
            console.print(Text.assemble((heading, "bold"), f" at {where}"), soft_wrap=True)
        for line in _lines(contract["schema"], width):
            console.print(line, soft_wrap=True)


def _lines(document: dict[str, Any], width: int) -> Iterator[Text]:
    yield from _doc(document.get("doc"), "", width)
    methods = document.get("methods")
    for name, method in methods.items() if isinstance(methods, dict) else ():
        if not isinstance(method, dict):
            continue
        yield Text()
        yield from _shape(method_shape(name, method, document), "  ", width, style="cyan")
        yield from _doc(method.get("doc"), "      ", width)
        errors = method.get("errors")
        for reason, error in errors.items() if isinstance(errors, dict) else ():
            if isinstance(error, dict):
                yield from _shape(error_shape(reason, error, document), "      ", width, style="")
        if options := ", ".join(_options(method)):
            yield from _wrapped(options, "      ", width, style="dim")
    if types := type_shapes(document):
        yield Text()
        yield Text("  types", style="bold")
        for kind in types:
            if isinstance(kind, Shape):
                yield from _shape(kind, "  ", width, style="")
            else:
                yield from _wrapped(kind, "  ", width)


def _options(method: dict[str, Any]) -> Iterator[str]:
    """What a contract says of a method beside its types, where it is not the default."""
    if isinstance(seconds := method.get("timeout"), (int, float)):
        yield f"timeout {format_duration(seconds)}"
    if promised := _objective(method.get("slo")):
        yield f"slo {promised}"
    for name in ("idempotent", "public", "audit", "tap"):
        if method.get(name) is True:
            yield name
    for name, told in (("access", "access {}"), ("deprecated", "deprecated: {}")):
        if isinstance(text := method.get(name), str):
            yield told.format(text)


def _objective(told: object) -> str:
    """What is promised of a method; anything may be told."""
    if isinstance(told, (int, float)):  # by older peers: the time alone
        return format_duration(told)
    parts: list[str] = []
    match told:
        case {"within": int() | float() as within, "target": int() | float() as target}:
            parts.append(f"{100 * target:.10g}% within {format_duration(within)}")
    match told:
        case {"success": int() | float() as success}:
            parts.append(f"{100 * success:.10g}% succeed")
    return ", ".join(parts)


def _shape(shape: Shape, indent: str, width: int, *, style: str) -> Iterator[Text]:
    for number, line in enumerate(shape.lines(width - len(indent))):
        name = clean_line(shape.name) if number == 0 else ""
        rest = clean_line(line if number else line[len(shape.name) :])
        yield Text.assemble(indent, (name, style), rest)


def _doc(doc: object, indent: str, width: int) -> Iterator[Text]:
    """Documentation as it was written, with longer lines broken."""
    for line in clean(doc).strip().splitlines() if isinstance(doc, str) else ():
        yield from _wrapped(line, indent, width)


def _wrapped(text: str, indent: str, width: int, style: str = "") -> Iterator[Text]:
    whole = clean_line(text)
    room = max(20, width - len(indent))
    for line in textwrap.wrap(whole, room, break_on_hyphens=False) or [""]:
        yield Text((indent + line).rstrip(), style=style)
