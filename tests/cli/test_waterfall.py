"""How the drawing of a trace gets to a terminal and to a pipe."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from mesh.cli.waterfall import draw
from mesh_telemetry import Drawing, TraceSummary
from mesh_telemetry.texts import to_text
from tests.telemetry.rows import SUMMARY, nested, tree


def printed(*, encoding: str = "utf-8", **how: object) -> str:
    """What is printed of a trace."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    told = {"summary": SUMMARY, "rows": msgspec.to_builtins(tree(*nested()))}
    draw(Console(file=file, **how), told)  # type: ignore[arg-type]
    file.seek(0)
    return file.read()


def test_a_pipe_gets_the_plain_drawing() -> None:
    drawing = Drawing(msgspec.convert(SUMMARY, TraceSummary), tree(*nested()))
    assert printed(width=40) == "".join(f"{to_text(line)}\n" for line in drawing.lines())


def test_without_unicode_it_is_drawn_with_ascii() -> None:
    assert "`- payments.charge" in printed(encoding="ascii")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_gets_colours_and_no_line_that_wraps(width: int) -> None:
    plain = printed(force_terminal=True, color_system=None, width=width)
    assert max(map(len, plain.splitlines())) <= width
    coloured = printed(force_terminal=True, color_system="standard", width=width)
    assert "\x1b[32m" in coloured
