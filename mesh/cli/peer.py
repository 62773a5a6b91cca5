"""The command as a peer of a mesh: how it finds the gateway, and what its arguments may be."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import click

from mesh.connecting import connect
from mesh.contracts.versions import check_version
from mesh.units import parse_duration
from mesh.wire.codec import is_activity_id, is_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.client import Client
    from mesh.payload import Encoding

NAME = "mesh-cli"
"""How calls of the command are labelled in the mesh's metrics."""

CONNECT_TIMEOUT = 2.0
"""Seconds to wait for a gateway that starts just now; a person waits no longer gladly."""


@contextlib.asynccontextmanager
async def peer(
    gateway: str | None,
    name: str = NAME,
    *,
    patience: float | None = None,
    encoding: Encoding = "msgpack",
) -> AsyncIterator[Client]:
    """Be a peer of the mesh at this address, or at the default one.

    Args:
        gateway: The address; None for the default one.
        name: What the peer is called.
        patience: Seconds to wait for the gateway, where whoever runs the command has said so.
        encoding: How its parameters travel.
    """
    if patience is None:
        patience = CONNECT_TIMEOUT
    async with connect(
        name, gateway=gateway, connect_timeout=patience, encoding=encoding
    ) as client:
        yield client


gateway_option = click.option(
    "--gateway",
    metavar="ADDRESS",
    help="Where the gateway is: unix:PATH, tcp:HOST:PORT or tls:HOST:PORT (trusting MESH_TLS_CA, "
    "showing MESH_TLS_CERT and MESH_TLS_KEY). [default: MESH_GATEWAY, else your own socket]",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _check_version(
    _ctx: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    try:
        if value is not None:
            check_version(value)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong)) from None
    return value


version_option = click.option(
    "--version",
    metavar="X.Y.Z",
    callback=_check_version,
    help="Call instances that serve this version of the contract. [default: any]",
)


def check_name(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what can be the name of no service or method."""
    if value is not None and not is_name(value):
        raise click.BadParameter(
            f"{value!r} is no {parameter.name} name: it must begin with a letter or _, then "
            "letters, digits and _.-"
        )
    return value


def check_activity(_ctx: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Refuse what can be no activity id."""
    if value is not None and not is_activity_id(value):
        raise click.BadParameter("an activity id is 1 to 128 printable ASCII characters")
    return value


class Seconds(click.FloatRange):
    """A number of seconds within a range, and nothing that passes for one: no nan, no inf."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, or a complaint about wrong usage."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return seconds


def check_duration(
    _ctx: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    """Refuse what is no duration; the gateway reads it."""
    try:
        if value is not None:
            parse_duration(value)
    except ValueError as wrong:
        raise click.BadParameter(f"{value!r} must be {wrong}") from None
    return value
