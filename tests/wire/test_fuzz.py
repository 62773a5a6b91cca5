"""Mutated bytes give frames or a `RemoteProtocolError`, nothing else, in bounded memory.

The seed files in `corpus/` are mutated by a random source that is itself seeded, so that a failing
run names all that is needed to see it again: its seed, the bytes in hex, and a line that adds them
to the corpus, where every file is tried in every run.

``MESH_FUZZ_RUNS=2000000 pytest tests/wire/test_fuzz.py`` tries longer, and ``MESH_FUZZ_SEED=NAME``
tries other mutations than the usual ones.
"""

from __future__ import annotations

import os
import random
import runpy
import struct
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from mesh.errors import RemoteProtocolError
from mesh.limits import Limits
from mesh.wire import Connection, Frame, Kind, Role, State, codec
from mesh.wire.frames import CONTINUED, MAX_HEADER, PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HERE = Path(__file__).parent
CORPUS = {path.name: path.read_bytes() for path in sorted((HERE / "corpus").iterdir())}
RUNS = int(os.environ.get("MESH_FUZZ_RUNS", "80000"))
SEED = os.environ.get("MESH_FUZZ_SEED", "spanmesh")
SHARES = 4  # that parallel test runs can work on at the same time

SMALL = Limits(max_header=600, max_chunk=64)
USUAL = Limits()

whole_again = codec.decoders  # as it was imported: a test below breaks it

LENGTHS = (0, 1, 3, 4, 5, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# Bytes that mean much in MessagePack: collections, lengths, extensions, the invalid one, nil.
TELLING = bytes.fromhex("8090a0c0c1c2c3c4c6c7c9cacbcccfd0d3d4d8d9dbdcdddedf7f80ff00")


def mutate(data: bytes, source: random.Random) -> bytes:
    """A few changes of the kinds that break parsers."""
    mutated = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 3, 8))):
        at = source.randrange(len(mutated) + 1)
        match source.randrange(9):
            case 0:  # flip a bit
                if at < len(mutated):
                    mutated[at] ^= 1 << source.randrange(8)
            case 1:  # a telling byte
                if at < len(mutated):
                    mutated[at] = source.choice(TELLING)
            case 2:  # insert
                mutated[at:at] = source.randbytes(source.randrange(1, 12))
            case 3:  # insert what means much
                mutated[at:at] = bytes([source.choice(TELLING)]) * source.choice((1, 2, 50, 500))
            case 4:  # remove
                del mutated[at : at + source.randrange(1, 12)]
            case 5:  # repeat a piece
                piece = mutated[at : at + source.randrange(1, 200)]
                mutated[at:at] = piece * source.choice((1, 2, 20))
            case 6:  # cut off
                del mutated[at:]
            case 7:  # splice with another seed
                other = CORPUS[source.choice(list(CORPUS))]
                mutated[at:] = other[source.randrange(len(other) + 1) :]
            case _:  # edit a prefix, where frames really begin
                edit_prefix(mutated, source)
    return bytes(mutated)


def edit_prefix(data: bytearray, source: random.Random) -> None:
    """Change a length, a kind or flags of one of the frames."""
    starts = []
    at = 0
    while at + PREFIX.size <= len(data):
        starts.append(at)
        at += 4 + struct.unpack_from(">I", data, at)[0]
    if not starts:
        return
    at = source.choice(starts)
    match source.randrange(4):
        case 0:
            near = max(0, struct.unpack_from(">I", data, at)[0] + source.randrange(-9, 10))
            length = source.choice((near, source.choice(LENGTHS)))
            struct.pack_into(">I", data, at, min(length, 2**32 - 1))
        case 1:
            data[at + 4] = source.choice((source.randrange(20), source.randrange(256)))
        case 2:
            data[at + 5] = source.choice((1, 2, 3, source.randrange(256)))
        case _:
            near = max(0, struct.unpack_from(">H", data, at + 6)[0] + source.randrange(-9, 10))
            length = source.choice((near, source.choice(LENGTHS)))
            struct.pack_into(">H", data, at + 6, min(length, 0xFFFF))


