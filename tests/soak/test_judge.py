"""The judge notices: each test writes journals in which one thing is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.soak.journal import Begun, Ended, Executed, Finished, Holds, Journal, Line, Reader, parse
from tests.soak.judge import KEPT, LOST_AFTER, NOISE, OLDEST, Judge

if TYPE_CHECKING:
    from pathlib import Path

CALLER, SERVICE = "caller-1.1", "work-1.1"
BEGUN = Begun(1, "short", 10.0, 22.0, 1234, 100, nested=False, target="work.echo")
RAN = Executed(f"{CALLER}:1")
OK = Ended(1, "ok", maybe=True, code="-", reason="-", answer=f"{CALLER}:1", checksum=1234,
           ended=10.1, lag=0.0, size=100, gateway="g1")  # fmt: skip
LOST = OK._replace(how="error", code="unavailable", reason="CONNECTION_LOST", answer="-")


def judged(*caller: Line, service: tuple[Line, ...] = (RAN,), now: float = 11.0) -> str:
    """What a judge says of these journals."""
    judge = Judge()
    judge.born(CALLER, "caller-1", "caller-1")
    judge.born(SERVICE, "work-1", "work")
    judge.read(CALLER, caller)
    judge.read(SERVICE, service)
    judge.settle(now)
    judge.settle(now)
    assert len(judge.violations) == judge.wrong
    return "\n".join(judge.violations)


def test_what_is_right_is_not_complained_of() -> None:
    assert not judged(BEGUN, OK)
    assert not judged(BEGUN, OK, Finished(1))


def test_a_lost_call() -> None:
    """A call that is still open long after its deadline; and not before."""
    too_late = BEGUN.due + 0.2 + NOISE + LOST_AFTER + 0.1
    assert not judged(BEGUN, now=too_late - 0.2)
    assert "has not ended" in judged(BEGUN, now=too_late)


def test_a_call_left_open_by_a_caller_that_ended_in_good_order() -> None:
    judge = Judge()
    judge.born(CALLER, "caller-1", "caller-1")
    judge.read(CALLER, [BEGUN])
    judge.died(CALLER, 11.0, killed=False)
    assert "1 calls open" in judge.violations[0]


def test_a_call_that_a_killed_caller_left_is_excused() -> None:
    judge = Judge()
    judge.born(CALLER, "caller-1", "caller-1")
    judge.read(CALLER, [BEGUN])
    judge.died(CALLER, 11.0, killed=True)
    judge.settle(BEGUN.due + KEPT)
    assert not judge.wrong


def test_a_second_execution() -> None:
    assert "was executed 2 times" in judged(BEGUN, OK, service=(RAN, RAN))


def test_an_execution_that_nobody_asked_for() -> None:
    assert "its caller never made it" in judged(service=(RAN,))
    assert "no such process" in judged(service=(Executed("nobody.1:1"),))


def test_an_answer_without_an_execution() -> None:
    assert "was not executed" in judged(BEGUN, OK, service=())


@pytest.mark.parametrize("order", ["end first", "execution first"])
def test_an_execution_that_the_caller_was_told_had_not_been(order: str) -> None:
    judge = Judge()
    judge.born(CALLER, "caller-1", "caller-1")
    judge.born(SERVICE, "work-1", "work")
    judge.disturb(10.0)
    journals: list[tuple[str, list[Line]]] = [
        (CALLER, [BEGUN, LOST._replace(maybe=False)]),
        (SERVICE, [RAN]),
    ]
    for life, lines in journals if order == "end first" else reversed(journals):
        judge.read(life, lines)
    assert judge.violations == [f"{RAN.id} was executed, and its caller was told that it was not"]


def test_a_mixed_up_answer() -> None:
    """The answer of another call, or the right call's with other bytes."""
    assert "got the answer of" in judged(BEGUN, OK._replace(answer=f"{CALLER}:2"))
    assert "checksum 99, not 1234" in judged(BEGUN, OK._replace(checksum=99))


def test_an_error_of_another_call() -> None:
    planned = OK._replace(how="error", reason="PLANNED", code="not_found", answer="caller-2.1:1")
    assert "got the error of caller-2.1:1" in judged(BEGUN._replace(kind="fails"), planned)


