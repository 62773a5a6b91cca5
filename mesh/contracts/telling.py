"""Schemas of contracts in short, as people write signatures: ``get(user_id: str) -> User``.

They come from other programs, in whatever language: what cannot be understood of one is told as
``Any``, and nothing of it is trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PLAIN = {"integer": "int", "number": "float", "boolean": "bool", "null": "None", "string": "str"}
_TYPES = {*_PLAIN, "array", "object"}
_FORMATS = {
    "date-time": "datetime",
    "date": "date",
    "time": "time",
    "duration": "timedelta",
    "uuid": "UUID",
    "decimal": "Decimal",
}
_CHOICES = 6
"""Values of an enumeration that are told; there may be hundreds."""
_DEEPEST = 20
"""Types within types that are told."""
_LONGEST = 80
"""Characters of a type's name that are told: a schema may refer to it a thousand times."""


class Shape(msgspec.Struct, frozen=True):
    """A method with its parameters, an error with its details, or a type with its fields."""

    name: str
    fields: list[str]
    end: str = ""
    """What stands behind the brackets: `` -> User``."""

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.fields)}){self.end}"

    def lines(self, width: int) -> list[str]:
        """The same, with a line for each field where one line of this width has no room."""
        whole = str(self)
        if len(whole) <= width or not self.fields:
            return [whole]
        return [f"{self.name}(", *(f"    {field}," for field in self.fields), f"){self.end}"]


def method_shape(name: str, schema: Mapping[str, Any], document: Mapping[str, Any]) -> Shape:
    """A method: its parameters and its result.

    Args:
        name: Its name.
        schema: What the contract's schema says of it.
        document: The whole of that.
    """
    kinds = _map(document.get("$defs"))
    declared = _map(schema.get("params"))
    params = list(_fields(declared, kinds))
    keywords = schema.get("keywords")
    if isinstance(keywords, (list, tuple)) and keywords:
        names = list(_map(declared.get("properties")))
        if keywords[0] in names:
            params.insert(names.index(keywords[0]), "*")  # those behind it are given by name
    return Shape(name, params, f" -> {type_text(schema.get('result'), kinds)}")


def error_shape(reason: str, schema: Mapping[str, Any], document: Mapping[str, Any]) -> Shape:
    """An error that a method declares: its reason, its details and its code."""
    details = list(_fields(_map(schema.get("details")), _map(document.get("$defs"))))
    return Shape(f"raises {reason}", details, f", {schema.get('code', 'of no code')}")


def type_shapes(document: Mapping[str, Any]) -> list[Shape | str]:
    """The types that a contract names, by name: structures, or texts such as ``Colour = ...``."""
    kinds = _map(document.get("$defs"))
    found: list[Shape | str] = []
    for name, kind in sorted(kinds.items()):
        schema = _map(kind)
        title = _name(name, kinds)
        if "properties" in schema:
            found.append(Shape(title, list(_fields(schema, kinds))))
        else:
            found.append(f"{title} = {type_text(kind, kinds)}")
    return found


def type_text(schema: object, kinds: Mapping[str, Any], depth: int = 0) -> str:
    """A JSON Schema as Python would write its type.

    Args:
        schema: The schema; anything at all.
        kinds: Those with names, ``$defs``.
        depth: Types around this one.
    """
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return "Any"

    def inner(one: object) -> str:
        return type_text(one, kinds, depth + 1)

    match schema:
        case {"$ref": str(reference)}:
            return _name(reference.rpartition("/")[2], kinds)
        case {"const": value}:
            return _literal([value])
        case {"enum": list(values)}:
            return _literal(values)
        case {"anyOf": list(choices)} | {"oneOf": list(choices)}:
            return " | ".join(dict.fromkeys(inner(one) for one in choices)) or "Any"
        case {"type": list(types)}:
            # Each once: else a few lists within lists would tell what is in them a million times.
            known = dict.fromkeys(one for one in types if isinstance(one, str) and one in _TYPES)
            return " | ".join(inner({**schema, "type": one}) for one in known) or "Any"
        case {"type": "string", "contentEncoding": "base64"}:
            return "bytes"
        case {"type": "string", "format": str(form)} if form in _FORMATS:
            return _FORMATS[form]
        case {"type": "array", "prefixItems": list(items)}:
            return f"tuple[{', '.join(map(inner, items))}]"
        case {"type": "array", "uniqueItems": True, "items": items}:
            return f"set[{inner(items)}]"
        case {"type": "array", "items": items}:
            return f"list[{inner(items)}]"
        case {"type": "array"}:
            return "list"
        case {"type": "object", "title": str(title)}:
            return title[:_LONGEST]
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"dict[str, {inner(values)}]"
        case {"type": "object"}:
            return "dict"
        case {"type": str(kind)} if kind in _PLAIN:
            return _PLAIN[kind]
    return "Any"


def _fields(schema: Mapping[str, Any], kinds: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required")
    for name, kind in _map(schema.get("properties")).items():
        told = f"{name}: {type_text(kind, kinds)}"
        if isinstance(kind, dict) and "default" in kind:
            told += f" = {_value(kind['default'])}"
        elif not (isinstance(required, list) and name in required):
            told += " = ..."  # it may be left out, and has no default that can be told
        yield told


def _name(name: str, kinds: Mapping[str, Any]) -> str:
    """What a type is called: ``Page[User]``, whose key is ``Page_User_``."""
    title = _map(kinds.get(name)).get("title")
    return (title if isinstance(title, str) else name)[:_LONGEST]


def _literal(values: list[Any]) -> str:
    more = ", ..." if len(values) > _CHOICES else ""
    return f"Literal[{', '.join(map(_value, values[:_CHOICES]))}{more}]"


def _value(value: object) -> str:
    """A JSON value as Python writes it, if it is short."""
    told = repr(value)
    return told if len(told) <= 40 else "..."


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
