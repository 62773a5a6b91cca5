"""Whether a class does what its contracts say; told before the first call, and by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.contracts.agreeing import annotations_of
from mesh.contracts.contract import contracts_of, own_function
from mesh.contracts.overriding import check_parameters, check_types
from mesh.contracts.scoping import is_local, names_in
from mesh.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mesh.contracts.contract import ContractInfo


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
            check_parameters(where, "the contract", method.signature, function)
            types = _types_of(kind, method.name, function)
            check_types(where, "the contract", method.signature, types)
            functions[method.name] = function
        yield info, functions


def _types_of(kind: type, name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """What the annotations of an implementation's method name, as far as that is certain.

    Names within a function are known while it runs alone, when the class is made.

    Args:
        kind: The implementation.
        name: The method's.
        function: What implements it, bound.
    """
    own = own_function(function)
    for base in kind.__mro__:
        if own in (types := vars(base).get("__mesh_types__", {})):
            return dict(types[own])
    if is_local(getattr(own, "__qualname__", "")):
        return annotations_of(function, None)
    holder = next((base for base in kind.__mro__ if name in vars(base)), kind)
    return annotations_of(function, names_in(holder))
