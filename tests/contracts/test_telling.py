"""Contracts in short: types from schemas, of our own making and of anybody's."""

from __future__ import annotations

import enum
from abc import abstractmethod
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mesh
from mesh.contracts.contract import info_of
from mesh.contracts.exact import schemas_of
from mesh.contracts.schema import describe
from mesh.contracts.telling import Shape, error_shape, method_shape, type_shapes, type_text

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class User:
    id: str
    email: str | None = None


class Page(msgspec.Struct, Generic[T]):
    items: list[T]
    further: int = 0


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    age: int


class Row(TypedDict):
    a: int
    b: NotRequired[str]


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class UserMissing(mesh.NotFound):
    """No user {user_id}."""

    user_id: str


class Users(mesh.Contract, name="users", version="1.2.0"):
    @mesh.method(raises=[UserMissing])
    @abstractmethod
    async def get(
        self, user_id: str, *, deep: bool = False, colour: Colour = Colour.RED
    ) -> Page[User]: ...

    @mesh.method(raises=[UserMissing])
    @abstractmethod
    async def paint(self, cat: Cat | Dog, row: Row) -> None: ...


DOCUMENT = describe(info_of(Users))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (float, "float"),
        (bool, "bool"),
        (str, "str"),
        (None, "None"),
        (bytes, "bytes"),
        (Any, "Any"),
        (date, "date"),
        (timedelta, "timedelta"),
        (Annotated[datetime, msgspec.Meta(tz=True)], "datetime"),
        (UUID, "UUID"),
        (Decimal, "Decimal"),
        (int | None, "int | None"),
        (int | str | None, "int | str | None"),
        (list, "list"),
        (list[int], "list[int]"),
        (list[list[str] | None], "list[list[str] | None]"),
        (set[int], "set[int]"),
        (frozenset[str], "set[str]"),
        (tuple[int, str], "tuple[int, str]"),
        (tuple[int, ...], "list[int]"),
        (dict, "dict"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (Literal["a", "b"], "Literal['a', 'b']"),
        (Literal[1, 2, 3, 4, 5, 6, 7], "Literal[1, 2, 3, 4, 5, 6, ...]"),
        (Annotated[int, msgspec.Meta(ge=1)], "int >= 1"),
        (Annotated[int, msgspec.Meta(ge=1, le=9)], "int 1..9"),
        (Annotated[int, msgspec.Meta(ge=0, multiple_of=5)] | None, "int >= 0 by 5 | None"),
        (Annotated[float, msgspec.Meta(gt=0, le=1)], "float > 0 <= 1"),
        (
            Annotated[str, msgspec.Meta(min_length=1, max_length=3, pattern="^a")],
            "str of 1..3 ~ '^a'",
        ),
        (Annotated[str, msgspec.Meta(min_length=2, max_length=2)], "str of 2"),
        (Annotated[bytes, msgspec.Meta(max_length=9)], "bytes of <= 12 in base64"),
        (list[Annotated[list[int], msgspec.Meta(min_length=1)]], "list[list[int] of >= 1]"),
        (Annotated[dict[str, int], msgspec.Meta(max_length=3)], "dict[str, int] of <= 3"),
        (datetime, "datetime"),
        (Annotated[datetime, msgspec.Meta(tz=False)], "datetime"),
        (time, "time"),
        (Annotated[time, msgspec.Meta(tz=False)], "time"),
        (User, "User"),
        (Page[User], "Page[User]"),
        (Colour, "Colour"),
        (Row, "Row"),
        (Cat | Dog, "Cat | Dog"),
        (list[User], "list[User]"),
    ],
    ids=str,
)
def test_a_type_is_told_as_python_writes_it(kind: Any, text: str) -> None:
    [schema], kinds = schemas_of([kind])
    assert type_text(schema, kinds) == text


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (None, "Any"),
        (True, "Any"),
        ({"type": "strange"}, "Any"),
        ({"const": 5}, "Literal[5]"),
        ({"type": ["string", "null"]}, "str | None"),
        ({"oneOf": [{"type": "string"}, {"type": "string"}]}, "str"),
        ({"anyOf": []}, "Any"),
        ({"$ref": "other.json#/definitions/Thing"}, "Thing"),
        ({"type": "string", "format": "email"}, "str"),
        ({"enum": ["x" * 100]}, "Literal[...]"),
        ({"type": "integer", "minimum": "1", "maximum": True}, "int"),
        ({"type": "string", "minLength": {}, "pattern": "x" * 100}, "str ~ ..."),
    ],
)
def test_schemas_of_other_makers_are_told_as_well_as_may_be(schema: Any, text: str) -> None:
    assert type_text(schema, {}) == text


