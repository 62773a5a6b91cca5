"""The orders that the demo plays, and what must become of each."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.units import tell_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.errors import CallError


class Outcome(msgspec.Struct, frozen=True):
    """How an order ended, or has to."""

    code: str = "ok"
    reason: str = ""
    maybe_executed: bool | None = None
    """None where it is of no importance."""

    @staticmethod
    def of(error: CallError | None) -> Outcome:
        """The outcome that an error is."""
        if error is None:
            return Outcome()
        return Outcome(str(error.code), error.reason, error.maybe_executed)

    def is_as(self, expected: Outcome) -> bool:
        """Whether this is what was expected."""
        return (self.code, self.reason) == (expected.code, expected.reason) and (
            expected.maybe_executed in {None, self.maybe_executed}
        )

    def __str__(self) -> str:
        parts = [self.code]
        if self.reason and self.reason != self.code.upper():
            parts.append(self.reason)
        return " ".join(parts)


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file."""

    id: str
    """Also the activity id under which the mesh remembers it."""
    params: dict[str, Any]
    expect: Outcome = Outcome()
    timeout: float = 20.0
    kill: str = ""
    """The service whose process is killed while it works on this order."""
    about: str = ""
    """What happens here, for people."""


class Played(msgspec.Struct, frozen=True):
    """An order and what became of it."""

    order: Order
    outcome: Outcome
    message: str
    duration: float

    @property
    def as_expected(self) -> bool:
        """Whether the order ended as it had to."""
        return self.outcome.is_as(self.order.expect)

    def describe(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "order": self.order.id,
            "as_expected": self.as_expected,
            "expected": self.order.expect,
            "outcome": self.outcome,
            "message": self.message,
            "duration_s": tell_seconds(self.duration),
        }


def load() -> list[Order]:
    """The orders of the file that ships with the package."""
    text = files(__package__).joinpath("orders.jsonl").read_bytes()
    return msgspec.json.Decoder(Order).decode_lines(text)


def unexpected(played: Sequence[Played]) -> list[Played]:
    """Those that did not end as they had to."""
    return [one for one in played if not one.as_expected]
