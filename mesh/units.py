"""Durations and sizes as people write them, ``250ms``, ``16MiB``; seconds as JSON tells them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import overload

KIB = 1024
MIB = 1024 * KIB

_DURATIONS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": 1024 * MIB,
}
_TERM = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds: a number of them, or numbers with units: ``250ms``, ``5s``, ``1m30s``.

    Raises:
        ValueError: The text is neither.
    """
    terms = _terms(text, _DURATIONS, "s")
    if terms is None:
        raise ValueError("a duration: seconds, or text like '250ms', '5s', '2m', '1h'")
    return sum(number * _DURATIONS[unit] for number, unit in terms)


def parse_size(text: str) -> int:
    """Bytes: a number of them, or a number with a unit: ``64KiB``, ``16MiB``, ``1GB``.

    Raises:
        ValueError: The text is neither, or does not come to whole bytes.
    """
    terms = _terms(text, _SIZES, "B")
    if terms is not None and len(terms) == 1:
        [(number, unit)] = terms
        size = number * _SIZES[unit]
        if size == int(size):
            return int(size)
    raise ValueError("a size: bytes, or text like '512KiB', '16MiB'")


def _terms(
    text: str, units: dict[str, float] | dict[str, int], bare: str
) -> list[tuple[float, str]] | None:
    terms: list[tuple[float, str]] = []
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None:
            return None
        unit = match[2] or bare
        if unit not in units or (not match[2] and match[0].strip() != text.strip()):
            return None
        terms.append((float(match[1]), unit))
        at = match.end()
    return terms or None


def format_duration(seconds: float) -> str:
    """The shortest text that :func:`parse_duration` reads as the same: ``250ms``, ``30s``."""
    for unit, factor in reversed(_DURATIONS.items()):
        number = seconds / factor
        if number >= 1 and (number == int(number) or unit in {"s", "ms", "us"}):
            text = f"{number:.12g}{unit}"
            if "e" not in text and parse_duration(text) == seconds:
                return text
    return "0s" if seconds == 0 else f"{Decimal(repr(seconds)):f}s"


def format_size(size: int) -> str:
    """The shortest text that :func:`parse_size` reads as the same: ``64KiB``, ``1000B``."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


@overload
def tell_seconds(seconds: float) -> float: ...


@overload
def tell_seconds(seconds: None) -> None: ...


@overload
def tell_seconds(seconds: float | None) -> float | None: ...


def tell_seconds(seconds: float | None) -> float | None:
    """A duration or a clock's reading for JSON: whole microseconds, as what is below is noise."""
    return None if seconds is None else round(seconds, 6)
