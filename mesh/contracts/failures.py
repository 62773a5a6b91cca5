"""Errors that a contract declares: classes of the user's own, which travel typed.

On the wire they are a code, a reason and details, like every other error, so that a caller without
the contract can still tell them apart.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from mesh.contracts.signatures import check_type
from mesh.errors import CallError, ContractError, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TAKEN = frozenset({"args", *vars(CallError()), "code", "of"})
"""What every error has; a field of that name would hide it."""


class DeclaredError(msgspec.Struct, frozen=True):
    """One kind of error that a method may raise."""

    kind: type[CallError]
    reason: str
    details: type[msgspec.Struct]
    """Its fields."""


def read_errors(
    where: str, kinds: Iterable[type[CallError]], names: Mapping[str, Any]
) -> dict[str, DeclaredError]:
    """Understand the errors that a method declares, by reason.

    Args:
        where: Contract and method, which begin the message of every fault.
        kinds: What ``raises=`` says.
        names: What their annotations may name beside what their modules do.

    Raises:
        ContractError: One cannot travel typed.
    """
    found: dict[str, DeclaredError] = {}
    for kind in kinds:
        declared = _read(where, kind, names)
        other = found.setdefault(declared.reason, declared)
        if other.kind is not kind:
            raise ContractError(
                f"{where}: {other.kind.__name__} and {kind.__name__} have the same reason "
                f"{declared.reason}, by which callers tell them apart; set `reason` in one"
            )
    return found


def _read(where: str, kind: Any, names: Mapping[str, Any]) -> DeclaredError:
    if not (isinstance(kind, type) and issubclass(kind, CallError)):
        raise ContractError(f"{where}: raises {kind!r}, which is no subclass of mesh.CallError")
    at = f"{where}: raises {kind.__name__}"
    if "__dataclass_fields__" not in vars(kind):
        raise ContractError(f"{at}, which is no dataclass; put @dataclass above it")
    if vars(kind).get("__hash__") is None:
        # A dataclass that compares by value loses it, and an error without it cannot be logged by
        # everything that remembers what it has seen.
        kind.__hash__ = CallError.__hash__  # type: ignore[method-assign]
    reason = kind.default_reason()
    if reason in Reason.__members__:
        raise ContractError(f"{at}, whose reason {reason} is one of the mesh's own; set another")
    try:
        types = get_type_hints(kind, localns=dict(names), include_extras=True)
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
    return DeclaredError(kind, reason, msgspec.defstruct(kind.__name__, fields))


def restore(error: CallError, declared: Mapping[str, DeclaredError]) -> CallError:
    """The error of the class that its method declares; itself where it declares none that fits."""
    known = declared.get(error.reason)
    if known is None or known.kind.code != error.code or type(error) is known.kind:
        return error
    try:
        packed = msgspec.msgpack.encode(error.details)
        details = msgspec.msgpack.decode(packed, type=known.details)
        typed = known.kind(**msgspec.structs.asdict(details))
    except Exception:  # noqa: BLE001 - what users' classes raise; the error itself matters more
        return error
    for name in ("message", "details", "chain", "activity_id", "maybe_executed"):
        setattr(typed, name, getattr(error, name))
    typed.remote_traceback = error.remote_traceback
    for note in getattr(error, "__notes__", ()):
        typed.add_note(note)
    return typed
