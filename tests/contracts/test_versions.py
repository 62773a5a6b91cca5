"""Which callers a service serves, by the versions of their contracts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.contracts.versions import Fit, Version, fit

VERSIONS = st.builds(Version, *[st.integers(0, 3)] * 3)


@pytest.mark.parametrize(
    ("caller", "service", "expected"),
    [
        ("1.2.0", "1.2.0", Fit.SERVED),
        ("1.2.0", "1.2.1", Fit.SERVED),
        ("1.2.0", "1.10.0", Fit.SERVED),
        ("1.2.1", "1.2.0", Fit.TOO_NEW),
        ("1.10.0", "1.9.9", Fit.TOO_NEW),
        ("2.0.0", "1.9.9", Fit.MISMATCH),
        ("1.0.0", "2.0.0", Fit.MISMATCH),
        ("0.3.1", "0.3.4", Fit.SERVED),
        ("0.3.4", "0.3.1", Fit.TOO_NEW),
        ("0.3.0", "0.4.0", Fit.MISMATCH),
        ("0.4.0", "0.3.0", Fit.MISMATCH),
        ("0.9.0", "1.0.0", Fit.MISMATCH),
    ],
)
def test_a_service_serves_those_as_old_as_itself(caller: str, service: str, expected: Fit) -> None:
    assert fit(Version.parse(caller), Version.parse(service)) is expected


@given(VERSIONS, VERSIONS)
def test_two_versions_serve_each_other_only_if_they_are_equal(one: Version, other: Version) -> None:
    both = {fit(one, other), fit(other, one)}
    assert (both == {Fit.SERVED}) == (one == other)
    # Whether they are different contracts does not depend on who calls.
    assert (fit(one, other) is Fit.MISMATCH) == (fit(other, one) is Fit.MISMATCH)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_who_serves_a_newer_service_s_callers_serves_that_service_s_elders(
    old: Version, middle: Version, new: Version
) -> None:
    if fit(old, middle) is Fit.SERVED and fit(middle, new) is Fit.SERVED:
        assert fit(old, new) is Fit.SERVED


@given(VERSIONS)
def test_a_version_is_read_as_it_is_written(version: Version) -> None:
    assert Version.parse(str(version)) == version


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "v1.2.3",
        "1.2.3-beta",
        "01.2.3",
        "1.2.x",
        "-1.2.3",
        "1.2.٣",
        "1٣.0.0",
    ],
)
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be three numbers, MAJOR.MINOR.PATCH"):
        Version.parse(text)
