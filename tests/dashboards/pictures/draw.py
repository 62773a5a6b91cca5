"""Draws all dashboards: ``python -m tests.dashboards.pictures.draw``, or ``make pictures``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from PIL import Image

from tests.dashboards.pictures.asking import Window, answered
from tests.dashboards.pictures.day import LASTS, SCRAPES, day
from tests.dashboards.pictures.drawing import page, picture, size
from tests.dashboards.reading import BOARDS

if TYPE_CHECKING:
    from tests.end_to_end.prometheus import Prometheus

PICTURES = Path(__file__).parents[3] / "dashboards" / "pictures"
BEFORE = 5
"""Seconds that are shown before it began."""
VARIABLES = {
    "$__rate_interval": "20s",
    "$__range": f"{LASTS:.0f}s",
    "$job": ".+",
    "$instance": ".+",
    "$service": ".+",
    "$method": ".+",
    "$peer": ".+",
    "$slo": ".+",
}
CHOSEN = {
    "mesh-service": {"$service": "orders", "$peer": "orders-.:9465"},
    "mesh-objectives": {"$method": "get|reserve|charge|place"},
}


async def draw(server: Prometheus, start: float, folder: Path) -> None:
    """Draw each dashboard from what is known since a Unix time, in both themes."""
    window = Window(start, time.time(), SCRAPES)
    for uid, board in BOARDS.items():
        answers = await answered(server, board, window, VARIABLES | CHOSEN.get(uid, {}))
        for theme in ("dark", "light"):
            file = PICTURES / f"{uid}-{theme}.png"
            seen = await picture(page(answers, theme), folder, file, size(board))
            # 256 colours are enough, and take a third of the room. Without further rounds, those
            # of thin lines would be lost.
            with Image.open(file) as drawn:
                small = drawn.quantize(256, kmeans=2, dither=Image.Dither.NONE)
                small.save(file, optimize=True)
            empty = [title for title, has_data in seen.panels if not has_data]
            print(f"{file.name}: {file.stat().st_size / 1024:.0f} KiB, without data: {empty}")
            if not seen.is_drawn:
                sys.exit(seen.log)


async def main() -> None:
    """Let a shop's day go by, and draw what it was like."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.time() - BEFORE
        async with day(folder) as (server, go_by):
            await go_by()
            await draw(server, start, folder)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    trio.run(main)
