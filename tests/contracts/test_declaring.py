"""A contract says all of a service, and what is wrong with it is told when its class is made."""

from __future__ import annotations

import copy
import pickle
from abc import abstractmethod
from dataclasses import InitVar, dataclass, field
from decimal import Decimal  # noqa: F401 - by texts below
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import mesh
from mesh.contracts.contract import Contract, contracts_of, info_of
from mesh.contracts.declaring import MethodOptions, method
from mesh.contracts.failures import restore
from mesh.contracts.schema import describe
from mesh.contracts.versions import Version
from mesh.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class User:
    id: str
    tags: list[str] = field(default_factory=list)


@dataclass
class UserNotFound(mesh.NotFound):
    """There is no user {user_id!r}."""

    user_id: str


class Users(Contract, name="users", version="1.2.0"):
    """The user directory.

    For all who sell.
    """

    @method(idempotent=True, timeout=2.0, slo=0.1, raises=[UserNotFound])
    @abstractmethod
    async def get(self, user_id: str, *, deep: bool = False) -> User:
        """Look a user up."""

    @method
    @abstractmethod
    async def count(self) -> int:
        """How many there are."""

    def helper(self) -> str:
        """No method of the contract: plain code that implementations share."""
        return "helps"


class Admin(Users, name="users-admin", version="0.1.0"):
    @method(access="users.write", audit=True, tap=True, deprecated="use `remove`")
    @abstractmethod
    async def delete(self, user_id: str) -> None: ...


class UserService(Admin, requires=[Users]):
    async def get(self, user_id: str, *, deep: bool = False) -> User:
        return User(user_id, [str(deep)])

    async def count(self) -> int:
        return 1

    async def delete(self, user_id: str) -> None: ...


def test_a_contract_is_known_by_its_class() -> None:
    info = info_of(Users)
    assert (info.name, info.version, info.declared) == ("users", Version(1, 2, 0), Users)
    assert info.doc == "The user directory.\n\nFor all who sell."
    assert list(info.methods) == ["get", "count"]
    get = info.methods["get"]
    assert get.doc == "Look a user up."
    assert get.options == MethodOptions(
        idempotent=True, timeout=2.0, slo=0.1, raises=(UserNotFound,)
    )
    assert get.signature.result is User
    assert get.signature.needs_any
    assert get.signature.arguments(get.signature.params(user_id="ada", deep=True)) == (
        ("ada",),
        {"deep": True},
    )


def test_a_contract_that_extends_another_has_its_methods() -> None:
    assert list(info_of(Admin).methods) == ["get", "count", "delete"]
    assert [info.name for info in contracts_of(UserService)] == ["users-admin"]
    assert UserService.__mesh_requires__ == (Users,)
    with pytest.raises(ContractError, match="UserService'> is no contract"):
        info_of(UserService)


def test_a_contract_may_stand_in_a_function() -> None:
    @dataclass
    class Local:
        x: int

    class Here(Contract, name="here", version="1.0.0"):
        @method
        @abstractmethod
        async def get(self, it: Local) -> Local: ...

    assert info_of(Here).methods["get"].signature.result is Local


def test_a_contract_as_plain_data() -> None:
    told = describe(info_of(Admin))
    assert (told["name"], told["version"]) == ("users-admin", "0.1.0")
    get = told["methods"]["get"]
    assert get["params"]["required"] == ["user_id"]
    assert get["params"]["properties"]["deep"] == {"type": "boolean", "default": False}
    assert get["result"] == {"$ref": "#/$defs/User"}
    assert get["errors"]["USER_NOT_FOUND"]["details"]["required"] == ["user_id"]
    assert list(told["$defs"]) == ["User"]
    assert told["methods"]["delete"]["audit"]
    assert [one["tap"] for one in told["methods"].values()] == [False, False, True]
    assert get["slo"] == {"within": 0.1, "target": 0.99, "success": 0.999}
    assert told["methods"]["delete"]["slo"] is None


@dataclass(kw_only=True)
class Full(mesh.ResourceExhausted):
    """{used} of {size} are used."""

    used: int
    size: int = field(init=False, default=7)


class Gone(mesh.NotFound):
    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is gone", reason="GONE", details={"what": what})


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - its own bytes


