"""Contracts as plain data: what programs without the class can know of a service."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.contracts.exact import REFERENCE, schemas_of
from mesh.contracts.objectives import objective_of

if TYPE_CHECKING:
    from mesh.contracts.contract import ContractInfo, ContractMethod


def describe(info: ContractInfo) -> dict[str, Any]:
    """A contract with the types of its methods as JSON Schema.

    Types are as :func:`~mesh.contracts.exact.schemas_of` tells them; those with names are in
    ``$defs``.
    """
    methods = list(info.methods.values())
    kinds: list[Any] = []
    numbers = count()
    for method in methods:
        kinds += [_own(method.signature.params, next(numbers)), method.signature.result]
        kinds += [_own(error.details, next(numbers)) for error in method.errors.values()]
    found, definitions = schemas_of(kinds)
    schemas = iter(found)
    told = {method.name: _describe(method, schemas, definitions) for method in methods}
    return {
        "name": info.name,
        "version": str(info.version),
        "doc": info.doc,
        "methods": told,
        "$defs": definitions,
    }


def _describe(method: ContractMethod, schemas: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    options = method.options
    return {
        "doc": method.doc,
        "params": _inline(next(schemas), definitions),
        "keywords": list(method.signature.keywords),
        "result": next(schemas),
        "errors": {
            reason: {
                "code": str(error.kind.code),
                "doc": (error.kind.__doc__ or "").strip(),
                "details": _inline(next(schemas), definitions),
            }
            for reason, error in method.errors.items()
        },
        "idempotent": options.idempotent,
        "timeout": options.timeout,
        "slo": msgspec.to_builtins(objective_of(options.slo)),
        "access": options.access,
        "public": options.public,
        "audit": options.audit,
        "tap": options.tap,
        "deprecated": options.deprecated,
    }


def _own(kind: type[msgspec.Struct], number: int) -> type[msgspec.Struct]:
    """A structure of our own making by a name that no other has, which `msgspec` needs.

    Methods may be called like a type, and several may declare the same error.
    """
    return msgspec.defstruct(f"own_{number}", (), bases=(kind,), module=__name__)


def _inline(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A structure of our own making in its place: its name means nothing to anybody."""
    name = schema["$ref"].removeprefix(REFERENCE.format(name=""))
    inlined: dict[str, Any] = definitions.pop(name)
    del inlined["title"]
    return inlined
