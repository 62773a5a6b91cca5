"""Versions: who serves which callers, and what those are told whom nobody serves."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import mesh
from mesh.contracts.versions import Fit, Version, fit
from mesh.errors import Code, Reason
from mesh.gateway.fitting import MOST_VERSIONS
from mesh.wire import codec
from mesh.wire.frames import Kind
from tests.gateway.raw_peer import raw_peer, register_header, result_header
from tests.gateway.test_registry import Room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from tests.gateway.raw_peer import RawPeer

SETTLED = 40.0
"""Seconds after which a gateway expects nothing back."""


@asynccontextmanager
async def served(
    *versions: str, age: float = SETTLED
) -> AsyncIterator[tuple[mesh.Gateway, RawPeer, list[RawPeer]]]:
    """A gateway of this age, a caller, and an instance of `users` of each version."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(mesh.Gateway())
        caller = await stack.enter_async_context(raw_peer(gateway, "orders"))
        instances = [
            await stack.enter_async_context(
                raw_peer(gateway, "users", process_id=f"users-{number}")
            )
            for number, _ in enumerate(versions, 1)
        ]
        for instance, version in zip(instances, versions, strict=True):
            await instance.send(register_header("users", "get", version=version))
        await trio.sleep(age)
        yield gateway, caller, instances


async def outcome(caller: RawPeer, version: str | None, method: str = "get") -> codec.Error:
    """How a call that is refused ends."""
    await caller.call("users", method, version=version)
    _, _, error, payload = await caller.receive(Kind.ERROR, Kind.RESULT)
    assert isinstance(error, codec.Error), "it was served"
    error.traceback = payload.decode("latin-1")
    return error


def details(error: codec.Error) -> Any:
    assert error.traceback is not None
    return msgspec.msgpack.decode(error.traceback.encode("latin-1"))


async def takes(instance: RawPeer, caller: RawPeer, version: str | None) -> codec.Call:
    """See that a call goes to this instance, and answer it."""
    await caller.call("users", "get", version=version)
    _, _, call, _ = await instance.receive(Kind.CALL)
    assert isinstance(call, codec.Call)
    await instance.send(result_header(call.call_id), payload=b"\xc0")
    await caller.receive(Kind.RESULT)
    return call


async def test_a_caller_is_routed_to_an_instance_that_fits(autojump_clock: MockClock) -> None:
    """Instances of several versions live side by side; balancing is among those that fit."""
    async with served("1.2.0", "2.0.1") as (_, caller, (old, new)):
        for _ in range(3):
            assert (await takes(old, caller, "1.1.7")).version is None
            await takes(old, caller, "1.2.0")
            await takes(new, caller, "2.0.0")
        # Without a version, any will do, in turn.
        for instance in (old, new, old, new):
            await takes(instance, caller, None)


async def test_an_instance_without_a_version_serves_everybody(autojump_clock: MockClock) -> None:
    async with served("", "1.2.0") as (_, caller, (plain, old)):
        for version in ("9.9.9", "0.0.1"):
            await takes(plain, caller, version)
        for instance in (plain, old, plain, old):
            await takes(instance, caller, "1.0.0")


async def test_a_caller_that_is_too_new_is_told_to_wait_for_the_service(
    autojump_clock: MockClock,
) -> None:
    async with served("1.2.0", "1.1.0", "2.0.0") as (_, caller, _instances):
        error = await outcome(caller, "1.3.0")
        assert (error.code, error.reason) == (
            Code.FAILED_PRECONDITION.number,
            Reason.INCOMPATIBLE_VERSION,
        )
        assert not error.options & codec.MAYBE_EXECUTED
        assert error.message == (
            "orders calls users.get by version 1.3.0 of its contract, which no instance serves: "
            "2.0.0 (users at users-3) is another contract; 1.2.0 (users at users-1) is older; "
            "1.1.0 (users at users-2) is older; deploy users 1.3.0 or later before what calls it, "
            "or call by the contract 1.2.0"
        )
        told = details(error)
        assert (told["decision"], told["version"]) == ("incompatible", "1.3.0")
        assert told["offered"] == [
            {"version": version, "fault": fault, "peer": "users", "instances": [at], "count": 1}
            for version, fault, at in (
                ("2.0.0", "mismatch", "users-3"),
                ("1.2.0", "too new", "users-1"),
                ("1.1.0", "too new", "users-2"),
            )
        ]


