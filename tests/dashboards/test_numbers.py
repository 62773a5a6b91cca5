"""Panels by promtool: from series whose numbers are known, the number that each must show."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from tests.dashboards.reading import BOARDS, filled, panels, queries
from tests.end_to_end.prometheus import tool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GATEWAY = 'job="mesh-gateway", instance="a:9464"'
OTHER = 'job="mesh-gateway", instance="b:9464"'
GET = 'rpc_service="users", rpc_method="get"'
PLACE = 'rpc_service="orders", rpc_method="place"'
SLO = f'{GET}, slo="success"'
LAG = f'{GATEWAY}, alertname="MeshGatewayLoopLag", severity="page"'
FILLING = f'{GATEWAY}, alertname="MeshOutboxFilling", severity="ticket"'

SERIES = {
    # A gateway that answers and one that is gone; of something else, nothing may be counted.
    f"up{{{GATEWAY}}}": "1+0x20",
    f"up{{{OTHER}}}": "0+0x20",
    'up{job="node", instance="n:9100"}': "0+0x20",
    f"mesh_gateway_loop_lag_seconds{{{GATEWAY}}}": "0.002+0x20",
    # Per minute: 60 calls of users (45 ok, 9 not found, 6 failed), 120 of orders.
    f'mesh_calls_total{{{GATEWAY}, {GET}, caller="orders", code="ok"}}': "0+45x20",
    f'mesh_calls_total{{{GATEWAY}, {GET}, caller="orders", code="not_found"}}': "0+9x20",
    f'mesh_calls_total{{{GATEWAY}, {GET}, caller="orders", code="internal"}}': "0+6x20",
    f'mesh_calls_total{{{GATEWAY}, {PLACE}, caller="shop", code="ok"}}': "0+120x20",
    # Half of the calls of users end within 0.1 s, 9 of 10 within 0.2 s, all within 0.4 s.
    f'mesh_call_duration_seconds_bucket{{{GATEWAY}, {GET}, le="0.1"}}': "0+30x20",
    f'mesh_call_duration_seconds_bucket{{{GATEWAY}, {GET}, le="0.2"}}': "0+54x20",
    f'mesh_call_duration_seconds_bucket{{{GATEWAY}, {GET}, le="0.4"}}': "0+60x20",
    f'mesh_call_duration_seconds_bucket{{{GATEWAY}, {GET}, le="+Inf"}}': "0+60x20",
    f'mesh_calls_rejected_total{{{GATEWAY}, {GET}, caller="shop", reason="OVERLOADED"}}': "0+30x20",
    f"mesh_calls_in_flight{{{GATEWAY}, {GET}}}": "3+0x20",
    f"mesh_calls_in_flight{{{GATEWAY}, {PLACE}}}": "4+0x20",
    # users has two instances, of which one is late; stock had one and has none now.
    f'mesh_service_instances{{{GATEWAY}, rpc_service="users", state="healthy"}}': "1+0x20",
    f'mesh_service_instances{{{GATEWAY}, rpc_service="users", state="late"}}': "1+0x20",
    f'mesh_service_instances{{{GATEWAY}, rpc_service="stock", state="healthy"}}': "1+0x10 0+0x9",
    f'traces_service_graph_request_total{{{GATEWAY}, client="shop", server="orders"}}': "0+120x20",
    f'traces_service_graph_request_total{{{GATEWAY}, client="orders", server="users"}}': "0+54x20",
    f'traces_service_graph_request_total{{{GATEWAY}, client="shop", server="users"}}': "0+6x20",
    f'mesh_spans_dropped_total{{{GATEWAY}, reason="not_kept"}}': "0+600x20",
    f'mesh_spans_dropped_total{{{GATEWAY}, reason="late"}}': "0+6x20",
    f'mesh_frames_total{{{GATEWAY}, kind="CALL", direction="in"}}': "0+60x20",
    f'mesh_frames_total{{{GATEWAY}, kind="CALL", direction="out"}}': "0+120x20",
    # Production burns as fast as it may, staging five times faster.
    f"mesh:slo_objective:ratio{{{SLO}, job='mesh-gateway'}}": "0.99+0x20",
    f"mesh:slo_objective:ratio{{{SLO}, job='staging'}}": "0.99+0x20",
    f"mesh:slo_errors:ratio_rate1h{{{SLO}, job='mesh-gateway'}}": "0.01+0x20",
    f"mesh:slo_errors:ratio_rate1h{{{SLO}, job='staging'}}": "0.05+0x20",
    f"ALERTS{{{LAG}, alertstate='firing'}}": "1+0x20",
    f"ALERTS_FOR_STATE{{{LAG}}}": "300+0x20",
    f"ALERTS{{{FILLING}, alertstate='pending'}}": "1+0x20",
    f"ALERTS_FOR_STATE{{{FILLING}}}": "300+0x20",
}
AT = "15m"
EVERYTHING = {
    "$__rate_interval": "5m",
    "$__range": "15m",
    "$job": ".+",
    "$instance": ".+",
    "$service": ".+",
    "$method": ".+",
    "$slo": ".+",
}


class Shown(NamedTuple):
    """A query of a panel, what is chosen, and the values by the labels that it must have."""

    board: str
    title: str
    ref: str
    values: Mapping[str, float]
    chosen: Mapping[str, str] = {}


def edge(source: str, target: str) -> str:
    """The labels that the node graph wants of an arrow."""
    ends = f'client="{source}", server="{target}", source="{source}", target="{target}"'
    return f'{{{ends}, id="{source} > {target}"}}'


USERS, PRODUCTION = {"$service": "users"}, {"$job": "mesh-gateway"}
CASES = [
    Shown("mesh-overview", "Gateways", "A", {"{}": 1}),
    Shown("mesh-overview", "Gateways", "B", {"{}": 1}),
    Shown("mesh-gateway", "Gateways", "B", {"{}": 1}),
    Shown("mesh-overview", "Success rate", "A", {"{}": round(1 - 6 / 180, 6)}),
    Shown("mesh-overview", "Success rate", "A", {"{}": 0.9}, USERS),
    Shown("mesh-overview", "Calls", "A", {"{}": 3}),
    Shown("mesh-overview", "Calls", "A", {"{}": 1}, USERS),
    Shown("mesh-overview", "p95", "A", {"{}": 0.3}),
    Shown("mesh-overview", "Healthy instances", "A", {"{}": 1}),
    Shown("mesh-overview", "Without instances", "A", {"{}": 1}),
    Shown("mesh-overview", "Without instances", "A", {"{}": 0}, USERS),
    Shown("mesh-overview", "Late or leaving", "A", {"{}": 1}),
    Shown("mesh-overview", "Refused", "A", {"{}": 0.5}),
    Shown("mesh-overview", "Refused", "A", {"{}": 0}, {"$service": "orders"}),
    Shown(
        "mesh-overview",
        "Alerts that fire",
        "A",
        {'{alertname="MeshGatewayLoopLag", severity="page", about="    a:9464"}': 600},
    ),
    Shown("mesh-overview", "Latency", "A", {"{}": 0.1}),
    Shown("mesh-overview", "Latency", "B", {"{}": 0.3}),
    Shown("mesh-overview", "Latency", "C", {"{}": 0.38}),
    Shown("mesh-overview", "Methods", "A", {f"{{{GET}}}": 1, f"{{{PLACE}}}": 2}),
    Shown("mesh-overview", "Methods", "B", {f"{{{GET}}}": 0.1, f"{{{PLACE}}}": 0}),
    Shown("mesh-overview", "Methods", "C", {f"{{{GET}}}": 0.1}),
    Shown("mesh-overview", "Methods", "D", {f"{{{GET}}}": 0.3}),
    Shown("mesh-overview", "Methods", "E", {f"{{{GET}}}": 0.38}),
    Shown("mesh-overview", "Methods", "F", {f"{{{GET}}}": 3, f"{{{PLACE}}}": 4}),
    Shown(
        "mesh-overview",
        "Service graph",
        "nodes",
        {
            '{id="users", title="users"}': 1,
            '{id="orders", title="orders"}': 2,
            '{id="shop", title="shop"}': 0,
        },
    ),
    Shown(
        "mesh-overview",
        "Service graph",
        "edges",
        {
            edge("shop", "orders"): 2,
            edge("orders", "users"): 0.9,
            edge("shop", "users"): 0.1,
        },
    ),
    Shown(
        "mesh-overview",
        "Service graph",
        "nodes",
        {'{id="orders", title="orders"}': 2, '{id="shop", title="shop"}': 0},
        {"$service": "orders"},
    ),
    Shown(
        "mesh-overview",
        "Service graph",
        "edges",
        {edge("shop", "orders"): 2},
        {"$service": "orders"},
    ),
    Shown(
        "mesh-overview",
        "Calls between services",
        "A",
        {'{client="shop", server="orders"}': 2},
        {"$service": "orders"},
    ),
    Shown("mesh-service", "Success rate", "A", {"{}": 0.9}, USERS),
    Shown("mesh-service", "In flight", "A", {"{}": 3}, USERS),
    Shown("mesh-service", "The 10 slowest methods", "A", {f"{{{GET}}}": 0.38}, USERS),
    Shown("mesh-gateway", "Spans lost", "A", {'{reason="late"}': 0.1}),
    Shown("mesh-gateway", "Frames in", "A", {'{kind="CALL"}': 1}),
    Shown("mesh-gateway", "Frames out", "A", {'{kind="CALL"}': 2}),
    Shown("mesh-objectives", "Fastest burn, 1 h", "A", {"{}": 5}),
    Shown("mesh-objectives", "Fastest burn, 1 h", "A", {"{}": 1}, PRODUCTION),
    Shown(
        "mesh-objectives",
        "Objectives",
        "D",
        {f'{{job="mesh-gateway", {SLO}}}': 1, f'{{job="staging", {SLO}}}': 5},
    ),
    Shown("mesh-objectives", "Objectives", "D", {f'{{job="mesh-gateway", {SLO}}}': 1}, PRODUCTION),
]


def expression(case: Shown) -> str:
    """The first query of this title and letter; that is the figure, where a chart is called so."""
    asked = next(
        one
        for one in queries(BOARDS[case.board])
        if (one.panel["title"], one.target["refId"]) == (case.title, case.ref)
    )
    # Rounded, as promtool wants every digit to be right.
    return f"round({filled(asked.expression, {**EVERYTHING, **case.chosen})}, 1e-6)"


def checked(folder: Path, series: Mapping[str, str], expected: list[dict[str, Any]]) -> None:
    told = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": told, "promql_expr_test": expected}
    file = folder / "numbers.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    command = [tool("promtool"), "test", "rules", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_panels_show_what_happened(tmp_path: Path) -> None:
    """Each number is reckoned by hand from the series above, not by a query."""
    expected = []
    for case in CASES:
        samples = [{"labels": name, "value": value} for name, value in case.values.items()]
        expected.append({"expr": expression(case), "eval_time": AT, "exp_samples": samples})
    checked(tmp_path, SERIES, expected)


@pytest.mark.parametrize("title", ["Calls", "Refused", "Success rate", "Healthy instances"])
def test_a_dead_mesh_does_not_look_idle(tmp_path: Path, title: str) -> None:
    """With no gateway there is no number, for which the figure has a word; idle, there is zero."""
    asked = expression(Shown("mesh-overview", title, "A", {}))
    gone = {f"up{{{GATEWAY}}}": "1+0x5 0+0x15"}
    gone[f"mesh_gateway_loop_lag_seconds{{{GATEWAY}}}"] = "0.002+0x5 stale"
    no_number = {"expr": f"({asked}) != bool ({asked})", "eval_time": AT}
    checked(tmp_path, gone, [no_number | {"exp_samples": [{"labels": "{}", "value": 1}]}])
    (figure,) = (
        one
        for one in panels(BOARDS["mesh-overview"])
        if (one["title"], one["type"]) == (title, "stat")
    )
    (mapping,) = figure["fieldConfig"]["defaults"]["mappings"]
    assert mapping["options"]["match"] == "null+nan"
    assert figure["options"]["reduceOptions"]["calcs"] == ["last"]
    if title in {"Calls", "Refused"}:
        assert mapping["options"]["result"]["text"] == "no gateway"
        idle = {f"mesh_gateway_loop_lag_seconds{{{GATEWAY}}}": "0.002+0x20"}
        zero = {"expr": asked, "eval_time": AT, "exp_samples": [{"labels": "{}", "value": 0}]}
        checked(tmp_path, idle, [zero])


def test_a_chart_has_few_lines_of_many(tmp_path: Path) -> None:
    """With fifty methods: the ten that matter, and all of them in the table."""
    series = {
        f'mesh_call_duration_seconds_bucket{{{GATEWAY}, rpc_service="users", '
        f'rpc_method="m{number}", le="{bound}"}}': f"0+{number + 1}x20"
        for number in range(50)
        for bound in ("0.1", "+Inf")
    }
    slowest = expression(Shown("mesh-service", "The 10 slowest methods", "A", {}))
    table = expression(Shown("mesh-service", "Methods", "E", {}))
    checked(
        tmp_path,
        series,
        [
            {
                "expr": f"count ({asked})",
                "eval_time": AT,
                "exp_samples": [{"labels": "{}", "value": count}],
            }
            for asked, count in ((slowest, 10), (table, 50))
        ],
    )


MANY_OF = {"rpc_method", "rpc_service", "caller", "peer"}
"""Labels with as many values as a mesh has services, methods or instances."""


@pytest.mark.parametrize("uid", BOARDS)
def test_no_chart_has_a_line_for_each_of_many(uid: str) -> None:
    for query in queries(BOARDS[uid]):
        named = set(re.findall(r"\{\{(\w+)\}\}", query.target["legendFormat"]))
        if query.panel["type"] == "timeseries" and named & MANY_OF:
            assert re.match(r"(top|bottom)k\(10, ", query.expression), str(query)
            assert " 10 " in query.panel["title"], str(query)


UNITS = [
    (r"mesh:slo_errors", {"none"}),
    (r"count \(mesh:", {"none"}),
    (r"^[^$]+\(mesh:slo_\w+:ratio", {"percentunit"}),
    (r"time\(\) - ", {"s"}),
    (r"histogram_quantile\(.+_seconds_bucket\{", {"s"}),
    (r"histogram_quantile\(.+mesh_call_depth_bucket\{", {"none"}),
    (r"\) / ", {"percentunit"}),
    (r"process_cpu_seconds_total\{", {"percentunit"}),
    (r"rate\(mesh_bytes_total\{", {"binBps"}),
    (r"rate\(mesh_records_dropped", {"short"}),
    (r"rate\((mesh_calls_|mesh_deprecated_|traces_service_graph)", {"reqps"}),
    (r"rate\(", {"cps"}),
    (r"count \(|\bup\{", {"none"}),
    (r"^\(?(topk\(10, )?\w+( by \([^)]+\))? \(\w+_seconds\{", {"s"}),
    (r"_bytes\{", {"bytes"}),
    (r"", {"none", "short"}),
]
"""What stands in a query, and the units in which its numbers are; the first that fits counts."""


@pytest.mark.parametrize("uid", BOARDS)
def test_units_are_those_of_the_series(uid: str) -> None:
    for query in queries(BOARDS[uid]):
        config, told = query.panel["fieldConfig"], query.expression
        unit = config["defaults"]["unit"]
        if query.panel["type"] == "table":
            (renamed,) = (
                one["options"]["renameByName"]
                for one in query.panel["transformations"]
                if one["id"] == "organize"
            )
            column = renamed.get(f"Value #{query.target['refId']}") or renamed["Value"]
            (unit,) = (
                one["value"]
                for override in config["overrides"]
                if override["matcher"]["options"] == column
                for one in override["properties"]
                if one["id"] == "unit"
            )
        fitting = next(units for found, units in UNITS if re.search(found, told))
        assert unit in fitting, f"{query}: {unit} of {told}"


@pytest.mark.parametrize("uid", BOARDS)
def test_quantiles_are_those_that_are_named(uid: str) -> None:
    for query in queries(BOARDS[uid]):
        column = ""
        if query.panel["type"] == "table":
            column = json.dumps(query.panel["transformations"])
            told = re.search(rf'"Value #{query.target["refId"]}": "([^"]+)"', column)
            column = told[1] if told else ""
        named = re.search(r"\bp(50|95|99)\b", f"{query.target['legendFormat']} {column}")
        named = named or re.search(r"\bp(50|95|99)\b", query.panel["title"])
        asked = re.findall(r"histogram_quantile\(([\d.]+),", query.expression)
        if named:
            assert [100 * float(one) for one in asked] == [float(named[1])], str(query)
