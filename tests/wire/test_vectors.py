"""The specification, its vectors and the code agree.

The vectors are made without `mesh.wire`, and decoded here with `msgpack` as well, so that two
implementations stand behind each.
"""

from __future__ import annotations

import json
import re
import runpy
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import msgspec
import pytest

import mesh.wire
from mesh.errors import CODES, RemoteProtocolError
from mesh.limits import Limits
from mesh.wire import CONTINUED, MORE, Connection, Kind, Role, State, codec
from mesh.wire.connection import _LEGAL

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).parent
MAKER: dict[str, Any] = runpy.run_path(str(HERE / "make_vectors.py"))
SPECIFICATION = Path(mesh.wire.__file__).with_name("PROTOCOL.md").read_text(encoding="utf-8")

# Which end receives a kind that only one of them may receive.
_TO_PEER = {Kind.WELCOME, Kind.KEEP, Kind.EVENT}


def revive(value: Any) -> Any:
    """A header's value from the JSON of the vectors."""
    if isinstance(value, dict):
        if value.keys() == {"$bytes"}:
            return bytes.fromhex(value["$bytes"])
        if value.keys() == {"$int"}:
            return int(value["$int"])
        return {key: revive(item) for key, item in value.items()}
    if isinstance(value, list):
        return [revive(item) for item in value]
    return value


def vectors(name: str) -> list[Any]:
    found: list[Any] = json.loads((HERE / "vectors" / name).read_text(encoding="utf-8"))
    return [pytest.param(vector, id=vector["name"]) for vector in found]


def receiver(kind: Kind, limits: Limits | None = None) -> Connection:
    """A connection that may receive this kind now."""
    role = Role.PEER if kind in _TO_PEER else Role.GATEWAY
    connection = Connection(role, limits or Limits())
    if kind not in {Kind.HELLO, Kind.WELCOME}:
        connection.open()
    return connection


def unpack(frame: bytes) -> Any:
    """The header of a frame, by the other implementation."""
    size = struct.unpack_from(">H", frame, 6)[0]
    return msgpack.unpackb(frame[8 : 8 + size], strict_map_key=True)


@pytest.mark.parametrize("name", ["frames.json", "lenient.json", "messages.json", "malformed.json"])
def test_vector_file_is_current(name: str) -> None:
    """Else run ``python tests/wire/make_vectors.py``."""
    assert (HERE / "vectors" / name).read_text(encoding="utf-8") == MAKER["documents"]()[name]


def test_no_vector_file_is_left_over() -> None:
    assert {path.name for path in (HERE / "vectors").iterdir()} == set(MAKER["documents"]())


@pytest.mark.parametrize("vector", vectors("frames.json"))
def test_frame(vector: dict[str, Any]) -> None:
    """The fields encode to the frame; the frame decodes to the fields, here and by `msgpack`."""
    kind = Kind[vector["kind"]]
    assert kind == vector["kind_number"]
    header, payload = revive(vector["header"]), bytes.fromhex(vector["payload"])
    wire = bytes.fromhex(vector["frame"])
    cls = codec.HEADERS[kind]

    assert tuple(header) == cls.__struct_fields__[: len(header)]
    assert codec.encode(kind, tuple(header.values()), payload, vector["flags"]) == wire
    if cls is not codec.Reference and len(header) == len(cls.__struct_fields__):
        assert codec.encode_header(cls(*header.values()), payload) == wire
    assert list(receiver(kind).receive(wire)) == [(kind, 0, cls(*header.values()), payload)]
    assert unpack(wire) == list(header.values())


def test_every_kind_has_a_vector() -> None:
    found = json.loads((HERE / "vectors" / "frames.json").read_text(encoding="utf-8"))
    assert {vector["kind"] for vector in found} == {kind.name for kind in Kind}


@pytest.mark.parametrize("vector", vectors("lenient.json"))
def test_lenient_frame(vector: dict[str, Any]) -> None:
    """What a later version or another encoder sends is understood or skipped."""
    wire, expected = bytes.fromhex(vector["frame"]), vector["expected"]
    if expected is None:
        assert list(receiver(Kind.CANCEL).receive(wire)) == []
        return
    kind = Kind[expected["kind"]]
    header = revive(expected["header"])
    [frame] = receiver(kind).receive(wire)
    assert frame[0] == kind
    assert frame[2:] == (
        codec.HEADERS[kind](*header.values()),
        bytes.fromhex(expected["payload"]),
    )
    assert unpack(wire)[: len(header)] == list(header.values())


@pytest.mark.parametrize("vector", vectors("messages.json"))
def test_message(vector: dict[str, Any]) -> None:
    """A long message is cut into these frames, and these frames hold all of it."""
    kind = Kind[vector["kind"]]
    header, payload = revive(vector["header"]), bytes.fromhex(vector["payload"])
    limits = Limits(**vector["limits"])
    frames = [bytes.fromhex(frame["frame"]) for frame in vector["frames"]]

    chunks = codec.chunks(kind, tuple(header.values()), payload, limits.max_chunk)
    assert list(map(b"".join, chunks)) == frames

    received = list(receiver(kind, limits).receive(b"".join(frames)))
    assert [flags for _, flags, _, _ in received] == [f["flags"] for f in vector["frames"]]
    assert [piece.hex() for *_, piece in received] == [f["payload"] for f in vector["frames"]]
    assert b"".join(piece for *_, piece in received) == payload
    assert received[0][2] == codec.HEADERS[kind](*header.values())
    for frame, (_, flags, further, _) in zip(frames[1:], received[1:], strict=True):
        assert flags & CONTINUED
        assert further == codec.Reference(header["call_id"])
        assert unpack(frame) == [header["call_id"]]
    assert [bool(flags & MORE) for _, flags, _, _ in received][-2:] == [True, False]


