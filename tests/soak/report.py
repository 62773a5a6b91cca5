"""What a soak prints: a line now and then, and a table at the end."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from tests.soak.processes import CALLERS, GATEWAY, SERVICES

if TYPE_CHECKING:
    from tests.soak.books import Book
    from tests.soak.mayhem import Mayhem
    from tests.soak.processes import Child, Fleet
    from tests.soak.watching import Watch

MIB = 1024 * 1024


def progress(seconds: float, fleet: Fleet, mayhem: Mayhem, rate: float) -> str:
    """How things stand, in one line."""
    judge, tally = fleet.judge, fleet.judge.tally
    gateway = fleet.now.get(GATEWAY)
    memory = gateway.samples[-1].memory / MIB if gateway and gateway.samples else 0.0
    good = tally.outcomes["ok"] / max(1, tally.calls) * 100
    return (
        f"{seconds:6.0f} s  {tally.calls:>10,} calls  {rate:7,.0f}/s  {good:5.1f} % ok  "
        f"p99 {tally.entry.quantile(0.99) * 1e3:5.0f} ms  {mayhem.done.total():>4} disturbances  "
        f"gateway {memory:5.1f} MiB  {judge.wrong} violations"
    )


def table(seconds: float, seed: int, fleet: Fleet, mayhem: Mayhem, watch: Watch) -> str:
    """The figures of a whole run."""
    judge, tally = fleet.judge, fleet.judge.tally
    calls = max(1, tally.calls)
    rows: list[tuple[str, str]] = [
        ("duration", f"{seconds:,.0f} s"),
        ("seed", str(seed)),
        ("calls", f"{tally.calls:,}, {tally.calls / seconds:,.0f} a second"),
        ("nested calls", f"{tally.nested / calls:.1%}"),
        *((f"  ended: {how}", f"{count:,}") for how, count in tally.outcomes.most_common()),
        (
            "latency of entry calls, p50 and p99",
            f"{tally.entry.quantile(0.5) * 1e3:.1f} ms, {tally.entry.quantile(0.99) * 1e3:.1f} ms",
        ),
        ("payload sent and received", f"{tally.moved / MIB:,.0f} MiB"),
        ("through the gateways, in and out", f"{watch.moved / MIB:,.0f} MiB"),
        *((f"  {what}", f"{count:,}") for what, count in sorted(mayhem.done.items())),
        ("connections to a further gateway", f"{tally.reconnects:,}"),
        ("recovery after a gateway's kill, median and most", _recovery(mayhem.recoveries)),
        ("latest end of a call after its deadline", f"{tally.lateness:.3f} s"),
        ("longest lag of a caller's own loop", f"{tally.lag:.3f} s"),
        ("scrapes of /metrics, longest", f"{watch.scrapes:,}, {watch.longest_scrape:.3f} s"),
        *(row for book in judge.ledger.books for row in _book(book)),
        *((f"  kept traces looked at: {how}", f"{n:,}") for how, n in watch.traces.items()),
        ("most memory of any gateway", f"{_most(fleet) / MIB:.1f} MiB"),
        *_processes([*fleet.past, *fleet.now.values()]),
        ("violations", f"{judge.wrong:,}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _book(book: Book) -> list[tuple[str, str]]:
    """What a gateway counted, and how much of that is in doubt."""
    counted = sum((book.counted or {}).values())
    doubts = ", ".join(f"{count:,} {why}" for why, count in book.doubts.items()) or "none"
    return [
        (f"calls that {book.life} counted, and callers are certain of",
         f"{counted:,}, {book.certain:,}"),
        ("  in doubt", doubts),
    ]  # fmt: skip


def _recovery(recoveries: list[float]) -> str:
    if not recoveries:
        return "none"
    return f"{statistics.median(recoveries):.2f} s, {max(recoveries):.2f} s"


def _most(fleet: Fleet) -> int:
    """The most memory that a gateway had, in bytes."""
    children = [child for child in (*fleet.past, *fleet.now.values()) if child.name == GATEWAY]
    return max((one.memory for child in children for one in child.samples), default=0)


def _processes(children: list[Child]) -> list[tuple[str, str]]:
    """Of each process its longest life: what it held at its start, at most, and at its end."""
    longest: dict[str, Child] = {}
    for child in children:
        if len(child.samples) > len(longest[child.name].samples if child.name in longest else ()):
            longest[child.name] = child
    last = [child for child in children if child.name == GATEWAY][-1:]
    rows: list[tuple[str, str]] = []
    for child in (*last, *(longest[name] for name in (*SERVICES, *CALLERS) if name in longest)):
        if not child.samples:
            continue
        memory = [sample.memory / MIB for sample in child.samples]
        files = [sample.files for sample in child.samples]
        held = ", ".join(f"{one:.1f}" for one in (memory[0], max(memory), memory[-1]))
        opened = f"{files[0]}, {max(files)}, {files[-1]}"
        what = f"  {child.life}: memory, files at start, most, end"
        rows.append((what, f"{held} MiB; {opened}; in {len(memory)} s"))
    return rows
