"""Those who do not keep to the rules: connections that send garbage, a caller that does not read.

They run in the soak's own process, on bare sockets, and must harm nobody but themselves.
"""

from __future__ import annotations

import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from mesh.errors import Code
from mesh.limits import Limits
from mesh.payload import encode
from mesh.wire import codec
from mesh.wire.codec import MSGPACK
from mesh.wire.connection import Connection, Role
from mesh.wire.frames import MORE, Kind

if TYPE_CHECKING:
    import random

    from tests.soak.processes import Fleet

FLOOD = "flood"
TARGET = "work.echo"
"""What it calls."""
CALLS = 250
"""Calls that the flood makes; below what one instance takes, so that only the flood suffers."""
REPLY = 256 * 1024
"""Bytes that each asks for: twice as much in all as the gateway holds for one connection."""
PATIENCE = 5.0
"""Seconds after which a gateway that does not close a broken connection is complained of."""
QUIET = 0.5
"""Seconds without a byte after which the gateway has sent all that it kept for the flood."""
HARMLESS = "a spoiled HELLO"
CUT = "a CALL cut short"
"""What may still be right, or go on: there it is this side that hangs up."""


def hello() -> bytes:
    """The bytes by which a peer introduces itself."""
    return codec.encode_header(
        codec.Hello(
            protocol_version=codec.PROTOCOL_VERSION, name=FLOOD, process_id=FLOOD,
            credentials=None, metadata={}, limits={}, features=[], implementation="soak",
        )
    )  # fmt: skip


async def introduce(stream: trio.SocketStream) -> Connection:
    """Send HELLO and read WELCOME."""
    connection = Connection(Role.PEER, Limits())
    await stream.send_all(hello())
    welcomed = False
    while not welcomed:
        for _, _, header, _ in connection.receive(bytes(await stream.receive_some())):
            if isinstance(header, codec.Welcome):
                connection.open()
                welcomed = True
    return connection


async def garbage(fleet: Fleet, randomness: random.Random) -> None:
    """Send nonsense in several ways; the gateway must close each of these connections."""
    noise = b"\xff" + randomness.randbytes(randomness.randint(1, 5000))
    spoiled = bytearray(hello())
    spoiled[randomness.randrange(4, len(spoiled))] ^= randomness.randint(1, 255)
    for what, introduced, data in (
        ("noise", False, noise),
        ("an HTTP request", False, b"GET / HTTP/1.1\r\nHost: mesh\r\n\r\n"),
        ("a frame that is too long", False, b"\x7f\xff\xff\xff\x01\x00\x00\x00"),
        ("a frame before HELLO", False, codec.encode_header(codec.GoAway("hello", 0))),
        (HARMLESS, False, bytes(spoiled)),
        ("noise after HELLO", True, noise),
        (CUT, True, _call(1, "x")[:-3]),
        ("a call whose number does not rise", True, _call(0, "x")),
    ):
        stream = await trio.open_unix_socket(f"{fleet.folder}/gateway.sock")
        async with stream:
            with trio.move_on_after(PATIENCE) as limit, suppress(trio.BrokenResourceError):
                if introduced:
                    await introduce(stream)
                await stream.send_all(data)
                while what not in {HARMLESS, CUT} and await stream.receive_some():
                    pass
            if limit.cancelled_caught:
                fleet.judge.complain(f"the gateway kept a connection that sent {what}")


async def flood(fleet: Fleet, number: int, hold: float) -> None:
    """Ask for far more than is read: for so many seconds nothing, then all that was kept."""
    life = f"{FLOOD}.{number}"
    fleet.open_journal(life, FLOOD, FLOOD, is_flood=True)
    stream = await trio.open_unix_socket(f"{fleet.folder}/gateway.sock")
    async with stream:
        connection = await introduce(stream)
        since = time.monotonic()
        with trio.move_on_after(hold):  # it may be that the gateway does not read this much
            for call in range(1, CALLS + 1):
                await stream.send_all(_call(call, life))
            await trio.sleep_forever()
        answers = held = 0
        codes: dict[int, str] = {}
        ledger = fleet.judge.ledger
        is_quiet = False
        while not is_quiet:
            is_quiet = True
            with trio.move_on_after(QUIET):
                data = await stream.receive_some()
                is_quiet = not data
                held += len(data)
                for kind, flags, header, _ in connection.receive(bytes(data)):
                    if kind == Kind.ERROR:
                        codes[header.call_id] = str(Code.from_number(header.code))
                    if kind in {Kind.RESULT, Kind.ERROR} and not flags & MORE:
                        answers += 1
                        code = codes.get(header.call_id, str(Code.OK))
                        ledger.flooded(FLOOD, TARGET, since, time.monotonic(), code)
        for _ in range(CALLS - answers):
            ledger.flooded(FLOOD, TARGET, since, time.monotonic(), "")
        fleet.floods.append(time.monotonic())
        if answers < CALLS // 2 or held < REPLY:
            fleet.judge.complain(
                f"a flood of {CALLS} calls got {answers} answers of {held:,} bytes in all"
            )


def _call(number: int, life: str) -> bytes:
    params = {"id": f"{life}:{number}", "kind": FLOOD, "payload": b"", "reply": REPLY,
              "pause": 0, "then": []}  # fmt: skip
    header = (
        number, 0, 0, 10_000_000, zlib.crc32(life.encode()).to_bytes(16, "big"), bytes(8), 3, 1,
        *TARGET.split("."), MSGPACK, 0, None, None, None, None, None, None,
    )  # fmt: skip
    return codec.encode(Kind.CALL, header, encode(params))
