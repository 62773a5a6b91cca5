"""What is shipped is what the code makes, fits Grafana's schema, and shows every metric."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from mesh.errors import Code
from mesh_dashboards.burning import BUDGET_LEFT, ERRORS, Promise
from mesh_dashboards.generate import SHIPPED, generated
from mesh_dashboards.look import CODES
from mesh_dashboards.rules import rules
from mesh_telemetry import FAMILIES, names
from tests.dashboards.linting import RECORDED
from tests.dashboards.reading import BOARDS, family, panels, queries, selectors, variable

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY_COUNTS_YET = {names.RETRIES.name, names.BREAKER_STATE.name}
"""Retries and breakers are still to come; a test with a real mesh says when they are there."""
COLOURS = {"text"} | {
    shade + hue
    for shade in ("dark-", "semi-dark-", "", "light-", "super-light-")
    for hue in ("green", "yellow", "orange", "red", "blue", "purple")
}
"""Names, each of which the dark theme and the light one show in their own way."""

WHOLE = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def test_what_is_shipped_is_what_the_code_makes() -> None:
    """If not: make dashboards."""
    made = generated()
    shipped = {file.name: file.read_text() for file in SHIPPED.glob("*.json")}
    assert shipped.keys() == made.keys()
    for name, text in made.items():
        assert shipped[name] == text, f"{name} has drifted: make dashboards"


@WHOLE
def test_a_dashboard_is_all_of_it_in_the_schema_of_the_sdk(board: dict[str, Any]) -> None:
    """What the schema does not know is lost on the way through it."""
    register_default_plugins()
    told = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    for one in (*told["links"], *told["annotations"]["list"]):
        # Its only value puts links and marks into a menu; without, they stand above the panels.
        assert one.pop("placement") == "inControlsMenu"
    assert told == board


@WHOLE
def test_panels_lie_side_by_side_in_the_grid(board: dict[str, Any]) -> None:
    places = [(one["title"], one["gridPos"]) for one in board["panels"]]
    for title, place in places:
        assert place["x"] >= 0, title
        assert place["x"] + place["w"] <= 24, title
    for (one, a), (other, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, f"{one} lies over {other}"
    for y in {place["y"] for _, place in places}:
        line = [place for _, place in places if place["y"] == y]
        assert sum(place["w"] for place in line) == 24, f"a gap at {y}"
        assert len({place["h"] for place in line}) == 1, f"panels of unlike height at {y}"
    assert len({one["id"] for one in board["panels"]}) == len(places)


@WHOLE
def test_the_first_row_tells_whether_all_is_well(board: dict[str, Any]) -> None:
    """Figures with colours, on the first screen of a laptop."""
    heading, *rest = board["panels"]
    assert heading["type"] == "row"
    assert heading["title"].startswith("Is it ")
    first = [one for one in rest if one["gridPos"]["y"] == 1]
    assert {one["type"] for one in first} == {"stat"}
    assert any(len(one["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1 for one in first)


@WHOLE
def test_colours_have_names(board: dict[str, Any]) -> None:
    def colours(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, one in value.items():
                if key in {"color", "iconColor", "fixedColor"} and isinstance(one, str):
                    yield one
                yield from colours(one)
        elif isinstance(value, list):
            for one in value:
                yield from colours(one)

    assert set(colours(board)) <= COLOURS


@WHOLE
def test_links_lead_to_dashboards_that_are_there_with_variables_that_they_have(
    board: dict[str, Any],
) -> None:
    for panel in panels(board):
        renamed: dict[str, str] = {}
        for one in panel.get("transformations", ()):
            renamed |= one["options"].get("renameByName", {})
        for override in panel["fieldConfig"]["overrides"]:
            for link in (
                link
                for one in override["properties"]
                if one["id"] == "links"
                for link in one["value"]
            ):
                fields = re.findall(r"__data\.fields\.(\w+)", link["title"] + link["url"])
                assert set(fields) <= set(renamed.values()), link
                used = set(re.findall(r"\$\{([a-z]+)[:}]", link["url"]))
                assert all(variable(board, name) for name in used), link
                there = re.match(r"/d/([\w-]+)\?", link["url"])
                if there:
                    given = re.findall(r"&var-(\w+)=", link["url"])
                    given += re.findall(r"\$\{(\w+):queryparam\}", link["url"])
                    assert all(variable(BOARDS[there[1]], name) for name in given), link
    assert [one["tags"] for one in board["links"]] == [["mesh"]]
    assert board["tags"] == ["mesh"]


def test_methods_lead_to_their_traces() -> None:
    for uid, title in (
        ("mesh-overview", "Methods"),
        ("mesh-service", "Methods"),
        ("mesh-objectives", "Objectives"),
    ):
        tables = [one for one in panels(BOARDS[uid]) if one["type"] == "table"]
        table = next(one for one in tables if one["title"] == title)
        urls = json.dumps(table["fieldConfig"]["overrides"])
        assert "/explore?schemaVersion=1&panes=" in urls
        assert "${admin:raw}/api/traces?service=" in urls


def test_every_metric_has_a_panel_and_every_panel_s_metric_exists() -> None:
    shown = {
        family(one.name)
        for board in BOARDS.values()
        for query in queries(board)
        for one in selectors(query.expression)
    }
    recorded = {name for name in shown if name.startswith(RECORDED)}
    process = {name for name in shown if name.startswith("process_")}
    assert set(FAMILIES) - shown == NOBODY_COUNTS_YET
    assert shown - recorded - process - {"up"} <= set(FAMILIES)
    assert process == {
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_cpu_seconds_total",
    }


def test_what_rules_record_is_not_reckoned_again() -> None:
    """Every recorded series that is shown is one of the rules; the budget is theirs."""
    promise = Promise("users", "get", success=0.999, within=0.1, target=0.99)
    recorded = {
        rule["record"]
        for group in rules([promise])["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    shown = {
        one.name
        for query in queries(BOARDS["mesh-objectives"])
        for one in selectors(query.expression)
        if one.name.startswith(RECORDED)
    }
    assert shown <= recorded
    assert BUDGET_LEFT in shown
    assert f"{ERRORS}30d" not in shown


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("mesh-service", "peer"),
        ("mesh-objectives", "service"),
        ("mesh-objectives", "method"),
    ],
)
def test_all_are_only_those_that_there_are(uid: str, name: str) -> None:
    """With a value for all, panels would show other services' processes, and other calls."""
    found = variable(BOARDS[uid], name)
    assert found is not None
    assert "allValue" not in found


@WHOLE
def test_no_heartbeat_is_shown_before_it_came(board: dict[str, Any]) -> None:
    """It may be newer than the scrape that tells of it, which has the time of its start."""
    for query in queries(board):
        if names.PEER_LAST_HEARTBEAT.name in query.expression:
            assert query.expression.lstrip("(").startswith("clamp_min(time() - "), str(query)


@WHOLE
def test_lines_can_be_told_apart_in_both_themes(board: dict[str, Any]) -> None:
    """By their place: a hash of the name chose colours that are as dark as the dark theme."""
    charts = [one["fieldConfig"] for one in panels(board) if one["type"] == "timeseries"]
    assert {one["defaults"]["color"]["mode"] for one in charts} == {"palette-classic"}


def test_every_code_has_a_colour() -> None:
    assert set(CODES) == set(Code)


@WHOLE
def test_latencies_show_single_calls(board: dict[str, Any]) -> None:
    """Where the gateway's histogram with exemplars is drawn over time, they are asked for."""
    for query in queries(board):
        if query.panel["type"] == "timeseries":
            drawn = f"{names.CALL_DURATION.name}_bucket" in query.expression
            assert query.target.get("exemplar", False) == drawn, str(query)
