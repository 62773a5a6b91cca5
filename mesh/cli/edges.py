"""`mesh edges`: who calls whom, how often, with which errors and latencies."""

from __future__ import annotations

from collections import Counter
from operator import add
from typing import TYPE_CHECKING, Any

import click
import trio

from mesh.cli.commands import example, run
from mesh.cli.graphs import dot, mermaid, rate, share
from mesh.cli.listing import BUILTIN
from mesh.cli.output import fit_columns, make_console, print_json, print_table
from mesh.cli.peer import Seconds, gateway_option, json_option, peer
from mesh.cli.readings import (
    UNCALLED,
    UNCOUNTED,
    difference,
    method_name,
    rates,
    read_again,
    read_edges,
    tell_restart,
)
from mesh.units import tell_seconds
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FIGURES = ("calls", "calls/s", "errors", "p50", "p99")
NAMES = ("caller", "method")
COLUMNS = (*NAMES, *FIGURES)
SPARE = ("calls", "p50")
"""Columns that a narrow terminal does without, the first one first."""


@click.command(
    epilog=example(
        "mesh edges",
        "mesh edges --interval 5",
        "mesh edges --dot | dot -Tsvg > mesh.svg",
        "mesh edges --json | jq '.edges[] | select(.errors != {})'",
    )
)
@click.option(
    "--interval",
    type=Seconds(0, 3600, min_open=True),
    help="Wait so many seconds and tell of these. [default: all since the gateway's start]",
)
@click.option("--all", "show_all", is_flag=True, help="Show calls of the gateway's own service.")
@click.option("--dot", "as_dot", is_flag=True, help="Print a graph of services for Graphviz.")
@click.option("--mermaid", "as_mermaid", is_flag=True, help="Print one for Mermaid.")
@gateway_option
@json_option
def edges(
    *,
    interval: float | None,
    show_all: bool,
    as_dot: bool,
    as_mermaid: bool,
    gateway: str | None,
    as_json: bool,
) -> None:
    """Show who calls whom: rates, errors and latencies of every caller of every method.

    A graph has an arrow for each caller of each service, red where calls failed.
    """
    if as_json + as_dot + as_mermaid > 1:
        raise click.UsageError("--json, --dot and --mermaid exclude each other")
    before, after = run(_ask, gateway, interval)
    seconds, restarted, counted = difference(before, after, "edges")
    counted.sort(key=lambda edge: (edge["caller"], edge["service"], edge["method"]))
    if restarted and not as_json:
        click.echo(tell_restart(seconds), err=True)
    if not show_all:
        counted = [edge for edge in counted if edge["service"] != BUILTIN]
    if as_dot or as_mermaid:
        arrows = [with_rates(edge, seconds) for edge in by_service(counted)]
        click.echo(dot(arrows) if as_dot else mermaid(arrows), nl=False)
        return
    rows = [with_rates(edge, seconds) for edge in counted]
    if as_json:
        print_json({"seconds": tell_seconds(seconds), "restarted": restarted, "edges": rows})
    elif rows:
        since = "over" if interval else "since the gateway's start,"
        _print(make_console(), f"{since} {duration(seconds)}{'' if interval else ' ago'}", rows)
    elif after["gateway"]["telemetry"]:
        click.echo(UNCALLED, err=True)
    else:
        click.echo(UNCOUNTED, err=True)


async def _ask(
    gateway: str | None, interval: float | None
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    async with peer(gateway) as client:
        if interval is None:
            return None, await read_edges(client)
        before = await read_edges(client)
        await trio.sleep(interval)
        return before, await read_again(client, read_edges)


def by_service(counted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same by caller and service: its methods added up."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for edge in counted:
        ends = edge["caller"], edge["service"]
        known = merged.get(ends)
        if known is None:
            merged[ends] = {**edge, "method": ""}
            continue
        known["calls"] += edge["calls"]
        known["errors"] = dict(Counter(known["errors"]) + Counter(edge["errors"]))
        if "duration_s" in edge:  # older gateways do not tell it
            known["duration_s"] += edge["duration_s"]
        known["buckets"] = list(map(add, known["buckets"], edge["buckets"]))
    return list(merged.values())


def with_rates(edge: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What was counted in so many seconds, with rates and latencies instead of buckets."""
    return {
        "caller": edge["caller"],
        "service": edge["service"],
        "method": edge["method"],
        "calls": edge["calls"],
        "errors": edge["errors"],
        **rates(edge, seconds),
    }


def _print(console: Console, heading: str, rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    console.print(Text(heading, style="dim"), soft_wrap=True)
    told: list[list[str | Text]] = []
    last = ""
    for row in rows:
        failed = sum(row["errors"].values())
        # Said once for people; each line stands alone in a pipe.
        caller = "" if console.is_terminal and row["caller"] == last else row["caller"]
        last = row["caller"]
        told.append(
            [
                clean(caller),
                method_name(row),
                f"{row['calls']:,}",
                rate(row["calls_per_second"]),
                Text(share(failed, row["calls"]), style="red" if failed else ""),
                duration(row["p50"]),
                duration(row["p99"]),
            ]
        )
    columns: tuple[str, ...] = COLUMNS
    if console.is_terminal:
        columns, told = fit_columns(COLUMNS, told, console.width, names=NAMES, spare=SPARE)
    print_table(console, columns, told, figures=FIGURES)
