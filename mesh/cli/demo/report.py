"""What the mesh saw: one order as a tree of hops, and a table of all methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rich.padding import Padding
from rich.text import Text

from mesh.cli.output import duration, print_table
from mesh_telemetry.logs import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from mesh.cli.demo.orders import Played

Record = dict[str, Any]
"""One ended call, as the gateway's method `mesh.records` tells it."""

_LONGEST_BAR = 60


class Glyphs(NamedTuple):
    """What trees and bars are drawn with."""

    between: str
    last: str
    onwards: str
    bar: str
    moment: str
    good: str
    bad: str


_UNICODE = Glyphs("├─ ", "└─ ", "│  ", "█", "▏", "✓", "✗")
_ASCII = Glyphs("|- ", "`- ", "|  ", "#", "|", "+", "!")


def glyphs(console: Console) -> Glyphs:
    """Signs that this output can show."""
    return _UNICODE if "utf" in console.encoding.lower() else _ASCII


def nested_success(played: Sequence[Played]) -> Played | None:
    """An order that went well, through as many hops as there are."""
    good = [one for one in played if one.outcome.code == "ok"]
    boxed = [one for one in good if str(one.order.params["sku"]).endswith("-set")]
    return (boxed or good or [None])[0]  # type: ignore[list-item]


def telling_failure(played: Sequence[Played]) -> Played | None:
    """An order whose failure only the tree explains: a loop if there is one, else the first."""
    bad = [one for one in played if one.outcome.code != "ok"]
    loops = [one for one in bad if one.outcome.reason == "LOOP_DETECTED"]
    return (loops or bad or [None])[0]  # type: ignore[list-item]


def arrange(records: Iterable[Record]) -> list[tuple[tuple[bool, ...], Record]]:
    """Records from the top of the tree down, each with whether it and its forebears are last."""
    children: dict[int, list[Record]] = {}
    known = {record["call_id"]: record for record in records}
    for record in known.values():
        parent = record["parent_id"] if record["parent_id"] in known else 0
        children.setdefault(parent, []).append(record)
    lines: list[tuple[tuple[bool, ...], Record]] = []

    def descend(parent: int, above: tuple[bool, ...]) -> None:
        below = sorted(children.get(parent, ()), key=lambda record: record["started"])
        for number, record in enumerate(below, 1):
            path = (*above, number == len(below))
            lines.append((path, record))
            descend(record["call_id"], path)

    descend(0, ())
    return lines


def print_tree(console: Console, played: Played, records: Sequence[Record]) -> None:
    """Print one order hop by hop: how long each took, when, and how it ended."""
    lines = arrange(records)
    if not lines:
        return
    signs = glyphs(console)
    what = f"{played.order.params['quantity']} x {played.order.params['sku']}"
    heading = f"{played.order.id}: {what} for {played.order.params['user']}"
    console.print(Text(clean(heading), style="bold"), soft_wrap=True)

    labels = [_branch(path, signs) for path, _ in lines]
    names = [f"{record['service']}.{record['method']}" for _, record in lines]
    ends = [record["reason"] or record["code"] for _, record in lines]
    width = max(len(label + name) for label, name in zip(labels, names, strict=True))
    widest_end = max(map(len, ends))
    total_width = console.width if console.is_terminal else 100
    room = min(_LONGEST_BAR, max(8, total_width - width - widest_end - 16))
    start = min(record["started"] for _, record in lines)
    span = max(record["started"] + record["duration"] for _, record in lines) - start or 1e-9
    for label, name, end, (_, record) in zip(labels, names, ends, lines, strict=True):
        colour = "green" if record["code"] == "ok" else "red"
        line = Text.assemble(
            ("  " + label, "dim"),
            (clean(name), "bold" if record["depth"] == 1 else ""),
            " " * (width - len(label + name) + 2),
            f"{'refused' if record['refused'] else duration(record['duration']):>8}  ",
            (f"{clean(end):<{widest_end}}  ", colour),
            (_bar(record, start, span, room, signs), colour),
        )
        line.rstrip()
        console.print(line, soft_wrap=True)
    if played.message:
        text = Text.assemble(("why: ", "bold"), clean(played.message))
        if console.is_terminal:
            console.print(Padding(text, (0, 2)))
        else:
            console.print("  ", text, sep="", soft_wrap=True)


def _branch(path: tuple[bool, ...], signs: Glyphs) -> str:
    if len(path) == 1:
        return ""
    above = "".join("   " if last else signs.onwards for last in path[1:-1])
    return above + (signs.last if path[-1] else signs.between)


def _bar(record: Record, start: float, span: float, room: int, signs: Glyphs) -> str:
    """When within the order it ran, and for how long."""
    first: int = min(room - 1, int((record["started"] - start) / span * room))
    if record["refused"]:
        return " " * first + signs.moment
    length: int = max(1, round(record["duration"] / span * room))
    return " " * first + signs.bar * min(length, room - first)


def print_methods(console: Console, methods: Sequence[dict[str, Any]]) -> None:
    """Print what the gateway counted of every method that was called."""
    rows: list[list[str | Text]] = []
    service = ""
    for row in methods:
        if not row["calls"]:
            continue
        errors = sum(row["errors"].values())
        is_new = row["service"] != service or not console.is_terminal
        service = row["service"]
        rows.append(
            [
                Text(clean(service) if is_new else "", style="bold cyan"),
                clean(row["method"]),
                str(row["calls"]),
                Text(str(errors), style="red" if errors else "dim"),
                duration(row["p50"]),
                duration(row["p99"]),
            ]
        )
    figures = ("calls", "errors", "p50", "p99")
    print_table(console, ("service", "method", *figures), rows, figures=figures)
    console.print("p50 and p99 are estimated from the histograms on /metrics", style="dim")
