"""What the mesh saw: a table of all methods, and the orders that are worth a look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from mesh.cli.output import print_table
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mesh.cli.demo.orders import Played


def slowest(played: Sequence[Played]) -> Played | None:
    """The order that took the longest, of those that went well."""
    good = [one for one in played if one.outcome.code == "ok"]
    return max(good, key=lambda one: one.duration, default=None)


def telling_failure(played: Sequence[Played]) -> Played | None:
    """An order whose failure only the waterfall explains: the last deadline that somebody used up.

    Where there is none, a loop, and else the first.
    """
    bad = [one for one in played if one.outcome.code != "ok"]
    late = [one for one in bad if one.outcome.code == "deadline_exceeded"]
    loops = [one for one in bad if one.outcome.reason == "LOOP_DETECTED"]
    return next(iter(late[-1:] or loops or bad), None)


def describe(one: Played) -> str:
    """An order in a few words."""
    params = one.order.params
    things = ", ".join(f"{line['quantity']} x {line['sku']}" for line in params["lines"])
    return clean(f"{one.order.id}, {things} for {params['user']}")


def print_methods(console: Console, methods: Sequence[dict[str, Any]]) -> None:
    """Print what the gateway counted of every method that was called."""
    rows: list[list[str | Text]] = []
    service = ""
    for row in methods:
        if not row["calls"]:
            continue
        errors = sum(row["errors"].values())
        is_new = row["service"] != service or not console.is_terminal
        service = row["service"]
        rows.append(
            [
                Text(clean(service) if is_new else "", style="bold cyan"),
                clean(row["method"]),
                str(row["calls"]),
                Text(str(errors), style="red" if errors else "dim"),
                duration(row["p50"]),
                duration(row["p99"]),
            ]
        )
    figures = ("calls", "errors", "p50", "p99")
    print_table(console, ("service", "method", *figures), rows, figures=figures)
    console.print(
        "p50 and p99 are estimated from the histograms on /metrics, so that p99 may be above\n"
        "what the slowest call took",
        style="dim",
    )
