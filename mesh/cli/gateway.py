"""`mesh gateway`: the gateway as a program."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import sys
from dataclasses import replace
from typing import Any

import click
import trio

from mesh._version import __version__
from mesh.cli.commands import example, run
from mesh.cli.configuration import LIMIT_ARGUMENT, Configuration
from mesh.cli.failures import Failure, WrongUsage
from mesh.cli.output import print_json
from mesh.cli.peer import json_option
from mesh.cli.settings import ADMIN, SETTINGS
from mesh.errors import AddressInUse
from mesh.gateway import Gateway
from mesh.logs import configure
from mesh.process import calm_collector
from mesh.systemd import TLS, Inherited, Notifier, take_sockets
from mesh.transport import Listener

log = logging.getLogger("mesh.gateway")


def _options(command: Any) -> Any:
    """The options of the table of settings, and `--limit` for the many that are limits."""
    limits = click.option(
        LIMIT_ARGUMENT,
        "limits",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set a limit: call_timeout=10s, max_message=4MiB, max_depth=8. May be repeated; "
        "--print-config shows all.",
    )
    command = limits(command)
    for setting in reversed(SETTINGS.values()):
        if not setting.is_limit:
            command = click.option(
                setting.argument,
                setting.parameter,
                multiple=setting.many,
                is_flag=setting.flag,
                default=None,
                metavar=setting.metavar or None,
                help=setting.help,
            )(command)
    return command


class _WrongConfiguration(WrongUsage):
    """All faults of a configuration, a line for each."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__("\n".join(map(str, configuration.faults)))

    def show(self, file: Any = None) -> None:
        for line in self.message.split("\n"):
            Failure(line).show(file)


@click.command(
    epilog=example(
        "mesh gateway",
        "mesh gateway --listen unix:/run/mesh.sock --listen tcp:127.0.0.1:7000 --admin none",
        "mesh gateway --config mesh.toml --limit call_timeout=10s --check-config",
    )
)
@click.option(
    "--config",
    "file",
    metavar="FILE",
    help="Read settings from a TOML file; arguments and MESH_* variables come before it. "
    "[default: MESH_CONFIG]",
)
@_options
@click.option("--check-config", "check", is_flag=True, help="Say what is wrong with it, and end.")
@click.option(
    "--print-config", "show", is_flag=True, help="Print what is in force and why, and end."
)
@json_option
def gateway(
    *,
    file: str | None,
    limits: tuple[str, ...],
    check: bool,
    show: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Run the gateway that services meet at, until SIGTERM or Ctrl-C.

    Either signal drains: no new calls are taken, those in flight end, at most in the time of the
    limit `drain`, 10 s. A second one ends the gateway at once.
    """
    inherited = take_sockets()
    configuration = Configuration(
        {
            path: list(value) if setting.many else value
            for path, setting in SETTINGS.items()
            if (value := given.get(setting.parameter)) not in {None, ()}
        },
        limits,
        file,
        os.environ,
        [one.name for one in inherited],
    )
    if check:
        configuration.check_export(os.environ)
    if check and as_json:
        _print_faults(configuration)
    if configuration.faults:
        raise _WrongConfiguration(configuration)
    if show:
        if as_json:
            print_json(configuration.as_data())
        else:
            click.echo(configuration.as_toml(), nl=False)
    elif check and not as_json:
        click.echo(configuration.summary())
    if not check and not show:
        _run(configuration, inherited, as_json=as_json)


def _print_faults(configuration: Configuration) -> None:
    faults = [
        {"path": fault.path, "message": fault.message, "source": str(fault.origin)}
        for fault in configuration.faults
    ]
    print_json({"ok": not faults, "faults": faults})
    if faults:
        raise click.exceptions.Exit(WrongUsage.exit_code)


def _run(configuration: Configuration, inherited: list[Inherited], *, as_json: bool) -> None:
    configure(configuration["log.level"], configuration["log.format"])
    _raise_file_limit()
    handed_in = [_adopt(one) for one in inherited]
    addresses: list[str] = configuration["listen"]
    admin: str = configuration["admin"]
    certificates = configuration.certificates
    made = Gateway(
        listen=[*handed_in, *addresses],
        tls=certificates,
        allow_plain_tcp=configuration["allow_plain_tcp"],
        socket_mode=configuration.socket_mode,
        admin=None if admin == "none" else admin,
        admin_token=configuration.admin_token,
        telemetry=configuration["telemetry"],
        allow_tap_payloads=configuration["allow_tap_payloads"],
        traces=configuration.traces,
        limits=configuration.limits,
    )
    notifier = Notifier()
    try:
        stopped_by = run(_serve, made, notifier, as_json=as_json, reloads=certificates is not None)
    except AddressInUse as fault:
        if (
            len(made.addresses) == len(addresses) + len(inherited) and admin == ADMIN
        ):  # all peers' addresses were free
            raise Failure(
                f"the admin address {admin} is in use, perhaps by another gateway",
                "Take a free port with --admin 127.0.0.1:0, or do without: --admin none",
            ) from fault
        raise
    finally:
        notifier.close()
    if stopped_by is not None:
        raise click.exceptions.Exit(128 + stopped_by)


def _adopt(one: Inherited) -> Listener:
    """A socket that was handed in; one named `tls` is met with TLS."""
    listener = Listener.adopt(one.socket)
    if one.name == TLS:
        if listener.address.scheme != "tcp":
            raise WrongUsage(f"the socket named {TLS} is {listener.address}; TLS is for TCP")
        listener.address = replace(listener.address, scheme="tls")
    return listener


async def _serve(
    gateway: Gateway, notifier: Notifier, *, as_json: bool, reloads: bool
) -> int | None:
    """Serve until drained; returns the signal that cut the drain short, if one did."""
    cut_short: int | None = None
    # Without certificates, a terminal that goes takes the gateway with it, by a drain.
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

    async def watch(received: Any) -> None:
        nonlocal cut_short
        draining = False
        async for number in received:
            if number == signal.SIGHUP and reloads:
                gateway.reload_certificates()
                continue
            if number == signal.SIGHUP and not sys.stderr.isatty():
                log.info("got SIGHUP; there are no certificates to read again")
                continue
            if draining:
                cut_short = number
                nursery.cancel_scope.cancel()
            draining = True
            log.info("got %s; send it again to stop at once", signal.Signals(number).name)
            gateway.drain()

    async def tell_of_drain() -> None:
        await gateway.wait_draining()
        notifier.draining(gateway.limits.drain)

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await gateway.serve(task_status=task_status)
        nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(*signals) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, received)
            nursery.start_soon(tell_of_drain)
            await nursery.start(serve)
            calm_collector()
            notifier.ready(gateway.summary)
            nursery.start_soon(notifier.report, lambda: gateway.summary)
            _announce(gateway, as_json=as_json)
    return cut_short


def _announce(gateway: Gateway, *, as_json: bool) -> None:
    metrics = f"http://{gateway.admin_address}/metrics" if gateway.admin_address else None
    if as_json:
        print_json(
            {
                "event": "ready",
                "gateway": gateway.instance,
                "version": __version__,
                "addresses": gateway.addresses,
                "admin": gateway.admin_address,
                "metrics": metrics,
            }
        )
        return
    click.secho(f"mesh gateway {__version__} is ready", fg="green", bold=True)
    for address in gateway.addresses:
        click.echo(f"  peers    {address}")
    click.echo(f"  metrics  {metrics or 'not served (--admin none)'}")
    sys.stdout.flush()


def _raise_file_limit() -> None:
    """Every peer costs a file, and the usual soft limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and means less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
