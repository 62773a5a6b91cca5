"""What a contract says of a method beside its signature."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from mesh.contracts import objectives
from mesh.errors import CallError, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_ATTRIBUTE = "__mesh_method__"


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
    idempotent: bool = False,
    timeout: float | None = None,
    slo: float | objectives.slo | None = None,
    access: str | None = None,
    public: bool = False,
    audit: bool = False,
    tap: bool = False,
    deprecated: str | None = None,
    raises: Iterable[type[CallError]] | type[CallError] = (),
) -> Callable[[F], F]: ...


def method(
    function: F | None = None,
    *,
    idempotent: bool = False,
    timeout: float | None = None,
    slo: float | objectives.slo | None = None,
    access: str | None = None,
    public: bool = False,
    audit: bool = False,
    tap: bool = False,
    deprecated: str | None = None,
    raises: Iterable[type[CallError]] | type[CallError] = (),
) -> F | Callable[[F], F]:
    """Declare a method of a contract. Whatever is wrong with it is told when the class is made.

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
    declared = MethodOptions(
        idempotent=idempotent,
        timeout=timeout,
        slo=slo,
        access=access,
        public=public,
        audit=audit,
        tap=tap,
        deprecated=deprecated,
        raises=tuple(raises) if isinstance(raises, Iterable) else (raises,),
    )

    def declare(function: F) -> F:
        setattr(function, _ATTRIBUTE, declared)
        return function

    return declare if function is None else declare(function)


def options_of(value: object) -> MethodOptions | None:
    """What :func:`method` has declared of a function; None of anything else."""
    return getattr(value, _ATTRIBUTE, None)


def check_options(where: str, options: MethodOptions) -> None:
    """Refuse options that cannot be.

    Raises:
        ContractError: One is wrong; ``where`` begins the message.
    """
    timeout: Any = options.timeout
    if timeout is not None and not (
        isinstance(timeout, (int, float)) and isfinite(timeout) and timeout > 0
    ):
        raise ContractError(f"{where}: timeout={timeout!r} must be seconds, above 0")
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
    for name in ("idempotent", "public", "audit", "tap"):
        if not isinstance(getattr(options, name), bool):
            raise ContractError(f"{where}: {name}={getattr(options, name)!r} must be a bool")