@pytest.mark.parametrize("error", [UserNotFound("ada"), Full(used=5), Gone("it"), mesh.Aborted()])
@pytest.mark.parametrize("again", [copy.copy, pickled])
def test_errors_are_copied_and_pickled_whatever_they_are_made_of(
    error: mesh.CallError, again: Callable[[Any], Any]
) -> None:
    made = again(error)
    assert type(made) is type(error)
    assert vars(made) == vars(error)
    assert (str(made), made.args) == (str(error), error.args)


def test_a_declared_error_is_plain_on_the_wire_and_typed_for_callers() -> None:
    made = UserNotFound("ada")
    assert (made.code, made.reason, made.message) == (
        "not_found",
        "USER_NOT_FOUND",
        "There is no user 'ada'.",
    )
    assert made.details == {"user_id": "ada"}
    assert {made} == {made}
    assert copy.copy(made).user_id == "ada"
    plain = mesh.NotFound(
        "nobody", reason=made.reason, details=made.details, chain=["a.b"], activity_id="7"
    )
    errors = info_of(Users).methods["get"].errors
    typed = restore(plain, errors)
    assert isinstance(typed, UserNotFound)
    assert (typed.user_id, typed.message, typed.chain) == ("ada", "nobody", ("a.b",))
    for other in (
        mesh.NotFound("x", reason="OTHER"),
        mesh.Internal("x", reason=made.reason, details=made.details),
        mesh.NotFound("x", reason=made.reason, details={"user_id": 7}),
    ):
        assert restore(other, errors) is other


def declare(**options: Any) -> Callable[[], object]:
    def make() -> object:
        class Bad(Contract, name="bad", version="1.0.0"):
            @method(**options)  # type: ignore[untyped-decorator]
            @abstractmethod
            async def get(self) -> None: ...

        return Bad

    return make


def takes(text: str) -> Callable[[], object]:
    """A contract with one method of this signature, in a module of its own."""

    def make() -> object:
        source = (
            "class Bad(Contract, name='bad', version='1.0.0'):\n"
            f"    @method\n    @abstractmethod\n    {text}: ...\n"
        )
        scope = {**globals(), "__name__": "bad"}
        exec(source, scope)  # noqa: S102 - our own text
        return scope["Bad"]

    return make


def named(**more: Any) -> Callable[[], object]:
    def make() -> object:
        class Bad(Contract, **more):
            @method
            @abstractmethod
            async def get(self) -> None: ...

        return Bad

    return make


def raising(kind: Any) -> Callable[[], object]:
    return declare(raises=[kind])


def undeclared() -> object:
    class Bad(Contract, name="bad", version="1.0.0"):
        @abstractmethod
        async def get(self) -> None: ...

    return Bad


def concrete() -> object:
    class Bad(Contract, name="bad", version="1.0.0"):
        @method
        async def get(self) -> None: ...

    return Bad


def empty() -> object:
    class Bad(Contract, name="bad", version="1.0.0"):
        """Nothing."""

    return Bad


def twice() -> object:
    class Other(Contract, name="other", version="1.0.0"):
        @method
        @abstractmethod
        async def count(self) -> int: ...

    class Both(Users, Other, name="both", version="1.0.0"):
        """Which of the two it is, nobody knows."""

    return Both


def declared_in_implementation() -> object:
    class Service(Users):
        @method
        async def get(self, user_id: str, *, deep: bool = False) -> User:
            raise NotImplementedError

    return Service


class NoDataclass(mesh.NotFound):
    """Has no fields."""


@dataclass
class Overloaded(mesh.Unavailable):
    """Its reason is the mesh's own."""


@dataclass
class Hiding(mesh.Aborted):
    chain: str  # type: ignore[assignment]


@dataclass
class Heavy(mesh.Aborted):
    ratio: complex


@dataclass(frozen=True)
class Frozen(mesh.Aborted):
    item: str


@dataclass(slots=True)
class Slotted(mesh.Aborted):
    item: str


@dataclass
class Passing(mesh.Aborted):
    item: InitVar[str]


@dataclass
class Reasoned(mesh.Aborted):
    default_reason: str  # type: ignore[assignment]