@pytest.mark.parametrize(
    ("caller_has", "service_has"), [("2.0.0", "1.9.9"), ("1.0.0", "2.0.0"), ("0.3.0", "0.4.0")]
)
async def test_a_caller_of_another_contract_is_told_to_run_it_beside(
    autojump_clock: MockClock, caller_has: str, service_has: str
) -> None:
    async with served(*[service_has] * 10) as (_, caller, _instances):
        error = await outcome(caller, caller_has)
        assert error.reason == Reason.INCOMPATIBLE_VERSION
        assert error.message == (
            f"orders calls users.get by version {caller_has} of its contract, which no instance "
            f"serves: {service_has} (users at users-1, users-2, users-3, users-4, users-5, "
            "users-6, users-7, users-8 and 2 more) is another contract; run an instance of "
            f"users {caller_has} beside these, or call by the contract {service_has}"
        )


async def test_what_is_missing_is_told_apart_from_what_does_not_fit(
    autojump_clock: MockClock,
) -> None:
    async with served("1.2.0") as (_, caller, _instances):
        assert (await outcome(caller, "2.0.0")).reason == Reason.INCOMPATIBLE_VERSION
        assert (await outcome(caller, "2.0.0", "got")).reason == Reason.METHOD_NOT_FOUND
        await caller.call("user", "get", version="2.0.0")
        _, _, error, _ = await caller.receive(Kind.ERROR)
        assert error.reason == Reason.SERVICE_NOT_FOUND


async def test_every_registration_is_compared_anew(autojump_clock: MockClock) -> None:
    """Also the same instance's, with another version; and what is unregistered counts no more."""
    async with served("1.2.0") as (_, caller, (users,)):
        assert (await outcome(caller, "1.3.0")).reason == Reason.INCOMPATIBLE_VERSION
        await users.send(register_header("users", "put", version="1.3.0"))
        await takes(users, caller, "1.3.0")
        await users.send(register_header("users", "get", version="2.0.0"))
        assert (await outcome(caller, "1.3.0")).reason == Reason.INCOMPATIBLE_VERSION
        await takes(users, caller, "2.0.0")
        await users.send(codec.Unregister("users", ["get"]))
        assert (await outcome(caller, "2.0.0")).reason == Reason.METHOD_NOT_FOUND


async def test_just_after_its_start_a_gateway_expects_the_version_that_fits(
    autojump_clock: MockClock,
) -> None:
    """Instances come back in any order; a call that none of them fits yet waits, and goes on."""
    async with served("1.2.0", age=1) as (gateway, caller, _):
        await caller.call("users", "get", version="2.0.0")
        await trio.sleep(1)
        async with raw_peer(gateway, "users", process_id="another") as another:
            await another.send(register_header("users", "get", version="1.3.0"))
            await trio.sleep(1)
            async with raw_peer(gateway, "users", process_id="new") as new:
                await new.send(register_header("users", "get", version="2.1.0"))
                _, _, call, _ = await new.receive(Kind.CALL)
                await new.send(result_header(call.call_id), payload=b"\xc0")
                await caller.receive(Kind.RESULT)


async def test_a_call_that_waited_in_vain_is_told_of_the_versions(
    autojump_clock: MockClock,
) -> None:
    async with served("1.2.0", age=1) as (_, caller, _instances):
        before = trio.current_time()
        assert "1.2.0 (users at users-1)" in (await outcome(caller, "2.0.0")).message
        assert trio.current_time() - before == pytest.approx(5, abs=0.01)


async def test_a_call_for_a_service_that_comes_is_compared_when_it_is_routed(
    autojump_clock: MockClock,
) -> None:
    """It is refused at once where the gateway expects no other version."""
    async with served("2.0.0") as (gateway, caller, (users,)):
        await trio.aclose_forcefully(users.stream)
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        await caller.call("users", "get", version="1.0.0")
        await trio.sleep(1)
        async with raw_peer(gateway, "users", process_id="old") as old:
            await old.send(register_header("users", "get", version="0.9.0"))
            _, _, error, _ = await caller.receive(Kind.ERROR)
            assert "0.9.0 (users at old) is another contract" in error.message
            assert trio.current_time() - before == pytest.approx(1, abs=0.01)


async def test_a_version_that_has_just_left_is_expected_back(autojump_clock: MockClock) -> None:
    """A restart of its only instance costs its callers a wait, not a failure."""
    async with served("1.2.0", "2.0.0") as (gateway, caller, (_, new)):
        await takes(new, caller, "2.0.0")
        await trio.aclose_forcefully(new.stream)
        await trio.testing.wait_all_tasks_blocked()
        assert "run an instance of users 3.0.0" in (await outcome(caller, "3.0.0")).message
        await caller.call("users", "get", version="2.0.0")
        await trio.sleep(1)
        async with raw_peer(gateway, "users", process_id="again") as again:
            await again.send(register_header("users", "get", version="2.0.0"))
            _, _, call, _ = await again.receive(Kind.CALL)
            await again.send(result_header(call.call_id), payload=b"\xc0")
            await caller.receive(Kind.RESULT)
        await trio.sleep(SETTLED)
        before = trio.current_time()
        await outcome(caller, "2.0.0")
        assert trio.current_time() == before


