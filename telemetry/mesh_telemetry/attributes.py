"""Attributes as users' code gives them, made into what a span of the mesh can hold.

Users may give anything. What goes on travels as MessagePack and OTLP: text is valid Unicode,
integers have 64 bits, sequences are lists, and the whole of a span is bounded. What OTLP alone
could say is written as OpenTelemetry asks of other formats, bytes as Base64, maps and mixed arrays
as JSON:
https://opentelemetry.io/docs/specs/otel/common/#anyvalue-representation-for-non-otlp-protocols
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh_telemetry.spans import Attributes, Value

log = logging.getLogger("mesh.telemetry")

MAX_ATTRIBUTES = 128
"""Attributes of a span, and of one event or link of it; the SDK's default."""
MAX_TEXT = 16_384
"""Characters of a text, and items of a list; what is longer is clipped."""
MAX_SIZE = 262_144
"""Characters and items, roughly, of all that one span holds, so that it fits into a message."""

_INT64 = 1 << 63
_SMALL = 16
"""What a number, a flag or an entry itself takes of a span's size."""


class Bounded:
    """What one span may still hold; every attribute of it goes through here.

    Attributes:
        left: What is left of :data:`MAX_SIZE`.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_SIZE

    def spend(self, size: int) -> bool:
        """Take so much of what is left; false if there is less."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def put(self, attributes: Attributes, key: object, value: object) -> int:
        """Set one attribute.

        Like the SDK, it warns of and leaves out what no attribute can be, and lets the oldest make
        way where there are :data:`MAX_ATTRIBUTES` already.

        Returns:
            How many attributes were lost by it: 0 or 1.
        """
        if not isinstance(key, str) or not key:
            log.warning("an attribute's key must be text and not empty, not %r: left out", key)
            return 1
        cleaned = clean(value)
        if cleaned is None:
            log.warning(
                "attribute %r is left out: a value of type %s cannot be told (text, numbers, "
                "booleans and sequences of them can)",
                key,
                type(value).__name__,
            )
            return 1
        key = clean_text(key)
        if not self.spend(_SMALL + len(key) + _size(cleaned)):
            return 1
        lost = 0
        # What is set again counts as the newest.
        if attributes.pop(key, None) is None and len(attributes) >= MAX_ATTRIBUTES:
            del attributes[next(iter(attributes))]
            lost = 1
        attributes[key] = cleaned
        return lost

    def put_all(self, attributes: Attributes, more: Mapping[str, Any] | None) -> int:
        """Set several attributes; how many were lost by it."""
        return sum([self.put(attributes, key, value) for key, value in (more or {}).items()])


def clean(value: object) -> Value | None:
    """What a span can hold of a value, or None if that is nothing."""
    scalar = _scalar(value)
    if scalar is not None:
        return scalar
    if isinstance(value, bytes | bytearray):
        return clean_text(base64.b64encode(value[:MAX_TEXT]).decode())
    if isinstance(value, Sequence):
        items = [_scalar(item) for item in value[:MAX_TEXT]]
        told = [item for item in items if item is not None]
        return told if len(told) == len(items) else _as_json(list(value[:MAX_TEXT]))
    if isinstance(value, Mapping):
        return _as_json(dict(value))
    return None


def clean_text(text: str) -> str:
    """Plain text that can be encoded, and not too long."""
    text = str.__str__(text[:MAX_TEXT])  # also of an Enum with text for values
    return text if text.isascii() else text.encode(errors="replace").decode()


def clean_time(moment: Any) -> int:
    """Nanoseconds since 1970 as they travel: users, and clocks, say floats, text and worse."""
    try:
        number = int(moment)
    except (TypeError, ValueError, OverflowError):
        return 0
    return min(max(number, -_INT64), _INT64 - 1)


def _scalar(value: object) -> str | bool | int | float | None:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -_INT64 <= value < _INT64 else clean_text(hex(value))
    if isinstance(value, float):
        return float(value)  # numpy's are floats of a type of their own
    return None


def _as_json(value: object) -> str | None:
    try:
        text = json.dumps(value, default=_in_json, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return None
    return clean_text(text)


def _in_json(value: object) -> object:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError


def _size(value: Value) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum([_SMALL + len(item) if isinstance(item, str) else _SMALL for item in value])
    return 0
