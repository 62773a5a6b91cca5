"""Cutting a stream of bytes into frames, however the network has cut it."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.wire import frames
from mesh.wire.frames import MAX_HEADER, OVERHEAD, PREFIX, RawFrame, Splitter

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_HEADER_HERE, MAX_PAYLOAD_HERE = 24, 40
LONGEST = PREFIX.size + MAX_HEADER_HERE + MAX_PAYLOAD_HERE

BYTE = st.integers(0, 255)
RAW_FRAMES = st.lists(
    st.tuples(
        BYTE, BYTE, st.binary(max_size=MAX_HEADER_HERE), st.binary(max_size=MAX_PAYLOAD_HERE)
    ),
    max_size=8,
)


def splitter() -> Splitter:
    return Splitter(max_header=MAX_HEADER_HERE, max_payload=MAX_PAYLOAD_HERE)


def wire(raw: RawFrame) -> bytes:
    """A frame as the specification draws it."""
    kind, flags, header, payload = raw
    length = 4 + len(header) + len(payload)
    return struct.pack(">IBBH", length, kind, flags, len(header)) + header + payload


def cut(data: bytes, points: Iterable[int]) -> list[bytes]:
    """The data in pieces; a point may come twice, for a read of nothing."""
    inside = sorted(point % (len(data) + 1) for point in points)
    return [data[start:stop] for start, stop in pairwise([0, *inside, len(data)])]


def feed(subject: Splitter, pieces: Iterable[bytes]) -> list[RawFrame]:
    """Everything that comes out, with the bound on what is held checked after each piece."""
    found: list[RawFrame] = []
    for piece in pieces:
        found += subject.feed(piece)
        assert subject.buffered < LONGEST
    return found


@given(RAW_FRAMES, st.lists(st.integers(0, 2000), max_size=12), st.binary(max_size=7))
def test_frames_come_out_as_they_went_in(
    raw: list[RawFrame], points: list[int], trailing: bytes
) -> None:
    """Read whole, byte by byte and cut anywhere, with the beginning of another frame behind."""
    data = b"".join(map(wire, raw)) + trailing
    for pieces in ([data], [bytes([byte]) for byte in data], cut(data, points)):
        subject = splitter()
        assert feed(subject, pieces) == raw
        assert subject.fault is None
        assert subject.buffered == len(trailing)


def test_frame_is_held_until_its_last_byte() -> None:
    subject = splitter()
    data = wire((8, 0, b"\x92\x01\x02", b"payload"))
    for at in range(len(data) - 1):
        assert subject.feed(data[at : at + 1]) == []
        assert subject.buffered == at + 1
    assert subject.feed(data[-1:]) == [(8, 0, b"\x92\x01\x02", b"payload")]
    assert subject.buffered == 0


def test_reading_nothing_changes_nothing() -> None:
    subject = splitter()
    assert subject.feed(b"") == []
    subject.feed(b"\x00\x00")
    assert subject.feed(b"") == []
    assert subject.buffered == 2


@pytest.mark.parametrize(
    ("header", "payload"),
    [(0, 0), (MAX_HEADER_HERE, 0), (0, MAX_PAYLOAD_HERE), (MAX_HEADER_HERE, MAX_PAYLOAD_HERE)],
)
def test_frame_at_its_limits_is_taken(header: int, payload: int) -> None:
    raw = (5, 0, b"h" * header, b"p" * payload)
    assert splitter().feed(wire(raw)) == [raw]


@pytest.mark.parametrize(
    ("length", "header", "fault"),
    [
        (2**32 - 1, 0, "frame of 4,294,967,295 bytes exceeds the limit of 68"),
        (69, 24, "frame of 69 bytes exceeds the limit of 68"),
        (4 + 41, 0, "payload of 41 bytes in one frame exceeds max_chunk of 40"),
        (4 + 25, 25, "header of 25 bytes exceeds max_header of 24"),
        (4 + 9, 10, "frame of 13 bytes is too short for its header of 10 bytes"),
        (3, 0, "frame of 3 bytes is too short for its header of 0 bytes"),
        (0, 0, "frame of 0 bytes is too short for its header of 0 bytes"),
        (0, MAX_HEADER, "header of 65,535 bytes exceeds max_header of 24"),
    ],
)
def test_impossible_lengths_are_refused_by_the_prefix_alone(
    length: int, header: int, fault: str
) -> None:
    """The fault is known before a byte of the frame is kept, and names the numbers."""
    prefix = struct.pack(">IBBH", length, 5, 0, header)
    for pieces in ([prefix], [prefix + b"x" * 5000], [bytes([byte]) for byte in prefix]):
        subject = splitter()
        assert feed(subject, pieces) == []
        assert str(subject.fault) == fault
        assert subject.buffered == 0


def test_frames_before_a_fault_come_out_and_none_after_it() -> None:
    good = wire((8, 0, b"h", b"p"))
    bad = struct.pack(">IBBH", 0, 0, 0, 0)
    subject = splitter()
    assert subject.feed(good + good + bad + good) == [(8, 0, b"h", b"p")] * 2
    assert subject.fault is not None
    assert subject.feed(good * 100) == []
    assert subject.buffered == 0


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_any_bytes_give_frames_or_a_fault_within_bounds(data: bytes, points: list[int]) -> None:
    """However it is cut, the outcome is the same, and no frame is longer than its limits."""
    whole, pieces = splitter(), splitter()
    found = feed(whole, [data])
    assert feed(pieces, cut(data, points)) == found
    assert str(pieces.fault) == str(whole.fault)
    assert pieces.buffered == whole.buffered
    assert all(len(raw[2]) <= MAX_HEADER_HERE for raw in found)
    assert all(len(raw[3]) <= MAX_PAYLOAD_HERE for raw in found)
    if whole.fault is None:
        assert sum(len(wire(raw)) for raw in found) + whole.buffered == len(data)


@settings(max_examples=20)
@given(st.integers(1, 3000))
def test_a_new_limit_rules_from_the_next_frame_on(size: int) -> None:
    subject = Splitter(max_header=10, max_payload=0)
    subject.accept(size)
    assert subject.feed(wire((5, 0, b"", b"p" * size))) == [(5, 0, b"", b"p" * size)]
    subject.feed(wire((5, 0, b"", b"p" * (size + 1))))
    assert f"{size + 1:,} bytes in one frame exceeds max_chunk of {size:,}" in str(subject.fault)


class CountedPrefix:
    """Stands for `PREFIX` and counts how often a prefix is read."""

    size = PREFIX.size

    def __init__(self) -> None:
        self.reads = 0

    def unpack_from(self, data: bytes, at: int = 0) -> tuple[Any, ...]:
        """Read a prefix, and count it."""
        self.reads += 1
        return PREFIX.unpack_from(data, at)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_long_frame_in_small_pieces_costs_no_more_than_its_length(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come is neither joined nor looked at again with each further piece."""
    joined: list[int] = []

    def counted(data: bytearray | memoryview) -> bytes:
        joined.append(len(data))
        return bytes(data)

    prefix = CountedPrefix()
    monkeypatch.setattr(frames, "bytes", counted, raising=False)
    monkeypatch.setattr(frames, "PREFIX", prefix)
    size = 65_536
    data = wire((5, 0, b"h" * 1000, b"p" * size)) * 2
    subject = Splitter(max_header=1000, max_payload=size)
    found = [
        frame for at in range(0, len(data), step) for frame in subject.feed(data[at : at + step])
    ]
    assert [len(frame[3]) for frame in found] == [size, size]
    assert prefix.reads <= 6
    assert sum(joined) <= len(data) + 4 * step + 80


def test_overhead_is_what_length_counts_besides_header_and_payload() -> None:
    assert OVERHEAD == 4
    assert struct.pack(">IBBH", OVERHEAD, 1, 2, 0) == PREFIX.pack(OVERHEAD, 1, 2, 0)
