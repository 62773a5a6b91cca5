# ruff: noqa: ARG001 - a test on trio's jumping clock asks for it by an argument
"""Serving: what each outcome of a handler looks like to its caller; none harms the peer."""

from __future__ import annotations

import functools
import logging
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from tests.gateway.raw_peer import MemoryDialer, raw_peer, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock


class Pair(NamedTuple):
    """A gateway with a peer that serves and one that calls."""

    gateway: mesh.Gateway
    server: mesh.Client
    caller: mesh.Client

    async def outcome(self, function: Callable[..., Any], params: object = None) -> Any:
        """What a call of this handler gives; afterwards both connections are still the first."""
        self.server.register("method", function)
        await settled(self.server)
        try:
            return await self.caller.call("server", "method", params, timeout=5)
        except mesh.CallError as error:
            return error
        finally:
            self.server.unregister("method")
            if "server.sane" not in self.server.registered_methods():
                self.server.register("sane", _sane)
            await settled(self.server)
            assert await self.caller.call("server", "sane", timeout=5) == "sane"
            assert self.gateway.core.counters.connections_opened == 2
            assert len(self.gateway.core.sessions) == 3
            assert not self.gateway.core.table.by_id


async def _sane() -> str:
    return "sane"


@asynccontextmanager
async def paired(limits: mesh.Limits | None = None) -> AsyncIterator[Pair]:
    async with (
        mesh.Gateway(limits=limits) as gateway,
        mesh.connect("server", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway) as caller,
    ):
        yield Pair(gateway, server, caller)


@dataclass
class User:
    """A type of a user."""

    name: str
    age: int = 0


class Counter:
    """A handler that is an object."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, params: int) -> int:
        self.count += params
        return self.count

    async def method(self, params: int) -> int:
        """A bound method."""
        return params * 2

    def plain(self, params: int) -> int:
        """A bound plain method."""
        return params * 3


async def echo(params: Any) -> Any:
    return params


async def nothing() -> None:
    pass


async def typed(user: User) -> Any:
    assert isinstance(user, User)
    return User(user.name, user.age + 1)


async def with_default(params: int, factor: int = 2) -> int:
    return params * factor


def plain(params: Any) -> Any:
    return [threading.current_thread() is threading.main_thread(), params]


@pytest.mark.parametrize(
    ("function", "params", "result"),
    [
        (echo, {"a": [1, None, "ä", 2.5, b"raw"]}, {"a": [1, None, "ä", 2.5, b"raw"]}),
        (echo, None, None),
        (nothing, {"ignored": 1}, None),
        (typed, User("ada", 36), {"name": "ada", "age": 37}),
        (with_default, 4, 8),
        (functools.partial(with_default, factor=3), 4, 12),
        (Counter(), 5, 5),
        (Counter().method, 5, 10),
        (Counter().plain, 5, 15),
        (plain, "x", [False, "x"]),
        (functools.partial(plain), "x", [False, "x"]),
        (lambda: "plain", None, "plain"),
    ],
)
async def test_what_can_be_a_handler(
    function: Callable[..., Any], params: object, result: object
) -> None:
    """Async ones run in the loop, plain ones in a thread; with the parameters, or with nothing."""
    async with paired() as pair:
        assert await pair.outcome(function, params) == result


@pytest.mark.parametrize("function", [lambda _, __: 0, Counter.method])
async def test_a_handler_that_needs_more_than_one_argument_is_refused(
    function: Callable[..., Any],
) -> None:
    """When it is registered, and not at its first call."""
    async with paired() as pair:
        with pytest.raises(TypeError, match="a handler takes the call's parameters as one"):
            pair.server.register("method", function)
        assert pair.server.registered_methods() == []


async def test_one_with_arguments_by_name_only_is_refused() -> None:
    """Nobody would give it that argument."""

    async def handler(*, needed: int) -> int:
        return needed

    async with paired() as pair:
        with pytest.raises(TypeError, match="needs needed; a handler takes the call's parameters"):
            pair.server.register("method", handler)


@pytest.mark.parametrize("name", ["", "1x", "a b", "x" * 129, "a\n"])
async def test_silly_names_are_refused_where_they_are_given(name: str) -> None:
    """Of a method, a service, or the peer itself."""
    async with paired() as pair:
        with pytest.raises(ValueError, match=r"name .* must begin with a letter"):
            pair.server.register(name or " ", nothing)
        with pytest.raises(ValueError, match=r"name .* must begin with a letter"):
            pair.server.register("fine", nothing, service=name or " ")
        with pytest.raises(ValueError, match=r"peer name .* must begin with a letter"):
            await mesh.connect(name, gateway=pair.gateway).__aenter__()


# Outcomes.


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


async def test_a_handler_that_hangs_is_ended_at_the_deadline(autojump_clock: MockClock) -> None:
    """Its scope fires, its cleanup runs, and the caller has had the answer already."""
    cleaned: list[float] = []

    async def handler() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cleaned.append(trio.current_time())

    async with paired() as pair:
        before = trio.current_time()
        error = await pair.outcome(handler)
    assert type(error) is mesh.DeadlineExceeded
    assert cleaned == [pytest.approx(before + 5, abs=0.01)]


async def test_a_handler_that_swallows_cancellation_answers_late(
    autojump_clock: MockClock,
) -> None:
    """Its answer is counted as late and dropped; the worker is not used again."""

    async def handler() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(8)
        return "too late"

    async with paired() as pair:
        error = await pair.outcome(handler)
        assert type(error) is mesh.DeadlineExceeded
        series = pair.gateway.core.metrics.method("server", "method")
        assert (series.abandoned, series.late) == (1, 0)
        await trio.sleep(5)
        assert (series.abandoned, series.late) == (1, 1)
        assert await pair.outcome(echo, "fresh") == "fresh"


async def test_a_handler_that_cancels_itself_has_simply_ended() -> None:
    """Its own scopes are its own business."""

    async def handler() -> str:
        with trio.move_on_after(0):
            await trio.sleep_forever()
        return "moved on"

    async with paired() as pair:
        assert await pair.outcome(handler) == "moved on"


async def test_a_failure_during_cancellation_is_not_lost(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A cleanup that raises is logged by the server, though nobody waits for the answer."""

    async def handler() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("cleanup")

    async with paired() as pair:
        assert type(await pair.outcome(handler)) is mesh.DeadlineExceeded
    assert "raised KeyError" in caplog.text


