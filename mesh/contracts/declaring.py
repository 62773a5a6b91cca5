"""What a contract says of a method beside its signature."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from mesh.contracts import objectives
from mesh.errors import CallError, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

F = TypeVar("F", bound="Callable[..., Any]")

_ATTRIBUTE = "__mesh_method__"

MAX_TEXT = 500
"""Characters of an option that is text: all are told in one header with each registration."""


class MethodOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of :func:`method`, which see."""

    idempotent: bool = False
    timeout: float | None = None
    slo: float | objectives.slo | None = None
    access: str | None = None
    public: bool = False
    audit: bool = False
    tap: bool = False
    deprecated: str | None = None
    raises: tuple[type[CallError], ...] = ()


@overload
def method(function: F) -> F: ...


@overload
def method(
    *,
    idempotent: bool | None = None,
    timeout: float | None = None,
    slo: float | objectives.slo | None = None,
    access: str | None = None,
    public: bool | None = None,
    audit: bool | None = None,
    tap: bool | None = None,
    deprecated: str | None = None,
    raises: Iterable[type[CallError]] | type[CallError] | None = None,
) -> Callable[[F], F]: ...


def method(
    function: F | None = None,
    *,
    idempotent: bool | None = None,
    timeout: float | None = None,
    slo: float | objectives.slo | None = None,
    access: str | None = None,
    public: bool | None = None,
    audit: bool | None = None,
    tap: bool | None = None,
    deprecated: str | None = None,
    raises: Iterable[type[CallError]] | type[CallError] | None = None,
) -> F | Callable[[F], F]:
    """Declare a method of a contract. Whatever is wrong with it is told when the class is made.

    Where the contract extends one that has the method, what is not said here is as it is there.

    Args:
        function: The method, where the decorator stands without brackets.
        idempotent: Whether running it twice does no harm.
        timeout: Seconds that a call of it may take, where the caller does not say; 30 else.
        slo: Seconds within which it should answer: calls that take longer are slow; or all that
            is promised of it, a :class:`~mesh.slo`.
        access: What a caller must be allowed to do, such as ``"users.read"``.
        public: Whether anybody may call it.
        audit: Whether its calls are to be written down.
        tap: Whether taps may show what its calls carry, where the gateway's operator allows it too.
        deprecated: What to call instead. Stubs warn once a process, and calls are counted.
        raises: Errors that travel typed, or one: classes made with :class:`dataclasses.dataclass`
            from subclasses of :class:`~mesh.CallError`; or the mesh's own, by their code alone.

    Example:
        >>> @mesh.method(idempotent=True, timeout=2.0, raises=[UserNotFound])
        ... @abstractmethod
        ... async def get(self, user_id: str) -> User:
        ...     '''Look a user up.'''
    """
    if raises is not None:
        raises = tuple(raises) if isinstance(raises, Iterable) else (raises,)
    given: dict[str, Any] = {
        "idempotent": idempotent,
        "timeout": timeout,
        "slo": slo,
        "access": access,
        "public": public,
        "audit": audit,
        "tap": tap,
        "deprecated": deprecated,
        "raises": raises,
    }
    said = {name: value for name, value in given.items() if value is not None}

    def declare(function: F) -> F:
        setattr(function, _ATTRIBUTE, said)
        return function

    return declare if function is None else declare(function)


def said_of(value: object) -> dict[str, Any] | None:
    """The options that :func:`method` was given for a function; None of anything else."""
    return getattr(value, _ATTRIBUTE, None)


def options_of(
    where: str, said: Mapping[str, Any], inherited: Mapping[str, MethodOptions]
) -> MethodOptions:
    """A method's options: those that were said, and what others say that it stands in for.

    Args:
        where: Contract and method, which begin the message of every fault.
        said: As :func:`said_of` tells it.
        inherited: By the name of each contract that has the method already, its options there.

    Raises:
        ContractError: One cannot be, or is another one there and must be said.
    """
    found = dict(said)
    # Who may call is one question with two options: one that is said answers it.
    answered = {"access", "public"} if said.get("public") or "access" in said else set()
    for name in MethodOptions.__struct_fields__:
        if name in said or name in answered:
            continue
        values = {source: getattr(its, name) for source, its in inherited.items()}
        sources = [source for source, value in values.items() if value is not None]
        for one, other in pairwise(sources):
            if values[one] != values[other]:
                raise ContractError(
                    f"{where}: {name}= is not the same in {one} and {other}; say here what it is"
                )
        if sources:
            found[name] = values[sources[0]]
    options = MethodOptions(**found)
    _check(where, options)
    for source, its in inherited.items():
        if its.idempotent and not options.idempotent:
            raise ContractError(
                f"{where}: it is idempotent in {source}, whose callers may call it twice; not here"
            )
        for kind in options.raises:
            if kind not in its.raises:
                raise ContractError(
                    f"{where}: raises {getattr(kind, '__name__', kind)}, which {source} does not "
                    "declare: its callers would not know it"
                )
    return options


def _check(where: str, options: MethodOptions) -> None:
    timeout = options.timeout
    if timeout is not None and not objectives.is_time(timeout):
        raise ContractError(f"{where}: timeout={objectives.told(timeout)} must be seconds, above 0")
    if fault := objectives.fault_of(options.slo):
        raise ContractError(f"{where}: {fault}")
    within = objectives.within_of(options.slo)
    if timeout is not None and within is not None and within > timeout:
        raise ContractError(
            f"{where}: slo={within:g} is longer than timeout={timeout:g}, after which no call of "
            "it can end well"
        )
    if options.public and options.access is not None:
        raise ContractError(
            f"{where}: public=True and access={options.access!r} exclude each other"
        )
    texts: dict[str, Any] = {"access": options.access, "deprecated": options.deprecated}
    for name, text in texts.items():
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise ContractError(f"{where}: {name}={text!r} must be text")
        if text is not None and len(text) > MAX_TEXT:
            raise ContractError(
                f"{where}: {name}= of {len(text):,} characters exceeds {MAX_TEXT}; the method's "
                "documentation may be longer"
            )
    for name in ("idempotent", "public", "audit", "tap"):
        if not isinstance(getattr(options, name), bool):
            raise ContractError(f"{where}: {name}={getattr(options, name)!r} must be a bool")
