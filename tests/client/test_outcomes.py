"""What each outcome of a handler looks like to its caller; none harms the peer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from tests.client.pairs import User, echo, paired, typed
from tests.gateway.raw_peer import MemoryDialer, raw_peer, settled


class Bad:
    """What cannot travel."""

    def __repr__(self) -> str:
        return "<bad>"


class OutOfStock(mesh.FailedPrecondition):
    """A user's own error."""


class Unprintable(Exception):  # noqa: N818
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unfinished(mesh.NotFound):
    """A subclass whose author forgot the base's constructor."""

    def __init__(self) -> None:
        pass


async def test_a_call_error_travels_typed_with_reason_message_and_details() -> None:
    """With the chain and activity of the call; a subclass arrives as its code's class."""

    async def handler() -> None:
        raise OutOfStock("3 wanted, 2 left", reason="OUT_OF_STOCK", details={"left": 2})

    async with paired() as pair:
        error = await pair.outcome(handler)
    assert type(error) is mesh.FailedPrecondition
    assert (error.reason, error.message) == ("OUT_OF_STOCK", "3 wanted, 2 left")
    assert error.details == {"left": 2}
    assert error.chain == ("server.method",)
    assert len(error.activity_id) == 32
    assert error.maybe_executed


async def test_a_handler_can_say_that_it_has_done_nothing() -> None:
    """``maybe_executed`` of an error that it made itself is believed."""

    async def handler() -> None:
        raise mesh.Unavailable("busy", maybe_executed=False)

    async with paired() as pair:
        error = await pair.outcome(handler)
    assert not error.maybe_executed


async def test_any_other_exception_is_unknown_with_its_type_message_and_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The traceback comes as a note, as this is a local connection; the server logs it too."""

    async def handler() -> None:
        raise LookupError("no such thing")

    async with paired() as pair:
        error = await pair.outcome(handler)
    assert type(error) is mesh.Unknown
    assert error.reason == Reason.HANDLER_FAILED
    assert error.message == "LookupError: no such thing"
    assert "in handler" in str(error.remote_traceback)
    assert any("LookupError: no such thing" in note for note in error.__notes__)
    assert "handler of server.method raised LookupError" in caplog.text


async def test_tracebacks_do_not_leave_the_machine() -> None:
    """Over TCP beyond loopback the caller sees type and message alone."""

    async def handler() -> None:
        raise LookupError("no such thing")

    async with mesh.Gateway() as gateway:
        far = MemoryDialer(gateway, is_tcp=True)
        async with (
            mesh.connect("server", gateway=gateway) as server,
            mesh.connect("caller", gateway=far) as caller,
        ):
            server.register("method", handler)
            await settled(server)
            with pytest.raises(mesh.Unknown, match="LookupError: no such thing") as raised:
                await caller.call("server", "method")
    assert raised.value.remote_traceback is None
    assert not hasattr(raised.value, "__notes__")


async def test_the_only_exception_of_a_group_is_the_handlers() -> None:
    """What a nursery of the handler's wraps is unwrapped."""

    async def fail() -> None:
        raise mesh.NotFound("gone", reason="GONE")

    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    async with paired() as pair:
        error = await pair.outcome(handler)
    assert type(error) is mesh.NotFound
    assert error.reason == "GONE"


async def test_a_group_of_several_exceptions_is_unknown() -> None:
    """With all of them in its traceback."""

    async def handler() -> None:
        raise ExceptionGroup("both", [KeyError("a"), ValueError("b")])

    async with paired() as pair:
        error = await pair.outcome(handler)
    assert type(error) is mesh.Unknown
    assert error.message == "ExceptionGroup: both (2 sub-exceptions)"
    assert "KeyError" in str(error.remote_traceback)
    assert "ValueError" in str(error.remote_traceback)


