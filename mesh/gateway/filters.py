"""Which kept traces, ended calls or changes somebody asks for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

import msgspec

from mesh.errors import InvalidArgument
from mesh.units import parse_duration
from mesh.wire.codec import is_activity_id
from mesh_telemetry import CODE_NAMES, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MOST = 1000
"""Traces that one list may have, calls that one look of a tap may tell."""
LONGEST_WAIT = 1.0
"""Seconds that a tap waits for a call to end."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TRACEPARENT = re.compile(r"(?:traceparent: *)?[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_LONGEST_NAME = 257
"""Characters of a method with its service."""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: that which fits all of it."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """Read filters as people and programs write them; empty ones ask for nothing.

        Args:
            given: By name; numbers may be text, and ``min_duration`` may have a unit: ``250ms``.

        Raises:
            InvalidArgument: A filter is not known, or cannot be that; the message names it and what
                it takes.
        """
        known = cls.__struct_fields__
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name not in known:
                raise InvalidArgument(f"no filter {name!r:.60}; there are {', '.join(known)}")
            if value is not None and value != "":
                found[name] = _READ[name](name, value)
        return cls(**found)


class TraceFilters(Filters, frozen=True, kw_only=True):
    """Which kept traces are asked for: those that fit all of it."""

    service: str = ""
    """A service that was called anywhere in it."""
    method: str = ""
    """Likewise, with its service or without: ``users.get`` or ``get``."""
    code: str = ""
    """How a call to that service and method ended: ``ok``, ``not_found`` and so on."""
    min_duration: float = 0.0
    """Seconds that the entry call, or one of several, took at least."""
    activity_id: str = ""
    """Of any call in it."""
    reason: str = ""
    """What spoke for keeping it: the first reason, or one of the others."""
    limit: int = 50
    """Traces at most, 1 to 1,000."""


class TapFilters(Filters, frozen=True, kw_only=True):
    """Which calls a tap is told as they end: those that fit all of it."""

    service: str = ""
    """The service called; calls of the gateway's own, `mesh`, are told where it is named here."""
    method: str = ""
    """The method called, with its service or without: ``users.get`` or ``get``."""
    caller: str = ""
    """The name of the peer that called."""
    code: str = ""
    """How it ended: ``ok``, ``not_found`` and so on."""
    min_duration: float = 0.0
    """Seconds that it took at least, at the gateway."""
    activity_id: str = ""
    tree: bool = False
    """Whether to tell the trees in which a call fits, each once its entry call has ended."""
    payloads: bool = False
    """Whether to tell what calls that fit carry, as far as method and gateway allow it."""
    limit: int = 100
    """Calls at most, or trees, 1 to 1,000; of more, a sample is told."""
    cursor: str = ""
    """Up to where calls have been told, as the last answer said; without one, up to now."""
    wait: float = LONGEST_WAIT
    """Seconds to wait for a call that fits, 0 to 1; 0 looks once."""


def read_id(pasted: str) -> list[str]:
    """What an id of a trace may mean as people paste it, the likeliest first.

    As it stands; without what is around it; without the dashes of a UUID; and the trace's id of a
    `traceparent <https://www.w3.org/TR/trace-context/#traceparent-header>`_.

    Args:
        pasted: A trace's id, its first digits, or an activity id.
    """
    found = [pasted, bare := pasted.strip()]
    if _UUID.fullmatch(bare):
        found.append(bare.replace("-", ""))
    if parent := _TRACEPARENT.fullmatch(bare):
        found.append(parent[1])
    return list(dict.fromkeys(found))


class ChangeFilters(Filters, frozen=True, kw_only=True):
    """Which changes are asked for: those that fit all of it."""

    since: float = 0.0
    """Seconds that they are back at most; 0 for all that are remembered."""
    service: str = ""
    """The service that they concern."""
    cursor: str = ""
    """Up to where changes have been told, as the last answer said."""


def read_cursor(cursor: str, gateway: str, last: int) -> int:
    """Where a reader goes on. What another gateway told says nothing of this one.

    Args:
        cursor: What the answer before said.
        gateway: The id of this one.
        last: How far it is by now.

    Raises:
        InvalidArgument: The cursor is none that this gateway, or one before it, has told.
    """
    told_by, _, at = cursor.rpartition(":")
    if told_by and at.isascii() and at.isdigit() and len(at) < 20:
        if told_by != gateway:
            return 0
        if int(at) <= last:
            return int(at)
    raise InvalidArgument(f"cursor must be what the answer before said, not {cursor!r:.60}")


def _wrong(name: str, value: object, wanted: str) -> InvalidArgument:
    return InvalidArgument(f"filter {name} must be {wanted}, not {value!r:.60}")


def _name(name: str, value: object) -> str:
    if isinstance(value, str) and len(value) <= _LONGEST_NAME:
        return value
    raise _wrong(name, value, f"the name of a {name}, at most {_LONGEST_NAME} characters")


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise _wrong(name, value, "what the answer before said")


def _flag(name: str, value: object) -> bool:
    told = {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())
    if told is None:
        raise _wrong(name, value, "true or false")
    return told


def _word(known: Iterable[str]) -> Callable[[str, object], str]:
    words = tuple(map(str, known))

    def read(name: str, value: object) -> str:
        if isinstance(value, str) and value.lower() in words:
            return value.lower()
        raise _wrong(name, value, f"one of {', '.join(words)}")

    return read


def _seconds(name: str, value: object) -> float:
    try:
        seconds = parse_duration(value) if isinstance(value, str) else value
    except ValueError:
        seconds = None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < 1e9:
        return float(seconds)
    raise _wrong(name, value, "a duration, in seconds or such as 250ms")


def _wait(name: str, value: object) -> float:
    seconds = _seconds(name, value)
    if seconds <= LONGEST_WAIT:
        return seconds
    raise _wrong(name, value, f"at most {LONGEST_WAIT:g} s")


def _activity(name: str, value: object) -> str:
    if isinstance(value, str) and is_activity_id(value):
        return value
    raise _wrong(name, value, "1 to 128 printable ASCII characters")


def _limit(name: str, value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST:
        return value
    raise _wrong(name, value, f"a whole number from 1 to {MOST:,}")


_READ: dict[str, Callable[[str, object], Any]] = {
    "service": _name,
    "method": _name,
    "caller": _name,
    "code": _word(CODE_NAMES),
    "min_duration": _seconds,
    "since": _seconds,
    "activity_id": _activity,
    "reason": _word(Reason),
    "limit": _limit,
    "tree": _flag,
    "payloads": _flag,
    "cursor": _text,
    "wait": _wait,
}