async def test_a_nursery_in_a_handler_is_cancelled_with_it(autojump_clock: MockClock) -> None:
    """Its tasks end too, and a failure of one of them during that does no harm."""
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)
            if name == "b":
                raise ValueError(name)

    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "a")
            nursery.start_soon(child, "b")

    async with paired() as pair:
        assert type(await pair.outcome(handler)) is mesh.DeadlineExceeded
    assert sorted(ended) == ["a", "b"]


async def test_many_handlers_run_at_once_and_workers_are_used_again() -> None:
    """A burst needs a worker each; what comes after it finds them parked."""
    inside: list[int] = []
    most = 0
    go = trio.Event()

    async def handler(number: int) -> int:
        nonlocal most
        inside.append(number)
        most = max(most, len(inside))
        await go.wait()
        inside.remove(number)
        return number

    async with paired() as pair:
        pair.server.register("method", handler)
        await settled(pair.server)
        results: list[int] = []

        async def call(number: int) -> None:
            results.append(await pair.caller.call("server", "method", number))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for number in range(400):
                    nursery.start_soon(call, number)
                await trio.testing.wait_all_tasks_blocked()
                go.set()
            go = trio.Event()
        assert most == 400
        assert sorted(results) == sorted([*range(400), *range(400)])


async def test_each_handler_sees_its_own_call_and_no_other(autojump_clock: MockClock) -> None:
    """Also on a worker that served another call before; tasks and threads inherit it."""
    async with paired() as pair:

        @pair.server.method()
        async def describe(delay: float) -> dict[str, Any]:
            seen: list[mesh.Call | None] = []
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def child() -> None:
                    seen.append(mesh.current_call())

            await trio.sleep(delay)
            call = mesh.current_call()
            assert call is not None
            assert seen == [call]
            return {
                "name": f"{call.service}.{call.method}", "caller": call.caller,
                "chain": call.chain, "depth": call.depth, "verified": call.verified,
                "remaining": call.remaining, "activity": call.activity_id, "id": call.call_id,
                "entry": call.entry_id, "gateway": call.gateway, "attempt": call.attempt,
            }  # fmt: skip

        await settled(pair.server)
        answers: list[dict[str, Any]] = []

        async def ask(delay: float, activity: str) -> None:
            with mesh.activity(activity):
                answers.append(await pair.caller.call("server", "describe", delay, timeout=20))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(ask, number + 0.0, f"a{number}")
        for number, answer in enumerate(answers):
            assert answer["activity"] == f"a{number % 5}"
            assert answer["remaining"] == pytest.approx(20 - number % 5, abs=0.01)
            assert answer["name"] == "server.describe"
            assert answer["caller"] == "caller"
            assert answer["chain"] == ["server.describe"]
            assert answer["depth"] == 1
            assert answer["verified"]
            assert answer["attempt"] == 1
            assert answer["entry"] == answer["id"]
            assert answer["gateway"] == pair.gateway.instance
        assert len({answer["id"] for answer in answers}) == 10


# Threads.


