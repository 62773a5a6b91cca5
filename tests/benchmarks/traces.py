"""What traces cost, and whether they are all there under load: one table.

    python tests/benchmarks/traces.py
    python tests/benchmarks/traces.py --only tax,memory --rounds 5

Gateway, services and OTLP receiver are processes of their own, fresh for every run; the caller is
this one. What is compared runs in turn within a round, each round the other way round. Each figure
is the median of the rounds with its smallest and largest value. Nothing here is a test: being slow
fails nothing. ``--tiny`` measures nothing, and shows that every part works.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import trio
from compare import PARAMS, median
from scale_roles import resident
from traces_load import DEADLINE, SPANS, Paced, burst, chain, paced_run
from traces_roles import METHOD

from mesh.cli.bench import own, target
from mesh.cli.bench.load import Load
from mesh.environment import forget_settings
from mesh.process import calm_collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Row = tuple[str, str]
DEPTH = 3
EXPORTED = 2_000
"""Spans per second."""
ALL = {"baseline": 1e6, "quota": 1e6, "max_spans_per_second": 1e9}
NONE = {"baseline": 0.0, "quota": 0.0}
"""Settings with which all traces are kept, or none."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    calls: int = 30_000
    """At concurrency 64; a tenth at 1."""
    rates: tuple[int, ...] = (500, 2_000)
    """Entry calls per second."""
    window: float = 10.0
    """Seconds of a paced load."""
    warm_up: int = 200
    """Calls before it."""
    spans: int = 20_000
    """That fill a store, by default."""
    rows: int = 20_000
    """That fill a peer's buffer, by default."""


TINY = Sizes(calls=640, rates=(50,), window=0.2, warm_up=2, spans=240, rows=240)
"""Enough to see that every part works, and for no figure."""


def in_turn(
    rounds: int, one: Callable[[], Any], other: Callable[[], Any]
) -> tuple[list[Any], list[Any]]:
    """Both, as often as there are rounds; which of them comes first changes."""
    ones: list[Any] = []
    others: list[Any] = []
    for number in range(rounds):
        runs = [(ones, one), (others, other)]
        for results, run in runs if number % 2 == 0 else reversed(runs):
            results.append(run())
    return ones, others


@dataclass(frozen=True)
class Compared:
    """Two kinds of runs, in turn."""

    names: tuple[str, str]
    runs: tuple[list[Any], list[Any]]

    def rows(
        self, what: str, figure: Callable[[Any], float], digits: int, *, ratio: bool = True
    ) -> list[Row]:
        """The one, the other, and the ratio within each round."""
        both = [[figure(run) for run in runs] for runs in self.runs]
        found = [
            (f"{what}, {name}", median(figures, digits))
            for name, figures in zip(self.names, both, strict=True)
        ]
        if ratio:
            ratios = [one / other if other else math.nan for one, other in zip(*both, strict=True)]
            found.append((f"{what}, ratio", median(ratios)))
        return found


