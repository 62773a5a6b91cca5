"""Fields that a service will drop, as its types do not have them: mistyped, perhaps.

Unknown parameters are refused. Within a type, one that may be left out and is mistyped is neither
there nor missed.
"""

from __future__ import annotations

import difflib
import heapq
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

MOST = 10_000
"""Values that are looked at: a person waits."""
WIDEST = 100
"""Types that one value may be of, of those that are looked at."""
COMPARED = 200
"""Names that one is compared with, which takes some 50 us each."""
LONGEST = 64
"""Characters of a name that is compared: it takes their square."""


def find_unknown(
    params: object, method: object, document: dict[str, Any]
) -> dict[str, tuple[str, list[object]]]:
    """What will be dropped of a call's parameters: by path, the name and what it would be in.

    Args:
        params: The parameters, as JSON is read.
        method: What a contract's schema says of the method.
        document: The whole of that.
    """
    kinds = document.get("$defs")
    kinds = kinds if isinstance(kinds, dict) else {}
    found: dict[str, tuple[str, list[object]]] = {}
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
                    found[f"{path}.{name}"] = name, choices
                    continue
                inner = [field for choice in choices for field in _field(choice, name)]
                todo.append((f"{path}.{name}", one, inner))
    return found


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


def tell_unknown(path: str, name: str, choices: list[object]) -> str:
    """One of what will be dropped, for people, with the nearest name."""
    known, _ = _names(choices)
    near = difflib.get_close_matches(name, _alike(name, known), n=1)
    return f"{path} (did you mean {near[0]!r}?)" if near else path


def _alike(name: str, known: Collection[str]) -> list[str]:
    """Those that could be meant, as many as are worth to be compared."""
    size = len(name)
    if size > LONGEST:
        return []

    def distance(one: str) -> tuple[int, bool, str]:
        return abs(len(one) - size), one[:1] != name[:1], one

    return heapq.nsmallest(COMPARED, (one for one in known if len(one) <= LONGEST), key=distance)
