"""Every alert by promtool: not firing, firing with its text, ending, and silent without traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mesh_dashboards.burning import burning
from mesh_dashboards.promql import DEFAULT
from mesh_dashboards.rules import rules
from tests.dashboards.alert_cases import CASES, instances, made, rejected
from tests.dashboards.objective_cases import FAST_CASES, SLOW_CASES
from tests.dashboards.series import (
    CALLS,
    DURATION,
    GATEWAY,
    IS_UP,
    PROMISES,
    UP,
    Case,
    run,
    unit_test,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mesh_dashboards.promql import Group, Rule

DOCUMENT = rules(PROMISES)
ALERTS: list[Rule] = [
    rule for group in DOCUMENT["groups"] for rule in group["rules"] if "alert" in rule
]
NAMES = sorted({rule["alert"] for rule in ALERTS})
PAGES = sorted({rule["alert"] for rule in ALERTS if rule["labels"]["severity"] == "page"})


def rule_of(case: Case) -> Rule:
    """The alert of a case; of several by one name that of its objective."""
    (found,) = (
        rule
        for rule in ALERTS
        if rule["alert"] == case.alert and rule["labels"].get("slo") == case.labels.get("slo")
    )
    return found


def test_every_alert_has_a_case() -> None:
    tried = {(case.alert, case.labels.get("slo")) for case in (*CASES, *FAST_CASES, *SLOW_CASES)}
    assert tried == {(rule["alert"], rule["labels"].get("slo")) for rule in ALERTS}


@pytest.mark.parametrize(
    ("cases", "interval", "groups"),
    [
        (CASES, "1m", DOCUMENT["groups"]),
        # Alone, as hours and days are many samples.
        (FAST_CASES, "1m", burning(PROMISES, DEFAULT)),
        (SLOW_CASES, "5m", burning(PROMISES, DEFAULT)),
    ],
    ids=["general", "fast", "slow"],
)
def test_every_alert_fires_in_time_with_its_text_and_ends(
    tmp_path: Path, cases: tuple[Case, ...], interval: str, groups: list[Group]
) -> None:
    run(tmp_path, [unit_test(case, rule_of(case)) for case in cases], groups, interval=interval)


def silent(
    name: str, series: dict[str, str], *minutes: int, alerts: Sequence[str] = NAMES
) -> dict[str, Any]:
    """That no alert at all, or none of these, fires at these minutes."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []}
            for minute in minutes
            for alert in alerts
        ],
    }


QUIET = {
    **IS_UP,
    f'{CALLS}, code="ok"}}': "100x600",
    f'{CALLS}, code="unavailable"}}': "100x600",
    f"mesh_call_duration_seconds_count{DURATION}}}": "200x600",
    f'mesh_call_duration_seconds_bucket{DURATION}, le="0.25"}}': "0x600",
    instances("healthy"): "1x600",
}
"""What has been bad, and is not called any more."""


def test_without_traffic_nothing_fires(tmp_path: Path) -> None:
    quiet = silent("quiet", QUIET, 30, 120)
    # No ratio of nothing; the objective stands all the same.
    quiet["promql_expr_test"] = [
        {"expr": "mesh:slo_errors:ratio_rate1h", "eval_time": "30m", "exp_samples": []},
        {"expr": "count(mesh:slo_objective:ratio)", "eval_time": "30m", "exp_samples": one(2)},
    ]
    new = silent("a new gateway", IS_UP, 30)
    run(tmp_path, [quiet, new], DOCUMENT["groups"])


def one(value: float, labels: str = "{}") -> list[dict[str, Any]]:
    """What an expression of one series is expected to be."""
    return [{"labels": labels, "value": value}]


