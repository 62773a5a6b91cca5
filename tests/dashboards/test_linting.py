"""The dashboards keep the rules of Grafana's linter, and each rule can be broken."""

from __future__ import annotations

import copy
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.dashboards.linting import RULES, as_rules
from tests.dashboards.reading import BOARDS, Query, panels, queries, selectors, variable
from tests.end_to_end.prometheus import tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("uid", BOARDS)
def test_every_dashboard_keeps_every_rule(uid: str, rule: str) -> None:
    assert list(RULES[rule](BOARDS[uid])) == []


def _change(name: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(board: dict[str, Any]) -> None:
        found = variable(board, name)
        assert found is not None
        found[key] = value

    return change


def _rename(name: str, new: str) -> Callable[[dict[str, Any]], None]:
    return _change(name, "name", new)


def _panel(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda board: panels(board)[0].update({key: value})


def _query(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(board: dict[str, Any]) -> None:
        target = next(one.target for one in queries(board) if old in one.expression)
        target["expr"] = target["expr"].replace(old, new)

    return change


def _column_unit(board: dict[str, Any]) -> None:
    table = next(one for one in panels(board) if one["type"] == "table")
    for override in table["fieldConfig"]["overrides"]:
        override["properties"] = [
            {**one, "value": "nonsense"} if one["id"] == "unit" else one
            for one in override["properties"]
        ]


def _second_source(board: dict[str, Any]) -> None:
    first = variable(board, "datasource")
    assert first is not None
    board["templating"]["list"].append({**first, "name": "other"})


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("template-datasource-rule", _rename("datasource", "source")),
        ("template-datasource-rule", _change("datasource", "label", "Source")),
        ("template-datasource-rule", _second_source),
        ("template-job-rule", _rename("job", "work")),
        ("template-job-rule", _change("job", "multi", False)),
        ("template-job-rule", _change("job", "type", "custom")),
        ("template-instance-rule", _rename("instance", "gateway")),
        ("template-instance-rule", _change("instance", "allValue", ".*")),
        ("template-instance-rule", _change("instance", "datasource", {"uid": "mine"})),
        ("template-label-promql-rule", _change("job", "query", "up")),
        ("template-on-time-change-reload-rule", _change("job", "refresh", 1)),
        ("panel-datasource-rule", _panel("datasource", {"type": "prometheus", "uid": "mine"})),
        ("panel-title-description-rule", _panel("title", "")),
        ("panel-title-description-rule", _panel("description", "")),
        ("panel-units-rule", _panel("fieldConfig", {"defaults": {}})),
        ("panel-units-rule", _column_unit),
        ("panel-no-targets-rule", _panel("targets", [])),
        ("target-rate-interval-rule", _query("[$__rate_interval]", "[5m]")),
        ("target-job-rule", _query('job=~"$job", ', "")),
        ("target-job-rule", _query('job=~"$job"', 'job="mesh"')),
        ("target-instance-rule", _query(', instance=~"$instance"', "")),
        ("target-instance-rule", _query('instance=~"$instance"', 'instance=~"$peer"')),
        ("target-counter-agg-rule", _query("rate(", "max_over_time(")),
        ("uneditable-dashboard-rule", lambda board: board.update(editable=True)),
    ],
)
def test_each_rule_can_be_broken(rule: str, change: Callable[[dict[str, Any]], None]) -> None:
    board = copy.deepcopy(BOARDS["mesh-overview"])
    change(board)
    assert list(RULES[rule](board)) != []


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ('sum by (a) (rate(x_total{job=~"$job"}[5m])) or on () vector(0)', ["x_total"]),
        ('time() - max by (a, b) (y{c="{}"}) * on (d) group_left (e) z', ["y", "z"]),
        ('label_replace(mesh:up:ratio, "a", "$1", "b", "(.*)") >= 0', ["mesh:up:ratio"]),
        ("x_total offset 5m > 1e-9", ["x_total"]),
    ],
)
def test_series_are_found_in_expressions(expression: str, found: list[str]) -> None:
    """Else the rules above would overlook some."""
    assert [one.name for one in selectors(expression)] == found


def _checked(folder: Path, asked: list[Query]) -> subprocess.CompletedProcess[str]:
    file = folder / "queries.yml"
    file.write_text(as_rules(asked))
    command = [tool("promtool"), "check", "rules", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    """The linter's target-promql-rule."""
    asked = [query for board in BOARDS.values() for query in queries(board)]
    checked = _checked(tmp_path, asked)
    assert (checked.returncode, checked.stderr) == (0, "")
    first = asked[0]
    wrong = Query(first.board, first.panel, {**first.target, "expr": "sum by (rate(x[5m]))"})
    assert _checked(tmp_path, [wrong]).returncode == 1
