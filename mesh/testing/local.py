"""A whole mesh within a test: gateway, services and callers in one process."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from mesh.connecting import connect
from mesh.errors import InvalidArgument, UsageError
from mesh.gateway import Gateway
from mesh.groups import single_exception
from mesh.implementing import ContractHandler
from mesh.limits import BOUNDS, Limits
from mesh.serving import name_of_service, serve
from mesh.testing.clock import autojumping, real_time_in_threads
from mesh.testing.faults import (
    Fault,
    FaultyHandlers,
    check_target,
    delaying,
    dropping,
    failing,
    service_name,
)
from mesh.testing.recorded import Recorded
from mesh.testing.ways import Way
from mesh_telemetry import TraceSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from mesh.client import Client
    from mesh.contracts.contract import Contract, ContractMethod
    from mesh.errors import CallError, Code
    from mesh.payload import Encoding
    from mesh.serving import Service
    from mesh.testing.faults import Change

C = TypeVar("C")

ALL_TRACES = TraceSettings(baseline=1e9, quota=1e9, max_spans_per_second=1e9)
"""Every trace is kept, until newer ones need the room."""


@contextlib.asynccontextmanager
async def local_mesh(
    *services: Service, name: str = "test", limits: Limits | None = None
) -> AsyncIterator[LocalMesh]:
    """Run a gateway and services in this process, over connections within it.

    Each service is a peer of its own, registered when the block begins. At the block's end, what
    still runs is cancelled, and what a handler has raised is raised once more where it says that a
    contract is broken or a mock not set up: a caller, which may expect failures, is told of a
    failed handler alone.

    Under trio's autojump clock (``trio.testing.MockClock(autojump_threshold=0)``, the fixture
    ``autojump_clock`` of pytest-trio) no time is lost by waiting: there are no heartbeats that it
    would have to stop for, and while a thread works it does not jump, but goes as the wall's does.

    Args:
        services: As of :func:`mesh.serve`: implementations of contracts, :func:`mock` ones among
            them, and functions that take the client.
        name: What the test itself is called as a caller.
        limits: Of the gateway and all peers.

    Raises:
        ContractError: An implementation does not do what its contracts say, or a handler has raised
            this, at the block's end.
        ValueError: The name cannot be one.
        UsageError: It is not trio that runs the test; or a mock was called without being set up, at
            the block's end.

    Example:
        >>> async with mesh.testing.local_mesh(UserService()) as it:
        ...     assert await it.stub(Users).get("7") == User("7")
        ...     assert [call.code for call in await it.calls(Users)] == ["ok"]
    """
    if not trio.lowlevel.in_trio_run():
        raise UsageError(
            "a local mesh needs a test that trio runs: with pytest, install pytest-trio, and mark "
            "the test by @pytest.mark.trio or set trio_mode = true"
        )
    limits = limits or Limits()
    if autojumping() is not None:
        limits = replace(limits, heartbeat=BOUNDS["heartbeat"].most)
    gateway = Gateway(limits=limits, traces=ALL_TRACES)
    with real_time_in_threads(), single_exception():
        async with gateway, trio.open_nursery() as nursery:
            it = LocalMesh(gateway, nursery)
            async with it.connect(name) as client:
                it.client = client
                try:
                    await it.serve(*services)
                    yield it
                finally:
                    nursery.cancel_scope.cancel()
        for breach in it._breaches:
            raise breach


class LocalMesh(Recorded):
    """A mesh that :func:`local_mesh` runs.

    Attributes:
        gateway: Its gateway.
        client: The peer that the test itself is.
    """

    client: Client

    def __init__(self, gateway: Gateway, nursery: trio.Nursery) -> None:
        super().__init__(gateway)
        self._nursery = nursery
        self._ways: dict[Client, Way] = {}
        self._faults: list[Fault] = []
        self._breaches: list[UsageError] = []

    def stub(self, contract: Callable[[], C], *, timeout: float | None = None) -> C:
        """:meth:`mesh.Client.stub` of the test's own :attr:`client`."""
        return self.client.stub(contract, timeout=timeout)

    @contextlib.asynccontextmanager
    async def connect(
        self,
        name: str,
        *,
        metadata: Mapping[str, str] = {},
        encoding: Encoding = "msgpack",
        registry_events: bool = False,
        limits: Limits | None = None,
        keep_logs: str | None = None,
    ) -> AsyncIterator[Client]:
        """Be one more peer of this mesh for as long as the block runs.

        Args:
            name: As of :func:`mesh.connect`, as are all that follow.
            metadata: See there.
            encoding: See there.
            registry_events: See there.
            limits: Those of this mesh where None.
            keep_logs: See there.

        Raises:
            ValueError: As of :func:`mesh.connect`.
        """
        way = Way(self.gateway)
        async with connect(
            name,
            gateway=way,
            metadata=metadata,
            encoding=encoding,
            registry_events=registry_events,
            limits=limits or self.gateway.limits,
            keep_logs=keep_logs,
        ) as client:
            dispatcher = client._uplink.dispatcher
            dispatcher.handlers = FaultyHandlers(self._faults, self._breaches, dispatcher)
            self._ways[client] = way
            try:
                yield client
            finally:
                del self._ways[client]

    async def serve(self, *services: Service) -> list[Client]:
        """Serve more services until the end of this mesh, each as a peer of its own.

        Returns:
            These peers. They are registered.
        """
        return [await self._nursery.start(self._serve, service) for service in services]

    async def _serve(self, service: Service, *, task_status: trio.TaskStatus[Client]) -> None:
        with single_exception():
            async with (
                self.connect(name_of_service(service)) as client,
                trio.open_nursery() as nursery,
            ):
                await nursery.start(partial(serve, client, service))
                await _registered(client)
                task_status.started(client)

    # Faults.

    def delay(
        self,
        service: str | type[Contract],
        method: str | None = None,
        *,
        seconds: float,
        times: int | None = None,
    ) -> contextlib.AbstractContextManager[Fault]:
        """Have calls reach their handler late, in a ``with`` block.

        Args:
            service: Whose calls: a name or a contract.
            method: Of this method alone.
            seconds: How late, on trio's clock.
            times: The next so many alone.

        Raises:
            UsageError: No peer of this mesh serves that.

        Example:
            >>> with it.delay(Users, "get", seconds=5.0, times=1) as fault:
            ...     ...
            >>> assert fault.hits == 1
        """
        return self._faulty(service, method, times, delaying(seconds), ends=False)

    def fail(
        self,
        service: str | type[Contract],
        method: str | None = None,
        *,
        error: CallError | Code | str,
        times: int | None = None,
    ) -> contextlib.AbstractContextManager[Fault]:
        """Have calls fail before their handler runs, in a ``with`` block.

        Args:
            service: As of :meth:`delay`, as are ``method`` and ``times``.
            method: See there.
            error: What callers get: an error, a declared one perhaps, or a code: ``"unavailable"``.
            times: See there.

        Raises:
            ContractError: The contract does not declare the error for this method, or for any where
                none is named, and it is none that any call can end by.
            UsageError: No peer of this mesh serves that, or there is no such code.
        """
        change = failing(error, self._declared(service_name(service), method))
        return self._faulty(service, method, times, change, ends=True)

    def drop(
        self,
        service: str | type[Contract],
        method: str | None = None,
        *,
        times: int | None = None,
    ) -> contextlib.AbstractContextManager[Fault]:
        """Have calls never be answered, nor handled, in a ``with`` block: they end by deadline.

        Args:
            service: As of :meth:`delay`, as are ``method`` and ``times``.
            method: See there.
            times: See there.

        Raises:
            UsageError: No peer of this mesh serves that.
        """
        return self._faulty(service, method, times, dropping(), ends=True)

    @contextlib.contextmanager
    def _faulty(
        self,
        service: str | type[Contract],
        method: str | None,
        times: int | None,
        change: Change,
        *,
        ends: bool,
    ) -> Iterator[Fault]:
        name = service_name(service)
        check_target(name, method, self._served())
        fault = Fault(name, method, times, change, ends=ends)
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)

    @contextlib.asynccontextmanager
    async def disconnect(self, who: str | type[Contract] | Client) -> AsyncIterator[None]:
        """Have peers lose their connection, in an ``async with`` block, and not find back in it.

        At the block's end, of several the outermost's, they have connected and registered again.

        Args:
            who: A service, of which all instances are cut off; or one peer.

        Raises:
            UsageError: No peer of this mesh serves that.
        """
        clients = self._serving(service_name(who)) if isinstance(who, (str, type)) else [who]
        for client in clients:
            if client not in self._ways:
                raise UsageError(f"client {client.name!r} is no peer of this local mesh")
        ways = [self._ways[client] for client in clients]
        for client, way in zip(clients, ways, strict=True):
            await way.cut(client)
        await self.settled()
        try:
            yield
        finally:
            for way in ways:
                way.mend()
        for client in clients:
            # Else it has left meanwhile, or another block has it cut off.
            if client in self._ways and not self._ways[client].is_cut:
                await _registered(client)

    def _declared(self, service: str, method: str | None) -> dict[str, ContractMethod]:
        """What contracts say of methods that are served."""
        return {
            f"{service}.{name}": handler.method
            for client in self._ways
            for (one, name), handler in client._uplink.dispatcher.handlers.items()
            if one == service and method in {None, name} and isinstance(handler, ContractHandler)
        }

    def _serving(self, service: str) -> list[Client]:
        check_target(service, None, self._served())
        return [
            client
            for client in self._ways
            if any(service == one for one, _ in client._uplink.dispatcher.handlers)
        ]

    def _served(self) -> Iterator[tuple[str, str]]:
        for client in self._ways:
            yield from client._uplink.dispatcher.handlers


async def _registered(client: Client) -> None:
    """Return once the gateway has read what this client registered: an answer comes after that."""
    await client._uplink.wait_ready()
    with contextlib.suppress(InvalidArgument):  # what a client of bare bytes is answered
        await client.call("mesh", "status")
