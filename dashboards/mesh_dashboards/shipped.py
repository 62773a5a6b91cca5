"""Reads what is shipped with the package: dashboards, rules and runbooks."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

ADMIN = "http://127.0.0.1:9464"
"""Where shipped dashboards look for a gateway's API until they are told otherwise."""


def boards(admin: str = ADMIN) -> dict[str, dict[str, Any]]:
    """Every dashboard as Grafana's JSON, by its uid.

    Args:
        admin: Where browsers reach a gateway's admin address.
    """
    found = {}
    for name, text in _texts("shipped", ".json"):
        board = json.loads(text)
        for variable in board["templating"]["list"]:
            if variable["name"] == "admin":
                variable["query"] = admin
                variable["current"].update(text=admin, value=admin)
        found[name.removesuffix(".json")] = board
    return found


def rules() -> dict[str, str]:
    """Every file of rules for Prometheus, by its name."""
    return dict(_texts("shipped", ".yml"))


def runbooks() -> dict[str, str]:
    """Every runbook's page, by its file's name."""
    return dict(_texts("runbooks", ".md"))


def _texts(folder: str, ending: str) -> list[tuple[str, str]]:
    inside: Traversable = files("mesh_dashboards") / folder
    if not inside.is_dir():
        return []
    return sorted(
        (file.name, file.read_text(encoding="utf-8"))
        for file in inside.iterdir()
        if file.name.endswith(ending)
    )
