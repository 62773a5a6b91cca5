"""Mayhem: what is killed, held, drained or flooded, in an order that a seed decides.

One thing at a time, and the next once all is well again. So the judge knows for every moment
whether something is disturbed. A drain, a flood and garbage are to harm nobody: for them, calls are
judged as in calm times.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import trio

from tests.soak.mix import INSTANCES
from tests.soak.processes import CALLERS, GATEWAY, SERVICES
from tests.soak.strangers import flood, garbage
from tests.soak.watching import api

if TYPE_CHECKING:
    import random

    from tests.soak.processes import Fleet
    from tests.soak.watching import Watch

KINDS = (
    "kill gateway",
    "kill service",
    "kill caller",
    "hold service",
    "drain service",
    "garbage",
    "flood",
)
HOLD = (0.5, 4.0)
"""Seconds for which a service is held by SIGSTOP, from the least to the most."""
FLOOD = 1.0
"""Seconds for which the flood does not read."""
SETTLE = 1.0
"""Seconds after a recovery in which what it caused may still be told."""
RECOVER_WITHIN = 30.0
"""Seconds after which a mesh that has not recovered is complained of: longer than any backoff."""
POLL = 0.05
CALM_SHARE = 0.6
"""The share of the run after which the gateway is left alive, to see whether it grows."""


class Mayhem:
    """What is done to the processes of one run.

    Attributes:
        done: How often each thing was done.
        recoveries: Seconds from each kill of the gateway until every caller was answered again.
    """

    def __init__(self, fleet: Fleet, watch: Watch, randomness: random.Random, pause: float) -> None:
        self.done: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self._fleet = fleet
        self._judge = fleet.judge
        self._watch = watch
        self._randomness = randomness
        self._pause = pause

    async def run(self, until: float) -> None:
        """Do one thing after the other until that moment; each at least once."""
        began = trio.current_time()
        calm = began + (until - began) * CALM_SHARE
        while True:
            bag = list(KINDS)
            self._randomness.shuffle(bag)
            for kind in bag:
                is_needed = not self.done[kind]
                if trio.current_time() >= until and not is_needed:
                    continue
                if kind == "kill gateway" and trio.current_time() >= calm and not is_needed:
                    continue
                await trio.sleep(self._randomness.uniform(0.5, 1.5) * self._pause)
                await self._do(kind)
                self.done[kind] += 1
            if trio.current_time() >= until:
                return

    async def _do(self, kind: str) -> None:
        choose = self._randomness.choice
        match kind:
            case "kill gateway":
                await self._kill_gateway()
            case "kill service":
                await self._kill(choose(SERVICES))
            case "kill caller":
                await self._restart(choose(CALLERS))
            case "hold service":
                await self._hold(choose(SERVICES), self._randomness.uniform(*HOLD))
            case "drain service":
                several = [one for one in SERVICES if INSTANCES[one.partition("-")[0]] > 1]
                await self._drain(choose(several))
            case "garbage":
                await garbage(self._fleet, self._randomness)
            case "flood":
                await flood(self._fleet, self.done[kind] + 1, FLOOD)

    async def _kill_gateway(self) -> None:
        judge = self._judge
        await self._watch.close_books()
        killed = time.monotonic()
        judge.disturb(killed)
        await self._restart(GATEWAY)
        with trio.move_on_after(RECOVER_WITHIN) as limit:
            while not set(CALLERS) <= set(judge.tally.answered):  # noqa: ASYNC110 - told in files
                await trio.sleep(POLL)
            await self._whole()
        if limit.cancelled_caught:
            missing = sorted(set(CALLERS) - set(judge.tally.answered)) or "services"
            judge.complain(f"{missing} not back {RECOVER_WITHIN:g} s after the gateway was killed")
        else:
            answered = judge.tally.answered
            self.recoveries.append(max(answered[caller] for caller in CALLERS) - killed)
        await trio.sleep(SETTLE)
        judge.calm(time.monotonic())

    async def _kill(self, name: str) -> None:
        self._judge.disturb(time.monotonic())
        await self._restart(name)
        await self._whole()
        await trio.sleep(SETTLE)
        self._judge.calm(time.monotonic())

    async def _restart(self, name: str) -> None:
        await self._fleet.kill(name).over.wait()
        await self._fleet.start(name)

    async def _hold(self, name: str, seconds: float) -> None:
        child = self._fleet.now[name]
        held = time.monotonic()
        self._judge.disturb(held)
        self._judge.hold(child.life, held)
        child.process.send_signal(signal.SIGSTOP)
        try:
            await trio.sleep(seconds)
        finally:
            child.process.send_signal(signal.SIGCONT)
        await trio.sleep(SETTLE)
        self._judge.release(child.life, time.monotonic())
        self._judge.calm(time.monotonic())

    async def _drain(self, name: str) -> None:
        await self._fleet.end(name)
        await self._fleet.start(name)
        await self._whole()

    async def _whole(self) -> None:
        """Return once every instance is known to the gateway."""
        while True:
            rows = await api(self._fleet, "services")
            here = {row["name"]: len(row["instances"]) for row in rows or ()}
            if all(here.get(name) == count for name, count in INSTANCES.items()):
                return
            await trio.sleep(POLL)
