"""`mesh gateway`: the gateway as a program."""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from mesh._version import __version__
from mesh.cli.commands import example, run
from mesh.cli.failures import Failure, WrongUsage, clean
from mesh.cli.output import print_json
from mesh.cli.peer import json_option
from mesh.errors import AddressInUse
from mesh.gateway import Gateway
from mesh.transport import CertificateFiles, default_address

if TYPE_CHECKING:
    from collections.abc import Iterable

ADMIN = "127.0.0.1:9464"
"""The port that OpenTelemetry gives Prometheus exporters by default."""

log = logging.getLogger("mesh.gateway")


@click.command(
    epilog=example(
        "mesh gateway",
        "mesh gateway --listen unix:/run/mesh.sock --listen tcp:127.0.0.1:7000 --admin none",
        "mesh gateway --listen tls:0.0.0.0:7443 --tls-cert mesh.pem --tls-key mesh.key",
    )
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="Accept peers at unix:PATH, tcp:HOST:PORT or tls:HOST:PORT; port 0 takes a free one. "
    "May be repeated. [default: MESH_GATEWAY, else your own socket]",
)
@click.option(
    "--tls-cert",
    metavar="FILE",
    help="The certificate for tls: addresses, with intermediate ones, in PEM form. SIGHUP reads it "
    "and the next two again; connections stay.",
)
@click.option("--tls-key", metavar="FILE", help="Its private key. [default: in the same file]")
@click.option(
    "--tls-client-ca",
    metavar="FILE",
    help="Let only peers in that show a certificate of one of these authorities (mutual TLS).",
)
@click.option(
    "--allow-plain-tcp",
    is_flag=True,
    help="Let tcp: addresses be reachable from other machines, unencrypted and unchecked.",
)
@click.option(
    "--admin",
    default=ADMIN,
    show_default=True,
    metavar="HOST:PORT",
    help="Serve /metrics, /healthz and /readyz there; `none` for no such server.",
)
@click.option(
    "--admin-token-file",
    metavar="FILE",
    help="What `Authorization: Bearer` must hold there; needed where other machines reach it.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log on stderr.",
)
@json_option
def gateway(
    *,
    listen: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    allow_plain_tcp: bool,
    admin: str,
    admin_token_file: str | None,
    log_level: str,
    as_json: bool,
) -> None:
    """Run the gateway that services meet at, until SIGTERM or Ctrl-C.

    Either signal drains: no new calls are taken, those in flight end, at most 10 s. A second one
    ends the gateway at once.
    """
    _log_to_stderr(log_level)
    _raise_file_limit()
    addresses = listen or (default_address(),)
    made = Gateway(
        listen=addresses,
        tls=_certificate_files(addresses, tls_cert, tls_key, tls_client_ca),
        allow_plain_tcp=allow_plain_tcp,
        admin=None if admin == "none" else admin,
        admin_token=_read_token(admin_token_file),
    )
    try:
        stopped_by = run(_serve, made, as_json=as_json, reloads=tls_cert is not None)
    except AddressInUse as fault:
        if (
            len(made.addresses) == len(addresses) and admin == ADMIN
        ):  # all peers' addresses were free
            raise Failure(
                f"the admin address {admin} is in use, perhaps by another gateway",
                "Take a free port with --admin 127.0.0.1:0, or do without: --admin none",
            ) from fault
        raise
    if stopped_by is not None:
        raise click.exceptions.Exit(128 + stopped_by)


def _certificate_files(
    addresses: Iterable[str], cert: str | None, key: str | None, client_ca: str | None
) -> CertificateFiles | None:
    if cert is None:
        if key or client_ca:
            raise WrongUsage(f"{'--tls-key' if key else '--tls-client-ca'} needs --tls-cert too")
        return None
    if not any(address.startswith("tls:") for address in addresses):
        raise WrongUsage("--tls-cert is given, but no --listen tls:HOST:PORT")
    return CertificateFiles(cert, key, client_ca)


def _read_token(path: str | None) -> str | None:
    if path is None:
        return None
    token = Path(path).read_text(encoding="utf-8").strip()
    if not token:
        raise WrongUsage(f"{path} holds no token")
    return token


async def _serve(gateway: Gateway, *, as_json: bool, reloads: bool) -> int | None:
    """Serve until drained; returns the signal that cut the drain short, if one did."""
    cut_short: int | None = None
    # Without certificates, a terminal that goes takes the gateway with it, as ever.
    signals = {signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if reloads else [])}

    async def watch(received: Any) -> None:
        nonlocal cut_short
        draining = False
        async for number in received:
            if number == signal.SIGHUP:
                gateway.reload_certificates()
                continue
            if draining:
                cut_short = number
                nursery.cancel_scope.cancel()
            draining = True
            log.info("got %s; send it again to stop at once", signal.Signals(number).name)
            gateway.drain()

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await gateway.serve(task_status=task_status)
        nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(*signals) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, received)
            await nursery.start(serve)
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


_COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red"}


class _Formatter(logging.Formatter):
    """One line per event: the time to the millisecond, the level, what happened."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = record.levelname.lower().ljust(7)
        if self._colour:
            level = click.style(level, fg=_COLOURS.get(record.levelno, "cyan"))
        text = f"{at}.{int(record.msecs):03d} {level} {clean(record.getMessage())}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(colour=sys.stderr.isatty()))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _raise_file_limit() -> None:
    """Every peer costs a file, and the usual soft limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and means less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
