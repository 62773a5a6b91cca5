"""Reads the dashboards that are shipped with the package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

ADMIN = "http://127.0.0.1:9464"
"""Where shipped dashboards look for a gateway's API until they are told otherwise."""
TRACES = "mesh-traces"
"""The uid that the data source of traces has in shipped dashboards."""


def boards(admin: str = ADMIN, traces: str | None = TRACES) -> dict[str, dict[str, Any]]:
    """Every dashboard as Grafana's JSON, by its uid.

    Args:
        admin: Where browsers reach a gateway's admin address.
        traces: The uid of the Tempo data source, or None without one: no link leads there then.
    """
    found = {}
    inside = files(__package__) / "shipped"
    for file in sorted(inside.iterdir(), key=lambda one: one.name):
        uid, _, ending = file.name.rpartition(".")
        if ending != "json":
            continue
        board = json.loads(file.read_text(encoding="utf-8"))
        _set(board, "admin", admin.rstrip("/"))
        if traces is None:
            _forget_traces(board)
        else:
            _set(board, "traces", traces)
        found[uid] = board
    return found


def _set(board: dict[str, Any], name: str, value: str) -> None:
    for variable in board["templating"]["list"]:
        if variable["name"] == name:
            variable["query"] = value
            variable["current"].update(text=value, value=value)


def _forget_traces(board: dict[str, Any]) -> None:
    variables = board["templating"]["list"]
    variables[:] = [one for one in variables if one["name"] != "traces"]
    for panel in board["panels"]:
        for override in panel.get("fieldConfig", {}).get("overrides", ()):
            for links in (one["value"] for one in override["properties"] if one["id"] == "links"):
                links[:] = [link for link in links if "${traces}" not in link["url"]]
