"""`mesh explain`: every decision made for a call, in order, with the setting behind it if any."""

from __future__ import annotations

from typing import Any

import click

from mesh.cli.commands import example, run
from mesh.cli.output import make_console, print_json
from mesh.cli.peer import gateway_option, json_option
from mesh.cli.trace import ask_for


@click.command(epilog=example("mesh explain order-102", "mesh explain 4bf92f"))
@click.argument("id_", metavar="ID")
@gateway_option
@json_option
def explain(*, id_: str, gateway: str | None, as_json: bool) -> None:
    """Say what was decided for a call and all below it, in order, and why.

    ID is an activity id, a trace id or the first six digits of one or more, of a trace that the
    gateway has kept; of several of one activity, the newest. Each call has what was left of its
    deadline and what it took; each decision the setting behind it where there is one, as in the
    gateway's file: which instance was picked, what was waited for, what was refused, who cancelled
    it, why it failed, whether its answer came late, and why the trace was kept.
    """
    told = run(ask_for, gateway, id_, "explain")
    if as_json:
        print_json(told)
        return
    _print(told)


def _print(told: dict[str, Any]) -> None:
    import msgspec

    from mesh.cli.waterfall import print_lines
    from mesh_telemetry import Explanation, explanation_lines
    from mesh_telemetry.drawing import WIDTH

    console = make_console()
    width = console.width if console.is_terminal else WIDTH
    print_lines(console, explanation_lines(msgspec.convert(told, Explanation), width))
