"""`mesh dashboards runbook`: what an alert means, how to look, what to do."""

from __future__ import annotations

import difflib

import click

from mesh.cli.commands import example
from mesh.cli.failures import WrongUsage
from mesh.cli.output import make_console, print_json
from mesh.cli.peer import json_option
from mesh_dashboards import runbooks


def complete_runbook(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The names of pages that begin so."""
    return [name for name in runbooks.runbooks() if name.startswith(incomplete)]


@click.command(epilog=example("mesh dashboards runbook", "mesh dashboards runbook MeshGatewayDown"))
@click.argument("name", required=False, shell_complete=complete_runbook)
@json_option
def runbook(*, name: str | None, as_json: bool) -> None:
    """Print the page on the alert NAME: what it means, how to look, what to do.

    Without NAME, lists the pages. In a pipe a page is as it was written, in Markdown.
    """
    known = runbooks.runbooks()
    if name is None:
        if as_json:
            print_json(known)
        else:
            click.echo("\n".join(known))
        return
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`mesh dashboards runbook` lists them"
        raise WrongUsage(f"there is no runbook {name!r}; {hint}")
    text = runbooks.runbook(name)
    console = make_console()
    if as_json:
        print_json({"name": name, "text": text})
    elif console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(text))
    else:
        click.echo(text, nl=False)
