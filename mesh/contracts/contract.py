"""Contracts: classes that caller and callee share, and that say all there is of a service."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from mesh.contracts.agreeing import annotations_of
from mesh.contracts.declaring import MethodOptions, options_of, said_of
from mesh.contracts.failures import DeclaredError, read_errors
from mesh.contracts.overriding import check_again
from mesh.contracts.scoping import is_local, names_in
from mesh.contracts.signatures import Signature, read_signature
from mesh.contracts.versions import Version
from mesh.errors import ContractError
from mesh.wire.codec import is_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RESERVED = "mesh"
"""The gateway's own service."""


class ContractMethod(msgspec.Struct, frozen=True):
    """A method of a contract."""

    name: str
    signature: Signature
    options: MethodOptions
    errors: dict[str, DeclaredError]
    """What it declares to raise, by reason."""
    doc: str


class ContractInfo(msgspec.Struct, frozen=True, eq=False):
    """All that a contract says."""

    name: str
    """The service's."""
    version: Version
    doc: str
    methods: dict[str, ContractMethod]
    declared: type[Contract]
    """The class."""


class Contract(abc.ABC):
    """The base of all contracts, and through these of what implements and calls them.

    Its subclasses with a name and a version are contracts: their methods are abstract and declared
    by :func:`~mesh.method`. One that extends others has all their methods besides its own. A method
    that it declares again takes all that the others' take, has their defaults, returns no more and
    raises no more; options that are not said again stay. Their subclasses without a name are
    implementations.

    Args:
        name: The service's name.
        version: Of the contract, ``MAJOR.MINOR.PATCH``: see :func:`~mesh.contracts.versions.fit`.
        requires: Contracts of services that an implementation calls, or one; it is not ready before
            these are there.

    Raises:
        ContractError: Something in it cannot be; the message names class, method and parameter.

    Example:
        >>> class Users(mesh.Contract, name="users", version="1.2.0"):
        ...     '''The user directory.'''
        ...
        ...     @mesh.method(idempotent=True, timeout=2.0)
        ...     @abstractmethod
        ...     async def get(self, user_id: str) -> User:
        ...         '''Look a user up.'''
        >>> class UserService(Users):
        ...     async def get(self, user_id: str) -> User: ...
    """

    __mesh_contract__: ClassVar[ContractInfo]
    __mesh_requires__: ClassVar[tuple[type[Contract], ...]] = ()
    __mesh_types__: ClassVar[Mapping[object, dict[str, Any]]] = {}
    """Of a class within a function: by its functions, what their annotations name."""

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: str | None = None,
        requires: Iterable[type[Contract]] | type[Contract] = (),
        **more: Any,
    ) -> None:
        super().__init_subclass__(**more)
        where = f"contract {cls.__qualname__}"
        more_required = tuple(requires) if isinstance(requires, Iterable) else (requires,)
        if more_required:
            cls.__mesh_requires__ = (*cls.__mesh_requires__, *_required(where, more_required))
        if name is None and version is None:
            _check_implementation(cls)
            if is_local(cls.__qualname__):
                names = names_in(cls)
                found = map(own_function, vars(cls).values())
                cls.__mesh_types__ = {
                    one: annotations_of(one, names) for one in found if inspect.isfunction(one)
                }
            return
        if name is None or version is None:
            missing = "name" if name is None else "version"
            raise ContractError(f"{where}: it needs a name and a version; its {missing} is missing")
        if not is_name(name) or name == RESERVED:
            raise ContractError(
                f"{where}: name {name!r} must begin with a letter or _, then letters, digits and "
                f"_.-, at most 128, and not be {RESERVED!r}"
            )
        try:
            its_version = Version.parse(version)
        except ValueError as fault:
            raise ContractError(f"{where}: {fault}") from None
        own = {method.name: method for method in _own(where, cls)}
        methods = {method.name: method for method in _inherited(where, cls, own)} | own
        if not methods:
            raise ContractError(f"{where}: it has no method; declare one with @mesh.method")
        doc = inspect.cleandoc(cls.__doc__ or "")
        cls.__mesh_contract__ = ContractInfo(name, its_version, doc, methods, cls)


