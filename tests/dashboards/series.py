"""Series as promtool writes them, and what it is to be asked of them.

A sample a minute (https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/):
`2x9` is ten samples of 2, `0+6x60` counts up from 0 by 6 sixty times, `_x9` is nine without any.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from mesh_dashboards.burning import Promise
from mesh_dashboards.rules import to_yaml
from tests.end_to_end.prometheus import tool

if TYPE_CHECKING:
    from pathlib import Path

    from mesh_dashboards.promql import Group

GATEWAY = 'job="mesh-gateway", instance="gw:9464"'
UP = f"up{{{GATEWAY}}}"
CALLS = f'mesh_calls_total{{{GATEWAY}, caller="shop", rpc_service="users", rpc_method="get"'
DURATION = f'{{{GATEWAY}, rpc_service="users", rpc_method="get"'
IS_UP = {UP: "1x3000"}

PROMISES = (Promise("users", "get", success=0.999, within=0.2, target=0.99),)
"""Whose `within` is no bucket: the one of 0.25 s counts."""


class Case(NamedTuple):
    """One alert: its series; the minutes at which it must not fire yet, fire, and have ended."""

    alert: str
    series: dict[str, str]
    before: int
    fires: int
    after: int
    labels: dict[str, str]
    value: str = ""
    """How the description writes the value."""

    @property
    def name(self) -> str:
        return f"{self.alert}-{self.labels.get('slo', '')}".rstrip("-")


OF_METHOD = {"job": "mesh-gateway", "rpc_service": "users", "rpc_method": "get"}


def unit_test(case: Case, rule: dict[str, Any]) -> dict[str, Any]:
    """The case as promtool reads it.

    Args:
        case: What is tried.
        rule: The alert, as it was generated; its annotations must come out as the case says.
    """
    values = {f"$labels.{name}": value for name, value in case.labels.items()}
    annotations = {
        name: re.sub(
            r"\{\{ (.*?) \}\}",
            # What is not in the case is left, and fails.
            lambda found: values.get(found[1], case.value if "$value" in found[1] else found[0]),
            text,
        )
        for name, text in rule["annotations"].items()
    }
    fired = {
        "exp_labels": {**rule["labels"], **case.labels},
        "exp_annotations": annotations,
    }
    return {
        "name": case.name,
        "interval": "1m",
        "input_series": [
            {"series": series, "values": values} for series, values in case.series.items()
        ],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": alerts}
            for minute, alerts in ((case.before, []), (case.fires, [fired]), (case.after, []))
        ],
    }


def run(
    folder: Path,
    tests: list[dict[str, Any]],
    *files: list[Group],
    interval: str = "1m",
) -> None:
    """Have promtool run unit tests on files of rules.

    Args:
        folder: Where it may write.
        tests: The tests.
        files: The groups of each file.
        interval: From one evaluation to the next.
    """
    named = {f"{number}.rules.yml": groups for number, groups in enumerate(files)}
    for name, groups in named.items():
        (folder / name).write_text(to_yaml({"groups": groups}))
    told = {
        "rule_files": list(named),
        "evaluation_interval": interval,
        "group_eval_order": list(dict.fromkeys(one["name"] for file in files for one in file)),
        "tests": tests,
    }
    file = folder / "tests.yml"
    file.write_text(yaml.safe_dump(told))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def values(name: str, series: dict[str, str], *asked: tuple[str, int, float]) -> dict[str, Any]:
    """That expressions have these values, to four digits, at these minutes, as promtool reads it.

    Args:
        name: What is tried.
        series: The series, by what they are called.
        asked: Expressions of one series or none, minutes, values.
    """
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": told} for one, told in series.items()],
        "promql_expr_test": [
            {
                "expr": f"round(sum({expression}), 0.0001)",
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": value}],
            }
            for expression, minute, value in asked
        ],
    }
