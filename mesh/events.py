"""What happens in a gateway or a peer, for programs that watch it.

:meth:`mesh.Gateway.events` and :meth:`mesh.Client.events` give streams of these.

Example:
    >>> async with gateway.events() as stream:
    ...     async for event in stream:
    ...         match event:
    ...             case mesh.events.ResponseRouted(code="ok"): ...
    ...             case mesh.events.ServiceDisconnected(service=name): ...
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened."""

    at: float = field(default_factory=time.time)
    """When, in Unix time."""


# In a gateway.


@dataclass(frozen=True, kw_only=True)
class GatewayStarted(Event):
    """Peers can connect."""

    gateway: str
    addresses: list[str]


@dataclass(frozen=True, kw_only=True)
class GatewayStopped(Event):
    """The gateway has ended; nothing follows."""

    gateway: str


@dataclass(frozen=True, kw_only=True)
class CallRouted(Event):
    """A call was handed to an instance; again, where that was lost before the call had left."""

    call_id: int
    caller: str
    service: str
    method: str
    instance: str
    """The process id of the peer that serves it."""
    depth: int
    activity_id: str


@dataclass(frozen=True, kw_only=True)
class ResponseRouted(Event):
    """A call ended, and its caller was told."""

    call_id: int
    caller: str
    service: str
    method: str
    code: str
    """The status code's name, ``ok`` or what failed."""
    reason: str
    duration: float
    """Seconds from its arrival at the gateway."""
    refused: bool
    """Whether the gateway turned it away before any instance saw it."""
    activity_id: str


@dataclass(frozen=True, kw_only=True)
class LogWritten(Event):
    """The gateway wrote a line into its log.

    The log belongs to the process: with several gateways in one, each tells the lines of all.
    """

    level: str
    message: str


# In a peer.


@dataclass(frozen=True, kw_only=True)
class Connected(Event):
    """The gateway has let this peer in."""

    gateway: str


@dataclass(frozen=True, kw_only=True)
class Disconnected(Event):
    """The connection to the gateway is over."""

    gateway: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class MethodsRegistered(Event):
    """The peer serves these methods from now on, and registers them with every gateway."""

    service: str
    methods: list[str]


@dataclass(frozen=True, kw_only=True)
class MethodExecuted(Event):
    """A handler of this peer has ended."""

    service: str
    method: str
    caller: str
    code: str
    duration: float
    """Seconds from the call's arrival at this peer."""
    activity_id: str


@dataclass(frozen=True, kw_only=True)
class ResponseReceived(Event):
    """A call that this peer made has ended."""

    service: str
    method: str
    code: str
    reason: str
    duration: float
    """Seconds from its sending."""


@dataclass(frozen=True, kw_only=True)
class GatewayError(Event):
    """The gateway refused this peer, broke the protocol, or says that it will close."""

    message: str


# In both; in a peer, the changes of the registry where `connect` asked for them.


@dataclass(frozen=True, kw_only=True)
class ServiceRegistered(Event):
    """A peer serves these methods from now on, perhaps besides others."""

    service: str
    methods: list[str]
    version: str
    peer: str
    process_id: str


@dataclass(frozen=True, kw_only=True)
class ServiceDisconnected(Event):
    """A peer that served a service no longer does."""

    service: str
    peer: str
    process_id: str
    reason: str
    """``disconnected``, or ``unregistered`` by a peer that stays."""


@dataclass(frozen=True, kw_only=True)
class ErrorOccurred(Event):
    """Something is wrong.

    In a gateway, a peer that broke the protocol, or a bug of the gateway's own; in a peer, a
    handler that raised what is no `CallError`.
    """

    message: str
    peer: str
    """Whom it concerns."""


GatewayEvent: TypeAlias = (
    GatewayStarted
    | GatewayStopped
    | ServiceRegistered
    | ServiceDisconnected
    | CallRouted
    | ResponseRouted
    | LogWritten
    | ErrorOccurred
)
"""What a gateway tells."""

PeerEvent: TypeAlias = (
    Connected
    | Disconnected
    | MethodsRegistered
    | MethodExecuted
    | ResponseReceived
    | GatewayError
    | ServiceRegistered
    | ServiceDisconnected
    | ErrorOccurred
)
"""What a peer tells."""
