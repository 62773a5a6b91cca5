"""Links: what is put comes out at the other end, and a broken one wakes whoever waits on it."""

from __future__ import annotations

import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.transport import Link, SocketLink, StreamLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT = 1 << 20
BOTH = pytest.mark.parametrize("kind", ["socket", "stream"])


@asynccontextmanager
async def linked(kind: str) -> AsyncIterator[tuple[Link, Link]]:
    """Two ends that take little before somebody reads."""
    links: tuple[Link, Link]
    if kind == "socket":
        ours, theirs = socket.socketpair()
        links = SocketLink(ours, LIMIT, "a"), SocketLink(theirs, LIMIT, "b")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    else:
        one, other = trio.testing.lockstep_stream_pair()
        links = StreamLink(one, LIMIT, "a"), StreamLink(other, LIMIT, "b")
    try:
        yield links
    finally:
        for link in links:
            await link.aclose()


async def receive_exactly(link: Link, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await link.receive()
        assert piece, f"it ended after {len(data):,} of {count:,} bytes"
        data += piece
    return data


@BOTH
async def test_what_is_put_arrives_whole_and_in_order(kind: str) -> None:
    """Far more than a buffer holds arrives, in the order in which it was put."""
    async with linked(kind) as (sender, receiver), trio.open_nursery() as nursery:
        nursery.start_soon(sender.write_loop)
        sent = b""
        for number in range(300):
            frame = number.to_bytes(2, "big") * 1000
            sender.put(frame)
            sent += frame
            if number % 7 == 0:
                sender.flush()
        sender.flush()
        assert await receive_exactly(receiver, len(sent)) == sent
        await sender.wait_below(0)
        assert sender.queued == 0
        assert not sender.blocked
        nursery.cancel_scope.cancel()


@BOTH
async def test_small_frames_overtake_a_long_message_under_way(kind: str) -> None:
    """A heartbeat put while 4 MiB wait for a slow reader arrives long before their end."""
    async with linked(kind) as (sender, receiver), trio.open_nursery() as nursery:
        nursery.start_soon(sender.write_loop)
        for _ in range(64):
            sender.put_bulk(1, b"L" * 65_536)
        sender.flush()
        await trio.testing.wait_all_tasks_blocked()
        sender.put(b"beat")
        sender.flush()
        data = await receive_exactly(receiver, 64 * 65_536 + 4)
        assert data.count(b"beat") == 1
        assert data.index(b"beat") < 1 << 20
        nursery.cancel_scope.cancel()


@BOTH
async def test_who_waits_for_room_wakes_at_the_level_asked_for(kind: str) -> None:
    """Not before that many bytes have left, and not only once all have."""
    async with linked(kind) as (sender, receiver), trio.open_nursery() as nursery:
        nursery.start_soon(sender.write_loop)
        for _ in range(64):
            sender.put_bulk(1, bytes(65_536))
        sender.flush()
        seen: list[int] = []

        async def wait() -> None:
            await sender.wait_below(2 << 20)
            seen.append(sender.queued)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not seen
        await receive_exactly(receiver, 64 * 65_536)
        assert 0 < seen[0] <= 2 << 20
        nursery.cancel_scope.cancel()


@BOTH
async def test_each_of_several_wakes_at_its_own_level(kind: str) -> None:
    """Whoever came last, and whatever that one waits for."""
    async with linked(kind) as (sender, receiver), trio.open_nursery() as nursery:
        nursery.start_soon(sender.write_loop)
        for _ in range(64):
            sender.put_bulk(1, bytes(65_536))
        sender.flush()
        seen: dict[int, int] = {}

        async def wait(level: int) -> None:
            await sender.wait_below(level)
            seen[level] = sender.queued

        for level in (2 << 20, 0, 3 << 20):
            nursery.start_soon(wait, level)
            await trio.testing.wait_all_tasks_blocked()
        await receive_exactly(receiver, 64 * 65_536)
        await trio.testing.wait_all_tasks_blocked()
        assert list(seen) == [3 << 20, 2 << 20, 0]
        assert seen[2 << 20] > 1 << 20
        assert seen[3 << 20] > 2 << 20
        nursery.cancel_scope.cancel()


@BOTH
async def test_who_waits_for_room_also_wakes_when_a_flush_alone_made_it(kind: str) -> None:
    """What was put and not yet flushed when the wait began counts like all else."""
    async with linked(kind) as (sender, receiver), trio.open_nursery() as nursery:
        nursery.start_soon(sender.write_loop)
        sender.put(b"frame")
        with trio.fail_after(5):
            async with trio.open_nursery() as inner:
                inner.start_soon(sender.wait_below, 0)
                await trio.testing.wait_all_tasks_blocked()
                sender.flush()
                assert await receiver.receive() == b"frame"
        nursery.cancel_scope.cancel()


@BOTH
async def test_room_made_by_taking_frames_back_wakes_who_waits(kind: str) -> None:
    """Bytes that were discarded are as good as sent."""
    async with linked(kind) as (sender, _), trio.open_nursery() as nursery:
        nursery.start_soon(sender.write_loop)
        for key in range(64):
            sender.put_bulk(key, bytes(65_536))
        sender.flush()
        await trio.testing.wait_all_tasks_blocked()
        woken = trio.Event()

        async def wait() -> None:
            await sender.wait_below(1 << 20)
            woken.set()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for key in range(64):
            sender.discard(key)
        assert sender.queued <= 1 << 20
        with trio.fail_after(5):
            await woken.wait()
        nursery.cancel_scope.cancel()


@BOTH
async def test_the_reader_sees_the_end_however_it_came(kind: str) -> None:
    """Nothing is raised for a connection that is over: an empty read says it."""
    async with linked(kind) as (sender, receiver):
        await sender.aclose()
        assert await receiver.receive() == b""
        assert await sender.receive() == b""


@BOTH
async def test_a_broken_link_ends_its_writer_and_wakes_who_waits(kind: str) -> None:
    """The other end is gone while bytes wait: the writer ends, and so does each wait for room."""
    async with linked(kind) as (sender, receiver):
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.write_loop)
                for _ in range(64):
                    sender.put_bulk(1, bytes(65_536))
                sender.flush()
                nursery.start_soon(sender.wait_below, 0)
                await trio.testing.wait_all_tasks_blocked()
                await receiver.aclose()
        assert sender.broken is not None


