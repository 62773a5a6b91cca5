"""Versions of contracts: which callers a service serves.

They are read as semantic versions (https://semver.org/): another major version is another contract,
and before 1.0 another minor one is. Within these, a service serves every caller that is as old as
it is or older: it has all that these may use.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

_FORM = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})", re.ASCII)


class Version(NamedTuple):
    """Three numbers; versions compare as these do."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read ``"1.2.0"``.

        Raises:
            ValueError: It is not three numbers without leading zeros. Marks of pre-releases are
                refused: whether one fits cannot be told from its numbers.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(
                f"version {text[:40]!r} must be three numbers, MAJOR.MINOR.PATCH, such as '1.2.0'"
            )
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@lru_cache(maxsize=256)
def check_version(text: str) -> None:
    """Refuse what is no version; cheap for one that was seen before.

    Raises:
        TypeError: It is no text.
        ValueError: It is not three numbers.
    """
    if not isinstance(text, str):
        raise TypeError(f"version {text!r} must be text")
    Version.parse(text)


class Fit(Enum):
    """Whether a service can serve a caller, by the versions of the contract that they have."""

    SERVED = "served"
    MISMATCH = "mismatch"
    """They have different contracts: neither can do with the other."""
    TOO_NEW = "too new"
    """The caller may use what the service does not have yet."""


def fit(caller: Version, service: Version) -> Fit:
    """Whether a service of one version serves a caller that was written for another."""
    if caller.major != service.major or (caller.major == 0 and caller.minor != service.minor):
        return Fit.MISMATCH
    return Fit.TOO_NEW if caller > service else Fit.SERVED
