"""The command `mesh dashboards`."""

from __future__ import annotations

import click

from mesh.cli.commands import example
from mesh.cli.dashboards.export import export
from mesh.cli.dashboards.push import push


@click.group(
    epilog=example(
        "mesh dashboards export /etc/grafana/mesh",
        "mesh dashboards push https://grafana.example --token-file token --json",
    )
)
def dashboards() -> None:
    """Bring the mesh's dashboards into Grafana, and its rules into Prometheus."""


dashboards.add_command(export)
dashboards.add_command(push)
