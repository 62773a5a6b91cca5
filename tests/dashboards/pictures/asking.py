"""What a dashboard's panels ask Prometheus, and the answers in the form in which they are drawn."""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.dashboards.reading import filled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.end_to_end.prometheus import Prometheus

    Points = list[tuple[float, float | None]]
    """Values by time, in milliseconds since 1970; None where there is none."""


class Window(NamedTuple):
    """The time that is shown, in seconds since 1970."""

    start: float
    end: float
    step: float
    """Between two points, in seconds."""

    @property
    def stamps(self) -> list[float]:
        """The points' times."""
        count = int((self.end - self.start) / self.step + 1e-6) + 1
        return [self.start + self.step * number for number in range(count)]


async def answered(
    server: Prometheus, board: dict[str, Any], window: Window, variables: Mapping[str, str]
) -> dict[str, Any]:
    """All that a page needs to draw this dashboard.

    Args:
        server: Who is asked.
        board: The dashboard's JSON.
        window: The time that is shown.
        variables: What its variables are, and Grafana's own, by ``$name``.
    """
    asking = _Asking(server, window, variables)
    return {
        "title": board["title"],
        "chosen": [
            (one["label"], value if value.isidentifier() else "All")
            for one in board["templating"]["list"]
            if one["type"] == "query" and (value := variables[f"${one['name']}"])
        ],
        "from": window.start * 1000,
        "to": window.end * 1000,
        "panels": [await asking.panel(panel) for panel in board["panels"]],
        "annotations": [await asking.marks(one) for one in board["annotations"]["list"]],
    }


class _Asking(NamedTuple):
    server: Prometheus
    window: Window
    variables: Mapping[str, str]

    async def panel(self, panel: dict[str, Any]) -> dict[str, Any]:
        """The panel with its ``series`` and ``exemplars``, its ``table`` or its ``graph``."""
        kind, targets = panel["type"], panel.get("targets", ())
        if kind == "table":
            return panel | {"table": _table(panel, await self._frames(targets))}
        if kind == "nodeGraph":
            return panel | {"graph": _graph(panel, await self._frames(targets))}
        series = [one for target in targets for one in await self._series(target)]
        exemplars = [
            point
            for target in targets
            if target.get("exemplar")
            for point in await self._exemplars(target)
        ]
        return panel | {"series": series, "exemplars": sorted(set(exemplars))}

    async def marks(self, annotation: dict[str, Any]) -> dict[str, Any]:
        """An annotation's colour, and from when to when it is to be seen, in milliseconds."""
        return {
            "color": annotation["iconColor"],
            "spans": [
                span
                for one in await self._series(annotation["target"])
                for span in (
                    _moments(one["points"])
                    if annotation.get("useValueForTime")
                    else _spans(one["points"])
                )
                if span[0] >= self.window.start * 1000
            ],
        }

    async def _series(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        found = await self.server.matrix(filled(target["expr"], self.variables), *self.window)
        return [
            {"name": _legend(target, labels), "points": self._aligned(values)}
            for labels, values in found
        ]

    def _aligned(self, values: Mapping[float, float]) -> Points:
        by_step = {
            round((at - self.window.start) / self.window.step): value
            for at, value in values.items()
            if isfinite(value)
        }
        return [(at * 1000, by_step.get(n)) for n, at in enumerate(self.window.stamps)]

    async def _exemplars(self, target: dict[str, Any]) -> list[tuple[float, float]]:
        found = await self.server.exemplars(
            filled(target["expr"], self.variables), since=self.window.start
        )
        return [(float(one["timestamp"]) * 1000, float(one["value"])) for _, one in found]

    async def _frames(self, targets: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Rows by query: each a series' labels, and its value as Grafana calls it."""
        return {
            (ref := target["refId"]): [
                {**labels, f"Value #{ref}": value if isfinite(value) else None}
                for labels, value in await self.server.vector(
                    filled(target["expr"], self.variables), at=self.window.end
                )
            ]
            for target in targets
        }


def _legend(target: dict[str, Any], labels: Mapping[str, str]) -> str:
    form = target.get("legendFormat", "")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)


def _moments(points: Points) -> list[tuple[float, float]]:
    """Where the values are the times."""
    return [(value, value) for value in sorted({v for _, v in points if v is not None})]


def _spans(points: Points) -> list[tuple[float, float]]:
    """From when to when the values are not zero."""
    spans: list[tuple[float, float]] = []
    is_open = False
    for at, value in points:
        if value:
            spans[-1:] = [(spans[-1][0], at)] if is_open else [*spans[-1:], (at, at)]
        is_open = bool(value)
    return spans


def _organized(panel: dict[str, Any]) -> dict[str, str]:
    """New names of fields by old ones, in the order in which they are shown."""
    options = next(one["options"] for one in panel["transformations"] if one["id"] == "organize")
    renamed: dict[str, str] = options["renameByName"]
    order = options.get("indexByName", {})
    return dict(sorted(renamed.items(), key=lambda item: order.get(item[0], 0)))


def _table(panel: dict[str, Any], frames: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Rows with equal labels become one, as by the transformation ``merge``."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in (row for rows in frames.values() for row in rows):
        key = tuple(sorted(item for item in row.items() if not item[0].startswith("Value")))
        merged.setdefault(key, {}).update(row)
    columns = _organized(panel)
    if len(frames) == 1:  # Grafana names the value of a query alone so.
        (ref,) = frames
        merged = {
            key: {"Value" if name == f"Value #{ref}" else name: v for name, v in row.items()}
            for key, row in merged.items()
        }
    return {
        "columns": list(columns.values()),
        "rows": [[row.get(name) for name in columns] for row in merged.values()],
    }


def _graph(panel: dict[str, Any], frames: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Rows with a new field, the sum of their numbers."""
    (added,) = (one["options"] for one in panel["transformations"] if one["id"] == "calculateField")
    return {
        ref: [{**row, added["alias"]: row[f"Value #{ref}"]} for row in rows]
        for ref, rows in frames.items()
    }
