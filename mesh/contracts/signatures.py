"""Signatures of contracts' methods, as types that `msgspec` encodes, decodes and checks."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from mesh.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_PARAMETERS = 100
_LAST_LINE = -1
_ALIKE = {(int, float), (tuple, list), (frozenset, set)}
"""Types of defaults that do for another: as numbers do, or as they can be changed by nobody."""


class Signature(msgspec.Struct, frozen=True):
    """What a method takes and returns."""

    params: type[msgspec.Struct]
    """Its parameters by name, in their order; they travel as a map without those at defaults."""
    result: Any
    """The type of its result."""
    keywords: tuple[str, ...]
    """Parameters that are given by name alone; they come last."""
    needs_any: bool
    """Whether it cannot be called without parameters."""

    def arguments(self, params: msgspec.Struct) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call's arguments, by position and by name."""
        values = msgspec.structs.astuple(params)
        if not self.keywords:
            return values, {}
        count = len(values) - len(self.keywords)
        return values[:count], dict(zip(self.keywords, values[count:], strict=True))


def read_signature(
    where: str, function: Callable[..., Any], names: Mapping[str, Any], module: str
) -> Signature:
    """Understand a method of a contract.

    Args:
        where: Contract and method, which begin the message of every fault.
        function: The method.
        names: What its annotations may name beside what its module does.
        module: Where the contract is.

    Raises:
        ContractError: It cannot be called through a mesh; the message names what is at fault.
    """
    if inspect.isasyncgenfunction(function):
        raise ContractError(f"{where}: it must not `yield`: it returns its one result")
    if not inspect.iscoroutinefunction(function):
        raise ContractError(f"{where}: it must be `async def`: a call takes time")
    signature = inspect.signature(function)
    declared = list(signature.parameters.values())
    if not declared or declared[0].name != "self" or "*" in str(declared[0]):
        raise ContractError(f"{where}: its first parameter must be `self`")
    if len(declared) - 1 > MAX_PARAMETERS:
        raise ContractError(f"{where}: {len(declared) - 1} parameters exceed {MAX_PARAMETERS}")
    fields: list[tuple[str, Any, Any] | tuple[str, Any]] = []
    keywords: list[str] = []
    for parameter in declared[1:]:
        at = f"{where}: parameter {parameter.name!r}"
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise ContractError(f"{at}: a contract says which parameters there are")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ContractError(f"{at} is positional only: parameters travel by name")
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords.append(parameter.name)
        if parameter.annotation is parameter.empty:
            raise ContractError(f"{at} has no type")
        kind = _resolve(at, function, parameter.annotation, names)
        if parameter.default is parameter.empty:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, kind, _default(at, parameter.default, kind)))
    if signature.return_annotation is signature.empty:
        raise ContractError(f"{where}: its result has no type; write `-> None` where there is none")
    result = _resolve(f"{where}: its result", function, signature.return_annotation, names)
    params = msgspec.defstruct(
        function.__name__,
        fields,
        module=module,
        omit_defaults=True,
        forbid_unknown_fields=True,
        kw_only=bool(keywords),
    )
    needs_any = any(parameter.default is parameter.empty for parameter in declared[1:])
    return Signature(params, result, tuple(keywords), needs_any)


def _resolve(
    at: str, function: Callable[..., Any], annotation: Any, names: Mapping[str, Any]
) -> Any:
    """The type that an annotation means, if it can travel.

    Only this one annotation is looked at, so that a fault is told of where it is.
    """
    holder = type("holder", (), {"__annotations__": {"it": annotation}})
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        found = get_type_hints(holder, scope, dict(names), include_extras=True)["it"]
    except NameError as fault:
        raise ContractError(
            f"{at}: its type {annotation!r} cannot be found at run time ({fault}); define it above "
            "the contract, and import it outside `if TYPE_CHECKING`"
        ) from fault
    except Exception as fault:
        raise ContractError(f"{at}: its type {annotation!r} cannot be read: {fault}") from fault
    if found is object:
        found = Any
    check_type(at, found)
    return found


def check_type(at: str, kind: Any) -> None:
    """Refuse a type whose values cannot travel.

    Raises:
        ContractError: It is one; ``at`` begins the message.
    """
    try:
        msgspec.msgpack.Decoder(kind)
        msgspec.json.schema(kind)  # a decoder takes types that it cannot fill
    except Exception as fault:  # what types of the user's own raise as well
        why = str(fault).strip().splitlines()[_LAST_LINE] if str(fault).strip() else repr(fault)
        raise ContractError(f"{at}: {why}") from fault


def _default(at: str, value: Any, kind: Any) -> Any:
    """A default as a field of a structure may have it."""
    try:
        read = msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)
    except Exception as fault:
        raise ContractError(f"{at}: its default {value!r} is not of its type: {fault}") from fault
    if isinstance(value, (list, dict, set, bytearray)) and not value:
        return value  # of what is empty, each structure gets its own
    if _can_change(value):
        raise ContractError(
            f"{at}: its default {value!r} can be changed by whoever gets it; use a tuple, what is "
            "frozen, or None"
        )
    if kind is not Any and not _is_same(value, read):
        raise ContractError(
            f"{at}: its default {value!r} is not of its type: who is sent it gets {read!r}"
        )
    return value


def _can_change(value: Any) -> bool:
    """Whether a value, or what is in it, is not the same for ever."""
    if isinstance(value, (list, dict, set, bytearray)):
        return True
    if isinstance(value, (tuple, frozenset)):
        return any(map(_can_change, value))
    if isinstance(value, msgspec.Struct):
        frozen = value.__struct_config__.frozen
        return not frozen or any(map(_can_change, msgspec.structs.astuple(value)))
    if dataclasses.is_dataclass(value):
        frozen = getattr(type(value), "__dataclass_params__").frozen  # noqa: B009 - not in its type
        fields = dataclasses.fields(value)
        return not frozen or any(_can_change(getattr(value, field.name)) for field in fields)
    return False


def _is_same(value: Any, read: Any) -> bool:
    """Whether a default is what a caller that sends it has its callee get."""
    if not isinstance(value, type(read)) and (type(value), type(read)) not in _ALIKE:
        return False
    if value == read:
        return True
    # What has no comparison, and what Any holds within it.
    return msgspec.msgpack.encode(value) == msgspec.msgpack.encode(read)
