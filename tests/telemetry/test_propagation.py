"""The flag that the outside is told for traces that begin here."""

from __future__ import annotations

import secrets

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from mesh_telemetry.propagation import RANDOM, SAMPLED, Ratio


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_the_same_traces_are_sampled_as_by_the_sdk(rate: float) -> None:
    theirs = TraceIdRatioBased(rate)
    ours = Ratio(rate)
    for _ in range(200):
        trace_id = secrets.token_bytes(16)
        decision = theirs.should_sample(None, int.from_bytes(trace_id), "n").decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        assert ours.flags(trace_id) == (SAMPLED | RANDOM if sampled else RANDOM)


@pytest.mark.parametrize(
    ("sampler", "argument", "rate"),
    [
        ("", "", 1.0),
        ("", "0.5", 1.0),
        ("always_on", "", 1.0),
        ("parentbased_always_off", "", 0.0),
        ("traceidratio", "0.25", 0.25),
        ("ParentBased_TraceIdRatio", " 0.5 ", 0.5),
        ("parentbased_traceidratio", "", 1.0),
    ],
)
def test_the_environment_says_the_ratio(sampler: str, argument: str, rate: float) -> None:
    environ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert Ratio.from_environment(environ).rate == rate
    assert Ratio.from_environment({}).rate == 1.0


@pytest.mark.parametrize(
    ("sampler", "argument", "told"),
    [
        ("traceidratio", "half", "OTEL_TRACES_SAMPLER_ARG=half is no ratio from 0 to 1"),
        ("traceidratio", "2", "OTEL_TRACES_SAMPLER_ARG=2 is no ratio from 0 to 1"),
        ("traceidratio", "nan", "OTEL_TRACES_SAMPLER_ARG=nan is no ratio from 0 to 1"),
        ("jaeger_remote", "", "OTEL_TRACES_SAMPLER=jaeger_remote is not known"),
    ],
)
def test_values_that_mean_nothing_are_logged_and_ignored(
    sampler: str, argument: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert Ratio.from_environment(environ).rate == 1.0
    assert told in caplog.text


def test_a_rate_beyond_its_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1, not 1\.5"):
        Ratio(1.5)
