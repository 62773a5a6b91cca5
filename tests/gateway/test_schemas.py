"""Schemas of contracts as peers register them: in pieces, bounded, and held once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio.testing

import mesh
from mesh.wire import codec
from tests.gateway.raw_peer import raw_peer, register_header

if TYPE_CHECKING:
    from trio.testing import MockClock

    from mesh.gateway.registry import Registration
    from tests.gateway.raw_peer import RawPeer

SCHEMA = msgspec.json.encode({"doc": "Users.", "methods": {"get": {"doc": "x" * 100}}})


async def told(gateway: mesh.Gateway, service: str = "users") -> list[Registration]:
    """What the instances of a service have registered."""
    await trio.testing.wait_all_tasks_blocked()
    found = gateway.core.registry.services.get(service)
    return list(found.instances.values()) if found is not None else []


async def describe(peer: RawPeer, schema: bytes = SCHEMA, service: str = "users") -> None:
    """Register a method with a whole schema."""
    header = register_header(service, "get", version="1.2.0", schema_size=len(schema))
    await peer.send(header, payload=schema)


@pytest.mark.parametrize("size", [1, 7, 64, len(SCHEMA)])
async def test_a_schema_may_come_in_pieces(autojump_clock: MockClock, size: int) -> None:
    async with mesh.Gateway() as gateway, raw_peer(gateway) as peer:
        for at in range(0, len(SCHEMA), size):
            assert not any(one.schema.whole for one in await told(gateway))
            names = [] if at else ["get"]
            header = register_header("users", *names, version="1.2.0", schema_size=len(SCHEMA))
            await peer.send(header, payload=SCHEMA[at : at + size])
        [registration] = await told(gateway)
        assert registration.schema.whole == SCHEMA
        assert registration.version == "1.2.0"
        assert list(registration.methods) == ["get"]


async def test_a_schema_stays_until_another_one_comes(autojump_clock: MockClock) -> None:
    """A registration without one, whatever its payload, changes nothing."""
    async with mesh.Gateway() as gateway, raw_peer(gateway) as peer:
        await describe(peer)
        await peer.send(register_header("users", "put"), payload=b"ignored")
        [registration] = await told(gateway)
        assert registration.schema.whole == SCHEMA
        await describe(peer, b"{}")
        [registration] = await told(gateway)
        assert registration.schema.whole == b"{}"


async def test_one_that_breaks_off_makes_way_for_the_next(autojump_clock: MockClock) -> None:
    async with mesh.Gateway() as gateway, raw_peer(gateway) as peer:
        await peer.send(register_header("users", "get", schema_size=1000), payload=b"{")
        await describe(peer)
        [registration] = await told(gateway)
        assert registration.schema.whole == SCHEMA


async def test_equal_schemas_are_held_once(autojump_clock: MockClock) -> None:
    async with mesh.Gateway() as gateway, raw_peer(gateway) as one, raw_peer(gateway) as other:
        await describe(one)
        await describe(other)
        first, second = await told(gateway)
        assert first.schema.whole == SCHEMA
        assert first.schema.whole is second.schema.whole


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        (b"[1]", "schema of 'users' is no JSON object"),
        (b"{", "schema of 'users' cannot be read: Input data was truncated"),
        (b'{"a":"\xff"}', "schema of 'users' cannot be read"),
        (b'{"a":' * 9_000 + b"1" + b"}" * 9_000, "schema of 'users' cannot be read"),
        (b'{"a":' + b"9" * 40 + b"}", "schema of 'users' cannot be read"),
    ],
    ids=["array", "cut", "utf-8", "deep", "large number"],
)
async def test_what_could_not_be_told_is_refused(
    autojump_clock: MockClock, schema: bytes, fault: str
) -> None:
    """And disturbs no other connection."""
    async with mesh.Gateway() as gateway, raw_peer(gateway) as peer, raw_peer(gateway) as odd:
        await describe(peer)
        await describe(odd, schema)
        assert fault in await odd.goodbye()
        [registration] = await told(gateway)
        assert registration.schema.whole == SCHEMA


async def test_all_schemas_of_a_connection_are_bounded(autojump_clock: MockClock) -> None:
    """Before they come."""
    limits = mesh.Limits(max_schema=len(SCHEMA) + 10)
    async with mesh.Gateway(limits=limits) as gateway, raw_peer(gateway) as peer:
        await describe(peer)
        await describe(peer)  # the same service's, in its place
        await peer.send(register_header("orders", "get", schema_size=11), payload=b"{")
        reason = await peer.goodbye()
        total, limit = len(SCHEMA) + 11, len(SCHEMA) + 10
        assert reason == (
            f"schemas of {total} bytes of one connection exceed max_schema of {limit}"
        )


async def test_more_than_was_announced_is_refused(autojump_clock: MockClock) -> None:
    async with mesh.Gateway() as gateway, raw_peer(gateway) as peer:
        await peer.send(register_header("users", "get", schema_size=3), payload=b"{ } ")
        assert await peer.goodbye() == "4 bytes of a schema exceed its schema_size of 3"


async def test_pieces_for_a_service_that_is_not_registered_are_dropped(
    autojump_clock: MockClock,
) -> None:
    async with mesh.Gateway() as gateway, raw_peer(gateway) as peer:
        await peer.send(codec.Register("users", "", {}, {}, 2), payload=b"{}")
        assert await told(gateway) == []
        await describe(peer, service="orders")
        [registration] = await told(gateway, "orders")
        assert registration.schema.whole == SCHEMA
