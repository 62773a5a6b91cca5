"""What makes two runs of one seed equal, in this process and in any other.

trio's own switch orders each batch of tasks. Two things remain that depend on memory addresses: the
order in which a cancelled scope reaches its tasks, and the order of scopes with equal deadlines. A
cancelled call sends a CANCEL from inside that delivery, so that the order shows on the wire.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from typing import TYPE_CHECKING, Any

from trio._core import _run

if TYPE_CHECKING:
    from collections.abc import Iterator


class _OrderedSet(dict[Any, None]):
    """A set that is walked in the order of insertion."""

    __slots__ = ()

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


@contextlib.contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Let trio schedule by the seed for as long as the block runs."""
    trio_run: Any = _run
    status, deadlines = trio_run.CancelStatus, trio_run.Deadlines
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    post_init, add = status.__attrs_post_init__, deadlines.add
    rising = itertools.count()

    def ordered_post_init(self: Any) -> None:
        self._children = _OrderedSet()
        self._tasks = _OrderedSet()
        post_init(self)

    def ordered_add(self: Any, deadline: float, scope: Any) -> None:
        heapq.heappush(self._heap, (deadline, next(rising), scope))
        self._active += 1

    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_run._r.seed(seed)
    status.__attrs_post_init__, deadlines.add = ordered_post_init, ordered_add
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        trio_run._r.setstate(before[1])
        status.__attrs_post_init__, deadlines.add = post_init, add
