"""How log records are written: JSON lines for programs, aligned lines for people.

Both show what a record carries of the call that it was made in; who puts that there is not their
business. Standard `logging` formatters, of use with any handler.
"""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

CALL_FIELDS = ("activity_id", "chain", "service", "method", "trace_id", "span_id")
"""What a record carries of its call, as attributes; ``chain`` is a sequence of text.

The names of the last two, and their lower-case hexadecimal digits, are those of
https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/."""
DIGITS = 8
"""Of a trace id for people; six are enough to ask for a trace."""

_STANDARD = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", *CALL_FIELDS}
)
_COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}


def clean(text: str) -> str:
    """Text from elsewhere, unable to steer the terminal: control characters are spelled out."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def clean_line(text: str) -> str:
    """The same for what has to stay on its line: a name is not to draw lines of its own."""
    return clean(text).replace("\n", "\\n")


def timestamp(seconds: float) -> str:
    """A moment in Unix time as RFC 3339, in UTC, to the microsecond."""
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}Z"


class JsonFormatter(logging.Formatter):
    """One JSON object per line.

    ``timestamp`` (RFC 3339, UTC), ``level``, ``logger``, ``message``; ``exception`` and ``stack``
    where there are any; the fields of :data:`CALL_FIELDS` for a record made inside a call; and what
    the program gave as ``extra``. A value that JSON cannot say is shown as Python does.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        fields: dict[str, Any] = {
            "timestamp": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in CALL_FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                fields[name] = value
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:  # it came through a queue, which formats exceptions
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        for name, value in record.__dict__.items():
            if name not in _STANDARD and name not in fields:
                fields[name] = value
        return to_line(fields)


def to_line(fields: Mapping[str, Any]) -> str:
    """A JSON object on one line, whatever the values are."""
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, default=repr)
    except (ValueError, TypeError, RecursionError):  # not a number, a circle, a strange key
        shown = {
            str(name): value if isinstance(value, str | int | None) else repr(value)
            for name, value in fields.items()
        }
        text = json.dumps(shown, ensure_ascii=False)
    # Half a surrogate pair has no UTF-8, and what this makes of it is how JSON spells it.
    return text.encode("utf-8", "backslashreplace").decode()


class PeopleFormatter(logging.Formatter):
    """One line per event: the time to the millisecond, the level, what happened, in which call.

    Of the call its chain, its activity and the first digits of its trace, where that is another id.

    Args:
        colour: Whether the terminal understands colours.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, and below it the lines of a traceback."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = record.levelname.lower().ljust(7)
        call = ""
        chain = getattr(record, "chain", None)
        activity = getattr(record, "activity_id", None)
        if chain:
            call += f"  [{' > '.join(map(str, chain))}]"
        if activity:
            call += f"  {activity}"
        trace_id = getattr(record, "trace_id", None)
        if trace_id and trace_id != activity:
            call += f"  {str(trace_id)[:DIGITS]}"
        call = clean(call)
        if self._colour:
            level = f"\x1b[{_COLOURS.get(record.levelno, '36')}m{level}\x1b[0m"
            call = call and f"\x1b[2m{call}\x1b[0m"
        first, *rest = clean(record.getMessage()).split("\n")
        lines = [f"{at}.{int(record.msecs):03d} {level} {first}{call}", *rest]
        if record.exc_info:
            lines.append(clean(self.formatException(record.exc_info)))
        elif record.exc_text:
            lines.append(clean(record.exc_text))
        if record.stack_info:
            lines.append(clean(self.formatStack(record.stack_info)))
        return "\n".join(lines).encode("utf-8", "backslashreplace").decode()
