"""`mesh.serve`: services on a client, whether implementations of contracts or functions."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from mesh.contracts.contract import Contract, contracts_of
from mesh.contracts.implementations import check_class
from mesh.errors import CallError, ContractError
from mesh.implementing import implement
from mesh.wire.codec import REQUIRES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.client import Client

    Service = Contract | Callable[[Client], Any]
    """An implementation; or what makes one, or registers methods, of a client."""

log = logging.getLogger("mesh.service")

POLL = 1.0
"""Seconds between two looks whether required services are there."""


async def serve(
    client: Client,
    *services: Service,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Register services on a client and serve them until cancelled.

    What services require (``requires=`` of their classes) is waited for while they serve already:
    until it has been there, the client's ``status().missing``, its ``/readyz`` and `mesh check`
    say what is missing.

    Args:
        client: The peer that serves.
        services: Instances of classes that implement contracts; and functions, classes among them,
            that take the client and return such an instance, or register methods on the client
            and return nothing. ``async`` ones are awaited. They run in the order given.
        task_status: With ``nursery.start``, that returns once all are registered.

    Raises:
        ContractError: An instance does not do what its contracts say; the message names class,
            method and parameter.
        ValueError: Two serve the same method.
    """
    required: dict[str, tuple[str, ...]] = {}
    for service in services:
        made = service if isinstance(service, Contract) else await _make(service, client)
        if made is not None:
            required |= _serve(client, made)
    task_status.started()
    names = sorted({name for some in required.values() for name in some})
    if names:
        await _wait_for(client, names, ", ".join(sorted(required)))
    await trio.sleep_forever()


def name_of_service(service: Service) -> str:
    """What a peer is called that serves this first.

    Raises:
        TypeError: It has no name.
    """
    while isinstance(service, partial):
        service = service.func
    kind = type(service) if isinstance(service, Contract) else service
    if isinstance(kind, type) and (contracts := contracts_of(kind)):
        return contracts[0].name
    try:
        return kind.__name__
    except AttributeError:
        raise TypeError(f"{service!r} has no name; give the peer one, name=...") from None


async def _make(service: Callable[[Client], Any], client: Client) -> Contract | None:
    if isinstance(service, type):
        check_class(service)
        try:
            inspect.signature(service).bind(client)
        except TypeError as fault:
            raise ContractError(
                f"{service.__qualname__} cannot be made of the client alone: {fault}; serve an "
                f"instance, {service.__qualname__}(...)"
            ) from fault
    made = service(client)
    if inspect.isawaitable(made):
        made = await made
    if made is not None and not isinstance(made, Contract):
        raise ContractError(
            f"{service!r} returned {made!r}, which implements no contract; a service returns an "
            "implementation, or registers methods on the client and returns nothing"
        )
    return made


def _serve(client: Client, implementation: Contract) -> dict[str, tuple[str, ...]]:
    """Register an implementation; returns what its services require."""
    kind = type(implementation)
    required = tuple(one.__mesh_contract__.name for one in kind.__mesh_requires__)
    own = [info.name for info in contracts_of(kind)] if required else []
    for name in own:
        client._uplink.metadata[REQUIRES + name] = ",".join(required)
    implement(client, implementation)
    return dict.fromkeys(own, required)


async def _wait_for(client: Client, names: list[str], by: str) -> None:
    """Say which services are missing until each has been there."""
    missing = client._uplink.missing
    missing.update(names)
    told: list[str] = []
    patience = trio.current_time() + client._uplink.service_wait  # as calls for them have
    while names:
        there = [name for name in names if await _is_there(client, name)]
        missing.difference_update(there)
        names = [name for name in names if name not in there]
        if names and names != told and trio.current_time() >= patience:
            log.warning("%s requires %s, which nobody serves yet", by, ", ".join(names))
            told = names
        if names:
            await trio.sleep(POLL)
    log.info("%s has all services that it requires", by)


async def _is_there(client: Client, name: str) -> bool:
    try:
        return bool((await client.call("mesh", "service", name))["methods"])
    except CallError:  # not there, or no gateway to ask
        return False
