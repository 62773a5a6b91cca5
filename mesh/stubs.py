"""Stubs: objects that have a contract's methods, each of which is a call.

A stub's class is made once of each contract. What can be known before a call is prepared there, so
that a call is little more than its parameters put into a structure and handed to `Client.call`.
"""

from __future__ import annotations

import difflib
import types
import warnings
from typing import TYPE_CHECKING, Any

from mesh.contracts.contract import info_of
from mesh.contracts.failures import restore
from mesh.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from mesh.contracts.contract import ContractInfo, ContractMethod
    from mesh.contracts.failures import DeclaredError

_CLASS = "__mesh_stub__"
"""Where a contract keeps the class of its stubs: there it goes when the contract does."""

warned: set[str] = set()
"""What this process has warned of already. The pytest plugin empties it: each test is the first."""


class Stub:
    """What stubs are beside their contract."""

    __mesh_call__: Callable[..., Awaitable[Any]]
    __mesh_timeout__: float | None

    def __init_subclass__(cls, **more: Any) -> None:
        """No implementation, hence no check whether it can be one."""

    def __repr__(self) -> str:
        info = info_of(type(self).__mro__[2])
        return f"<stub of {info.name} {info.version}>"


def make_stub(contract: Any, call: Callable[..., Any], timeout: float | None) -> Any:
    """An object that calls a service by its contract.

    Args:
        contract: The contract's class.
        call: A peer's :meth:`~mesh.calling.Caller.call`.
        timeout: Seconds for each call; where None, what the contract says of the method.

    Raises:
        ContractError: It is no contract.
    """
    info = info_of(contract)
    kind = vars(contract).get(_CLASS)
    if kind is None:
        kind = _make_class(info)
        setattr(contract, _CLASS, kind)
    stub = object.__new__(kind)
    stub.__mesh_call__ = call
    stub.__mesh_timeout__ = timeout
    return stub


def _make_class(info: ContractInfo) -> type[Stub]:
    contract = info.declared
    methods: dict[str, Any] = {"__module__": contract.__module__, "__doc__": contract.__doc__}
    for method in info.methods.values():
        made = _make_method(info, method)
        made.__name__, made.__doc__ = method.name, method.doc
        made.__qualname__ = f"{contract.__qualname__}.{method.name}"
        methods[method.name] = made
    bases = (Stub, contract)
    return types.new_class(
        f"{contract.__name__}Stub", bases, exec_body=lambda it: it.update(methods)
    )


def _make_method(info: ContractInfo, method: ContractMethod) -> Callable[..., Any]:
    """A plain function that returns what is awaited: one coroutine less on the way of each call."""
    service, name, options = info.name, method.name, method.options
    known = method.signature.params.__struct_fields__
    version = str(info.version)
    result, declared = method.signature.result, options.timeout
    idempotent, errors = options.idempotent, method.errors
    pack = _packer(method)

    def call(self: Stub, /, *arguments: Any, **named: Any) -> Awaitable[Any]:
        timeout = self.__mesh_timeout__
        try:
            given = pack(*arguments, **named)
        except TypeError as fault:
            raise TypeError(f"{service}.{name}(): {_misuse(fault, named, known)}") from None
        answer = self.__mesh_call__(
            service,
            name,
            given,
            result=result,
            timeout=declared if timeout is None else timeout,
            idempotent=idempotent,
            version=version,
        )
        return _restored(answer, errors) if errors else answer

    return call if options.deprecated is None else _warning(f"{service}.{name}", method, call)


def _misuse(fault: TypeError, named: Iterable[str], known: Sequence[str]) -> str:
    """What is wrong with a call's arguments, with the nearest name for one that there is not."""
    unknown = next((name for name in named if name not in known), None)
    if unknown is None:
        return str(fault)
    near = difflib.get_close_matches(unknown, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
    return f"there is no parameter {unknown!r}; {hint}"


async def _restored(answer: Awaitable[Any], errors: Mapping[str, DeclaredError]) -> Any:
    """The same answer, or a declared error raised as what it is."""
    try:
        return await answer
    except CallError as error:
        failure = restore(error, errors)
        if failure is error:
            raise
    try:
        raise failure  # the same one, told better: no second one to show
    finally:
        del failure


def _packer(method: ContractMethod) -> Callable[..., Any]:
    """What makes the parameters of a call's arguments, or says which of them are wrong."""
    params, keywords = method.signature.params, method.signature.keywords
    if not keywords:
        return params
    by_position = params.__struct_fields__[: -len(keywords)]

    def pack(*arguments: Any, **named: Any) -> Any:
        if len(arguments) > len(by_position):
            raise TypeError(
                f"takes {len(by_position)} arguments by position, not "
                f"{len(arguments)}; {', '.join(keywords)} are given by name"
            )
        if twice := next((name for name in by_position[: len(arguments)] if name in named), None):
            raise TypeError(f"got two values for {twice!r}")
        return params(**dict(zip(by_position, arguments, strict=False)), **named)

    return pack


def _warning(
    full_name: str, method: ContractMethod, call: Callable[..., Any]
) -> Callable[..., Any]:
    """The same, with a warning at the line of the first call of a process."""
    what = f"{full_name} is deprecated: {method.options.deprecated}"

    def deprecated(self: Stub, /, *arguments: Any, **named: Any) -> Any:
        if what not in warned:
            warnings.warn(what, DeprecationWarning, stacklevel=2)
            warned.add(what)  # not before: where warnings are errors, none of its calls may pass
        return call(self, *arguments, **named)

    return deprecated
