"""The outbox against a model of it that is too simple to be wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mesh.transport.outbox import FRAME_OVERHEAD, GATHER, PIECES, Outbox

KEYS = st.integers(0, 3)
FRAMES = st.one_of(
    st.binary(min_size=1, max_size=9),
    st.sampled_from([bytes(GATHER // 2), bytes(GATHER), bytes(GATHER - 1)]),
)


class OutboxMachine(RuleBasedStateMachine):
    """Two plain lists do what the outbox does, one frame after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(1 << 30)
        self.small: list[bytes] = []
        self.bulk: list[tuple[int, bytes]] = []

    @rule(frame=FRAMES)
    def put(self, frame: bytes) -> None:
        self.outbox.put(frame)
        self.small.append(frame)

    @rule(key=KEYS, frame=FRAMES, times=st.integers(1, 5))
    def put_bulk(self, key: int, frame: bytes, times: int) -> None:
        for _ in range(times):
            self.outbox.put_bulk(key, frame[:3], frame[3:])
            self.bulk.append((key, frame))

    @rule(key=KEYS, times=st.sampled_from([600, 1100]))
    def put_many_and_discard(self, key: int, times: int) -> None:
        """Enough for the dead to be cleared away."""
        for _ in range(times):
            self.outbox.put_bulk(key, b"dead")
            self.bulk.append((key, b"dead"))
        self.discard(key)

    @rule(key=KEYS)
    def discard(self, key: int) -> None:
        kept = [(owner, frame) for owner, frame in self.bulk if owner != key]
        assert self.outbox.discard(key) == len(self.bulk) - len(kept)
        self.bulk = kept

    @rule()
    def take_unsent(self) -> None:
        assert self.outbox.take_unsent() == self.small
        self.small = []

    @rule()
    def gather(self) -> None:
        expected, room, left = b"".join(self.small), GATHER, PIECES
        self.small = []
        while self.bulk and room > 0 and left > 0:
            left -= 1
            _, frame = self.bulk.pop(0)
            expected += frame
            room -= len(frame)
        gathered = self.outbox.gather()
        assert gathered == expected
        self.outbox.queued -= len(gathered)

    @invariant()
    def counts_are_true(self) -> None:
        outbox = self.outbox
        queued = sum(map(len, self.small)) + sum(len(frame) for _, frame in self.bulk)
        assert outbox.queued == queued
        assert outbox.weight >= queued + FRAME_OVERHEAD * len(self.bulk)

    @invariant()
    def the_dead_do_not_pile_up(self) -> None:
        dead = len(self.outbox._bulk) - len(self.bulk)
        assert dead == self.outbox._dead
        assert dead <= max(1024, len(self.outbox._bulk) // 2)
        assert sum(map(len, self.outbox._messages.values())) == len(self.bulk)
        assert all(self.outbox._messages.values())


OutboxMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30)
test_it_does_what_two_lists_do: Any = OutboxMachine.TestCase


class CountingKey(int):
    """A key that counts how often it is compared."""

    compared = 0
    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        CountingKey.compared += 1
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other


def test_discarding_one_message_does_not_look_at_the_others() -> None:
    """However many frames wait: else a few short calls and cancels could stop a gateway."""
    outbox = Outbox(1 << 30)
    for number in range(10_000):
        outbox.put_bulk(CountingKey(number % 10), b"z")
    CountingKey.compared = 0
    for number in range(100, 200):
        outbox.put_bulk(number, b"z")
        assert outbox.discard(number) == 1
        assert outbox.discard(number) == 0
    assert CountingKey.compared < 1000
    assert outbox.queued == 10_000


def test_frames_that_were_discarded_are_cleared_away() -> None:
    """Behind a frame that nobody reads, calls and cancels without end cost no memory."""
    outbox = Outbox(1 << 30)
    outbox.put_bulk(0, b"first")
    for key in range(1, 20_000):
        outbox.put_bulk(key, b"z")
        outbox.discard(key)
        assert len(outbox._bulk) <= 1 + 1025 * 2
    assert len(outbox._messages) == 1
    assert outbox.weight <= len(b"first") + FRAME_OVERHEAD * len(outbox._bulk)
    assert outbox.gather() == b"first"


def test_the_weight_counts_what_keeping_a_frame_costs() -> None:
    """A thousand pieces of one byte are not a thousand bytes."""
    outbox = Outbox(1 << 30)
    for _ in range(1000):
        outbox.put_bulk(1, b"z")
    assert outbox.queued == 1000
    assert outbox.weight == 1000 * (1 + FRAME_OVERHEAD)
    while outbox.queued:
        outbox.queued -= len(outbox.gather())
    assert outbox.weight == 0
