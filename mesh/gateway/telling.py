"""The gateway's events: built here, and only when somebody listens."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from mesh import events
from mesh.streams import Feed
from mesh.wire import codec
from mesh.wire.frames import Kind
from mesh_telemetry import CODE_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.gateway.calls import InFlight
    from mesh.gateway.session import Session

log = logging.getLogger("mesh.gateway")

FULL = 0.25
"""The part of an outbox from which on its peer is told of no more changes: calls come first."""


class GatewayFeed(Feed[events.GatewayEvent]):
    """One gateway's events. While somebody listens, the lines of its log are among them.

    Attributes:
        watchers: Peers that asked for the registry's changes, each with what fits one frame for it.
        untold: Changes that such a peer was not told, as it reads too slowly, or they are too long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watchers: dict[Session, int] = {}
        self.untold = 0
        self._changes = 0
        self._handler: _LogLines | None = None

    def changed(self) -> None:
        """See :meth:`Feed.changed`."""
        if self.listeners and self._handler is None:
            self._handler = _LogLines(self)
            log.addHandler(self._handler)
        elif not self.listeners and self._handler is not None:
            log.removeHandler(self._handler)
            self._handler = None

    def call_routed(self, entry: InFlight, callee: Session) -> None:
        """A call has its instance."""
        self.publish(
            events.CallRouted(
                call_id=entry.id,
                caller=entry.caller.name,
                service=entry.service,
                method=entry.method,
                instance=callee.process_id,
                depth=len(entry.chain),
                activity_id=entry.activity_id,
            )
        )

    def response_routed(self, entry: InFlight, code: int, reason: str, duration: float) -> None:
        """A call has ended."""
        self.publish(
            events.ResponseRouted(
                call_id=entry.id,
                caller=entry.caller.name,
                service=entry.service,
                method=entry.method,
                code=CODE_NAMES[code],
                reason=str(reason),
                duration=duration,
                refused=False,
                activity_id=entry.activity_id,
            )
        )

    def registered(self, session: Session, header: codec.Register) -> None:
        """A peer serves something."""
        told: dict[str, Any] = {
            "service": header.service,
            "methods": list(header.methods),
            "version": header.version,
            "peer": session.name,
            "process_id": session.process_id,
        }
        if self.listeners:
            self.publish(events.ServiceRegistered(**told))
        self._tell_watchers({"change": "registered", **told})

    def fault(self, session: Session, message: str) -> None:
        """A connection was closed for a fault."""
        self.publish(events.ErrorOccurred(message=message, peer=session.name))

    def disconnected(self, session: Session, services: Iterable[str], reason: str) -> None:
        """A peer no longer serves these."""
        for service in services:
            told: dict[str, Any] = {
                "service": service,
                "peer": session.name,
                "process_id": session.process_id,
                "reason": reason,
            }
            if self.listeners:
                self.publish(events.ServiceDisconnected(**told))
            self._tell_watchers({"change": "disconnected", **told})

    def _tell_watchers(self, change: dict[str, Any]) -> None:
        self._changes += 1
        if not self.watchers:
            return
        payload = msgspec.msgpack.encode(change)
        frame = codec.encode(Kind.EVENT, (codec.REGISTRY, self._changes), payload)
        for session, longest in self.watchers.items():
            link = session.link
            if len(payload) > longest or link.queued > FULL * link.limit:
                self.untold += 1
            else:
                link.put(frame)
                link.flush()


class _LogLines(logging.Handler):
    """Turns log lines into events, also those of other threads."""

    def __init__(self, feed: GatewayFeed) -> None:
        super().__init__()
        self._feed = feed
        self._thread = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()

    def emit(self, record: logging.LogRecord) -> None:
        line = events.LogWritten(
            at=record.created, level=record.levelname.lower(), message=record.getMessage()
        )
        if threading.get_ident() == self._thread:
            self._feed.publish(line)
        else:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._feed.publish, line)
