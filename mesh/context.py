"""What a handler knows of the call that it serves, and how that reaches the calls it makes."""

from __future__ import annotations

import contextlib
import secrets
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from mesh.wire.codec import is_activity_id

if TYPE_CHECKING:
    from collections.abc import Iterator


class Call(msgspec.Struct, frozen=True, gc=False):
    """The call that the current code serves.

    Attributes:
        service: The service called.
        method: The method called.
        activity_id: One id for everything done on behalf of one original request.
        chain: The hops that led here, this one last: ``("orders.place", "users.get")``.
        deadline: The moment, on trio's clock, after which nobody wants the answer.
        caller: The name of the peer that called.
        metadata: What the caller sent beside the parameters.
        attempt: 1 for the first try of this call.
        call_id: The gateway's id of this call.
        entry_id: The gateway's id of the first call of this tree.
        gateway: The instance of the gateway that issued both ids.
        trace_id: 16 bytes, W3C trace context.
        span_id: 8 bytes, the span of the caller.
        trace_flags: W3C trace flags.
        verified: Whether the gateway knew the parent itself; if not, chain and activity are
            what the caller says.
        principal: Who the caller is proven to be, if it proved it.
        own_span: The span in which it is served, 64 bits.
    """

    service: str
    method: str
    activity_id: str
    chain: tuple[str, ...]
    deadline: float
    caller: str
    metadata: dict[str, str]
    attempt: int
    call_id: int
    entry_id: int
    gateway: str
    trace_id: bytes
    span_id: bytes
    trace_flags: int
    verified: bool
    principal: str | None
    own_span: int

    @property
    def depth(self) -> int:
        """How many links the chain has."""
        return len(self.chain)

    @property
    def remaining(self) -> float:
        """Seconds left until the deadline; negative once it has passed."""
        return self.deadline - trio.current_time()


current: ContextVar[Call | None] = ContextVar("mesh_call", default=None)
current_activity: ContextVar[str | None] = ContextVar("mesh_activity", default=None)
is_detached: ContextVar[bool] = ContextVar("mesh_detached", default=False)
is_traced: ContextVar[bool] = ContextVar("mesh_traced", default=False)


def clear() -> None:
    """Forget, in this context, what call and activity it belongs to."""
    current.set(None)
    current_activity.set(None)
    is_detached.set(False)
    is_traced.set(False)


def current_call() -> Call | None:
    """The call that this code serves, or None outside a handler.

    Tasks that a handler starts, and threads that it sends work to, see the handler's call.
    """
    return current.get()


@contextlib.contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextlib.contextmanager
def activity(id: str | None = None) -> Iterator[str]:  # noqa: A002 - the field's word
    """Give the calls made inside one activity id, for code outside handlers.

    Args:
        id: 1 to 128 printable ASCII characters, for example the ``X-Correlation-ID`` that came in;
            None makes a new one.

    Yields:
        The id.

    Raises:
        ValueError: The id is empty, too long, or has other characters.
    """
    if id is None:
        id = secrets.token_hex(16)  # noqa: A001
    if not is_activity_id(id):
        raise ValueError(
            f"activity id of {len(id)} characters {id[:40]!r}: it must be 1 to 128 printable ASCII"
        )
    with _set(current_activity, id):
        yield id


@contextlib.contextmanager
def detached() -> Iterator[None]:
    """Calls made inside outlive the call that this code serves.

    They keep its activity, chain and trace, but neither its deadline nor its cancellation. Without
    this, a call made after the handler has ended is refused with ``PARENT_ENDED``.
    """
    with _set(is_detached, True):
        yield


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Have the gateway keep the traces of the calls made inside, for code outside handlers.

    The gateway keeps ten such a second at most, or what its setting ``quota`` says. Inside a
    handler it has no effect: a nested call belongs to the trace of the call being served.

    Example:
        >>> with mesh.activity("order-42"), mesh.traced():
        ...     await client.call("orders", "place", order)  # `mesh trace order-42` shows it
    """
    with _set(is_traced, True):
        yield
