"""Exception groups at the public boundary: who opens a nursery for you hides that from you."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator


def sole(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The only failure in a group, cancellation apart; None where there are several."""
    _, rest = group.split(trio.Cancelled)
    failure: BaseException = group if rest is None else rest
    while isinstance(failure, BaseExceptionGroup):
        if len(failure.exceptions) > 1 and rest is not None:
            return None
        failure = failure.exceptions[0]
    return failure


@contextlib.contextmanager
def single_exception() -> Iterator[None]:
    """Raise the only exception of a nursery's group in the group's place.

    ``except mesh.AddressInUse`` must work around whatever nurseries the mesh uses inside.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        failure = sole(group)
        if failure is None:
            raise
        raise failure from failure.__cause__