@pytest.mark.parametrize(
    ("value", "path"),
    [(Bad(), "$: Bad"), ({"rows": [1, Bad()]}, "$.rows[1]: Bad"), (2**70, "$: int")],
)
async def test_a_result_that_cannot_travel_is_internal_and_names_the_path(
    value: object, path: str
) -> None:
    """As the handler broke its promise; it may well have done its work."""

    async def handler() -> object:
        return value

    async with paired() as pair:
        error = await pair.outcome(handler)
    assert type(error) is mesh.Internal
    assert error.reason == Reason.UNENCODABLE
    assert f"result of server.method cannot be encoded: {path}" in error.message
    assert error.maybe_executed


async def test_parameters_of_another_type_are_the_callers_fault() -> None:
    """The message names the path and the type; the handler did not run."""
    async with paired() as pair:
        error = await pair.outcome(typed, {"name": "ada", "age": "old"})
    assert type(error) is mesh.InvalidArgument
    assert error.reason == Reason.UNDECODABLE
    assert "$.age" in error.message
    assert not error.maybe_executed


async def test_a_decoding_error_inside_a_handler_is_the_handlers() -> None:
    """It is not blamed on the caller, whose parameters were fine."""

    async def handler(user: User) -> Any:
        return msgspec.json.decode(b"{", type=User)

    async with paired() as pair:
        error = await pair.outcome(handler, User("ada"))
    assert type(error) is mesh.Unknown
    assert "DecodeError" in error.message


@pytest.mark.parametrize(
    "failure",
    [
        mesh.NotFound("x" * 1_000_000),
        mesh.NotFound("ä" * 40_000),
        mesh.NotFound("gone", reason="R" * 100_000),
        mesh.NotFound("gone", chain=["hop" * 1000] * 100),
        mesh.NotFound("gone", details={"big": "x" * 3_000_000}),
        mesh.NotFound("gone", details={"bad": Bad()}),
        mesh.NotFound("\ud800"),
        mesh.NotFound(KeyError("x")),  # type: ignore[arg-type] # what untyped code does
        mesh.NotFound("gone", reason=b"bytes"),  # type: ignore[arg-type]
        Unfinished(),
    ],
    ids=lambda error: repr(error)[:30],
)
async def test_an_error_that_hardly_fits_still_arrives_as_its_code(failure: mesh.CallError) -> None:
    """Whatever text and details a handler puts into it, the peer and its other calls go on."""

    async def handler() -> None:
        raise failure

    async with paired(mesh.Limits(max_message=2_000_000)) as pair:
        error = await pair.outcome(handler)
    assert type(error) is mesh.NotFound
    assert len(error.message) <= 40_000


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (Unprintable(), "Unprintable"),
        (FileNotFoundError(2, "gone", "data/\udcff"), "FileNotFoundError"),
        (ValueError("語" * 100_000), "ValueError: 語"),
        (ValueError("\x00\n\x1b"), "ValueError: \x00\n\x1b"),
        (StopIteration(), "RuntimeError"),
        (StopAsyncIteration(), "StopAsyncIteration"),
        (RecursionError("deep"), "RecursionError: deep"),
        (trio.TooSlowError(), "trio.TooSlowError"),
        (TypeError("own"), "TypeError: own"),
        (mesh.UsageError("own"), "mesh.errors.UsageError: own"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_any_exception_at_all_is_told_and_harms_nobody(failure: Exception, told: str) -> None:
    """Also one without text, with text that is not Unicode, or with far too much of it."""

    async def handler() -> None:
        raise failure

    async with paired() as pair:
        error = await pair.outcome(handler)
    assert type(error) is mesh.Unknown
    assert error.message.startswith(told)


async def test_parameters_that_are_nested_too_deep_are_invalid() -> None:
    """Not a fault of the handler; a hand-written client may well send such."""
    async with paired() as pair, raw_peer(pair.gateway) as raw:
        pair.server.register("echo", echo)
        await settled(pair.server)
        await raw.call("server", "echo", b"\x91" * 60_000 + b"\xc0")
        _, _, error, _ = await raw.receive()
        assert mesh.errors.Code.from_number(error.code) == "invalid_argument", error
        assert error.reason == Reason.UNDECODABLE
        assert await pair.caller.call("server", "echo", 1) == 1
