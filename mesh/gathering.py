"""Gathering frames into few sends.

A send costs 5 us and wakes the other process, so the tasks that one read woke are let speak in turn
and the last of them sends for all. A task that speaks alone sends at once. Every 16 frames leave in
any case, so that the next process starts while this one still works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import outcome
import trio

if TYPE_CHECKING:
    from mesh.transport import Link

FLUSH_EVERY = 16


class Gathering:
    """The sending side of one link for many tasks."""

    __slots__ = ("_expected", "_gathered", "_sleeper", "_spoken", "link")

    def __init__(self, link: Link) -> None:
        self.link = link
        self._expected = 0  # tasks that were woken, since the beginning
        self._spoken = 0  # frames that came of them
        self._gathered = 0
        self._sleeper: trio.lowlevel.Task | None = None

    def expect(self, tasks: int) -> None:
        """So many tasks were woken and may speak when their turn comes."""
        self._expected += tasks

    def send(self, frame: bytes) -> None:
        """Queue a frame; it leaves now, or with those of the tasks that are expected to speak."""
        self.link.put(frame)
        self._spoken = spoken = self._spoken + 1
        self._gathered = gathered = self._gathered + 1
        if spoken >= self._expected or gathered >= FLUSH_EVERY:
            if spoken > self._expected:
                self._spoken = self._expected
            self._gathered = 0
            self.link.flush()
        elif self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper, outcome.Value(self._expected))
            self._sleeper = None

    async def run(self) -> None:
        """Send for those who were expected to speak and did not. Until cancelled."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            self._sleeper = trio.lowlevel.current_task()
            expected: int = await trio.lowlevel.wait_task_rescheduled(abort)
            # All who had been woken then have their turn in this pass of the scheduler or the next.
            await trio.lowlevel.checkpoint()
            self._spoken = max(self._spoken, expected)
            self._gathered = 0
            self.link.flush()
