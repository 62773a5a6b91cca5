"""Logs that know their call: `logging` records and `structlog` events carry what a handler serves.

Nothing here is done unasked: a program's logging is its own. :func:`configure` is for a program
that has none, :class:`CallFilter` for one that has.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Literal, get_args

from mesh import context
from mesh_telemetry.current import innermost
from mesh_telemetry.logs import CALL_FIELDS, JsonFormatter, PeopleFormatter

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

__all__ = ["CallFilter", "Format", "Level", "call_fields", "configure", "structlog_processor"]

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["people", "json"]


def call_fields() -> dict[str, Any]:
    """What a log record says of the call that this code serves.

    ``activity_id``, ``chain``, ``service``, ``method``, ``trace_id`` and ``span_id`` (32 and 16
    hexadecimal digits). The span is the one that the handler is in: the call's own, or that which
    your code made around this with OpenTelemetry.
    Outside a handler only the activity id, inside ``with mesh.activity()``; else nothing.
    """
    call = context.current.get()
    if call is None:
        activity = context.current_activity.get()
        return {} if activity is None else {"activity_id": activity}
    return {
        "activity_id": call.activity_id,
        "chain": list(call.chain),
        "service": call.service,
        "method": call.method,
        "trace_id": call.trace_id.hex(),
        "span_id": f"{innermost(call.trace_id, call.own_span):016x}",
    }


class CallFilter(logging.Filter):
    """Adds :func:`call_fields` to every record, as attributes; lets all pass.

    Add it to a handler, where it sees the records of every logger. Attributes that a record has
    already are left alone; those that its moment has no value for are None, so that a format string
    may name them all.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(mesh.logs.CallFilter())
        >>> handler.setFormatter(logging.Formatter("%(activity_id)s %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields."""
        fields = call_fields()
        attributes = record.__dict__
        for name in CALL_FIELDS:
            if attributes.get(name) is None:
                attributes[name] = fields.get(name)
        return True


def structlog_processor(
    _logger: object, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A `structlog <https://www.structlog.org>`_ processor that adds :func:`call_fields`.

    What the event or its bound values name themselves stays.

    Example:
        >>> structlog.configure(
        ...     processors=[mesh.logs.structlog_processor, structlog.processors.JSONRenderer()]
        ... )
    """
    for name, value in call_fields().items():
        event_dict.setdefault(name, value)
    return event_dict


class _Handler(logging.StreamHandler["TextIO"]):
    """Ours, to be told from others when logging is configured again."""


def configure(
    level: Level | None = None,
    format: Format | None = None,  # noqa: A002 - logging's own word
    *,
    stream: TextIO | None = None,
) -> None:
    """Log to one stream, with what every record's call was. For programs that have no logging yet.

    The root logger gets one handler; called again, it replaces that one and no other.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``; ``MESH_LOG_LEVEL``, else ``info``,
            where None.
        format: ``people`` for short, aligned lines, ``json`` for one object per line;
            ``MESH_LOG_FORMAT``, else ``people``, where None.
        stream: Standard error where None.

    Raises:
        ValueError: There is no such level or format.
    """
    level_name = _choose("level", level, get_args(Level), "info")
    format_name = _choose("format", format, get_args(Format), "people")
    out = stream if stream is not None else sys.stderr
    handler = _Handler(out)
    handler.addFilter(CallFilter())
    colour = out is not None and out.isatty() and not os.environ.get("NO_COLOR")
    handler.setFormatter(
        JsonFormatter() if format_name == "json" else PeopleFormatter(colour=colour)
    )
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level_name.upper())


def _choose(what: str, given: str | None, known: tuple[str, ...], default: str) -> str:
    variable = f"MESH_LOG_{what.upper()}"
    name = given or os.environ.get(variable) or default
    if name not in known:
        source = "" if given else f" ({variable})"
        raise ValueError(f"log {what} must be one of {', '.join(known)}, not {name!r}{source}")
    return name
