"""Whether two types can be of the same values; where that is not certain, they can.

An implementation's annotations are its own affair: they may be missing, wider, or of another class
that is shaped alike. What is refused is what cannot be right.
"""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Collection, Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_UNIONS = {Union, types.UnionType}
_ANYTHING: set[Any] = {Any, object}
_BYTES = (bytes, bytearray, memoryview)
_WIDER = {(int, float), (int, complex), (float, complex), (bool, float), (bool, complex)}
"""Numbers that stand for others to type checkers, though they are of no subclass."""


def annotations_of(function: Callable[..., Any], names: Mapping[str, Any] | None) -> dict[str, Any]:
    """The types that a function's own annotations name, its result's as ``return``.

    Those that cannot be found at run time are left out. So are all of one that a decorator has
    made of another, as it may have changed them; what runs a plain function in a thread does not.

    Args:
        function: The function.
        names: What they may name beside what its module does; None where that is not known, and a
            name of the module may be that of something else.
    """
    wrapped = getattr(function, "__wrapped__", None)
    if inspect.iscoroutinefunction(wrapped):
        return {}
    scope = {} if names is None else getattr(wrapped or function, "__globals__", {})
    found: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = type("holder", (), {"__annotations__": {"it": annotation}})
        try:
            found[name] = get_type_hints(holder, scope, dict(names or {}))["it"]
        except Exception:  # noqa: BLE001, S112 - whatever an annotation's own code raises
            continue
    return found


def fits(value: Any, place: Any) -> bool:
    """Whether values of one type can stand where another one is written.

    Args:
        value: The values' type.
        place: What is written there.
    """
    places = _choices(place)
    return all(any(_one_fits(one, other) for other in places) for one in _choices(value))


def type_name(kind: Any) -> str:
    """A type as people write it."""
    return kind.__qualname__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _choices(kind: Any) -> list[Any]:
    """The members of a union; any other type is its only one."""
    if get_origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    if hasattr(kind, "__supertype__"):  # a NewType
        return _choices(kind.__supertype__)
    if get_origin(kind) in _UNIONS:
        return [choice for one in get_args(kind) for choice in _choices(one)]
    if get_origin(kind) is Literal:
        return [type(one) for one in get_args(kind)]
    return [type(None) if kind is None else kind]


def _one_fits(value: Any, place: Any) -> bool:
    kind, wanted = (dict if is_typeddict(one) else get_origin(one) or one for one in (value, place))
    if not (isinstance(kind, type) and isinstance(wanted, type)) or {kind, wanted} & _ANYTHING:
        return True  # a type variable, an alias
    if not _class_fits(kind, wanted):
        return False
    inner, outer = get_args(value), get_args(place)
    if kind is not wanted or len(inner) != len(outer) or Ellipsis in {*inner, *outer}:
        return True
    return all(fits(one, other) for one, other in zip(inner, outer, strict=True))


def _class_fits(kind: type, wanted: type) -> bool:
    try:
        if issubclass(kind, wanted) or (kind, wanted) in _WIDER:
            return True
    except TypeError:
        return True  # a protocol that cannot be asked at run time
    if kind.__qualname__ == wanted.__qualname__:
        return True  # one module that was loaded twice: as the program, and as what it imports
    either = (kind, wanted)
    if any(issubclass(one, enum.Enum) for one in either):
        return True  # its values are of whatever type
    own, its = _fields(kind), _fields(wanted)
    if own and its:
        return not own.isdisjoint(its)
    if own or its:
        return any(issubclass(one, Mapping) for one in either)
    return all(map(_is_sequence, either)) or all(issubclass(one, _BYTES) for one in either)


def _is_sequence(kind: type) -> bool:
    return issubclass(kind, Collection) and not issubclass(kind, (str, Mapping, *_BYTES))


def _fields(kind: type) -> set[str]:
    """What a class says that its instances have."""
    return {name for base in kind.__mro__ for name in vars(base).get("__annotations__", ())}
