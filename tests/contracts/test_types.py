"""Every type that a contract may name goes there and back, typed on both sides and on one alone."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
import typing
from abc import abstractmethod
from decimal import Decimal
from operator import or_
from types import GenericAlias
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mesh
from mesh.contracts.contract import info_of
from mesh.contracts.failures import read_errors, restore
from mesh.contracts.schema import describe
from mesh.implementing import ContractHandler
from mesh.payload import decode, decode_details, encode, encode_details
from mesh.wire.codec import JSON, MSGPACK

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Box(msgspec.Struct, Generic[T]):
    it: T


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]
    following: T | None = None


BOX: Any = Box
PAGE: Any = Page
"""As values, which mypy does not let generic classes be."""


class Cat(msgspec.Struct, tag=True):
    lives: int = 9


class Dog(msgspec.Struct, tag=True):
    name: str


class Typed(NamedTuple):
    """A type, and its values."""

    annotation: Any
    values: st.SearchStrategy[Any]


INT = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text()
SCALARS = [
    Typed(bool, st.booleans()),
    Typed(int, INT),
    Typed(float, st.floats(allow_nan=False, allow_infinity=False)),
    Typed(str, TEXT),
    Typed(bytes, st.binary()),
    Typed(type(None), st.none()),
    Typed(Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    Typed(UUID, st.uuids()),
    Typed(dt.datetime, st.datetimes(timezones=st.sampled_from([dt.UTC, None]))),
    Typed(dt.date, st.dates()),
    Typed(dt.time, st.times()),
    Typed(dt.timedelta, st.timedeltas(dt.timedelta(-100), dt.timedelta(100))),
    Typed(Colour, st.sampled_from(Colour)),
    Typed(Size, st.sampled_from(Size)),
    Typed(Literal["a", "b"], st.sampled_from(["a", "b"])),
    Typed(int | str, INT | TEXT),
    Typed(Cat | Dog, st.builds(Cat, INT) | st.builds(Dog, TEXT)),
    Typed(set[int], st.sets(INT, max_size=5)),
    Typed(frozenset[str], st.frozensets(TEXT, max_size=5)),
    Typed(dict[int, str], st.dictionaries(INT, TEXT, max_size=5)),
    Typed(dict[UUID, int], st.dictionaries(st.uuids(), INT, max_size=5)),
]
_number = itertools.count()


def _containers(parts: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    both = st.tuples(parts, parts)
    made = st.sampled_from([_dataclass, _struct, _named])
    alone = st.sampled_from([_list, _tuple, _dict, _optional, _box, _page])
    return st.one_of(
        st.tuples(alone, parts).map(lambda drawn: drawn[0](drawn[1])),
        both.map(_pair),
        both.map(_typed_dict),
        st.tuples(made, both).map(
            lambda drawn: _made(drawn[0](*(part.annotation for part in drawn[1])), *drawn[1])
        ),
    )


def _list(part: Typed) -> Typed:
    return Typed(GenericAlias(list, part.annotation), st.lists(part.values, max_size=4))


def _tuple(part: Typed) -> Typed:
    values = st.lists(part.values, max_size=4).map(tuple)
    return Typed(GenericAlias(tuple, (part.annotation, ...)), values)


def _dict(part: Typed) -> Typed:
    values = st.dictionaries(TEXT, part.values, max_size=4)
    return Typed(GenericAlias(dict, (str, part.annotation)), values)


def _optional(part: Typed) -> Typed:
    return Typed(or_(part.annotation, None), st.none() | part.values)


def _box(part: Typed) -> Typed:
    return Typed(BOX[part.annotation], st.builds(Box, part.values))


def _page(part: Typed) -> Typed:
    values = st.builds(Page, st.lists(part.values, max_size=3), st.none() | part.values)
    return Typed(PAGE[part.annotation], values)


def _pair(parts: tuple[Typed, Typed]) -> Typed:
    kinds = parts[0].annotation, parts[1].annotation
    return Typed(GenericAlias(tuple, kinds), st.tuples(parts[0].values, parts[1].values))


def _made(kind: Any, first: Typed, second: Typed) -> Typed:
    return Typed(kind, st.builds(kind, first.values, second.values))


def _dataclass(first: Any, second: Any) -> Any:
    return dataclasses.make_dataclass(f"Data{next(_number)}", [("a", first), ("b", second)])


def _struct(first: Any, second: Any) -> Any:
    return msgspec.defstruct(f"Struct{next(_number)}", [("a", first), ("b", second)])


def _named(first: Any, second: Any) -> Any:
    return NamedTuple(f"Named{next(_number)}", [("a", first), ("b", second)])


def _typed_dict(parts: tuple[Typed, Typed]) -> Typed:
    name = f"Dict{next(_number)}"
    fields = {"a": parts[0].annotation, "b": parts[1].annotation}
    kind = typing.TypedDict(name, fields)  # type: ignore[misc]
    return Typed(kind, st.fixed_dictionaries({"a": parts[0].values, "b": parts[1].values}))


TYPES = st.recursive(st.sampled_from(SCALARS), _containers, max_leaves=5)


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[Any, Any]:
    typed = draw(TYPES)
    return typed.annotation, draw(typed.values)


def contract_of(annotation: Any) -> Any:
    async def get(self: Any, it: Any) -> Any: ...

    get.__annotations__ = {"it": annotation, "return": annotation}
    body = {"get": mesh.method(abstractmethod(get))}
    kind: Any = type(mesh.Contract)
    return kind("Any", (mesh.Contract,), body, name="any", version="1.0.0")


def served(contract: Any, payload: bytes, encoding: int) -> bytes:
    """What an implementation that returns what it got answers to these bytes."""
    seen: list[Any] = []

    async def get(it: Any) -> Any:
        seen.append(it)
        return it

    info = info_of(contract)
    handler = ContractHandler(info, info.methods["get"], get)
    work = handler.function(decode(payload, encoding, handler.params_type))
    with pytest.raises(StopIteration) as ended:
        work.send(None)
    return handler.encode(ended.value.value, encoding)


@pytest.mark.parametrize("encoding", [MSGPACK, JSON])
@given(typed_values())
def test_what_is_sent_typed_arrives_and_returns_typed(encoding: int, sent: tuple[Any, Any]) -> None:
    annotation, value = sent
    contract = contract_of(annotation)
    params = info_of(contract).methods["get"].signature.params(it=value)
    answer = served(contract, encode(params, encoding), encoding)
    returned = decode(answer, encoding, annotation)
    assert returned == value
    assert type(returned) is type(value)


@pytest.mark.parametrize("encoding", [MSGPACK, JSON])
@given(typed_values())
def test_a_caller_without_the_contract_sends_and_gets_the_same_as_plain_data(
    encoding: int, sent: tuple[Any, Any]
) -> None:
    annotation, value = sent
    plain = decode(encode(value, encoding), encoding)
    answer = served(contract_of(annotation), encode({"it": plain}, encoding), encoding)
    assert decode(answer, encoding, annotation) == value
    assert _unordered(decode(answer, encoding)) == _unordered(plain)


def _unordered(plain: Any) -> Any:
    """Plain data without the order of its lists, which of a set is by chance."""
    if isinstance(plain, list):
        return sorted((_unordered(part) for part in plain), key=repr)
    if isinstance(plain, dict):
        return {key: _unordered(part) for key, part in plain.items()}
    return plain


@given(typed_values())
def test_a_declared_error_keeps_its_fields(sent: tuple[Any, Any]) -> None:
    annotation, value = sent
    kind = dataclasses.make_dataclass("Broken", [("it", annotation)], bases=(mesh.NotFound,))
    declared = read_errors("here", [kind])
    details = decode_details(encode_details(kind(value)), MSGPACK)
    told = restore(mesh.NotFound(reason="BROKEN", details=details), declared)
    assert type(told) is kind
    assert told.it == value  # type: ignore[attr-defined]


@given(TYPES)
def test_every_type_has_a_schema(typed: Typed) -> None:
    told = describe(info_of(contract_of(typed.annotation)))
    assert set(told["methods"]["get"]["params"]["properties"]) == {"it"}
    msgspec.json.encode(told)
