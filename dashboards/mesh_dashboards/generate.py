"""Writes what is shipped: ``python -m mesh_dashboards.generate``, or ``make dashboards``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from mesh_dashboards.gateway import gateway
from mesh_dashboards.objectives import objectives
from mesh_dashboards.overview import overview
from mesh_dashboards.service import service

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

SHIPPED = Path(__file__).parent / "shipped"


def generated() -> dict[str, str]:
    """What each file of ``shipped/`` shall hold, by its name."""
    boards = (overview(), service(), gateway(), objectives())
    return {
        f"{board.uid}.json": json.dumps(_visible(board), indent=1, sort_keys=True) + "\n"
        for board in boards
    }


def _visible(board: Dashboard) -> dict[str, Any]:
    """A dashboard as JSON, with its links and marks where they can be seen.

    The SDK's model puts both into a menu, always: it has no value for the place above the panels.
    """
    told: dict[str, Any] = json.loads(json.dumps(board, cls=JSONEncoder))
    for one in (*told["links"], *told["annotations"]["list"]):
        del one["placement"]
    return told


def main() -> None:
    """Write them all again."""
    for name, text in generated().items():
        (SHIPPED / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
