"""What spans take in memory, in bytes, estimated from what differs: their texts and attributes.

Exact figures would cost more than the spans. These are right within a third for what calls make of
themselves, and rather too high than too low for what is large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh_telemetry.spans import Span, SpanEvent

ENTRY = 130
"""One attribute beside its texts: the two objects, and their place in a map."""
ITEM = 40
"""One item of a list."""
SPAN = 100
"""A span, its ids, and where the store finds it; a part of that is in its attributes, as the names
of the mesh's own are the same objects in all spans."""
EVENT = 250
"""An event or a link."""


def text_weight(text: str) -> int:
    """A text. Python keeps one to four bytes for each character, by the widest of all."""
    return len(text) if text.isascii() else 4 * len(text)


def value_weight(value: object) -> int:
    """Any value that an attribute may have, however deep."""
    size, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            size += text_weight(one)
        elif isinstance(one, bytes | bytearray):
            size += len(one)
        elif isinstance(one, list | tuple):
            size += ITEM * len(one)
            rest += one
        elif isinstance(one, int | float | None):
            pass
        elif isinstance(one, Mapping):  # asked last: abstract classes are slow to say no
            size += ENTRY * len(one)
            rest += one.keys()
            rest += one.values()
        elif isinstance(one, Sequence):
            size += ITEM * len(one)
            rest += one
    return size


_PLAIN = frozenset((int, float, bool))


def attributes_weight(attributes: Mapping[str, object] | None) -> int:
    """Attributes of a span, an event, a link or a resource. For every span, hence no calls."""
    if not attributes:
        return 0
    size = ENTRY * len(attributes)
    keys = "".join(attributes)
    size += len(keys) if keys.isascii() else sum(map(text_weight, attributes))
    for value in attributes.values():
        kind = type(value)
        if kind is str:
            size += len(value) if value.isascii() else 4 * len(value)  # type: ignore[attr-defined, arg-type]
        elif kind not in _PLAIN:
            size += value_weight(value)
    return size


def event_weight(event: SpanEvent) -> int:
    """An event of a span."""
    return EVENT + text_weight(event.name) + attributes_weight(event.attributes)


def span_weight(span: Span) -> int:
    """A span as the gateway holds it."""
    size = SPAN + text_weight(span.name) + attributes_weight(span.attributes)
    size += text_weight(span.status_message) + len(span.trace_state) + len(span.scope)
    for event in span.events:
        size += event_weight(event)
    for link in span.links:
        size += EVENT + attributes_weight(link.attributes)
    return size
