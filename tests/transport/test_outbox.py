"""The outbox: two lanes, bounds, and what can be taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.transport.outbox import GATHER, Outbox


def test_frames_of_one_lane_keep_their_order_and_small_ones_go_first() -> None:
    """A gathering takes all small frames, then frames of long messages, each lane in its order."""
    outbox = Outbox(1000)
    outbox.put_bulk(1, b"B1")
    outbox.put(b"s1")
    outbox.put_bulk(2, b"B2")
    outbox.put(b"s2")
    assert outbox.queued == 8
    assert outbox.gather() == b"s1s2B1B2"
    assert outbox.gather() == b""


def test_one_gathering_takes_a_bounded_piece_of_long_messages() -> None:
    """A small frame waits for one gathering of a long message at most, and not for all of it."""
    outbox = Outbox(1 << 30)
    frame = bytes(64 * 1024)
    for _ in range(20):
        outbox.put_bulk(1, frame)
    assert len(outbox.gather()) == GATHER
    outbox.put(b"small")
    assert outbox.gather().startswith(b"small")


def test_a_frame_longer_than_a_gathering_still_leaves() -> None:
    """At least one frame is taken, however long it is."""
    outbox = Outbox(1 << 30)
    outbox.put_bulk(1, bytes(GATHER * 2))
    assert len(outbox.gather()) == GATHER * 2


def test_discard_takes_back_only_the_frames_of_that_message_that_have_not_left() -> None:
    """It tells how many those were, which shows whether any has left, and frees their room."""
    outbox = Outbox(1 << 30)
    big = bytes(GATHER)
    outbox.put_bulk(1, big)
    outbox.put_bulk(1, b"rest")
    outbox.put_bulk(2, b"other")
    outbox.queued -= len(outbox.gather())
    assert outbox.discard(1) == 1
    assert outbox.discard(1) == 0
    assert outbox.queued == len(b"other")
    assert outbox.gather() == b"other"


def test_unsent_frames_can_be_taken_back_from_the_small_lane() -> None:
    """What was gathered has left; what was put after it is returned whole."""
    outbox = Outbox(1000)
    outbox.put(b"gone")
    outbox.queued -= len(outbox.gather())
    outbox.put(b"a")
    outbox.put(b"bc")
    assert outbox.take_unsent() == [b"a", b"bc"]
    assert outbox.queued == 0
    assert outbox.gather() == b""


def test_it_is_full_at_its_limit() -> None:
    """The limit itself counts as full; freeing one byte makes room."""
    outbox = Outbox(4)
    outbox.put(b"abc")
    seen = [outbox.full]
    outbox.put_bulk(1, b"d")
    seen.append(outbox.full)
    outbox.discard(1)
    seen.append(outbox.full)
    assert seen == [False, True, False]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.binary(min_size=1, max_size=9)),
            st.tuples(st.just("bulk"), st.binary(min_size=1, max_size=9)),
            st.tuples(st.just("discard"), st.just(b"")),
            st.tuples(st.just("gather"), st.just(b"")),
            st.tuples(st.just("take"), st.just(b"")),
        )
    )
)
def test_the_count_of_queued_bytes_is_always_true(steps: list[tuple[str, bytes]]) -> None:
    """Whatever is put, discarded, gathered and taken back, no byte is lost or miscounted."""
    outbox = Outbox(1 << 20)
    put = left = 0
    for number, (step, data) in enumerate(steps):
        if step == "put":
            outbox.put(data)
            put += len(data)
        elif step == "bulk":
            outbox.put_bulk(number % 3, data)
            put += len(data)
        elif step == "discard":
            before = outbox.queued
            outbox.discard(number % 3)
            left += before - outbox.queued
        elif step == "take":
            left += sum(map(len, outbox.take_unsent()))
        else:
            gathered = len(outbox.gather())
            outbox.queued -= gathered
            left += gathered
        assert outbox.queued == put - left
    outbox.queued -= len(outbox.gather())
    assert outbox.queued == 0