def tax_part(rounds: int, sizes: Sizes) -> list[Row]:
    """What telemetry with its defaults costs."""

    def run(concurrency: int, calls: int, *, telemetry: bool) -> dict[str, Any]:
        figures = own.measure(concurrency, calls, PARAMS, lambda _: None, telemetry=telemetry)
        if figures["errors"]:
            raise SystemExit(f"calls failed: {figures['errors']}")
        return figures

    rows: list[Row] = []
    for concurrency, calls, key, what, digits in (
        (64, sizes.calls, "calls_per_second", "calls per second", 0),
        (1, sizes.calls // 10, "p50_us", "p50 of a call, us", 1),
    ):
        on = partial(run, concurrency, calls, telemetry=True)
        off = partial(run, concurrency, calls, telemetry=False)
        both = Compared(("telemetry on", "telemetry off"), in_turn(rounds, on, off))
        rows += both.rows(f"concurrency {concurrency}: {what}", itemgetter(key), digits)
    return rows


def load_part(rounds: int, sizes: Sizes) -> list[Row]:
    """Calls of depth 3 at a steady pace, of which every trace is kept."""
    rows: list[Row] = []
    names = "every trace kept", "telemetry off"
    for rate in sizes.rates:
        run = partial(paced_run, rate, sizes.window, sizes.warm_up, depth=DEPTH)
        kept, off = in_turn(rounds, partial(run, traces=ALL), partial(run, telemetry=False))
        both = Compared(names, (kept, off))
        load = f"{rate:,} calls/s of depth {DEPTH}"
        calls = sum(one.calls for one in kept)
        for name, runs in zip(names, both.runs, strict=True):
            for number, what in (
                (sum(one.lost for one in runs), "calls lost"),
                (sum(one.late for one in runs), f"calls late for {DEADLINE:g} s"),
            ):
                rows.append((f"{load}: {what}, {name}", f"{number:,} of {calls:,}"))
        for key in ("kept", "complete"):
            found = sum(int(one.told[key]) for one in kept)
            rows.append((f"{load}: traces {key}, of calls made", f"{found:,} of {calls:,}"))
        spans = median([one.told["spans"] / one.calls for one in kept])
        settled = median([one.settled for one in kept])
        rows += [
            (f"{load}: spans in the store for each call; {DEPTH * SPANS} are whole", spans),
            (f"{load}: from the last call to the last trace complete, s", settled),
            *both.rows(f"{load}: p50 of a call, ms", lambda one: one.quantile(0.5), 2),
            *both.rows(f"{load}: p99 of a call, ms", lambda one: one.quantile(0.99), 2),
            *both.rows(f"{load}: gateway's share of a core, %", _share, 1),
        ]
        for what, figure in (
            ("longest stop of the gateway's loop, ms", _told("longest_wall")),
            ("longest stop in the gateway's processor time, ms", _told("longest_cpu")),
            ("longest time that the caller was late itself, ms", lambda one: one.behind * 1e3),
        ):
            rows += both.rows(f"{load}: {what}", figure, 1, ratio=False)
    return rows


def _share(paced: Paced) -> float:
    return paced.share


def export_part(rounds: int, sizes: Sizes) -> list[Row]:
    """The gateway's loop while it exports, against keeping alone."""
    run = partial(paced_run, EXPORTED / SPANS, sizes.window, sizes.warm_up, depth=1, traces=ALL)
    sent, kept = in_turn(rounds, partial(run, export=True), run)
    both = Compared(("exported", "not exported"), (sent, kept))
    load = f"{EXPORTED:,} spans/s kept"
    exported = sum(int(one.told["exported"]) for one in sent)
    made = sum(one.calls * SPANS for one in sent)
    return [
        (f"{load}: spans exported, of those made", f"{exported:,} of {made:,}"),
        *both.rows(f"{load}: lag of the gateway's loop, p50, ms", _told("lag_p50"), 2),
        *both.rows(f"{load}: lag of the gateway's loop, p99, ms", _told("lag_p99"), 2),
        *both.rows(f"{load}: lag of the gateway's loop, longest, ms", _told("lag_longest"), 2),
        *both.rows(f"{load}: gateway's share of a core, %", _share, 1),
    ]


def tap_part(rounds: int, sizes: Sizes) -> list[Row]:
    """A gateway at full load while somebody watches its calls, against nobody."""

    def run(*tap: str) -> dict[str, Any]:
        with chain(1) as it, contextlib.ExitStack() as stack:
            if tap:
                stack.enter_context(tapping(it.address, *tap))
            load = Load(["s0"], METHOD, PARAMS, 64, sizes.calls)
            return trio.run(target.measure, it.address, load, lambda _: None)

    rows: list[Row] = []
    for tap in ("--json",), ("--json", "--tree", "--rate", "10000"):
        both = Compared(("tapped", "not tapped"), in_turn(rounds, partial(run, *tap), run))
        what = f"mesh tap {' '.join(tap)}"
        rows += both.rows(f"{what}: calls per second", itemgetter("calls_per_second"), 0)
        cpu = itemgetter("gateway_cpu_us_per_call")
        rows += both.rows(f"{what}: gateway CPU per call, us", cpu, 1)
    return rows


@contextlib.contextmanager
def tapping(address: str, *options: str) -> Iterator[None]:
    """Have the command watch the calls of this gateway."""
    command = [sys.executable, "-m", "mesh.cli", "tap", "--gateway", address, *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def _told(key: str) -> Callable[[Paced], float]:
    return lambda paced: paced.told[key]


@dataclass(frozen=True)
class Grown:
    """Memory of a process before calls and after them, in bytes."""

    before: int
    after: int
    items: int
    """Spans or rows that it holds then."""


def memory_part(rounds: int, sizes: Sizes) -> list[Row]:
    """A store that is full of traces of depth 3, and a peer whose buffer of records is full.

    The same calls with nothing kept, or recorded, say what else they leave behind.
    """

    def store(traces: dict[str, float]) -> Grown:
        with chain(DEPTH, traces=traces | {"store_spans": sizes.spans}) as it:
            told = it.settle(forgotten=True)
            before = resident(it.hub.pid)
            room = sizes.spans - int(told["spans"])
            trio.run(burst, it.address, room // (DEPTH * SPANS))
            told = it.settle(forgotten=True)
            return Grown(before, resident(it.hub.pid), int(told["spans"]))

    def buffer(*, telemetry: bool) -> Grown:
        with chain(DEPTH, telemetry=telemetry) as it:
            before = resident(it.first.pid)
            # A call leaves two rows there, served and made; old rows make way in hundreds.
            trio.run(burst, it.address, sizes.rows // 2 + 500)
            return Grown(before, resident(it.first.pid), int(it.first.ask()["rows"]))

    stores = in_turn(rounds, partial(store, ALL), partial(store, NONE))
    buffers = in_turn(rounds, partial(buffer, telemetry=True), partial(buffer, telemetry=False))
    return _grown("gateway", "span", *stores) + _grown("peer", "row", *buffers)


def _grown(who: str, item: str, full: list[Grown], empty: list[Grown]) -> list[Row]:
    items = median([one.items for one in full], 0)
    per_item = [
        ((one.after - one.before) - (other.after - other.before)) / max(1, one.items)
        for one, other in zip(full, empty, strict=True)
    ]
    return [
        (f"{item}s in the {who}", items),
        (f"{who} memory before, MB", median([one.before / 1e6 for one in full], 1)),
        (f"{who} memory with them, MB", median([one.after / 1e6 for one in full], 1)),
        (
            f"{who} memory after the same calls without them, MB",
            median([one.after / 1e6 for one in empty], 1),
        ),
        (f"{who} memory for each {item}, bytes", median(per_item, 0)),
    ]


PARTS = {
    "tax": tax_part,
    "load": load_part,
    "export": export_part,
    "memory": memory_part,
    "tap": tap_part,
}


def main() -> None:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=float, metavar="SECONDS", help="of each paced load")
    parser.add_argument("--tiny", action="store_true", help="try the parts out, measuring nothing")
    options = parser.parse_args()
    sizes = TINY if options.tiny else Sizes()
    if options.window:
        sizes = replace(sizes, window=options.window)
    forget_settings()
    calm_collector()  # else the caller's own pauses are in what it measures
    print("| what | figure |\n| --- | ---: |", flush=True)
    for name in options.only.split(","):
        for what, figure in PARTS[name](options.rounds, sizes):
            print(f"| {what} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
