"""JSON Schemas that can be relied on: those of `msgspec`, with what it leaves out put in.

Times that may be naive get a format, by the names that validators have for these
(https://ajv.js.org/packages/ajv-formats.html, https://spec.openapis.org/registry/format/), and no
schema refuses what a decoder takes.
"""

from __future__ import annotations

import enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, inspect

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMATS: dict[str, Any] = {
    "date-time": Annotated[datetime, Meta(tz=True)],
    "date-time-local": Annotated[datetime, Meta(tz=False)],
    "iso-date-time": datetime,
    "date": date,
    "time": Annotated[time, Meta(tz=True)],
    "partial-time": Annotated[time, Meta(tz=False)],
    "iso-time": time,
    "duration": timedelta,
    "uuid": UUID,
    "decimal": Decimal,
}
"""The types of texts, by the formats that schemas have for them."""

REFERENCE = "#/$defs/{name}"
_MARKS = (("writeOnly", True), ("format", "password"))
"""How JSON Schema marks what is not to be read back, and OpenAPI what is not to be seen."""


def is_marked(schema: dict[str, Any]) -> bool:
    """Whether a schema itself says that its values are not to be seen."""
    return any(schema.get(name) == mark for name, mark in _MARKS)


def tell_format_fault(value: str, form: str) -> str:
    """Why a text is not of a format; empty where it is, or the format is unknown."""
    kind = FORMATS.get(form)
    if kind is not None:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as fault:
            return str(fault)
    return ""


def schemas_of(kinds: Iterable[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The JSON Schemas of types, and of those with names that these refer to.

    They are of draft 2020-12 (https://json-schema.org/draft/2020-12).
    """
    kinds = list(kinds)
    found, definitions = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    mending = _Mending(definitions)
    for kind, schema in zip(inspect.multi_type_info(kinds), found, strict=True):
        mending.mend(kind, schema)
    return list(found), definitions


class _Mending:
    """Goes through types and their schemas side by side."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._seen: set[str] = set()

    def mend(self, kind: inspect.Type, schema: dict[str, Any], *, tagged: bool = False) -> None:
        """Mend a schema of a type; ``tagged`` where a tag tells one structure from others."""
        while isinstance(kind, inspect.Metadata):
            if is_marked(kind.extra_json_schema or {}):
                schema["writeOnly"] = True  # left out beside a reference in a union
            kind = kind.type
        name = schema.get("$ref", "").removeprefix(REFERENCE.format(name=""))
        schema = self._definitions[name] if name else schema
        if (
            isinstance(kind, inspect.StructType)
            and not tagged
            and kind.tag_field in schema.get("required", ())
        ):
            schema["required"].remove(kind.tag_field)
        if name in self._seen:
            return
        if name:
            self._seen.add(name)
        match kind:
            case inspect.DateTimeType(tz=tz) if tz is not True:
                schema["format"] = "iso-date-time" if tz is None else "date-time-local"
            case inspect.TimeType(tz=None):
                schema["format"] = "iso-time"
            case inspect.StrType():
                if not is_marked(schema):  # of its author's, and for people: nobody checks it
                    schema.pop("format", None)
            case inspect.EnumType(cls=cls) if _takes_others(cls):
                schema["examples"] = schema.pop("enum")
            case inspect.UnionType(types=types):
                self._mend_union(types, schema)
            case inspect.TupleType(item_types=types):
                self._mend_all(types, schema.get("prefixItems", []))
            case inspect.CollectionType(item_type=one) if "items" in schema:
                self.mend(one, schema["items"])
            case inspect.DictType(key_type=key, value_type=one):
                for part, name in ((key, "propertyNames"), (one, "additionalProperties")):
                    if name in schema:
                        self.mend(part, schema[name])
            case (
                inspect.StructType(fields=fields)
                | inspect.DataclassType(fields=fields)
                | inspect.TypedDictType(fields=fields)
                | inspect.NamedTupleType(fields=fields)
            ):
                if "properties" in schema:
                    schemas = [schema["properties"][field.encode_name] for field in fields]
                else:  # an array, whose tag comes first
                    schemas = schema["prefixItems"][-len(fields) :] if fields else []
                self._mend_all([field.type for field in fields], schemas)

    def _mend_all(self, kinds: Iterable[inspect.Type], schemas: Iterable[dict[str, Any]]) -> None:
        for kind, schema in zip(kinds, schemas, strict=False):
            self.mend(kind, schema)

    def _mend_union(self, kinds: Iterable[inspect.Type], schema: dict[str, Any]) -> None:
        """The members of a union, of which structures come behind others, and None comes last."""
        told = [
            choice
            for one in schema["anyOf"]
            for choice in (one["anyOf"] if "discriminator" in one else [one])
        ]
        ordered = sorted(kinds, key=lambda kind: _place(_bare(kind)))
        tagged = sum(isinstance(_bare(one), inspect.StructType) for one in ordered) > 1
        for kind, choice in zip(ordered, told, strict=True):
            self.mend(kind, choice, tagged=tagged)


def _bare(kind: inspect.Type) -> inspect.Type:
    """A type without what is said beside it."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _place(kind: inspect.Type) -> int:
    if isinstance(kind, inspect.StructType) and not kind.array_like:
        return 1
    return 2 if isinstance(kind, inspect.NoneType) else 0


def _takes_others(kind: type[enum.Enum]) -> bool:
    """Whether an enumeration has a say in values that it does not list."""
    return getattr(kind._missing_, "__func__", None) is not getattr(
        enum.Enum._missing_, "__func__", None
    )
