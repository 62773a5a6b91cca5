"""A call from a shell: checked by what its service's contract says, then sent as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mesh.cli.checking import LONGEST, ask_contracts, check_call, deprecation, methods_of
from mesh.cli.peer import peer
from mesh.cli.unknown import find_unknown, tell_unknown
from mesh_telemetry.logs import clean_line

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from mesh.client import Client


TOLD = 5
"""Fields that will be dropped, of those that are told."""


async def prepare_call(
    stack: AsyncExitStack,
    client: Client,
    gateway: str | None,
    service: str,
    method: str,
    params: Any,
    timeout: float | None,  # noqa: ASYNC109 - travels with the call
) -> Client:
    """Check a call, and tell on standard error what speaks against it.

    Args:
        stack: Ends the connection that the call needs.
        client: A peer of the gateway, which asks for contracts.
        gateway: Its address.
        service: Whom to call.
        method: Likewise.
        params: Parameters, as JSON is read.
        timeout: Seconds.

    Returns:
        The peer to call by.

    Raises:
        CallError: A contract forbids the call, or the gateway has gone.
    """
    schemas = await ask_contracts(client, service, timeout)
    check_call(service, method, params, schemas, min(timeout or LONGEST, LONGEST))
    if advice := deprecation(method, schemas):
        click.secho(f"{service}.{method} is deprecated: {advice}", err=True, fg="yellow")
    for told in _dropped(method, params, schemas):
        click.secho(clean_line(f"{service}.{method} drops {told}"), err=True, fg="yellow")
    if not schemas:
        return client
    # JSON can say all that these have types for: bytes, or keys of numbers.
    return await stack.enter_async_context(peer(gateway, patience=timeout, encoding="json"))


def _dropped(method: str, params: Any, schemas: list[dict[str, Any]]) -> list[str]:
    """What no contract of the service that has the method knows of the parameters, shortened."""
    found = [
        find_unknown(params, methods_of(schema)[method], schema)
        for schema in schemas
        if method in methods_of(schema)
    ]
    if not found:
        return []
    first, *others = found
    paths = sorted(path for path in first if all(path in other for other in others))
    return [tell_unknown(path, *first[path]) for path in paths[:TOLD]]