def test_before_the_first_failure_nothing_is_unknown(tmp_path: Path) -> None:
    """Every ratio is there, and is none; all of the budget is left."""
    series = {
        **IS_UP,
        f'{CALLS}, code="ok"}}': "0+60x60",
        f"mesh_call_duration_seconds_count{DURATION}}}": "0+60x60",
        f'mesh_call_duration_seconds_bucket{DURATION}, le="0.25"}}': "0+60x60",
    }
    good = silent("good", series, 30)
    labels = 'rpc_service="users", rpc_method="get"'
    slos = [f'job="mesh-gateway", {labels}, slo="{slo}"' for slo in ("latency", "success")]
    good["promql_expr_test"] = [
        {
            "expr": name,
            "eval_time": "30m",
            "exp_samples": [{"labels": f"{name}{{{slo}}}", "value": value} for slo in slos],
        }
        for name, value in (
            ("mesh:slo_errors:ratio_rate5m", 0),
            ("mesh:slo_errors:ratio_rate30d", 0),
            ("mesh:slo_budget_left:ratio", 1),
        )
    ] + [
        {
            "expr": f"mesh:{level}call_faults:ratio_rate5m",
            "eval_time": "30m",
            "exp_samples": one(0, f"mesh:{level}call_faults:ratio_rate5m{{{have}}}"),
        }
        for level, have in (
            ("", f'job="mesh-gateway", {labels}'),
            ("service_", 'job="mesh-gateway", rpc_service="users"'),
            ("all_", 'job="mesh-gateway"'),
        )
    ]
    run(tmp_path, [good], DOCUMENT["groups"])


def test_services_are_not_missed_while_their_gateway_is_down(tmp_path: Path) -> None:
    """Nobody knows of them then, and one alert is enough."""
    series = {UP: "1x9 0x60", instances("healthy"): "1x9 stale"}
    down = silent("down", series, 30)
    down["alert_rule_test"] = [
        test for test in down["alert_rule_test"] if test["alertname"] != "MeshGatewayDown"
    ]
    run(tmp_path, [down], DOCUMENT["groups"])


@pytest.mark.parametrize("instance", ["gw:9464", "new:9464"])
def test_a_service_that_has_not_come_back_after_its_gateway_is_missed(
    tmp_path: Path, instance: str
) -> None:
    """Though the new gateway, at another address perhaps, has never heard of it."""
    series = {UP: "1x9 stale", instances("healthy"): "1x9 stale"}
    back = f'up{{job="mesh-gateway", instance="{instance}"}}'
    series[back] = "1x9 0x9 1x60" if back == UP else "_x20 1x60"
    case = Case(
        "MeshServiceWithoutInstances",
        series,
        20,
        30,
        100,
        {"job": "mesh-gateway", "rpc_service": "users"},
        "1",
    )
    test = unit_test(case, rule_of(case))
    test["alert_rule_test"].pop()  # it ends a week later
    run(tmp_path, [test], DOCUMENT["groups"])


LAG = f"mesh_gateway_loop_lag_seconds{{{GATEWAY}}}"
BURST = "_x20 1000x40"
FEW = "_x20 1x4 2x40"
BURSTS = "_x20 1000x2 2000x40"
SOME = "0x19 0+40x40"
NO_PAGES = {
    "few refused": {rejected("OVERLOADED"): FEW, made("resource_exhausted"): FEW},
    "a burst refused": {rejected("OVERLOADED"): BURST, made("resource_exhausted"): BURST},
    "two bursts refused": {rejected("OVERLOADED"): BURSTS, made("resource_exhausted"): BURSTS},
    "0.8 % refused": {
        rejected("OVERLOADED"): SOME,
        made("resource_exhausted"): SOME,
        made("ok"): "0+4960x60",
    },
    "late once": {LAG: "0.001x19 40 0.001x40"},
    "few failed": {f'{CALLS}, code="ok"}}': "0+1x60", f'{CALLS}, code="internal"}}': FEW},
}


@pytest.mark.parametrize("series", NO_PAGES.values(), ids=list(NO_PAGES))
def test_one_event_pages_nobody(tmp_path: Path, series: dict[str, str]) -> None:
    once = silent("once", {**IS_UP, **series}, *range(20, 45), alerts=PAGES)
    run(tmp_path, [once], DOCUMENT["groups"])


def test_a_service_that_is_gone_is_missed_for_days(tmp_path: Path) -> None:
    """Every five minutes a look, for a week: it must not fall silent while nobody has mended it."""
    day = 24 * 60
    case = Case(
        "MeshServiceWithoutInstances",
        {UP: f"1x{8 * day}", instances("healthy"): "1x60 stale"},
        60,
        6 * day,
        7 * day + 120,
        {"job": "mesh-gateway", "rpc_service": "users"},
        "1",
    )
    groups = [
        group
        for group in DOCUMENT["groups"]
        if group["name"] in {"mesh-saturation", "mesh-services"}
    ]
    test = unit_test(case, rule_of(case))
    soon = {**test["alert_rule_test"][1], "eval_time": "7h10m"}
    test["alert_rule_test"].insert(1, soon)
    run(tmp_path, [test], groups, interval="5m")
