"""Bad input over real sockets: each closes its own connection, says why, and harms nobody else."""

from __future__ import annotations

import contextlib
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

import mesh
from mesh.errors import Code, Reason
from mesh.wire import CONTINUED, MORE, Kind, codec
from tests.gateway.raw_peer import (
    RawPeer,
    call_header,
    dialled,
    error_header,
    hello,
    register_header,
    result_header,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LIMITS = mesh.Limits(handshake=0.5, max_methods=200, max_message=300_000)
HELLO = codec.encode_header(hello())


class Bystander:
    """A peer that calls itself all the while, and counts."""

    def __init__(self, gateway: mesh.Gateway) -> None:
        self.gateway = gateway
        self.calls = 0
        self._until, self._reached = 0, trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Call until cancelled; any failure ends the test."""
        address = self.gateway.addresses[0]
        async with mesh.connect("bystander", gateway=address, reconnect=False) as peer:

            @peer.method()
            async def echo(params: int) -> int:
                return params

            await settled(peer)
            task_status.started()
            while True:
                assert await peer.call("bystander", "echo", self.calls, timeout=10) == self.calls
                self.calls += 1
                if self.calls >= self._until:
                    self._reached.set()

    async def still_works(self) -> None:
        """Return once ten further calls have succeeded."""
        self._until, self._reached = self.calls + 10, trio.Event()
        with trio.fail_after(10):
            await self._reached.wait()


@contextlib.asynccontextmanager
async def mesh_of(address: str) -> AsyncIterator[tuple[mesh.Gateway, Bystander]]:
    async with (
        mesh.Gateway(listen=[address], limits=LIMITS) as gateway,
        trio.open_nursery() as nursery,
    ):
        bystander = Bystander(gateway)
        await nursery.start(bystander.run)
        yield gateway, bystander
        nursery.cancel_scope.cancel()


def frame(kind: int, body: bytes, payload: bytes = b"", flags: int = 0) -> bytes:
    """A frame whose header is any bytes."""
    return (
        struct.pack(">IBBH", 4 + len(body) + len(payload), kind, flags, len(body)) + body + payload
    )


def lying(length: int, header: int = 0) -> bytes:
    """A prefix that announces what does not come."""
    return struct.pack(">IBBH", length, Kind.CALL, 0, header)


def chunked(header: codec.Header, payload: bytes, flags: int) -> bytes:
    data = bytearray(codec.encode_header(header, payload))
    data[5] = flags
    return bytes(data)


ENDLESS = b"".join(
    [chunked(call_header(1, "bystander", "echo"), bytes(60_000), MORE)]
    + [codec.encode(Kind.CALL, (1,), bytes(60_000), MORE | CONTINUED)] * 6
)
MANY: dict[str, dict[str, Any]] = {f"m{number}": {} for number in range(300)}
DEEP = b"\x91" * 5_000 + b"\xc0"

# What is sent after a handshake, and what the goodbye must say of it.
AFTER_HELLO = {
    "garbage": (b"\xff" * 64, "frame of 4,294,967,295 bytes exceeds the limit of 98,308"),
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "frame of 1,195,725,856 bytes exceeds"),
    "4 GiB": (lying(2**32 - 1), "frame of 4,294,967,295 bytes exceeds"),
    "just too long": (lying(98_309), "frame of 98,309 bytes exceeds the limit of 98,308"),
    "too short": (lying(3), "frame of 3 bytes is too short for its header of 0 bytes"),
    "header over end": (lying(10, 20), "too short for its header of 20 bytes"),
    "header too long": (lying(40_000, 40_000), "header of 40,000 bytes exceeds max_header"),
    "payload too long": (lying(70_004), "payload of 70,000 bytes in one frame exceeds max_chunk"),
    "header no array": (frame(Kind.CALL, b"\x81\x01\x02"), "header of CALL: Expected `array`"),
    "header no msgpack": (frame(Kind.CALL, b"\xc1"), "header of CALL: "),
    "header empty": (frame(Kind.CALL, b""), "header of CALL: "),
    "header too few": (frame(Kind.CALL, b"\x91\x01"), "header of CALL: "),
    "header wrong type": (frame(Kind.CANCEL, b"\x92\xa1x\x01"), "header of CANCEL: Expected `int`"),
    "header deep": (frame(Kind.CALL, DEEP), "header of CALL: "),
    "options deep": (
        frame(Kind.REGISTER, b"\x94\xa1s\xa0\x81\xa1m\x81\xa1o" + DEEP + b"\x80"),
        "header of REGISTER: ",
    ),
    "second hello": (HELLO, "HELLO is not allowed: gateway in state open accepts CALL"),
    "welcome": (
        codec.encode_header(codec.Welcome(1, "g", 1, {}, {}, [], "")),
        "WELCOME is not allowed",
    ),
    "silly service": (codec.encode_header(register_header("1 x", "m")), "header of REGISTER: "),
    "silly method": (codec.encode_header(register_header("svc", "a b")), "header of REGISTER: "),
    "long method": (codec.encode_header(register_header("s", "m" * 129)), "header of REGISTER: "),
    "reserved name": (
        codec.encode_header(register_header("mesh", "status")),
        "service name 'mesh' is the gateway's own; choose another",
    ),
    "too many methods": (
        codec.encode_header(codec.Register("svc", "", MANY, {})),
        "exceed max_methods of 200",
    ),
    "result never issued": (
        codec.encode_header(result_header(10**6)),
        "RESULT for call 1000000, which was never issued on this connection",
    ),
    "error never issued": (
        codec.encode_header(error_header(10**6)),
        "ERROR for call 1000000, which was never issued on this connection",
    ),
    "chunk never issued": (
        codec.encode(Kind.RESULT, (10**6,), b"x", CONTINUED | MORE),
        "RESULT for call 1000000, which was never issued",
    ),
    "cancel never made": (
        codec.encode_header(codec.Cancel(5, 2)),
        "CANCEL for call 5, which was never made",
    ),
    "chunk never begun": (
        codec.encode(Kind.CALL, (5,), b"x", CONTINUED),
        "CALL continues call 5, which it never began",
    ),
    "call id zero": (
        codec.encode_header(call_header(0, "mesh", "status")),
        "CALL 0 does not rise above 0, the one before it",
    ),
    "call id again": (
        codec.encode_header(call_header(7, "mesh", "status")) * 2,
        "CALL 7 does not rise above 7, the one before it",
    ),
    "endless message": (ENDLESS, "CALL of 300,000 bytes exceeds max_message"),
    "empty chunks": (
        chunked(call_header(1, "bystander", "echo"), b"", MORE),
        "CALL announces more and carries nothing",
    ),
    "chunked cancel": (
        chunked(codec.Cancel(1, 1), b"x", MORE),
        "CANCEL cannot be continued over several frames",
    ),
    "activity": (
        codec.encode_header(call_header(1, "mesh", "status", activity_id="a\nb")),
        "it must be 1 to 128 printable ASCII",
    ),
}  # fmt: skip
AFTER_HELLO["endless message"] = (ENDLESS, "exceeds max_message of 300,000")

BEFORE_HELLO = {
    "garbage": (b"\xff" * 64, "frame of 4,294,967,295 bytes exceeds the limit"),
    "call": (
        codec.encode_header(call_header(1, "mesh", "status")),
        "CALL is not allowed: gateway in state handshake accepts HELLO",
    ),
    "register": (codec.encode_header(register_header("svc", "m")), "REGISTER is not allowed"),
    "silly name": (codec.encode_header(hello("no name")), "header of HELLO: "),
    "no identity": (codec.encode_header(hello("x", "")), "header of HELLO: "),
    "too new": (
        codec.encode_header(codec.Hello(9, "x", "y", None, {}, {}, [], "")),
        "protocol version 9 is too far from this gateway's 1; upgrade the older side",
    ),
    "nothing": (b"", "no HELLO within 0.5 s"),
    "half a hello": (HELLO[:-1], "no HELLO within 0.5 s"),
    "unknown kinds only": (frame(200, b"\xc0"), "no HELLO within 0.5 s"),
    "frames with hello": (
        HELLO + codec.encode_header(register_header("svc", "m")),
        "frames follow HELLO before WELCOME was read",
    ),
}


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the gateway listens."""
    return f"unix:{tmp_path}/g.sock" if request.param == "unix" else "tcp:127.0.0.1:0"


async def check_refused(
    gateway: mesh.Gateway, peer: RawPeer, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection was closed with this reason: in the GOAWAY, in the log, in a counter."""
    said = await peer.goodbye()
    assert reason in said
    assert gateway.core.counters.protocol_errors == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("closed ")
    assert reason in warnings[0]
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


@pytest.mark.parametrize("case", AFTER_HELLO)
async def test_what_breaks_the_protocol_closes_its_connection(
    address: str, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After the handshake: with the fault's name and numbers, and only this one."""
    data, reason = AFTER_HELLO[case]
    async with mesh_of(address) as (gateway, bystander):
        async with dialled(gateway.addresses[0]) as peer:
            await peer.open()
            await peer.send_bytes(data)
            await check_refused(gateway, peer, reason, caplog)
        await bystander.still_works()
        counters = gateway.core.counters
        assert counters.connections_opened == 2
        assert counters.connections_closed == 1
        assert "svc" not in gateway.core.registry.services


@pytest.mark.parametrize("case", BEFORE_HELLO)
async def test_what_breaks_the_handshake_closes_its_connection(
    address: str, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the gateway knows who it is: refused, within the time for a HELLO."""
    data, reason = BEFORE_HELLO[case]
    async with mesh_of(address) as (gateway, bystander):
        async with dialled(gateway.addresses[0]) as peer:
            await peer.send_bytes(data)
            await check_refused(gateway, peer, reason, caplog)
        await bystander.still_works()
        assert len(gateway.core.sessions) == 2
        assert "svc" not in gateway.core.registry.services


async def test_frames_before_the_fault_still_count(address: str) -> None:
    """A good call in front of garbage, in one piece, is handled like any other."""
    async with mesh_of(address) as (gateway, bystander), dialled(gateway.addresses[0]) as peer:
        await peer.open()
        good = codec.encode_header(call_header(1, "mesh", "nothing"))
        await peer.send_bytes(good + b"\xff" * 20)
        assert "exceeds the limit" in await peer.goodbye()
        rejected = gateway.core.counters.rejected
        assert [reason for caller, _, reason in rejected if caller == "raw"] == [
            Reason.METHOD_NOT_FOUND
        ]
        await bystander.still_works()


async def test_half_a_frame_and_the_end_is_no_fault(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer was killed while it wrote: its connection is over, and that is all."""
    async with mesh_of(address) as (gateway, bystander):
        for cut in (1, 7, 8, 20):
            async with dialled(gateway.addresses[0]) as peer:
                await peer.open()
                await peer.send_bytes(codec.encode_header(call_header(1, "mesh", "status"))[:cut])
        await bystander.still_works()
        assert gateway.core.counters.protocol_errors == 0
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]


async def test_frames_that_trickle_in_byte_by_byte_are_frames(address: str) -> None:
    """How the network cuts them is nobody's fault."""
    async with mesh_of(address) as (gateway, bystander), dialled(gateway.addresses[0]) as peer:
        await peer.open()
        for byte in codec.encode_header(call_header(1, "mesh", "status"), b"\xc0"):
            await peer.send_bytes(bytes([byte]))
        kind, _, _, _ = await peer.receive()
        assert kind == Kind.RESULT
        await bystander.still_works()


async def test_unknown_kinds_flags_and_fields_are_ignored(address: str) -> None:
    """Versions may differ by one."""
    async with mesh_of(address) as (gateway, bystander), dialled(gateway.addresses[0]) as peer:
        await peer.open()
        for kind in (0, 17, 200, 255):
            await peer.send_bytes(frame(kind, b"anything", b"payload", flags=0xFF))
        known = codec.encode_header(call_header(1, "mesh", "status"), b"\xc0")
        size = struct.unpack_from(">H", known, 6)[0]
        body = bytearray(known[8 : 8 + size])
        assert body[0] == 0xDC
        body[2] += 2  # two more fields
        await peer.send_bytes(frame(Kind.CALL, bytes(body) + b"\xc3\xa3new", b"\xc0", flags=0x80))
        kind, _, result, _ = await peer.receive()
        assert (kind, result.call_id) == (Kind.RESULT, 1)
        await bystander.still_works()


@pytest.mark.parametrize("kind", [Kind.ITEM, Kind.END, Kind.CREDIT])
async def test_streams_are_refused_as_unimplemented(address: str, kind: Kind) -> None:
    """Until they exist; the connection goes on."""
    async with mesh_of(address) as (gateway, bystander), dialled(gateway.addresses[0]) as peer:
        await peer.open()
        await peer.send_bytes(codec.encode(kind, (5,)))
        _, _, error, _ = await peer.receive(Kind.ERROR)
        assert error.call_id == 5
        assert Code.from_number(error.code) is Code.UNIMPLEMENTED
        assert error.reason == Reason.UNSUPPORTED
        await peer.call("mesh", "status")
        await peer.receive(Kind.RESULT)
        await bystander.still_works()


async def test_a_peer_that_breaks_the_protocol_takes_only_its_own_calls_with_it(
    address: str,
) -> None:
    """Callers of what it served are told at once; what it had called is cancelled."""
    async with (
        mesh_of(address) as (gateway, bystander),
        mesh.connect("other", gateway=gateway) as other,
        dialled(gateway.addresses[0]) as peer,
        trio.open_nursery() as nursery,
    ):
        cancelled = trio.Event()

        @other.method()
        async def wait() -> None:
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()

        await settled(other)
        await peer.open("bad")
        await peer.send(register_header("bad", "go"))

        @nursery.start_soon
        async def call() -> None:
            with pytest.raises(mesh.Unavailable) as raised:
                await other.call("bad", "go")
            assert raised.value.reason == Reason.CONNECTION_LOST

        await peer.receive(Kind.CALL)
        await peer.call("other", "wait")
        await peer.send_bytes(b"\xff" * 8)
        assert "exceeds the limit" in await peer.goodbye()
        with trio.fail_after(5):
            await cancelled.wait()
        await bystander.still_works()


async def test_very_many_broken_connections_leave_nothing_behind(address: str) -> None:
    """Random bytes, cut anywhere, from a hundred peers; every one is counted and forgotten."""
    randomness = random.Random(7)
    corpus = [data for data, _ in (AFTER_HELLO | BEFORE_HELLO).values()]
    async with mesh_of(address) as (gateway, bystander):

        async def bad() -> None:
            async with dialled(gateway.addresses[0]) as peer:
                if randomness.random() < 0.5:
                    await peer.open()
                data = bytearray(randomness.choice(corpus))
                for _ in range(randomness.randrange(4)):
                    if data:
                        data[randomness.randrange(len(data))] = randomness.randrange(256)
                try:
                    await peer.send_bytes(bytes(data[: randomness.randrange(len(data) + 1)]))
                    await peer.stream.send_eof()  # type: ignore[attr-defined] # a socket's
                except trio.BrokenResourceError:
                    return
                await peer.goodbye()

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(bad)
        await bystander.still_works()
        counters = gateway.core.counters
        assert counters.connections_opened + counters.connections_refused == 101
        assert len(gateway.core.sessions) == 2
        assert {entry.caller.name for entry in gateway.core.table.by_id.values()} <= {"bystander"}


async def test_more_connections_than_the_bound_are_refused(tmp_path: Path) -> None:
    """With the number; and one that ends makes room."""
    limits = mesh.Limits(max_connections=3)
    async with mesh.Gateway(listen=[f"unix:{tmp_path}/g.sock"], limits=limits) as gateway:
        where = gateway.addresses[0]
        async with dialled(where) as one, dialled(where) as two:
            await one.open("one")
            await two.open("two")
            async with dialled(where) as three:
                assert await three.goodbye() == "3 connections are the limit max_connections"
            with pytest.raises(mesh.Unavailable, match="refused the connection: 3 connections are"):
                async with mesh.connect("four", gateway=where, connect_timeout=1.0):
                    pass
            assert gateway.core.counters.connections_refused >= 2
        await trio.testing.wait_all_tasks_blocked()
        async with mesh.connect("five", gateway=where) as five:
            assert await five.call("mesh", "status")


FRAMES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([data for data, _ in AFTER_HELLO.values() if len(data) < 1_000]),
        st.builds(
            frame,
            st.integers(0, 20),
            st.binary(max_size=20),
            st.binary(max_size=5),
            st.integers(0, 255),
        ),
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(FRAMES)
def test_no_bytes_at_all_make_the_gateway_fail(pieces: list[bytes]) -> None:
    """Whatever a welcomed peer sends, the gateway never meets an exception of its own."""
    seen: dict[str, Any] = {}

    async def main() -> None:
        async with mesh.Gateway() as gateway:
            ours, theirs = trio.testing.memory_stream_pair()
            gateway.attach(mesh.transport.StreamLink(theirs, 1 << 20, "memory"))
            peer = RawPeer(ours)
            await peer.open()
            for piece in pieces:
                with contextlib.suppress(trio.BrokenResourceError):  # closed by now
                    await peer.send_bytes(piece)
            await trio.testing.wait_all_tasks_blocked()
            await ours.send_stream.aclose()
            seen["goodbye"] = await peer.goodbye()
            await trio.testing.wait_all_tasks_blocked()
            assert len(gateway.core.sessions) == 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert "internal error" not in seen["goodbye"]
