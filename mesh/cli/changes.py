"""`mesh changes`: what came, went and changed in the mesh."""

from __future__ import annotations

import textwrap
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import trio

from mesh.cli.commands import example, run
from mesh.cli.listing import BUILTIN
from mesh.cli.output import make_console, print_json
from mesh.cli.peer import check_duration, check_name, gateway_option, json_option, peer
from mesh.cli.readings import read_again
from mesh.cli.waterfall import print_lines
from mesh_telemetry.logs import clean_line, timestamp
from mesh_telemetry.texts import Look, Part, cut, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mesh.client import Client
    from mesh_telemetry.texts import Line

INTERVAL = 0.5
"""Seconds between two looks of `--follow`."""
DAY = 86_400.0
TIME, PIPED_TIME, CHANGE = 11, 27, 12
"""Characters of columns that are always as wide."""
WHO = 20
"""What most names take, and what a narrow terminal has for them."""
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
@click.option("--service", metavar="NAME", callback=check_name, help="What concerns this service.")
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
        self._begun = False

    def show(self, change: dict[str, Any]) -> None:
        """Print a change, the first one under a heading."""
        console = self._console
        width = console.width if console.is_terminal else None
        if not self._begun:
            self._begun = True
            print_lines(console, [heading(width)])
        print_lines(console, lines(change, width, time.time()))


def heading(width: int | None) -> Line:
    """What stands above all changes."""
    at = f"{'AT':<{PIPED_TIME if width is None else TIME}}"
    return [Part(f"{at}  {'CHANGE':<{CHANGE}}  {'WHO':<{_room(width)}}  HOW", Look.STRONG)]


def lines(change: dict[str, Any], width: int | None, now: float) -> Iterator[Line]:
    """A change in one line; on a terminal, the end of a long one stands below.

    Args:
        change: What the gateway tells.
        width: Columns of the terminal; None for a pipe.
        now: Unix time.
    """
    name, room = change["change"], _room(width)
    at = _moment(change["at"], now, whole=width is None)
    who, how = clean_line(_who(change)), clean_line(_how(change, now, whole=width is None))
    first: Line = [
        Part(f"{at}  ", Look.FAINT),
        Part(f"{name:<{CHANGE}}", LOOKS.get(name, Look.PLAIN)),
        Part(f"  {who if width is None else shorten(who, room):<{room}}  "),
    ]
    if width is None:
        yield [*first, Part(how)]
        return
    margin = sum(len(part.text) for part in first)
    begins, *rest = textwrap.wrap(how, max(width - margin, LEAST))
    yield cut([*first, Part(begins)], width)
    for more in rest:
        yield cut([Part(" " * margin + more)], width)


def _room(width: int | None) -> int:
    """Columns for who it is: more of a wide terminal."""
    return WHO if width is None else max(WHO, min(width // 4, 40))


def _moment(at: float, now: float, *, whole: bool) -> str:
    text = timestamp(at)
    if whole:
        return f"{text:<{PIPED_TIME}}"
    short = text[11:19] if now - at < DAY else f"{text[5:10]} {text[11:16]}"
    return f"{short:<{TIME}}"


def _who(change: dict[str, Any]) -> str:
    services = change["services"]
    if services:
        return f"{services[0]} +{len(services) - 1}" if len(services) > 1 else str(services[0])
    return change["peer"] or ("a peer" if change["change"] == "refused" else "the gateway")


def _how(change: dict[str, Any], now: float, *, whole: bool) -> str:
    how = change["what"]
    if change["count"] > 1:
        since = _moment(change["first"], now, whole=whole).strip()
        how = f"x{change['count']:,} since {since}; {how}"
    return f"{how} ({change['process_id']})" if change["process_id"] else how