def drive(
    role: Role, state: State, limits: Limits, pieces: Iterable[bytes]
) -> tuple[list[Frame], str | None]:
    """What a connection makes of the bytes: frames, and the fault if there is one.

    It opens by itself after its first frame. Whatever it holds is within the limits at any time.
    """
    connection = Connection(role, limits)
    if state is State.OPEN:
        connection.open()
    max_header = MAX_HEADER if role is Role.PEER else limits.max_header
    longest = PREFIX.size + max_header + limits.max_chunk
    found: list[Frame] = []
    fault: str | None = None
    for piece in pieces:
        try:
            for frame in connection.receive(piece):
                found.append(frame)
                if connection.state is State.HANDSHAKE:
                    connection.open()
        except RemoteProtocolError as raised:
            before, fault = fault, str(raised)
            assert before in {None, fault}, "a fault changed"
            assert connection.state is State.CLOSED
            assert connection.buffered == 0
        else:
            assert fault is None, "a fault was forgotten"
        assert connection.buffered < longest
    for _, _, _, payload in found:
        assert len(payload) <= limits.max_chunk
    return found, fault


def canonical(frames: list[Frame]) -> bytes:
    """Something to compare by that takes NaN and extension types as equal to themselves."""
    return msgspec.msgpack.encode(frames)


def judge(data: bytes, source: random.Random) -> int:
    """Try the bytes at both ends, whole and cut; returns how many frames came out.

    Raises:
        Exception: Anything raised here is a finding.
    """
    points = sorted(source.randrange(len(data) + 1) for _ in range(source.randrange(1, 9)))
    pieces = [data[start:stop] for start, stop in pairwise([0, *points, len(data)])]
    came = 0
    for role in Role:
        state = source.choice((State.HANDSHAKE, State.OPEN))
        limits = source.choice((SMALL, USUAL))
        whole, fault = drive(role, state, limits, [data])
        in_pieces, fault_in_pieces = drive(role, state, limits, pieces)
        assert fault_in_pieces == fault, "cuts change the fault"
        assert canonical(in_pieces) == canonical(whole), "cuts change the frames"
        assert len(whole) * PREFIX.size <= len(data)
        assert fault is None or 0 < len(fault) < 1000
        came += len(whole)
        for kind, flags, header, payload in whole:
            if kind == Kind.REGISTER:
                continue  # its options may hold what `msgpack` does not encode
            again = codec.encode(kind, msgspec.structs.astuple(header), payload, flags)
            length, _, _, size = PREFIX.unpack_from(again)
            assert length + 4 == len(again)
            packed = again[8 : 8 + size]
            if flags & CONTINUED:
                assert codec.decode(kind, flags, packed) == header
            else:
                assert whole_again[kind](packed) == header
    return came


def explain(data: bytes, seed: str) -> str:
    """All that it takes to see a finding again, and to keep it."""
    name = f"found-{zlib.crc32(data):08x}.bin"
    return (
        f"seed {seed!r}, {len(data):,} bytes: {data.hex()}\n"
        "keep it, from the root of the repository, with\n"
        f"  python -c \"open('tests/wire/corpus/{name}', 'wb')"
        f".write(bytes.fromhex('{data.hex()}'))\""
    )


def attempt(
    data: bytes, seed: str, judgement: Callable[[bytes, random.Random], int] = judge
) -> int:
    """Judge one input; a finding is raised again with what reproduces it."""
    try:
        return judgement(data, random.Random(f"{seed} cuts"))
    except Exception as finding:
        raise AssertionError(
            f"{type(finding).__name__}: {finding}\n{explain(data, seed)}"
        ) from finding


@pytest.mark.parametrize("name", CORPUS)
def test_corpus(name: str) -> None:
    """Each file of the corpus, in several ways to cut it."""
    for index in range(20):
        attempt(CORPUS[name], f"{name} {index}")


