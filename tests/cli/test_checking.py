"""What `mesh call` refuses and warns of by schemas: of contracts, and of anybody's."""

from __future__ import annotations

import enum
import time
from abc import abstractmethod
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta
from rich.console import Console

import mesh
from mesh.cli.checking import check_call
from mesh.cli.contract import print_contracts
from mesh.cli.making import TOLD
from mesh.cli.unknown import find_unknown, tell_unknown
from mesh.contracts.contract import info_of
from mesh.contracts.schema import describe

if TYPE_CHECKING:
    from mesh.contracts.contract import ContractInfo


# What schemas of others may be.


@pytest.mark.parametrize(
    "params",
    [
        {"$ref": "https://example.invalid/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#"},
        {"properties": 5},
        {"type": 7},
        {"type": "unknown"},
        {"patternProperties": {"(": {}}},
        "no schema",
    ],
    ids=str,
)
def test_a_schema_that_is_none_lets_calls_pass(params: Any) -> None:
    """The service itself will judge them; and nothing is fetched."""
    check_call("users", "get", {"a": {"b": 1}}, [{"methods": {"get": {"params": params}}}])


def test_a_call_that_one_of_several_contracts_allows_is_made() -> None:
    def contract(kind: str) -> dict[str, Any]:
        params = {"type": "object", "properties": {"user_id": {"type": kind}}}
        return {"methods": {"get": {"params": params}}}

    both = [contract("integer"), contract("string")]
    check_call("users", "get", {"user_id": "x"}, both)
    check_call("users", "get", {"user_id": 1}, both)
    with pytest.raises(mesh.InvalidArgument, match=r"\$\.user_id must be int, not true"):
        check_call("users", "get", {"user_id": True}, both)


@pytest.mark.parametrize("width", [40, 80])
def test_a_contract_keeps_to_the_width_and_steers_no_terminal(width: int) -> None:
    console = Console(force_terminal=True, width=width, color_system=None)
    fields = {f"a_parameter_{number}": {"type": "string"} for number in range(5)}
    method = {"doc": "Very long. " * 20, "params": {"properties": fields}, "access": "\x1b[31m"}
    schema = {"doc": "\x1b]0;title\x07", "methods": {"get\x1b[2J": method, "odd": 5}}
    with console.capture() as printed:
        print_contracts(console, [{"version": "\x1b", "instances": ["\x9b"], "schema": schema}] * 2)
    text = printed.get()
    assert max(map(len, text.splitlines())) <= width
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert text.count("a_parameter_4: str = ...,") == 2


def doubling(depth: int) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        f"d{level}": {"anyOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(depth)
    }
    return kinds | {f"d{depth}": {"type": "string"}}


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "string", "pattern": "^(a+)+$"},
        {"type": "object", "patternProperties": {"^(a+)+$": {}}},
        {
            "type": "object",
            "patternProperties": {"^(a+)+$": {}},
            "additionalProperties": False,
        },
        {
            "type": "object",
            "patternProperties": {"^(a+)+$": {}},
            "unevaluatedProperties": False,
        },
        {"type": "object", "propertyNames": {"pattern": "^(a+)+$"}},
        {"$ref": "#/$defs/d0"},
    ],
)
def test_no_schema_can_keep_a_call_from_being_sent(kind: dict[str, Any]) -> None:
    name = "a" * 40 + "!"
    value: Any = {"pattern": name, "$ref": 1}.get(list(kind)[-1], {name: 1})
    params = {"type": "object", "properties": {"x": kind}}
    schema = {"methods": {"get": {"params": params}}, "$defs": doubling(40)}
    start = time.monotonic()
    check_call("users", "get", {"x": value}, [schema], 0.2)
    assert time.monotonic() - start < 5