async def test_a_version_that_came_back_and_was_withdrawn_is_not_expected(
    autojump_clock: MockClock,
) -> None:
    """It said so: that it had been gone before is of no matter."""
    async with served("2.0.0") as (gateway, caller, _):
        async with raw_peer(gateway, "users", process_id="first") as first:
            await first.send(register_header("users", "get", version="1.0.0"))
            await trio.sleep(1)
        async with raw_peer(gateway, "users", process_id="second") as second:
            await second.send(register_header("users", "get", version="1.0.0"))
            await trio.sleep(1)
            await second.send(codec.Unregister("users", ["get"]))
            await trio.sleep(1)
            began = trio.current_time()
            assert (await outcome(caller, "1.0.0")).reason == Reason.INCOMPATIBLE_VERSION
            assert trio.current_time() - began < 1


async def test_a_call_that_never_left_goes_to_no_instance_that_does_not_fit(
    autojump_clock: MockClock,
) -> None:
    async with served("1.2.0", "2.0.0") as (gateway, caller, _):
        async with raw_peer(gateway, "stuck", process_id="stuck", lockstep=True) as stuck:
            await stuck.send(register_header("users", "get", version="3.0.0"))
            await trio.testing.wait_all_tasks_blocked()
            await caller.call("users", "get", bytes(60_000), version="3.0.0")  # fills the stream
            await caller.call("users", "get", version="3.0.0")
            await trio.testing.wait_all_tasks_blocked()
        told = [(await caller.receive(Kind.ERROR))[2] for _ in range(2)]
        assert [error.reason for error in told] == [Reason.CONNECTION_LOST] * 2
        assert "no other instance can take it" in told[1].message


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.0", "1.2.0-rc1", "1.02.0"])
async def test_what_is_no_version_ends_the_call_that_names_it(
    autojump_clock: MockClock, version: str
) -> None:
    """And no other one, nor the connection."""
    async with served("1.2.0") as (_, caller, (users,)):
        error = await outcome(caller, version)
        assert error.code == Code.INVALID_ARGUMENT.number
        assert error.reason == Reason.INCOMPATIBLE_VERSION
        assert f"{version!r} must be three numbers" in error.message
        await takes(users, caller, "1.2.0")


async def test_an_instance_of_no_version_is_sent_away_and_no_other(
    autojump_clock: MockClock,
) -> None:
    async with served("1.2.0") as (gateway, caller, (users,)):
        async with raw_peer(gateway, "odd") as odd:
            await odd.send(register_header("users", "get", version="1.x"))
            assert "'1.x' must be three numbers" in await odd.goodbye()
        await takes(users, caller, "1.2.0")


async def test_versions_that_callers_invent_are_not_all_remembered(
    autojump_clock: MockClock,
) -> None:
    async with served("1.2.0") as (gateway, caller, _instances):
        for number in range(MOST_VERSIONS * 3):
            await outcome(caller, f"7.0.{number}")
        assert len(gateway.core.registry.methods["users", "get"].fitting) <= MOST_VERSIONS


# All combinations.

VERSIONS = st.builds(Version, *[st.integers(0, 2)] * 3)


@given(
    instances=st.lists(st.none() | VERSIONS, min_size=1, max_size=6),
    callers=st.lists(VERSIONS, min_size=1, max_size=4),
    leaving=st.integers(0, 5),
)
def test_calls_go_to_those_that_fit_and_are_refused_only_if_none_does(
    instances: list[Version | None], callers: list[Version], leaving: int
) -> None:
    """Whatever has registered, and after one of them has left."""

    async def main() -> None:
        room = Room()
        room.core.registry = room.registry
        sessions = {}
        for version in instances:
            session = room.session()
            sessions[session] = version
            room.register(session, "users", str(version or ""), "get")
        for leaves in (None, list(sessions)[leaving % len(sessions)]):
            if leaves is not None:
                room.registry.withdraw(leaves, trio.current_time())
                del sessions[leaves]
            method = room.registry.methods["users", "get"]
            for caller in callers:
                expected = [
                    session
                    for session, version in sessions.items()
                    if version is None or fit(caller, version) is Fit.SERVED
                ]
                assert room.core.fitting.instances(method, str(caller)) == expected
                if not expected and sessions:
                    _, reason, why = room.core.fitting.refuse("orders", method, str(caller))
                    assert reason == Reason.INCOMPATIBLE_VERSION
                    assert {one["version"] for one in why.facts["offered"]} == {
                        str(version) for version in sessions.values()
                    }

    trio.run(main)