async def test_a_plain_function_has_the_context_of_its_call() -> None:
    """In its thread it can ask for the call, and call further through the loop."""
    async with paired() as pair:

        @pair.server.method()
        def inner(params: int) -> list[Any]:
            call = mesh.current_call()
            assert call is not None
            return [params, call.chain]

        @pair.server.method()
        def outer(params: int) -> Any:
            return trio.from_thread.run(pair.server.call, "server", "inner", params)

        await settled(pair.server)
        assert await pair.caller.call("server", "outer", 7) == [7, ["server.outer", "server.inner"]]


async def test_a_plain_function_that_overstays_is_answered_for_and_keeps_its_slot() -> None:
    """The caller hears at the deadline; the thread's place is free only once it has ended."""
    release = threading.Event()
    limits = mesh.Limits(max_threads=1)
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("server", gateway=gateway, limits=limits) as server,
        mesh.connect("caller", gateway=gateway) as caller,
    ):
        ran: list[str] = []

        @server.method()
        def slow(params: str) -> str:
            ran.append(params)
            release.wait(30)
            return params

        await settled(server)
        try:
            with pytest.raises(mesh.DeadlineExceeded):
                await caller.call("server", "slow", "first", timeout=0.05)
            with pytest.raises(mesh.DeadlineExceeded):
                await caller.call("server", "slow", "second", timeout=0.05)
            assert ran == ["first"]
        finally:
            release.set()
        assert await caller.call("server", "slow", "third", timeout=10) == "third"
        assert ran == ["first", "third"]


async def test_an_exception_in_a_thread_is_the_handlers() -> None:
    """Like one in the loop."""

    def handler() -> None:
        raise mesh.NotFound("gone")

    async with paired() as pair:
        assert type(await pair.outcome(handler)) is mesh.NotFound


# Registration.


async def test_methods_can_come_and_go_at_any_time() -> None:
    """Before and after connecting; one taken away is unimplemented, its running calls go on."""
    started, go = trio.Event(), trio.Event()
    async with paired() as pair:
        server, caller = pair.server, pair.caller

        @server.method("one")
        async def one() -> int:
            return 1

        @server.method("slow")
        async def slow() -> str:
            started.set()
            await go.wait()
            return "finished"

        await settled(server)
        assert await caller.call("server", "one") == 1
        assert server.registered_methods() == ["server.one", "server.slow"]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def running() -> None:
                assert await caller.call("server", "slow") == "finished"

            await started.wait()
            server.unregister("slow")
            await settled(server)
            with pytest.raises(mesh.Unimplemented) as missing:
                await caller.call("server", "slow")
            assert missing.value.reason == Reason.METHOD_NOT_FOUND
            go.set()
        assert await caller.call("server", "one") == 1
        server.register("slow", one)
        await settled(server)
        assert await caller.call("server", "slow") == 1
        with pytest.raises(KeyError, match=r"server\.never is not registered by server"):
            server.unregister("never")


async def test_methods_registered_before_the_connection_are_served_after_it() -> None:
    """A peer may say what it serves while it still waits for its gateway."""
    dialer = MemoryDialer(None)
    async with mesh.connect("server", gateway=dialer, connect_timeout=0) as server:
        assert not server.is_connected
        server.register("sane", _sane)
        server.register("sane", _sane, service="other")
        async with mesh.Gateway() as gateway, mesh.connect("caller", gateway=gateway) as caller:
            dialer.gateway = gateway
            assert await caller.call("server", "sane") == "sane"
            assert await caller.call("other", "sane") == "sane"
            dialer.gateway = None


async def test_a_method_has_one_handler_at_a_time() -> None:
    """A second one is a mistake that names the first; once that is taken away, it is none."""
    async with paired() as pair:
        pair.server.register("method", nothing)
        with pytest.raises(ValueError, match=r"server\.method is served by <function nothing at"):
            pair.server.register("method", echo)
        pair.server.unregister("method")
        assert await pair.outcome(echo, 1) == 1


async def test_the_decorator_stands_with_or_without_brackets() -> None:
    """The method's name is the function's where none is given."""
    async with paired() as pair:

        @pair.server.method
        async def bare() -> int:
            return 1

        @pair.server.method()
        async def empty() -> int:
            return 2

        @pair.server.method("named", service="other")
        async def function() -> int:
            return 3

        await settled(pair.server)
        assert await pair.caller.call("server", "bare") == 1
        assert await pair.caller.call("server", "empty") == 2
        assert await pair.caller.call("other", "named") == 3


async def test_a_call_that_crossed_its_methods_removal_was_not_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The peer answers that it no longer serves it; that was certainly not executed."""
    async with paired() as pair:
        pair.server.register("sane", _sane)
        await settled(pair.server)
        del pair.server._uplink.dispatcher.handlers["server", "sane"]  # as if REGISTER were late
        with pytest.raises(
            mesh.Unimplemented, match=r"server no longer serves server\.sane"
        ) as gone:
            await pair.caller.call("server", "sane")
        assert not gone.value.maybe_executed
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
