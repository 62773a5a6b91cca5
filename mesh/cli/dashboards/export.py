"""`mesh dashboards export`: dashboards, rules and runbooks as files, and Grafana's provisioning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import yaml

from mesh.cli.commands import example
from mesh.cli.output import print_json
from mesh.cli.peer import json_option
from mesh_dashboards import shipped

PROMETHEUS_UID = "mesh-prometheus"
SCRAPES = "15s"
"""How often Prometheus reads the mesh: Grafana's rates are over four of these at least."""

admin_option = click.option(
    "--admin",
    default=shipped.ADMIN,
    show_default=True,
    metavar="URL",
    help="Where browsers reach a gateway's admin address: links to its traces lead there.",
)


@click.command(
    epilog=example(
        "mesh dashboards export /etc/grafana/mesh",
        "mesh dashboards export mesh --prometheus http://prometheus:9090 --tempo http://tempo:3200",
        "mesh dashboards export mesh --path /var/lib/grafana/dashboards",
    )
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--path",
    metavar="PATH",
    help="Where Grafana will find the dashboards. [default: DIR/dashboards, as written]",
)
@click.option(
    "--prometheus",
    default="http://127.0.0.1:9090",
    show_default=True,
    metavar="URL",
    help="Where Grafana reaches Prometheus.",
)
@click.option(
    "--tempo",
    metavar="URL",
    help="Where Grafana reaches Tempo, if there is one: exemplars and methods lead there, too.",
)
@admin_option
@click.option(
    "--runbooks",
    "pages",
    metavar="URL",
    default="",
    help="Where the runbooks are served, for `runbook_url` of alerts: URL/NAME.md.",
)
@json_option
def export(
    *,
    folder: Path,
    path: str | None,
    prometheus: str,
    tempo: str | None,
    admin: str,
    pages: str,
    as_json: bool,
) -> None:
    """Write dashboards, rules and runbooks into DIR, with files to provision Grafana by.

    Files of the same names are written over; others stay. The rules are those that every mesh
    wants; `mesh dashboards rules` has those for contracts, too.
    """
    from mesh_dashboards.promql import Scope
    from mesh_dashboards.rules import rules, to_yaml
    from mesh_dashboards.runbooks import runbook, runbooks

    boards = shipped.boards(admin, None if tempo is None else shipped.TRACES)
    where = path or str((folder / "dashboards").resolve())
    written = {
        **{
            f"dashboards/{uid}.json": json.dumps(one, indent=1) + "\n"
            for uid, one in boards.items()
        },
        "provisioning/dashboards/mesh.yaml": _dump(_providers(where)),
        "provisioning/datasources/mesh.yaml": _dump(_datasources(prometheus, tempo, admin)),
        "rules/mesh.rules.yml": to_yaml(rules(scope=Scope(runbooks=pages))),
        **{f"runbooks/{name}.md": runbook(name) for name in runbooks()},
    }
    for name, text in written.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    if as_json:
        print_json({"folder": str(folder), "files": list(written)})
        return
    for name in written:
        click.echo(folder / name)


def _dump(document: dict[str, Any]) -> str:
    # Grafana puts variables of its environment in for names behind one dollar sign.
    return yaml.safe_dump(document, sort_keys=False).replace("$", "$$")


def _providers(path: str) -> dict[str, Any]:
    """As https://grafana.com/docs/grafana/latest/administration/provisioning/ has it."""
    provider = {
        "name": "mesh",
        "folder": "Mesh",
        "type": "file",
        "allowUiUpdates": False,
        "options": {"path": path},
    }
    return {"apiVersion": 1, "providers": [provider]}


def _datasources(prometheus: str, tempo: str | None, admin: str) -> dict[str, Any]:
    destinations = [
        {
            "name": "trace_id",
            "url": f"{admin.rstrip('/')}/api/traces/${{__value.raw}}?format=text",
            "urlDisplayLabel": "Trace at the gateway",
        }
    ]
    sources: list[dict[str, Any]] = [
        {
            "name": "Mesh Prometheus",
            "uid": PROMETHEUS_UID,
            "type": "prometheus",
            "access": "proxy",
            "url": prometheus,
            "jsonData": {
                "httpMethod": "POST",
                "timeInterval": SCRAPES,
                "exemplarTraceIdDestinations": destinations,
            },
        }
    ]
    if tempo is not None:
        destinations.insert(0, {"name": "trace_id", "datasourceUid": shipped.TRACES})
        traces = {
            "name": "Mesh traces",
            "uid": shipped.TRACES,
            "type": "tempo",
            "access": "proxy",
            "url": tempo,
            "jsonData": {"serviceMap": {"datasourceUid": PROMETHEUS_UID}},
        }
        sources.append(traces)
    return {"apiVersion": 1, "datasources": sources}
