"""What is recorded, by promtool: numbers worked out by hand, of examples small enough for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_dashboards.burning import Promise
from mesh_dashboards.promql import Scope
from mesh_dashboards.rules import rules
from tests.dashboards.alert_cases import instances
from tests.dashboards.series import CALLS, DURATION, GATEWAY, IS_UP, PROMISES, UP, run, values

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = rules(PROMISES)["groups"]
BEGAN = f"process_start_time_seconds{{{GATEWAY}}}"
OK, INTERNAL = f'{CALLS}, code="ok"}}', f'{CALLS}, code="internal"}}'


def test_every_level_is_the_sum_of_the_one_below(tmp_path: Path) -> None:
    """Two callers, three methods, two services, two gateways, and the gateway's own calls."""
    other = 'job="mesh-gateway", instance="gw-2:9464", caller="shop"'
    series = {
        # users.get: 54 + 3 + 3 a minute are 1 a second, of which 0.05 fail
        OK: "0+54x60",
        f'mesh_calls_total{{{GATEWAY}, caller="web", rpc_service="users", rpc_method="get", '
        'code="ok"}': "0+3x60",
        f'mesh_calls_total{{{other}, rpc_service="users", rpc_method="get", code="internal"}}': (
            "0+3x60"
        ),
        # users.put: 0.5 a second, and not found is no fault
        f'mesh_calls_total{{{GATEWAY}, caller="web", rpc_service="users", rpc_method="put", '
        'code="not_found"}': "0+30x60",
        # orders.place: 0.5 a second, of which 0.1 fail
        f'mesh_calls_total{{{GATEWAY}, caller="web", rpc_service="orders", rpc_method="place", '
        'code="ok"}': "0+24x60",
        f'mesh_calls_total{{{GATEWAY}, caller="web", rpc_service="orders", rpc_method="place", '
        'code="unavailable"}': "0+6x60",
        f'mesh_calls_total{{{GATEWAY}, caller="web", rpc_service="mesh", rpc_method="status", '
        'code="internal"}': "0+600x60",
        f'mesh_calls_in_flight{{{GATEWAY}, rpc_service="users", rpc_method="get"}}': "2x60",
        f'mesh_calls_in_flight{{{other}, rpc_service="users", rpc_method="get"}}': "3x60",
        instances("healthy"): "2x60",
        f'mesh_service_instances{{{other}, rpc_service="users", state="healthy"}}': "3x60",
    }
    get, users, orders = (
        '{rpc_service="users", rpc_method="get"}',
        '{rpc_service="users"}',
        '{rpc_service="orders"}',
    )
    asked = (
        (f"mesh:calls:rate5m{get}", 30, 1.0),
        (f"mesh:call_faults:rate5m{get}", 30, 0.05),
        (f"mesh:call_faults:ratio_rate5m{get}", 30, 0.05),
        (f"mesh:service_calls:rate5m{users}", 30, 1.5),
        (f"mesh:service_call_faults:ratio_rate5m{users}", 30, 0.0333),  # 0.05 / 1.5
        (f"mesh:service_call_faults:ratio_rate5m{orders}", 30, 0.2),
        ("mesh:all_calls:rate5m", 30, 2.0),
        ("mesh:all_call_faults:ratio_rate5m", 30, 0.075),  # 0.15 / 2
        ("mesh:calls_in_flight:sum", 30, 5),
        ("mesh:service_instances:max", 30, 3),
    )
    run(tmp_path, [values("levels", series, *asked)], GROUPS)


def test_every_window_is_of_its_length(tmp_path: Path) -> None:
    """30 calls a minute until 90, 60 until 115, all within 25 ms; then 120, all within 100 ms."""
    bucket = f"mesh_call_duration_seconds_bucket{DURATION}, le="
    fast, all_calls = "0+30x90 2760+60x24 4200x10", "0+30x90 2760+60x24 4320+120x9"
    series = {
        OK: all_calls,
        f'{bucket}"0.01"}}': "0x125",
        f'{bucket}"0.025"}}': fast,
        f'{bucket}"0.05"}}': fast,
        f'{bucket}"0.1"}}': all_calls,
        f'{bucket}"+Inf"}}': all_calls,
    }

    def quantile(part: float, window: str) -> str:
        return f'mesh:call_duration_seconds:quantile_rate{window}{{quantile="{part}"}}'

    asked = (
        ("mesh:calls:rate5m", 120, 2.0),
        ("mesh:calls:rate30m", 120, 1.1667),  # 25 * 60 + 5 * 120 in 1,800 s
        ("mesh:calls:rate1h", 120, 0.8333),  # 30 * 30 and these in 3,600 s
        (quantile(0.5, "5m"), 120, 0.075),  # the middle of 50 ms to 100 ms
        (quantile(0.5, "30m"), 120, 0.0205),  # 1,050 of 1,500 in 10 ms to 25 ms
        (quantile(0.95, "30m"), 120, 0.0913),  # 1,995 - 1,500 of 600 in 50 ms to 100 ms
        (quantile(0.5, "1h"), 120, 0.0194),  # 1,500 of 2,400 in 10 ms to 25 ms
        (quantile(0.95, "1h"), 120, 0.0875),  # 2,850 - 2,400 of 600 in 50 ms to 100 ms
        (quantile(0.99, "1h"), 120, 0.0975),  # 2,970 - 2,400 of 600 likewise
    )
    run(tmp_path, [values("windows", series, *asked)], GROUPS)


