"""A real Prometheus scrapes a real gateway, and every query of every dashboard has an answer."""

from __future__ import annotations

import json
import re
import struct
import time
from math import isfinite
from typing import TYPE_CHECKING, Any

import pytest
import trio

from mesh_dashboards.burning import Promise
from mesh_dashboards.promql import Scope
from mesh_dashboards.rules import rules, to_yaml
from mesh_telemetry import FAMILIES
from tests.dashboards.live import LiveMesh, live_mesh
from tests.dashboards.pictures.asking import Window, answered
from tests.dashboards.pictures.drawing import Taken, page, picture, size
from tests.dashboards.reading import BOARDS, Query, family, filled, panels, queries
from tests.dashboards.test_generated import NOBODY_COUNTS_YET
from tests.end_to_end.prometheus import Prometheus, get, prometheus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PATIENCE = 45
"""Seconds until all is there: rates want two scrapes, and everything to have happened between."""

COUNTED = 6
"""Seconds of the load that are counted."""

FILLED = {
    "$__rate_interval": "5s",
    "$__range": "1m",
    "$job": ".+",
    "$instance": ".+",
    "$method": ".+",
    "$slo": ".+",
}
"""What stands for all where the variable says so."""
SERVICES = {"mesh-service": ["orders", "users"]}
"""Which services are chosen where one alone is; all elsewhere."""

SILENT = {
    ("Callees", "users"),
    ("Made: the 10 highest p95", "users"),
    ("Work under way", "users"),
    ("Deprecated calls: the 10 most", "orders"),
}
"""Panels that have nothing to show of one service: it calls nobody, it has no such method."""

PROMISES = (
    Promise("users", "get", success=0.999, within=0.1, target=0.99),
    Promise("orders", "place", success=0.99, within=0.25, target=0.95),
)
RULES = to_yaml(rules(PROMISES, Scope(faster=300)))
"""Of objectives, with windows of seconds."""


async def _chosen(server: Prometheus, uid: str, service: str) -> dict[str, str]:
    """Values of the variables as Grafana fills them in: all are an alternation, or as they say."""
    chosen = {**FILLED, "$service": service}
    for one in BOARDS[uid]["templating"]["list"]:
        name = f"${one['name']}"
        if one["type"] == "query" and one.get("includeAll") and "allValue" not in one:
            chosen[name] = ""
            with trio.fail_after(PATIENCE):
                while not chosen[name]:
                    chosen[name] = "|".join(await _values(server, one, chosen))
    return chosen


async def _values(server: Prometheus, one: dict[str, Any], chosen: Mapping[str, str]) -> list[str]:
    inside = one["query"].removeprefix("label_values(").removesuffix(")")
    selector, _, label = inside.rpartition(", ")
    return await server.label_values(label, filled(selector, chosen))


def _labels(query: Query) -> set[str]:
    """What the legend, or the columns of the table, name."""
    renamed: dict[str, str] = {}
    for one in query.panel.get("transformations", ()):
        renamed |= one["options"].get("renameByName", {})
    columns = {name for name in renamed if not name.startswith("Value")}
    return columns | set(re.findall(r"\{\{(\w+)\}\}", query.target["legendFormat"]))


async def _complaint(server: Prometheus, query: Query, chosen: Mapping[str, str]) -> str:
    """What is wrong with the answer; empty where nothing is."""
    found = await server.vector(filled(query.expression, chosen))
    if not found:
        return "no series"
    if not all(isfinite(value) for _, value in found):
        return f"values {[value for _, value in found]}"
    missing = [labels for labels, _ in found if not _labels(query) <= labels.keys()]
    if missing:
        return f"no {_labels(query)} in {missing[0]}"
    if query.panel["type"] == "table" and any(set(labels) != _labels(query) for labels, _ in found):
        return f"columns that nobody named: {found[0][0]}"
    return ""


async def _all_answered(server: Prometheus) -> None:
    """Ask until every query of every panel has an answer, and say which have none at the end."""
    left = [
        (query, service, chosen)
        for uid, board in BOARDS.items()
        for service in SERVICES.get(uid, [".+"])
        for chosen in [await _chosen(server, uid, service)]
        for query in queries(board)
        if (query.panel["title"], service) not in SILENT
    ]
    complaints = {"all": "not asked yet"}
    with trio.move_on_after(PATIENCE):
        while complaints:
            found = [(one, await _complaint(server, one[0], one[2])) for one in left]
            left = [one for one, complaint in found if complaint]
            complaints = {f"{one[0]} of {one[1]}": told for one, told in found if told}
    assert complaints == {}


