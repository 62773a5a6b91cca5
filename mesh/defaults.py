"""Dataclasses as their constructors would make them: decoded ones lack fields at their defaults.

`msgspec` leaves a plain default to the class's attribute, and encodes what is in the instance: who
passes on a value that was decoded would lose the field.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import TYPE_CHECKING, Any, get_origin

from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Read = Callable[[bytes], Any]
    Fill = Callable[[Any, set[int]], None]
    """Completes a value and what is in it, and knows by their ids which ones it has seen."""
    Choices = dict[type, Fill]
    """What completes values, by their classes: those of a union, and none for None."""

_COLLECTIONS: dict[type[inspect.Type], type] = {
    inspect.ListType: list,
    inspect.VarTupleType: tuple,
    inspect.SetType: set,
    inspect.FrozenSetType: frozenset,
}


def completing(read: Read, kind: Any) -> Read:
    """What reads values of a type with all their fields: itself, where none of them can lack any.

    Args:
        read: What decodes into the type.
        kind: The type.
    """
    choices = _Preparing().prepare(inspect.type_info(kind))
    if not choices:
        return read

    def read_all(payload: bytes) -> Any:
        value = read(payload)
        if (fill := choices.get(type(value))) is not None:
            fill(value, set())
        return value

    return read_all


def _can_lack(info: inspect.Type, seen: set[int]) -> bool:
    """Whether a value of a type, or what is in it, can lack fields."""
    if id(info) in seen:  # a type within itself
        return False
    seen.add(id(info))
    return bool(_plain_defaults(info)) or any(_can_lack(part, seen) for part in _parts(info))


def _parts(info: inspect.Type) -> Iterator[inspect.Type]:
    """The types that values of a type hold."""
    match info:
        case inspect.Metadata(type=one) | inspect.CollectionType(item_type=one):
            yield one
        case inspect.UnionType(types=types) | inspect.TupleType(item_types=types):
            yield from types
        case inspect.DictType(value_type=one):  # no key is a map
            yield one
        case (
            inspect.StructType(fields=fields)
            | inspect.DataclassType(fields=fields)
            | inspect.TypedDictType(fields=fields)
            | inspect.NamedTupleType(fields=fields)
        ):
            yield from (field.type for field in fields)


def _plain_defaults(info: inspect.Type) -> dict[str, Any]:
    """The fields that a dataclass leaves to its class, with their values."""
    if not isinstance(info, inspect.DataclassType):
        return {}
    cls = _class_of(info.cls)
    if not dataclasses.is_dataclass(cls) or not getattr(cls, "__dictoffset__", 0):
        return {}  # of attrs, which keeps no default in the class; or with slots, which are filled
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.init and field.default is not dataclasses.MISSING
    }


def _class_of(cls: Any) -> Any:
    """The class that instances have, of ``Page[User]``, too."""
    return get_origin(cls) or cls


class _Preparing:
    """Prepares what completes the values of a type and of those within it, each type once."""

    def __init__(self) -> None:
        self._made: dict[int, _Holder] = {}

    def prepare(self, info: inspect.Type) -> Choices:
        """What completes values of a type, by their classes; empty where none can lack a field."""
        match info:
            case inspect.Metadata(type=one):
                return self.prepare(one)
            case _ if not _can_lack(info, set()):
                return {}
            case inspect.UnionType(types=types):
                return {cls: fill for one in types for cls, fill in self.prepare(one).items()}
            case inspect.CollectionType(item_type=one):
                return {_COLLECTIONS[type(info)]: _each(self.prepare(one), iter)}
            case inspect.DictType(value_type=one):
                return {dict: _each(self.prepare(one), dict.values)}
            case inspect.TupleType(item_types=types):
                return {tuple: self._holder(info, enumerate(types), operator.getitem)}
            case inspect.TypedDictType(fields=fields):
                return {dict: self._holder(info, _named(fields), dict.get)}
            case (
                inspect.StructType(cls=cls, fields=fields)
                | inspect.DataclassType(cls=cls, fields=fields)
                | inspect.NamedTupleType(cls=cls, fields=fields)
            ):
                return {_class_of(cls): self._holder(info, _named(fields), _attribute)}
        return {}

    def _holder(
        self,
        info: inspect.Type,
        parts: Iterable[tuple[Any, inspect.Type]],
        get: Callable[[Any, Any], Any],
    ) -> Fill:
        made = self._made.get(id(info))
        if made is None:
            made = self._made[id(info)] = _Holder(_plain_defaults(info), get)
            found = ((place, self.prepare(part)) for place, part in parts)  # one may be of it
            made.places = [(place, choices) for place, choices in found if choices]
        return made.fill


class _Holder:
    """Completes what has other values at known places, and may have defaults of its own."""

    def __init__(self, defaults: dict[str, Any], get: Callable[[Any, Any], Any]) -> None:
        self._defaults, self._get = defaults, get
        self.places: list[tuple[Any, Choices]] = []

    def fill(self, value: Any, seen: set[int]) -> None:
        if id(value) in seen:  # a `__post_init__` may have made a circle
            return
        seen.add(id(value))
        if self._defaults:
            own = value.__dict__
            for name, default in self._defaults.items():
                own.setdefault(name, default)
        for place, choices in self.places:
            part = self._get(value, place)
            if (fill := choices.get(type(part))) is not None:
                fill(part, seen)


def _each(choices: Choices, parts: Callable[[Any], Iterable[Any]]) -> Fill:
    def fill_each(value: Any, seen: set[int]) -> None:
        for part in parts(value):
            if (fill := choices.get(type(part))) is not None:
                fill(part, seen)

    return fill_each


def _named(fields: Iterable[inspect.Field]) -> Iterator[tuple[str, inspect.Type]]:
    return ((field.name, field.type) for field in fields)


def _attribute(value: Any, name: str) -> Any:
    return getattr(value, name, None)
