"""What is in a dashboard's JSON: panels, queries, variables, and which metrics they read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from mesh_dashboards import shipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BOARDS = shipped.boards()

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_NAME = re.compile(r"(?<![\w$:.])([a-zA-Z_:][\w:]*)\s*(\{|\(|\[)?")
_SELECTOR = re.compile(r'([a-zA-Z_:][\w:]*)\{((?:[^{}"]|"(?:[^"\\]|\\.)*")*)\}')
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"')
_LABELS = re.compile(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^()]*\)")
_WORDS = {"or", "and", "unless", "bool", "offset", "inf", "nan"}
_PARTS = ("_bucket", "_sum", "_count")


class Query(NamedTuple):
    """One target of one panel."""

    board: dict[str, Any]
    panel: dict[str, Any]
    target: dict[str, Any]

    @property
    def expression(self) -> str:
        return str(self.target["expr"])

    def __str__(self) -> str:
        return f"{self.board['uid']}, {self.panel['title']}, {self.target['refId']}"


class Selector(NamedTuple):
    """A metric's name and what stands between its braces."""

    name: str
    matchers: dict[str, tuple[str, str]]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels but the rows' headings."""
    return [one for one in board["panels"] if one["type"] != "row"]


def queries(board: dict[str, Any]) -> Iterator[Query]:
    """All queries of all panels."""
    for panel in panels(board):
        for target in panel.get("targets", ()):
            yield Query(board, panel, target)


def variable(board: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The variable of this name."""
    found: list[dict[str, Any]] = board["templating"]["list"]
    return next((one for one in found if one["name"] == name), None)


def filled(expression: str, variables: Mapping[str, str]) -> str:
    """An expression with values for its variables, by ``$name``."""
    for name, value in variables.items():
        expression = expression.replace(name, value)
    assert "$" not in re.sub(r'"\$\d"', "", expression), expression
    return expression


def selectors(expression: str) -> list[Selector]:
    """All series that an expression selects, those without braces, too."""
    found = [
        Selector(name, {label: (kind, value) for label, kind, value in _MATCHER.findall(inside)})
        for name, inside in _SELECTOR.findall(expression)
    ]
    rest = _LABELS.sub("", _STRING.sub('""', _SELECTOR.sub("", expression)))
    for name, opening in _NAME.findall(rest):
        if opening != "(" and name not in _WORDS and name not in {"by", "on"}:
            found.append(Selector(name, {}))
    return found


def family(name: str) -> str:
    """The metric to which a series of this name belongs."""
    for part in _PARTS:
        if name.endswith(part):
            return name.removesuffix(part)
    return name
