"""Values of payloads as short texts without their secrets, no longer than there is room."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mesh.gateway.redacting import (
    LONGEST,
    REDACTED,
    Kinds,
    is_secret,
    names_secret,
    redact_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DEEPEST = 30
"""Values within values that are told."""
MOST_STEPS = 8192
"""Values, and characters of texts and names, that are looked at for one preview."""
_MOST_FIELDS = 512
"""Fields of a map that fit into a preview."""
_MOST_BITS = 128
"""Of an integer that is told."""
NOTHING = Kinds((), {})
"""Where there is no schema."""


class Preview(NamedTuple):
    """The beginning of a value."""

    text: str
    """Compact JSON; what that cannot hold is told in words."""
    whole: bool


class _Enough(Exception):  # noqa: N818 - nothing is wrong
    """So much has been looked at that the rest is not."""


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
    try:
        for piece in _Walk().pieces(value, kinds, 0):  # no further than there is room
            if len(piece) > room:
                return Preview("".join([*parts, piece[:room]]), whole=False)
            parts.append(piece)
            room -= len(piece)
    except _Enough:
        return Preview("".join(parts), whole=False)
    return Preview("".join(parts), whole=True)


class _Walk:
    """Through one value, piece by piece, with a bound on what is looked at."""

    def __init__(self) -> None:
        self._left = MOST_STEPS

    def pieces(self, value: Any, kinds: Kinds, depth: int) -> Iterator[str]:
        """A value's text; raises `_Enough` where the rest is not looked at."""
        self._step(1)
        if kinds.is_secret:
            yield _quote(REDACTED)
        elif depth > DEEPEST:
            yield _quote("...")
        elif isinstance(value, dict):
            yield from self._map(value, kinds, depth)
        elif isinstance(value, (list, tuple)):
            if kinds.lacks_names:
                yield _quote(f"<{len(value)} values without names>")
            else:
                yield from self._list(value, kinds, depth)
        elif value is None or isinstance(value, (bool, int, float)):
            yield _number(value)
        elif isinstance(value, bytes):
            yield _quote(f"<{len(value):,} bytes>")
        elif isinstance(value, msgspec.msgpack.Ext):
            yield _quote(f"<extension of type {value.code}>")
        else:  # text, or a time, which MessagePack has and JSON tells by RFC 3339
            yield self._text(str(msgspec.to_builtins(value)))

    def _map(self, value: dict[Any, Any], kinds: Kinds, depth: int) -> Iterator[str]:
        names = sum(map(self._names_secret, islice(value.values(), _MOST_FIELDS)))
        between = "{"
        for key, item in value.items():
            name = _name(key)
            yield f"{between}{self._key(key, kinds)}:"
            # {"name": "Cookie", "value": ...}; of two such names, one may be a value.
            told = not names or (names == 1 and names_secret(item))
            if is_secret(name) or not told:
                yield _quote(REDACTED)
            else:
                yield from self.pieces(item, kinds.field(name), depth + 1)
            between = ","
        yield "}" if value else "{}"

    def _list(self, value: list[Any] | tuple[Any, ...], kinds: Kinds, depth: int) -> Iterator[str]:
        between, named = "[", False
        for at, item in enumerate(value):
            yield between
            if named:  # headers as pairs, arguments of a program
                yield _quote(REDACTED)
            else:
                yield from self.pieces(item, kinds.item(at), depth + 1)
            between, named = ",", self._names_secret(item)
        yield "]" if value else "[]"

    def _key(self, key: object, kinds: Kinds) -> str:
        if kinds.key().is_secret:
            return _quote(REDACTED)
        if isinstance(key, str):
            return self._text(key)
        if key is None or isinstance(key, bool):
            return _quote(str(key))
        if isinstance(key, (int, float)):
            return _quote(_number(key).strip('"'))
        return _quote(f"<{type(key).__name__}>")

    def _text(self, text: str) -> str:
        self._step(min(len(text), LONGEST))
        return _quote(redact_text(text))

    def _names_secret(self, value: object) -> bool:
        if isinstance(value, (str, bytes)):
            self._step(1 + min(len(value), LONGEST) // 16)  # less work than other texts
        return names_secret(value)

    def _step(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _Enough


def _name(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return key if isinstance(key, str) else ""


def _number(value: float | None) -> str:
    """What JSON has no quotes around, unless it is too long, none, or looks like a secret."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            return _quote(f"<integer of {value.bit_length():,} bits>")
    elif not math.isfinite(value):
        return _quote(str(value))
    elif not value.is_integer():
        return str(value)
    whole = str(int(value)) if abs(value) < 2**_MOST_BITS else ""
    return _quote(REDACTED) if redact_text(whole) != whole else str(value)


def _quote(text: str) -> str:
    return msgspec.json.encode(text.encode(errors="replace").decode()).decode()
