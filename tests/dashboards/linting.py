"""The rules of Grafana's dashboard-linter, by their names there.

Each is a function from a dashboard's JSON to its complaints
(https://github.com/grafana/dashboard-linter/tree/main/docs/rules). Those for LogQL look at queries
of Loki, of which there are none. Two are more exact than there: units, titles and data sources are
wanted of every panel, whatever its type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.models import units

from tests.dashboards.reading import Query, panels, queries, selectors, variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Rule = Callable[[dict[str, Any]], Iterator[str]]

UNITS = {value for name, value in vars(units).items() if name[0].isupper()}
RECORDED = ("mesh:", "ALERTS")
"""What rules make begins so, and is about all gateways of a job together."""
OF_PEERS = ("rpc_", "mesh_runtime_", "mesh_records", "process_")
"""What peers serve of themselves, who have a variable of their own."""

_COUNTED = re.compile(r"\b(?:rate|irate|increase)\((\w+_total)\{")
_RANGE = re.compile(r"(\w+)\s*\([^()]*\[([^\]]+)\]")
_VARIABLE_QUERY = re.compile(r"label_values\((?:.+, )?\w+\)")


def template_datasource_rule(board: dict[str, Any]) -> Iterator[str]:
    """There is one variable for the data source, called so."""
    found = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
    named = [(one["name"], one.get("label"), one.get("query")) for one in found]
    if named != [("datasource", "Data source", "prometheus")]:
        yield f"its data sources are {named}"


def template_job_rule(board: dict[str, Any]) -> Iterator[str]:
    """Jobs can be chosen, several or all."""
    yield from _chosen(board, "job", "Job")


def template_instance_rule(board: dict[str, Any]) -> Iterator[str]:
    """Instances can be chosen, several or all."""
    yield from _chosen(board, "instance", "Instance")


def _chosen(board: dict[str, Any], name: str, label: str) -> Iterator[str]:
    found = variable(board, name)
    if found is None:
        yield f"there is no variable {name}"
        return
    wanted = {
        "type": "query",
        "label": label,
        "multi": True,
        "allValue": ".+",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
    }
    for key, value in wanted.items():
        if found.get(key) != value:
            yield f"{key} of the variable {name} is {found.get(key)}, not {value}"


def template_label_promql_rule(board: dict[str, Any]) -> Iterator[str]:
    """Variables ask for the values of labels."""
    for one in board["templating"]["list"]:
        if one["type"] == "query" and not _VARIABLE_QUERY.fullmatch(one["query"]):
            yield f"the variable {one['name']} asks for {one['query']}"


def template_on_time_change_reload_rule(board: dict[str, Any]) -> Iterator[str]:
    """Variables ask again when the time that is shown changes."""
    for one in board["templating"]["list"]:
        if one["type"] == "query" and one.get("refresh") != 2:
            yield f"refresh of the variable {one['name']} is {one.get('refresh')}"


def panel_datasource_rule(board: dict[str, Any]) -> Iterator[str]:
    """Every panel and every query uses the variable."""
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels(board):
        for one in (panel, *panel.get("targets", ())):
            if one.get("datasource") != wanted:
                yield f"{panel['title']} uses {one.get('datasource')}"


def panel_title_description_rule(board: dict[str, Any]) -> Iterator[str]:
    """Every panel has a title and a description."""
    for panel in panels(board):
        if not panel.get("title") or not panel.get("description"):
            yield f"panel {panel['id']} has no title or no description: {panel.get('title')}"


def panel_units_rule(board: dict[str, Any]) -> Iterator[str]:
    """Every panel has a unit that Grafana knows, and so has every column of a table."""
    for panel in panels(board):
        found = panel["fieldConfig"]
        given = [found["defaults"].get("unit")]
        for override in found.get("overrides", ()):
            given += [one["value"] for one in override["properties"] if one["id"] == "unit"]
        for unit in given:
            if unit not in UNITS:
                yield f"{panel['title']} has the unit {unit}"


def panel_no_targets_rule(board: dict[str, Any]) -> Iterator[str]:
    """Every panel asks something."""
    for panel in panels(board):
        if not panel.get("targets"):
            yield f"{panel['title']} asks nothing"


def target_rate_interval_rule(board: dict[str, Any]) -> Iterator[str]:
    """Every rate is over what Grafana reckons."""
    for query in queries(board):
        for function, over in _RANGE.findall(query.expression):
            if function in {"rate", "irate"} and over != "$__rate_interval":
                yield f"{query}: {function} over {over}"


def target_job_rule(board: dict[str, Any]) -> Iterator[str]:
    """Every series is of the chosen jobs."""
    yield from _matched(board, "job", {"$job"})


def target_instance_rule(board: dict[str, Any]) -> Iterator[str]:
    """Every series is of the chosen instances, or what peers say of themselves of chosen peers."""
    yield from _matched(board, "instance", {"$instance"})


def _matched(board: dict[str, Any], label: str, wanted: set[str]) -> Iterator[str]:
    for query in queries(board):
        for name, matchers in selectors(query.expression):
            if label == "instance" and name.startswith(RECORDED):
                continue
            allowed = wanted
            if label == "instance" and name.startswith(OF_PEERS) and variable(board, "peer"):
                allowed = {"$peer"}
            kind, value = matchers.get(label, ("", ""))
            if kind != "=~" or value not in allowed:
                yield f"{query}: {name} has {label}{kind}{value}"


def target_counter_agg_rule(board: dict[str, Any]) -> Iterator[str]:
    """Every counter is shown by its growth, and aggregated after that."""
    for query in queries(board):
        counters = [name for name, _ in selectors(query.expression) if name.endswith("_total")]
        if sorted(_COUNTED.findall(query.expression)) != sorted(counters):
            yield f"{query}: not every counter is in a rate: {query.expression}"


def uneditable_dashboard_rule(board: dict[str, Any]) -> Iterator[str]:
    """It comes from code, and changes there."""
    if board.get("editable") is not False:
        yield "it can be edited"


RULES: dict[str, Rule] = {
    function.__name__.replace("_", "-"): function
    for function in (
        template_datasource_rule,
        template_job_rule,
        template_instance_rule,
        template_label_promql_rule,
        template_on_time_change_reload_rule,
        panel_datasource_rule,
        panel_title_description_rule,
        panel_units_rule,
        panel_no_targets_rule,
        target_rate_interval_rule,
        target_job_rule,
        target_instance_rule,
        target_counter_agg_rule,
        uneditable_dashboard_rule,
    )
}
"""All but `target-promql-rule`, which :func:`as_rules` leaves to Prometheus' own parser."""

_FILLED = {"$__rate_interval": "5m", "$__range": "1h"}


def as_rules(asked: list[Query]) -> str:
    """A file of rules with every query, for promtool to parse."""
    lines = ["groups:", "- name: queries", "  rules:"]
    for number, query in enumerate(asked):
        expression = query.expression
        for name, value in _FILLED.items():
            expression = expression.replace(name, value)
        told = expression.replace("'", "''")
        lines += [f"  - record: query:{number}", f"    expr: '{told}'"]
    return "\n".join(lines) + "\n"
