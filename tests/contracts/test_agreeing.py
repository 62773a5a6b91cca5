"""Types of contracts and of what implements them: which can be of the same values."""

from __future__ import annotations

import enum
import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Protocol, TypedDict, TypeVar

import msgspec
import pytest

import mesh
from mesh.contracts.agreeing import fits
from mesh.contracts.implementations import implemented
from mesh.handlers import is_async

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")
UserId = NewType("UserId", str)


@dataclass
class User:
    name: str


@dataclass
class Admin(User):
    level: int


class Row(msgspec.Struct):
    name: str


class Raw(TypedDict):
    name: str


class Named(Protocol):
    name: str


@dataclass
class Order:
    cents: int


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (int, int),
        (int, float),
        (bool, int),
        (str, str | None),
        (str, Any),
        (Any, str),
        (str, object),
        (str, T),
        (None, type(None)),
        (UserId, str),
        (str, UserId),
        (Annotated[int, msgspec.Meta(ge=1)], int),
        (int, Annotated[int, msgspec.Meta(ge=1)]),
        (Literal["a", "b"], str),
        (str, Literal["a"]),
        (str, Colour),
        (Admin, User),
        (Row, User),
        (Raw, User),
        (User, dict[str, Any]),
        (User, Named),
        (list[int], Sequence[int]),
        (Sequence[int], list[int]),
        (tuple[int, ...], list[int]),
        (list[int], list[int | str]),
        (dict[str, int], Mapping[str, int]),
        (dict, dict[str, int]),
        (bytearray, bytes),
        (int | str, float | str | None),
    ],
)
def test_what_may_be_right_fits(value: Any, place: Any) -> None:
    assert fits(value, place)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (str, int),
        (float, int),
        (str | None, str),
        (str, None),
        (str, User),
        (User, str),
        (Order, User),
        (list[str], list[int]),
        (dict[str, str], dict[str, int]),
        (list[str], str),
        (dict[str, str], list[str]),
        (str, bytes),
        (datetime, int),
        (Literal["a"], int),
        (Annotated[int, "much"], str),
        (UserId, int),
    ],
)
def test_what_cannot_be_right_does_not(value: Any, place: Any) -> None:
    assert not fits(value, place)


class Users(mesh.Contract, name="users", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def get(self, user_id: str, *, deep: bool = False) -> User: ...


async def _number(_: Any, user_id: int, *, deep: bool = False) -> User: ...  # type: ignore[empty-body]
async def _keyword(_: Any, user_id: str, *, deep: list[int]) -> User: ...  # type: ignore[empty-body]
async def _text(_: Any, user_id: str, *, deep: bool = False) -> str: ...  # type: ignore[empty-body]
async def _maybe(_: Any, user_id: str, *, deep: bool = False) -> User | None: ...


@mesh.in_thread
def _threaded(_: Any, user_id: str, *, deep: bool = False) -> Order: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_number, "parameter 'user_id' is str in the contract, int here"),
        (_keyword, "parameter 'deep' is bool in the contract, list[int] here"),
        (_text, "its result is User in the contract, str here"),
        (_maybe, "its result is User in the contract, "),
        (_threaded, "its result is User in the contract, Order here"),
    ],
)
def test_a_wrong_type_is_named(function: Any, told: str) -> None:
    kind: Any = type("UserService", (Users,), {"get": function})
    with pytest.raises(mesh.ContractError, match=r"^UserService\.get, of contract Users: ") as it:
        list(implemented(kind(), is_async))
    assert told in str(it.value)


async def _bare(_: Any, user_id, *, deep=False): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
async def _unknown(_: Any, user_id: Decimal, *, deep: Nowhere = False) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821
async def _wider(_: Any, user_id: str | int, *, deep: object = None) -> Admin: ...  # type: ignore[empty-body]


@functools.wraps(_number)
async def _converting(_: Any, user_id: str, *, deep: bool = False) -> Any:
    return await _number(_, int(user_id), deep=deep)


@pytest.mark.parametrize("function", [_bare, _unknown, _wider, _converting])
def test_types_that_are_not_known_or_wider_are_served(function: Any) -> None:
    kind: Any = type("UserService", (Users,), {"get": function})
    assert list(implemented(kind(), is_async))
