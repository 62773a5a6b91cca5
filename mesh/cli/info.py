"""`mesh info`: all that the gateway knows of one service."""

from __future__ import annotations

from typing import Any

import click

from mesh.cli.commands import example, run
from mesh.cli.listing import BUILTIN, STYLES
from mesh.cli.output import duration, make_console, print_json, print_table
from mesh.cli.peer import check_name, gateway_option, json_option, peer
from mesh_telemetry.logs import clean

_OF_METHOD = ("calls", "errors", "in flight", "p50", "p95", "p99")
_OF_INSTANCE = ("in flight", "loop lag", "connected")
_OF_CALLER = ("calls", "errors", "p50", "p99")


@click.command(epilog=example("mesh info orders", "mesh info orders --json | jq .callers"))
@click.argument("service", callback=check_name)
@gateway_option
@json_option
def info(*, service: str, gateway: str | None, as_json: bool) -> None:
    """Show the methods, instances and callers of SERVICE, with errors and latencies.

    Counts and latencies are since the gateway's start. Exits 1 if no such service is known.
    """
    found = run(_ask, service, gateway)
    if as_json:
        print_json(found)
    else:
        _print(found)


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


def _print(found: dict[str, Any]) -> None:
    from rich.text import Text  # noqa: PLC0415 - slow, and of no use to --json

    console = make_console()
    versions = ", ".join(found["versions"]) or "none named"
    console.print(Text.assemble((found["name"], "bold cyan"), f"  version {clean(versions)}"))
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
    print_table(console, ("method", *_OF_METHOD), rows, figures=_OF_METHOD)
    instances: list[list[str | Text]] = [
        [
            clean(one["process_id"]),
            Text(one["state"], style=STYLES.get(one["state"], "")),
            clean(one["version"]) or "-",
            clean(one["address"]),
            clean(one["remote"]) or "-",
            str(one["in_flight"]),
            duration(one["loop_lag_s"]),
            duration(one["connected_s"]),
            clean(" ".join(f"{key}={value}" for key, value in one["metadata"].items())) or "-",
        ]
        for one in found["instances"]
    ]
    print()
    if instances:
        columns = ("instance", "state", "version", "address", "from", *_OF_INSTANCE, "metadata")
        print_table(console, columns, instances, figures=_OF_INSTANCE)
    else:
        console.print(Text("no instance is connected", style="red"))
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
        print_table(console, ("caller", "method", *_OF_CALLER), callers, figures=_OF_CALLER)


def _errors(errors: dict[str, int]) -> Any:
    from rich.text import Text  # noqa: PLC0415 - slow

    total = sum(errors.values())
    return Text(f"{total:,}", style="red" if total else "")
