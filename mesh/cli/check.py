"""`mesh check`: whether everything is in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mesh.cli.commands import example, run
from mesh.cli.listing import BUILTIN
from mesh.cli.output import make_console, print_json
from mesh.cli.peer import gateway_option, json_option, peer
from mesh_telemetry.logs import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_INDENT = " " * 9
_STYLES = {"error": "red", "note": "cyan"}


@click.command(epilog=example("mesh check", "mesh check --json | jq '.findings[].what'"))
@gateway_option
@json_option
def check(*, gateway: str | None, as_json: bool) -> None:
    """Check the mesh, and say of what is not in order what to do about it.

    Looks at heartbeats, loop lag, outboxes, services without an instance or with several
    versions of one contract, the export of traces, and the calls, callers of versions that nobody
    serves, and lost spans of the last five minutes. Exits 1 if
    something is wrong, also if there is no gateway; not for a note: a few calls of a service that
    was never there, all within a minute, may have been a typo; one that has been gone for a while
    and is not called may have gone for good.
    """
    findings = run(_ask, gateway)
    wrong = any(finding["level"] != "note" for finding in findings)
    if as_json:
        print_json({"ok": not wrong, "findings": findings})
    elif findings:
        _print(findings)
    else:
        click.secho("Everything is in order.", fg="green")
    if wrong:
        raise click.exceptions.Exit(1)


async def _ask(gateway: str | None) -> Any:
    async with peer(gateway) as client:
        return await client.call(BUILTIN, "check")


def _print(findings: list[dict[str, Any]]) -> None:
    from rich.text import Text

    console = make_console()
    for finding in findings:
        style = _STYLES.get(finding["level"], "yellow")
        line = Text.assemble(
            (f"{finding['level']:<7}  ", style),
            (clean(finding["subject"]), "bold"),
            f": {clean(finding['what'])}",
        )
        print_hanging(console, line)
        print_hanging(console, Text(f"{_INDENT}{clean(finding['advice'])}", style="dim"))


def print_hanging(console: Console, line: Text) -> None:
    """Print a line; on a terminal that is too narrow, as several, broken between words."""
    if not console.is_terminal:
        console.print(line, soft_wrap=True)
        return
    head, rest = line.divide([len(_INDENT)])
    room = max(20, console.width - len(_INDENT))
    for part in rest.wrap(console, room):
        part.rstrip()
        console.print(head + part, soft_wrap=True)
        head.plain = _INDENT
