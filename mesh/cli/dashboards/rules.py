"""`mesh dashboards rules`: rules for Prometheus, with those for the objectives of contracts."""

from __future__ import annotations

import sys
import traceback
from contextlib import redirect_stdout, suppress
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
from mesh.errors import ContractError, NotFound
from mesh.wire.codec import is_name
from mesh_telemetry.logs import clean_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh.client import Client
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

    for option, text in (("--job", job), ("--runbooks", runbooks)):
        try:
            text.encode()
        except UnicodeEncodeError as fault:  # bytes that the shell has passed on
            raise WrongUsage(f"{option} {text!r} is no UTF-8") from fault
    if contracts and gateway is not None:
        raise WrongUsage("name contracts or give --gateway; not both")
    if gateway is not None:
        schemas = run(_registered, gateway)
    else:
        schemas = [describe(info_of(_load(name))) for name in contracts]
    promises: dict[tuple[str, str], Promise] = {}
    for promise in _promises(schemas):
        first = promises.setdefault((promise.service, promise.method), promise)
        if first != promise:
            _warn(
                f"{promise.service}.{promise.method}: two contracts promise different things of "
                f"it: {_told(first)} counts, {_told(promise)} does not"
            )
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
    if not (module and attribute) or module.startswith("."):
        raise WrongUsage(f"{name!r} is no MODULE:CLASS, such as shop.contracts:Orders")
    if str(Path.cwd()) not in sys.path:  # `python -m` has it there, an installed command has not
        sys.path.insert(0, str(Path.cwd()))
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no rule
            imported = import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # it is somebody's program, which may do anything, also exit
        raise WrongUsage(f"{name}: {_why(fault)}") from fault
    try:
        found = attrgetter(attribute)(imported)
        info_of(found)
    except (AttributeError, ContractError) as fault:
        raise WrongUsage(f"{name}: {fault}") from fault
    return found


def _why(fault: BaseException) -> str:
    """What went wrong in importing a module, its kind, and its line."""
    if isinstance(fault, SyntaxError):  # its text has the place
        return f"{type(fault).__name__}: {fault}"
    text = clean_line("".join(traceback.format_exception_only(fault)).strip())
    own = [
        frame
        for frame in traceback.extract_tb(fault.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    return f"{text} ({own[-1].filename}, line {own[-1].lineno})" if own else text


def _told(promise: Promise) -> str:
    """A promise in the words of a contract."""
    told = slo(within=promise.within, target=promise.target, success=promise.success)
    return repr(told)


async def _registered(gateway: str) -> list[dict[str, Any]]:
    """The schemas of all contracts at a gateway; of several versions the newest first."""
    async with peer(gateway) as client:
        services = await client.call(BUILTIN, "services")
        return await _schemas(client, [one["name"] for one in services])


async def _schemas(client: Client, services: Iterable[str]) -> list[dict[str, Any]]:
    """The schemas of the contracts of these services, as far as they are still there."""
    found = []
    for name in services:
        with suppress(NotFound):  # it has gone since it was listed
            found.append(await client.call(BUILTIN, "service", name))
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
