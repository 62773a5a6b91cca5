"""Log lines that are kept with the trace of the call that they were made in, where a peer asks.

A call that does not log pays nothing for it, and a record of a peer that has not asked a look at a
context variable, if another peer of the process has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from math import inf
from typing import get_args

import msgspec

from mesh.environment import KEEP_LOGS
from mesh.errors import SettingError
from mesh.logs import Level
from mesh_telemetry.current import innermost, serving

kept_from: ContextVar[float] = ContextVar("mesh_kept_from", default=inf)
"""The lowest number of a level whose records are kept; set around the calls of a peer that asks."""

LONGEST_RENDERED = 64 << 10
"""Characters of a line that may be looked at for being a rendered object: about 0.1 ms."""

_installing = threading.Lock()
_installed = False


def choose_level(given: str | None) -> float:
    """From which level on a peer keeps its lines, as a number of `logging`; infinite for none.

    Args:
        given: What the program says; ``MESH_KEEP_LOGS`` counts where that is None.

    Raises:
        ValueError: The program names no level.
        SettingError: The variable does not.
    """
    name = given if given is not None else os.environ.get(KEEP_LOGS, "")
    if given is None and not name:
        return inf
    levels = get_args(Level)
    if name.lower() not in levels:
        wrong = f"must be one of {', '.join(levels)}, not {name!r}"
        if given is None:
            raise SettingError(f"{KEEP_LOGS} {wrong}")
        raise ValueError(f"keep_logs {wrong}")
    return float(logging.getLevelNamesMapping()[name.upper()])


def install() -> None:
    """See the records that the loggers of this process let through, from now on.

    A handler on the root logger would not do: with one there, `logging.basicConfig` does nothing,
    and warnings of programs without any logging are shown nowhere; `logging.config` removes it, and
    loggers that do not propagate pass it by. A record factory would come before the filters. So the
    method is wrapped that hands a record to its handlers.
    """
    global _installed  # noqa: PLW0603 - as the class that is changed, it is the process's own
    with _installing:
        if _installed:
            return
        _installed = True
        call_handlers = logging.Logger.callHandlers

        def keep_and_call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
            # One made by hand may be anything: whether that is a fault is for its handlers to say.
            with contextlib.suppress(Exception):
                _keep(record)
            call_handlers(self, record)

        logging.Logger.callHandlers = keep_and_call_handlers  # type: ignore[method-assign]


def _keep(record: logging.LogRecord) -> None:
    """Keep what a record says, but none of its arguments and fields, and no traceback."""
    if record.levelno < kept_from.get():
        return
    span = serving()
    # The mesh's own records are left out: the trace tells their matter by itself.
    if span is None or not span.is_recording() or str(record.name).partition(".")[0] == "mesh":
        return
    told = span.get_span_context()
    where = innermost(told.trace_id.to_bytes(16), told.span_id)
    at = record.created * 1e9
    span.add_line(where, record.levelno, record.levelname, _message(record), at)


def _message(record: logging.LogRecord) -> str:
    try:
        message = record.msg
        if isinstance(message, Mapping) and "event" in message:
            # What structlog wraps for its formatter; all else in it is bound values.
            return str(message["event"])
        return _event_of(record.getMessage())
    except Exception as fault:  # noqa: BLE001 - whatever a user's __str__ raises
        return f"<its text raised {type(fault).__name__}>"


class _Rendered(msgspec.Struct):
    """A line that structlog's renderer has made of an event and the values bound to it."""

    event: str


_decoder = msgspec.json.Decoder(_Rendered)


def _event_of(text: str) -> str:
    """The event of a line that is a rendered JSON object with one; else the line as it is."""
    if text[:1] == "{" and len(text) <= LONGEST_RENDERED and '"event"' in text:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeError):
            return _decoder.decode(text).event
    return text
