"""`mesh info`: all that the gateway knows of one service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mesh.cli.commands import example, run
from mesh.cli.completing import complete_service
from mesh.cli.listing import BUILTIN, STYLES
from mesh.cli.output import fit_columns, make_console, print_json, print_table
from mesh.cli.peer import check_name, gateway_option, json_option, peer
from mesh.wire.codec import REQUIRES
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_OF_METHOD = ("calls", "errors", "in flight", "p50", "p95", "p99")
_OF_INSTANCE = ("in flight", "loop lag", "connected")
_OF_CALLER = ("calls", "errors", "p50", "p99")
_SPARE = ("p95", "in flight", "p50")
"""Figures of which a narrow terminal does without, the first one first."""


@click.command(epilog=example("mesh info orders", "mesh info orders --json | jq .callers"))
@click.argument("service", callback=check_name, shell_complete=complete_service)
@gateway_option
@json_option
def info(*, service: str, gateway: str | None, as_json: bool) -> None:
    """Show the methods, instances and callers of SERVICE, with errors and latencies.

    Where it has a contract, its methods are shown with their types, errors and documentation;
    --json has them as JSON Schema. Instances of several versions may have several contracts.
    Counts and latencies are since the gateway's start. Exits 1 if no such service is known.
    """
    found = run(_ask, service, gateway)
    if as_json:
        print_json(found)
    else:
        _print(make_console(), found)


async def _ask(service: str, gateway: str | None) -> dict[str, Any]:
    async with peer(gateway) as client:
        found: dict[str, Any] = await client.call(BUILTIN, "service", service)
        stats = await client.call(BUILTIN, "stats", service)
        edges = await client.call(BUILTIN, "edges")
    return {
        **found,
        "stats": stats,
        "callers": [edge for edge in edges if edge["service"] == service],
    }


def _print(console: Console, found: dict[str, Any]) -> None:
    from rich.text import Text

    from mesh.cli.contract import print_contracts

    versions = ", ".join(found["versions"]) or "none named"
    console.print(Text.assemble((found["name"], "bold cyan"), f"  version {clean(versions)}"))
    print_contracts(console, found.get("contracts", []))  # older gateways tell none
    stats = {row["method"]: row for row in found["stats"]}
    rows: list[list[str | Text]] = []
    for method in sorted({*found["methods"], *stats}):
        row = stats.get(method)
        if row is None:
            rows.append([method, "0", "0", "0", "-", "-", "-"])
            continue
        rows.append(
            [
                method if method in found["methods"] else f"{method} (gone)",
                f"{row['calls']:,}",
                _errors(row["errors"]),
                str(row["in_flight"]),
                *(duration(row[quantile]) for quantile in ("p50", "p95", "p99")),
            ]
        )
    print()
    _print_rows(console, ("method", *_OF_METHOD), rows, figures=_OF_METHOD)
    print()
    if found["instances"]:
        _print_instances(console, found["instances"])
    else:
        told = "no instance is connected"
        if gone := found.get("gone"):  # older gateways do not tell
            last = f"{clean(gone['peer'])} at {clean(gone['process_id'])}"
            told += f"; the last one, {last}, {gone['how']} {duration(gone['gone_s'])} ago"
        console.print(Text(told, style="red"), soft_wrap=True)
    callers: list[list[str | Text]] = [
        [
            clean(edge["caller"]),
            edge["method"],
            f"{edge['calls']:,}",
            _errors(edge["errors"]),
            duration(edge["p50"]),
            duration(edge["p99"]),
        ]
        for edge in found["callers"]
    ]
    if callers:
        print()
        _print_rows(console, ("caller", "method", *_OF_CALLER), callers, figures=_OF_CALLER)


def _print_rows(
    console: Console,
    columns: tuple[str, ...],
    rows: list[list[str | Text]],
    *,
    figures: tuple[str, ...],
) -> None:
    """A table whose names are shortened where the terminal is too narrow for them."""
    if console.is_terminal:
        columns, rows = fit_columns(
            columns, rows, console.width, names=("caller", "method"), spare=_SPARE
        )
    print_table(console, columns, rows, figures=figures)


def _print_instances(console: Console, instances: list[dict[str, Any]]) -> None:
    """A line for each instance; several where a terminal is too narrow for what is known of it."""
    from rich.text import Text

    rows: list[list[str | Text]] = [
        [
            clean(one["process_id"]),
            Text(one["state"], style=STYLES.get(one["state"], "")),
            clean(one["version"]) or "-",
            clean(one["address"]),
            clean(one["remote"]) or "-",
            str(one["in_flight"]),
            duration(one["loop_lag_s"]),
            duration(one["connected_s"]),
            _metadata(one["metadata"]) or "-",
        ]
        for one in instances
    ]
    columns = ("instance", "state", "version", "address", "from", *_OF_INSTANCE, "metadata")
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    if not console.is_terminal or sum(widths) + 2 * len(widths) - 2 <= console.width:
        print_table(console, columns, rows, figures=_OF_INSTANCE)
        return
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        figures = "  ".join(f"{name} {cells[name]}" for name in _OF_INSTANCE)
        console.print(
            Text.assemble((str(cells["instance"]), "bold"), "  ", cells["state"]), soft_wrap=True
        )
        at = " from ".join(str(cells[name]) for name in ("address", "from") if cells[name] != "-")
        for name, told in (
            ("address", at),
            ("now", figures),
            ("version", cells["version"]),
            ("metadata", cells["metadata"]),
        ):
            if str(told) != "-":
                console.print(Text.assemble((f"  {name:<10}", "dim"), told), soft_wrap=True)


def _metadata(metadata: dict[str, str]) -> str:
    """What an instance's operator said of it, and what its services require."""
    own = [f"{key}={value}" for key, value in metadata.items() if not key.startswith(REQUIRES)]
    required = {
        name
        for key, value in metadata.items()
        if key.startswith(REQUIRES)
        for name in value.split(",")
    }
    if required:
        own.append(f"requires {', '.join(sorted(required))}")
    return clean(" ".join(own))


def _errors(errors: dict[str, int]) -> Any:
    from rich.text import Text

    total = sum(errors.values())
    return Text(f"{total:,}", style="red" if total else "")
