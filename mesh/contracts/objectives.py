"""What a contract promises of a method: how often it succeeds, and how fast it answers.

From these numbers `mesh dashboards rules` makes recording rules and burn-rate alerts, as the Google
SRE workbook has them (https://sre.google/workbook/alerting-on-slos/).
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

TARGET = 0.99
"""The part of calls that has to end in time, where a contract says only in which."""
SUCCESS = 0.999
"""The part of calls that must not fail, where a contract does not say."""
HIGHEST = 0.999999
"""The highest of either: beyond it, one failed call in a million is too many to have a budget."""


class slo(msgspec.Struct, frozen=True, kw_only=True):  # noqa: N801 - it is used as a function is
    """The objective of a contract's method, for ``@mesh.method(slo=...)``.

    Calls that end with ``unknown``, ``deadline_exceeded``, ``unimplemented``, ``internal``,
    ``unavailable`` or ``data_loss`` have failed; every other code is an answer. Whatever is wrong
    with it is told when the class of the contract is made.

    Args:
        within: Seconds within which the method should answer: calls that take longer are slow, and
            their traces kept. None promises no time.
        target: The part of calls that has to end within these, above 0 and at most 0.999999.
        success: The part of calls that must not fail, likewise; None promises nothing.

    Example:
        >>> @mesh.method(slo=mesh.slo(within=0.25, target=0.95, success=0.9999))
    """

    within: float | None = None
    target: float = TARGET
    success: float | None = SUCCESS


def objective_of(value: float | slo | None) -> slo | None:
    """What a method's ``slo=`` says: a number is seconds, with the usual parts."""
    return value if value is None or isinstance(value, slo) else slo(within=value)


def within_of(value: float | slo | None) -> float | None:
    """The seconds in what a method's ``slo=`` says."""
    return value.within if isinstance(value, slo) else value


def fault_of(value: Any) -> str:
    """What is wrong with a method's ``slo=``; empty where nothing is."""
    if value is None:
        return ""
    if not isinstance(value, slo):
        wrong = f"slo={told(value)} must be seconds, above 0, or a mesh.slo"
        return "" if is_time(value) else wrong
    given: Any = value  # its fields may be anything
    if given.within is not None and not is_time(given.within):
        return f"slo: within={told(given.within)} must be seconds, above 0"
    for name, part in (("target", given.target), ("success", given.success)):
        if not (_is_part(part) or (part is None and name == "success")):
            return f"slo: {name}={told(part)} must be a part of all calls, above 0 and below 1"
        if part is not None and part > HIGHEST:
            return f"slo: {name}={part!r} leaves no budget to spend: {HIGHEST} is the most"
    if given.within is None and given.success is None:
        return "slo: it promises nothing: give within= or success="
    if given.within is None and given.target != TARGET:
        return f"slo: target={given.target!r} needs within=, the seconds that it is about"
    return ""


def is_time(value: Any) -> bool:
    """Whether it is seconds, above 0, that can be reckoned with."""
    return _is_number(value) and 0 < value <= sys.float_info.max


def told(value: Any) -> str:
    """What somebody has written for a number, however long that is."""
    if isinstance(value, int) and value.bit_length() > sys.float_info.max_exp:
        return f"a whole number of {value.bit_length():,} bits"
    return repr(value)


def _is_part(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
