"""Whether a class does what its contracts say; told before the first call, and by name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.contracts.agreeing import annotations_of, fits, type_name
from mesh.contracts.contract import contracts_of
from mesh.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mesh.contracts.contract import ContractInfo, ContractMethod

_BY_POSITION = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
_BY_NAME = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


def check_class(kind: type) -> None:
    """Refuse a class that implements no contract, or not all of one.

    Raises:
        ContractError: The message names the class and what is missing.
    """
    infos = contracts_of(kind)
    if "__mesh_contract__" in vars(kind):
        raise ContractError(
            f"{kind.__qualname__} is a contract; serve a class that implements it, "
            f"class {kind.__name__}Service({kind.__name__})"
        )
    if not infos:
        raise ContractError(f"{kind.__qualname__} implements no contract")
    missing = [
        f"{method.name} of {info.declared.__qualname__}"
        for info in infos
        for method in info.methods.values()
        if getattr(getattr(kind, method.name), "__isabstractmethod__", False)
    ]
    if missing:
        raise ContractError(f"{kind.__qualname__} does not implement {', '.join(missing)}")


def implemented(
    implementation: object, is_async: Callable[[Callable[..., Any]], bool]
) -> Iterator[tuple[ContractInfo, dict[str, Callable[..., Any]]]]:
    """The contracts that an object implements, and by which functions, all of them checked.

    Args:
        implementation: The object.
        is_async: Whether calls of a function are awaited.

    Raises:
        ContractError: It does not do what they say; the message names class, method and parameter.
    """
    kind = type(implementation)
    check_class(kind)
    for info in contracts_of(kind):
        functions: dict[str, Callable[..., Any]] = {}
        for method in info.methods.values():
            function = getattr(implementation, method.name)
            where = f"{kind.__qualname__}.{method.name}"
            if not callable(function):
                raise ContractError(f"{where} is {function!r}, and no method")
            if not is_async(function):
                raise ContractError(
                    f"{where} must be `async def`, as its contract {info.declared.__qualname__} "
                    "says; put @mesh.in_thread above a plain function"
                )
            where += f", of contract {info.declared.__qualname__}"
            _check_parameters(where, method, function)
            _check_types(where, method, function)
            functions[method.name] = function
        yield info, functions


def _check_parameters(where: str, method: ContractMethod, function: Callable[..., Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    takes_more = {parameter.kind for parameter in parameters}
    by_position = [one for one in parameters if one.kind in _BY_POSITION]
    by_name = {one.name for one in parameters if one.kind in _BY_NAME}
    declared, keywords = method.signature.params.__struct_fields__, method.signature.keywords
    positional = declared[: len(declared) - len(keywords)]
    for place, name in enumerate(positional):
        if place >= len(by_position):
            if inspect.Parameter.VAR_POSITIONAL in takes_more:
                break
            wrong = " takes it by name alone" if name in by_name else " does not"
            raise ContractError(f"{where}: the contract has parameter {name!r}, this{wrong}")
        own = by_position[place]
        if own.name != name:
            raise ContractError(
                f"{where}: parameter {place + 1} is {name!r} in the contract, {own.name!r} here"
            )
        if own.kind is own.POSITIONAL_ONLY:
            raise ContractError(
                f"{where}: parameter {name!r} is positional only here; callers may name it"
            )
    for name in keywords:
        if name not in by_name and inspect.Parameter.VAR_KEYWORD not in takes_more:
            raise ContractError(
                f"{where}: the contract has parameter {name!r}, by name alone; this does not"
            )
    for own in parameters:
        if (
            own.name not in declared
            and own.default is own.empty
            and own.kind not in {own.VAR_POSITIONAL, own.VAR_KEYWORD}
        ):
            raise ContractError(f"{where}: it needs {own.name!r}, which the contract does not have")


def _check_types(where: str, method: ContractMethod, function: Callable[..., Any]) -> None:
    own = annotations_of(function)
    for field in msgspec.structs.fields(method.signature.params):
        kind = own.get(field.name, Any)
        if not fits(field.type, kind):
            raise ContractError(
                f"{where}: parameter {field.name!r} is {type_name(field.type)} in the contract, "
                f"{type_name(kind)} here"
            )
    result, kind = method.signature.result, own.get("return", Any)
    if not fits(kind, result):
        raise ContractError(
            f"{where}: its result is {type_name(result)} in the contract, {type_name(kind)} here"
        )
