"""Which traces are kept: reasons, quotas, the cap."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_telemetry import FAMILIES, OTHER, Reason, Sampler, TraceSettings
from mesh_telemetry.sampling import Buckets


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sampler(**settings: Any) -> tuple[Sampler, Clock]:
    clock = Clock()
    return Sampler(TraceSettings(**settings), clock), clock


def kept(asked: Sampler, reason: Reason, method: str = "users.get", times: int = 1000) -> int:
    return sum(asked.wants(reason, method) for _ in range(times))


def test_a_quiet_mesh_keeps_all() -> None:
    asked, clock = sampler()
    for _ in range(100):
        assert asked.baseline("users.get")
        clock.now += 0.1000001
    assert asked.counts["kept_baseline"] == 100


def test_each_reason_and_method_has_a_quota_of_its_own() -> None:
    asked, clock = sampler(quota=5, baseline=3)
    for method in ("users.get", "users.list"):
        assert kept(asked, Reason.ERROR, method) == 5
        assert kept(asked, Reason.SLOW, method) == 5
        assert kept(asked, Reason.BASELINE, method) == 3
    clock.now += 0.4
    assert kept(asked, Reason.ERROR) == 2
    clock.now += 100
    assert kept(asked, Reason.ERROR) == 5, (
        "a bucket holds one second's tokens, however long it fills"
    )
    assert asked.counts["kept_error"] == 17
    assert asked.counts["kept_baseline"] == 6


def test_what_is_asked_again_has_a_quota_of_its_own() -> None:
    asked, clock = sampler(quota=5, max_spans_per_second=10)
    assert sum(asked.wants(Reason.SLOW, "users.get", again=True) for _ in range(20)) == 5
    assert kept(asked, Reason.SLOW) == 5
    clock.now += 1
    asked.spent(11)
    assert not asked.wants(Reason.SLOW, "users.get", again=True), "the cap holds for all"


def test_a_quiet_second_allows_as_much_again() -> None:
    """A quota is a rate: over t seconds it keeps the quota times t + 1 at most."""
    asked, clock = sampler(quota=5)
    found = 0
    for _ in range(20):
        found += asked.wants(Reason.ERROR, "users.get")
        clock.now += 0.05
    assert found == 9


def test_a_refusal_says_why() -> None:
    asked, clock = sampler(quota=1, baseline=1, max_spans_per_second=10)
    assert asked.wants(Reason.ERROR, "a.b")
    assert not asked.wants(Reason.ERROR, "a.b")
    assert asked.refusal == "over_quota"
    asked.dropped(over=asked.refusal)
    assert asked.baseline("a.b")
    assert not asked.baseline("a.b")
    assert asked.refusal == "dropped"
    asked.dropped(over=asked.refusal)
    asked.dropped()
    clock.now += 1
    asked.spent(10)
    assert not asked.wants(Reason.ERROR, "a.b")
    assert asked.refusal == "over_cap"
    asked.dropped(over=asked.refusal)
    assert not asked.baseline("a.b")
    assert asked.refusal == "over_cap"
    assert {name: count for name, count in asked.counts.items() if count} == {
        "kept_error": 1,
        "kept_baseline": 1,
        "over_quota": 1,
        "over_cap": 1,
        "dropped": 2,
    }
    with pytest.raises(ValueError, match="'cap' is neither dropped, over_quota nor over_cap"):
        asked.dropped(over="cap")


def test_a_debt_of_spans_has_to_be_paid_before_more_is_kept() -> None:
    asked, clock = sampler(max_spans_per_second=100)
    asked.spent(99)
    assert asked.wants(Reason.ERROR, "a.b")
    asked.spent(201)  # they were there: two seconds' worth of debt
    assert not asked.wants(Reason.ERROR, "a.b")
    clock.now += 1.99
    assert not asked.wants(Reason.ERROR, "a.b")
    clock.now += 0.02
    assert asked.wants(Reason.ERROR, "a.b")


def test_the_cap_does_not_use_quotas_up() -> None:
    asked, clock = sampler(quota=2, max_spans_per_second=10)
    asked.spent(11)
    assert kept(asked, Reason.ERROR) == 0
    clock.now += 0.2
    assert kept(asked, Reason.ERROR) == 2


def test_forced_traces_have_one_quota_and_no_cap() -> None:
    asked, _ = sampler(quota=3, max_spans_per_second=10)
    asked.spent(1000)
    assert sum(asked.wants(Reason.FORCED, f"s.m{number}") for number in range(100)) == 3
    assert asked.refusal == "over_quota"


@pytest.mark.parametrize("reason", Reason)
def test_a_rate_of_none_keeps_none_and_one_without_end_keeps_all(reason: Reason) -> None:
    none, _ = sampler(quota=0, baseline=0)
    assert kept(none, reason) == 0
    everything, _ = sampler(quota=inf, baseline=inf)
    assert kept(everything, reason) == 1000
    assert everything.counts[f"kept_{reason}"] == 1000


def test_every_decision_is_counted_from_the_beginning() -> None:
    asked, _ = sampler()
    assert set(asked.counts) == {f"kept_{reason}" for reason in Reason} | {
        "dropped",
        "over_quota",
        "over_cap",
    }
    assert not any(asked.counts.values())
    assert FAMILIES["mesh_traces_total"].labels == ("decision",)


@given(
    rate=st.floats(0.01, 5000),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 30)), max_size=40),
)
def test_no_bucket_gives_more_than_its_rate_in_any_stretch_of_time(
    rate: float, steps: list[tuple[float, int]]
) -> None:
    buckets, now = Buckets(rate), 1000.0
    taken: list[float] = []
    for pause, asks in steps:
        now += pause
        for _ in range(asks):
            if buckets.has("a", now):
                buckets.take("a", now)
                taken.append(now)
    for first, start in enumerate(taken):
        for last, end in enumerate(taken[first:], first):
            assert last - first + 1 <= rate * (end - start + 1e-6) + max(rate, 1) + 1e-6


@given(
    settings=st.fixed_dictionaries({"quota": st.integers(0, 20), "baseline": st.integers(0, 20)}),
    steps=st.lists(
        st.tuples(st.floats(0, 0.5), st.sampled_from(Reason), st.sampled_from("abc"), st.booleans())
    ),
)
def test_every_yes_is_counted_once(
    settings: dict[str, int], steps: list[tuple[float, Reason, str, bool]]
) -> None:
    asked, clock = sampler(**settings)
    yes = dict.fromkeys(Reason, 0)
    for pause, reason, method, spends in steps:
        clock.now += pause
        if asked.wants(reason, method):
            yes[reason] += 1
            asked.spent(500 if spends else 1)
        else:
            assert asked.refusal in asked.counts
    assert {f"kept_{reason}": count for reason, count in yes.items()} == {
        name: count for name, count in asked.counts.items() if name.startswith("kept_")
    }


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 30)), max_size=200))
def test_buckets_are_bounded_and_forgetting_them_gives_nothing_away(
    steps: list[tuple[float, int]],
) -> None:
    few, many, now = Buckets(3, max_keys=4), Buckets(3, max_keys=1000), 50.0
    for pause, name in steps:
        now += pause
        if few.has(str(name), now):
            few.take(str(name), now)
            # A key of the crowd has less than one of its own, never more.
            assert many.has(str(name), now) or len(few) > 4
            if many.has(str(name), now):
                many.take(str(name), now)
        assert len(few) <= 5, "the catch-all itself may exceed the bound by one"


def test_what_exceeds_the_number_of_buckets_shares_one() -> None:
    buckets = Buckets(1, max_keys=2)
    for key in ("a", "b"):
        buckets.take(key, 10.0)
    assert buckets.has("c", 10.0)
    buckets.take("c", 10.0)
    assert not buckets.has("d", 10.0)
    assert not buckets.has(OTHER, 10.0)
    assert buckets.has("d", 11.5), "by then the others are full again, and forgotten"
    buckets.take("d", 11.5)
    assert buckets.has("e", 11.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": -1}, "baseline must be 0 or more, not -1"),
        ({"quota": nan}, "quota must be 0 or more, not nan"),
        ({"max_spans_per_second": 0.5}, "max_spans_per_second must be 1 or more, not 0.5"),
        ({"slow_after": 0}, "slow_after must be 0.001 or more, not 0"),
        ({"store_spans": 99}, "store_spans must be 100 or more, not 99"),
    ],
)
def test_settings_out_of_bounds_are_told_by_field_bound_and_value(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TraceSettings(**settings)
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(settings, TraceSettings)


def test_settings_are_read_from_a_table() -> None:
    assert msgspec.convert({}, TraceSettings) == TraceSettings()
    table = {"baseline": 0, "quota": 2.5, "store_spans": 500}
    assert msgspec.convert(table, TraceSettings).quota == 2.5
    with pytest.raises(msgspec.ValidationError, match="unknown field `qota`"):
        msgspec.convert({"qota": 1}, TraceSettings)
