"""`mesh top`: the methods that are called most, fail most, are slowest or take most time."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import trio

from mesh.cli.commands import example, run
from mesh.cli.completing import complete_service
from mesh.cli.graphs import rate
from mesh.cli.keys import Unbuffered, mind_signals, read_keys
from mesh.cli.listing import BUILTIN
from mesh.cli.live import AROUND, draw, how_many, print_heading, print_left_out, watch
from mesh.cli.output import fit_columns, make_console, print_json, print_table
from mesh.cli.peer import Seconds, check_name, gateway_option, json_option
from mesh.cli.readings import UNCOUNTED, UNSERVED, difference, method_name, rates, uncalled
from mesh.units import tell_seconds
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


class Order(NamedTuple):
    """What methods can be sorted by."""

    figure: str
    """Its name in what is told as JSON."""
    least: str
    """What those are that come after the others."""


ORDERS = {
    "rate": Order("calls_per_second", "called less"),
    "errors": Order("errors_per_second", "with fewer errors"),
    "latency": Order("p99", "faster"),
    "time": Order("time_per_second", "taking less time"),
}
"""By their names, of which the first letter is the key to press."""
KEYS = {name[0]: name for name in ORDERS}
QUIT = "q"
NAMES = ("method",)
FIGURES = ("calls/s", "errors/s", "p50", "p95", "p99", "time/s")
COLUMNS = (*NAMES, *FIGURES)
SPARE = ("p50", "p95")
"""Columns that a narrow terminal does without, the first one first."""


@click.command(
    epilog=example(
        "mesh top", "mesh top orders --sort time", "mesh top --once --json | jq .methods[0]"
    )
)
@click.argument("service", required=False, callback=check_name, shell_complete=complete_service)
@click.option(
    "--sort",
    type=click.Choice(list(ORDERS)),
    default="rate",
    show_default=True,
    help="By calls per second, errors per second, p99, or the time that calls take per second.",
)
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
def top(
    *,
    service: str | None,
    sort: str,
    interval: float,
    once: bool,
    gateway: str | None,
    as_json: bool,
) -> None:
    """Show the methods of all services, or of SERVICE, that matter most, until Ctrl-C.

    Methods that nobody calls are there, too, where there is room. On a terminal the table stays in
    place, and is sorted by the key that is pressed: r rate, e
    errors, l latency, t time; q quits. TIME/S is the time that the calls of a second took together:
    their rate times their mean duration. In a pipe, and with --json, each interval is printed below
    the one before it.
    """
    console = make_console()
    interactive = console.is_terminal and sys.stdin.isatty() and not (once or as_json)
    screen = Screen(console, service, sort, interactive=interactive)

    def tell(before: dict[str, Any], after: dict[str, Any]) -> None:
        told = compare(before, after, service)
        print_json({**told, "methods": ordered(told["methods"], sort)})

    watching = partial(watch, gateway, interval, tell if as_json else screen.show, once=once)
    if interactive:
        screen.draw()
        run(_with_keys, sys.stdin.fileno(), screen, watching)
    else:
        run(watching)


async def _with_keys(terminal: int, screen: Screen, watching: partial[Any]) -> None:
    async with trio.open_nursery() as nursery:
        keyboard = Unbuffered(terminal)
        await nursery.start(mind_signals, keyboard, screen.draw)
        nursery.start_soon(watching)
        with keyboard:
            async for key in read_keys(terminal):
                if key == QUIT:
                    break
                screen.press(key)
            else:
                return  # nobody can press anything any more
        nursery.cancel_scope.cancel()


def compare(
    before: dict[str, Any], after: dict[str, Any], service: str | None = None
) -> dict[str, Any]:
    """What happened between two samples of a gateway, by method.

    Args:
        before: The first sample.
        after: The second one.
        service: The only one that is told; where None, all but the gateway's own.
    """
    seconds, restarted, counted = difference(before, after, "methods")
    return {
        "seconds": tell_seconds(seconds),
        "restarted": restarted,
        "gateway": after["gateway"],
        "methods": [
            {
                "service": row["service"],
                "method": row["method"],
                "calls": row["calls"],
                "errors": row["errors"],
                "in_flight": row["in_flight"],
                **rates(row, seconds),
                "time_per_second": tell_seconds(row["duration_s"] / seconds),
            }
            for row in [*counted, *uncalled(after)]
            if (row["service"] == service if service else row["service"] != BUILTIN)
        ],
    }


def ordered(methods: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """Methods with most of something first; those that are alike, or have nothing, by name."""
    figure = ORDERS[sort].figure
    return sorted(methods, key=lambda row: (-(row[figure] or 0.0), row["service"], row["method"]))


class Screen:
    """Shows interval after interval, sorted as was asked for last.

    Args:
        console: Where to.
        service: The only one to show, or None.
        sort: What to begin with.
        interactive: Whether keys can be pressed.
    """

    def __init__(
        self, console: Console, service: str | None, sort: str, *, interactive: bool
    ) -> None:
        self._console = console
        self._service = service
        self._sort = sort
        self._interactive = interactive
        self._figures: dict[str, Any] | None = None

    def show(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Show what happened between two samples."""
        self._figures = compare(before, after, self._service)
        self.draw()

    def press(self, key: str) -> None:
        """Sort by what this key stands for, if it does for anything."""
        self._sort = KEYS.get(key, self._sort)
        self.draw()

    def draw(self) -> None:
        """Show what is known."""
        draw(self._console, self._print)

    def _print(self) -> None:
        console, figures = self._console, self._figures
        if figures is None:
            console.print("Waiting for the end of the first interval.")
        else:
            self._print_table(figures, ordered(figures["methods"], self._sort))
        if self._interactive:
            console.print(keys(self._sort), no_wrap=True, overflow="ellipsis")

    def _print_table(self, figures: dict[str, Any], methods: list[dict[str, Any]]) -> None:
        console = self._console
        around = print_heading(console, figures, self._service) + AROUND + self._interactive
        shown = how_many(console, len(methods), around)
        if not figures["gateway"]["telemetry"]:
            console.print(UNCOUNTED)
        elif shown:
            rows = [_row(one) for one in methods[:shown]]
            columns: tuple[str, ...] = COLUMNS
            if console.is_terminal:
                columns, rows = fit_columns(COLUMNS, rows, console.width, names=NAMES, spare=SPARE)
            print_table(console, columns, rows, figures=FIGURES)
            print_left_out(console, len(methods) - shown, ORDERS[self._sort].least)
        elif self._service:
            console.print(f"No method of {self._service!r} has been registered.")
        else:
            console.print(UNSERVED)


def _row(figures: dict[str, Any]) -> list[str | Text]:
    from rich.text import Text

    errors = figures["errors_per_second"]
    return [
        Text(
            method_name(figures),
            style="" if figures["calls"] else "dim",
        ),
        rate(figures["calls_per_second"]),
        Text(rate(errors), style="red" if errors else ""),
        *(duration(figures[name]) for name in ("p50", "p95", "p99", "time_per_second")),
    ]


def keys(sort: str) -> Text:
    """The line that says what is sorted by, and what every key does."""
    from rich.text import Text

    told = [(f"{key} {name}", "bold" if name == sort else "dim") for key, name in KEYS.items()]
    parts = [part for one in told for part in (one, "  ")]
    return Text.assemble(f"sorted by {sort}  ", ("keys: ", "dim"), *parts, (f"{QUIT} quit", "dim"))
