"""Errors: one class per code, gRPC's numbers, and programmer errors that are none of them."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import mesh
from mesh.errors import CODES, Code, Reason
from mesh.groups import single_exception, sole
from mesh.limits import Limits
from mesh.units import KIB, MIB

# https://grpc.io/docs/guides/status-codes/
GRPC = {
    "ok": 0, "cancelled": 1, "unknown": 2, "invalid_argument": 3, "deadline_exceeded": 4,
    "not_found": 5, "already_exists": 6, "permission_denied": 7, "resource_exhausted": 8,
    "failed_precondition": 9, "aborted": 10, "out_of_range": 11, "unimplemented": 12,
    "internal": 13, "unavailable": 14, "data_loss": 15, "unauthenticated": 16,
}  # fmt: skip


def test_codes_have_the_numbers_of_grpc() -> None:
    """All sixteen, and ok."""
    assert {str(code): code.number for code in Code} == GRPC
    assert [code.number for code in CODES] == list(range(17))


@pytest.mark.parametrize("number", [-1, 17, 2**40])
def test_a_number_from_the_future_is_unknown(number: int) -> None:
    """A newer peer's code does not break an older one."""
    assert Code.from_number(number) is Code.UNKNOWN


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_each_code_has_its_class_exported_by_its_name(code: Code) -> None:
    """``except mesh.NotFound`` catches exactly what travels as ``not_found``."""
    error = mesh.CallError.of(code, "why", reason="R")
    expected = getattr(mesh, "".join(word.title() for word in code.split("_")))
    assert type(error) is expected
    assert expected.code is code
    assert Code.from_number(code.number) is code
    assert issubclass(expected, mesh.CallError)


def test_an_error_reads_well() -> None:
    """Reason, message, and the hops that led there; the code stands for a missing reason."""
    error = mesh.NotFound("no user 7", reason="NO_USER", chain=["orders.place", "users.get"])
    assert str(error) == "NO_USER: no user 7 [orders.place > users.get]"
    assert str(mesh.NotFound()) == "NOT_FOUND"
    assert mesh.NotFound().reason == "NOT_FOUND"
    assert mesh.NotFound().maybe_executed


def test_what_is_no_text_is_made_text() -> None:
    """``raise mesh.NotFound(user_id)`` is not worth a second failure."""
    untyped: list[Any] = [(KeyError("x"), "'x'"), (7, "7")]
    for what, message in untyped:
        assert mesh.NotFound(what).message == message


@pytest.mark.parametrize(
    "programmer_error",
    [mesh.UsageError, mesh.AddressError, mesh.AddressInUse, mesh.ProtocolError],
)
def test_programmer_errors_are_no_call_errors(programmer_error: type[Exception]) -> None:
    """``except mesh.CallError`` never hides a bug."""
    assert not issubclass(programmer_error, mesh.CallError)
    assert issubclass(programmer_error, mesh.MeshError)


def test_reasons_are_stable_and_upper_case() -> None:
    """Programs and alerts compare them."""
    assert all(reason == reason.name == reason.upper() for reason in Reason)


def test_limits_have_the_defaults_that_are_documented() -> None:
    """All on, all changeable."""
    limits = Limits()
    assert (limits.call_timeout, limits.max_depth, limits.max_visits) == (30.0, 16, 3)
    assert (limits.max_message, limits.max_chunk) == (16 * MIB, 64 * KIB)
    assert (limits.max_outbox, limits.max_in_flight) == (32 * MIB, 1000)
    assert (limits.handshake, limits.heartbeat) == (5.0, 5.0)
    assert (limits.late_after, limits.unresponsive_after, limits.silent_after) == (3, 6, 12)
    assert (limits.reconnect_first, limits.reconnect_longest) == (0.05, 5.0)
    assert (limits.drain, limits.max_threads, limits.max_callers) == (10.0, 64, 1000)
    assert (limits.service_wait, limits.service_memory) == (5.0, 30.0)
    with pytest.raises(TypeError):
        Limits(5)  # type: ignore[call-arg] # by name only


# Groups.


def test_the_only_failure_of_a_group_takes_its_place() -> None:
    """However deep it is nested; its own cause is kept."""
    inner = KeyError("x")
    inner.__cause__ = ValueError("why")
    with pytest.raises(KeyError) as raised, single_exception():
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [inner])])
    assert raised.value is inner
    assert isinstance(raised.value.__cause__, ValueError)


def test_several_failures_stay_a_group() -> None:
    """None of them is more important than the other."""
    with pytest.raises(ExceptionGroup), single_exception():
        raise ExceptionGroup("two", [KeyError("x"), ValueError("y")])


async def test_cancellation_beside_a_failure_does_not_hide_it() -> None:
    """The failure is the one that counts; and cancellation alone stays cancellation."""
    cancelled: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as this:
            cancelled.append(this)
            raise
    failure = KeyError("x")
    assert sole(BaseExceptionGroup("", [cancelled[0], failure])) is failure
    assert sole(BaseExceptionGroup("", [cancelled[0]])) is cancelled[0]
    assert sole(BaseExceptionGroup("", [cancelled[0], failure, ValueError()])) is None
