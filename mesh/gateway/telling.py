"""What happens in a gateway, told once for all: as events, in the log, and as changes.

Events are built only when somebody listens. Changes are remembered for who asks afterwards; a call
is none.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from mesh import events
from mesh._version import __version__
from mesh.gateway.changes import NAMES, Change, Changes
from mesh.streams import Feed
from mesh.units import tell_seconds
from mesh.wire import codec
from mesh.wire.frames import Kind
from mesh_telemetry import CODE_NAMES
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mesh.gateway.calls import InFlight
    from mesh.gateway.session import Session
    from mesh.process import Process

log = logging.getLogger("mesh.gateway")

FULL = 0.25
"""The part of an outbox from which on its peer is told of no more changes: calls come first."""
SHOWN = 8
"""Methods that a sentence names."""
VERSION = 100
"""Characters of a version that a change has."""


class GatewayFeed(Feed[events.GatewayEvent]):
    """One gateway's events. While somebody listens, the lines of its log are among them.

    Args:
        process: Whose gateway it is.

    Attributes:
        changes: What came, went and changed.
        watchers: Peers that asked for the registry's changes, each with what fits one frame for it.
        untold: Changes that such a peer was not told, as it reads too slowly, or they are too long.
    """

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self.changes = Changes()
        self.watchers: dict[Session, int] = {}
        self.untold = 0
        self._told = 0
        self._drains = False
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

    def started(self, addresses: list[str]) -> None:
        """Peers can connect."""
        self.publish(events.GatewayStarted(gateway=self._process.id, addresses=addresses))
        where = ", ".join(addresses) or "no address"
        self._note("started", f"version {__version__}, at {where}")

    def drains(self, calls: int, peers: int) -> None:
        """The gateway takes no new calls."""
        self._drains = True
        log.info("draining: %d calls in flight, %d peers", calls, peers)
        self._note("draining", f"{calls:,} calls in flight, {peers:,} peers")

    def certificates(self, what: str, *, faulty: bool) -> None:
        """The files of certificates were read again."""
        log.log(logging.ERROR if faulty else logging.INFO, "certificates %s", what)
        self._note("certificates", what)

    def refused(self, where: str, reason: str, why: str) -> None:
        """Somebody was not let in."""
        self._note("refused", f"{where}: {why}", process_id="", reason=reason)

    def registered(self, session: Session, header: codec.Register, new: list[str]) -> None:
        """A peer serves something; ``new`` is what it did not serve before."""
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
        if session.internal:
            return
        if session.serves:
            log.debug(
                "peer %s (%s) serves %s, too", session.name, session.process_id, header.service
            )
        else:  # one line of a peer that serves; those that only call would drown the others
            session.serves = True
            what = (session.name, session.process_id, session.where, header.service)
            log.info("peer %s (%s) connected %s and serves %s", *what)
        if new:
            self._note_registered(session, header, new)

    def _note_registered(self, session: Session, header: codec.Register, new: list[str]) -> None:
        served = session.services[header.service].methods
        version = header.version[:VERSION]
        more = [f"version {version}"] if version else []
        more += [f"from {session.remote}"] if session.remote else []

        def change(methods: Collection[str], begins: str = "") -> Change:
            return self._change(
                "registered",
                "; ".join([begins + _list(methods), *more]),
                session,
                services=[header.service],
                methods=list(islice(methods, NAMES)),
                version=version,
            )

        if len(new) == len(served):
            self.changes.add(change(served))
        elif not self.changes.amend(change(served)):
            self.changes.add(change(new, "also "))

    def unregistered(self, session: Session, service: str, methods: list[str]) -> None:
        """A peer that stays no longer serves these methods."""
        if methods and service not in session.services:
            self._tell_disconnected(session, [service], "unregistered")
        if methods and not session.internal:
            what = f"no longer {_list(methods)}"
            self._note("unregistered", what, session, services=[service], methods=methods)

    def health(self, session: Session, state: str, silent: float) -> None:
        """A peer's heartbeats are missing for so many seconds, or are here again after them."""
        level, why = logging.WARNING, "no heartbeat for"
        if state == "healthy":
            level, why = logging.INFO, "a heartbeat after"
        who = session.name, session.process_id
        log.log(level, "peer %s (%s) is %s: %s %.1f s", *who, state, why, silent)
        if not session.internal:
            self._note(state, f"{why} {duration(silent)}", session, services=session.served)

    def drains_peer(self, session: Session) -> None:
        """A peer takes no new calls, and leaves once those that it works on have ended."""
        if session.load and session.served:
            what = f"takes no new calls, works on {session.load:,}"
            self._note("draining", what, session, services=session.served)

    def gone(
        self, session: Session, served: Sequence[str], in_flight: int, fault: str | None
    ) -> None:
        """A connection is over.

        Args:
            session: Whose.
            served: What is served by it no longer.
            in_flight: Calls that it worked on.
            fault: What the peer did wrong, if that ends it.
        """
        self._tell_disconnected(session, served, "disconnected")
        after = trio.current_time() - session.connected_at
        name = session.name or "a peer"
        if fault is not None:
            if self.listeners:
                self.publish(events.ErrorOccurred(message=fault, peer=session.name))
            log.warning("closed %s %s: %s", name, session.where, fault)
        elif session.is_open and not session.internal:
            log.log(
                logging.INFO if session.serves or session.expelled else logging.DEBUG,
                "peer %s (%s) disconnected after %.1f s%s",
                name,
                session.process_id,
                after,
                f": {session.expelled}" if session.expelled else "",
            )
        why = fault or session.expelled
        left = f", {in_flight:,} in flight" if in_flight else ""
        lasted = duration(after)
        if not session.is_open:
            if fault is not None:
                self.refused(session.where, "hello", fault)
        elif why is not None:
            what = f"by the gateway, after {lasted}{left}: {why}"
            self._note("closed", what, session, services=served)
        elif served and session.draining:
            self._note("left", f"in order, after {lasted}{left}", session, services=served)
        elif served and session.is_over and (in_flight or not self._drains):
            # One that hangs up once the gateway has said goodbye, and owes nothing, is not lost.
            what = f"without a goodbye, after {lasted}{left}"
            self._note("lost", what, session, services=served)

    def _tell_disconnected(self, session: Session, services: Sequence[str], reason: str) -> None:
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

    def _note(self, change: str, what: str, session: Session | None = None, **more: Any) -> None:
        self.changes.add(self._change(change, what, session, **more))

    def _change(self, change: Any, what: str, session: Session | None, **more: Any) -> Change:
        who: dict[str, Any] = {"process_id": self._process.id}
        if session is not None:
            who = {"peer": session.name, "process_id": session.process_id}
        at = tell_seconds(self._process.wall())
        return Change(at=at, change=change, what=what, **{**who, **more})

    def _tell_watchers(self, change: dict[str, Any]) -> None:
        self._told += 1
        if not self.watchers:
            return
        payload = msgspec.msgpack.encode(change)
        frame = codec.encode(Kind.EVENT, (codec.REGISTRY, self._told), payload)
        for session, longest in self.watchers.items():
            link = session.link
            if len(payload) > longest or link.queued > FULL * link.limit:
                self.untold += 1
            else:
                link.put(frame)
                link.flush()


def _list(names: Collection[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(islice(names, SHOWN)) + (f" and {more:,} more" if more > 0 else "")


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