def info_of(contract: object) -> ContractInfo:
    """What a contract says.

    Args:
        contract: The class.

    Raises:
        ContractError: It is none: it has no name.
    """
    info = vars(contract).get("__mesh_contract__") if isinstance(contract, type) else None
    if info is None:
        raise ContractError(f"{contract!r} is no contract: a subclass of mesh.Contract with a name")
    return info  # type: ignore[no-any-return]  # set above


def own_function(function: Any) -> Any:
    """What a method calls, bound, static or of its class; anything else is itself."""
    return getattr(function, "__func__", function)


def contracts_of(implementation: type) -> list[ContractInfo]:
    """The contracts that a class implements, without those that another of them extends."""
    found: list[ContractInfo] = []
    for base in implementation.__mro__:
        info = vars(base).get("__mesh_contract__")
        if info is not None and not any(issubclass(one.declared, base) for one in found):
            found.append(info)
    return found


def _required(where: str, requires: tuple[Any, ...]) -> Iterator[type[Contract]]:
    for one in requires:
        if not (isinstance(one, type) and "__mesh_contract__" in vars(one)):
            raise ContractError(f"{where}: requires {one!r}, which is no contract")
        yield one


def _check_implementation(cls: type[Contract]) -> None:
    if not contracts_of(cls):
        raise ContractError(
            f"contract {cls.__qualname__}: it needs a name and a version, or to implement one that "
            "has them"
        )
    for name, value in vars(cls).items():
        if said_of(value) is not None:
            raise ContractError(
                f"{cls.__qualname__}.{name}: @mesh.method declares what a contract has; here is an "
                "implementation, as it has no name and version"
            )


def _inherited(
    where: str, cls: type[Contract], own: dict[str, ContractMethod]
) -> Iterator[ContractMethod]:
    """The methods of the contracts that it extends, which its own can stand in for."""
    found: dict[str, tuple[ContractInfo, ContractMethod]] = {}
    for info in contracts_of(cls):
        for method in info.methods.values():
            name = method.name
            if name in own:
                its = own[name].signature
                at, source = f"{where}, method {name}", info.declared.__qualname__
                check_again(at, source, method.signature, its, getattr(cls, name))
            other = found.setdefault(name, (info, method))
            if other[1] is not method and name not in own:
                raise ContractError(
                    f"{where}: {other[0].declared.__qualname__} and {info.declared.__qualname__} "
                    f"both have a method {name!r}; declare it here, too, to say what it is"
                )
            yield method


def _own(where: str, cls: type[Contract]) -> Iterator[ContractMethod]:
    names = names_in(cls)
    for name, value in vars(cls).items():
        at = f"{where}, method {name}"
        said = said_of(value)
        if said is None:
            if getattr(value, "__isabstractmethod__", False):
                raise ContractError(f"{at}: declare it by @mesh.method above @abstractmethod")
            continue
        if name.startswith("_"):
            raise ContractError(f"{at}: names that begin with _ are private, and no contract is")
        if not inspect.isfunction(value):
            raise ContractError(f"{at}: it must be a plain method, not {type(value).__name__}")
        if not getattr(value, "__isabstractmethod__", False):
            raise ContractError(f"{at}: put @abstractmethod below @mesh.method")
        inherited = {
            info.declared.__qualname__: info.methods[name].options
            for info in contracts_of(cls)
            if name in info.methods
        }
        options = options_of(at, said, inherited)
        yield ContractMethod(
            name,
            read_signature(at, value, names, cls.__module__),
            options,
            read_errors(at, options.raises),
            inspect.getdoc(value) or "",
        )