def test_corpus_is_current() -> None:
    """The seed files are what `make_vectors.py` writes; the rest are findings."""
    made = runpy.run_path(str(HERE / "make_vectors.py"))["seeds"]()
    assert {name: data for name, data in CORPUS.items() if not name.startswith("found-")} == made


@pytest.mark.timeout(0 if RUNS > 200_000 else 120)
@pytest.mark.parametrize("share", range(SHARES))
def test_mutations(share: int) -> None:
    """Seed files, mutated; enough of them still hold frames for the fuzzer to reach the depths."""
    names = list(CORPUS)
    reached = 0
    runs = range(share, RUNS, SHARES)
    for run in runs:
        seed = f"{SEED} {run}"
        source = random.Random(seed)
        reached += attempt(mutate(CORPUS[source.choice(names)], source), seed) > 0
    assert reached > len(runs) // 10


def test_noise() -> None:
    """Bytes without any sense, and headers without any sense in frames that have it."""
    for run in range(RUNS // 20):
        seed = f"{SEED} noise {run}"
        source = random.Random(seed)
        attempt(source.randbytes(source.randrange(200)), seed)
        packed = source.choice((b"", b"\x92", b"\x94\xa1s\xa1v")) + bytes(
            source.choice(TELLING) if source.random() < 0.3 else source.randrange(256)
            for _ in range(source.randrange(60))
        )
        kind = source.randrange(18)
        attempt(
            PREFIX.pack(4 + len(packed), kind, source.choice((0, 0, 1, 2)), len(packed)) + packed,
            seed,
        )


def test_memory_is_bounded_by_what_was_read() -> None:
    """The most that a byte can become is an empty map in the options of a method."""
    source = random.Random(f"{SEED} memory")
    inputs = [mutate(data, source) for data in CORPUS.values() for _ in range(8)]
    options = b"\xdc\x70\x00" + b"\x80" * 0x7000
    packed = b"\x94\xa1s\xa1v\x81\xa1m\x81\xa1k" + options + b"\x80"
    inputs.append(PREFIX.pack(4 + len(packed), Kind.REGISTER, 0, len(packed)) + packed)
    inputs.append(codec.encode(Kind.CANCEL, (1, 1)) * 5000)
    for data in inputs:
        tracemalloc.start()
        try:
            found = drive(Role.GATEWAY, State.OPEN, USUAL, [data])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 100 * len(data) + 30_000, explain(data, "memory")
        del found


def test_a_finding_can_be_seen_again() -> None:
    """The report of a failing input has its bytes and a line that adds them to the corpus."""

    def broken(data: bytes, _source: random.Random) -> int:
        raise KeyError(len(data))

    with pytest.raises(AssertionError) as caught:
        attempt(b"\x00\xff\x10", "some seed", broken)
    report = str(caught.value)
    assert "KeyError: 3" in report
    assert "seed 'some seed', 3 bytes: 00ff10" in report
    assert "tests/wire/corpus/found-" in report
    assert "bytes.fromhex('00ff10')" in report


@pytest.mark.parametrize(
    "breakage",
    [
        pytest.param(lambda *_: 1 // 0, id="another exception"),
        pytest.param(lambda *_: codec.Reference(-1), id="a header that is none"),
    ],
)
def test_the_judge_finds_what_is_broken(
    breakage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that raises something else, or lets through what it must refuse, is found."""
    monkeypatch.setattr("mesh.wire.codec.decoders", dict.fromkeys(codec.decoders, breakage))
    with pytest.raises(AssertionError, match="seed 'broken'"):
        attempt(CORPUS["to-gateway-caller.bin"], "broken")


def test_the_same_seed_gives_the_same_mutation() -> None:
    data = CORPUS["to-peer-service.bin"]
    mutations = [mutate(data, random.Random("fixed")) for _ in range(3)]
    assert mutations[0] == mutations[1] == mutations[2] != data
