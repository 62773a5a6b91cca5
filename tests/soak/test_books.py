"""The books notice every call that is counted once too often, not at all or under another name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.outgoing import GRACE
from tests.soak.books import TOLD_WITHIN, UNKNOWN, Book, Entry, Ledger
from tests.soak.journal import Begun, Ended

if TYPE_CHECKING:
    from tests.soak.books import Cell

CALLER, ECHO = "caller-1", "work.echo"
BEGUN = Begun(1, "short", 10.0, 22.0, 0, 0, nested=False, target=ECHO)
OK = Ended(1, "ok", maybe=True, code="-", reason="-", answer="-", checksum=0, ended=10.1, lag=0.0,
           size=0, gateway="g1")  # fmt: skip
CANCELLED = OK._replace(how="cancelled")
FAILED = OK._replace(how="error", code="unavailable", reason="CONNECTION_LOST")


def counted(**codes: int) -> dict[Cell, int]:
    return {(CALLER, ECHO, code): count for code, count in codes.items()}


def differences(theirs: dict[Cell, int], *ours: Ended, calm: bool = True) -> list[str]:
    """What books say that were closed long after these calls, where nothing was killed."""
    ledger = Ledger()
    ledger.open("gateway.1", 0.0)
    ledger.ready("g1")
    for ended in ours:
        ledger.ended(CALLER, BEGUN, ended, calm=calm)
    ledger.begin_reading(100.0)
    ledger.read(theirs, 100.1)
    return ledger.compare()


def test_without_kills_the_counters_are_equal_to_the_call() -> None:
    assert not differences(counted(ok=2, unavailable=1), OK, OK, FAILED)
    for wrong in (
        counted(ok=1, unavailable=1),
        counted(ok=3, unavailable=1),
        counted(ok=2, unavailable=2),
        counted(ok=2, unavailable=1, cancelled=1),
        counted(ok=2),
        {},
    ):
        assert differences(wrong, OK, OK, FAILED)


def test_calls_under_another_name_are_noticed() -> None:
    """Another method, another caller, or none that is known."""
    for cell in ((CALLER, "work.thread", "ok"), ("caller-2", ECHO, "ok"), (CALLER, UNKNOWN, "ok")):
        assert differences({cell: 1}, OK)


def test_a_call_that_was_given_up_is_counted_once_whatever_came_of_it() -> None:
    assert not differences(counted(ok=1, cancelled=1), OK, CANCELLED)
    assert not differences(counted(ok=2), OK, CANCELLED)
    assert differences(counted(ok=1), OK, CANCELLED)
    assert differences(counted(ok=2, cancelled=1), OK, CANCELLED)
    assert differences(counted(cancelled=2), OK, CANCELLED)
    assert differences(counted(ok=1, unavailable=1), OK, CANCELLED)


def test_the_callers_own_word_on_a_deadline_is_told_from_the_gateways() -> None:
    expired = FAILED._replace(code="deadline_exceeded", reason="DEADLINE_EXCEEDED", ended=22.01)
    own = expired._replace(ended=BEGUN.due + GRACE)
    assert not differences(counted(deadline_exceeded=1), expired)
    assert differences(counted(ok=1), expired)
    assert not differences(counted(ok=1), own)


def test_a_method_that_was_not_known_while_a_service_was_away() -> None:
    unknown = {(CALLER, UNKNOWN, "unavailable"): 1}
    assert differences(unknown, FAILED)
    assert not differences(unknown, FAILED, calm=False)
    assert differences({**unknown, (CALLER, ECHO, "unavailable"): 1}, FAILED, calm=False)
    assert differences({}, FAILED, calm=False)


def test_what_was_under_way_at_a_reading_is_in_doubt() -> None:
    """And only that. Every call is in the books of the gateway that it was sent to."""
    ledger = Ledger()
    ledger.open("gateway.1", 0.0)
    ledger.ready("g1")
    for begun, ended, gateway in (
        (1.0, 1.1, "g1"),
        (9.9, 10.1, "g1"),  # under way at the first reading
        (10.3, 10.4, "g1"),  # between the reading and the kill: in no books
        (10.4, 11.5, "g1"),  # sent to a gateway that was dead already
        (10.4, 12.5, "g2"),  # waited for the next one
        (13.0, 13.1, "g2"),
        (13.0, 20.05, "g2"),  # under way at the second reading
    ):
        end = OK._replace(ended=ended, gateway=gateway)
        ledger.ended(CALLER, BEGUN._replace(begun=begun), end, calm=True)
    ledger.begin_reading(10.0)
    ledger.read(counted(ok=1), 10.2)
    ledger.kill(10.35)
    ledger.open("gateway.2", 11.0)
    ledger.ready("g2")
    ledger.begin_reading(20.0)
    ledger.read(counted(ok=3), 20.1)
    assert not ledger.compare()
    why = "under way while the books were read"
    for book, certain in zip(ledger.books, (1, 2), strict=True):
        assert (book.certain, book.doubts) == (certain, {why: 1})
        for count in range(5):
            book.counted = counted(ok=count)
            assert (not book.compare()) is (count in {certain, certain + 1})


def test_a_call_given_up_a_moment_before_the_reading_is_in_doubt() -> None:
    for ended, is_certain in ((100.0 - TOLD_WITHIN / 2, False), (99.9 - TOLD_WITHIN, True)):
        assert bool(differences({}, CANCELLED._replace(ended=ended))) is is_certain


def test_a_caller_that_was_killed_leaves_calls_in_doubt() -> None:
    for count, is_fine in ((0, True), (1, True), (2, False)):
        ledger = Ledger()
        ledger.open("gateway.1", 0.0)
        ledger.ready("g1")
        ledger.orphaned(CALLER, BEGUN, 11.0)
        ledger.begin_reading(100.0)
        ledger.read(counted(cancelled=count), 100.1)
        assert (not ledger.compare()) is is_fine


def test_counters_that_were_never_read() -> None:
    ledger = Ledger()
    ledger.open("gateway.1", 0.0)
    ledger.ready("g1")
    assert ledger.compare() == ["the counters of gateway.1 were not read"]


METHODS, CODES = ("work.echo", "work.thread"), ("ok", "cancelled", "unavailable")
methods = st.sampled_from([("work.echo",), ("work.thread",), ("work.echo", UNKNOWN)])
codes = st.none() | st.frozensets(st.sampled_from(CODES), min_size=1)
entries = st.builds(Entry, st.just(CALLER), methods, codes, is_certain=st.booleans())


@given(st.lists(entries, max_size=12), st.randoms())
def test_whatever_really_happened_agrees(made: list[Entry], randomness: object) -> None:
    """Any way in which calls are counted as they may be passes; one call more or less does not."""
    import random

    assert isinstance(randomness, random.Random)
    book = Book("gateway.1", 0.0)
    theirs: dict[Cell, int] = {}
    for entry in made:
        book.entries[entry] += 1
        if entry.is_certain or randomness.random() < 0.5:
            cell = (CALLER, randomness.choice(entry.methods),
                    randomness.choice(sorted(entry.codes or CODES)))  # fmt: skip
            theirs[cell] = theirs.get(cell, 0) + 1
    book.counted = theirs
    assert not book.compare()
    if all(entry.is_certain for entry in made):
        for cell in [*theirs, (CALLER, ECHO, "ok")]:
            book.counted = {**theirs, cell: theirs.get(cell, 0) + 1}
            assert book.compare()
        for cell, count in theirs.items():
            book.counted = {**theirs, cell: count - 1}
            assert book.compare()


@pytest.mark.parametrize("missing", METHODS)
def test_calls_of_one_method_do_not_make_up_for_those_of_another(missing: str) -> None:
    book = Book("gateway.1", 0.0)
    for method in METHODS:
        book.entries[Entry(CALLER, (method,), frozenset({"ok"}), is_certain=True)] = 1
    other = next(method for method in METHODS if method != missing)
    book.counted = {(CALLER, other, "ok"): 2}
    assert any(missing in wrong for wrong in book.compare())
