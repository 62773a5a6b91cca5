"""Errors that a contract declares: classes of the user's own, which travel typed.

On the wire they are a code, a reason and details, like every other error, so that a caller without
the contract can still tell them apart.
"""

from __future__ import annotations

import dataclasses
import re
import string
from typing import TYPE_CHECKING, Any, ClassVar, get_origin, get_type_hints

import msgspec

from mesh.contracts.scoping import names_in
from mesh.contracts.signatures import check_type
from mesh.defaults import completing
from mesh.errors import CallError, ContractError, Reason, template_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TAKEN = frozenset({*dir(CallError()), "code"})
"""What every error has; a field of that name would hide it."""


class DeclaredError(msgspec.Struct, frozen=True):
    """One kind of error that a method may raise."""

    kind: type[CallError]
    reason: str
    details: type[msgspec.Struct]
    """Its fields."""
    read: Callable[[bytes], Any]
    """What decodes these from MessagePack."""


def read_errors(where: str, kinds: Iterable[type[CallError]]) -> dict[str, DeclaredError]:
    """Understand the errors that a method declares, by reason.

    Args:
        where: Contract and method, which begin the message of every fault.
        kinds: What ``raises=`` says.

    Raises:
        ContractError: One cannot travel typed.
    """
    found: dict[str, DeclaredError] = {}
    for kind in kinds:
        declared = _read(where, kind)
        other = found.setdefault(declared.reason, declared)
        if other.kind is not kind:
            raise ContractError(
                f"{where}: {other.kind.__name__} and {kind.__name__} have the same reason "
                f"{declared.reason}, by which callers tell them apart; set `reason` in one"
            )
    return found


def _read(where: str, kind: Any) -> DeclaredError:
    if not (isinstance(kind, type) and issubclass(kind, CallError)):
        raise ContractError(f"{where}: raises {kind!r}, which is no subclass of mesh.CallError")
    at = f"{where}: raises {kind.__name__}"
    if kind is CallError:
        raise ContractError(f"{at}, which is all errors; name one, such as mesh.NotFound")
    if kind.__module__ == CallError.__module__:  # the mesh's own, which travels as its code
        return _declared(kind, kind.code.upper(), [])
    if "__dataclass_fields__" not in vars(kind):
        raise ContractError(f"{at}, which is no dataclass; put @dataclass above it")
    if vars(kind)["__dataclass_params__"].frozen:
        raise ContractError(f"{at}, which is frozen: nobody could raise it, as raising changes it")
    if any(vars(base).get("__slots__") for base in kind.__mro__):
        raise ContractError(f"{at}, which has slots: copies would lose what is in them")
    if vars(kind).get("__hash__") is None:
        # A dataclass that compares by value loses it, and an error without it cannot be logged by
        # everything that remembers what it has seen.
        kind.__hash__ = CallError.__hash__  # type: ignore[method-assign]
    reason = kind.default_reason()
    if reason in Reason.__members__:
        raise ContractError(f"{at}, whose reason {reason} is one of the mesh's own; set another")
    try:
        types = get_type_hints(kind, localns=names_in(kind), include_extras=True)
    except NameError as fault:
        raise ContractError(f"{at}: a type of its fields cannot be found: {fault}") from fault
    fields: list[tuple[str, Any]] = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # one, as was seen
        if field.name in TAKEN:
            raise ContractError(f"{at}: field {field.name!r} is part of every error; rename it")
        if not field.init:
            continue
        check_type(f"{at}: field {field.name!r}", types[field.name])
        fields.append((field.name, types[field.name]))
    _check_others(at, kind, types)
    _check_template(at, kind)
    return _declared(kind, reason, fields)


def _declared(kind: type[CallError], reason: str, fields: list[tuple[str, Any]]) -> DeclaredError:
    details = msgspec.defstruct(kind.__name__, fields)
    read = completing(msgspec.msgpack.Decoder(details).decode, details)
    return DeclaredError(kind, reason, details, read)


def _check_others(at: str, kind: Any, types: Mapping[str, Any]) -> None:
    """Refuse what a constructor takes and no field keeps."""
    kept = {field.name for field in dataclasses.fields(kind)}
    for name in kind.__dataclass_fields__.keys() - kept:
        if types[name] is not ClassVar and get_origin(types[name]) is not ClassVar:
            raise ContractError(
                f"{at}: {name!r} is an InitVar, which would not travel; make it a field"
            )


def _check_template(at: str, kind: type[CallError]) -> None:
    """Refuse a message that names what is no field."""
    own = kind.__mro__[: kind.__mro__.index(CallError)]
    if any("__post_init__" in vars(base) for base in own):
        return  # it makes its own message
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    try:
        parts = list(string.Formatter().parse(template_of(kind)))
    except ValueError as fault:
        raise ContractError(
            f"{at}: the first line of its docstring is no message: {fault}"
        ) from None
    for _, name, _, _ in parts:
        if name is not None and re.split(r"[.\[]", name)[0] not in known:
            raise ContractError(
                f"{at}: the first line of its docstring names {{{name}}}, which is no field of it; "
                "write {{ and }} for braces"
            )


def restore(error: CallError, declared: Mapping[str, DeclaredError]) -> CallError:
    """The error of the class that its method declares; itself where it declares none that fits."""
    known = declared.get(error.reason)
    if known is None or known.kind.code != error.code or type(error) is known.kind:
        return error
    try:
        typed = known.kind(**msgspec.structs.asdict(_details_of(error, known)))
    except Exception:  # noqa: BLE001 - what users' classes raise; the error itself matters more
        return error
    for name in ("message", "details", "chain", "activity_id", "maybe_executed"):
        setattr(typed, name, getattr(error, name))
    typed.remote_traceback = error.remote_traceback
    for note in getattr(error, "__notes__", ()):
        typed.add_note(note)
    return typed


def breach(error: CallError, declared: Mapping[str, DeclaredError]) -> str:
    """How an error that a method raises breaks its contract; empty where it does not.

    Whatever the mesh itself says may be raised by all methods, as may an error by its code alone.
    """
    reason = error.reason
    known = declared.get(reason)
    if known is None:
        common = reason in Reason.__members__ or reason == error.code.upper()
        return "" if common else f"raises {reason}, which its contract does not declare"
    if known.kind.code != error.code:
        return f"raises {reason} as {error.code}; its contract says {known.kind.code}"
    try:
        _details_of(error, known)
    except Exception as fault:  # noqa: BLE001 - what users' types raise as well
        return f"raises {reason}, whose fields break its contract: {fault}"
    return ""


def _details_of(error: CallError, known: DeclaredError) -> msgspec.Struct:
    details: msgspec.Struct = known.read(msgspec.msgpack.encode(error.details))
    return details
