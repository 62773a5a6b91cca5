"""How services and methods went that nobody serves any more, and for how long that is remembered.

Who calls one of them means it, and was mostly not told: such a call counts under its name and is
told what became of it, unlike one of a name that was never there.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from mesh.gateway.registry import Method

MEMORY = 24 * 3600.0
"""Seconds for which what is gone is remembered: what went in the night is known next morning, and
what was taken away for good is not told for ever."""
MOST = 10_000
"""Methods that are gone and no longer expected back, of which the oldest make way: as many as have
counters of their own in :class:`~mesh_telemetry.CallMetrics`."""

LOST, LEFT, UNREGISTERED = "was disconnected", "left in order", "unregistered it"
"""How the last instance went: without a goodbye; with one; it stays, and serves this no longer."""


class Departure(msgspec.Struct, frozen=True):
    """How the last instance of a service or a method went."""

    at: float
    """When, on trio's clock."""
    peer: str
    process_id: str
    how: str

    def is_awaited(self, now: float, memory: float) -> bool:
        """Whether an instance is expected back, as for ``memory`` seconds after it has left."""
        return self.how != UNREGISTERED and now - self.at <= memory

    def tell(self, name: str, now: float, wall: float) -> str:
        """What to say of what is gone.

        Args:
            name: Of the service or the method.
            now: On trio's clock.
            wall: The same moment in Unix time.
        """
        age = now - self.at
        seconds = int(wall - age) % 86_400
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02} UTC"
        return (
            f"nobody serves {name!r} since {clock} ({duration(age)} ago); its last instance, "
            f"{self.peer} at {self.process_id}, {self.how}"
        )


class Departed:
    """The methods that nobody serves, those that went first at the front."""

    def __init__(self, service_memory: float) -> None:
        self._service_memory = service_memory
        # Ordered ones, as the first of a plain one is slow to find once many before it are gone.
        self._awaited: OrderedDict[Method, Departure] = OrderedDict()
        self._gone: OrderedDict[Method, Departure] = OrderedDict()

    def add(self, method: Method, departure: Departure) -> None:
        """Its last instance went."""
        awaited = departure.is_awaited(departure.at, self._service_memory)
        (self._awaited if awaited else self._gone)[method] = departure

    def remove(self, method: Method) -> None:
        """It is served again."""
        self._awaited.pop(method, None)
        self._gone.pop(method, None)

    def forget(self, now: float) -> list[Method]:
        """Take those that are gone for too long, or are too many, and return them.

        Those that are expected back are neither.
        """
        awaited, gone, forgotten = self._awaited, self._gone, []
        while awaited:
            method = next(iter(awaited))
            if awaited[method].is_awaited(now, self._service_memory):
                break
            gone[method] = awaited.pop(method)
        while gone:
            method = next(iter(gone))
            if now - gone[method].at <= MEMORY and len(gone) <= MOST:
                break
            del gone[method]
            forgotten.append(method)
        return forgotten
