"""trio's autojump clock beside threads: while a thread works, time passes as on the wall.

The clock jumps to the next deadline when every task sleeps, and one that waits for a thread sleeps,
too. The call that the thread works for would time out at once, whatever the thread does.
"""

from __future__ import annotations

import contextlib
from math import inf
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock, active_thread_count

if TYPE_CHECKING:
    from collections.abc import Iterator

REAL_TIME = 1.0
"""The rate of a clock that goes as the wall's does."""


def autojumping() -> MockClock | None:
    """The clock that jumps here when every task sleeps; None where it does not."""
    clock = trio.lowlevel.current_clock()
    return clock if isinstance(clock, MockClock) and clock.autojump_threshold < inf else None


@contextlib.contextmanager
def real_time_in_threads() -> Iterator[None]:
    """Let an autojump clock run at real time, and not jump, while a thread of trio's works.

    That holds for all of the trio run: it has one clock. A thread whose task has been cancelled and
    does not wait for it any more no longer counts.
    """
    watch = _watch.get()
    if watch is None:
        clock = autojumping()
        if clock is None:
            yield
            return
        watch = _Watch(clock)
        _watch.set(watch)
        trio.lowlevel.add_instrument(watch)
    watch.users += 1
    try:
        yield
    finally:
        watch.users -= 1
        if not watch.users:
            trio.lowlevel.remove_instrument(watch)
            watch.resume()
            _watch.set(None)


class _Watch(trio.abc.Instrument):
    """Looks after each step of a task, in which alone threads begin and end, whether one works."""

    def __init__(self, clock: MockClock) -> None:
        self.users = 0
        self._clock = clock
        self._before: tuple[float, float] | None = None
        """What the clock was set to before threads ran; None while none does."""

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's signature
        """See :class:`trio.abc.Instrument`."""
        if active_thread_count() == 0:
            self.resume()
        elif self._before is None:
            clock = self._clock
            self._before = clock.rate, clock.autojump_threshold
            clock.rate, clock.autojump_threshold = REAL_TIME, inf

    def resume(self) -> None:
        """Let the clock be as it was before threads ran."""
        if self._before is not None:
            self._clock.rate, self._clock.autojump_threshold = self._before
            self._before = None


_watch: trio.lowlevel.RunVar[_Watch | None] = trio.lowlevel.RunVar("mesh_testing_watch", None)
