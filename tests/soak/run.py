"""Soak a mesh: ``python -m tests.soak.run --minutes 15 --seed 1``.

Real processes under mixed load, of which some are killed, held and drained again and again.
It prints figures, and exits with 1 if anything happened that must not happen.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.certificates import Authority
from tests.soak import report
from tests.soak.judge import Judge
from tests.soak.mayhem import Mayhem
from tests.soak.processes import CALLERS, GATEWAY, SERVICES, Fleet
from tests.soak.watching import Watch

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

PROGRESS_EVERY = 10.0
SCRAPE_EVERY = 3.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run."""

    violations: list[str]
    wrong: int
    table: str
    done: Counter[str]
    calls: int


async def soak(
    folder: Path,
    seconds: float,
    seed: int,
    *,
    rate: float,
    pause: float,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run a soak in an empty folder.

    Args:
        folder: Where everything of the run is; its path must be short enough for a socket.
        seconds: How long the load lasts; longer, if not everything has been done once by then.
        seed: What decides the mayhem and what is called.
        rate: Entry calls per second of all callers.
        pause: Seconds between two disturbances, on average.
        say: Is told how things stand.
    """
    certificate = Authority(folder / "authority").issue("127.0.0.1")
    judge = Judge()
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        fleet = Fleet(folder, judge, nursery, certificate, rate / len(CALLERS), seed)
        watch = Watch(fleet, judge)
        mayhem = Mayhem(fleet, watch, random.Random(seed), pause)
        try:
            await fleet.start(GATEWAY)
            async with trio.open_nursery() as starting:
                for name in SERVICES:
                    starting.start_soon(fleet.start, name)
            for name in CALLERS:
                await fleet.start(name)
            nursery.start_soon(watch.read)
            nursery.start_soon(watch.sample)
            nursery.start_soon(watch.scrape, SCRAPE_EVERY)
            nursery.start_soon(_progress, fleet, mayhem, say)
            whole = await _disturb(mayhem, trio.current_time() + seconds)
            lasted = time.monotonic() - began
            if whole:
                await _finish(fleet, watch, random.Random(seed))
            else:
                say("interrupted: whether everything comes to rest is not looked at")
        finally:
            with trio.CancelScope(shield=True):
                await fleet.kill_all()
        fleet.check_nothing_left()
        nursery.cancel_scope.cancel()
    table = report.table(lasted, seed, fleet, mayhem, watch)
    return Outcome(judge.violations, judge.wrong, table, mayhem.done, judge.tally.calls)


async def _disturb(mayhem: Mayhem, until: float) -> bool:
    """Mayhem until it has had its time; false if somebody pressed Ctrl-C before."""
    whole = False
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def interrupted() -> None:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await anext(signals)
                nursery.cancel_scope.cancel()

        await mayhem.run(until)
        whole = True
        nursery.cancel_scope.cancel()
    return whole


async def _finish(fleet: Fleet, watch: Watch, randomness: random.Random) -> None:
    """End the load, look at what is left, and end everybody in good order."""
    async with trio.open_nursery() as nursery:
        for name in CALLERS:
            if name in fleet.now:
                nursery.start_soon(fleet.end, name)
    await watch.rest()
    await watch.close_books()
    await watch.look_at_traces(randomness)
    fleet.sample()
    watch.grown([*fleet.past, *fleet.now.values()])
    for name in SERVICES:
        await watch.files_back(fleet.now[name])
        await fleet.end(name)
    gateway = fleet.now[GATEWAY]
    await watch.files_back(gateway)
    watch.gateway_grown(gateway)
    await fleet.end(GATEWAY)
    fleet.judge.settle(time.monotonic())
    fleet.judge.settle(time.monotonic())
    fleet.judge.account()
    watch.crashed()


async def _progress(fleet: Fleet, mayhem: Mayhem, say: Callable[[str], None]) -> None:
    began = trio.current_time()
    before = 0
    while True:
        await trio.sleep(PROGRESS_EVERY)
        calls = fleet.judge.tally.calls
        rate = (calls - before) / PROGRESS_EVERY
        say(report.progress(trio.current_time() - began, fleet, mayhem, rate))
        before = calls


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.run", description="Soak a mesh of real processes."
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="how long (15)")
    parser.add_argument("--seed", type=int, default=None, help="what decides the run (the time)")
    parser.add_argument("--rate", type=float, default=600.0, help="entry calls per second (600)")
    parser.add_argument("--pause", type=float, default=5.0, help="s between disturbances (5)")
    parser.add_argument("--keep", action="store_true", help="keep the logs of the processes")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    folder = Path(tempfile.mkdtemp(prefix="mesh-soak-"))
    _say(f"soaking for {arguments.minutes:g} minutes with seed {seed}, in {folder}")
    try:
        outcome = trio.run(
            lambda: soak(
                folder, arguments.minutes * 60, seed, rate=arguments.rate,
                pause=arguments.pause, say=_say,
            )
        )  # fmt: skip
    finally:
        if not arguments.keep:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
    _say(outcome.table)
    for violation in outcome.violations:
        _say(f"VIOLATION: {violation}")
    sys.exit(1 if outcome.wrong else 0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