def test_nearest_names_among_very_many_are_found_at_once() -> None:
    """It takes no longer where many names are unknown, or a name is long."""
    fields: dict[str, Any] = {f"field_number_{i:05}": {} for i in range(20_000)}
    params = {"type": "object", "properties": fields | {"x" * 20_000: {}, "quantity": {}}}
    given = {f"field_numbr_{i:05}": 1 for i in range(1000)} | {"quantty": 1, "x" * 20_001: 1}
    start = time.process_time()
    found = find_unknown(given, {"params": params}, {})
    assert len(found) == 1002
    names = ["$.field_numbr_00007", "$.quantty", f"$.{'x' * 20_001}"]
    assert len(names) <= TOLD
    told = [tell_unknown(name, *found[name]) for name in names]
    assert time.process_time() - start < 1
    assert told[0].startswith("$.field_numbr_00007 (did you mean 'field_number_")
    assert told[1:] == ["$.quantty (did you mean 'quantity'?)", names[2]]


def contract_of(kind: Any) -> ContractInfo:
    """A contract with one method, that takes values of a type."""

    class Sample(mesh.Contract, name="sample", version="1.0.0"):
        @mesh.method
        @abstractmethod
        async def put(self, it: kind) -> None: ...

    return info_of(Sample)


ANYTHING = [
    *(None, True, 0, 1, 5, 12, -1, 1.5, 0.3, 10**30),
    *("", "a", "b", "abc", "\u00e9\U0001f600", "eA==", "eHl6", "1", "1.50", "NaN"),
    *("2026-01-31", "2026-01-31T12:00:00", "2026-01-31 12:00:00Z", "12:00:00", "12:00:00+02:00"),
    *("P1DT2H", "16196873ef6a4124a382ae814e8ace36", "16196873-ef6a-4124-a382-ae814e8ace36"),
    *([], [1], [1, 1], [1, 2, 3], ["a"], [1, "a"], ["Cat", 1]),
    *({}, {"1": 1}, {"1.5": 1}, {"a": 1}, {"2026-01-31": 1}, {"name": "a"}),
    *({"type": "Cat", "name": "a"}, {"type": "Dog", "at": "2026-01-31T12:00:00"}),
    *({"at": "2026-01-31", "x": 1}, {"at": "2026-01-31T12:00:00"}),
]


CARD = "4111 1111 1111 1111"


class Cat(msgspec.Struct, tag=True):
    name: str
    at: datetime | None = None


class Dog(msgspec.Struct, tag=True):
    at: datetime


class Row(msgspec.Struct, array_like=True, tag="Cat"):
    x: int | str


