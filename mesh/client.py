"""A peer: the one object through which a program calls and serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from mesh.calling import Caller
from mesh.errors import UsageError
from mesh.handlers import Handler
from mesh.payload import encoding_number
from mesh.streams import CAPACITY, EventStream
from mesh.stubs import make_stub
from mesh.watching import PeerView
from mesh.wire.codec import is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mesh import events
    from mesh.uplink import Uplink


C = TypeVar("C")
F = TypeVar("F", bound="Callable[..., Any]")


class Client(Caller):
    """A peer of a mesh, made by :func:`connect`. It calls and serves on one connection.

    All of its methods belong to the trio loop that made it. From a thread that a handler runs in,
    use ``trio.from_thread.run(client.call, ...)``.

    Attributes:
        metrics_address: The ``HOST:PORT`` where this peer serves its own metrics, or None.
    """

    def __init__(self, uplink: Uplink) -> None:
        super().__init__(uplink)
        self.metrics_address: str | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to a gateway now."""
        return self._uplink.is_connected

    def status(self) -> PeerView:
        """The peer at this moment."""
        uplink = self._uplink
        link = uplink.link
        return PeerView(
            name=uplink.name,
            process_id=uplink.process.id,
            connected=link is not None,
            ready=uplink.ready,
            missing=sorted(uplink.missing),
            closing=uplink.leaving,
            gateway=uplink.gateway,
            address=link.address if link is not None else "",
            fault="" if link is not None else uplink.explain_unreachable(),
            methods=self.registered_methods(),
            serving=len(uplink.dispatcher.serving),
            calling=len(uplink.outgoing.pending),
            queued_bytes=link.queued if link is not None else 0,
        )

    def events(self, capacity: int = CAPACITY) -> EventStream[events.PeerEvent]:
        """What happens from now on, in a bounded stream; see :mod:`mesh.events`.

        Changes of the gateway's registry are among them where ``registry_events=True`` of
        :func:`connect` has asked for them.

        It ends after this peer has closed. A peer that shall hear of its own first connection is
        made with ``connect_timeout=0``.

        Args:
            capacity: Events held for a reader that is slow; then the oldest are dropped, and
                counted in the stream's ``dropped``; so are changes of the registry that the gateway
                did not tell, as this peer read too slowly.
        """
        return EventStream(self._uplink.feed, capacity)

    def stub(self, contract: Callable[[], C], *, timeout: float | None = None) -> C:
        """An object of a contract's type, each of whose methods calls the service.

        Its methods take what the contract says and return what that says; errors that it declares
        are raised as their own classes.

        Args:
            contract: A class of a contract.
            timeout: Seconds for each call; where None, what the contract says of the method, and
                30 where it says nothing.

        Raises:
            ContractError: It is no contract.
            UsageError: The client's encoding is ``"raw"``, in which no parameters can travel.
            ValueError: ``timeout`` is no number of seconds.

        Example:
            >>> users = client.stub(Users, timeout=0.5)
            >>> user = await users.get("123")
        """
        if self._uplink.encoding == encoding_number("raw"):
            raise UsageError(
                f"client {self.name!r} has encoding='raw', which carries bytes alone; a stub needs "
                "'msgpack' or 'json'"
            )
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be seconds, 0 or more, not {timeout!r}")
        made: C = make_stub(contract, self.call, timeout)
        return made

    @overload
    def method(self, name: F) -> F: ...

    @overload
    def method(
        self, name: str | None = None, *, service: str | None = None
    ) -> Callable[[F], F]: ...

    def method(self, name: F | str | None = None, *, service: str | None = None) -> Any:
        """Serve a method by the function below this decorator, from now on.

        The function takes the call's parameters, or nothing. ``async def`` runs in the loop, a
        plain ``def`` in a thread. An annotation of its argument that `msgspec` knows is checked.

        Args:
            name: The method's name; the function's own where None, and where the decorator stands
                without brackets.
            service: The service's name; the client's where None.

        Raises:
            ValueError: A name is not letters, digits and ``_.-``, beginning with a letter, or the
                method is served by this client already.
            TypeError: The function takes more than one argument.

        Example:
            >>> @client.method
            ... async def get(params): ...
            >>> @dataclass
            ... class Order:
            ...     item: str
            ...     quantity: int
            >>> @client.method("place")
            ... async def place_order(order: Order) -> str: ...  # checked before it is called
        """
        if callable(name):
            self.register(name.__name__, name, service=service)
            return name

        def register(function: F) -> F:
            self.register(name or function.__name__, function, service=service)
            return function

        return register

    def register(
        self, name: str, function: Callable[..., Any], *, service: str | None = None
    ) -> None:
        """Serve a method by a function; :meth:`method` as a plain call."""
        service = service or self.name
        for what, text in (("service", service), ("method", name)):
            if not is_name(text):
                raise ValueError(
                    f"{what} name {text!r}: it must begin with a letter or _, then letters, digits "
                    "and _.-, at most 128"
                )
        self.register_all(service, {name: Handler(function)}, {name: {}})

    def register_all(
        self,
        service: str,
        handlers: Mapping[str, Handler],
        options: dict[str, dict[str, Any]],
        version: str = "",
        schema: dict[str, Any] | None = None,
    ) -> None:
        """Serve methods by handlers, all of them or none; for what makes these by itself.

        Args:
            service: Whose they are.
            handlers: By the methods' names.
            options: What the gateway shall know of each.
            version: Of the service's contract; empty where they belong to none.
            schema: That contract, as :func:`~mesh.contracts.schema.describe` tells it.

        Raises:
            ValueError: One is served by this client already, or another version of the service.
            UsageError: The client is closed.
        """
        if self._uplink.leaving:
            raise UsageError(f"client {self.name!r} is closed")
        serving = self._uplink.dispatcher.handlers
        for name in handlers:
            if (service, name) in serving:
                raise ValueError(
                    f"{service}.{name} is served by {serving[service, name].function!r} already; "
                    "unregister it first"
                )
        self._uplink.register(service, options, version, schema)
        serving.update({(service, name): handler for name, handler in handlers.items()})

    def unregister(self, name: str, *, service: str | None = None) -> None:
        """Serve a method no longer. Calls of it that run go on to their end.

        Raises:
            KeyError: It is not registered.
        """
        service = service or self.name
        if (service, name) not in self._uplink.dispatcher.handlers:
            raise KeyError(f"{service}.{name} is not registered by {self.name}")
        del self._uplink.dispatcher.handlers[service, name]
        self._uplink.unregister(service, [name])

    def registered_methods(self) -> list[str]:
        """The methods that this peer serves, as ``service.method``."""
        return [f"{service}.{method}" for service, method in self._uplink.dispatcher.handlers]
