"""The rules as files: promtool takes them, what is shipped is current, each alert has its page."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import mesh_dashboards
from mesh.cli import main
from mesh_dashboards.burning import Promise
from mesh_dashboards.promql import Scope
from mesh_dashboards.rules import rules, to_yaml
from mesh_dashboards.runbooks import runbook, runbooks
from mesh_telemetry.names import DURATION_BOUNDS, FAMILIES
from tests.dashboards.series import PROMISES
from tests.dashboards.test_alerts import ALERTS, DOCUMENT
from tests.end_to_end.prometheus import tool

SHIPPED = Path(mesh_dashboards.__path__[0]) / "shipped/mesh.rules.yml"
OTHERS = (
    Promise("a.b-c", "get_all", success=None, within=30.0, target=0.5),
    Promise("users", "put", success=0.99999, within=None, target=0.99),
)


@pytest.mark.parametrize(
    "scope", [Scope(), Scope(job='a "b"', runbooks="https://books/"), Scope(faster=60)]
)
def test_promtool_finds_nothing_to_complain_of(tmp_path: Path, scope: Scope) -> None:
    file = tmp_path / "mesh.rules.yml"
    file.write_text(to_yaml(rules((*PROMISES, *OTHERS), scope)))
    checked = subprocess.run(
        [tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout + checked.stderr
    assert re.search(r"SUCCESS: \d+ rules found", checked.stdout)


def test_what_is_shipped_is_what_is_generated() -> None:
    """`make dashboards` writes it again."""
    text = SHIPPED.read_text(encoding="utf-8")
    assert text == to_yaml(rules())
    assert yaml.safe_load(text) == rules()


def test_rules_name_metrics_that_exist() -> None:
    recorded = {rule["record"] for group in DOCUMENT["groups"] for rule in group["rules"]
                if "record" in rule}  # fmt: skip
    told = "\n".join(rule["expr"] for group in DOCUMENT["groups"] for rule in group["rules"])
    metrics = {
        re.sub(r"_(bucket|count|sum)$", "", name) if name not in FAMILIES else name
        for name in re.findall(r"\bmesh_\w+", told)
    }
    assert metrics <= set(FAMILIES)
    assert set(re.findall(r"\bmesh:[\w:]+", told)) <= recorded


def test_every_alert_says_what_who_and_where_to_read_on() -> None:
    with_pages = rules(PROMISES, Scope(runbooks="https://books.example/mesh/"))
    linked = [rule for group in with_pages["groups"] for rule in group["rules"] if "alert" in rule]
    for alert, link in zip(ALERTS, linked, strict=True):
        name, annotations = alert["alert"], alert["annotations"]
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert annotations["summary"].endswith(".")
        assert "$value" in annotations["description"] or name == "MeshGatewayAbsent"
        assert annotations["runbook"] == f"mesh dashboards runbook {name}"
        assert "runbook_url" not in annotations
        assert link["annotations"] == {
            **annotations,
            "runbook_url": f"https://books.example/mesh/{name}.md",
        }


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    assert {alert["alert"] for alert in ALERTS} == set(runbooks())


@pytest.mark.parametrize("name", runbooks())
def test_a_runbook_says_what_it_means_how_to_look_and_what_to_do(name: str) -> None:
    text = runbook(name)
    headings = re.findall(r"^#+ .*$", text, re.MULTILINE)
    assert headings == [f"# {name}", "## What it means", "## How to look", "## What to do"]
    for other in re.findall(r"\bMesh[A-Z]\w+", text):
        assert other in runbooks(), f"{name} names {other}, of which there is no page"
    commands = [
        line.partition("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("mesh ")
    ]
    assert commands, "it has no command to look with"
    for command in [*commands, *re.findall(r"`(mesh [^`]+)`", text)]:
        check(command)


def check(command: str) -> None:
    """A command of a page must be one: its options, values and arguments are read, it is not run.

    Raises:
        click.UsageError: It is none.
    """
    _, name, *arguments = shlex.split(command)
    context = click.Context(main)
    found = main.get_command(context, name)
    assert found is not None, command
    while isinstance(found, click.Group):
        found = found.get_command(context, arguments.pop(0))
        assert found is not None, command
    found.make_context(name, arguments, parent=context)


@pytest.mark.parametrize(
    "wrong", ["mesh top --nope", "mesh changes --since", "mesh edges --interval x", "mesh ping 1:2"]
)
def test_a_command_that_does_not_exist_is_found(wrong: str) -> None:
    with pytest.raises(click.UsageError):
        check(wrong)


@given(st.floats(min_value=1e-6, max_value=30.0))
def test_no_call_in_time_is_a_miss(within: float) -> None:
    """The bucket that stands for an objective is the nearest one that is not below it."""
    bucket = Promise("users", "get", None, within, 0.99).bucket
    assert bucket is not None
    assert bucket >= within
    assert not [bound for bound in DURATION_BOUNDS if within <= bound < bucket]


@pytest.mark.parametrize(
    ("promise", "warning"),
    [
        (Promise("users", "get", 0.999, 0.25, 0.99), ""),
        (Promise("users", "get", None, 1, 0.99), ""),
        (
            Promise("users", "get", 0.999, 0.2, 0.99),
            (
                "users.get: its 0.2 s are no bucket of mesh_call_duration_seconds: calls count as "
                "slow above the next one, 0.25 s"
            ),
        ),
        (
            Promise("users", "get", None, 60.0, 0.99),
            (
                "users.get: its 60 s are above the longest bucket of mesh_call_duration_seconds, "
                "30 s: there is no rule for its latency"
            ),
        ),
        (
            Promise("users", "get", 0.8, None, 0.99),
            (
                "users.get: a success objective of 0.8 cannot be missed 6 times as often as "
                "allowed, so that no alert of it pages"
            ),
        ),
    ],
)
def test_what_rules_cannot_do_as_the_contract_says_is_told(promise: Promise, warning: str) -> None:
    assert list(promise.warnings()) == ([warning] if warning else [])


def test_the_bucket_that_stands_for_an_objective_is_told_in_the_description() -> None:
    (alert,) = (
        one
        for one in ALERTS
        if one["alert"] == "MeshObjectiveBurnsFast" and one["labels"]["slo"] == "latency"
    )
    assert (
        "0.25 s, the bucket next to the 0.2 s of the contract"
        in (alert["annotations"]["description"])
    )


def test_no_objective_no_rules() -> None:
    """Not even of a latency that no bucket can tell."""
    nothing = Promise("users", "get", None, 60.0, 0.99)
    assert rules([nothing]) == rules()
