"""How commands print: coloured and aligned on a terminal, plain and unwrapped in a pipe."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from mesh_telemetry.logs import clean
from mesh_telemetry.texts import shorten

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence


_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""DEL and C1, the separators of lines, and what turns the direction of text around."""


SHORTEST = 15
"""Characters of a name that are worth a column."""


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: brackets are no markup, numbers are not coloured."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """Print one JSON document on one line, for programs."""
    sys.stdout.write(to_json(value) + "\n")
    sys.stdout.flush()


def to_json(value: Any, *, indent: int = 0) -> str:
    """JSON of any value that a call returned. What JSON cannot say is shown as Python does.

    Control characters beyond ASCII, which JSON lets pass and terminals obey, are escaped as well.
    """
    text = msgspec.json.encode(_with_text_keys(value), enc_hook=repr)
    told = (msgspec.json.format(text, indent=indent) if indent else text).decode()
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", told)


def _with_text_keys(value: Any) -> Any:
    """The value with keys that JSON allows: MessagePack also takes bytes, floats, true and nil."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else _key(key): _with_text_keys(one)
            for key, one in value.items()
        }
    return [_with_text_keys(one) for one in value] if isinstance(value, (list, tuple)) else value


def _key(key: Any) -> str:
    text = to_json(key)
    return str(msgspec.json.decode(text)) if text.startswith('"') else text


def print_value(console: Console, value: Any) -> None:
    """Print a value as JSON for people."""
    text = Text(clean(to_json(value, indent=2)))
    JSONHighlighter().highlight(text)
    console.print(text, soft_wrap=True)


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    figures: Container[str],
    whole: Container[str] = (),
) -> None:
    """Print rows under a heading. In a pipe, columns are at least two spaces apart.

    Args:
        console: Where to.
        columns: Headings.
        rows: A cell for each column.
        figures: The columns that hold figures, which line up at their ends.
        whole: The columns that stay in one line, as people copy what stands there.
    """
    if console.is_terminal:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(
                column.upper(),
                justify="right" if column in figures else "left",
                overflow="fold",
                no_wrap=column in figures or column in whole,
            )
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    texts = [[column.upper() for column in columns], *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*texts, strict=True)]
    for line in texts:
        padded = (
            cell.rjust(width) if name in figures else cell.ljust(width)
            for cell, width, name in zip(line, widths, columns, strict=True)
        )
        print("  ".join(padded).rstrip())


def share_width(wanted: Mapping[str, int], room: int) -> dict[str, int]:
    """Widths for columns that must share a room: the widest give way first, to at least one."""
    widths = dict(wanted)
    while sum(widths.values()) > room and max(widths.values()) > 1:
        widths[max(widths, key=lambda name: widths[name])] -= 1
    return widths


def fit_columns(
    columns: Sequence[str],
    rows: list[list[str | Text]],
    width: int,
    *,
    names: Container[str],
    spare: Sequence[str] = (),
) -> tuple[tuple[str, ...], list[list[str | Text]]]:
    """The columns that a terminal has room for, and the rows with names short enough for them.

    Args:
        columns: Headings.
        rows: A cell for each column.
        width: Characters of the terminal.
        names: The columns that may be shortened.
        spare: Columns that a narrow terminal does without, the first one first.
    """
    wanted = {
        name: max(len(name), *(len(row[index]) for row in rows))
        for index, name in enumerate(columns)
    }
    shown = list(columns)
    shared = [name for name in columns if name in names]

    def room() -> int:
        return (
            width - sum(wanted[name] + 2 for name in shown if name not in names) - 2 * len(shared)
        )

    for one in spare:
        if one in shown and room() < sum(min(wanted[name], SHORTEST) for name in shared):
            shown.remove(one)
    widths = share_width({name: wanted[name] for name in shared}, room())
    fitted = [
        [
            shorten(str(cell), widths[name]) if name in widths else cell
            for name, cell in zip(columns, row, strict=True)
            if name in shown
        ]
        for row in rows
    ]
    return tuple(shown), fitted


def tell_outcome(code: str, reason: str = "") -> str:
    """An outcome in words; the reason is left out where it only repeats the code."""
    return clean(code if not reason or reason == code.upper() else f"{code} {reason}")


def outcome(code: str, reason: str = "") -> Text:
    """An outcome in its colour."""
    return Text(tell_outcome(code, reason), style="green" if code == "ok" else "red")
