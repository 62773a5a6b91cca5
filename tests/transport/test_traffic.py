"""What is counted of the frames that leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.transport import Traffic
from mesh.transport.outbox import Outbox
from mesh.transport.traffic import NOTED
from mesh.wire import codec
from mesh.wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable


def frame(kind: Kind) -> bytes:
    """A frame of a kind; only its prefix matters here."""
    return codec.encode(kind, (1,), b"payload")


def put(outbox: Outbox, kinds: Iterable[Kind]) -> int:
    """Queue frames; returns their bytes."""
    frames = [frame(kind) for kind in kinds]
    for one in frames:
        outbox.put(one)
    return sum(map(len, frames))


def test_gathered_frames_are_counted_by_kind() -> None:
    outbox = Outbox(1 << 20)
    traffic = outbox.traffic = Traffic()
    size = put(outbox, [Kind.CALL])
    outbox.gather()
    size += put(outbox, [Kind.CALL, Kind.RESULT, Kind.HEARTBEAT])
    outbox.put_bulk(1, frame(Kind.CALL))
    size += len(frame(Kind.CALL))
    outbox.gather()
    counts = {kind: count for kind, count in enumerate(traffic.frames_out) if count}
    assert counts == {Kind.CALL: 3, Kind.RESULT: 1, Kind.HEARTBEAT: 1}
    assert traffic.bytes_out == size
    assert (traffic.bytes_in, sum(traffic.frames_in)) == (0, 0)


def test_what_never_left_is_not_counted() -> None:
    outbox = Outbox(1 << 20)
    traffic = outbox.traffic = Traffic()
    put(outbox, [Kind.CALL, Kind.CALL])
    outbox.take_unsent()
    outbox.put_bulk(1, frame(Kind.CALL))
    outbox.discard(1)
    outbox.gather()
    assert (traffic.bytes_out, sum(traffic.frames_out)) == (0, 0)


def test_more_than_can_be_noted_is_counted_all_the_same() -> None:
    outbox = Outbox(1 << 30)
    traffic = outbox.traffic = Traffic()
    sent = 0
    while sent <= 2 * NOTED:
        put(outbox, [Kind.CALL] * 999 + [Kind.RESULT])
        sent += 1000
        outbox.gather()
    assert traffic.frames_out[Kind.CALL] == sent // 1000 * 999
    assert traffic.frames_out[Kind.RESULT] == sent // 1000
    assert len(traffic._noted) == 0


def test_links_share_one_count() -> None:
    traffic, outboxes = Traffic(), [Outbox(1 << 20) for _ in range(3)]
    for outbox in outboxes:
        outbox.traffic = traffic
        put(outbox, [Kind.RESULT])
        outbox.gather()
    assert traffic.frames_out[Kind.RESULT] == 3
