"""`mesh stat`: what the mesh does now, method by method, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import trio

from mesh.cli.commands import example, run
from mesh.cli.listing import BUILTIN
from mesh.cli.output import duration, make_console, print_json, print_table
from mesh.cli.peer import gateway_option, json_option, peer
from mesh.units import tell_seconds
from mesh_telemetry import DURATION_BOUNDS, quantile
from mesh_telemetry.logs import clean

if TYPE_CHECKING:
    from collections.abc import Callable

FIGURES = ("instances", "in flight", "calls/s", "errors/s", "p50", "p99", "loop lag")
_UNCALLED = {
    "calls": 0,
    "failed": 0,
    "in_flight": 0,
    "buckets": [0] * (len(DURATION_BOUNDS) + 1),
}
"""The counts of a method that nobody has called yet."""
COLUMNS = ("service", "method", *FIGURES)


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
        if console.is_terminal:
            console.clear()
        _print(console, figures)

    return show


def _print(console: Any, figures: dict[str, Any]) -> None:
    from rich.text import Text  # noqa: PLC0415 - slow, and of no use to --json

    gateway = figures["gateway"]
    total = sum(row["calls_per_second"] for row in figures["methods"])
    state = gateway["state"]
    console.print(
        Text.assemble(
            ("gateway ", "dim"),
            clean(gateway["gateway"]),
            "  ",
            (state, "green" if state == "running" else "yellow"),
            f"  {gateway['peers']} peers  {total:,.1f} calls/s  {gateway['in_flight']} in flight  "
            f"loop lag {duration(gateway['loop_lag_s'])}  "
            f"{gateway['memory_bytes'] / 2**20:,.0f} MiB  up {duration(gateway['uptime_s'])}",
        ),
        soft_wrap=True,
    )
    rows: list[list[str | Text]] = []
    for row in figures["methods"]:
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
        print_table(console, COLUMNS, rows, figures=FIGURES)
    else:
        console.print("No method has been registered; serve one with mesh.run().")
