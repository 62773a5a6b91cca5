"""Mocks of services: implementations of a contract that do what a test says, and hold it to it.

What counts and remembers calls is :class:`unittest.mock.AsyncMock`; this room checks both its sides
by the contract.
"""

from __future__ import annotations

import copy
import inspect
import types
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar
from unittest.mock import AsyncMock

import msgspec

from mesh.contracts.contract import info_of
from mesh.errors import CallError, ContractError, UsageError
from mesh.payload import EncodingFault, decode, encode
from mesh.wire.codec import MSGPACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mesh.contracts.contract import ContractInfo, ContractMethod

C = TypeVar("C")
P = ParamSpec("P")
T = TypeVar("T")

_MOCKED = "__mesh_mocked__"


class NotSetUp(UsageError):  # noqa: N818 - named as what it says, see errors.py
    """A method of a mock was called, and the test has not said what it does then."""


def mock(contract: Callable[[], C]) -> C:
    """An implementation of a contract that does what :func:`mocked` says of each method.

    It can be served, in a local mesh or elsewhere, and handed to what takes a stub. Parameters and
    results are checked as on the way through a mesh; what breaks the contract is a
    :class:`~mesh.ContractError`, which no ``except mesh.CallError`` of the tested code hides. Where
    a handler raises it, as a served mock does, its caller is told of a failed handler, and the end
    of the local mesh raises it; so it is with calls that are not set up.

    Args:
        contract: A class of a contract.

    Raises:
        ContractError: It is no contract.

    Example:
        >>> users = mesh.testing.mock(Users)
        >>> mocked(users.get).returns(User("7"))
        >>> async with local_mesh(users, OrderService) as it: ...
        >>> assert mocked(users.get).calls == [{"user_id": "7"}]
    """
    info = info_of(contract)
    members: dict[str, Any] = {
        name: _make_method(Mocked(info, method)) for name, method in info.methods.items()
    }
    members["__module__"] = info.declared.__module__
    members["__repr__"] = lambda _: f"<mock of {info.name} {info.version}>"
    kind = types.new_class(
        f"{info.declared.__name__}Mock", (info.declared,), exec_body=lambda it: it.update(members)
    )
    made: C = object.__new__(kind)  # no __init__ of the contract's own: it has nothing to do
    return made


def mocked(method: Callable[P, Awaitable[T]]) -> Mocked[P, T]:
    """How a method of a :func:`mock` is set up, and what has been asked of it.

    Raises:
        UsageError: It is no such method.
    """
    found: Mocked[P, T] | None = getattr(method, _MOCKED, None)
    if found is None:
        raise UsageError(f"{method!r} is no method of a mesh.testing.mock")
    return found


