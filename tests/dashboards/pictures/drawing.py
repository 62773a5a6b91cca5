"""From answers to a picture: a page that draws them with echarts, and Chromium that takes it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio

from tests.programs import program

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
ECHARTS = HERE.parents[2] / ".venv/node/node_modules/echarts/dist/echarts.min.js"
WIDTH = 1366
"""Pixels: a laptop's."""
_HEADER, _ROW, _GAP, _MARGIN = 64, 30, 8, 12
"""Pixels, as in `page.js`."""
_OFFLINE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Taken(NamedTuple):
    """What Chromium made of a page."""

    dom: str
    """The page after its scripts have run."""
    log: str
    """What Chromium wrote, the page's own errors among it."""

    @property
    def panels(self) -> list[tuple[str, bool]]:
        """The titles of the panels that were drawn, and whether they had data."""
        found = re.findall(r'<section class="panel( empty)?" data-title="([^"]*)"', self.dom)
        return [(title, not empty) for empty, title in found]

    @property
    def errors(self) -> list[str]:
        """What the page's scripts complained of."""
        return [line for line in self.log.splitlines() if ":CONSOLE" in line]

    @property
    def is_drawn(self) -> bool:
        """Whether the page's script came to its end."""
        return bool(re.search(r'<body[^>]* data-drawn="\d+"', self.dom))


def echarts() -> Path:
    """The library's file; where it is missing, tests are skipped, or fail in CI."""
    if not ECHARTS.exists():
        reason = "echarts is not installed: make .venv/.receivers"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return ECHARTS


def size(board: dict[str, Any]) -> tuple[int, int]:
    """Width and height of a dashboard's picture, in pixels."""
    lowest = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in board["panels"])
    return WIDTH, _HEADER + lowest * (_ROW + _GAP) + _MARGIN


def page(answers: dict[str, Any], theme: str) -> str:
    """The page that draws a dashboard.

    Args:
        answers: What :func:`~tests.dashboards.pictures.asking.answered` found.
        theme: ``dark`` or ``light``.
    """
    told = json.dumps(answers).replace("<", "\\u003c")
    return (
        f'<!doctype html><meta charset="utf-8"><title>{answers["title"]}</title>'
        f"<style>{(HERE / 'page.css').read_text()}</style>"
        f'<body class="{theme}"><script type="application/json" id="data">{told}</script>'
        f'<script src="{echarts().as_uri()}"></script>{scripts("units.js", "page.js")}</body>'
    )


def scripts(*names: str) -> str:
    """Scripts of this folder, for a page."""
    return "".join(f"<script>{(HERE / name).read_text()}</script>" for name in names)


async def taken(html: str, folder: Path, *arguments: str) -> Taken:
    """Show a page to Chromium, which reaches no network, and return what became of it.

    Args:
        html: The page.
        folder: Where Chromium's files are.
        arguments: Further ones.
    """
    file = folder / "page.html"
    file.write_text(html)
    run = await trio.run_process(
        [
            program("chromium", "chromium"),
            *_OFFLINE,
            f"--user-data-dir={folder / 'chromium'}",
            *("--enable-logging=stderr", "--dump-dom"),
            *arguments,
            file.as_uri(),
        ],
        capture_stdout=True,
        capture_stderr=True,
        env={**os.environ, "TZ": "UTC"},
    )
    return Taken(run.stdout.decode(), run.stderr.decode())


async def picture(html: str, folder: Path, file: Path, pixels: Sequence[int]) -> Taken:
    """The same, and a PNG of so many pixels, width and height, in a file."""
    return await taken(
        html,
        folder,
        *("--hide-scrollbars", "--force-device-scale-factor=1", f"--screenshot={file}"),
        f"--window-size={pixels[0]},{pixels[1]}",
    )
