"""Spans leave for an OTLP backend from a thread of their own, and cost a call nothing.

A backend that is down, slow or rejecting is none of a call's business: what waits is bounded, what
is lost is counted by reason, and the log says once that it is so and once that it works again.

The SDK's `BatchSpanProcessor` does much the same, but it tells nobody how many spans it dropped, it
waits half a minute for a backend that hangs when it is shut down, and it forgets ``Retry-After``
from one batch to the next. So the queue and the thread are ours; encoding and sending are the SDK's
(`mesh_telemetry.senders`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from mesh_telemetry.bounds import EXPORT_BYTES
from mesh_telemetry.export_settings import ExportSettings, settings_from
from mesh_telemetry.weights import span_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from mesh_telemetry.spans import Attributes, Span

    class Sender(Protocol):
        """Takes batches to a backend, one at a time."""

        def send(self, batch: list[tuple[Attributes, Span]]) -> Sent:
            """Send a batch; blocks for the timeout at most and does not raise."""

        def stop(self) -> None:
            """Give up what is under way, from another thread."""


DROP_REASONS = ("queue_full", "queue_too_large", "invalid", "rejected", "failed", "closed")
"""Why spans are lost: more wait than may, it takes too many bytes, OTLP cannot express them,
the backend refused them, it could not be reached or did not answer, or they were left when the
exporter was closed."""

_USUAL_BATCH = 64
"""Spans in a request while the backend keeps up. Larger ones leave more garbage at a time behind,
and collecting it stopped a loop for 15 to 60 ms now and then."""
_BACKLOG = 4 * _USUAL_BATCH
"""Spans that wait when requests grow to what is allowed: to a backend that is 50 ms away, 64 at a
time are too few."""
_QUIET = 30.0
"""Seconds from one complaint in the log to the next."""
_LONGEST_WAIT = 300.0
"""Seconds; a wrong ``Retry-After`` is not to end the export for good."""

_log = logging.getLogger(__name__)


class Sent(NamedTuple):
    """What became of a batch, in spans."""

    exported: int = 0
    rejected: int = 0
    failed: int = 0
    invalid: int = 0
    why: str = ""
    """What a log says of those that are lost."""
    wait: float = 0.0
    """Seconds that the backend wants to be left alone."""


class Exporter:
    """Hands spans to a backend.

    Args:
        sender: Takes batches to it.
        settings: Sizes and times.
        clock: Seconds, monotonic.
        max_bytes: What may wait or be under way, roughly.

    Counts, read from any thread: ``exported`` spans, and ``dropped`` ones by reason
    (`DROP_REASONS`). What was handed over is exported, dropped or `pending`.
    """

    def __init__(
        self,
        sender: Sender,
        settings: ExportSettings,
        clock: Callable[[], float] = time.monotonic,
        max_bytes: int = EXPORT_BYTES,
    ) -> None:
        self.exported = 0
        self.dropped = dict.fromkeys(DROP_REASONS, 0)
        self.trouble = ""
        """Why spans are being lost now; nothing while all is well."""
        self.place = settings.place
        self._sender = sender
        self._settings = settings
        self._clock = clock
        self._queue: deque[tuple[Attributes, Span, int]] = deque()
        self._max_bytes = max_bytes
        # The one is written where spans come in, the other under a lock where they leave.
        self._bytes_taken = self._bytes_settled = 0
        self._max_queue = settings.max_queue_size
        self._max_batch = settings.max_batch_size
        self._batch = min(_USUAL_BATCH, self._max_batch)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._settling = threading.Lock()
        self._taken = 0
        self._settled = 0
        self._overflow_seen = 0
        self._lost_before = 0
        self._is_failing = False
        self._is_over = False
        self._is_told = False
        self._tell_from = float("-inf")
        self._thread = threading.Thread(target=self._run, name="mesh-export", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Exporter | None:
        """The exporter that ``OTEL_*`` variables ask for; none where they ask for none.

        Blocks for some 0.3 s where there is one: what it needs is imported then.

        Raises:
            ValueError: A variable has a wrong value, or names a protocol that is not installed.
        """
        settings = settings_from(environ)
        if settings is None:
            return None
        from mesh_telemetry.senders import sender  # noqa: PLC0415 - slow

        return cls(sender(settings), settings)

    @property
    def pending(self) -> int:
        """Spans that wait or are under way: at most the queue and a batch."""
        return self._taken - self._settled

    @property
    def fullness(self) -> float:
        """What waits or is under way, as a part of what may wait; from 1 on, spans are dropped."""
        return max(self.pending / self._max_queue, self.pending_bytes / self._max_bytes)

    @property
    def pending_bytes(self) -> int:
        """What these take, roughly; their resources are those of the store."""
        return self._bytes_taken - self._bytes_settled

    def add(self, resource: Attributes, span: Span) -> None:
        """Hand a span over; returns at once. To be called from one thread only.

        Args:
            resource: Of the process that made it.
            span: Read later, in another thread: change neither any more.
        """
        queue = self._queue
        waiting, weight = len(queue), span_weight(span)
        if waiting >= self._max_queue:
            self.dropped["queue_full"] += 1
        elif self.pending_bytes + weight > self._max_bytes:
            self.dropped["queue_too_large"] += 1
        elif self._closing.is_set():
            self.dropped["closed"] += 1
        else:
            self._taken += 1
            self._bytes_taken += weight
            queue.append((resource, span, weight))
            # The first of a batch wakes the thread, and so does the last.
            if (not waiting or waiting + 1 >= self._batch) and not self._wake.is_set():
                self._wake.set()

    def close(self, timeout: float) -> bool:
        """Send what is left and end. Blocks; a second call does nothing.

        Args:
            timeout: Seconds. Where the backend already fails, nothing is waited for.

        Returns:
            Whether nothing was left.
        """
        if self._closing.is_set():
            return not self.dropped["closed"] and not self.pending
        self._closing.set()
        self._wake.set()
        self._thread.join(0 if self._is_failing else timeout)
        self._is_over = True
        self._sender.stop()
        left = size = 0
        with contextlib.suppress(IndexError):
            while True:
                size += self._queue.pop()[2]
                left += 1
        self.dropped["closed"] += left
        self._settle(left, size)
        if left:
            _log.warning("%d spans were not exported to %s before the end", left, self.place)
        return not left and not self.pending

    def _run(self) -> None:
        while self._wait():
            taken = self._take()
            if not taken:
                continue
            batch = [(resource, span) for resource, span, _ in taken]
            try:
                sent = self._sender.send(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next batch may pass
                sent = Sent(failed=len(batch), why=f"{type(error).__name__}: {error}")
            self.exported += sent.exported
            self.dropped["rejected"] += sent.rejected
            self.dropped["failed"] += sent.failed
            self.dropped["invalid"] += sent.invalid
            self._is_failing = bool(sent.failed)
            self._tell(sent.why)
            self._settle(len(batch), sum(weight for _, _, weight in taken))
            if sent.wait:
                self._closing.wait(min(sent.wait, _LONGEST_WAIT))

    def _wait(self) -> bool:
        """Return when a batch is full or old enough; false when it is all over."""
        self._wake.clear()
        if not self._queue and not self._closing.is_set():
            self._wake.wait()
        self._wake.clear()
        is_due = len(self._queue) >= self._batch
        if not is_due and not self._closing.is_set():
            self._wake.wait(self._settings.delay)
        if not self._closing.is_set():
            return True
        return bool(self._queue) and not self._is_failing and not self._is_over

    def _take(self) -> list[tuple[Attributes, Span, int]]:
        batch: list[tuple[Attributes, Span, int]] = []
        limit = self._batch if len(self._queue) < _BACKLOG else self._max_batch
        with contextlib.suppress(IndexError):  # empty: by now, or because close() emptied it
            while len(batch) < limit:
                batch.append(self._queue.popleft())
        return batch

    def _settle(self, spans: int, size: int) -> None:
        with self._settling:
            self._settled += spans
            self._bytes_settled += size

    def _tell(self, why: str) -> None:
        """Log a change of state, and not more than one in half a minute to the worse."""
        lost = sum(self.dropped.values())
        overflow = self.dropped["queue_full"] + self.dropped["queue_too_large"]
        if not why and overflow > self._overflow_seen:
            why = f"more than {self._max_queue:,} spans, or {self._max_bytes:,} bytes, wait for it"
        self._overflow_seen = overflow
        if why:
            self.trouble = why
            if not self._is_told and self._clock() >= self._tell_from:
                self._is_told = True
                self._tell_from = self._clock() + _QUIET
                _log.warning(
                    "spans are lost on their way to %s: %s (counted; said once until it works)",
                    self.place,
                    why,
                )
            return
        if self._is_told:
            self._is_told = False
            _log.info("spans reach %s again; %d were lost", self.place, lost - self._lost_before)
        self.trouble = ""
        self._lost_before = lost
