"""`mesh stat`: what the mesh does now, method by method, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import trio

from mesh.cli.commands import example, run
from mesh.cli.listing import BUILTIN
from mesh.cli.output import fit_columns, make_console, print_json, print_table
from mesh.cli.peer import gateway_option, json_option, peer
from mesh.units import tell_seconds
from mesh_telemetry import DURATION_BOUNDS, quantile
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.text import Text

FIGURES = ("instances", "in flight", "calls/s", "errors/s", "p50", "p99", "loop lag")
_UNCALLED = {
    "calls": 0,
    "failed": 0,
    "in_flight": 0,
    "buckets": [0] * (len(DURATION_BOUNDS) + 1),
}
"""The counts of a method that nobody has called yet."""
NAMES = ("service", "method")
COLUMNS = (*NAMES, *FIGURES)
SPARE = ("loop lag", "in flight", "instances", "p50")
"""Columns that a narrow terminal does without, the first one first."""
AROUND = 3
"""Lines of a terminal that are no method's: headings, what is left out, and the cursor's."""


@click.command(epilog=example("mesh stat", "mesh stat --once --interval 5 --json"))
@click.option(
    "--interval",
    type=click.FloatRange(0, 3600, min_open=True),
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
    run(_watch, gateway, interval, once=once, show=print_json if as_json else _shower())


async def _watch(
    gateway: str | None,
    interval: float,
    *,
    once: bool,
    show: Callable[[dict[str, Any]], None],
) -> None:
    async with peer(gateway) as client:
        before = await client.call(BUILTIN, "sample")
        while True:
            await trio.sleep(interval)
            after = await client.call(BUILTIN, "sample")
            show(compare(before, after))
            if once:
                return
            before = after


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What happened between two samples of a gateway, by method."""
    seconds = max(after["at_s"] - before["at_s"], 1e-9)
    earlier = {(row["service"], row["method"]): row for row in before["methods"]}
    later = {(row["service"], row["method"]): row for row in after["methods"]}
    instances = {service["name"]: service["instances"] for service in after["services"]}
    registered = {
        (name, method) for name in instances for one in instances[name] for method in one["methods"]
    }
    rows = []
    for key in registered | later.keys():
        if key[0] == BUILTIN:
            continue
        row, old = later.get(key, _UNCALLED), earlier.get(key, _UNCALLED)
        buckets = [new - was for new, was in zip(row["buckets"], old["buckets"], strict=True)]
        serving = [one for one in instances.get(key[0], []) if key[1] in one["methods"]]
        lags = [one["loop_lag_s"] for one in serving if one["loop_lag_s"] is not None]
        rows.append(
            {
                "service": key[0],
                "method": key[1],
                "instances": len(serving),
                "healthy": sum(one["state"] == "healthy" for one in serving),
                "in_flight": row["in_flight"],
                "calls_per_second": round((row["calls"] - old["calls"]) / seconds, 3),
                "errors_per_second": round((row["failed"] - old["failed"]) / seconds, 3),
                "p50": tell_seconds(quantile(buckets, 0.50)),
                "p99": tell_seconds(quantile(buckets, 0.99)),
                "loop_lag_s": max(lags, default=None),
            }
        )
    rows.sort(key=lambda row: (row["service"], row["method"]))
    return {"seconds": tell_seconds(seconds), "gateway": after["gateway"], "methods": rows}


def _shower() -> Callable[[dict[str, Any]], None]:
    console = make_console()

    def show(figures: dict[str, Any]) -> None:
        if not console.is_terminal:
            _print(console, figures)
            return
        with console:  # written at once, else it flickers
            console.clear()
            _print(console, figures)

    return show


def _print(console: Any, figures: dict[str, Any]) -> None:
    from rich.text import Text

    heading = _heading(figures, console.width if console.is_terminal else None)
    for line in heading:
        console.print(line, soft_wrap=True)
    methods = figures["methods"]
    left_out = 0
    if console.is_terminal:
        left_out = max(0, len(methods) - max(console.height - len(heading) - AROUND, 1))
        busiest = sorted(methods, key=lambda row: -row["calls_per_second"])
        kept = busiest[: len(methods) - left_out]
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
        if left_out:
            note = f"and {left_out} more, called less; a pipe shows all"
            console.print(Text(note, style="dim"))
    else:
        console.print("No method has been registered; serve one with mesh.run().")


def _heading(figures: dict[str, Any], width: int | None) -> list[Text]:
    """The gateway itself, in as many lines of a terminal as it takes; in one for a pipe."""
    from rich.text import Text

    gateway = figures["gateway"]
    total = sum(row["calls_per_second"] for row in figures["methods"])
    state = gateway["state"]
    parts = [
        Text.assemble(("gateway ", "dim"), clean(gateway["gateway"])),
        Text(state, style="green" if state == "running" else "yellow"),
        Text(f"{gateway['peers']} peers"),
        Text(f"{total:,.1f} calls/s"),
        Text(f"{gateway['in_flight']} in flight"),
        Text(f"loop lag {duration(gateway['loop_lag_s'])}"),
        Text(f"{gateway['memory_bytes'] / 2**20:,.0f} MiB"),
        Text(f"up {duration(gateway['uptime_s'])}"),
    ]
    lines = [parts[0]]
    for part in parts[1:]:
        if width is not None and len(lines[-1]) + 2 + len(part) > width:
            lines.append(part)
        else:
            lines[-1] = Text.assemble(lines[-1], "  ", part)
    return lines


def fit(rows: list[list[str | Text]], width: int) -> tuple[tuple[str, ...], list[list[str | Text]]]:
    """The columns that a terminal has room for, and the rows with names short enough for them."""
    return fit_columns(COLUMNS, rows, width, names=NAMES, spare=SPARE)
