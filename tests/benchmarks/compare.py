"""The mesh against a bare hub, in turn and in one run: the table in the README.

    python tests/benchmarks/compare.py --rounds 5

Each figure is the median of the rounds with its smallest and largest value; each ratio is taken
within a round, since machines drift. Nothing here is a test: being slow fails nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import bare_hub

from mesh.cli.bench import own

PARAMS = {"userId": "123"}


def median(values: list[float], digits: int = 2) -> str:
    """The median, and the spread in brackets."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def rows(concurrency: int, rounds: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """The table's lines for one concurrency."""

    def both(key: str, digits: int) -> str:
        hub = median([hub[key] for hub, _ in rounds], digits)
        mesh = median([mesh[key] for _, mesh in rounds], digits)
        ratio = median([mesh[key] / hub[key] for hub, mesh in rounds])
        return f"{hub} | {mesh} | {ratio}"

    return [
        f"| {concurrency} | calls per second | {both('calls_per_second', 0)} |",
        f"| {concurrency} | p50, us | {both('p50_us', 0)} |",
        f"| {concurrency} | gateway CPU per call, us | {both('gateway_cpu_us_per_call', 1)} |",
    ]


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--concurrency", default="1,16,64,256")
    parser.add_argument("--calls", type=int, default=30000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    table = [
        "| concurrency | figure | bare hub | spanmesh | ratio |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    for concurrency in map(int, options.concurrency.split(",")):
        calls = options.calls if concurrency > 1 else max(1, options.calls // 10)
        rounds = []
        for number in range(options.rounds):
            print(f"concurrency {concurrency}, round {number + 1}", file=sys.stderr, flush=True)
            hub = bare_hub.measure(concurrency, calls)
            mesh = own.measure(concurrency, calls, PARAMS, lambda _: None)
            if mesh["errors"]:
                raise SystemExit(f"calls failed: {mesh['errors']}")
            rounds.append((hub, mesh))
        table += rows(concurrency, rounds)
    print("\n".join(table))


if __name__ == "__main__":
    main()
