"""Gathering: few sends for many frames, and none of them late."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
import trio.testing

from mesh.gathering import FLUSH_EVERY, Gathering
from mesh.transport import SocketLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class CountingLink(SocketLink):
    """A real link that counts how often it is asked to send something."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, 1 << 20, "test")
        self.sends = 0

    def flush(self) -> None:
        self.sends += bool(self.queued)
        super().flush()


@asynccontextmanager
async def gathering() -> AsyncIterator[tuple[Gathering, CountingLink, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    link = CountingLink(ours)
    try:
        async with trio.open_nursery() as nursery:
            gathering = Gathering(link)
            nursery.start_soon(gathering.run)
            await trio.testing.wait_all_tasks_blocked()
            yield gathering, link, theirs
            nursery.cancel_scope.cancel()
    finally:
        await link.aclose()
        theirs.close()


async def test_a_task_that_speaks_alone_sends_at_once() -> None:
    async with gathering() as (sender, link, other):
        sender.send(b"a")
        assert other.recv(10) == b"a"
        sender.send(b"b")
        assert other.recv(10) == b"b"
        assert link.sends == 2


async def test_the_last_of_the_woken_tasks_sends_for_all() -> None:
    async with gathering() as (sender, link, other):
        sender.expect(3)
        sender.send(b"a")
        sender.send(b"b")
        assert link.sends == 0
        sender.send(b"c")
        assert other.recv(10) == b"abc"
        assert link.sends == 1


async def test_long_bursts_leave_in_pieces_so_that_the_next_process_can_start() -> None:
    async with gathering() as (sender, link, other):
        sender.expect(40)
        for _ in range(40):
            sender.send(b"x")
        assert link.sends == 40 // FLUSH_EVERY + 1
        assert other.recv(100) == b"x" * 40


async def test_what_waits_for_silent_tasks_leaves_all_the_same() -> None:
    """Three tasks were woken and only one speaks: its frame leaves within two passes."""
    async with gathering() as (sender, link, other):
        sender.expect(3)
        sender.send(b"a")
        await trio.testing.wait_all_tasks_blocked()
        assert other.recv(10) == b"a"
        sender.send(b"b")  # the silent ones are not waited for again
        assert other.recv(10) == b"b"
        assert link.sends == 2


async def test_tasks_woken_meanwhile_are_still_waited_for() -> None:
    """What is flushed for the silent ones of one read does not scatter the frames of the next."""
    async with gathering() as (sender, link, other):
        sender.expect(2)
        sender.send(b"a")  # wakes the flusher for the next pass of the scheduler
        await trio.lowlevel.checkpoint()
        sender.expect(4)
        await trio.testing.wait_all_tasks_blocked()
        assert other.recv(10) == b"a"
        before = link.sends
        for _ in range(4):
            sender.send(b"x")
        assert link.sends - before <= 2
        await trio.testing.wait_all_tasks_blocked()
        assert other.recv(10) == b"xxxx"
