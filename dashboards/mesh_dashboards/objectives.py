"""*Objectives*: what the contracts promise, and how much of it is left.

It reads the series that recording rules make for each objective, see :mod:`mesh_dashboards.rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_dashboards.burning import BUDGET_LEFT, ERRORS, OBJECTIVE
from mesh_dashboards.frame import board, choice, sources, to_service, to_traces
from mesh_dashboards.look import Column, Section, chart, figure, rows
from mesh_dashboards.queries import (
    BY_METHOD,
    MANY,
    METHOD,
    SERVICE,
    USERS_OWN,
    least,
    most,
    quantile,
    rate,
)
from mesh_telemetry import names

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from mesh_dashboards.look import Panel

_KEPT = f'job=~"$job", {SERVICE}, {METHOD}, slo=~"$slo"'
_BY = f" by ({', '.join(('job', *BY_METHOD, 'slo'))})"
"""A table would have what else a series is called as a column, too."""
_BURNS = ((None, "green"), (1, "orange"), (6, "red"))
"""1 uses up the budget in just its time, 6 pages somebody after six hours, 14.4 after one."""
_LEFT = ((None, "red"), (0.25, "orange"), (0.5, "green"))


def objectives() -> Dashboard:
    """Every objective with its budget."""
    known = f'label_values({OBJECTIVE}{{{{job=~"$job"}}}}, {{}})'
    return board(
        "mesh-objectives",
        "Mesh objectives",
        "What contracts promise of their methods: the objective, what is left of the budget of "
        "errors for 30 days, and how fast it is used up.",
        [
            *sources(),
            # All of them are those with objectives, also where exemplars are looked for.
            choice(
                "service",
                "Service",
                known.format(names.RPC_SERVICE),
                "Services with objectives.",
                everything="",
            ),
            choice(
                "method",
                "Method",
                f'label_values({OBJECTIVE}{{job=~"$job", {SERVICE}}}, {names.RPC_METHOD})',
                "Methods with objectives.",
                everything="",
            ),
            choice("slo", "Objective", known.format("slo"), "Success, or latency."),
        ],
        [
            Section("Is it well?", _health()),
            Section("Objectives", [_table()]),
            Section("Over time", _courses()),
            Section("Behind it", _behind()),
        ],
        since="now-24h",
    )


def burn_rate(window: str) -> str:
    """How many times faster than allowed the budget is used up; 1 uses it up in 30 days."""
    return f"max{_BY} ({_errors(window)} / {_allowed()})"


def budget_left() -> str:
    """What is left of the budget of 30 days, from 1 down; below 0 the objective is missed."""
    return f"min{_BY} ({BUDGET_LEFT}{{{_KEPT}}})"


def _errors(window: str) -> str:
    return f"{ERRORS}{window}{{{_KEPT}}}"


def _allowed() -> str:
    return f"(1 - {OBJECTIVE}{{{_KEPT}}})"


def _health() -> list[Panel]:
    return [
        figure(
            "Objectives",
            "Objectives that rules exist for.",
            f"count ({OBJECTIVE}{{{_KEPT}}})",
            "none",
            empty="none",
            span=6,
        ),
        figure(
            "Least budget left",
            "Of the objective that has least left of its 30 days.",
            f"min ({budget_left()})",
            "percentunit",
            steps=_LEFT,
            decimals=1,
            empty="no objectives",
            span=6,
        ),
        figure(
            "Fastest burn, 1 h",
            "How many times faster than allowed a budget was used up in the last hour. From 14.4 "
            "on somebody is paged.",
            f"max ({burn_rate('1h')})",
            "none",
            steps=_BURNS,
            decimals=1,
            empty="no objectives",
            span=6,
        ),
        figure(
            "Fastest burn, 6 h",
            "The same for six hours. From 6 on somebody is paged.",
            f"max ({burn_rate('6h')})",
            "none",
            steps=_BURNS,
            decimals=1,
            empty="no objectives",
            span=6,
        ),
    ]


def _table() -> Panel:
    return rows(
        "Objectives",
        "Success: calls without a fault of the service. Latency: calls within the time that the "
        "contract says. Burn rates are how many times faster than allowed the budget is used up.",
        {"job": "Job", names.RPC_SERVICE: "Service", names.RPC_METHOD: "Method", "slo": "For"},
        [
            Column("Objective", f"max{_BY} ({OBJECTIVE}{{{_KEPT}}})", "percentunit", 2),
            Column("Budget left", budget_left(), "percentunit", 1, _LEFT),
            *(
                Column(f"Burn {window}", burn_rate(window), "none", 2, _BURNS)
                for window in ("5m", "1h", "6h", "1d", "3d")
            ),
        ],
        height=11,
        links=[to_service(), *to_traces()],
        lowest_first="Budget left",
        empty="no objectives",
    )


def _courses() -> list[Panel]:
    legend = "{{job}} {{rpc_service}}.{{rpc_method}} {{slo}}"
    return [
        chart(
            f"Budget left: the {MANY} lowest",
            "From 100 % down; below zero the objective of 30 days is missed.",
            {legend: least(budget_left())},
            "percentunit",
            height=9,
            highest=1,
            empty="no objectives",
        ),
        chart(
            f"Burn rate, 1 h: the {MANY} fastest",
            "1 uses the budget up in 30 days, 14.4 a fiftieth of it in one hour.",
            {legend: most(burn_rate("1h"))},
            "none",
            height=9,
            empty="no objectives",
        ),
        chart(
            f"Burn rate, 6 h: the {MANY} fastest",
            "1 uses the budget up in 30 days, 6 a twentieth of it in six hours.",
            {legend: most(burn_rate("6h"))},
            "none",
            height=9,
            empty="no objectives",
        ),
    ]


def _behind() -> list[Panel]:
    calls = (SERVICE, METHOD, USERS_OWN)
    name = "{{job}} {{rpc_service}}.{{rpc_method}}"
    by = ("job", *BY_METHOD)
    promised = f"and on ({', '.join(by)}) {OBJECTIVE}{{{_KEPT}}}"
    p99 = quantile(0.99, names.CALL_DURATION, *calls, by=by)
    return [
        chart(
            f"Calls: the {MANY} most",
            "Without calls, no budget is used up.",
            {name: most(f"{rate(names.CALLS, *calls, by=by)} {promised}")},
            "reqps",
            span=12,
            empty="no calls",
        ),
        chart(
            f"p99: the {MANY} slowest",
            "Each dot is one call, and opens its trace.",
            {name: most(f"{p99} {promised}")},
            "s",
            span=12,
            exemplars=True,
            empty="no calls",
        ),
    ]
