"""The group of commands `mesh dashboards`."""

from __future__ import annotations

import click

from mesh.cli.commands import example
from mesh.cli.dashboards.rules import rules
from mesh.cli.dashboards.runbook import runbook


@click.group(
    epilog=example(
        "mesh dashboards rules shop:Orders > mesh.rules.yml",
        "mesh dashboards runbook MeshGatewayDown",
    )
)
def dashboards() -> None:
    """Dashboards, rules and runbooks for Prometheus and Grafana.

    Each command has --json.
    """


for command in (rules, runbook):
    dashboards.add_command(command)