def test_methods_that_share_an_error_or_are_called_like_a_type_are_described_each() -> None:
    @dataclass
    class find:  # noqa: N801 - as a method is called
        text: str

    class Finder(mesh.Contract, name="finder", version="1.0.0"):
        @mesh.method(raises=[UserMissing])
        @abstractmethod
        async def find(self, what: find) -> list[find]: ...

        @mesh.method(raises=[UserMissing])
        @abstractmethod
        async def own_0(self) -> None: ...

    document = describe(info_of(Finder))
    methods = document["methods"]
    assert [str(method_shape(name, methods[name], document)) for name in methods] == [
        "find(what: find) -> list[find]",
        "own_0() -> None",
    ]
    assert methods["find"]["errors"] == methods["own_0"]["errors"]
    assert list(document["$defs"]) == ["find"]


def test_methods_errors_and_types_of_a_contract() -> None:
    methods = DOCUMENT["methods"]
    assert [str(method_shape(name, methods[name], DOCUMENT)) for name in methods] == [
        "get(user_id: str, *, deep: bool = False, colour: Colour = 'red') -> Page[User]",
        "paint(cat: Cat | Dog, row: Row) -> None",
    ]
    [(reason, error)] = methods["get"]["errors"].items()
    told = str(error_shape(reason, error, DOCUMENT))
    assert told == "raises USER_MISSING(user_id: str): not_found"
    assert list(map(str, type_shapes(DOCUMENT))) == [
        "Cat(type: Literal['Cat'], name: str)",
        "Colour = Literal['blue', 'red']",
        "Dog(type: Literal['Dog'], age: int)",
        "Page[User](items: list[User], further: int = 0)",
        "Row(a: int, b: str = ...)",
        "User(id: str, email: str | None = None)",
    ]


def test_a_shape_that_is_too_long_has_a_line_for_each_field() -> None:
    shape = Shape("get", ["user_id: str", "deep: bool = False"], " -> User")
    whole = "get(user_id: str, deep: bool = False) -> User"
    assert shape.lines(len(whole)) == [whole]
    assert shape.lines(len(whole) - 1) == [
        "get(",
        "    user_id: str,",
        "    deep: bool = False,",
        ") -> User",
    ]
    assert Shape("a_name_without_parameters", [], " -> None").lines(5) == [
        "a_name_without_parameters() -> None"
    ]


WORDS = st.sampled_from(
    [
        *("type", "$ref", "$defs", "properties", "required", "enum", "anyOf", "items", "title"),
        *("prefixItems", "object", "string", "array", "default", "methods", "params", "errors"),
        "keywords",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=30,
)


@given(st.dictionaries(WORDS, JSON, max_size=6))
def test_no_document_is_too_odd_to_be_told(document: dict[str, Any]) -> None:
    assert isinstance(str(method_shape("m", document, document)), str)
    assert isinstance(str(error_shape("R", document, document)), str)
    assert all(isinstance(str(one), str) for one in type_shapes(document))
    assert isinstance(type_text(document, document), str)


@pytest.mark.parametrize("types", [["array"] * 4, ["array", ["array"], "array"], ["array", "null"]])
def test_what_lists_of_types_hold_is_told_once(types: list[Any]) -> None:
    """Else 1 KB of schema would be a text of gigabytes."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(19):
        schema = {"type": types, "items": schema}
    assert len(type_text(schema, {})) < 1000


def test_a_long_name_is_told_in_short_each_time() -> None:
    schema = {"prefixItems": [{"$ref": "#/$defs/a"}] * 100, "type": "array"}
    for kinds in ({"a": {"title": "a" * 10_000}}, {}):
        schema["prefixItems"] = [{"$ref": "#/$defs/" + "a" * (1 if kinds else 10_000)}] * 100
        assert len(type_text(schema, kinds)) < 10_000
    assert len(type_text({"type": "object", "title": "a" * 10_000}, {})) < 100


class Level(enum.Enum):
    """Takes other values, too."""

    LOW = 1
    HIGH = 2

    @classmethod
    def _missing_(cls, value: object) -> Level:  # noqa: ARG003 - enum's signature
        return cls.HIGH


class Month(enum.Enum):
    JAN, FEB, MAR, APR, MAY, JUN, JUL, AUG, SEP, OCT, NOV, DEC = range(1, 13)


def test_an_enumeration_is_told_whole_where_it_is_defined() -> None:
    _, kinds = schemas_of([Month, Level])
    listed = ", ".join(map(str, range(1, 13)))
    assert type_shapes({"$defs": kinds}) == [
        "Level = Literal[1, 2, ...]",
        f"Month = Literal[{listed}]",
    ]


def test_a_set_s_default_is_told_as_one() -> None:
    tags = {"type": "array", "uniqueItems": True, "items": {}, "default": []}
    told = str(method_shape("put", {"params": {"properties": {"tags": tags}}}, {}))
    assert told == "put(tags: set[Any] = set()) -> Any"
