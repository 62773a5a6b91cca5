"""One end of a connection: which frames are legal when, chunks, faults, and what is held."""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.assembly import Assembler
from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.limits import Limits
from mesh.wire import CONTINUED, MORE, Connection, Frame, Kind, Role, State, codec
from mesh.wire.frames import MAX_HEADER, OVERHEAD, PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

FRAMES = {
    vector["name"]: bytes.fromhex(vector["frame"])
    for vector in json.loads(
        (Path(__file__).parent / "vectors" / "frames.json").read_text(encoding="utf-8")
    )
}
# A valid frame of each kind.
BY_KIND = {
    Kind.HELLO: FRAMES["hello"],
    Kind.WELCOME: FRAMES["welcome"],
    Kind.REGISTER: FRAMES["register"],
    Kind.UNREGISTER: FRAMES["unregister-one"],
    Kind.CALL: FRAMES["call-entry"],
    Kind.RESULT: FRAMES["result"],
    Kind.ERROR: FRAMES["error"],
    Kind.CANCEL: FRAMES["cancel-deadline"],
    Kind.HEARTBEAT: FRAMES["heartbeat"],
    Kind.GOAWAY: FRAMES["goaway"],
    Kind.KEEP: FRAMES["keep"],
    Kind.SPANS: FRAMES["spans"],
    Kind.EVENT: FRAMES["event"],
    Kind.ITEM: FRAMES["item"],
    Kind.END: FRAMES["end"],
    Kind.CREDIT: FRAMES["credit"],
}

# The table of the specification, written down once more.
BOTH_WAYS = "CALL RESULT ERROR CANCEL HEARTBEAT GOAWAY ITEM END CREDIT"
LEGAL = {
    ("gateway", "handshake"): "HELLO",
    ("gateway", "open"): f"{BOTH_WAYS} REGISTER UNREGISTER SPANS",
    ("gateway", "closed"): "",
    ("peer", "handshake"): "WELCOME GOAWAY",
    ("peer", "open"): f"{BOTH_WAYS} KEEP EVENT",
    ("peer", "closed"): "",
}
BEAT = FRAMES["heartbeat"]


def connect(role: str = "gateway", state: str = "open", limits: Limits | None = None) -> Connection:
    """A connection in this state."""
    connection = Connection(Role(role), limits or Limits())
    if state == "open":
        connection.open()
    elif state == "closed":
        connection.close()
    return connection


def raw_frame(kind: int, packed: bytes, payload: bytes = b"", flags: int = 0) -> bytes:
    return PREFIX.pack(OVERHEAD + len(packed) + len(payload), kind, flags, len(packed)) + (
        packed + payload
    )


def read(connection: Connection, pieces: Iterable[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in connection.receive(piece)]


def cut(data: bytes, points: Iterable[int]) -> list[bytes]:
    """The data in pieces; a point may come twice, for a read of nothing."""
    inside = sorted(point % (len(data) + 1) for point in points)
    return [data[start:stop] for start, stop in pairwise([0, *inside, len(data)])]


# Legality.


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("role", "state"), LEGAL)
def test_what_is_legal(role: str, state: str, kind: Kind) -> None:
    """Every kind in every state at both ends; a fault names the frame, the role and the state."""
    connection = connect(role, state)
    legal = LEGAL[role, state].split()
    if kind.name in legal:
        [frame] = connection.receive(BY_KIND[kind])
        assert frame[0] == kind
        assert isinstance(frame[2], codec.HEADERS[kind])
        assert connection.state is State(state)
        return
    with pytest.raises(RemoteProtocolError) as caught:
        list(connection.receive(BY_KIND[kind]))
    accepted = ", ".join(sorted(legal)) or "nothing"
    assert str(caught.value) == (
        f"{kind.name} is not allowed: {role} in state {state} accepts {accepted}"
    )


@pytest.mark.parametrize(("role", "state"), LEGAL)
def test_unknown_kinds_are_skipped_in_every_state(role: str, state: str) -> None:
    """Whatever they hold: their header is not even decoded."""
    connection = connect(role, state)
    for kind in {*range(256)} - {*Kind}:
        frame = raw_frame(kind, b"\xc1\xff", b"?", flags=MORE | CONTINUED)
        assert list(connection.receive(frame)) == []
    assert connection.state is State(state)


def test_a_connection_opens_once() -> None:
    for state in ("open", "closed"):
        with pytest.raises(LocalProtocolError) as caught:
            connect("peer", state).open()
        assert str(caught.value) == f"peer cannot open a connection in state {state}"


def test_the_state_may_change_between_two_frames_of_one_read() -> None:
    connection = connect("peer", "handshake")
    kinds = []
    for kind, _, header, _ in connection.receive(FRAMES["welcome"] + BEAT + FRAMES["goaway"]):
        kinds.append(kind)
        if isinstance(header, codec.Welcome):
            connection.open()
    assert kinds == [Kind.WELCOME, Kind.HEARTBEAT, Kind.GOAWAY]


def test_what_follows_the_handshake_without_opening_is_illegal() -> None:
    connection = connect("peer", "handshake")
    with pytest.raises(RemoteProtocolError, match="HEARTBEAT is not allowed: peer in state hands"):
        list(connection.receive(FRAMES["welcome"] + BEAT))


