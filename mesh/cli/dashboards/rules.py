"""`mesh dashboards rules`: rules for Prometheus, with those for the objectives of contracts."""

from __future__ import annotations

import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mesh.cli.commands import example, run
from mesh.cli.failures import WrongUsage
from mesh.cli.listing import BUILTIN
from mesh.cli.output import print_json
from mesh.cli.peer import json_option, peer
from mesh.contracts.contract import info_of
from mesh.contracts.objectives import fault_of, objective_of, slo
from mesh.contracts.schema import describe
from mesh.errors import ContractError
from mesh.wire.codec import is_name
from mesh_telemetry.logs import clean_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh_dashboards.burning import Promise


@click.command(
    epilog=example(
        "mesh dashboards rules > mesh.rules.yml",
        "mesh dashboards rules shop.contracts:Orders shop.contracts:Users > mesh.rules.yml",
        "mesh dashboards rules --gateway unix:/run/mesh.sock > mesh.rules.yml",
    )
)
@click.argument("contracts", nargs=-1, metavar="[MODULE:CLASS]...")
@click.option(
    "--gateway",
    metavar="ADDRESS",
    help="Make rules for the contracts that are registered at this gateway now.",
)
@click.option(
    "--job",
    metavar="NAME",
    default="mesh-gateway",
    show_default=True,
    help="Prometheus' job that scrapes the gateways.",
)
@click.option(
    "--runbooks",
    metavar="URL",
    default="",
    help="Where the runbooks are served, for `runbook_url` of alerts: URL/NAME.md.",
)
@json_option
def rules(
    *, contracts: tuple[str, ...], gateway: str | None, job: str, runbooks: str, as_json: bool
) -> None:
    """Print recording rules and alerts for Prometheus, as YAML.

    Those that every mesh wants are always there. Burn-rate alerts come with the objectives (slo=)
    of the contracts that are named, looked for from the current directory on, or registered at a
    gateway. What a rule cannot do as a contract says is told on standard error.
    """
    from mesh_dashboards.promql import Scope
    from mesh_dashboards.rules import rules as make
    from mesh_dashboards.rules import to_yaml

    if contracts and gateway is not None:
        raise WrongUsage("name contracts or give --gateway; not both")
    if gateway is not None:
        schemas = run(_registered, gateway)
    else:
        schemas = [describe(info_of(_load(name))) for name in contracts]
    promises: dict[tuple[str, str], Promise] = {}
    for promise in _promises(schemas):
        promises.setdefault((promise.service, promise.method), promise)
    for promise in promises.values():
        for warning in promise.warnings():
            _warn(warning)
    document = make(list(promises.values()), Scope(job=job, runbooks=runbooks))
    if as_json:
        print_json(document)
    else:
        click.echo(to_yaml(document), nl=False)


def _load(name: str) -> object:
    """What a name such as ``shop.contracts:Orders`` stands for."""
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise WrongUsage(f"{name!r} is no MODULE:CLASS, such as shop.contracts:Orders")
    if str(Path.cwd()) not in sys.path:  # `python -m` has it there, an installed command has not
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = attrgetter(attribute)(import_module(module))
        info_of(found)
    except (ImportError, AttributeError, ContractError) as fault:
        raise WrongUsage(f"{name}: {fault}") from fault
    return found


async def _registered(gateway: str) -> list[dict[str, Any]]:
    """The schemas of all contracts at a gateway; of several versions the newest first."""
    async with peer(gateway) as client:
        services = await client.call(BUILTIN, "services")
        found = [await client.call(BUILTIN, "service", one["name"]) for one in services]
    return [
        {**contract["schema"], "name": one["name"]}
        for one in found
        for contract in one.get("contracts", [])
    ]


def _promises(schemas: Iterable[dict[str, Any]]) -> Iterator[Promise]:
    """What contracts promise. Those of a gateway come from peers, and may be anything."""
    from mesh_dashboards.burning import Promise

    for schema in schemas:
        methods = schema.get("methods")
        for name, method in methods.items() if isinstance(methods, dict) else ():
            told = method.get("slo") if isinstance(method, dict) else None
            if told is None:
                continue
            try:
                promised = objective_of(msgspec.convert(told, float | slo))
                fault = fault_of(promised)
            except msgspec.ValidationError as wrong:
                promised, fault = None, f"slo: {wrong}"
            if promised is None or fault or not is_name(name):
                _warn(f"{schema['name']}.{name}: left out: {fault or 'it is no name of a method'}")
                continue
            yield Promise(schema["name"], name, promised.success, promised.within, promised.target)


def _warn(text: str) -> None:
    click.secho("warning: ", fg="yellow", nl=False, err=True)
    click.echo(clean_line(text), err=True)