def test_a_second_end() -> None:
    assert "was not open" in judged(BEGUN, OK, OK)


def test_an_end_too_late() -> None:
    """The caller's own lag is allowed on top, and no more."""
    late = OK._replace(ended=BEGUN.due + 0.2 + NOISE + 0.5)
    assert "after its deadline" in judged(BEGUN, late)
    assert not judged(BEGUN, late._replace(lag=0.6))


def test_a_failure_in_calm_times() -> None:
    """The same failure is excused where something was killed while the call was under way."""
    assert "while nothing was disturbed" in judged(BEGUN, LOST)
    for since, until, is_excused in ((10.05, 12.0, True), (2.0, 9.9, False), (10.2, 12.0, False)):
        judge = Judge()
        judge.born(CALLER, "caller-1", "caller-1")
        judge.disturb(since)
        judge.calm(until)
        judge.read(CALLER, [BEGUN, LOST])
        assert (judge.wrong == 0) is is_excused


def test_an_outcome_that_nothing_excuses() -> None:
    lost_answer = LOST._replace(reason="DEADLINE_EXCEEDED", code="deadline_exceeded", ended=22.1)
    for end in (
        lost_answer,
        LOST._replace(reason="OVERLOADED"),
        OK._replace(how="broken", reason="KeyError()"),
    ):
        judge = Judge()
        judge.born(CALLER, "caller-1", "caller-1")
        judge.disturb(0.0)
        judge.read(CALLER, [BEGUN, end])
        assert judge.wrong == 1


def test_journals_that_miss_calls() -> None:
    assert "made 2 calls and noted 1" in judged(BEGUN, OK, Finished(2))


def test_calls_that_are_not_accounted_for() -> None:
    judge = Judge()
    judge.born(CALLER, "caller-1", "caller-1")
    judge.read(CALLER, [BEGUN, OK])
    judge.account()
    assert not judge.wrong
    judge.tally.outcomes["ok"] -= 1
    judge.account()
    assert judge.violations == ["1 calls were made, and 0 are accounted for"]


def test_each_call_is_in_one_class() -> None:
    """By its outcome; what was never sent, and what a kill leaves unknown, is said so."""
    judge = Judge()
    judge.born(CALLER, "caller-1", "caller-1")
    judge.disturb(10.0)
    judge.ledger.open("gateway.1", 0.0)
    judge.ledger.ready("g1")
    judge.ledger.kill(10.05)
    never = OK._replace(
        number=3, how="error", reason="GATEWAY_UNREACHABLE", maybe=False, gateway=""
    )
    judge.read(CALLER, [RAN, BEGUN, OK])
    judge.read(CALLER, [BEGUN._replace(number=2), LOST._replace(number=2)])
    judge.read(CALLER, [BEGUN._replace(number=3), never])
    judge.read(CALLER, [BEGUN._replace(number=4)])
    judge.read(CALLER, [BEGUN._replace(number=5, begun=11.0),
                        LOST._replace(number=5, ended=11.1, gateway="g2")])  # fmt: skip
    judge.died(CALLER, 12.0, killed=True)
    assert judge.tally.outcomes == {
        "ok": 1,
        "unknown, as the gateway was killed": 1,
        "never sent: GATEWAY_UNREACHABLE": 1,
        "unknown, as the caller was killed": 1,
        "CONNECTION_LOST": 1,
    }
    assert judge.tally.calls == judge.tally.outcomes.total()


def test_records_that_are_kept_for_too_long() -> None:
    assert not judged(Holds(11.0, 1, 0, 0, OLDEST - 1.0), service=())
    assert "holds records of" in judged(Holds(11.0, 1, 0, 0, OLDEST + 1.0), service=())


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    """While it is written, and through the files that it is spread over; these are removed."""
    lines: list[Line] = [BEGUN, RAN, OK, LOST, Holds(11.0, 1, 2, 3, 4.5), Finished(1)]
    journal, reader = Journal(tmp_path, CALLER), Reader(tmp_path, CALLER)
    found: list[Line] = []
    for line in lines:
        journal.write(line)
        journal._size += 2**30
        found += reader.read()
    assert found == lines
    assert len(list(tmp_path.iterdir())) == 1
    reader.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no line of a journal"):
        parse("nonsense")
