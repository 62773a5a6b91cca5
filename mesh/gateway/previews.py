"""Values of payloads as short texts without their secrets, no longer than there is room."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mesh.gateway.redacting import REDACTED, Kinds, is_secret, names_secret, redact_text

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 2048
"""Characters of a value that are told."""
DEEPEST = 30
"""Values within values that are told."""
_LABELS = ("name", "key", "header", "field")
_LABELLED = frozenset({"value", "values", "val", "content", "data", "text"})
"""What holds the value in a map that names it beside: ``{"name": "Cookie", "value": ...}``."""
NOTHING = Kinds((), {})
"""Where there is no schema."""


class Preview(NamedTuple):
    """The beginning of a value."""

    text: str
    """Compact JSON; what that cannot hold is told in words."""
    whole: bool


def preview(value: object, kinds: Kinds = NOTHING, name: str = "") -> Preview:
    """A value as text, without its secrets.

    Args:
        value: As `msgspec` decodes it without a type.
        kinds: What its schema says of it.
        name: What it is called; for a result, its method. A map has names of its own.
    """
    if not isinstance(value, dict) and is_secret(name):
        return Preview(_quote(REDACTED), whole=True)
    parts: list[str] = []
    room = LONGEST
    for piece in _pieces(value, kinds, 0):  # no further than there is room
        if len(piece) > room:
            return Preview("".join([*parts, piece[:room]]), whole=False)
        parts.append(piece)
        room -= len(piece)
    return Preview("".join(parts), whole=True)


def _pieces(value: Any, kinds: Kinds, depth: int) -> Iterator[str]:
    if kinds.is_secret:
        yield _quote(REDACTED)
    elif depth > DEEPEST:
        yield _quote("...")
    elif isinstance(value, dict):
        yield from _map(value, kinds, depth)
    elif isinstance(value, (list, tuple)):
        if kinds.lacks_names:
            yield _quote(f"<{len(value)} values without names>")
        else:
            yield from _list(value, kinds, depth)
    elif value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, (int, float)):
        told = str(value)
        known = redact_text(told) == told and math.isfinite(value)
        yield told if known else _quote(redact_text(told))
    elif isinstance(value, bytes):
        yield _quote(f"<{len(value):,} bytes>")
    elif isinstance(value, msgspec.msgpack.Ext):
        yield _quote(f"<extension of type {value.code}>")
    else:  # text, or a time, which MessagePack has and JSON tells by RFC 3339
        yield _quote(redact_text(str(msgspec.to_builtins(value))))


def _map(value: dict[Any, Any], kinds: Kinds, depth: int) -> Iterator[str]:
    labelled = any(names_secret(value.get(label)) for label in _LABELS)
    between = "{"
    for key, item in value.items():
        name = key.decode("latin-1") if isinstance(key, bytes) else str(key)
        yield f"{between}{_key(key)}:"
        if is_secret(name) or (labelled and name.lower() in _LABELLED):
            yield _quote(REDACTED)
        else:
            yield from _pieces(item, kinds.field(name), depth + 1)
        between = ","
    yield "}" if value else "{}"


def _key(key: object) -> str:
    if isinstance(key, str):
        return _quote(redact_text(key))
    plain = key is None or isinstance(key, (bool, int, float))
    return _quote(redact_text(str(key)) if plain else f"<{type(key).__name__}>")


def _list(value: list[Any] | tuple[Any, ...], kinds: Kinds, depth: int) -> Iterator[str]:
    between, before = "[", None
    for at, item in enumerate(value):
        yield between
        if names_secret(before):  # headers as pairs, arguments of a program
            yield _quote(REDACTED)
        else:
            yield from _pieces(item, kinds.item(at), depth + 1)
        between, before = ",", item
    yield "]" if value else "[]"


def _quote(text: str) -> str:
    return msgspec.json.encode(text).decode()
