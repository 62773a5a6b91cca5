"""`mesh stat`: what the mesh does now, method by method, again and again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.commands import example, run
from mesh.cli.listing import BUILTIN
from mesh.cli.live import (
    AROUND,
    draw,
    how_many,
    print_heading,
    print_left_out,
    watch,
)
from mesh.cli.output import fit_columns, make_console, print_json, print_table
from mesh.cli.peer import Seconds, gateway_option, json_option
from mesh.cli.readings import UNSERVED, difference, rates, uncalled
from mesh.units import tell_seconds
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FIGURES = ("instances", "in flight", "calls/s", "errors/s", "p50", "p99", "loop lag")
NAMES = ("service", "method")
COLUMNS = (*NAMES, *FIGURES)
SPARE = ("loop lag", "in flight", "instances", "p50")
"""Columns that a narrow terminal does without, the first one first."""


@click.command(epilog=example("mesh stat", "mesh stat --once --interval 5 --json"))
@click.option(
    "--interval",
    type=Seconds(0, 3600, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds that rates and latencies are taken over.",
)
@click.option("--once", is_flag=True, help="Show one interval, then end.")
@gateway_option
@json_option
def stat(*, interval: float, once: bool, gateway: str | None, as_json: bool) -> None:
    """Show rates, errors, latencies and loop lag of every method, until Ctrl-C.

    On a terminal the table stays in place; in a pipe, and with --json, each interval is printed
    below the one before it.
    """
    console = make_console()

    def show(before: dict[str, Any], after: dict[str, Any]) -> None:
        figures = compare(before, after)
        if as_json:
            print_json(figures)
        else:
            draw(console, partial(_print, console, figures))

    run(watch, gateway, interval, show, once=once)


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What happened between two samples of a gateway, by method."""
    seconds, restarted, counted = difference(before, after, "methods")
    instances = {service["name"]: service["instances"] for service in after["services"]}
    rows = []
    for row in [*counted, *uncalled(after)]:
        service, method = row["service"], row["method"]
        if service == BUILTIN:
            continue
        serving = [one for one in instances.get(service, []) if method in one["methods"]]
        lags = [one["loop_lag_s"] for one in serving if one["loop_lag_s"] is not None]
        rows.append(
            {
                "service": service,
                "method": method,
                "instances": len(serving),
                "healthy": sum(one["state"] == "healthy" for one in serving),
                "in_flight": row["in_flight"],
                **rates(row, seconds),
                "loop_lag_s": max(lags, default=None),
            }
        )
    rows.sort(key=lambda row: (row["service"], row["method"]))
    return {
        "seconds": tell_seconds(seconds),
        "restarted": restarted,
        "gateway": after["gateway"],
        "methods": rows,
    }


def _print(console: Console, figures: dict[str, Any]) -> None:
    from rich.text import Text

    heading = print_heading(console, figures)
    methods = figures["methods"]
    shown = how_many(console, len(methods), heading + AROUND)
    left_out = len(methods) - shown
    kept = sorted(methods, key=lambda row: -row["calls_per_second"])[:shown]
    methods = [row for row in methods if row in kept]
    rows: list[list[str | Text]] = []
    for row in methods:
        healthy, instances = row["healthy"], row["instances"]
        text = str(instances) if healthy == instances else f"{healthy}/{instances}"
        errors = row["errors_per_second"]
        rows.append(
            [
                clean(row["service"]),
                clean(row["method"]),
                Text(text, style="" if instances and healthy == instances else "red"),
                str(row["in_flight"]),
                f"{row['calls_per_second']:,.1f}",
                Text(f"{errors:,.1f}", style="red" if errors else ""),
                duration(row["p50"]),
                duration(row["p99"]),
                duration(row["loop_lag_s"]),
            ]
        )
    if rows:
        columns, rows = fit(rows, console.width) if console.is_terminal else (COLUMNS, rows)
        print_table(console, columns, rows, figures=FIGURES)
        print_left_out(console, left_out, "called less")
    else:
        console.print(UNSERVED)


def fit(rows: list[list[str | Text]], width: int) -> tuple[tuple[str, ...], list[list[str | Text]]]:
    """The columns that a terminal has room for, and the rows with names short enough for them."""
    return fit_columns(COLUMNS, rows, width, names=NAMES, spare=SPARE)