@dataclass
class Misnamed(mesh.Aborted):
    """Missing {nothing.name}."""

    item: str


@dataclass
class Unclosed(mesh.Aborted):
    """Missing {item."""

    item: str


class Colour(Enum):
    RED = "red"


class Pair(msgspec.Struct):
    a: int = 0


@dataclass(frozen=True)
class Frame:
    size: int = 0
    tags: Any = ()


FRAME = Frame()
FRAME_OF_LIST = Frame(tags=[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (named(name="bad"), "contract .*Bad: it needs a name and a version; its version is miss"),
        (named(version="1.0.0"), "contract .*Bad: it needs a name and a version; its name is miss"),
        (named(name="bad", version="1.0.0", requires=User), "requires .*User'>, which is no"),
        (named(name="bad", version="1.0.0", requires=5), "Bad: requires 5, which is no"),
        (declare(raises=5), "method get: raises 5, which is no subclass"),
        (raising(Frozen), "method get: raises Frozen, which is frozen"),
        (raising(Slotted), "raises Slotted, which has slots"),
        (raising(Passing), "raises Passing: 'item' is an InitVar"),
        (raising(Reasoned), "field 'default_reason' is part of every error"),
        (raising(Misnamed), "names {nothing.name}, which is no field"),
        (raising(Unclosed), "the first line of its docstring is no message"),
        (takes("async def get(self, x: User = User('a')) -> None"), "can be changed by whoever"),
        (takes("async def get(self, x: Pair = Pair()) -> None"), "can be changed by whoever"),
        (takes("async def get(self, x: Frame = FRAME_OF_LIST) -> None"), "can be changed by who"),
        (takes("async def get(self, x: Any = ([1],)) -> None"), "can be changed by whoever"),
        (takes("async def get(self, x: Colour = 'red') -> None"), "'red' is not of its type: who"),
        (takes("async def get(self, x: Decimal = 0) -> None"), r"gets Decimal\('0'\)"),
        (takes("async def get(self, x: Frame = {'size': 1}) -> None"), "can be changed by whoever"),
        (named(), "needs a name and a version, or to implement one"),
        (named(name="1", version="1.0.0"), "name '1' must begin with a letter"),
        (named(name="mesh", version="1.0.0"), "not be 'mesh'"),
        (named(name="bad", version="1"), "Bad: version '1' must be three numbers"),
        (named(name="bad", version="1.0.0", requires=[User]), "requires .*User'>, which is no"),
        (undeclared, "method get: declare it by @mesh.method"),
        (concrete, "method get: put @abstractmethod below"),
        (empty, "it has no method"),
        (twice, "Users and .*Other both have a method 'count'; declare it"),
        (declared_in_implementation, "Service.get: @mesh.method declares what a contract has"),
        (declare(timeout=0), "Bad, method get: timeout=0 must be seconds, above 0"),
        (declare(slo="1"), "slo='1' must be seconds, above 0, or a mesh.slo"),
        (declare(slo=True), "slo=True must be seconds"),
        (declare(slo=float("inf")), "slo=inf must be seconds"),
        (declare(slo=10**400), "slo=a whole number of 1,329 bits must be seconds, above 0"),
        (declare(slo=mesh.slo(within=10**5000)), "slo: within=a whole number of 16,610 bits must"),
        (declare(slo=mesh.slo(target=10**5000)), "slo: target=a whole number of 16,610 bits must"),
        (declare(timeout=10**400), "timeout=a whole number of 1,329 bits must be seconds, above"),
        (declare(timeout=True), "timeout=True must be seconds, above 0"),
        (declare(timeout="1"), "timeout='1' must be seconds, above 0"),
        (declare(slo=mesh.slo(within=0)), "slo: within=0 must be seconds, above 0"),
        (declare(slo=mesh.slo(within=1, target=1.0)), "slo: target=1.0 must be a part of all call"),
        (
            declare(slo=mesh.slo(within=1, target=1 - 1e-13)),
            "slo: target=0.9999999999999 leaves no budget to spend: 0.999999 is the most",
        ),
        (declare(slo=mesh.slo(success=0.9999991)), "slo: success=0.9999991 leaves no budget"),
        (declare(slo=mesh.slo(success=99.9)), "slo: success=99.9 must be a part of all calls"),
        (declare(slo=mesh.slo(success=False)), "slo: success=False must be a part of all calls"),
        (declare(slo=mesh.slo(success=None)), "slo: it promises nothing: give within= or success="),
        (declare(slo=mesh.slo(target=0.9)), "slo: target=0.9 needs within=, the seconds that"),
        (declare(timeout=1, slo=mesh.slo(within=2)), "slo=2 is longer than timeout=1"),
        (declare(timeout=1, slo=2), "slo=2 is longer than timeout=1"),
        (declare(public=True, access="x"), "exclude each other"),
        (declare(access=" "), "access=' ' must be text"),
        (declare(deprecated=True), "deprecated=True must be text"),
        (
            declare(deprecated="x" * 501),
            "deprecated= of 501 characters exceeds 500; the",
        ),
        (declare(access="x" * 20_000), "access= of 20,000 characters exceeds 500"),
        (declare(idempotent="yes"), "idempotent='yes' must be a bool"),
        (declare(tap=1), "tap=1 must be a bool"),
        (raising(ValueError), "raises <class 'ValueError'>, which is no subclass"),
        (raising(NoDataclass), "raises NoDataclass, which is no dataclass"),
        (raising(Overloaded), "whose reason OVERLOADED is one of the mesh's own"),
        (raising(Hiding), "field 'chain' is part of every error"),
        (raising(Heavy), "raises Heavy: field 'ratio': .*complex.* is not supported"),
        (takes("async def get(self, x) -> None"), "method get: parameter 'x' has no type"),
        (takes("async def get(self, x: Foo) -> None"), "'x': its type 'Foo' cannot be found"),
        (takes("async def get(self, x: 1 +) -> None".replace("1 +", "'1 +'")), "cannot be read"),
        (takes("def get(self) -> None"), "it must be `async def`"),
        (takes("async def get() -> None"), "its first parameter must be `self`"),
        (takes("async def get(x: int) -> None"), "its first parameter must be `self`"),
        (takes("async def get(*self) -> None"), "its first parameter must be `self`"),
        (takes("async def get(self) -> int: yield 1 #"), "it must not `yield`: it returns"),
        (takes("async def _get(self) -> None"), "method _get: names that begin with _ are priv"),
        (raising(mesh.CallError), "raises CallError, which is all errors; name one, such as mesh"),
        (takes("async def get(self, x: complex) -> None"), "complex.* is not supported"),
        (takes("async def get(self, x: User | dict) -> None"), "more than one dict-like type"),
        (takes("async def get(self, *x: int) -> None"), "says which parameters there are"),
        (takes("async def get(self, **x: int) -> None"), "says which parameters there are"),
        (takes("async def get(self, x: int, /) -> None"), "'x' is positional only"),
        (takes("async def get(self, x: int = 'a') -> None"), "default 'a' is not of its type"),
        (takes("async def get(self, x: list[int] = [1]) -> None"), "can be changed by whoever"),
        (takes("async def get(self)"), "its result has no type"),
        (takes("async def get(self) -> complex"), "its result: .*complex"),
    ],
)
def test_a_fault_is_found_when_the_class_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        make()


@pytest.mark.parametrize(
    "text",
    [
        "x: float = 1",
        "x: float = float('nan')",
        "x: Colour = Colour.RED",
        "x: Decimal | None = None",
        "x: Decimal = Decimal('1.50')",
        "x: Frame = FRAME",
        "x: list[int] = (1, 2)",
        "x: list[User] = []",
        "x: frozenset[str] = frozenset('a')",
        "x: set[str] = frozenset('a')",
        "x: Any = (1, 2)",
        "x: bytes = b'a'",
    ],
)
def test_a_default_is_what_the_method_gets(text: str) -> None:
    made: Any = takes(f"async def get(self, {text}) -> None")()
    assert "get" in info_of(made).methods


def test_one_error_or_required_contract_needs_no_list() -> None:
    assert list(info_of(declare(raises=UserNotFound)()).methods["get"].errors) == ["USER_NOT_FOUND"]

    class Service(Users, requires=Admin):
        """What it does is of no matter."""

    assert Service.__mesh_requires__ == (Admin,)