@pytest.mark.parametrize("vector", vectors("malformed.json"))
def test_malformed_frame(vector: dict[str, Any]) -> None:
    """It is refused with a message that names the fault, and nothing after it is taken."""
    connection = Connection(Role(vector["role"]), Limits(**vector["limits"]))
    if vector["state"] == "open":
        connection.open()
    elif vector["state"] == "closed":
        connection.close()
    with pytest.raises(RemoteProtocolError) as caught:
        list(connection.receive(bytes.fromhex(vector["frame"])))
    assert vector["fault"] in str(caught.value)
    assert connection.state is State.CLOSED


# The specification's tables.


def section(title: str) -> str:
    """The text below a heading, up to the next one of any level."""
    heading = rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)"
    found = re.search(heading, SPECIFICATION, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables in a text: rows of cells, without the head."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [
            [cell.strip() for cell in line.strip("|\n").split(" | ")] for line in block.split("\n")
        ]
        found.append([row for row in rows[2:] if row != [""]])
    return found


def kinds(names: Iterable[str]) -> set[str]:
    return {name for name in names if name != "nothing"}


def test_specified_kinds() -> None:
    [kind_table, encodings] = tables(section("Kinds"))
    assert {row[1]: int(row[0]) for row in kind_table} == {k.name: k.value for k in Kind}
    assert [int(row[0]) for row in encodings] == [codec.MSGPACK, codec.JSON, codec.RAW]
    for _, name, sender, _ in kind_table:
        receivers = {role for (role, _), legal in _LEGAL.items() if Kind[name] in legal}
        expected = {"peer": {Role.GATEWAY}, "gateway": {Role.PEER}, "both": set(Role)}[sender]
        assert receivers == expected, name


def test_specified_legality() -> None:
    [table] = tables(section("Life of a connection"))
    specified = {
        (Role(role), State(state)): kinds(legal.split(", ")) for role, state, legal in table
    }
    assert specified == {key: {kind.name for kind in legal} for key, legal in _LEGAL.items()}


def type_name(annotation: Any) -> str:
    """What the specification calls the type of a field."""
    match msgspec.inspect.type_info(annotation):
        case msgspec.inspect.UnionType(types=types):
            [one] = [kind for kind in types if not isinstance(kind, msgspec.inspect.NoneType)]
            return f"{_type_name(one)} or nil"
        case info:
            return _type_name(info)


def _type_name(info: msgspec.inspect.Type) -> str:
    inspect = msgspec.inspect
    match info:
        case inspect.IntType(ge=0):
            return "unsigned"
        case inspect.BytesType(min_length=low, max_length=high) if low == high:
            return f"bytes[{low}]"
        case inspect.StrType(pattern=codec.NAME_PATTERN):
            return "name"
        case inspect.StrType(max_length=128):
            return "activity"
        case inspect.StrType(max_length=257):
            return "hop"
        case inspect.StrType(max_length=codec.MAX_VERSION):
            return "version"
        case inspect.StrType():
            return "text"
        case inspect.ListType(item_type=item):
            return f"array of {_type_name(item)}"
        case inspect.DictType(value_type=value):
            return f"map of {_type_name(value)}"
        case inspect.UnionType():
            return "data"
    raise AssertionError(f"no name for {info}")


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_specified_fields(kind: Kind) -> None:
    """Each kind's table names the fields in their order, with their types."""
    cls = codec.HEADERS[kind]
    title = "ITEM, END, CREDIT" if cls is codec.Reference else kind.name
    rows = tables(section(title))[0]
    specified = [(row[0].strip("`"), row[1]) for row in rows]
    fields = msgspec.structs.fields(cls)
    assert specified == [(field.name, type_name(field.type)) for field in fields]
    optional = [row[0].strip("`") for row in rows if row[2].startswith("optional: ")]
    assert optional == [field.name for field in fields if not field.required]


def test_specified_options() -> None:
    options = {row[1]: int(row[0]) for row in tables(section("CALL"))[1]}
    assert options == {
        "DETACHED": codec.DETACHED,
        "IDEMPOTENT": codec.IDEMPOTENT,
        "UNVERIFIED": codec.UNVERIFIED,
        "FORCED": codec.FORCED,
    }


def test_specified_status_codes() -> None:
    codes = {int(row[0]): row[1] for row in tables(section("ERROR"))[1]}
    assert codes == {number: str(code) for number, code in enumerate(CODES)}


def test_specified_flags() -> None:
    [flags] = tables(section("Flags"))
    assert {row[1]: int(row[0], 16) for row in flags} == {"MORE": MORE, "CONTINUED": CONTINUED}


def test_specified_limits() -> None:
    """The defaults are those of `mesh.limits`, in microseconds where they are times."""
    for row in tables(section("WELCOME"))[1]:
        name, default = row[0].strip("`"), int(row[1].replace(",", ""))
        if name == "call_timeout_us":
            assert default == Limits().call_timeout * 1e6
        elif name == "max_requires":
            assert default == 0, "as gateways have it that do not say"
        elif name.endswith("_us"):
            assert default == getattr(Limits(), name.removesuffix("_us")) * 1e6, name
        else:
            assert default == getattr(Limits(), name), name


def test_worked_example() -> None:
    """The example in hex is the vector that it says it is."""
    found = re.search(r"```hex\n(.*?)```", SPECIFICATION, re.DOTALL)
    assert found is not None
    lines = [line.partition("   ")[0] for line in found[1].splitlines()]
    [vector] = [v for v in MAKER["frames"]() if v["name"] == "call-entry"]
    assert bytes.fromhex("".join(lines)).hex() == vector["frame"]
