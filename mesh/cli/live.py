"""A table of methods that stays up to date: what `stat` and `top` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from mesh.cli.peer import peer
from mesh.cli.readings import read_again, read_sample, tell_restart
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.text import Text

AROUND = 3
"""Lines of a terminal that are no method's: headings, what is left out, and the cursor's."""


async def watch(
    gateway: str | None,
    interval: float,
    show: Callable[[dict[str, Any], dict[str, Any]], None],
    *,
    once: bool,
) -> None:
    """Show what happens in a mesh, interval by interval.

    Args:
        gateway: Its address.
        interval: Seconds.
        show: Is given the samples from the start and the end of each interval.
        once: Whether to end after the first one.
    """
    async with peer(gateway) as client:
        before = await read_sample(client)
        while True:
            await trio.sleep(interval)
            after = await read_again(client, read_sample)
            show(before, after)
            if once:
                return
            before = after


def draw(console: Console, lines: Callable[[], None]) -> None:
    """Print anew: in the place of what was there before on a terminal, below it in a pipe."""
    if not console.is_terminal:
        lines()
        return
    with console:  # written at once, else it flickers
        console.clear()
        lines()


def print_heading(console: Console, figures: dict[str, Any], service: str | None = None) -> int:
    """Print a few lines on the gateway itself; returns how many.

    Args:
        console: Where to.
        figures: What is told as JSON: ``gateway``, ``methods``, ``seconds``, ``restarted``.
        service: The only one whose methods these are; None for all.
    """
    from rich.text import Text

    lines = _heading(figures, console.width if console.is_terminal else None, service)
    if figures["restarted"]:
        lines.append(Text(tell_restart(figures["seconds"]), style="yellow"))
    for line in lines:
        console.print(line, soft_wrap=True)
    return len(lines)


def _heading(figures: dict[str, Any], width: int | None, service: str | None) -> list[Text]:
    """The gateway itself, in as many lines of a terminal as it takes; in one for a pipe.

    The rate is that of the methods shown; all else is the whole gateway's.
    """
    from rich.text import Text

    gateway = figures["gateway"]
    total = sum(row["calls_per_second"] for row in figures["methods"])
    state = gateway["state"]
    parts = [
        Text.assemble(("gateway ", "dim"), clean(gateway["gateway"])),
        Text(state, style="green" if state == "running" else "yellow"),
        Text(f"{gateway['peers']} peers"),
        Text(f"{total:,.1f} calls/s" + (f" of {clean(service)}" if service else "")),
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


def how_many(console: Console, rows: int, around: int) -> int:
    """How many of so many rows a console has room for, beside so many other lines."""
    return min(rows, max(console.height - around, 1)) if console.is_terminal else rows


def print_left_out(console: Console, number: int, why: str) -> None:
    """Say that there are further rows, if there are."""
    from rich.text import Text

    if number:
        console.print(Text(f"and {number} more, {why}; a pipe shows all", style="dim"))
