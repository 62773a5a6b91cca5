"""The encoding of a peer's calls: each peer's own setting, from end to end."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import mesh
from mesh.errors import Reason
from tests.gateway.raw_peer import settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.payload import Encoding

MIB = 1 << 20
ENCODINGS: tuple[Encoding, ...] = ("msgpack", "json", "raw")


@dataclass
class Order:
    """What a shop is asked for."""

    item: str
    quantity: int = 1


@asynccontextmanager
async def peers(folder: Path) -> AsyncIterator[dict[str, mesh.Client]]:
    """A peer of each encoding, named after it, which echoes, and one that knows orders."""
    async with (
        mesh.Gateway(listen=[f"unix:{folder}/g.sock"]) as gateway,
        AsyncExitStack() as stack,
    ):
        found: dict[str, mesh.Client] = {}
        for encoding in ENCODINGS:
            client = found[encoding] = await stack.enter_async_context(
                mesh.connect(encoding, gateway=gateway.addresses[0], encoding=encoding)
            )

            @client.method()
            async def same(params: Any) -> Any:
                return params

            @client.method()
            def cost(order: Order) -> int:
                return order.quantity * 3

            @client.method()
            async def nothing() -> None:
                pass

            await settled_raw(client)
        yield found


async def settled_raw(client: mesh.Client) -> None:
    """Return once what the peer has registered is known."""
    await client.call(client.name, "nothing")


@pytest.mark.parametrize("callee", ENCODINGS)
async def test_values_come_back_in_whatever_encoding_the_caller_has(
    tmp_path: Path, callee: str
) -> None:
    """The callee's own setting is for its own calls."""
    async with peers(tmp_path) as by:
        for size in (0, 3, MIB):
            text, data = "x" * size, bytes(range(256)) * (size // 256) + b"\xff" * (size % 256)
            assert await by["msgpack"].call(callee, "same", {"a": [text, data]}) == {
                "a": [text, data]
            }
            assert await by["json"].call(callee, "same", {"a": [text, 1.5]}) == {"a": [text, 1.5]}
            assert await by["raw"].call(callee, "same", data) == data


async def test_types_are_checked_and_made_in_json_too(tmp_path: Path) -> None:
    async with peers(tmp_path) as by:
        assert await by["json"].call("msgpack", "cost", Order("tea", 4)) == 12
        assert await by["json"].call("msgpack", "cost", {"item": "tea", "quantity": 4}) == 12
        made = await by["json"].call("raw", "same", Order("tea"), result=Order)
        assert made == Order("tea", 1)
        with pytest.raises(mesh.InvalidArgument, match=r"`\$\.quantity`") as refused:
            await by["json"].call("msgpack", "cost", {"item": "tea", "quantity": "many"})
        assert refused.value.reason == Reason.UNDECODABLE
        with pytest.raises(mesh.Internal, match="cannot be decoded as Order"):
            await by["json"].call("raw", "same", {"item": 1}, result=Order)
        no_type: Any = 3
        with pytest.raises(TypeError):
            await by["json"].call("raw", "same", {}, result=no_type)


async def test_a_nested_call_travels_as_the_peer_in_between_wants(tmp_path: Path) -> None:
    """Raw outside, JSON inside: each hop is encoded by who makes it."""
    async with peers(tmp_path) as by:
        middle = by["json"]

        @middle.method()
        async def shout(params: bytes) -> bytes:
            text = await middle.call("msgpack", "same", params.decode())
            return str(text).upper().encode()

        await settled_raw(middle)
        long = b"tea " * (MIB // 4)
        for params in (b"tea", long):
            assert await by["raw"].call("json", "shout", params) == params.upper()
            assert await by["msgpack"].call("json", "shout", params) == params.upper()


async def test_raw_takes_bytes_and_gives_bytes(tmp_path: Path) -> None:
    """No parameters, and no result, are no bytes."""
    async with peers(tmp_path) as by:
        raw = by["raw"]
        assert await raw.call("json", "nothing") == b""
        assert await raw.call("json", "same") == b""
        assert await raw.call("json", "same", memoryview(b"tea"), result=bytes) == b"tea"
        with pytest.raises(mesh.InvalidArgument, match="a raw payload must be bytes, not dict"):
            await raw.call("json", "same", {"a": 1})
        with pytest.raises(mesh.InvalidArgument, match="Expected `object`, got `bytes`") as refused:
            await raw.call("json", "cost", b"{}")
        assert refused.value.reason == Reason.UNDECODABLE
        values = "must be bytes, not GatewayView; a caller with encoding='msgpack' or 'json' sends"
        with pytest.raises(mesh.InvalidArgument, match=values) as failed:
            await raw.call("mesh", "status")
        assert failed.value.reason == Reason.UNENCODABLE
        assert failed.value.maybe_executed
        with pytest.raises(mesh.Internal, match="cannot be decoded as Order"):
            await raw.call("json", "same", b"{}", result=Order)


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_errors_arrive_whole_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    async with peers(tmp_path) as by:

        @by["msgpack"].method()
        async def fail() -> None:
            raise mesh.NotFound("no tea", reason="OUT_OF_STOCK", details={"left": 0})

        await settled(by["msgpack"])
        with pytest.raises(mesh.NotFound, match="no tea") as failed:
            await by[encoding].call("msgpack", "fail")
        assert (failed.value.reason, failed.value.details) == ("OUT_OF_STOCK", {"left": 0})


@pytest.mark.parametrize("wrong", ["yaml", "JSON", "", None, 1, []])
def test_a_wrong_encoding_is_refused_with_all_that_there_are(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"encoding .* is none of msgpack, json, raw$"):
        mesh.run(lambda _: None, name="x", gateway="unix:/nowhere", encoding=wrong)


async def test_a_peer_that_measures_itself_has_its_encoding_too(tmp_path: Path) -> None:
    async with (
        mesh.Gateway(listen=[f"unix:{tmp_path}/g.sock"]) as gateway,
        mesh.connect(
            "raw", gateway=gateway.addresses[0], encoding="raw", metrics="127.0.0.1:0"
        ) as client,
    ):
        client.register("same", _same)
        assert await client.call("raw", "same", b"\xff") == b"\xff"


async def _same(params: bytes) -> bytes:
    return params
