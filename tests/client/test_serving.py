"""Serving: what can be a handler, and methods that come and go."""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.errors import Reason
from tests.client.pairs import User, echo, paired, sane, typed
from tests.gateway.raw_peer import MemoryDialer, settled

if TYPE_CHECKING:
    from collections.abc import Callable


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


async def nothing() -> None:
    pass


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
        server.register("sane", sane)
        server.register("sane", sane, service="other")
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
        pair.server.register("sane", sane)
        await settled(pair.server)
        del pair.server._uplink.dispatcher.handlers["server", "sane"]  # as if REGISTER were late
        with pytest.raises(
            mesh.Unimplemented, match=r"server no longer serves server\.sane"
        ) as gone:
            await pair.caller.call("server", "sane")
        assert not gone.value.maybe_executed
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
