"""How long a peer waits between two tries to connect."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mesh
from mesh.reconnecting import SOON, SOON_FOR, Pauses, Try

LIMITS = mesh.Limits()


class Longest(random.Random):
    """Draws the longest pause of those that are possible."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


def bounds(came: Try, seconds: float, pauses: Pauses, now: float) -> list[float]:
    """The longest pauses while the same thing happens again and again for so long."""
    found, until = [], now + seconds
    while now < until:
        found.append(pauses.after(came, 0.0, now))
        now += found[-1]
    return found


@pytest.mark.parametrize(
    ("came", "lasted"), [(Try.GOODBYE, 0.1), (Try.GOODBYE, 600.0), (Try.LOST, 600.0)]
)
def test_a_gateway_that_was_well_is_tried_soon_and_often_at_first(came: Try, lasted: float) -> None:
    pauses = Pauses(LIMITS, Longest(), 0.0)
    bounds(Try.ABSENT, 60, pauses, 0.0)
    assert pauses.after(came, lasted, 1000.0) == LIMITS.reconnect_first
    soon = bounds(Try.ABSENT, SOON_FOR, pauses, 1000.0)
    assert soon[:3] == [0.1, 0.2, SOON]
    assert set(soon[2:]) == {SOON}
    assert bounds(Try.ABSENT, 15, pauses, 1000.0 + SOON_FOR)[:6] == [0.5, 1, 2, 4, 5, 5]


def test_one_that_has_never_been_there_is_tried_likewise() -> None:
    assert max(bounds(Try.ABSENT, SOON_FOR, Pauses(LIMITS, Longest(), 7.0), 7.0)) == SOON


@pytest.mark.parametrize("came", [Try.FAILED, Try.LOST])
def test_one_that_listens_and_sends_peers_away_is_left_alone_longer_each_time(came: Try) -> None:
    pauses = Pauses(LIMITS, Longest(), 0.0)
    assert bounds(came, 12, pauses, 0.0) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]


def test_who_sets_longer_pauses_gets_them() -> None:
    slow = mesh.Limits(reconnect_first=2.0, reconnect_longest=8.0)
    assert bounds(Try.ABSENT, 9, Pauses(slow, Longest(), 0.0), 0.0) == [2, 2, 2, 2, 2]
    quick = mesh.Limits(reconnect_longest=0.1)
    assert bounds(Try.ABSENT, 0.25, Pauses(quick, Longest(), 0.0), 0.0) == [0.1, 0.1, 0.1]


@given(st.lists(st.tuples(st.sampled_from(Try), st.floats(0, 100))), st.integers())
def test_pauses_are_within_their_limits(tries: list[tuple[Try, float]], seed: int) -> None:
    pauses, now = Pauses(LIMITS, random.Random(seed), 0.0), 0.0
    for came, lasted in tries:
        now += lasted
        pause = pauses.after(came, lasted, now)
        assert 0 <= pause <= LIMITS.reconnect_longest
        now += pause