# Reading.


@pytest.mark.parametrize("name", FRAMES)
def test_each_frame_however_it_is_read(name: str) -> None:
    """Whole, byte by byte, cut at every place, and with the beginning of another one behind."""
    data = FRAMES[name]
    role = "peer" if name.startswith(("welcome", "keep", "event")) else "gateway"
    state = "handshake" if name.startswith(("hello", "welcome")) else "open"
    expected = read(connect(role, state), [data])
    assert len(expected) == 1
    assert read(connect(role, state), [bytes([byte]) for byte in data]) == expected
    for at in range(len(data)):
        connection = connect(role, state)
        assert read(connection, [data[:at]]) == []
        assert connection.buffered == at
        assert read(connection, [data[at:] + BEAT[:5]]) == expected
        assert connection.buffered == 5


CONVERSATION = [
    FRAMES[name]
    for name in (
        "register", "call-entry", "heartbeat-ping", "call-nested", "cancel-caller", "result",
        "error", "spans", "item", "goaway",
    )
]  # fmt: skip


@given(
    st.lists(st.sampled_from(CONVERSATION), max_size=12),
    st.lists(st.integers(0, 4000), max_size=12),
    st.integers(0, len(BEAT) - 1),
)
def test_a_conversation_however_it_is_cut(
    frames: list[bytes], points: list[int], trailing: int
) -> None:
    data = b"".join(frames) + BEAT[:trailing]
    expected = [frame for piece in frames for frame in connect().receive(piece)]
    for pieces in ([data], [bytes([byte]) for byte in data], cut(data, points)):
        connection = connect()
        assert read(connection, pieces) == expected
        assert connection.buffered == trailing


# Faults.

FAULTS = {
    "framing": PREFIX.pack(0, 8, 0, 0),
    "header": raw_frame(Kind.CANCEL, b"\xc0"),
    "legality": FRAMES["hello"],
    "flags": raw_frame(Kind.CANCEL, b"\x92\x01\x01", b"x", MORE),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_the_end_of_its_connection(fault: bytes) -> None:
    """What came before it comes out; nothing after it does, then or later; nothing is held."""
    connection, other = connect(), connect()
    found: list[int] = []
    with pytest.raises(RemoteProtocolError) as first:
        found.extend(frame[0] for frame in connection.receive(BEAT * 2 + fault + BEAT))
    assert found == [Kind.HEARTBEAT] * 2
    assert connection.state is State.CLOSED
    assert connection.buffered == 0
    for later in (BEAT, b"", BEAT[:9], FRAMES["hello"]):
        with pytest.raises(RemoteProtocolError) as again:
            list(connection.receive(later))
        assert str(again.value) == str(first.value)
        assert connection.buffered == 0
    assert len(list(other.receive(BEAT))) == 1
    assert other.state is State.OPEN


def test_a_fault_drops_the_part_that_followed_it() -> None:
    connection = connect()
    with pytest.raises(RemoteProtocolError):
        list(connection.receive(FAULTS["header"] + BEAT[:-1]))
    assert connection.buffered == 0


def test_what_a_reader_raises_is_not_taken_for_a_fault_of_the_stream() -> None:
    """A loop that raises by itself leaves the connection as it is."""
    connection = connect()

    def handle() -> None:
        for _ in connection.receive(BEAT):
            raise RemoteProtocolError("by the reader")

    with pytest.raises(RemoteProtocolError, match="by the reader"):
        handle()
    assert connection.state is State.OPEN
    assert len(list(connection.receive(BEAT))) == 1


# Chunks.


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("flags", [MORE, CONTINUED, MORE | CONTINUED])
@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "filled"])
def test_chunk_flags(kind: Kind, flags: int, payload: bytes) -> None:
    """Calls, results and errors come in pieces, nothing else; only a last piece may be empty."""
    role = "gateway" if kind.name in LEGAL["gateway", "open"].split() else "peer"
    state = "handshake" if kind in {Kind.HELLO, Kind.WELCOME} else "open"
    if kind is Kind.HELLO:
        role = "gateway"
    size = PREFIX.unpack_from(BY_KIND[kind])[3]
    packed = b"\x91\x07" if flags & CONTINUED else BY_KIND[kind][8 : 8 + size]
    connection = connect(role, state)
    data = raw_frame(kind, packed, payload, flags)
    if kind.name not in {"CALL", "RESULT", "ERROR"}:
        with pytest.raises(RemoteProtocolError) as caught:
            list(connection.receive(data))
        assert str(caught.value) == f"{kind.name} cannot be continued over several frames"
    elif flags & MORE and not payload:
        with pytest.raises(RemoteProtocolError) as caught:
            list(connection.receive(data))
        assert str(caught.value) == (
            f"{kind.name} announces more and carries nothing: an empty chunk must be last"
        )
    else:
        [(number, got, header, piece)] = connection.receive(data)
        assert (number, got, piece) == (kind, flags, payload)
        assert isinstance(header, codec.Reference) is bool(flags & CONTINUED)


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(65_537, 400_000), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    read_size=st.integers(1000, 300_000),
)
def test_long_messages_are_put_together_again(sizes: list[int], seed: int, read_size: int) -> None:
    """Messages over 64 KiB, their frames mixed with each other's and with heartbeats."""
    source = random.Random(seed)
    payloads = {call_id: source.randbytes(size) for call_id, size in enumerate(sizes, 1)}
    lanes = [
        list(
            map(
                b"".join, codec.chunks(Kind.RESULT, (call_id, 2, 0, 1, None, None), payload, 65_536)
            )
        )
        for call_id, payload in payloads.items()
    ]
    stream = bytearray()
    beats = 0
    while lanes:
        if source.random() < 0.3:
            stream += BEAT
            beats += 1
        lane = source.choice(lanes)
        stream += lane.pop(0)
        lanes = [lane for lane in lanes if lane]

    connection, assembler = connect("peer"), Assembler(2**20, 2**22)
    whole: dict[int, bytes] = {}
    heard = 0
    data = bytes(stream)
    for at in range(0, len(data), read_size):
        for kind, flags, header, payload in connection.receive(data[at : at + read_size]):
            if kind == Kind.HEARTBEAT:
                heard += 1
            elif done := assembler.add(header.call_id, kind, flags, header, payload):
                assert done[0] == Kind.RESULT
                assert isinstance(done[1], codec.Result)
                whole[header.call_id] = done[2]
        assert connection.buffered < PREFIX.size + MAX_HEADER + 65_536
    assert whole == payloads
    assert heard == beats
    assert assembler.held == 0


