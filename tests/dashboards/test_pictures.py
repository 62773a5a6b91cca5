"""What the pictures of dashboards are drawn with: figures as Grafana writes them, axes, answers."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import TYPE_CHECKING, Any

from tests.dashboards.pictures import drawing
from tests.dashboards.pictures.asking import Window, _graph, _spans, _table
from tests.dashboards.reading import BOARDS, panels

if TYPE_CHECKING:
    from pathlib import Path

WRITTEN = [
    ("none", 7, None, "7"),
    ("none", 1.23456, None, "1.23"),
    ("none", 0.4, 2, "0.40"),
    ("short", 12_345, None, "12.3 K"),
    ("percentunit", 0.99654, 2, "99.65%"),
    ("percentunit", -0.5, 1, "-50.0%"),
    ("reqps", 1234.5, None, "1.23K req/s"),
    ("reqps", 0, None, "0 req/s"),
    ("cps", 0.25, None, "0.250 c/s"),
    ("s", 0, None, "0 s"),
    ("s", 0.0000123, None, "12.3 µs"),
    ("s", 0.175, None, "175 ms"),
    ("s", 6.6, 1, "6.6 s"),
    ("s", 130, None, "2.17 mins"),
    ("s", 7200, 0, "2 hours"),
    ("bytes", 1536, None, "1.50 KiB"),
    ("bytes", 512, None, "512 B"),
    ("binBps", 3 * 1024 * 1024, None, "3 MiB/s"),
]
AXES = [
    (0, 132, "reqps", {"step": 50, "from": 0, "to": 150}),
    (0.985, 1, "percentunit", {"step": 0.005, "from": 0.985, "to": 1}),
    (0, 0, "none", {"step": 0.25, "from": 0, "to": 1}),
    (0, 100 * 1024, "bytes", {"step": 32 * 1024, "from": 0, "to": 128 * 1024}),
    (-3.8, 1, "percentunit", {"step": 2, "from": -4, "to": 2}),
]


async def test_figures_are_written_as_grafana_does_and_axes_have_round_marks(
    tmp_path: Path,
) -> None:
    """In Chromium, as in the pictures."""
    asked = json.dumps({"figures": WRITTEN, "axes": AXES})
    seen = await drawing.taken(
        f'<!doctype html><meta charset="utf-8"><body>{drawing.scripts("units.js")}<script>'
        f"const asked = {asked};"
        "document.body.dataset.told = JSON.stringify({"
        "figures: asked.figures.map(([unit, value, decimals]) => format(unit, value, decimals)),"
        "axes: asked.axes.map(([lowest, highest, unit]) => ticks(lowest, highest, unit)),"
        "});</script>",
        tmp_path,
    )
    assert seen.errors == []
    found = re.search(r'data-told="([^"]*)"', seen.dom)
    assert found is not None, seen.log
    told = json.loads(unescape(found[1]))
    assert told["figures"] == [text for *_, text in WRITTEN]
    rounded = [{name: round(value, 9) for name, value in one.items()} for one in told["axes"]]
    assert rounded == [marks for *_, marks in AXES]


async def test_an_error_of_a_page_is_seen(tmp_path: Path) -> None:
    seen = await drawing.taken(
        "<!doctype html><body><script>throw new Error('no unit')</script>", tmp_path
    )
    assert not seen.is_drawn
    assert "no unit" in "".join(seen.errors)


async def test_a_panel_without_data_is_seen(tmp_path: Path) -> None:
    """And shows what its dashboard says for that."""
    board = BOARDS["mesh-overview"]
    panel = next(one for one in panels(board) if one["title"] == "Calls by code")
    answers = {"title": "Mesh", "chosen": [], "from": 0, "to": 1000, "annotations": []}
    points = [(0, 1.0), (1000, None)]
    drawn = [
        panel | {"series": [], "exemplars": []},
        panel | {"series": [{"name": "ok", "points": points}], "exemplars": []},
    ]
    seen = await drawing.taken(drawing.page(answers | {"panels": drawn}, "light"), tmp_path)
    assert seen.errors == []
    assert seen.is_drawn
    assert seen.panels == [("Calls by code", False), ("Calls by code", True)]
    assert "no calls" in seen.dom


def _panel(renamed: dict[str, str]) -> dict[str, Any]:
    order = {name: number for number, name in enumerate(renamed)}
    options = {"renameByName": dict(sorted(renamed.items())), "indexByName": order}
    return {"transformations": [{"id": "organize", "options": options}]}


def test_rows_with_equal_labels_become_one() -> None:
    panel = _panel({"service": "Service", "Value #A": "Calls", "Value #B": "Failed"})
    frames: dict[str, list[dict[str, Any]]] = {
        "A": [{"service": "users", "Value #A": 3.0}, {"service": "stock", "Value #A": 1.0}],
        "B": [{"service": "users", "Value #B": 0.5}],
    }
    assert _table(panel, frames) == {
        "columns": ["Service", "Calls", "Failed"],
        "rows": [["users", 3.0, 0.5], ["stock", 1.0, None]],
    }


def test_the_value_of_a_query_alone_has_no_letter() -> None:
    panel = _panel({"reason": "Reason", "Value": "Calls"})
    told = _table(panel, {"A": [{"reason": "OVERLOADED", "Value #A": 2.0}]})
    assert told == {"columns": ["Reason", "Calls"], "rows": [["OVERLOADED", 2.0]]}


def test_nodes_and_edges_have_the_names_of_their_fields() -> None:
    panel = {"transformations": [{"id": "calculateField", "options": {"alias": "mainstat"}}]}
    assert _graph(panel, {"nodes": [{"id": "users", "Value #nodes": 1.0}], "edges": []}) == {
        "nodes": [{"id": "users", "Value #nodes": 1.0, "mainstat": 1.0}],
        "edges": [],
    }


def test_marks_last_while_values_are_not_zero() -> None:
    points = [(0.0, None), (1.0, 2.0), (2.0, 2.0), (3.0, 0.0), (4.0, 1.0), (5.0, None), (6.0, 1.0)]
    assert _spans(points) == [(1.0, 2.0), (4.0, 4.0), (6.0, 6.0)]
    assert _spans([(0.0, None), (1.0, 0.0)]) == []


def test_a_window_has_points_from_start_to_end() -> None:
    assert Window(10.0, 11.0, 0.25).stamps == [10.0, 10.25, 10.5, 10.75, 11.0]
