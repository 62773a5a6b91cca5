"""What the rooms of one gateway share: its state, its clock, and the frames about to leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from mesh.gateway.calls import CallTable, HeldCalls
from mesh.gateway.fitting import Fitting
from mesh.gateway.registry import Registry
from mesh.transport import Traffic
from mesh.wire import codec
from mesh.wire.frames import CONTINUED, MORE, Kind
from mesh_telemetry import CallMetrics, GatewayCounters, Recorder

if TYPE_CHECKING:
    from mesh.gateway.payloads import HeldPayloads
    from mesh.gateway.session import Session
    from mesh.gateway.telling import GatewayFeed
    from mesh.gateway.tracing import Tracing
    from mesh.limits import Limits
    from mesh.process import Process
    from mesh.transport import Link


class Core:
    """One gateway's state. Everything here changes synchronously, in one trio loop.

    Attributes:
        instance: The process-lifetime id of this gateway; ids of calls are unique within it.
        clock: trio's clock without the look-up that ``trio.current_time`` makes for each call.
        usage: What this process used when last measured.
        observes: Whether calls are counted and recorded.
        loop_lag: How late the last heartbeat was, in seconds: how long the loop was held up.
        congested: A link whose outbox long messages have filled by half since somebody looked.
        events: What happens here, for those who listen.
        listeners: They, of whom there are mostly none.
        payloads: What calls carry, held while a tap asks for it; else None.
        draw: Draws so many random bits.
        fitting: Which instances serve which callers, by their versions.
        draining: Whether new entry calls are refused.
        taps: The places of taps that are open, and until when each is held on trio's clock.
        tracing: The traces of calls; None where telemetry is off.
        started: When the gateway started, on trio's clock.
        traffic: What went over the connections of all peers.
    """

    __slots__ = (
        "_touched",
        "clock",
        "congested",
        "counters",
        "draining",
        "draw",
        "events",
        "fitting",
        "held",
        "instance",
        "limits",
        "listeners",
        "loop_lag",
        "metrics",
        "observes",
        "payloads",
        "process",
        "recorder",
        "registry",
        "sessions",
        "started",
        "table",
        "taps",
        "tracing",
        "traffic",
        "usage",
    )

    def __init__(
        self, limits: Limits, process: Process, feed: GatewayFeed, *, observes: bool = True
    ) -> None:
        self.events = feed
        self.listeners = feed.listeners
        self.observes = observes
        self.limits = limits
        self.clock = trio.lowlevel.current_clock().current_time
        self.process = process
        self.draw = process.random.getrandbits
        self.usage = process.usage()
        self.instance = process.id
        self.metrics = CallMetrics(limits.max_callers)
        self.counters = GatewayCounters(limits.max_depth)
        self.recorder = Recorder()
        self.registry = Registry(limits, self.metrics)
        self.fitting = Fitting(self)
        self.table = CallTable()
        self.held = HeldCalls()
        self.sessions: dict[int, Session] = {}
        self.draining = False
        self.congested: Link | None = None
        self.loop_lag = 0.0
        self.started = trio.current_time()
        self.traffic = Traffic()
        self.taps: dict[str, float] = {}
        self.payloads: HeldPayloads | None = None
        self.tracing: Tracing | None = None
        self._touched: dict[Link, None] = {}

    def send(self, link: Link, frame: bytes) -> None:
        """Queue a small frame; it leaves at the next :meth:`flush`."""
        link.put(frame)
        self._touched[link] = None

    def send_bulk(
        self, link: Link, key: int, head: bytes, payload: bytes | memoryview = b""
    ) -> None:
        """Queue one frame of a long message; it lets small frames pass."""
        link.put_bulk(key, head, payload)
        self._touched[link] = None
        if link.queued > link.limit // 2:
            self.congested = link

    def send_message(
        self, link: Link, key: int, kind: Kind, header: tuple[Any, ...], payload: bytes, flags: int
    ) -> None:
        """Queue a message of the gateway's own, or one frame that is passed on with its flags."""
        if flags & (MORE | CONTINUED):
            self.send_bulk(link, key, codec.head(kind, header, len(payload), flags), payload)
        elif len(payload) > self.limits.max_chunk:
            for head, piece in codec.chunks(kind, header, payload, self.limits.max_chunk):
                self.send_bulk(link, key, head, piece)
        else:
            self.send(link, codec.encode(kind, header, payload))

    def flush(self) -> None:
        """Send what was queued, one syscall per connection."""
        touched = self._touched
        for link in touched:
            link.flush()
        touched.clear()