def test_a_message_without_end_stops_at_max_message() -> None:
    """The connection holds none of it; whoever puts it together refuses with the numbers."""
    connection, assembler = connect(), Assembler(max_message=1000, max_total=10_000)
    header: Any = FRAMES["call-entry"][8 : 8 + 59]
    first = raw_frame(Kind.CALL, header, b"x" * 100, MORE)
    further = raw_frame(Kind.CALL, b"\x91\x01", b"x" * 100, MORE | CONTINUED)
    taken: list[int] = []

    def take(data: bytes) -> None:
        for kind, flags, fields, payload in connection.receive(data):
            assembler.add(fields.call_id, kind, flags, fields, payload)
            taken.append(len(payload))
        assert connection.buffered == 0

    take(first)
    for _ in range(9):
        take(further)
    with pytest.raises(RemoteProtocolError) as caught:
        take(further)
    assert str(caught.value) == "CALL of 1,100 bytes exceeds max_message of 1,000"
    assert taken == [100] * 10


# Limits.


def test_a_peer_takes_longer_headers_than_a_gateway() -> None:
    """The gateway adds to what it passes on, and that must not cost the callee its connection."""
    reason = "x" * (MAX_HEADER - 10)
    data = codec.encode(Kind.GOAWAY, (reason, 0))
    [(_, _, header, _)] = connect("peer").receive(data)
    assert header.reason == reason
    with pytest.raises(RemoteProtocolError) as caught:
        list(connect("gateway").receive(data))
    assert "exceeds max_header of 32,768" in str(caught.value)


def test_the_longest_header_passed_on_fits_a_frame() -> None:
    """All that the gateway adds, at its bounds, to the longest header that it takes."""
    limits = Limits()
    call = next(iter(connect().receive(FRAMES["call-entry"])))[2]
    call.metadata = {"k": "x" * (limits.max_header - 200)}
    data = codec.encode_header(call)
    [(_, _, taken, _)] = connect().receive(data)
    taken.chain = ["é" * 257] * limits.max_depth
    taken.activity_id = "a" * 128
    taken.gateway = "g" * 32
    taken.caller = "c" * 128
    taken.call_id = taken.parent_id = taken.entry_id = 2**63 - 1
    [(_, _, header, _)] = connect("peer").receive(codec.encode_header(taken))
    assert header == taken


def test_the_chunk_size_of_the_gateway_rules_after_the_handshake() -> None:
    big = codec.encode(Kind.RESULT, (1, 2, 0, 1, None, None), b"x" * 100_000)
    with pytest.raises(RemoteProtocolError, match="payload of 100,000 bytes in one frame"):
        list(connect("peer").receive(big))
    connection = connect("peer", "handshake")
    connection.open(max_chunk=100_000)
    [(_, _, _, payload)] = connection.receive(big)
    assert len(payload) == 100_000


@pytest.mark.parametrize("role", ["peer", "gateway"])
def test_what_is_held_is_bounded_by_the_limits(role: str) -> None:
    """The longest frame but its last byte is all that is ever held, in memory too."""
    limits = Limits(max_chunk=50_000, max_header=1000)
    longest = PREFIX.size + (MAX_HEADER if role == "peer" else 1000) + 50_000
    size = longest - PREFIX.size - 50_000
    data = raw_frame(Kind.CALL, b"\xc0" * size, b"x" * 50_000)
    connection = connect(role, "open", limits)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for byte in data[:-1]:
            assert list(connection.receive(bytes([byte]))) == []
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert connection.buffered == longest - 1
    assert longest - 1 <= held < 1.5 * longest
