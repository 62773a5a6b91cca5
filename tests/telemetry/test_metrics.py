"""Counting: series, bounds on labels, quantiles, the summary."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import CODES
from mesh_telemetry import (
    CODE_NAMES,
    DURATION_BOUNDS,
    FAMILIES,
    OTHER,
    CallMetrics,
    GatewayCounters,
    MethodSeries,
    quantile,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

BEYOND = len(DURATION_BOUNDS)


def test_code_names_and_numbers_are_those_of_the_mesh() -> None:
    assert list(CODE_NAMES) == [code.value for code in CODES]


def test_metric_names_follow_prometheus_practice() -> None:
    for name, family in FAMILIES.items():
        assert name == family.name
        assert name.endswith("_total") == (family.type == "counter")
        assert not {"service", "instance", "job"} & set(family.labels)
        assert family.help.endswith(".")


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (0.0001, 0),  # an upper bound is inclusive
        (0.000100001, 1),
        (0.001, 3),
        (0.9, 12),
        (30.0, BEYOND - 1),
        (30.1, BEYOND),
        (math.inf, BEYOND),
    ],
)
def test_a_duration_falls_into_its_bucket(seconds: float, bucket: int) -> None:
    series = MethodSeries("users", "get")
    series.observe(seconds)
    assert series.buckets.index(1) == bucket
    assert sum(series.buckets) == 1
    assert series.duration_sum == seconds


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.5),  # the first bucket starts at 0
        ([0, 10, 0, 0], 0.5, 1.5),
        ([0, 10, 0, 0], 0.0, 1.0),
        ([0, 10, 0, 0], 1.0, 2.0),
        ([5, 5, 0, 0], 0.5, 1.0),
        ([5, 0, 5, 0], 0.75, 3.0),
        ([1, 0, 0, 9], 0.95, 4.0),  # beyond all bounds: the highest one
    ],
)
def test_quantiles_interpolate_as_prometheus_does(
    buckets: Sequence[int], q: float, expected: float | None
) -> None:
    assert quantile(buckets, q, bounds=(1.0, 2.0, 4.0)) == expected


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_outside_0_to_1_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        quantile([1, 1], q, bounds=(1.0,))


def test_buckets_that_do_not_fit_the_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="2 buckets do not fit 17 bounds"):
        quantile([1, 1], 0.5)


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([0.101] * 100, [0.102, 0.1167, 0.15]),  # of 175, 242 and 248 ms alone none is possible
        ([0.249] * 100, [0.248, 0.249, 0.249]),
        ([0.02] * 90 + [0.101] * 10, [0.0183, 0.175, 0.235]),  # any of these is possible
        ([0.101] * 9 + [90.0], [0.1833, 30.0, 30.0]),  # what is beyond all bounds may be anything
    ],
)
def test_the_sum_of_all_calls_rules_quantiles_out(
    durations: list[float], expected: list[float]
) -> None:
    series = MethodSeries("users", "get")
    for seconds in durations:
        series.observe(seconds)
    found = [quantile(series.buckets, q, total=series.duration_sum) for q in (0.5, 0.95, 0.99)]
    assert found == [pytest.approx(one, abs=0.0006) for one in expected]


@given(
    summed=st.booleans(),
    durations=st.lists(st.floats(0.0, 30.0), min_size=1, max_size=50),
    qs=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=5),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(
    summed: bool, durations: list[float], qs: list[float]
) -> None:
    series = MethodSeries("users", "get")
    for seconds in durations:
        series.observe(seconds)
    durations.sort()
    estimates = []
    for q in sorted(qs):
        estimate = quantile(series.buckets, q, total=series.duration_sum if summed else None)
        assert estimate is not None
        estimates.append(estimate)
        true = durations[max(0, math.ceil(q * len(durations)) - 1)]
        upper = min(bound for bound in DURATION_BOUNDS if bound >= true)
        lower = max((bound for bound in (0.0, *DURATION_BOUNDS) if bound < upper), default=0.0)
        assert lower <= estimate <= upper * (1 + 1e-12)
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(estimates))


def test_a_series_is_created_once_and_shared_by_callers() -> None:
    metrics = CallMetrics()
    first = metrics.series("orders", "users", "get")
    assert metrics.series("orders", "users", "get") is first
    second = metrics.series("shop", "users", "get")
    assert second is not first
    assert second.method is first.method is metrics.method("users", "get")
    assert metrics.calls() == (first, second)
    assert metrics.methods() == (first.method,)


def test_callers_beyond_the_bound_share_one_label() -> None:
    metrics = CallMetrics(max_callers=2)
    for number in range(5):
        metrics.series(f"caller-{number}", "users", "get").codes[0] += 1
    assert {series.caller: series.codes[0] for series in metrics.calls()} == {
        "caller-0": 1,
        "caller-1": 1,
        OTHER: 3,
    }
    assert metrics.caller("caller-1") == "caller-1"
    assert metrics.caller("caller-9") == OTHER


def test_the_catch_all_caller_takes_no_place() -> None:
    metrics = CallMetrics(max_callers=1)
    assert metrics.caller(OTHER) == OTHER
    assert metrics.caller("orders") == "orders"


def test_methods_beyond_the_bound_share_one_series() -> None:
    metrics = CallMetrics(max_methods=2)
    for number in range(5):
        metrics.series("orders", f"service-{number}", "get").codes[0] += 1
    assert [(series.service, series.method) for series in metrics.methods()] == [
        ("service-0", "get"),
        ("service-1", "get"),
        (OTHER, OTHER),
    ]
    assert metrics.ended() == 5


def test_series_beyond_the_bound_lose_their_caller() -> None:
    metrics = CallMetrics(max_series=2)
    for number in range(6):
        metrics.series(f"caller-{number}", "users", "get").codes[0] += 1
    assert [series.caller for series in metrics.calls()] == ["caller-0", "caller-1", OTHER]
    assert metrics.ended() == 6


def test_the_summary_adds_callers_up() -> None:
    metrics = CallMetrics()
    one = metrics.series("orders", "users", "get")
    two = metrics.series("shop", "users", "get")
    one.codes[0] += 3
    one.codes[4] += 1
    two.codes[4] += 1
    two.codes[14] += 2
    one.method.in_flight = 7
    for _ in range(100):
        one.method.observe(0.0008)
    metrics.method("users", "list")
    metrics.series("shop", "stock", "reserve").codes[0] += 1

    summary = metrics.snapshot()
    assert list(summary) == [("users", "get"), ("users", "list"), ("stock", "reserve")]
    get = summary["users", "get"]
    assert get.calls == 7
    assert get.errors == {"deadline_exceeded": 2, "unavailable": 2}
    assert get.in_flight == 7
    assert get.p50 == pytest.approx(0.00075)
    assert get.p95 == pytest.approx(0.000975)
    assert get.p99 == pytest.approx(0.000995)
    assert summary["users", "list"] == (0, {}, 0, None, None, None)
    assert list(metrics.snapshot("stock")) == [("stock", "reserve")]


def test_rejections_are_counted_by_caller_service_and_reason() -> None:
    counters = GatewayCounters()
    counters.reject("orders", "users", "OVERLOADED")
    counters.reject("orders", "users", "OVERLOADED")
    counters.reject("orders", OTHER, "SERVICE_NOT_FOUND")
    assert counters.rejected == {
        ("orders", "users", "OVERLOADED"): 2,
        ("orders", OTHER, "SERVICE_NOT_FOUND"): 1,
    }
