"""Prints the drawing of a kept trace: in colours and clipped on a terminal, whole in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from rich.text import Text

from mesh_telemetry import Drawing, TraceSummary, WaterfallRow
from mesh_telemetry.drawing import WIDTH
from mesh_telemetry.texts import ASCII, UNICODE, Look

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from mesh_telemetry.texts import Line, Signs

STYLES = {
    Look.PLAIN: "",
    Look.STRONG: "bold",
    Look.FAINT: "dim",
    Look.GOOD: "green",
    Look.BAD: "red",
    Look.WORST: "bold red",
    Look.ODD: "yellow",
    Look.ADDED: "cyan",
}


def signs_of(console: Console) -> Signs:
    """Signs that this output can show."""
    return UNICODE if "utf" in console.encoding.lower() else ASCII


def draw(console: Console, told: dict[str, Any], *, whole: bool = False) -> None:
    """Print a kept trace.

    Args:
        console: Where to.
        told: What the method `mesh.trace` tells with the format ``waterfall``.
        whole: Whether every span has a line of its own, and not every call.
    """
    drawing = Drawing(
        msgspec.convert(told["summary"], TraceSummary),
        msgspec.convert(told["rows"], list[WaterfallRow]),
        width=console.width if console.is_terminal else WIDTH,
        signs=signs_of(console),
        clips=console.is_terminal,
        whole=whole,
    )
    print_lines(console, drawing.lines())


def print_lines(console: Console, lines: Iterable[Line]) -> None:
    """Print lines whose parts have looks, without spaces at their ends."""
    for line in lines:
        text = Text.assemble(*((part.text, STYLES[part.look]) for part in line))
        text.rstrip()
        console.print(text, soft_wrap=True)
