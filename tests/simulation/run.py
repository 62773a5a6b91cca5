"""Run seeds: ``python -m tests.simulation.run --seeds 1000 --start 0``."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
import trio.testing

from tests.simulation.determinism import deterministic
from tests.simulation.oracle import Oracle
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 3600.0
"""Virtual seconds after which a run counts as stuck."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one seed."""

    seed: int
    complaints: list[str]
    events: list[tuple[float, str]]
    seen: Counter[str]
    digest: str

    def explain(self) -> str:
        """The complaints, the log, and how to see them again."""
        log = "\n".join(f"{at:10.6f} {what}" for at, what in self.events)
        wrong = "\n".join(f"  - {what}" for what in self.complaints)
        return (
            f"{log}\n\nseed {self.seed}, digest {self.digest}:\n{wrong or '  all is well'}\n"
            f"replay it with: python -m tests.simulation.run --seeds 1 --start {self.seed}"
        )


def run_seed(seed: int, prepare: Callable[[World], None] | None = None) -> Verdict:
    """Simulate one seed and judge it."""
    with deterministic(seed):
        world = World(seed, prepare)
        chronicle = world.chronicle

        async def live() -> None:
            with trio.move_on_after(LONGEST) as limit:
                await world.run()
            if limit.cancelled_caught:
                chronicle.complain(f"the mesh did not come to rest in {LONGEST:g} s")

        try:
            trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
            trio.run(_judge, world)
        except BaseException as crash:
            if isinstance(crash, KeyboardInterrupt):
                raise
            text = "".join(traceback.format_exception(crash))
            chronicle.complaints.append(f"something crashed:\n{text}")
    return Verdict(seed, chronicle.complaints, chronicle.events, chronicle.seen, chronicle.digest())


async def _judge(world: World) -> None:
    Oracle(world).judge()


def main() -> None:
    """Run many seeds, show what was seen; stop at the first failure unless told to go on."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.run", description="Simulate whole meshes, one per seed."
    )
    parser.add_argument("--seeds", type=int, default=100, help="how many (100)")
    parser.add_argument("--start", type=int, default=0, help="the first (0)")
    parser.add_argument("--keep-going", action="store_true", help="list failures, briefly")
    parser.add_argument("--digest", action="store_true", help="only print each seed's digest")
    parser.add_argument("--log", action="store_true", help="print the event log of every seed")
    arguments = parser.parse_args()
    total: Counter[str] = Counter()
    begun, failed = time.perf_counter(), 0
    for done, seed in enumerate(range(arguments.start, arguments.start + arguments.seeds), 1):
        verdict = run_seed(seed)
        total.update(verdict.seen)
        if arguments.digest:
            _say(f"{seed} {verdict.digest}")
        elif arguments.log:
            _say(verdict.explain())
        elif sys.stderr.isatty() or done % 100 == 0:
            rate = done / (time.perf_counter() - begun)
            end = "\r" if sys.stderr.isatty() else "\n"
            sys.stderr.write(f"{done} of {arguments.seeds} seeds, {rate:.1f} a second{end}")
        if verdict.complaints:
            failed += 1
            if not arguments.keep_going:
                _say(verdict.explain())
                sys.exit(1)
            brief = "\n".join(f"  - {what[:600]}" for what in verdict.complaints[:4])
            _say(f"seed {seed} failed:\n{brief}")
    if not arguments.digest:
        for what, count in sorted(total.items()):
            _say(f"{count:9,} {what}")
        _say(f"{failed} of {arguments.seeds} seeds failed; {time.perf_counter() - begun:.1f} s")
    sys.exit(1 if failed else 0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
