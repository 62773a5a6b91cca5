"""Text for people, free of any output: durations, figures, and lines whose parts have a look.

What a look is (a colour, say) is the business of whoever prints the lines; to a plain text it is
nothing.
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum
from typing import NamedTuple, TypeAlias

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_DRAWN = re.compile(f"[ -~\N{BOX DRAWINGS LIGHT HORIZONTAL}-\N{QUADRANT LOWER LEFT}{ELLIPSIS}]*")


class Look(Enum):
    """What a part of a line is, for those who can show it."""

    PLAIN = "plain"
    STRONG = "strong"
    FAINT = "faint"
    GOOD = "good"
    BAD = "bad"
    WORST = "worst"
    ODD = "odd"
    ADDED = "added"
    """By users' code."""


class Part(NamedTuple):
    """A piece of a line."""

    text: str
    look: Look = Look.PLAIN


Line: TypeAlias = list[Part]


class Signs(NamedTuple):
    """What trees and bars are drawn with."""

    between: str
    last: str
    onwards: str
    own: str
    waiting: str
    way: str
    unseen: str
    absent: str
    moment: str
    good: str
    bad: str
    dot: str
    times: str


UNICODE = Signs(
    "├─ ", "└─ ", "│  ", "█", "░", "─", "▒", "┄", "▏", "✓", "✗", "•", "\N{MULTIPLICATION SIGN}"
)
ASCII = Signs("|- ", "`- ", "|  ", "#", ".", "-", "?", "=", "|", "+", "!", "*", "x")


def to_text(line: Line) -> str:
    """The line as plain text, without spaces at its end."""
    return "".join(part.text for part in line).rstrip()


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return len(text) if _is_narrow(text) else sum(map(_cell, text))


def _is_narrow(text: str) -> bool:
    """Whether each character surely takes one column."""
    return text.isascii() or _DRAWN.fullmatch(text) is not None


def _cell(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(line: Line, width: int) -> Line:
    """The line at most so many columns wide; an ellipsis stands for what is missing."""
    if sum(cells(part.text) for part in line) <= width:
        return line
    shown: Line = []
    room = width - 1
    for text, look in line:
        if _is_narrow(text):
            if len(text) > room:
                return [*shown, Part(text[:room] + ELLIPSIS, look)]
            room -= len(text)
        else:
            for at, char in enumerate(text):
                room -= _cell(char)
                if room < 0:
                    return [*shown, Part(text[:at] + ELLIPSIS, look)]
        shown.append(Part(text, look))
    return shown


def fit(line: Line, width: int) -> Line:
    """The line at exactly this width."""
    shown = cut(line, width)
    return [*shown, Part(" " * (width - sum(cells(part.text) for part in shown)))]


def shorten(text: str, width: int) -> str:
    """A text of at most so many characters; both ends stay, as names often differ in the last."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    tail = width - 1 - head
    return f"{text[:head]}{ELLIPSIS}{text[len(text) - tail :]}"


def duration(seconds: float | None) -> str:
    """A duration in the unit that reads best; nothing is a dash."""
    if seconds is None:
        return "-"
    # As they are rounded: 999.96 ms is 1.00 s and no 1000.0 ms.
    ms = seconds * 1e3
    if round(ms, 1) < 1000:
        return f"{ms:.1f} ms" if round(ms, 2) >= 10 else f"{ms:.2f} ms"
    rounded = round(seconds, 2)
    if rounded < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(rounded), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s"


def milliseconds(ms: float) -> str:
    """The same for milliseconds."""
    return duration(ms / 1e3)


def further(entry_calls: int) -> str:
    """What stands behind the name of the first of several entry calls."""
    return f" +{entry_calls - 1:,}" if entry_calls > 1 else ""


def figure(ms: float | None) -> str:
    """Milliseconds as columns show them, without a unit; empty where they are unknown."""
    if ms is None:
        return ""
    # As they are rounded: 999.96 is 1,000 and no 1000.0.
    if round(ms, 1) >= 1000:
        return f"{ms:,.0f}"
    return f"{ms:.1f}" if round(ms, 2) >= 10 else f"{ms:.2f}"


def count_spans(count: int) -> str:
    """So many spans."""
    return "1 span" if count == 1 else f"{count:,} spans"
