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

from mesh_telemetry.span_limits import MAX_TEXT, span_limits
from mesh_telemetry.weights import ENTRY, text_weight, value_weight

if TYPE_CHECKING:
    from mesh_telemetry.span_limits import AttributeLimits
    from mesh_telemetry.spans import Attributes, Value

log = logging.getLogger("mesh.telemetry")

MAX_SIZE = 262_144
"""Bytes, roughly, of all that one span holds, so that it fits into memory and into a message."""

_INT64 = 1 << 63


class Bounded:
    """What one span may still hold; every attribute of it goes through here.

    Attributes:
        limits: How much of each there may be.
        left: What is left of :data:`MAX_SIZE`.
    """

    __slots__ = ("left", "limits")

    def __init__(self) -> None:
        self.limits = span_limits()
        self.left = MAX_SIZE

    @property
    def used(self) -> int:
        """What is in the span takes so much."""
        return MAX_SIZE - self.left

    def spend(self, size: int) -> bool:
        """Take so much of what is left; false if there is less."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def free(self, size: int) -> None:
        """Give back what something took that has made way."""
        self.left += size

    def put(
        self, attributes: Attributes, key: object, value: object, limits: AttributeLimits
    ) -> int:
        """Set one attribute.

        Like the SDK, it warns of and leaves out what no attribute can be, and lets the oldest make
        way where there are as many as there may be.

        Args:
            attributes: Are changed.
            key: Any object.
            value: Likewise.
            limits: Those of a span, an event or a link.

        Returns:
            How many attributes were lost by it: 0 or 1.
        """
        if not isinstance(key, str) or not key:
            log.warning("an attribute's key must be text and not empty, not %r: left out", key)
            return 1
        cleaned = clean(value, limits.length)
        if cleaned is None:
            log.warning(
                "attribute %r is left out: a value of type %s cannot be told (text, numbers, "
                "booleans and sequences of them can)",
                key,
                type(value).__name__,
            )
            return 1
        key = clean_text(key)
        if not limits.most:
            return 1
        old, oldest = attributes.get(key), None
        if old is None and len(attributes) >= limits.most:
            oldest = next(iter(attributes))
        freed = 0 if old is None else _entry_weight(key, old)
        if oldest is not None:
            freed += _entry_weight(oldest, attributes[oldest])
        if not self.spend(_entry_weight(key, cleaned) - freed):
            return 1
        attributes.pop(key, None)  # what is set again counts as the newest
        if oldest is not None:
            del attributes[oldest]
        attributes[key] = cleaned
        return 0 if oldest is None else 1

    def put_all(
        self, attributes: Attributes, more: Mapping[str, Any] | None, limits: AttributeLimits
    ) -> int:
        """Set several attributes; how many were lost by it."""
        return sum([self.put(attributes, key, one, limits) for key, one in (more or {}).items()])


def clean(value: object, longest: int = MAX_TEXT) -> Value | None:
    """What a span can hold of a value, or None if that is nothing.

    Args:
        value: Any object.
        longest: Characters that a text may have.
    """
    scalar = _scalar(value, longest)
    if scalar is not None:
        return scalar
    if isinstance(value, bytes | bytearray):
        return clean_text(base64.b64encode(value[:MAX_TEXT]).decode(), longest)
    if isinstance(value, Sequence):
        items = [_scalar(item, longest) for item in value[:MAX_TEXT]]
        told = [item for item in items if item is not None]
        return told if len(told) == len(items) else _as_json(list(value[:MAX_TEXT]), longest)
    if isinstance(value, Mapping):
        return _as_json(dict(value), longest)
    return None


def clean_text(text: str, longest: int = MAX_TEXT) -> str:
    """Plain text that can be encoded, and not too long."""
    text = str.__str__(text[:longest])  # also of an Enum with text for values
    return text if text.isascii() else text.encode(errors="replace").decode()


def clean_time(moment: Any) -> int:
    """Nanoseconds since 1970 as they travel: users, and clocks, say floats, text and worse."""
    try:
        number = int(moment)
    except (TypeError, ValueError, OverflowError):
        return 0
    return min(max(number, -_INT64), _INT64 - 1)


def _scalar(value: object, longest: int) -> str | bool | int | float | None:
    if isinstance(value, str):
        return clean_text(value, longest)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -_INT64 <= value < _INT64 else clean_text(hex(value))
    if isinstance(value, float):
        return float(value)  # numpy's are floats of a type of their own
    return None


def _as_json(value: object, longest: int) -> str | None:
    try:
        text = json.dumps(value, default=_in_json, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return None
    return clean_text(text, longest)


def _in_json(value: object) -> object:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError


def _entry_weight(key: str, value: Value) -> int:
    return ENTRY + text_weight(key) + value_weight(value)
