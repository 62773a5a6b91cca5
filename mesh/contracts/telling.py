"""Schemas of contracts in short, as people write signatures: ``get(user_id: str) -> User``.

They come from other programs, in whatever language: what cannot be understood of one is told as
``Any``, and nothing of it is trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mesh.contracts.exact import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PLAIN = {"integer": "int", "number": "float", "boolean": "bool", "null": "None", "string": "str"}
_TYPES = {*_PLAIN, "array", "object"}
_FORMATS: dict[str, str] = {
    name: getattr(kind, "__origin__", kind).__name__ for name, kind in FORMATS.items()
}
_CHOICES, _ALL_CHOICES = 6, 50
"""Values of an enumeration that are told, where it is used and where it is defined; there may be
hundreds."""
_NUMBERS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_LENGTHS = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}
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
    return Shape(f"raises {reason}", details, f": {schema.get('code', 'of no code')}")


def type_shapes(document: Mapping[str, Any]) -> list[Shape | str]:
    """The types that a contract names, by name: structures, or texts such as ``Colour = ...``."""
    kinds = _map(document.get("$defs"))
    found: list[Shape | str] = []
    for name, kind in sorted(kinds.items()):
        schema = _map(kind)
        title = _name(name, kinds)
        if "properties" in schema:
            found.append(Shape(title, list(_fields(schema, kinds))))
        elif isinstance(values := schema.get("enum", schema.get("examples")), list):
            told = _literal(values, _ALL_CHOICES, whole="enum" in schema)
            found.append(f"{title} = {told}")
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
            return "bytes" + _length(schema, " in base64")
        case {"type": "string", "format": str(form)} if form in FORMATS:
            return _FORMATS[form]
        case {"type": "string"}:
            return "str" + _length(schema) + _pattern(schema)
        case {"type": "array", "prefixItems": list(items)}:
            return f"tuple[{', '.join(map(inner, items))}]"
        case {"type": "array", "uniqueItems": True, "items": items}:
            return f"set[{inner(items)}]" + _length(schema)
        case {"type": "array", "items": items}:
            return f"list[{inner(items)}]" + _length(schema)
        case {"type": "array"}:
            return "list" + _length(schema)
        case {"type": "object", "title": str(title)}:
            return title[:_LONGEST]
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"dict[str, {inner(values)}]" + _length(schema)
        case {"type": "object"}:
            return "dict" + _length(schema)
        case {"type": str(kind)} if kind in _PLAIN:
            return _PLAIN[kind] + _range(schema)
    return "Any"


def _range(schema: Mapping[str, Any]) -> str:
    """Which numbers there may be: `` 1..9``, `` > 0 by 5``."""
    low, above, high, below = (_number(schema.get(name)) for name in _NUMBERS)
    step = _number(schema.get("multipleOf"))
    if low and high:
        told = f" {low}..{high}"
    else:
        bounds = ((">=", low), (">", above), ("<=", high), ("<", below))
        told = "".join(f" {sign} {bound}" for sign, bound in bounds if bound)
    return told + (f" by {step}" if step else "")


def _length(schema: Mapping[str, Any], unit: str = "") -> str:
    """How long it may be: `` of 1..20``."""
    low, high = (_number(schema.get(name)) for name in _LENGTHS[schema["type"]])
    if not (low or high):
        return ""
    if low and high:
        return f" of {low if low == high else f'{low}..{high}'}{unit}"
    return f" of {f'>= {low}' if low else f'<= {high}'}{unit}"


def _pattern(schema: Mapping[str, Any]) -> str:
    pattern = schema.get("pattern")
    return f" ~ {_value(pattern)}" if isinstance(pattern, str) else ""


def _number(value: object) -> str:
    """A bound; empty where there is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return _value(value) if is_number else ""


def _fields(schema: Mapping[str, Any], kinds: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required")
    for name, kind in _map(schema.get("properties")).items():
        told = f"{name}: {type_text(kind, kinds)}"
        if isinstance(kind, dict) and "default" in kind:
            told += f" = {_default(kind)}"
        elif not (isinstance(required, list) and name in required):
            told += " = ..."  # it may be left out, and has no default that can be told
        yield told


def _default(schema: Mapping[str, Any]) -> str:
    """A default as Python writes it; a set is an array to JSON."""
    value = schema["default"]
    is_empty_set = value == [] and schema.get("uniqueItems") is True
    return "set()" if is_empty_set else _value(value)


def _name(name: str, kinds: Mapping[str, Any]) -> str:
    """What a type is called: ``Page[User]``, whose key is ``Page_User_``."""
    title = _map(kinds.get(name)).get("title")
    return (title if isinstance(title, str) else name)[:_LONGEST]


def _literal(values: list[Any], most: int = _CHOICES, *, whole: bool = True) -> str:
    """Values; those that are not all end in dots."""
    more = "" if whole and len(values) <= most else ", ..."
    return f"Literal[{', '.join(map(_value, values[:most]))}{more}]"


def _value(value: object) -> str:
    """A JSON value as Python writes it, if it is short."""
    told = repr(value)
    return told if len(told) <= 40 else "..."


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
