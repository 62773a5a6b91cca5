"""Whether a function can stand in for a contract's method: it takes all that, and returns no more.

So it is for what implements the method, and for a contract that extends the other and declares the
method again.
"""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.contracts.agreeing import fits, type_name
from mesh.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mesh.contracts.signatures import Signature

_BY_POSITION = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
_BY_NAME = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


def check_parameters(
    where: str, source: str, expected: Signature, function: Callable[..., Any]
) -> None:
    """Refuse a function that cannot be called as a method can be.

    Args:
        where: What the function is, which begins the message of every fault.
        source: What has the method.
        expected: The method's.
        function: The function, bound.

    Raises:
        ContractError: The message names the parameter.
    """
    parameters = list(inspect.signature(function).parameters.values())
    takes_more = {parameter.kind for parameter in parameters}
    by_position = [one for one in parameters if one.kind in _BY_POSITION]
    by_name = {one.name for one in parameters if one.kind in _BY_NAME}
    declared, keywords = expected.params.__struct_fields__, expected.keywords
    positional = declared[: len(declared) - len(keywords)]
    for place, name in enumerate(positional):
        if place >= len(by_position):
            if inspect.Parameter.VAR_POSITIONAL in takes_more:
                break
            wrong = " takes it by name alone" if name in by_name else " does not"
            raise ContractError(f"{where}: {source} has parameter {name!r}, this{wrong}")
        own = by_position[place]
        if own.name != name:
            raise ContractError(
                f"{where}: parameter {place + 1} is {name!r} in {source}, {own.name!r} here"
            )
        if own.kind is own.POSITIONAL_ONLY:
            raise ContractError(
                f"{where}: parameter {name!r} is positional only here; callers may name it"
            )
    for name in keywords:
        if name not in by_name and inspect.Parameter.VAR_KEYWORD not in takes_more:
            raise ContractError(
                f"{where}: {source} has parameter {name!r}, by name alone; this does not"
            )
    for own in parameters:
        if (
            own.name not in declared
            and own.default is own.empty
            and own.kind not in {own.VAR_POSITIONAL, own.VAR_KEYWORD}
        ):
            raise ContractError(f"{where}: it needs {own.name!r}, which {source} does not have")


def check_again(
    where: str, source: str, expected: Signature, own: Signature, function: Callable[..., Any]
) -> None:
    """Refuse a contract's method that cannot stand in for that of a contract which it extends.

    Args:
        where: Contract and method, which begin the message of every fault.
        source: The other contract.
        expected: The other's.
        own: The contract's own, as it was read of ``function``.
        function: The contract's own, not bound.

    Raises:
        ContractError: The message names the parameter.
    """
    check_parameters(where, source, expected, types.MethodType(function, object()))
    kinds = {field.name: field for field in msgspec.structs.fields(own.params)}
    for field in msgspec.structs.fields(expected.params):
        its = kinds[field.name]
        if its.required and not field.required:
            raise ContractError(
                f"{where}: parameter {field.name!r} has a default in {source}, and none here"
            )
        if field.type is Any is not its.type:  # which a check of types lets pass
            raise ContractError(
                f"{where}: parameter {field.name!r} is Any in {source}, {type_name(its.type)} here"
            )
    if own.result is Any is not expected.result:
        result = type_name(expected.result)
        raise ContractError(f"{where}: its result is {result} in {source}, Any here")
    own_types = {name: field.type for name, field in kinds.items()} | {"return": own.result}
    check_types(where, source, expected, own_types)
    for field in msgspec.structs.fields(expected.params):
        its = kinds[field.name]
        if not (field.required or _is_same(_default_of(field), _default_of(its))):
            raise ContractError(
                f"{where}: parameter {field.name!r} is {_default_of(field)!r} by default in "
                f"{source}, {_default_of(its)!r} here; callers leave out what they have as default"
            )


def _is_same(one: Any, other: Any) -> bool:
    """Whether two defaults are, also where they have no comparison, or are no number."""
    return bool(one == other) or msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


def check_types(where: str, source: str, expected: Signature, own: Mapping[str, Any]) -> None:
    """Refuse types that are narrower than a method's for parameters, or wider for its result.

    Args:
        where: What has them, which begins the message of every fault.
        source: What has the method.
        expected: The method's.
        own: By the names of parameters, that of the result as ``return``; anything where missing.

    Raises:
        ContractError: The message names the parameter.
    """
    for field in msgspec.structs.fields(expected.params):
        kind = own.get(field.name, Any)
        if not fits(field.type, kind):
            raise ContractError(
                f"{where}: parameter {field.name!r} is {type_name(field.type)} in {source}, "
                f"{type_name(kind)} here"
            )
    result, kind = expected.result, own.get("return", Any)
    if not fits(kind, result):
        raise ContractError(
            f"{where}: its result is {type_name(result)} in {source}, {type_name(kind)} here"
        )
