"""The mesh against a bare hub and against its peers, in turn and in one run: the README's tables.

    python tests/benchmarks/compare.py --rounds 5
    python tests/benchmarks/compare.py --rounds 5 --bare-hub

Each figure is the median of the rounds with its smallest and largest value; each ratio is taken
within a round, since machines drift. The mesh is measured twice in each: with plain calls, and with
calls through a contract's stub, typed and checked at both ends. A peer that is not installed is
named and left out. Nothing here is a test: being slow fails nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import bare_hub
import peers

from mesh.cli.bench import own

if TYPE_CHECKING:
    from collections.abc import Callable

Figures = dict[str, Any]

PARAMS = {"userId": "123"}
MESH, STUB, HUB = "spanmesh", "spanmesh, stub", "bare hub"
_BESIDE_HUB = (MESH, "to the hub", STUB, "to the hub", "to plain calls")
HUB_COLUMNS = ("concurrency", "figure", HUB, *_BESIDE_HUB)
_TO_IT = "spanmesh to it"
COLUMNS = ("concurrency", "system", "calls per second", _TO_IT, "p50, us", _TO_IT)


def median(values: list[float], digits: int = 2) -> str:
    """The median, and the spread in brackets."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def mesh(concurrency: int, calls: int, *, stub: bool = False) -> Figures:
    """A run of the mesh with everything switched on, by plain calls or through a stub.

    Raises:
        SystemExit: Calls failed: there is nothing to compare.
    """
    figures = own.measure(concurrency, calls, PARAMS, lambda _: None, stub=stub)
    if figures["errors"]:
        raise SystemExit(f"calls failed: {figures['errors']}")
    return figures


def hub_rows(concurrency: int, rounds: list[dict[str, Figures]]) -> list[str]:
    """The lines for one concurrency of the table against the bare hub."""

    def line(title: str, key: str, digits: int) -> str:
        def figure(system: str) -> str:
            known = key in rounds[0][system]
            return median([one[system][key] for one in rounds], digits) if known else ""

        def ratio(system: str, to: str) -> str:
            known = key in rounds[0][to]
            return median([one[system][key] / one[to][key] for one in rounds]) if known else ""

        cells = [figure(HUB), figure(MESH), ratio(MESH, HUB)]
        cells += [figure(STUB), ratio(STUB, HUB), ratio(STUB, MESH)]
        return f"| {concurrency} | {title} | {' | '.join(cells)} |"

    return [
        line("calls per second", "calls_per_second", 0),
        line("p50, us", "p50_us", 0),
        line("gateway CPU per call, us", "gateway_cpu_us_per_call", 1),
        line("caller CPU per call, us", "caller_cpu_us_per_call", 1),
        line("service CPU per call, us", "service_cpu_us_per_call", 1),
    ]


def rows(concurrency: int, rounds: list[dict[str, Figures]]) -> list[str]:
    """The lines for one concurrency of the table of all systems."""
    lines = []
    for system in rounds[0]:
        cells = [str(concurrency), system]
        for key in ("calls_per_second", "p50_us"):
            cells.append(median([one[system][key] for one in rounds], 0))
            ratio = median([one[MESH][key] / one[system][key] for one in rounds])
            cells.append("" if system == MESH else ratio)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--concurrency", default="1,16,64,256")
    parser.add_argument("--calls", type=int, default=20000, help="a tenth at concurrency 1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--bare-hub", action="store_true", help="only the bare hub, with the gateway's CPU per call"
    )
    options = parser.parse_args()
    systems: dict[str, Callable[[int, int], Figures]] = {
        HUB: bare_hub.measure,
        MESH: mesh,
        STUB: partial(mesh, stub=True),
    }
    for peer in () if options.bare_hub else peers.PEERS:
        if commands := peers.missing(peer):
            title, how = peers.TITLES[peer], "; ".join(commands)
            print(f"{title} is left out; to have it: {how}", file=sys.stderr)
        else:
            systems[peers.TITLES[peer]] = partial(peers.measure, peer)
    columns = HUB_COLUMNS if options.bare_hub else COLUMNS
    align = ["---:", "---", *["---:"] * (len(columns) - 2)]
    table = [f"| {' | '.join(cells)} |" for cells in (columns, align)]
    for concurrency in map(int, options.concurrency.split(",")):
        calls = options.calls if concurrency > 1 else max(1, options.calls // 10)
        rounds = []
        for number in range(options.rounds):
            print(f"concurrency {concurrency}, round {number + 1}", file=sys.stderr, flush=True)
            rounds.append({name: run(concurrency, calls) for name, run in systems.items()})
        table += (hub_rows if options.bare_hub else rows)(concurrency, rounds)
    print("\n".join(table))


if __name__ == "__main__":
    main()
