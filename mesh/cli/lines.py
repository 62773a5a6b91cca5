"""Where the keys of a TOML document stand, for whoever has to say what is wrong with one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEADING = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


def find_lines(text: str) -> dict[str, int]:
    """The line of each key and table of a TOML document, which `tomllib` does not tell.

    Keys of an inline table are not found: theirs is the line of the table.
    """
    found: dict[str, int] = {}
    table, quote = "", ""
    for number, line in enumerate(text.split("\n"), 1):
        if quote:  # inside a text of several lines
            quote = "" if line.count(quote) % 2 else quote
            continue
        if heading := _HEADING.match(line):
            table = _plain(heading[1])
            found.setdefault(table, number)
            table += "."
        elif key := _KEY.match(line):
            found.setdefault(table + _plain(key[1]), number)
        quote = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")
    return found


def _plain(path: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in path.split("."))


def line_of(lines: Mapping[str, int], path: str) -> int:
    """The line of a key, or of the nearest table around it; 0 where neither is found."""
    while path:
        if path in lines:
            return lines[path]
        path = path.rpartition(".")[0]
    return 0
