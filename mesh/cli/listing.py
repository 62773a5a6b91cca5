"""`mesh list`: who serves what, as the gateway sees it."""

from __future__ import annotations

from typing import Any

import click

from mesh.cli.commands import example, run
from mesh.cli.output import make_console, print_json, print_table
from mesh.cli.peer import gateway_option, json_option, peer
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

BUILTIN = "mesh"
STYLES = {"healthy": "green", "late": "yellow", "unresponsive": "red", "draining": "yellow"}
"""The colours of an instance's states."""


METHODS = 16
"""Columns that the names of methods have at least, before anything else gives way to them."""


@click.command("list", epilog=example("mesh list", "mesh list --json | jq '.[].name'"))
@gateway_option
@click.option("--all", "show_all", is_flag=True, help="Show the gateway's own service, too.")
@json_option
def list_services(*, gateway: str | None, show_all: bool, as_json: bool) -> None:
    """List services with their methods, instances and the versions of these."""
    services = run(_ask, gateway)
    if not show_all:
        services = [service for service in services if service["name"] != BUILTIN]
    if as_json:
        print_json(services)
    elif services:
        _print(services)
    else:
        click.echo("No services are registered; serve one with mesh.run().", err=True)


async def _ask(gateway: str | None) -> Any:
    async with peer(gateway) as client:
        return await client.call(BUILTIN, "services")


def _print(services: list[dict[str, Any]]) -> None:
    from rich.text import Text

    console = make_console()
    rows: list[list[str | Text]] = []
    for service in services:
        name, methods = Text(service["name"], style="bold cyan"), ", ".join(service["methods"])
        if not service["instances"]:
            since = service.get("gone")  # older gateways do not tell
            gone = f"gone {duration(since['gone_s'])}" if since else "gone"
            rows.append([name, "-", "-", Text(gone, style="red"), "-", "-", "-"])
        for instance in service["instances"]:
            state = instance["state"]
            rows.append(
                [
                    name,
                    methods if console.is_terminal else methods.replace(" ", ""),
                    clean(instance["process_id"]),
                    Text(state, style=STYLES.get(state, "")),
                    clean(instance["version"]) or "-",
                    str(instance["in_flight"]),
                    duration(instance["connected_s"]),
                ]
            )
            if console.is_terminal:
                name, methods = Text(), ""  # said once for people; each line stands alone in a pipe
    figures: tuple[str, ...] = ("in flight", "connected")
    columns = ("service", "methods", "instance", "state", "version", *figures)
    whole: tuple[str, ...] = ("service", "instance", "state", "version")
    widths = [max(map(len, cells)) + 2 for cells in zip(columns, *rows, strict=True)]
    widths[1] = min(widths[1], METHODS)
    if console.is_terminal and sum(widths) > console.width:
        # `mesh info` tells them, too; names of methods that get no room would be told nowhere.
        # Versions do as well, where there is room.
        count = 5 if sum(widths[:5]) <= console.width else 4
        columns, figures = columns[:count], ()
        rows = [row[:count] for row in rows]
        if sum(widths[:count]) > console.width:
            whole = ()
    print_table(console, columns, rows, figures=figures, whole=whole)
