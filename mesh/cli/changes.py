"""`mesh changes`: what came, went and changed in the mesh."""

from __future__ import annotations

import textwrap
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import trio

from mesh.cli.commands import example, run
from mesh.cli.completing import complete_service
from mesh.cli.listing import BUILTIN
from mesh.cli.output import make_console, print_json
from mesh.cli.peer import check_duration, check_name, gateway_option, json_option, peer
from mesh.cli.readings import read_again
from mesh.cli.waterfall import print_lines
from mesh_telemetry.logs import clean_line, timestamp
from mesh_telemetry.texts import Look, Part, cells, cut, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mesh.client import Client
    from mesh_telemetry.texts import Line

INTERVAL = 0.5
"""Seconds between two looks of `--follow`."""
DAY = 86_400.0
TIME, LONG_TIME, PIPED_TIME = 8, 11, 27
"""Characters of a moment: of the last day, with its day, and as a whole."""
CHANGE = 12
WHO, PIPED_WHO = 20, 40
"""Characters of who it is, of a narrow terminal, and of a wide one or a pipe."""
UNIQUE = 8
"""Characters at the end of a process id that tell it from others."""
LEAST = 20
"""Columns that a sentence has at least on a terminal."""
LOOKS = {
    "registered": Look.GOOD,
    "healthy": Look.GOOD,
    "late": Look.ODD,
    "draining": Look.ODD,
    "unresponsive": Look.BAD,
    "lost": Look.BAD,
    "closed": Look.BAD,
    "refused": Look.BAD,
}


@click.command(
    epilog=example(
        "mesh changes --since 10m",
        "mesh changes --service users --follow",
        "mesh changes --json | jq -r 'select(.change == \"lost\") | .peer'",
    )
)
@click.option(
    "--since", metavar="S", callback=check_duration, help="What is back so long at most: 90s, 10m."
)
@click.option(
    "--service",
    metavar="NAME",
    callback=check_name,
    help="What concerns this service.",
    shell_complete=complete_service,
)
@click.option("--follow", is_flag=True, help="Go on with what changes from now on, until Ctrl-C.")
@gateway_option
@json_option
def changes(
    *, since: str | None, service: str | None, follow: bool, gateway: str | None, as_json: bool
) -> None:
    """Show what came, went and changed in the mesh, the newest last.

    A line: when (UTC), what, who, and how: an instance registered, drains, left in order, was lost
    or closed, became late, unresponsive or healthy again; a peer was refused; the gateway started,
    drains, or read its certificates again. What happens again and again has one line that counts
    it. The gateway remembers the last 1,000, since its start.

    With --json, a line is an object.
    """
    filters = {"since": since, "service": service}
    show = print_json if as_json else _Screen().show
    run(_watch, gateway, filters, show, follow=follow)


async def _watch(
    gateway: str | None,
    filters: dict[str, Any],
    show: Callable[[dict[str, Any]], None],
    *,
    follow: bool,
) -> None:
    async with peer(gateway) as client:
        page = await _ask(client, filters)
        if page["dropped"]:
            click.echo(f"{page['dropped']:,} older changes have made way", err=True)
        while True:
            for change in page["changes"]:
                show(change)
            if not follow:
                break
            await trio.sleep(INTERVAL)
            ask = partial(_ask, filters={**filters, "cursor": page["cursor"]})
            page = await read_again(client, ask)
    if not page["changes"]:
        click.echo("Nothing has changed that fits.", err=True)


async def _ask(client: Client, filters: dict[str, Any]) -> dict[str, Any]:
    page: dict[str, Any] = await client.call(BUILTIN, "changes", filters)
    return page


class _Screen:
    def __init__(self) -> None:
        self._console = make_console()
        self._layout: Layout | None = None

    def show(self, change: dict[str, Any]) -> None:
        """Print a change, the first one, which is the oldest, under a heading."""
        console, now = self._console, time.time()
        if self._layout is None:
            width = console.width if console.is_terminal else None
            self._layout = Layout(width, days=now - change["at"] >= DAY)
            print_lines(console, [self._layout.heading()])
        print_lines(console, self._layout.lines(change, now))


class Layout:
    """The columns of one output.

    Args:
        width: Of the terminal; None for a pipe, where nothing is cut or goes on below.
        days: Whether some of the changes are older than a day.
    """

    def __init__(self, width: int | None, *, days: bool) -> None:
        self._width = width
        self._time = PIPED_TIME if width is None else LONG_TIME if days else TIME
        self._who = PIPED_WHO if width is None else max(WHO, min(width // 4, PIPED_WHO))

    def heading(self) -> Line:
        """What stands above all changes."""
        who = f"{'WHO':<{self._who}}"
        return [Part(f"{'AT':<{self._time}}  {'CHANGE':<{CHANGE}}  {who}  HOW", Look.STRONG)]

    def lines(self, change: dict[str, Any], now: float) -> Iterator[Line]:
        """A change in one line; on a terminal, what has no room there stands below.

        Args:
            change: What the gateway tells.
            now: Unix time.
        """
        name, how = change["change"], change["what"]
        if change["count"] > 1:
            how = f"x{change['count']:,} {how} (first {self._moment(change['first'], now)})"
        how = clean_line(how)
        first: Line = [
            Part(f"{self._moment(change['at'], now):<{self._time}}  ", Look.FAINT),
            Part(f"{name:<{CHANGE}}", LOOKS.get(name, Look.PLAIN)),
            Part(f"  {self._whose(change):<{self._who}}  "),
        ]
        if self._width is None:
            yield [*first, Part(how)]
            return
        margin = sum(cells(part.text) for part in first)
        room = max(self._width - margin, LEAST)
        for part in textwrap.wrap(how, room, break_on_hyphens=False):
            yield cut([*first, Part(part)], self._width)
            first = [Part(" " * margin)]

    def _moment(self, at: float, now: float) -> str:
        text = timestamp(at)
        if self._width is None:
            return text
        return text[11:19] if now - at < DAY else f"{text[5:10]} {text[11:16]}"

    def _whose(self, change: dict[str, Any]) -> str:
        services, process = change["services"], clean_line(change["process_id"])
        who = services[0] if services else change["peer"]
        if not who:
            who = "a peer" if change["change"] == "refused" else "gateway"
        if len(services) > 1:
            who = f"{who} +{len(services) - 1}"
        who = clean_line(who)
        if self._width is not None and len(who) + 1 + len(process) > self._who:
            process = f"\N{HORIZONTAL ELLIPSIS}{process[-UNIQUE:]}" if process else ""
            who = shorten(who, self._who - len(process) - 1)
        return f"{who} {process}".rstrip()
