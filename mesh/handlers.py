"""Handlers: a method's implementation, and what is known of it before the first call."""

from __future__ import annotations

import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import trio

from mesh.payload import encode, reader_of_params

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CoroutineType

    from mesh.errors import CallError

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("mesh.service")

_PLAIN = "__mesh_plain__"


def in_thread(function: Callable[P, T]) -> Callable[P, CoroutineType[Any, Any, T]]:
    """Implement a contract's method by a plain function, which runs in a thread.

    Where the mesh calls it, the thread is one of the peer's own, of which there are
    ``limits.max_threads``; where the program does, it is one of trio's. At a call's deadline the
    caller is answered, and the thread goes on to its end.

    Args:
        function: What works or waits without trio.

    Example:
        >>> class UserService(Users):
        ...     @mesh.in_thread
        ...     def get(self, user_id: str) -> User:
        ...         return database.select(user_id)
    """

    @functools.wraps(function)
    async def threaded(*args: P.args, **kwargs: P.kwargs) -> T:
        run = functools.partial(function, *args, **kwargs)
        return await trio.to_thread.run_sync(run, abandon_on_cancel=True)

    # With itself, as a decorator above this one takes what it has over (functools.wraps).
    setattr(threaded, _PLAIN, (threaded, function))
    # Type checkers call what an `async def` returns differently; this is what pyright needs.
    return cast("Callable[P, CoroutineType[Any, Any, T]]", threaded)


def plain_of(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The plain function that :func:`in_thread` was given, bound as this one is; else None."""
    threaded, plain = getattr(function, _PLAIN, (None, None))
    if plain is None or threaded is not getattr(function, "__func__", function):
        return None
    holder = getattr(function, "__self__", None)
    made: Callable[..., Any] = plain if holder is None else plain.__get__(holder)
    return made


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of this is awaited, and does not block."""
    return inspect.iscoroutinefunction(
        getattr(function, "func", function)
    ) or inspect.iscoroutinefunction(type(function).__call__)


class Handler:
    """One method's implementation: what to call, and the type of its parameters.

    Attributes:
        function: What is called, with the parameters if it takes any.
        in_thread: Whether a thread calls it.
        params_type: What parameters are decoded into.
        read: What decodes them from MessagePack.
        takes_params: Whether it takes any.
        encode: What makes bytes of its result, as :func:`~mesh.payload.encode` does.

    Args:
        function: ``async def`` runs in the loop, a plain ``def`` in a thread. It takes the
            parameters, or nothing.

    Raises:
        TypeError: It takes more than one argument.
    """

    __slots__ = ("encode", "function", "in_thread", "params_type", "read", "takes_params")

    def __init__(self, function: Callable[..., Any]) -> None:
        plain = plain_of(function)
        self.function = function = plain or function
        self.in_thread = plain is not None or not is_async(function)
        self.encode: Callable[[Any, int], bytes] = encode
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
        self.read = reader_of_params(self.params_type)

    def raised(self, error: CallError) -> None:
        """Its function has raised this error. Here nobody has said which it may raise."""


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