async def _variables_have_values(server: Prometheus) -> None:
    for uid, board in BOARDS.items():
        chosen = await _chosen(server, uid, SERVICES.get(uid, [".+"])[0])
        for one in board["templating"]["list"]:
            if one["type"] == "query":
                assert await _values(server, one, chosen), f"{uid}: {one['name']}"
        for one in board["annotations"]["list"]:
            marks = await server.vector(filled(one["target"]["expr"], chosen))
            assert marks, one["name"]
            wanted = set(re.findall(r"\{\{(\w+)\}\}", one["titleFormat"]))
            assert all(wanted <= labels.keys() for labels, _ in marks), one["name"]


async def _processes_are_those_of_the_service(server: Prometheus, peers: list[str]) -> None:
    """Memory tells of all processes that Prometheus reads."""
    for service, peer in zip(("users", "orders"), peers, strict=True):
        chosen = await _chosen(server, "mesh-service", service)
        (asked,) = (
            one for one in queries(BOARDS["mesh-service"]) if one.panel["title"] == "Memory"
        )
        found = await server.vector(filled(asked.expression, chosen))
        assert [labels["instance"] for labels, _ in found] == [peer]


async def _numbers_are_those_of_the_load(server: Prometheus, live: LiveMesh) -> None:
    """What the service counted itself, against its figures over the same time."""
    start = time.time()
    before = live.told.copy()
    await server.scraped_since(start + COUNTED)
    now = time.time()
    seen = live.told - before
    chosen = {**FILLED, "$service": "users", "$__rate_interval": f"{COUNTED}s"}
    shown = {
        one.panel["title"]: (await server.vector(filled(one.expression, chosen)))[0][1]
        for one in queries(BOARDS["mesh-overview"])
        if one.panel["type"] == "stat" and one.panel["title"] in {"Success rate", "Calls", "p95"}
    }
    assert shown["Calls"] == pytest.approx(seen["calls"] / (now - start), rel=0.4)
    failed = seen["faults"] / seen["calls"]
    assert shown["Success rate"] == pytest.approx(1 - failed, abs=failed / 2)
    assert 0 < shown["p95"] < 1


async def _exemplars_open_traces(server: Prometheus, admin: str) -> None:
    drawn = {
        filled(query.expression, chosen)
        for uid, board in BOARDS.items()
        for chosen in [await _chosen(server, uid, SERVICES.get(uid, [".+"])[0])]
        for query in queries(board)
        if query.target.get("exemplar")
    }
    assert len(drawn) >= 5
    opened: set[str] = set()
    for expression in drawn:
        found = await server.exemplars(expression)
        assert found, expression
        opened |= {one["labels"]["trace_id"] for _, one in found}
    for trace_id in opened:
        path = f"/api/traces/{trace_id}?format=waterfall"
        told = json.loads(await trio.to_thread.run_sync(get, admin, path))
        assert told["summary"]["trace_id"] == trace_id
    assert opened


async def _overview_is_drawn(server: Prometheus, folder: Path) -> None:
    """As `make pictures` does it; where Chromium is missing, the test ends here and says so."""
    board, file, seen = BOARDS["mesh-overview"], folder / "overview.png", Taken("", "")
    width, height = size(board)
    chosen = await _chosen(server, board["uid"], ".+")
    with trio.move_on_after(PATIENCE):
        # A scrape that took too long, on a machine that is busy, leaves a gap.
        while not seen.panels or not all(has_data for _, has_data in seen.panels):
            now = time.time()
            window = Window(now - 20, now, step=1)
            answers = await answered(server, board, window, chosen)
            seen = await picture(page(answers, "dark"), folder, file, (width, height))
    assert seen.errors == []
    assert seen.is_drawn
    assert seen.panels == [(panel["title"], True) for panel in panels(board)]
    start = file.read_bytes()[:24]
    assert start == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)


@pytest.mark.timeout(180)
async def test_every_query_of_every_dashboard_has_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Series with real values and the labels that are shown; exemplars that open a trace."""
    async with (
        live_mesh(tmp_path, monkeypatch) as live,
        prometheus(tmp_path, live.admin, peers=live.peers, rules=RULES) as server,
    ):
        await _all_answered(server)
        await _variables_have_values(server)
        await _processes_are_those_of_the_service(server, live.peers)
        await _numbers_are_those_of_the_load(server, live)
        await _exemplars_open_traces(server, live.admin)
        scraped = {family(name) for name in await server.label_values("__name__")}
        missing = set(FAMILIES) - scraped
        assert missing == NOBODY_COUNTS_YET
        await _overview_is_drawn(server, tmp_path)
