"""Handlers: a method's implementation, and what is known of it before the first call."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("mesh.service")


class Handler:
    """One method's implementation: what to call, and the type of its parameters.

    Args:
        function: ``async def`` runs in the loop, a plain ``def`` in a thread. It takes the
            parameters, or nothing.

    Raises:
        TypeError: It takes more than one argument.
    """

    __slots__ = ("function", "in_thread", "params_type", "takes_params")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.in_thread = not inspect.iscoroutinefunction(
            getattr(function, "func", function)
        ) and not inspect.iscoroutinefunction(type(function).__call__)
        parameters = inspect.signature(function).parameters.values()
        wanted = [
            parameter
            for parameter in parameters
            if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        ]
        needed = [
            parameter.name
            for parameter in parameters
            if parameter.default is parameter.empty
            and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        ]
        if needed and needed != [wanted[0].name if wanted else ""]:
            raise TypeError(
                f"handler {function!r} needs {', '.join(needed)}; a handler takes the call's "
                "parameters as one argument by position, or nothing"
            )
        self.takes_params = bool(wanted)
        self.params_type: Any = Any
        if wanted:
            self.params_type = _annotation(function, wanted[0])


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The type that a parameter is annotated with; any where there is none.

    Only this one annotation is looked at: others may exist for type checkers alone.
    """
    annotation = parameter.annotation
    if isinstance(annotation, str):
        names = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            annotation = eval(annotation, names)  # noqa: S307 - the author's own source text
        except NameError:
            log.warning(
                "handler %r: parameters are not checked, as their type %s cannot be found at run "
                "time; import it outside `if TYPE_CHECKING`",
                function,
                annotation,
            )
            return Any
    return Any if annotation in {parameter.empty, object} else annotation
