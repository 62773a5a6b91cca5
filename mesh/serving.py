"""`mesh.serve`: services on a client, whether implementations of contracts or functions."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from mesh.contracts.contract import Contract, contracts_of
from mesh.contracts.implementations import check_class
from mesh.errors import CallError, Code, ContractError, InvalidArgument, UsageError
from mesh.implementing import implement
from mesh.wire.codec import MAX_REQUIRES, is_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.client import Client
    from mesh.contracts.versions import Version

    Required = dict[str, Version]
    """Services by the newest version of their contracts that is needed."""

    Service = Contract | Callable[[Client], Any] | Callable[[], Contract]
    """An implementation; what makes one; or what registers methods on a client."""

log = logging.getLogger("mesh.service")

POLL = 1.0
"""Seconds between two looks whether required services are there."""

_NOBODY_THERE = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED}
"""How a question ends that no gateway answers."""


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
            that take the client, or nothing, and return such an instance, or register methods on
            the client and return nothing. ``async`` ones are awaited. They run in the order given.
        task_status: With ``nursery.start``, that returns once all are registered.

    Raises:
        ContractError: An instance does not do what its contracts say, or another one serves the
            same method; the message names class, method and parameter.
        ValueError: A function registers what is served already.
    """
    required: dict[str, Required] = {}
    for service in services:
        made = service if isinstance(service, Contract) else await _make(service, client)
        if made is not None:
            required |= _serve(client, made)
    task_status.started()
    wanted: Required = {}
    for some in required.values():
        for name, version in some.items():
            wanted[name] = max(version, wanted.get(name, version))
    if wanted:
        await _wait_for(client, wanted, ", ".join(sorted(required)))
    await trio.sleep_forever()


def name_of_service(service: Service) -> str:
    """What a peer is called that serves this first.

    Raises:
        UsageError: It has no name.
    """
    while isinstance(service, partial):
        service = service.func
    kind = type(service) if isinstance(service, Contract) else service
    if isinstance(kind, type) and (contracts := contracts_of(kind)):
        return contracts[0].name
    _check_callable(service)
    name = getattr(kind, "__name__", "")
    if not is_name(name):  # a lambda's is none
        raise UsageError(f"{service!r} has no name for a peer; make it a function, or set name=...")
    return str(name)


def _check_callable(service: object) -> None:
    if not callable(service):
        kind = type(service).__qualname__
        raise ContractError(
            f"{kind} implements no contract; let it extend one, class {kind}(Users), or give a "
            "function that takes the client"
        )


async def _make(service: Callable[..., Any], client: Client) -> Contract | None:
    _check_callable(service)
    signature = inspect.signature(service)
    arguments = (client,) if signature.parameters else ()
    if isinstance(service, type):
        check_class(service)
        try:
            signature.bind(*arguments)
        except TypeError as fault:
            raise ContractError(
                f"{service.__qualname__} cannot be made of the client alone: {fault}; serve an "
                f"instance, {service.__qualname__}(...)"
            ) from fault
    made = service(*arguments)
    if inspect.isawaitable(made):
        made = await made
    if made is not None and not isinstance(made, Contract):
        raise ContractError(
            f"{service!r} returned {made!r}, which implements no contract; a service returns an "
            "implementation, or registers methods on the client and returns nothing"
        )
    return made


def _serve(client: Client, implementation: Contract) -> dict[str, Required]:
    """Register an implementation; returns what its services require."""
    kind = type(implementation)
    infos = [one.__mesh_contract__ for one in kind.__mesh_requires__]
    required = {info.name: info.version for info in infos}
    for info in contracts_of(kind):
        for name in info.methods:
            other = client._uplink.dispatcher.handlers.get((info.name, name))
            if other is not None:
                by = getattr(other.function, "__qualname__", repr(other.function))
                raise ContractError(
                    f"{kind.__qualname__} serves {info.name}.{name}, and so does {by} in the same "
                    "program; run each in one of its own"
                )
    own = [info.name for info in contracts_of(kind)] if required else []
    told = ",".join(f"{needed} {version}" for needed, version in required.items())
    if len(told) > MAX_REQUIRES:
        raise ContractError(
            f"{kind.__qualname__} requires {len(required)} services, {len(told):,} characters of "
            f"names and versions; at most {MAX_REQUIRES:,} can be told"
        )
    for name in own:
        client._uplink.requires[name] = told
    implement(client, implementation)
    return dict.fromkeys(own, required)


async def _wait_for(client: Client, wanted: Required, by: str) -> None:
    """Say which services are missing until each has been there, in a version that will do."""
    missing = client._uplink.missing
    began = trio.current_time()
    names = sorted(wanted)
    missing.update(names)
    told: list[str] = []
    patience = trio.current_time() + client._uplink.service_wait  # as calls for them have
    is_told = False
    while names:
        try:
            lacking = await _lacking(client, {name: wanted[name] for name in names}, began)
        except CallError as failure:
            lacking = set(names)
            if failure.code not in _NOBODY_THERE and not is_told:
                log.warning(
                    "%s requires %s, and the gateway does not say whether they are there: %s",
                    *(by, ", ".join(names), failure),
                )
                told, is_told = names, True
        missing.difference_update(set(names) - lacking)
        names = [name for name in names if name in lacking]
        if names and names != told and trio.current_time() >= patience:
            log.warning("%s requires %s, which nobody serves yet", by, ", ".join(names))
            told = names
        if names:
            await trio.sleep(POLL)
    log.info("%s has all services that it requires", by)


async def _lacking(client: Client, wanted: Required, began: float) -> set[str]:
    """Those that have not been there since then, also not between two looks.

    Raises:
        CallError: There is no gateway to ask, or it does not say.
    """
    versions = {name: str(version) for name, version in wanted.items()}
    asked = {"services": versions, "waited_s": trio.current_time() - began}
    try:
        return set(await client.call("mesh", "missing", asked, result=list[str]))
    except InvalidArgument:  # an older gateway takes services by version alone
        return set(await client.call("mesh", "missing", versions, result=list[str]))
