"""The gateway's events: built here, and only when somebody listens."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import trio

from mesh import events
from mesh.streams import Feed
from mesh_telemetry import CODE_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.gateway.calls import InFlight
    from mesh.gateway.session import Session
    from mesh.wire import codec

log = logging.getLogger("mesh.gateway")


class GatewayFeed(Feed[events.GatewayEvent]):
    """One gateway's events. While somebody listens, the lines of its log are among them."""

    def __init__(self) -> None:
        super().__init__()
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
        self.publish(
            events.ServiceRegistered(
                service=header.service,
                methods=list(header.methods),
                version=header.version,
                peer=session.name,
                process_id=session.process_id,
            )
        )

    def fault(self, session: Session, message: str) -> None:
        """A connection was closed for a fault."""
        self.publish(events.ErrorOccurred(message=message, peer=session.name))

    def disconnected(self, session: Session, services: Iterable[str], reason: str) -> None:
        """A peer no longer serves these."""
        for service in services:
            self.publish(
                events.ServiceDisconnected(
                    service=service,
                    peer=session.name,
                    process_id=session.process_id,
                    reason=reason,
                )
            )


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
