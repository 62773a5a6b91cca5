"""How much a span may hold, by OpenTelemetry's own variables.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#attribute-limits
They hold alike for the spans of served calls and for those that users' code makes.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("mesh.telemetry")

MOST = 128
"""Attributes, events and links of a span, where nothing is said; the SDK's default."""
MAX_TEXT = 16_384
"""Characters of a text, and items of a list; what is longer is clipped. The SDK has no such limit;
here one without end would cost memory in every process that holds the span."""


class AttributeLimits(NamedTuple):
    """What the attributes of one span, one event or one link may be."""

    most: int = MOST
    length: int = MAX_TEXT
    """Characters of a text; :data:`MAX_TEXT` at most."""


class SpanLimits(NamedTuple):
    """What one span may hold; what comes after that makes the oldest go."""

    span: AttributeLimits = AttributeLimits()
    event: AttributeLimits = AttributeLimits()
    link: AttributeLimits = AttributeLimits()
    events: int = MOST
    links: int = MOST

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> SpanLimits:
        """As ``OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`` and its like say.

        As OpenTelemetry asks, values that mean nothing are logged and count as not set.
        """

        def number(name: str, default: int) -> int:
            text = environ.get(name, "").strip()
            if text.isascii() and text.isdigit():
                return int(text.lstrip("0")[:9] or "0")
            if text:
                log.warning("%s=%s is no whole number of 0 or more: ignored", name, text)
            return default

        count = number("OTEL_ATTRIBUTE_COUNT_LIMIT", MOST)
        length = min(MAX_TEXT, number("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", MAX_TEXT))
        of_span = number("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", length)
        return cls(
            AttributeLimits(
                number("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", count), min(MAX_TEXT, of_span)
            ),
            AttributeLimits(number("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", count), length),
            AttributeLimits(number("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", count), length),
            number("OTEL_SPAN_EVENT_COUNT_LIMIT", MOST),
            number("OTEL_SPAN_LINK_COUNT_LIMIT", MOST),
        )


@functools.cache
def span_limits() -> SpanLimits:
    """Those of this process, read once."""
    return SpanLimits.from_environment(os.environ)
