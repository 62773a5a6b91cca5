"""What a peer tells of its contracts, and what becomes of calls by version, end to end."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

import mesh
from mesh.contracts.contract import info_of
from mesh.contracts.declaring import MAX_TEXT
from mesh.contracts.schema import describe
from mesh.errors import Reason
from mesh.registering import METHODS_PER_FRAME
from mesh.wire.codec import MAX_REQUIRES
from tests.gateway.raw_peer import MemoryDialer, settled

if TYPE_CHECKING:
    from trio.testing import MockClock


def make_users(of: str) -> Any:
    """The contract `users` of a version, and an implementation that tells its own."""

    class Users(mesh.Contract, name="users", version=of):
        @mesh.method
        @abstractmethod
        async def which(self) -> str:
            """The version that answers."""

    class UserService(Users):
        async def which(self) -> str:
            return of

    return Users, UserService


def wide(methods: int, note: str) -> dict[str, Any]:
    """A schema with so many methods."""
    return {"methods": {f"m{number}": {"doc": note} for number in range(methods)}}


async def answer() -> int:
    return 1


async def test_a_caller_reaches_the_instances_that_fit(autojump_clock: MockClock) -> None:
    """By its stub, or by the version that a plain call names."""
    old, old_service = make_users("1.2.0")
    newer, _ = make_users("1.3.0")
    new, new_service = make_users("2.0.0")
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("old", gateway=gateway) as one,
        mesh.connect("new", gateway=gateway) as two,
        mesh.connect("orders", gateway=gateway) as client,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, one, old_service())
        await nursery.start(mesh.serve, two, new_service())
        await trio.sleep(6)
        for _ in range(4):
            assert await client.stub(old).which() == "1.2.0"
            assert await client.stub(new).which() == "2.0.0"
            assert await client.call("users", "which", {}, version="1.0.3") == "1.2.0"
        assert {await client.call("users", "which", {}) for _ in range(4)} == {"1.2.0", "2.0.0"}
        with pytest.raises(
            mesh.FailedPrecondition, match=r"deploy users 1\.3\.0 or later"
        ) as caught:
            await client.stub(newer).which()
        assert caught.value.reason == Reason.INCOMPATIBLE_VERSION
        assert not caught.value.maybe_executed
        assert [one["version"] for one in caught.value.details["offered"]] == ["2.0.0", "1.2.0"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("version", "fault"),
    [("1.2", ValueError), ("", ValueError), (1.2, TypeError), (["1.2.0"], TypeError)],
)
async def test_what_is_no_version_does_not_leave_its_caller(
    autojump_clock: MockClock, version: Any, fault: type[Exception]
) -> None:
    async with mesh.Gateway() as gateway, mesh.connect("orders", gateway=gateway) as client:
        with pytest.raises(fault):
            await client.call("mesh", "status", version=version)
        await settled(client)


async def test_a_contract_is_told_anew_by_every_connection(autojump_clock: MockClock) -> None:
    contract, service = make_users("1.2.0")
    schema = describe(info_of(contract))
    async with mesh.Gateway() as gateway:
        dialer = MemoryDialer(gateway)
        async with (
            mesh.connect("users", gateway=dialer) as client,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(mesh.serve, client, service())
            for _ in range(2):
                await settled(client)
                [told] = gateway.core.registry.services["users"].instances.values()
                assert msgspec.json.decode(told.schema.whole) == schema
                assert told.version == "1.2.0"
                await dialer.cut()
                await trio.sleep(6)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("methods", [1, METHODS_PER_FRAME, METHODS_PER_FRAME + 1, 200])
@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_long_schema_and_many_methods_share_frames(
    autojump_clock: MockClock, methods: int, size: int
) -> None:
    schema = wide(methods, "x" * (size // methods))
    async with mesh.Gateway() as gateway, mesh.connect("users", gateway=gateway) as client:
        client._uplink.register("users", {name: {} for name in schema["methods"]}, "1.0.0", schema)
        await settled(client)
        [told] = gateway.core.registry.services["users"].instances.values()
        assert msgspec.json.decode(told.schema.whole) == schema
        assert set(told.methods) == set(schema["methods"])


async def test_the_longest_options_of_many_methods_fit_the_header() -> None:
    """Each as long as a contract may have it, in letters of four bytes."""
    options = {"deprecated": "\N{PARTY POPPER}" * MAX_TEXT, "access": "\N{PARTY POPPER}" * MAX_TEXT}
    methods = {f"m{number:0127}": options for number in range(200)}
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway, metadata={"note": "x" * 4000}) as client,
    ):
        client._uplink.requires["users"] = "x" * MAX_REQUIRES
        client._uplink.register("users", methods, "1.0.0", None)
        await settled(client)
        [told] = gateway.core.registry.services["users"].instances.values()
        assert set(told.methods) == set(methods)


async def test_plain_methods_of_the_same_service_keep_its_version(
    autojump_clock: MockClock,
) -> None:
    _, service = make_users("1.2.0")
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway) as client,
        trio.open_nursery() as nursery,
    ):
        client.register("before", answer)
        await nursery.start(mesh.serve, client, service())
        client.register("after", answer)
        await settled(client)
        [told] = gateway.core.registry.services["users"].instances.values()
        assert told.version == "1.2.0"
        assert told.schema.whole
        assert list(told.methods) == ["before", "which", "after"]
        nursery.cancel_scope.cancel()


async def test_two_versions_are_not_served_by_one_peer(autojump_clock: MockClock) -> None:
    """Nothing of the second one is served then."""
    _, service = make_users("2.0.0")
    async with mesh.Gateway() as gateway, mesh.connect("users", gateway=gateway) as client:
        client.register("other", answer)
        client._uplink.register("users", {}, "1.2.0")
        with pytest.raises(
            ValueError, match=r"users 2\.0\.0 cannot be served beside users 1\.2\.0"
        ):
            await mesh.serve(client, service())
        assert client.registered_methods() == ["users.other"]


async def test_a_schema_that_is_too_long_is_left_out_with_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Of all that one peer tells; its methods are served all the same."""
    caplog.set_level(logging.WARNING)
    limits = mesh.Limits(max_schema=1000)
    async with (
        mesh.Gateway(limits=limits) as gateway,
        mesh.connect("users", gateway=gateway) as client,
    ):
        for name, size in (("first", 600), ("second", 600), ("third", 300)):
            client.register("get", answer, service=name)
            client._uplink.register(name, {}, "1.0.0", wide(1, "x" * size))
        await settled(client)
        told = {
            name: bool(one.schema.whole)
            for name in ("first", "second", "third")
            for one in gateway.core.registry.services[name].instances.values()
        }
        assert told == {"first": True, "second": False, "third": True}
        assert await client.call("second", "get") == 1
    [record] = caplog.records
    assert "the schema of second, " in record.getMessage()
    assert "exceeds max_schema of 1,000" in record.getMessage()