@BOTH
async def test_flushing_a_broken_link_does_nothing(kind: str) -> None:
    """Whoever still speaks to a lost connection is not disturbed; the reader tells of the loss."""
    async with linked(kind) as (sender, _):
        await sender.aclose()
        sender.put(b"lost")
        sender.flush()
        assert sender.broken is not None
        with trio.fail_after(5):
            await sender.write_loop()


async def test_closing_twice_is_harmless() -> None:
    """The second time, it is closed."""
    async with linked("socket") as (sender, _):
        await sender.aclose()
        await sender.aclose()


async def test_only_tcp_is_marked_as_a_network() -> None:
    """Silence means a broken network on TCP alone, where no kernel tells of a lost host."""
    with socket.socket(socket.AF_INET) as tcp, socket.socket(socket.AF_UNIX) as unix:
        assert SocketLink(tcp, LIMIT, "t").is_tcp
        assert not SocketLink(unix, LIMIT, "u").is_tcp


@BOTH
async def test_more_tiny_frames_than_a_system_sends_at_once_arrive(kind: str) -> None:
    """Systems send 1,024 pieces in one call; a message of bytes one by one has more."""
    async with linked(kind) as (sender, receiver), trio.open_nursery() as nursery:
        nursery.start_soon(sender.write_loop)
        sent = b""
        for number in range(5000):
            sender.put_bulk(1, b"h%d" % number, b"p")
            sent += b"h%dp" % number
        sender.flush()
        assert await receive_exactly(receiver, len(sent)) == sent
        await sender.wait_below(0)
        nursery.cancel_scope.cancel()


@BOTH
@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 70_000), st.integers(0, 70_000)), max_size=40))
async def test_whatever_is_cut_by_the_system_arrives_in_order(
    kind: str, sizes: list[tuple[int, int]]
) -> None:
    """Heads and payloads of all sizes, of which the socket takes some part at a time."""
    source = random.Random(len(sizes))
    frames = [(source.randbytes(head), source.randbytes(payload)) for head, payload in sizes]
    sent = b"".join(map(b"".join, frames))
    async with linked(kind) as (sender, receiver), trio.open_nursery() as nursery:
        nursery.start_soon(sender.write_loop)
        for head, payload in frames:
            sender.put_bulk(1, head, memoryview(payload))
        sender.flush()
        assert await receive_exactly(receiver, len(sent)) == sent
        await sender.wait_below(0)
        assert sender.queued == 0
        nursery.cancel_scope.cancel()