class Mocked(Generic[P, T]):
    """One method of a mock. Until it is set up, its calls fail and say so.

    Attributes:
        mock: What remembers the calls, with defaults where callers left parameters out, for the
            assertions of :mod:`unittest.mock`:
            ``mocked(users.get).mock.assert_awaited_once_with("7")``.
    """

    def __init__(self, info: ContractInfo, method: ContractMethod) -> None:
        self._info, self._method = info, method
        self._name = f"{info.declared.__qualname__}.{method.name}"
        function = getattr(info.declared, method.name)
        self._declared = inspect.signature(function)
        bound = types.MethodType(function, self)
        self._signature = inspect.signature(bound)
        self.mock = AsyncMock(name=self._name, spec=bound, side_effect=self._not_set_up)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The parameters of each call by name, defaults among them, in order."""
        calls: list[dict[str, Any]] = []
        for one in self.mock.await_args_list:
            bound = self._signature.bind(*one.args, **one.kwargs)
            bound.apply_defaults()
            calls.append(bound.arguments)
        return calls

    # How calls are answered: the last word counts.

    def returns(self, value: T) -> None:
        """Answer every call by this value.

        Raises:
            ContractError: It is not of the result's type.
        """
        self._checked(value)
        self.mock.side_effect = lambda *_, **__: value

    def raises(self, error: CallError) -> None:
        """Have every call fail by this error.

        Raises:
            ContractError: The contract does not declare it for this method, and it is none that any
                call can end by.
        """
        self._check_error(error)

        def fail(*_: Any, **__: Any) -> None:
            raise copy.copy(error)

        self.mock.side_effect = fail

    def answers(self, *answers: T | CallError) -> None:
        """Answer one call after the other by these, values and errors; one more call fails.

        Raises:
            ContractError: As of :meth:`returns` and :meth:`raises`.
        """
        for answer in answers:
            if isinstance(answer, CallError):
                self._check_error(answer)
            else:
                self._checked(answer)
        rest = iter(answers)

        def follow(*_: Any, **__: Any) -> Any:
            try:
                answer = next(rest)
            except StopIteration:
                raise NotSetUp(
                    f"{self._name} was called once more than it has answers, {len(answers)}"
                ) from None
            if isinstance(answer, CallError):
                raise copy.copy(answer)
            return answer

        self.mock.side_effect = follow

    def does(self, function: Callable[P, T | Awaitable[T]]) -> None:
        """Answer every call by what a function makes of its parameters, ``async`` or not.

        What it returns and raises is checked in the call.
        """
        self.mock.side_effect = function

    def _not_set_up(self, *_: Any, **__: Any) -> None:
        how = f"mocked({self._info.name}.{self._method.name})"
        raise NotSetUp(
            f"{self._name} is mocked, and was called before it was said what it does: "
            f"{how}.returns(...), .raises(...), .answers(...) or .does(...)"
        )

    # What the contract says.

    async def _answer(self, *arguments: Any, **named: Any) -> T:
        """A call: its parameters checked on the way in, its result or error on the way out."""
        signature = self._method.signature
        given = signature.params(**self._signature.bind(*arguments, **named).arguments)
        params: msgspec.Struct = _travelled(f"parameters of {self._name}", given, signature.params)
        by_position, by_name = signature.arguments(params)
        try:
            value = await self.mock(*by_position, **by_name)
            if inspect.isawaitable(value):
                value = await value
        except CallError as error:
            self._check_error(error)
            raise
        return self._checked(value)

    def _checked(self, value: Any) -> T:
        """A result as callers get it: a copy, made of what travels."""
        result: T = _travelled(f"result of {self._name}", value, self._method.signature.result)
        return result

    def _check_error(self, error: CallError) -> None:
        breach = breach_of(self._name, self._method, error)
        if breach is not None:
            raise breach from error


def breach_of(name: str, method: ContractMethod, error: CallError) -> ContractError | None:
    """How a method breaks its contract that fails by this error; None where it does not.

    Args:
        name: The method's, for people.
        method: The method.
        error: A declared one, or one of the mesh's own classes, by which any call can end.
    """
    kind, declared = type(error), method.errors.values()
    for one in declared:
        if one.kind is kind:
            try:
                _travelled(f"{kind.__name__}, raised by {name}", error.details, one.details)
            except ContractError as breach:
                return breach
            return None
    if kind.__module__ == CallError.__module__:
        return None
    names = ", ".join(one.kind.__name__ for one in declared) or "none"
    return ContractError(f"{name} does not declare to raise {kind.__name__}; raises= has {names}")


def _travelled(what: str, value: Any, kind: Any) -> Any:
    """A value as the other side gets it."""
    try:
        return decode(encode(value), MSGPACK, kind)
    except (EncodingFault, msgspec.MsgspecError, RecursionError, ValueError) as fault:
        raise ContractError(f"{what}: {fault}") from fault


def _make_method(method: Mocked[Any, Any]) -> Any:
    async def answer(_: Any, /, *arguments: Any, **named: Any) -> Any:
        return await method._answer(*arguments, **named)

    setattr(answer, _MOCKED, method)
    answer.__name__, answer.__qualname__ = method._name.rpartition(".")[2], method._name
    answer.__signature__ = method._declared  # type: ignore[attr-defined]  # what inspect looks for
    return answer