class Word(enum.Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> Word:  # noqa: ARG003 - enum's signature
        return cls.A


class At(TypedDict):
    at: date


class Pair(NamedTuple):
    x: int
    y: int | str = 2


@pytest.mark.parametrize(
    "kind",
    [
        *(int, float, bool, str, bytes, Decimal, UUID, date, datetime, time_of_day, timedelta),
        *(datetime | None, list[int], set[int], tuple[int, ...], tuple[int, str], Any),
        *(dict[int, int], dict[float, int], dict[Decimal, int], dict[date, int], dict[Word, int]),
        *(Word, Literal["a", 1], Cat, Cat | Dog, Cat | Dog | None, Cat | int | None, Row, At, Pair),
        *(Decimal | float | None, bytes | int, list[datetime | int], dict[str, datetime]),
        Annotated[datetime, Meta(tz=True)],
        Annotated[datetime, Meta(tz=False)],
        Annotated[time_of_day, Meta(tz=True)],
        Annotated[time_of_day, Meta(tz=False)],
        Annotated[int, Meta(ge=1, lt=12, multiple_of=5)],
        Annotated[float, Meta(multiple_of=0.1)],
        Annotated[str, Meta(min_length=1, max_length=2, pattern="^a")],
        Annotated[bytes, Meta(min_length=2, max_length=2)],
        Annotated[set[int], Meta(max_length=1)],
        Annotated[dict[str, int], Meta(min_length=1)],
        Annotated[str, Meta(extra_json_schema={"format": "uuid"})],
        dict[Annotated[str, Meta(extra_json_schema={"format": "uuid"})], int],
    ],
    ids=str,
)
def test_what_a_service_takes_is_never_refused_here(kind: Any) -> None:
    info = contract_of(kind)
    document = describe(info)
    decode = msgspec.json.Decoder(info.methods["put"].signature.params).decode
    for value in ANYTHING:
        try:
            decode(msgspec.json.encode({"it": value}))
        except msgspec.ValidationError:
            continue
        check_call("sample", "put", {"it": value}, [document])


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (
            datetime,
            "tomorrow",
            'must be datetime, not "tomorrow": Invalid RFC3339 encoded datetime',
        ),
        (Annotated[datetime, Meta(tz=True)], "2026-01-31T12:00:00", "with a timezone component"),
        (list[datetime | int], ["x"], '$.it[0] must be datetime, not "x"'),
        (Dog, {"type": "Dog", "at": "x"}, '$.it.at must be datetime, not "x"'),
        (Cat | Dog, {"type": "Dogg"}, "$.it.type must be 'Cat' or 'Dog', not 'Dogg'; did you mean"),
        (Cat | Dog, {"type": 5, "name": CARD}, "$.it.type must be 'Cat' or 'Dog', not 5"),
        (Cat | Dog | None, {"name": CARD}, "$.it lacks type: 'Cat' or 'Dog'"),
        (list[Cat | Dog], [{"type": "Cat", "nam": CARD}], "$.it[0] lacks name: str"),
        (Cat | Dog | int, {"type": "Cat", "name": 5}, "$.it.name must be str, not 5"),
        (At | None, {"at": 5}, "$.it.at must be date, not 5"),
        (time_of_day, "25:00:00", 'must be time, not "25:00:00": Invalid RFC3339 encoded time'),
        (date, "2026-02-30", "must be date, "),
        (timedelta, "1 h", "must be timedelta, "),
        (UUID, "x", "must be UUID, "),
        (Decimal, "1,5", "must be Decimal, "),
        (Annotated[int, Meta(ge=1, le=9)], 12, "$.it must be int 1..9, not 12"),
        (Annotated[str, Meta(max_length=2)], "abc", '$.it must be str of <= 2, not "abc"'),
    ],
    ids=str,
)
def test_texts_of_another_form_and_values_out_of_bounds_are_refused(
    kind: Any, value: Any, message: str
) -> None:
    with pytest.raises(mesh.InvalidArgument) as caught:
        check_call("sample", "put", {"it": value}, [describe(contract_of(kind))])
    assert message in caught.value.message
    assert CARD not in caught.value.message


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (At, {"at": "2026-01-31", "att": 1}, ["$.it.att (did you mean 'at'?)"]),
        (list[At | None], [None, {"zzz": 1}], ["$.it[1].zzz"]),
        (dict[str, At], {"any": {"zzz": 1}}, ["$.it.any.zzz"]),
        (tuple[int, At], [1, {"zzz": 1}], ["$.it[1].zzz"]),
        (Cat | Dog, {"type": "Dog", "name": "of the other", "x": 1}, ["$.it.x"]),
        (Literal["a"] | At, {"x": 1}, ["$.it.x"]),
        (At | Any, {"x": 1}, []),
        (Any, {"x": {"y": 1}}, []),
        (dict, {"x": {"y": 1}}, []),
        (dict[str, Any], {"x": {"y": 1}}, []),
        (int, {"x": 1}, []),
    ],
    ids=str,
)
def test_fields_that_no_type_has_are_told(kind: Any, value: Any, told: list[str]) -> None:
    document = describe(contract_of(kind))
    found = find_unknown({"it": value}, document["methods"]["put"], document)
    assert [tell_unknown(path, *where) for path, where in found.items()] == told


def test_no_schema_makes_the_search_for_unknown_fields_long() -> None:
    params = {"properties": {"x": {"$ref": "#/$defs/d0"}}, "type": "object"}
    start = time.monotonic()
    value: Any = {}
    for _ in range(200):
        value = {"x": [value, value]}
    kinds = doubling(40) | {"d40": {"anyOf": [{"$ref": "#/$defs/d0"}] * 1000}}
    find_unknown({"x": value}, {"params": params}, {"$defs": kinds})
    find_unknown({"x": value}, {"params": {"$ref": "#/$defs/x"}}, {"$defs": {"x": params}})
    odd: Any
    for odd in (None, [], {"params": 5}, {"params": {"properties": [], "anyOf": 3}}):
        assert find_unknown({"x": 1}, odd, {"$defs": 7}) == {}
    assert time.monotonic() - start < 5
