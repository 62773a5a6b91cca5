"""Faults that a test injects."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio

import mesh
from mesh.testing import local_mesh
from tests.testing.shop import (
    Orders,
    OrderService,
    Unheard,
    User,
    UserNotFound,
    Users,
    UserService,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from mesh.testing import LocalMesh


class Both(Users, Orders):
    """What would serve two contracts."""


async def took(it: LocalMesh) -> float:
    began = trio.current_time()
    await it.stub(Users).count()
    return trio.current_time() - began


async def test_a_delay_is_for_the_next_calls_alone(autojump_clock: MockClock) -> None:
    async with local_mesh(UserService()) as it:
        with it.delay(Users, "count", seconds=5, times=2) as fault:
            assert 5 <= await took(it) < 6
            await it.stub(Users).get("ada")
            assert 5 <= await took(it) < 6
            assert await took(it) < 1
        assert fault.hits == 2
        assert [call.duration >= 5 for call in await it.calls(Users, "count")] == [1, 1, 0]


async def test_a_delay_of_a_plain_function_leaves_it_in_its_thread(
    autojump_clock: MockClock,
) -> None:
    async with local_mesh() as it:

        @it.client.method
        def work(params: Any) -> Any:
            time.sleep(0.2)
            return params

        await it.settled()
        with it.delay("test", seconds=5):
            assert await it.client.call("test", "work", 7, timeout=20) == 7


async def test_what_is_late_meets_its_deadline(autojump_clock: MockClock) -> None:
    async with local_mesh(OrderService, UserService()) as it:
        with it.delay(Users, seconds=5), pytest.raises(mesh.DeadlineExceeded):
            await it.stub(Orders, timeout=1).place("ada")
        assert [call.code for call in await it.calls()] == ["deadline_exceeded"] * 2
        assert await it.stub(Orders, timeout=1).place("ada") == "for ada"


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        ("unavailable", mesh.Unavailable, "UNAVAILABLE"),
        (mesh.Code.ABORTED, mesh.Aborted, "ABORTED"),
        (mesh.DataLoss("gone", reason="DISK_FULL"), mesh.DataLoss, "DISK_FULL"),
        (UserNotFound("ada"), UserNotFound, "USER_NOT_FOUND"),
    ],
)
async def test_a_failure_is_what_callers_get(
    error: Any, kind: type[mesh.CallError], reason: str
) -> None:
    async with local_mesh(UserService()) as it:
        with it.fail(Users, "get", error=error) as fault:
            for _ in range(2):
                with pytest.raises(kind) as raised:
                    await it.stub(Users).get("ada")
                assert raised.value.reason == reason
                assert raised.value.chain == ("users.get",)
        assert fault.hits == 2
        assert await it.stub(Users).get("ada") == User("ada")


@pytest.mark.parametrize(
    ("service", "method", "error", "told"),
    [
        (
            Users,
            "get",
            Unheard("x"),
            "users.get does not declare to raise Unheard; raises= has User",
        ),
        ("users", "get", Unheard("x"), "users.get does not declare to raise Unheard"),
        (Users, None, Unheard("x"), "does not declare to raise Unheard"),
        (Users, "count", UserNotFound("x"), "users.count does not declare to raise UserNotFound"),
        (Users, "get", UserNotFound(7), "UserNotFound, raised by users.get: Expected `str`"),  # type: ignore[arg-type]
    ],
)
async def test_a_failure_that_the_contract_does_not_know_is_told_at_once(
    service: Any, method: str | None, error: mesh.CallError, told: str
) -> None:
    def plain(client: mesh.Client) -> None:
        client.register("get", lambda: 7)

    async with local_mesh(UserService(), plain) as it:
        with pytest.raises(mesh.ContractError, match=told):
            it.fail(service, method, error=error)
        with it.fail(Users, error=UserNotFound("x")), pytest.raises(UserNotFound):
            await it.stub(Users).get("ada")  # the one of both methods that declares it
        with it.fail("plain", error=error), pytest.raises(type(error).__mro__[1]):
            await it.client.call("plain", "get")  # which has no contract


async def test_a_dropped_call_ends_by_its_deadline_alone(autojump_clock: MockClock) -> None:
    ran: list[None] = []
    async with local_mesh() as it:
        it.client.register("note", lambda: ran.append(None))
        await it.settled()
        with it.drop("test", times=1), pytest.raises(mesh.DeadlineExceeded) as raised:
            await it.client.call("test", "note", timeout=20)
        assert raised.value.maybe_executed
        assert not ran
        await it.client.call("test", "note", timeout=20)
        assert ran


async def test_faults_add_up(autojump_clock: MockClock) -> None:
    async with local_mesh(UserService()) as it:
        began = trio.current_time()
        with (
            it.delay(Users, seconds=5),
            it.fail(Users, error="aborted"),
            pytest.raises(mesh.Aborted),
        ):
            await it.stub(Users).count()
        assert 5 <= trio.current_time() - began < 6


async def test_a_code_that_is_none_has_a_hint() -> None:
    async with local_mesh(UserService()) as it:
        with pytest.raises(
            mesh.UsageError, match="'unavailble' is no code; did you mean unavailable"
        ):
            it.fail(Users, error="unavailble")


async def test_a_class_that_implements_a_contract_stands_for_it() -> None:
    async with local_mesh(UserService()) as it:
        with it.fail(UserService, error="aborted"), pytest.raises(mesh.Aborted):
            await it.stub(Users).count()
        [call] = await it.calls(UserService)
        assert (call.reason, type(call.reason)) == ("ABORTED", str)
        with it.drop(UserService), pytest.raises(mesh.DeadlineExceeded):
            await it.stub(Users, timeout=0.1).count()
        _, call = await it.calls(UserService)
        assert (call.reason, type(call.reason)) == ("DEADLINE_EXCEEDED", str)


async def test_what_a_fault_has_ended_is_no_hit_of_the_next_one() -> None:
    async with local_mesh(UserService()) as it:
        with (
            it.fail(Users, error="aborted", times=1) as outer,
            it.fail(Users, error="unavailable", times=1) as inner,
        ):
            with pytest.raises(mesh.Aborted):
                await it.stub(Users).count()
            assert (outer.hits, inner.hits) == (1, 0)
            with pytest.raises(mesh.Unavailable):
                await it.stub(Users).count()
            assert (outer.hits, inner.hits) == (1, 1)
            assert await it.stub(Users).count() == 1


async def test_a_fault_holds_for_what_is_registered_later() -> None:
    async with local_mesh(UserService()) as it:
        with it.fail("users", error="aborted"):
            await it.serve(UserService())
            for _ in range(4):
                with pytest.raises(mesh.Aborted):
                    await it.stub(Users).count()


@pytest.mark.parametrize(
    ("inject", "fault", "told"),
    [
        (lambda it: it.drop("user"), mesh.UsageError, "serves user; did you mean users?"),
        (
            lambda it: it.drop(Users, "gte"),
            mesh.UsageError,
            "serves users.gte; did you mean users.get?",
        ),
        (lambda it: it.drop("zzz"), mesh.UsageError, "serves zzz; there are users"),
        (lambda it: it.drop(Users, times=0), mesh.UsageError, "times=0 is less than 1"),
        (lambda it: it.fail(Users, error="ok"), mesh.UsageError, "'ok' is no failure"),
        (lambda it: it.fail(Users, error="nope"), mesh.UsageError, "nope"),
        (
            lambda it: it.fail(Users, error=ValueError("x")),
            mesh.UsageError,
            "is no error of a call",
        ),
        (lambda it: it.drop(Both), mesh.UsageError, "Both implements users, orders; name one"),
        (lambda it: it.drop(int), mesh.ContractError, "int'> is no contract"),
    ],
)
async def test_a_fault_that_can_meet_no_call_is_told(
    inject: Callable[[LocalMesh], Any], fault: type[Exception], told: str
) -> None:
    async with local_mesh(UserService()) as it:
        with pytest.raises(fault, match=told), inject(it):
            pytest.fail("it must not begin")


async def test_a_service_that_is_cut_off_is_gone_until_the_end_of_the_block(
    autojump_clock: MockClock,
) -> None:
    async with local_mesh(UserService()) as it:
        async with it.disconnect(Users):
            assert not it.gateway.is_connected("users")
            with pytest.raises(mesh.Unavailable):
                await it.stub(Users).count()
        assert it.gateway.is_connected("users")
        assert await it.stub(Users).count() == 1


async def test_a_peer_of_bare_bytes_is_back_as_well(autojump_clock: MockClock) -> None:
    async with local_mesh() as it, it.connect("raw", encoding="raw") as raw:
        async with it.disconnect(raw):
            assert not it.gateway.is_connected("raw")
        assert it.gateway.is_connected("raw")


async def test_what_is_cut_off_twice_is_back_at_the_end_of_both(autojump_clock: MockClock) -> None:
    async with local_mesh(UserService()) as it:
        async with it.disconnect(Users):
            async with it.disconnect(Users):
                assert not it.gateway.is_connected("users")
            await trio.sleep(60)
            assert not it.gateway.is_connected("users")
        assert it.gateway.is_connected("users")


async def test_calls_under_way_are_lost_with_their_connection() -> None:
    async with local_mesh() as it, it.connect("other") as other:
        begun = trio.Event()

        @other.method
        async def wait() -> None:
            begun.set()
            await trio.sleep_forever()

        await it.settled()

        async def lose() -> None:
            await begun.wait()
            async with it.disconnect(other):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            with pytest.raises(mesh.Unavailable) as raised:
                await it.client.call("other", "wait", timeout=20)
        assert raised.value.reason == "CONNECTION_LOST"
        assert raised.value.maybe_executed


async def test_one_instance_of_several_is_cut_off() -> None:
    async with local_mesh() as it:
        first, _ = await it.serve(UserService(), UserService())
        async with it.disconnect(first):
            for _ in range(4):
                assert await it.stub(Users).count() == 1
            assert await it.metric("mesh_service_instances", rpc_service="users") == 1
        assert await it.metric("mesh_service_instances", rpc_service="users") == 2


async def test_who_leaves_while_cut_off_is_not_waited_for() -> None:
    async with local_mesh() as it:
        with trio.fail_after(5):
            async with AsyncExitStack() as stack, it.connect("other") as other:
                await stack.enter_async_context(it.disconnect(other))
        assert not it.gateway.is_connected("other")


async def test_what_nobody_serves_cannot_be_cut_off() -> None:
    async with local_mesh(UserService()) as it, local_mesh() as elsewhere:
        for who, told in (
            (Orders, "no peer of this local mesh serves orders"),
            (elsewhere.client, "client 'test' is no peer of this local mesh"),
        ):
            with pytest.raises(mesh.UsageError, match=told):
                async with it.disconnect(who):
                    pytest.fail("it must not begin")
