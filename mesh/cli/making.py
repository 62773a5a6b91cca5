"""A call from a shell: checked by what its service's contract says, then sent as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mesh.cli.checking import (
    LONGEST,
    ask_contracts,
    check_call,
    declared_timeout,
    deprecation,
    methods_of,
)
from mesh.cli.peer import peer
from mesh.cli.unknown import find_unknown, tell_unknown
from mesh.contracts.versions import Fit, Version, fit
from mesh_telemetry.logs import clean_line

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from contextlib import AsyncExitStack

    from mesh.client import Client


TOLD = 5
"""Fields that will be dropped, of those that are told."""


class Prepared(NamedTuple):
    """How to make a call."""

    caller: Client
    """The peer to call by."""
    timeout: float | None
    """Seconds."""

    def call(self, service: str, method: str, params: Any, version: str | None) -> Awaitable[Any]:
        """Make it: as :meth:`mesh.Client.call`, which raises what it ends by."""
        return self.caller.call(service, method, params, timeout=self.timeout, version=version)


async def prepare_call(
    stack: AsyncExitStack,
    client: Client,
    gateway: str | None,
    service: str,
    method: str,
    params: Any,
    *,
    timeout: float | None,  # noqa: ASYNC109 - travels with the call
    version: str | None,
) -> Prepared:
    """Check a call, and tell on standard error what speaks against it.

    Args:
        stack: Ends the connection that the call needs.
        client: A peer of the gateway, which asks for contracts.
        gateway: Its address.
        service: Whom to call.
        method: Likewise.
        params: Parameters, as JSON is read.
        timeout: Seconds; where None, what the contract says.
        version: Of the contract that is called by; where None, any.

    Raises:
        CallError: A contract forbids the call, or the gateway has gone.
    """
    schemas = await ask_contracts(client, service, timeout)
    if version is not None:
        schemas = _serving(version, schemas)
    check_call(service, method, params, schemas, min(timeout or LONGEST, LONGEST))
    if advice := deprecation(method, schemas):
        click.secho(f"{service}.{method} is deprecated: {advice}", err=True, fg="yellow")
    for told in _dropped(method, params, schemas):
        click.secho(clean_line(f"{service}.{method} drops {told}"), err=True, fg="yellow")
    if not schemas:
        return Prepared(client, timeout)
    # JSON can say all that these have types for: bytes, or keys of numbers.
    caller = await stack.enter_async_context(peer(gateway, patience=timeout, encoding="json"))
    return Prepared(caller, timeout if timeout is not None else declared_timeout(method, schemas))


def _serving(version: str, schemas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The contracts that serve a version, and what is served beside them; none without them."""
    wanted = Version.parse(version)

    def serves(schema: dict[str, Any]) -> bool:
        try:
            return fit(wanted, Version.parse(schema["version"])) is Fit.SERVED
        except (ValueError, TypeError):  # whatever its author calls one
            return False

    found = [schema for schema in schemas if "version" in schema and serves(schema)]
    return [*found, *(schema for schema in schemas if "version" not in schema)] if found else []


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
