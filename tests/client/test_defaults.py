"""Decoded dataclasses have all their fields, wherever they are, as the constructed ones have."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Generic, NamedTuple, TypedDict, TypeVar, cast

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.defaults import completing
from mesh.payload import decode, encode, reader_of_params, readers_of
from mesh.wire.codec import JSON, MSGPACK

T = TypeVar("T")


@dataclass
class Line:
    sku: str
    quantity: int = 1
    price: Decimal = Decimal("1.50")
    tags: list[str] = field(default_factory=list)
    note: str = field(default="none", init=False)


@dataclass(frozen=True)
class Mark:
    name: str = "x"


@dataclass
class Gift(Line):
    wrapped: bool = True
    mark: Mark = Mark()


@dataclass(slots=True)
class Slotted:
    line: Line
    size: int = 3


@attrs.define(slots=False)
class Attrs:
    line: Line
    size: int = 3


@dataclass
class Tree:
    lines: list[Line]
    left: Tree | None = None
    more: dict[str, Tree] = field(default_factory=dict)


@dataclass
class Page(Generic[T]):
    items: list[T]
    at: int = 0


@dataclass
class Ring:
    inner: Ring | None = None
    size: int = 1

    def __post_init__(self) -> None:
        if self.inner is not None:
            self.inner.inner = self


@dataclass
class Folded:
    lines: list[Line] | None
    line: Line

    def __post_init__(self) -> None:
        self.lines = cast("Any", {"a": Line("a")})


class Box(msgspec.Struct, Generic[T]):
    it: T


class Card(msgspec.Struct, tag="card"):
    line: Line


class Invoice(msgspec.Struct, tag="invoice", array_like=True):
    lines: tuple[Line, ...] = ()


class Pair(NamedTuple):
    first: Line
    second: int


class Options(TypedDict, total=False):
    line: Line


BOX, PAGE = cast("Any", Box), cast("Any", Page)
LINES = st.builds(Line, st.text(max_size=3))
TREES = st.recursive(
    st.builds(Tree, st.lists(LINES, max_size=2)),
    lambda inner: st.builds(
        Tree, st.just([]), st.none() | inner, st.dictionaries(st.text(max_size=2), inner)
    ),
    max_leaves=4,
)
MARKS = st.builds(Mark)
VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Line, LINES),
    (Gift, st.builds(Gift, st.text(max_size=3))),
    (Line | None, LINES | st.none()),
    (Slotted, st.builds(Slotted, LINES)),
    (Attrs, st.builds(Attrs, LINES)),
    (Tree, TREES),
    (Page[Line], st.builds(Page, st.lists(LINES))),
    (PAGE[BOX[Line]], st.builds(Page, st.lists(st.builds(Box, LINES)))),
    (Card, st.builds(Card, LINES)),
    (Invoice, st.builds(Invoice, st.tuples(LINES))),
    (
        Annotated[list[Line], msgspec.Meta(max_length=9)] | int,
        st.lists(LINES, max_size=9) | st.integers(),
    ),
    (dict[str, list[Line]], st.dictionaries(st.text(max_size=2), st.lists(LINES))),
    (set[Mark], st.sets(MARKS)),
    (frozenset[Mark] | str, st.frozensets(MARKS) | st.text(max_size=2)),
    (tuple[int, Line], st.tuples(st.just(1), LINES)),
    (Pair, st.builds(Pair, LINES, st.just(1))),
    (Options, st.fixed_dictionaries({}, optional={"line": LINES})),
]


def _without_defaults(value: Any) -> Any:
    """Plain data of a value, as of a caller that leaves out what is at its default."""
    plain = msgspec.to_builtins(value)

    def strip(one: Any) -> Any:
        match one:
            case {"sku": sku}:
                return {"sku": sku}
            case {"lines": _} | {"items": _} | {"line": _}:
                kept = {name: strip(part) for name, part in one.items()}
                return {name: part for name, part in kept.items() if name not in {"size", "at"}}
            case {"name": "x"}:
                return {}
            case dict():
                return {name: strip(part) for name, part in one.items()}
            case list() | tuple():
                return list(map(strip, one))
        return one

    return strip(plain)


@pytest.mark.parametrize("encoding", [MSGPACK, JSON])
@pytest.mark.parametrize(("kind", "values"), VALUES, ids=[str(kind) for kind, _ in VALUES])
@settings(max_examples=30)
@given(data=st.data())
def test_what_is_decoded_is_encoded_as_what_was_constructed(
    encoding: int, kind: Any, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    value = data.draw(values)
    sent = encode(_without_defaults(value), encoding)
    read = decode(sent, encoding, kind)
    assert read == value
    assert decode(encode(read, encoding), encoding) == decode(encode(value, encoding), encoding)


PLAIN = msgspec.defstruct("PLAIN", [("it", int, 1)])


@pytest.mark.parametrize("kind", [int, list[int], Box[int], Any, dict[str, Any], PLAIN], ids=str)
def test_types_without_defaults_of_dataclasses_are_read_as_before(kind: Any) -> None:
    read = msgspec.msgpack.Decoder(kind).decode
    assert completing(read, kind) is read


def test_parameters_are_read_whole_and_results_that_are_checked_alone_are_not() -> None:
    sent = encode({"sku": "a"})
    assert "price" in vars(reader_of_params(Line)(sent))
    assert "price" not in vars(readers_of(Line)[MSGPACK](sent))


def test_what_a_class_makes_of_itself_stays() -> None:
    """A circle, and a field that is no longer of its type."""
    ring = decode(encode({"inner": {}}), MSGPACK, Ring)
    assert vars(ring)["size"] == vars(ring.inner)["size"] == 1
    assert ring.inner.inner is ring
    box = decode(encode({"lines": [{"sku": "a"}], "line": {"sku": "a"}}), MSGPACK, Folded)
    assert vars(box.line)["quantity"] == 1
    assert box.lines == {"a": Line("a")}
