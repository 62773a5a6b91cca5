"""Assembly: the frames of long messages, put together within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.assembly import PART_OVERHEAD, Assembler, AssemblyFull
from mesh.errors import RemoteProtocolError
from mesh.wire import CONTINUED, MORE, Kind


def test_a_message_is_whole_with_its_last_frame() -> None:
    """Its kind and header are those of its first frame."""
    assembler = Assembler(100, 1000)
    assert assembler.add(1, Kind.RESULT, MORE, "head", b"ab") is None
    assert assembler.has(1)
    assert assembler.add(1, Kind.RESULT, MORE | CONTINUED, "ignored", b"cd") is None
    whole = assembler.add(1, Kind.RESULT, CONTINUED, "ignored", b"e")
    assert whole == (Kind.RESULT, "head", b"abcde")
    assert not assembler.has(1)
    assert assembler.held == 0


def test_a_continuation_of_nothing_is_refused() -> None:
    """The other side lost count: the stream has no more meaning."""
    with pytest.raises(RemoteProtocolError, match="continues a message that has not begun"):
        Assembler(100, 1000).add(1, Kind.CALL, CONTINUED, None, b"x")


def test_a_message_over_its_bound_is_refused_with_both_numbers() -> None:
    """The bound itself is allowed; one byte more is not, in the first frame or later."""
    assembler = Assembler(4, 1000)
    assembler.add(1, Kind.CALL, MORE, None, b"abc")
    assert assembler.add(1, Kind.CALL, CONTINUED, None, b"d") is not None
    assembler.add(1, Kind.CALL, MORE, None, b"abc")
    with pytest.raises(RemoteProtocolError, match="CALL of 5 bytes exceeds max_message of 4"):
        assembler.add(1, Kind.CALL, CONTINUED, None, b"de")
    with pytest.raises(RemoteProtocolError, match="exceeds max_message of 4"):
        assembler.add(2, Kind.CALL, MORE, None, b"abcde")


def test_all_messages_together_are_bounded_and_only_the_one_at_hand_is_dropped() -> None:
    """Its sender is told; the others go on to their end."""
    assembler = Assembler(100, 10 + 2 * PART_OVERHEAD)
    assembler.add(1, Kind.CALL, MORE, "one", b"abcd")
    assembler.add(2, Kind.CALL, MORE, "two", b"efgh")
    with pytest.raises(AssemblyFull, match=r"136 bytes .* no room for 3 more under"):
        assembler.add(2, Kind.CALL, MORE | CONTINUED, None, b"ijk")
    assert assembler.held == 4 + PART_OVERHEAD
    assert not assembler.has(2)
    assert assembler.add(1, Kind.CALL, CONTINUED, None, b"lm") == (Kind.CALL, "one", b"abcdlm")
    assert assembler.held == 0


def test_a_message_that_begins_again_replaces_what_had_come_of_it() -> None:
    """And what had come is not counted any more."""
    assembler = Assembler(100, 1000)
    assembler.add(1, Kind.CALL, MORE, "old", b"abc")
    assembler.add(1, Kind.CALL, MORE, "new", b"d")
    assert assembler.held == 1 + PART_OVERHEAD
    assert assembler.add(1, Kind.CALL, CONTINUED, None, b"e") == (Kind.CALL, "new", b"de")


def test_dropping_tells_whether_anything_had_come() -> None:
    """And frees its room."""
    assembler = Assembler(100, 1000)
    assert not assembler.drop(1)
    assembler.add(1, Kind.CALL, MORE, None, b"abc")
    assert assembler.drop(1)
    assert assembler.held == 0


@given(st.data(), st.dictionaries(st.integers(0, 5), st.binary(min_size=2), min_size=1))
def test_interleaved_messages_come_out_as_they_went_in(
    data: st.DataObject, messages: dict[int, bytes]
) -> None:
    """However their frames are cut and mixed, each message is put together from its own."""
    assembler = Assembler(10_000, 100_000)
    left = dict(messages)
    begun: set[int] = set()
    out: dict[int, bytes] = {}
    while left:
        key = data.draw(st.sampled_from(sorted(left)))
        size = data.draw(st.integers(1, len(left[key])))
        piece, left[key] = left[key][:size], left[key][size:]
        flags = (CONTINUED if key in begun else 0) | (MORE if left[key] else 0)
        begun.add(key)
        whole = assembler.add(key, Kind.CALL, flags, key, piece)
        if not left[key]:
            del left[key]
            assert whole is not None
            assert whole[1] == key
            out[key] = whole[2]
    assert out == messages
    assert assembler.held == 0
