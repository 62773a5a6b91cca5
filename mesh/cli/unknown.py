"""Fields that a service will drop, as its types do not have them: mistyped, perhaps.

Unknown parameters are refused. Within a type, one that may be left out and is mistyped is neither
there nor missed.
"""

from __future__ import annotations

import difflib
from typing import Any

MOST = 10_000
"""Values that are looked at: a person waits."""
WIDEST = 100
"""Types that one value may be of, of those that are looked at."""


def tell_unknown(params: object, method: object, document: dict[str, Any]) -> list[str]:
    """What will be dropped of a call's parameters: paths, with the nearest name.

    Args:
        params: The parameters, as JSON is read.
        method: What a contract's schema says of the method.
        document: The whole of that.
    """
    kinds = document.get("$defs")
    kinds = kinds if isinstance(kinds, dict) else {}
    found: list[str] = []
    schema = method.get("params") if isinstance(method, dict) else None
    todo: list[tuple[str, object, list[object]]] = [("$", params, [schema])]
    for _ in range(MOST):
        if not todo:
            break
        path, value, schemas = todo.pop()
        choices = _choices(schemas, kinds)
        if isinstance(value, list):
            for number, one in enumerate(value[:MOST]):
                inner = [item for choice in choices for item in _item(choice, number)]
                todo.append((f"{path}[{number}]", one, inner))
        elif isinstance(value, dict):
            known, is_closed = _names(choices)
            for name, one in value.items():
                if name not in known and is_closed:
                    found.append(f"{path}.{name}{_nearest(name, known)}")
                    continue
                inner = [field for choice in choices for field in _field(choice, name)]
                todo.append((f"{path}.{name}", one, inner))
    return sorted(found)


def _choices(schemas: list[object], kinds: dict[str, Any]) -> list[object]:
    """The schemas that a value may be of, without names for types and unions; each name once."""
    found: list[object] = []
    seen: set[str] = set()
    todo = schemas[:WIDEST]
    while todo and len(found) < WIDEST:
        match todo.pop():
            case {"$ref": str(reference)}:
                if reference not in seen:
                    seen.add(reference)
                    todo.append(kinds.get(reference.rpartition("/")[2]))
            case {"anyOf": list(some)} | {"oneOf": list(some)}:
                todo += some[:WIDEST]
                del todo[MOST:]
            case one:
                found.append(one)
    return found


def _names(choices: list[object]) -> tuple[set[str], bool]:
    """The fields of the objects among them, and whether there are no others."""
    known: set[str] = set()
    is_closed = True
    for choice in choices:
        match choice:
            case {"properties": dict(fields), **more} if not more.get("additionalProperties"):
                known.update(fields)
            case {"type": str(kind)} if kind != "object":
                pass
            case {"enum": _} | {"const": _}:
                pass
            case _:
                is_closed = False  # of which anything may be
    return known, is_closed and bool(known)


def _field(schema: object, name: str) -> list[object]:
    match schema:
        case {"properties": dict(fields)} if name in fields:
            return [fields[name]]
        case {"additionalProperties": dict(values)}:
            return [values]
    return []


def _item(schema: object, number: int) -> list[object]:
    match schema:
        case {"prefixItems": list(items)} if number < len(items):
            return [items[number]]
        case {"items": dict(items)}:
            return [items]
    return []


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