def test_failures_count_that_come_with_their_counter(tmp_path: Path) -> None:
    """5,000 fail within a minute, of a caller and code that there was no series of before."""
    misses = 'mesh:slo_misses:rate5m{slo="success"}'
    burst = values(
        "burst",
        {**IS_UP, OK: "0+100x200", INTERNAL: "_x60 5000x140"},
        ("mesh:call_faults:rate5m", 59, 0),
        ("mesh:call_faults:rate5m", 62, 16.6667),  # 5,000 in 300 s
        ("mesh:call_faults:rate30m", 80, 2.7778),  # in 1,800 s
        ("mesh:call_faults:rate5m", 65, 0),
        ('mesh:slo_errors:ratio_rate5m{slo="success"}', 62, 0.9091),  # 5,000 of 5,500
        # Five samples of 5,000, and of the others one each of 100 to 400, then 176 of 500.
        ('mesh:slo_errors:ratio_rate30d{slo="success"}', 180, 0.2193),  # 25 of 89 + 25
        ('mesh:slo_budget_left:ratio{slo="success"}', 180, -218.2982),  # 1 - 0.2193 / 0.001
    )
    again = values(
        "after a gateway was gone for ten minutes",
        {UP: "1x30 0x10 1x60", BEGAN: "0x30 stale _x9 2430x60", INTERNAL: "_x41 5000x60"},
        (misses, 43, 16.6667),
        (misses, 46, 0),
    )
    unknown = values(
        "before Prometheus came",
        {UP: "_x30 1x60", BEGAN: "_x30 -9000x60", OK: "_x30 9000+60x60", INTERNAL: "_x30 5000x60"},
        (misses, 33, 0),
        ('mesh:slo_calls:rate5m{slo="success"}', 36, 1),
    )
    run(tmp_path, [burst, again, unknown], GROUPS)


def test_meshes_in_one_prometheus_do_not_touch_each_other(tmp_path: Path) -> None:
    """One job has no failures, of the other half of all calls fail; each has its file of rules."""
    eu, us = (
        rules([Promise("users", "get", success=success, within=0.25, target=0.99)], Scope(job=job))[
            "groups"
        ]
        for job, success in (("eu", 0.999), ("us", 0.9))
    )
    of_users = 'rpc_service="users", rpc_method="get"'
    series: dict[str, str] = {}
    for job, failed in (("eu", 0), ("us", 60)):
        by = f'job="{job}", instance="{job}:9464"'
        series |= {
            f"up{{{by}}}": "1x60",
            f'mesh_calls_total{{{by}, caller="a", {of_users}, code="ok"}}': "0+60x60",
            f'mesh_calls_total{{{by}, caller="a", {of_users}, code="internal"}}': f"0+{failed}x60",
            f"mesh_calls_in_flight{{{by}, {of_users}}}": "2x60",
            f'mesh_service_instances{{{by}, rpc_service="users", state="healthy"}}': "1x60",
            f"mesh_call_duration_seconds_count{{{by}, {of_users}}}": f"0+{60 + failed}x60",
            f'mesh_call_duration_seconds_bucket{{{by}, {of_users}, le="0.25"}}': "0+60x60",
        }
    asked = [
        (f'{name}{{job="{job}"{more}}}', 30, value)
        for name, more, of_eu, of_us in (
            *(
                (f"mesh:{level}{signal}", "", of_eu, of_us)
                for level in ("", "service_", "all_")
                for signal, of_eu, of_us in (
                    ("calls:rate5m", 1, 2),
                    ("call_faults:rate5m", 0, 1),
                    ("call_faults:ratio_rate1h", 0, 0.5),
                    ("calls_in_flight:sum", 2, 2),
                )
            ),
            ("mesh:slo_errors:ratio_rate5m", ', slo="success"', 0, 0.5),
            ("mesh:slo_errors:ratio_rate5m", ', slo="latency"', 0, 0.5),
            ("mesh:slo_budget_left:ratio", ', slo="success"', 1, -4),  # 1 - 0.5 / 0.1
            ("mesh:slo_objective:ratio", ', slo="success"', 0.999, 0.9),
        )
        for job, value in (("eu", of_eu), ("us", of_us))
    ]
    run(tmp_path, [values("two jobs", series, *asked)], eu, us)
