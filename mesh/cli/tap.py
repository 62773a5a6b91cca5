"""`mesh tap`: calls as they end, one line each, or as trees."""

from __future__ import annotations

import time
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click
import trio

from mesh.cli.commands import example, run
from mesh.cli.completing import complete_method, complete_service
from mesh.cli.listing import BUILTIN
from mesh.cli.output import make_console, print_json
from mesh.cli.peer import check_activity, check_duration, gateway_option, json_option, peer
from mesh.cli.readings import read_again
from mesh.cli.registered import tell_missing
from mesh.cli.taplines import Layout
from mesh.cli.waterfall import print_lines, signs_of
from mesh_telemetry import CODE_NAMES
from mesh_telemetry.logs import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.client import Client

MOST = 1000
"""Calls that the gateway tells at once, those of all trees together."""
PAUSE = 1.0
"""Seconds between two notes of what is left out."""


@click.command(
    epilog=example(
        "mesh tap --service users --min-duration 50ms",
        "mesh tap --code deadline_exceeded --tree",
        "mesh tap --service users --payloads",
        "mesh tap --rate 10000 --json | jq -r 'select(.refused) | .caller'",
    )
)
@click.option(
    "--service", metavar="NAME", help="Calls of this service.", shell_complete=complete_service
)
@click.option(
    "--method",
    metavar="NAME",
    help="Calls of this method: get, or users.get.",
    shell_complete=complete_method,
)
@click.option("--caller", metavar="NAME", help="Calls that this peer made.")
@click.option(
    "--code",
    type=click.Choice(CODE_NAMES, case_sensitive=False),
    metavar="CODE",
    help="What ended so: ok, not_found, ...",
)
@click.option(
    "--min-duration",
    metavar="S",
    callback=check_duration,
    help="What took so long at least: 0.5, 250ms.",
)
@click.option(
    "--activity",
    "activity_id",
    metavar="ID",
    callback=check_activity,
    help="Calls on behalf of this activity.",
)
@click.option(
    "--payloads",
    is_flag=True,
    help="Show parameters, results and metadata too, where contract and gateway allow it.",
)
@click.option("--tree", is_flag=True, help="Draw all calls of an entry call once it has ended.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N calls, or N trees.")
@click.option(
    "--rate",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    metavar="N",
    help="Calls, or trees, shown per second at most.",
)
@gateway_option
@json_option
def tap(
    *,
    tree: bool,
    payloads: bool,
    count: int | None,
    rate: int,
    gateway: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """Watch calls as they end, or are refused, until Ctrl-C.

    A line: when it ended, the beginning of its activity's or trace's id, who called what, how long
    it took at the gateway, how it ended, and its depth in the tree of nested calls. With --tree,
    all calls of one entry call together, where one of them fits. Of more than --rate per second, a
    sample is shown, and how many are left out is told on standard error; so is once that nobody has
    registered the service or the method that is named.

    With --payloads, also what a call carried, without its secrets: of methods whose contracts say
    tap=True, at a gateway that was started with --allow-tap-payloads, for its own user and root.

    With --json, a line is an object: a call, with --tree a tree with its calls, or what was left
    out since the line before.
    """
    given = {name: value for name, value in filters.items() if value is not None}
    screen = _Json() if as_json else _Text(tree=tree)
    if payloads:  # older gateways know of none
        given["payloads"] = True
    run(_watch, gateway, {**given, "tree": tree}, screen, count=count, rate=rate)


async def _watch(
    gateway: str | None, filters: dict[str, Any], screen: _Screen, *, count: int | None, rate: int
) -> None:
    async with peer(gateway) as client:
        page = await _ask(client, {**filters, "wait": 0})
        service, method = filters.get("service", ""), filters.get("method", "")
        if service or method:
            missing = tell_missing(await client.call(BUILTIN, "services"), service, method)
            if missing:
                click.echo(clean(f"{missing}; waiting for calls of it"), err=True)
        screen.begin()
        allowance, shown = Allowance(rate, time.monotonic), 0
        try:
            while count is None or shown < count:
                await trio.sleep(allowance.pause())
                limit = allowance.now()
                ask = partial(_ask, filters={**filters, "cursor": page["cursor"], "limit": limit})
                last, page = page["gateway"], await read_again(client, ask)
                if page["gateway"] != last:
                    screen.restarted(page["gateway"])
                told = trees(page) if filters["tree"] else page["calls"]
                screen.left_out(page["left_out"], page["unread"], by_rate=len(told) == limit < MOST)
                allowance.spend(len(told))
                for one in told[: None if count is None else count - shown]:
                    screen.show(one)
                    shown += 1
        finally:
            screen.end()


async def _ask(client: Client, filters: dict[str, Any]) -> dict[str, Any]:
    page: dict[str, Any] = await client.call(BUILTIN, "tap", filters)
    return page


class Allowance:
    """How many lines may be shown now: so many per second, and those of one second at once.

    There is no asking for none: who has none left waits until there is one again.

    Args:
        rate: Per second.
        clock: Tells seconds.
    """

    def __init__(self, rate: int, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._left, self._at = float(rate), clock()

    def pause(self) -> float:
        """Seconds until there is one, 0 where there is one now."""
        before, self._at = self._at, self._clock()
        self._left = min(self._rate, self._left + (self._at - before) * self._rate)
        return max(1 - self._left, 0) / self._rate

    def now(self) -> int:
        """What may be asked for after the pause."""
        return min(max(int(self._left), 1), MOST)

    def spend(self, shown: int) -> None:
        """So many are shown."""
        self._left -= shown


def trees(page: dict[str, Any]) -> list[dict[str, Any]]:
    """The trees of an answer, each with its calls and whether some may be lacking."""
    return [
        {
            "entry_id": entry,
            "trace_id": calls[0]["trace_id"],
            "partial": entry in page["partial"],
            "calls": calls,
        }
        for entry, group in groupby(page["calls"], key=itemgetter("entry_id"))
        for calls in [list(group)]
    ]


class _Screen:
    """Where calls are shown."""

    def begin(self) -> None:
        """The tap is open."""

    def show(self, told: dict[str, Any]) -> None:
        """A call, or a tree."""
        raise NotImplementedError

    def left_out(self, left_out: int, unread: int, *, by_rate: bool) -> None:
        """So many were not told since this was told last.

        Args:
            left_out: Calls or trees that fit.
            unread: Calls that made way before.
            by_rate: Whether a higher rate would show more of those that fit.
        """
        raise NotImplementedError

    def restarted(self, gateway: str) -> None:
        """Another gateway answers."""
        raise NotImplementedError

    def end(self) -> None:
        """Nothing follows."""


class _Json(_Screen):
    def show(self, told: dict[str, Any]) -> None:
        print_json(told)

    def left_out(self, left_out: int, unread: int, *, by_rate: bool) -> None:  # noqa: ARG002 - numbers are for programs
        if left_out or unread:
            print_json({"left_out": left_out, "unread": unread})

    def restarted(self, gateway: str) -> None:
        print_json({"restarted": True, "gateway": gateway})


class _Text(_Screen):
    def __init__(self, *, tree: bool) -> None:
        self._tree = tree
        self._console, self._notes = make_console(), make_console(stderr=True)
        self._left_out = self._crowded_out = self._unread = 0
        self._noted = 0.0

    def begin(self) -> None:
        print_lines(self._console, [self._layout.heading()])

    @property
    def _layout(self) -> Layout:
        """Asked each time, as people change the width of what they look at."""
        console = self._console
        return Layout(console.width if console.is_terminal else None, signs_of(console))

    def show(self, told: dict[str, Any]) -> None:
        lines = self._layout.tree(told) if self._tree else self._layout.lines(told)
        print_lines(self._console, lines)

    def left_out(self, left_out: int, unread: int, *, by_rate: bool) -> None:
        if by_rate:
            self._left_out += left_out
        else:
            self._crowded_out += left_out
        self._unread += unread
        if time.monotonic() - self._noted >= PAUSE:
            self.end()

    def restarted(self, gateway: str) -> None:
        self._note(f"gateway {gateway} answers now; what ended between the two is not shown")

    def end(self) -> None:
        what = "trees" if self._tree else "calls"
        if self._left_out:
            self._note(f"{self._left_out:,} more {what} left out: --rate shows more of them")
        if self._crowded_out:
            self._note(
                f"{self._crowded_out:,} more {what} left out: the gateway tells {MOST:,} calls in "
                "a tenth of a second at most; filters leave fewer to tell"
            )
        if self._unread:
            self._note(f"{self._unread:,} calls went by faster than they were read")
        self._left_out = self._crowded_out = self._unread = 0

    def _note(self, text: str) -> None:
        self._noted = time.monotonic()
        self._notes.print(text, style="dim", soft_wrap=True)
