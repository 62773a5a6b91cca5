"""What names in the annotations of a class mean: by the scopes of Python, though they are texts.

``from __future__ import annotations`` makes texts of annotations. They are read when the class is
made, where all the scopes around it are still at hand.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_INSIDE = ".<locals>."
"""What stands in a qualified name between a function and what it defines."""


def names_in(kind: type) -> dict[str, Any]:
    """What can be named in a class while it is made, beside its module's own names.

    That is what its body defines, but for methods, which are no types, and what the functions
    around it do, the inner ones first. As in Python, the body of a class around it is no scope.
    """
    found: dict[str, Any] = {}
    for frame in reversed(list(_around(kind))):
        found |= frame.f_locals
    fields = getattr(kind, "__dataclass_fields__", {})  # their defaults are no types either
    found |= {
        name: value
        for name, value in vars(kind).items()
        if not (name.startswith("__") or name in fields or inspect.isroutine(value))
    }
    return found


def is_local(qualified: str) -> bool:
    """Whether what has this qualified name is defined within a function."""
    return _INSIDE in qualified


def _around(kind: type) -> Iterator[FrameType]:
    """The functions that a class stands in, as they run now, the innermost first."""
    *outer, _ = kind.__qualname__.split(_INSIDE)
    frame: FrameType | None = sys._getframe()
    while outer and frame is not None:
        is_next = frame.f_code.co_qualname == _INSIDE.join(outer)
        if is_next and frame.f_globals.get("__name__") == kind.__module__:
            yield frame
            outer.pop()
        frame = frame.f_back
