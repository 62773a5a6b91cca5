"""Reads the dashboards that are shipped with the package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

ADMIN = "http://127.0.0.1:9464"
"""Where shipped dashboards look for a gateway's API until they are told otherwise."""


def boards(admin: str = ADMIN) -> dict[str, dict[str, Any]]:
    """Every dashboard as Grafana's JSON, by its uid.

    Args:
        admin: Where browsers reach a gateway's admin address.
    """
    found = {}
    inside = files(__package__) / "shipped"
    for file in sorted(inside.iterdir(), key=lambda one: one.name):
        uid, _, ending = file.name.rpartition(".")
        if ending != "json":
            continue
        board = json.loads(file.read_text(encoding="utf-8"))
        for variable in board["templating"]["list"]:
            if variable["name"] == "admin":
                variable["query"] = admin
                variable["current"].update(text=admin, value=admin)
        found[uid] = board
    return found
