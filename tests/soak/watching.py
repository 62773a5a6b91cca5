"""Watching from outside: scrapes, what processes hold, and the books once the load has ended."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import trio
from prometheus_client.parser import text_string_to_metric_families

from mesh.gateway.debts import PATIENCE, SECOND_ASKING
from tests.soak.leftovers import MIB, files, in_gateway, in_peer, memory
from tests.soak.processes import GATEWAY
from tests.soak.traces import faults

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from tests.soak.books import Cell
    from tests.soak.judge import Judge
    from tests.soak.processes import Child, Fleet

READ_EVERY = 0.2
SAMPLE_EVERY = 1.0
REST_WITHIN = 20.0
"""Seconds after the load's end until nothing is in flight: longer than any call's timeout."""
GROWTH = (32 * MIB, 0.35)
"""How much more memory a process may hold late in its life than early on: the larger of bytes and
a share. A flood, a megabyte in several frames and the allocator's own ways come to less."""
MORE_FILES = 8
"""How many more open files, likewise: those that come and go with strangers and scrapes."""
FILES_WITHIN = 5.0
"""Seconds in which connections that are over are closed."""
TRACES = 200
"""Kept traces that are looked at."""


def calls_counted(families: Iterable[Metric]) -> dict[Cell, int]:
    """`mesh_calls_total` by caller, method and code, the gateway's own service apart."""
    counted: Counter[Cell] = Counter()
    for family in families:
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "mesh_calls_total" and labels["rpc_service"] != "mesh":
                method = f"{labels['rpc_service']}.{labels['rpc_method']}"
                counted[labels["caller"], method, labels["code"]] += int(sample.value)
    return {cell: count for cell, count in counted.items() if count}


async def fetch(fleet: Fleet, path: str) -> str | None:
    """What the gateway's admin address answers; None where nothing does."""

    def get() -> str | None:
        try:
            url = f"http://{fleet.admin}{path}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                text: str = answer.read().decode()
        except OSError:
            return None
        return text

    return await trio.to_thread.run_sync(get)


async def api(fleet: Fleet, what: str) -> Any:
    """A view under ``/api``; None where there is no answer."""
    text = await fetch(fleet, f"/api/{what}")
    return None if text is None else json.loads(text)


class Watch:
    """What is looked at all the time.

    Attributes:
        scrapes: How many of `/metrics` were answered.
        longest_scrape: The seconds of the slowest.
        traces: The kept traces that were looked at, by whether they are whole.
    """

    def __init__(self, fleet: Fleet, judge: Judge) -> None:
        self.scrapes = 0
        self.longest_scrape = 0.0
        self._fleet = fleet
        self._judge = judge
        self.traces: Counter[str] = Counter()
        self._moved: dict[str, float] = {}

    @property
    def moved(self) -> float:
        """Bytes through all gateways so far, into them and out of them."""
        return sum(self._moved.values())

    async def read(self) -> None:
        """Judge the journals, again and again."""
        while True:
            await trio.sleep(READ_EVERY)
            self._fleet.read()
            self._judge.settle(time.monotonic())

    async def sample(self) -> None:
        """Note what processes hold, again and again."""
        while True:
            self._fleet.sample()
            await trio.sleep(SAMPLE_EVERY)

    async def scrape(self, every: float) -> None:
        """Read `/metrics`, again and again."""
        while True:
            await self.scrape_once()
            await trio.sleep(every)

    async def scrape_once(self) -> list[Metric] | None:
        """Read `/metrics`; None where the gateway was killed meanwhile."""
        gateway = self._fleet.now.get(GATEWAY)
        began = time.monotonic()
        text = await fetch(self._fleet, "/metrics")
        if text is None or gateway is None or gateway.is_expected:
            return None
        self.scrapes += 1
        self.longest_scrape = max(self.longest_scrape, time.monotonic() - began)
        families = list(text_string_to_metric_families(text))
        self._moved[gateway.life] = sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "mesh_bytes_total"
        )
        return families

    async def close_books(self) -> None:
        """Read what the gateway has counted so far: it is about to be killed, or all has ended."""
        ledger = self._judge.ledger
        ledger.begin_reading(time.monotonic())
        families = await self.scrape_once()
        if families is None:
            self._judge.complain("the gateway's counters could not be read before it is killed")
        ledger.read(calls_counted(families or ()), time.monotonic())

    # At the end.

    async def rest(self) -> None:
        """Wait until nothing is in flight, and nothing is held that has ended."""
        since = time.monotonic()
        left = ["not looked at"]
        with trio.move_on_after(REST_WITHIN):
            while left:
                await trio.sleep(READ_EVERY)
                left = await self._left(since)
            return
        self._judge.complain(f"{REST_WITHIN:g} s after the load there is left: {left}")

    async def _left(self, since: float) -> list[str]:
        status, services = await api(self._fleet, "status"), await api(self._fleet, "services")
        families = await self.scrape_once()
        if status is None or services is None or families is None:
            return ["the gateway does not answer"]
        lives = [child.life for child in self._fleet.now.values() if child.name != GATEWAY]
        found = in_gateway(status, services, families)
        for life in lives:
            found += in_peer(life, self._judge.lives[life].holds, since)
        return found

    async def look_at_traces(self, randomness: random.Random) -> None:
        """A sample of the traces that the gateway has kept must be whole."""
        await trio.sleep(PATIENCE + SECOND_ASKING)  # until parts that do not come are given up
        kept = (await api(self._fleet, "traces?limit=1000") or {"traces": []})["traces"]
        for row in randomness.sample(kept, min(TRACES, len(kept))):
            view = await api(self._fleet, f"traces/{row['trace_id']}?format=waterfall")
            if view is None:
                continue  # it made way for newer ones, which the soak's own reading made
            self.traces[
                "whole" if view["summary"]["complete"] else "with a part named missing"
            ] += 1
            for fault in faults(view):
                self._judge.complain(fault)
        if not self.traces:
            self._judge.complain(f"of {len(kept)} kept traces none could be read")

    async def files_back(self, child: Child) -> None:
        """A process without load closes what it has opened for the load."""
        left = ["not looked at"]
        with trio.move_on_after(FILES_WITHIN):
            while left:
                await trio.sleep(READ_EVERY)
                child.sample()
                left = files(child.life, child.at_start, child.samples[-1])
        for wrong in left:
            self._judge.complain(wrong)

    def gateway_grown(self, child: Child) -> None:
        """The gateway has not outgrown its bounds."""
        for wrong in memory(child.life, child.at_start, child.samples[-1]):
            self._judge.complain(wrong)

    def grown(self, children: list[Child]) -> None:
        """No process may hold ever more."""
        for child in children:
            found = child.growth(self._fleet.floods)
            if found is None:
                continue
            early, late = found
            most = max(GROWTH[0], GROWTH[1] * early.memory)
            if late.memory - early.memory > most:
                self._judge.complain(
                    f"{child.life} held {early.memory / MIB:.1f} MiB early and "
                    f"{late.memory / MIB:.1f} MiB late in its life"
                )
            if late.files - early.files > MORE_FILES:
                self._judge.complain(
                    f"{child.life} had {early.files} open files early and {late.files} late in "
                    "its life"
                )

    def crashed(self) -> None:
        """No process may have logged what it did not expect."""
        for life, text in self._fleet.logs().items():
            if "Traceback (most recent call last)" in text or " ERROR " in text:
                at = max(text.find("Traceback (most"), text.find(" ERROR "))
                self._judge.complain(f"{life} logged:\n{text[max(0, at - 500) : at + 2500]}")
