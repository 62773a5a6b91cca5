"""When a call is slow: from what its method took in the last half minute."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry import MethodSeries, SlowMethods

if TYPE_CHECKING:
    from collections.abc import Sequence


def series(*durations: tuple[int, float]) -> MethodSeries:
    made = MethodSeries("users", "get")
    observe(made, *durations)
    return made


def observe(made: MethodSeries, *durations: tuple[int, float]) -> None:
    for calls, seconds in durations:
        for _ in range(calls):
            made.observe(seconds)


@pytest.mark.parametrize(
    ("durations", "threshold"),
    [
        ([], 1.0),
        ([(99, 0.01)], 1.0),  # too few to say
        ([(1000, 0.00005)], 0.001),  # nothing below a millisecond is slow
        ([(500, 0.04), (500, 0.09)], 0.1),  # twice the median (0.05) is more than the p99 (0.099)
        ([(980, 0.004), (20, 0.4)], 0.375),  # the p99 lies in the bucket from 0.25 to 0.5
        ([(1000, 0.9)], 1.0),  # never more than the setting
        ([(1000, 60.0)], 1.0),
    ],
)
def test_the_threshold_is_the_p99_within_bounds(
    durations: Sequence[tuple[int, float]], threshold: float
) -> None:
    made = series(*durations)
    assert made.slow_after == inf, "until somebody looks, nothing is slow"
    SlowMethods(1.0).update([made], 100.0)
    assert made.slow_after == pytest.approx(threshold)


@pytest.mark.parametrize(
    ("durations", "threshold"),
    [
        ([], 3.0),  # longer than the setting, which is for methods without one
        ([(1000, 5.0)], 3.0),  # slower than it should be, though as always
        ([(980, 0.004), (20, 0.4)], 0.375),
    ],
)
def test_a_method_s_objective_takes_the_place_of_the_setting(
    durations: Sequence[tuple[int, float]], threshold: float
) -> None:
    made = series(*durations)
    made.objective = 3.0
    SlowMethods(1.0).update([made], 100.0)
    assert made.slow_after == pytest.approx(threshold)


def test_old_calls_fade() -> None:
    made, slow = series(), SlowMethods(1.0)
    for second in range(60):
        observe(made, (20, 0.002 if second < 20 else 0.2))
        slow.update([made], 1000.0 + second)
        if second == 19:
            assert made.slow_after < 0.01
    assert made.slow_after == pytest.approx(0.35, abs=0.15), "the fast ones are forgotten"
    for second in range(60, 95):
        slow.update([made], 1000.0 + second)
    assert made.slow_after == 1.0, "and so are all where there are no more"


def test_methods_are_looked_at_one_by_one() -> None:
    fast, slow, new = series((200, 0.002)), series((200, 0.2)), series()
    methods = SlowMethods(0.3)
    methods.update([fast, slow], 0.0)
    methods.update([fast, slow, new], 1.0)
    assert fast.slow_after < 0.01
    assert 0.1 < slow.slow_after <= 0.3
    assert new.slow_after == 0.3


@given(
    setting=st.floats(0.001, 100),
    seconds=st.lists(
        st.tuples(st.floats(0, 40), st.lists(st.tuples(st.integers(0, 200), st.floats(0, 40)))),
        max_size=10,
    ),
)
def test_the_threshold_is_always_within_its_bounds(
    setting: float, seconds: list[tuple[float, list[tuple[int, float]]]]
) -> None:
    made, slow, now = series(), SlowMethods(setting), 0.0
    for pause, durations in seconds:
        now += pause
        for calls, duration in durations:
            made.observe(duration)
            made.buckets[0] += calls
        slow.update([made], now)
        assert 0.001 <= made.slow_after <= setting
