"""Watching from outside: scrapes, what processes hold, and the books once the load has ended."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.soak.processes import GATEWAY
from tests.soak.strangers import FLOOD

if TYPE_CHECKING:
    from tests.soak.judge import Judge
    from tests.soak.processes import Child, Fleet

READ_EVERY = 0.2
SAMPLE_EVERY = 1.0
REST_WITHIN = 20.0
"""Seconds after the load's end until nothing is in flight: longer than any call's timeout."""
MIB = 1024 * 1024
GROWTH = (32 * MIB, 0.35)
"""How much more memory a process may hold late in its life than early on: the larger of bytes and
a share. A flood, a megabyte in several frames and the allocator's own ways come to less."""
MORE_FILES = 8
"""How many more open files, likewise: those that come and go with strangers and scrapes."""


async def fetch(fleet: Fleet, path: str) -> str | None:
    """What the gateway's admin address answers; None where nothing does."""

    def get() -> str | None:
        try:
            url = f"http://{fleet.admin}{path}"
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own
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
        counted: Calls that the last gateway counted; and those that callers are certain of.
    """

    def __init__(self, fleet: Fleet, judge: Judge) -> None:
        self.scrapes = 0
        self.longest_scrape = 0.0
        self._fleet = fleet
        self._judge = judge
        self.counted = (0, 0)
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

    async def scrape_once(self) -> dict[tuple[str, str], float]:
        """Read `/metrics`; returns the calls counted, by caller and code."""
        gateway = self._fleet.now.get(GATEWAY)
        began = time.monotonic()
        text = await fetch(self._fleet, "/metrics")
        if text is None or gateway is None or gateway.is_expected:
            return {}  # it was killed meanwhile
        self.scrapes += 1
        self.longest_scrape = max(self.longest_scrape, time.monotonic() - began)
        counted: Counter[tuple[str, str]] = Counter()
        moved = 0.0
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = sample.labels
                if sample.name == "mesh_bytes_total":
                    moved += sample.value
                elif sample.name == "mesh_calls_total" and labels["rpc_service"] != "mesh":
                    counted[labels["caller"], labels["code"]] += sample.value  # type: ignore[assignment]
        self._moved[gateway.life] = moved
        return dict(counted)

    # At the end.

    async def rest(self) -> None:
        """Wait until nothing is in flight at the gateway."""
        status: Any = None
        with trio.move_on_after(REST_WITHIN):
            while status is None or status["in_flight"]:
                status = await api(self._fleet, "status")
                await trio.sleep(READ_EVERY)
            return
        self._judge.complain(f"{REST_WITHIN:g} s after the load the gateway says: {status}")

    async def compare(self) -> None:
        """The gateway must have counted what its callers saw."""
        self._fleet.read()
        counted = {key: value for key, value in (await self.scrape_once()).items()
                   if key[0] != FLOOD}  # fmt: skip
        books = self._judge.tally.books
        self.counted = int(sum(counted.values())), books.sure.total()
        for wrong in books.compare(counted):
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
