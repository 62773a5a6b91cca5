"""A contract that extends others: what it may declare again, and how."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from msgspec.structs import fields, replace

import mesh
from mesh.contracts.contract import info_of
from mesh.testing import local_mesh

if TYPE_CHECKING:
    from mesh.contracts.declaring import MethodOptions


class Reader(mesh.Contract, name="reader", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def read(
        self, key: str, size: int = 1, anything: Any = None, *, deep: bool = False
    ) -> int | str: ...


class Counter(mesh.Contract, name="counter", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def read(self, key: str, size: int) -> float: ...


class Both(Reader, Counter, name="both", version="1.0.0"):
    """What both say of `read` is so of this."""

    @mesh.method
    @abstractmethod
    async def read(
        self,
        key: str | int,
        size: float = 1,
        anything: Any = None,
        deep: bool = False,  # noqa: FBT002 - by name alone in one of the two
        more: str = "",
    ) -> int: ...


class BothService(Both):
    async def read(
        self,
        key: str | int,
        size: float = 1,
        anything: Any = None,
        deep: bool = False,  # noqa: FBT002 - by name alone in one of the two
        more: str = "",
    ) -> int:
        return len(f"{key}{size}{anything}{deep}{more}")


async def test_declared_again_a_method_of_two_contracts_is_one() -> None:
    assert list(info_of(Both).methods) == ["read"]
    assert info_of(Both).methods["read"].signature.result is int
    async with local_mesh(BothService()) as it:
        assert await it.stub(Both).read(7, more="x") == len("71NoneFalsex")


def extend(text: str) -> Any:
    """`Reader`, extended by one whose method `read` is this."""
    source = (
        "class More(Reader, name='more', version='1.0.0'):\n"
        f"    @mesh.method\n    @abstractmethod\n    async def read({text}: ...\n"
    )
    scope = {**globals(), "__name__": "more"}
    exec(source, scope)  # noqa: S102 - our own text
    return scope["More"]


@pytest.mark.parametrize(
    "text",
    [
        "self, key: str, size: int = 1, anything: Any = None, *, deep: bool = False) -> int | str",
        "self, key: str, size: float = 1.0, anything: Any = None, deep: bool = False) -> str",
        "self, key: str = '', size: int | None = 1, anything: object = None, deep: Any = 0) -> int",
        (
            "self, key: str, size: int = 1, anything: Any = None, "
            "*, deep: Any = False, m: int = 1) -> str"
        ),
    ],
)
def test_wider_parameters_and_narrower_results_will_do(text: str) -> None:
    assert list(info_of(extend(text)).methods) == ["read"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("self) -> int", "Reader has parameter 'key', this does not"),
        ("self, name: str) -> int", "parameter 1 is 'key' in Reader, 'name' here"),
        ("self, key: int, size: int = 1) -> int", "Reader has parameter 'anything', this does not"),
        (
            "self, key: int, size: int = 1, anything: Any = None, *, deep: bool = False) -> int",
            "parameter 'key' is str in Reader, int here",
        ),
        (
            "self, key: str, size: int, anything: Any, *, deep: bool = False) -> int",
            "parameter 'size' has a default in Reader, and none here",
        ),
        (
            "self, key: str, size: int = 9, anything: Any = None, *, deep: bool = False) -> int",
            "parameter 'size' is 1 by default in Reader, 9 here; callers leave out what they have",
        ),
        (
            "self, key: str, size: int = 1, anything: int = 1, *, deep: bool = False) -> int",
            "parameter 'anything' is Any in Reader, int here",
        ),
        (
            "self, key: str, size: int = 1, anything: Any = None, *, deep: bool) -> int",
            "parameter 'deep' has a default in Reader, and none here",
        ),
        (
            "self, key: str, size: int = 1, anything: Any = None) -> int",
            "Reader has parameter 'deep', by name alone; this does not",
        ),
        (
            "self, key: str, *, size: int = 1, anything: Any = None, deep: bool = False) -> int",
            "Reader has parameter 'size', this takes it by name alone",
        ),
        (
            (
                "self, key: str, size: int = 1, anything: Any = None, "
                "*, deep: Any = False, m: str) -> str"
            ),
            "it needs 'm', which Reader does not have",
        ),
        (
            (
                "self, key: str, size: int = 1, anything: Any = None, "
                "*, deep: bool = False) -> int | None"
            ),
            r"its result is int \| str in Reader, int \| None here",
        ),
        (
            "self, key: str, size: int = 1, anything: Any = None, *, deep: bool = False) -> Any",
            r"its result is int \| str in Reader, Any here",
        ),
    ],
)
def test_what_cannot_stand_in_for_the_inherited_method_is_refused(text: str, told: str) -> None:
    with pytest.raises(mesh.ContractError, match=f"contract More, method read: {told}"):
        extend(text)


def test_it_has_to_stand_in_for_the_methods_of_all_that_it_extends() -> None:
    with pytest.raises(
        mesh.ContractError, match="Less, method read: its result is float in Counter, str here"
    ):

        class Less(Reader, Counter, name="less", version="1.0.0"):
            @mesh.method
            @abstractmethod
            async def read(  # type: ignore[override]  # mypy sees it, too
                self, key: str, size: int = 1, anything: Any = None, *, deep: bool = False
            ) -> str: ...


# Its options.


@dataclass
class Gone(mesh.NotFound):
    """It has gone."""


@dataclass
class Busy(mesh.Unavailable):
    """It is busy."""


class Keeper(mesh.Contract, name="keeper", version="1.0.0"):
    @mesh.method(
        idempotent=True,
        timeout=2.0,
        slo=0.5,
        access="things.read",
        audit=True,
        tap=True,
        deprecated="call `find`",
        raises=[Gone, Busy],
    )
    @abstractmethod
    async def get(self) -> None: ...


class Plain(mesh.Contract, name="plain", version="1.0.0"):
    @mesh.method(raises=Gone)
    @abstractmethod
    async def get(self) -> None: ...


class Open(mesh.Contract, name="open", version="1.0.0"):
    @mesh.method(public=True, timeout=9)
    @abstractmethod
    async def get(self) -> None: ...


def again(*bases: type[mesh.Contract], **said: Any) -> MethodOptions:
    """The options of `get`, declared again with these."""

    class Again(*bases, name="again", version="1.0.0"):  # type: ignore[misc, call-arg]
        @mesh.method(**said)  # type: ignore[untyped-decorator]
        @abstractmethod
        async def get(self) -> None: ...

    return info_of(Again).methods["get"].options


KEPT = info_of(Keeper).methods["get"].options


@pytest.mark.parametrize(
    ("bases", "said", "changed"),
    [
        ([Keeper], {}, {}),
        ([Keeper], {"timeout": 1.0, "access": "things"}, {"timeout": 1.0, "access": "things"}),
        ([Keeper], {"audit": False, "tap": False}, {"audit": False, "tap": False}),
        ([Keeper], {"public": True}, {"public": True, "access": None}),
        ([Keeper], {"raises": Gone}, {"raises": (Gone,)}),
        ([Keeper], {"raises": ()}, {"raises": ()}),
        (
            [Plain, Keeper],
            {"idempotent": True, "audit": True, "tap": False, "raises": [Gone]},
            {"tap": False, "raises": (Gone,)},
        ),
    ],
)
def test_options_that_are_not_said_again_stay(
    bases: list[type[mesh.Contract]], said: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert again(*bases, **said) == replace(KEPT, **changed)


def test_who_may_call_is_one_question() -> None:
    options = again(Open, access="things.read")
    assert (options.access, options.public, options.timeout) == ("things.read", False, 9)


@pytest.mark.parametrize(
    ("bases", "said", "told"),
    [
        ([Plain], {"raises": [Gone, Busy]}, "raises Busy, which Plain does not declare: its calle"),
        ([Keeper], {"idempotent": False}, "it is idempotent in Keeper, whose callers may call it"),
        ([Keeper], {"timeout": 0.1}, "slo=0.5 is longer than timeout=0.1"),
        ([Keeper, Plain], {}, "idempotent= is not the same in Keeper and Plain; say here what"),
        ([Keeper, Open], {"idempotent": True}, "timeout= is not the same in Keeper and Open; say"),
    ],
)
def test_options_that_cannot_stand_in_are_refused(
    bases: list[type[mesh.Contract]], said: dict[str, Any], told: str
) -> None:
    with pytest.raises(mesh.ContractError, match="Again, method get: ") as raised:
        again(*bases, **said)
    assert told in str(raised.value)


# What names in its annotations mean.


class Nested(mesh.Contract, name="nested", version="1.0.0"):
    class Inner(mesh.Contract, name="inner", version="1.0.0"):
        """For which the body around it is no scope."""

        Key: TypeAlias = int

        @mesh.method
        @abstractmethod
        async def get(self, key: Key) -> list[Key]: ...

    Key: TypeAlias = str

    @mesh.method
    @abstractmethod
    async def get(self, key: Key) -> list[Key]: ...


def test_types_in_the_class_s_own_body_are_found() -> None:
    assert info_of(Nested).methods["get"].signature.result == list[str]
    assert info_of(Nested.Inner).methods["get"].signature.result == list[int]


Key = bytes


def make_contract() -> type[mesh.Contract]:
    class Made(mesh.Contract, name="made", version="1.0.0"):
        @mesh.method
        @abstractmethod
        async def get(self, key: Key) -> Key: ...

    return Made


def test_what_the_calling_function_has_is_no_scope() -> None:
    Key = int  # noqa: N806, F841 - like the type
    assert info_of(make_contract()).methods["get"].signature.result is bytes


def test_functions_around_it_are_scopes_the_inner_ones_first_and_classes_are_not() -> None:
    Key: TypeAlias = int  # noqa: F841 - like the type
    Other: TypeAlias = float  # noqa: F841

    class Around:
        Key = str

        def make(self) -> type[mesh.Contract]:
            Other: TypeAlias = bool

            class Holder:
                Key = str

                class Made(mesh.Contract, name="made", version="1.0.0"):
                    @mesh.method
                    @abstractmethod
                    async def get(self, key: Key) -> Other: ...

            return Holder.Made

    signature = info_of(Around().make()).methods["get"].signature
    assert [field.type for field in fields(signature.params)] == [int]
    assert signature.result is bool


@dataclass
class Missing(mesh.NotFound):
    Other = str
    key: Key
    other: Other = ""  # type: ignore[valid-type]  # an alias with a type would be a field


def test_fields_of_errors_are_of_the_error_s_own_scopes() -> None:
    Key = int  # noqa: N806, F841 - like the type

    class Raising(mesh.Contract, name="raising", version="1.0.0"):
        Other = int

        @mesh.method(raises=Missing)
        @abstractmethod
        async def get(self) -> None: ...

    details = info_of(Raising).methods["get"].errors["MISSING"].details
    assert {field.name: field.type for field in fields(details)} == {"key": bytes, "other": str}


def test_a_method_that_is_called_like_a_type_is_none() -> None:
    source = """
from __future__ import annotations

class Listing(mesh.Contract, name="listing", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def list(self) -> list[int]: ...

    @mesh.method
    @abstractmethod
    async def get(self) -> list[int]: ...
"""
    scope = {**globals(), "__name__": "listing"}
    exec(source, scope)  # noqa: S102 - our own text
    for method in info_of(scope["Listing"]).methods.values():
        assert method.signature.result == list[int]
