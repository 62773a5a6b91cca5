"""Whether a call fits what its service's contract says, before it is sent.

Schemas come from the service. What one says that cannot be checked here, or not in the time that a
person waits, is for the service to check.
"""

from __future__ import annotations

import difflib
import math
import time
from typing import TYPE_CHECKING, Any

from mesh.cli.listing import BUILTIN
from mesh.cli.output import to_json
from mesh.contracts.exact import tell_format_fault
from mesh.contracts.telling import type_text
from mesh.errors import CallError, InvalidArgument, Reason, Unimplemented
from mesh_telemetry.logs import clean_line
from mesh_telemetry.texts import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jsonschema import ValidationError

    from mesh.client import Client

_SHOWN = 60
"""Characters of a value that a message shows."""
_TAG = "discriminator"
"""What tells which one of several structures a map is; no schema checks by it alone."""
LONGEST = 1.0
"""Seconds that a check may take."""
_LEFT = (
    *("pattern", "patternProperties", "uniqueItems", "unevaluatedItems", "unevaluatedProperties"),
    "multipleOf",
)
"""Keywords that are for the service to check: one of them alone may take for ever, and of what is a
multiple of a fraction, opinions differ."""
_OF_TYPE = frozenset(
    {"type", "anyOf", "oneOf", "enum", "const", "minimum", "exclusiveMinimum", "maximum"}
    | {"exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties"}
    | {"maxProperties"}
)
"""Keywords of which a type in short tells all."""


async def ask_contracts(
    client: Client,
    service: str,
    timeout: float | None,  # noqa: ASYNC109 - travels with the call
) -> list[dict[str, Any]]:
    """The schemas of a service's contracts, the newest first; none where it has told none."""
    if service == BUILTIN:
        return []
    try:
        found = await client.call(BUILTIN, "service", service, timeout=timeout)
    except CallError:
        return []  # it may come yet: the call itself waits for it, and tells what is wrong
    plain = set(found["methods"])
    schemas = [contract["schema"] for contract in found.get("contracts", [])]
    for schema in schemas:
        plain -= methods_of(schema).keys()
    # What is registered beside a contract is known, too.
    return [*schemas, {"methods": dict.fromkeys(plain)}] if schemas else []


def methods_of(schema: dict[str, Any]) -> dict[str, Any]:
    """What a contract's schema says of each method."""
    methods = schema.get("methods")
    return methods if isinstance(methods, dict) else {}


def deprecation(method: str, schemas: list[dict[str, Any]]) -> str:
    """What to call in place of a method, in one line; empty where no contract deprecates it.

    Args:
        method: The method.
        schemas: What its service has told: the newest contract that has the method counts.
    """
    advice = _newest(method, schemas).get("deprecated")
    return clean_line(advice) if isinstance(advice, str) else ""


def declared_timeout(method: str, schemas: list[dict[str, Any]]) -> float | None:
    """Seconds that a call of a method may take; None where no contract says it.

    Args:
        method: The method.
        schemas: As of :func:`deprecation`.
    """
    seconds: Any = _newest(method, schemas).get("timeout")
    return float(seconds) if _is_number(seconds) and 0 < seconds < math.inf else None


def _newest(method: str, schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """What the newest contract that has a method says of it."""
    known = (methods_of(schema)[method] for schema in schemas if method in methods_of(schema))
    newest = next(known, None)
    return newest if isinstance(newest, dict) else {}


def check_call(
    service: str,
    method: str,
    params: object,
    schemas: list[dict[str, Any]],
    patience: float = LONGEST,
) -> None:
    """Refuse a call that the contracts of its service forbid.

    Args:
        service: Its name.
        method: The method.
        params: What to call it with; None for nothing.
        schemas: What the service has told, if anything: one that allows the call is enough.
        patience: Seconds after which a call that is still being checked is allowed.

    Raises:
        Unimplemented: There is no such method; the message has the nearest one.
        InvalidArgument: The parameters are wrong; the message has the path, and what is wanted.
    """
    target = f"{service}.{method}"
    known = [schema for schema in schemas if method in methods_of(schema)]
    if schemas and not known:
        names = {name for schema in schemas for name in methods_of(schema)}
        raise Unimplemented(
            f"service {service!r} has no method {method!r}{_hint(method, names)}",
            reason=Reason.METHOD_NOT_FOUND,
            chain=(target,),
            maybe_executed=False,
        )
    end = time.monotonic() + patience
    faults = [_fault(params, methods_of(schema)[method], schema, end) for schema in known]
    if faults and all(faults):
        raise InvalidArgument(
            f"parameters of {target}: {faults[0]}",
            reason=Reason.UNDECODABLE,
            chain=(target,),
            maybe_executed=False,
        )


def _hint(name: str, known: Iterable[str]) -> str:
    ordered = sorted(known)
    near = difflib.get_close_matches(name, ordered, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(ordered)}"


def _fault(params: object, method: object, document: dict[str, Any], end: float) -> str:
    """What is wrong with parameters; empty where nothing is, or it cannot be told here."""
    schema = method.get("params") if isinstance(method, dict) else None
    if not isinstance(schema, dict):
        return ""
    # Half of what a short command takes to start; needed only here.
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import ValidationError, best_match
    from referencing import Registry

    def check_type(validator: Any, types: Any, value: Any, own: dict[str, Any]) -> Any:
        if own.get("format") == "decimal" and _is_number(value):
            return ()  # which takes numbers as well as text
        return rules["type"](validator, types, value, own)

    def check_format(_validator: Any, form: Any, value: Any, _own: dict[str, Any]) -> Any:
        if isinstance(value, str) and (fault := tell_format_fault(value, form)):
            yield ValidationError(fault)

    def check_most(validator: Any, most: Any, value: Any, own: dict[str, Any]) -> Any:
        if own.get("uniqueItems") is True:
            return ()  # of what comes twice in a set, one counts
        return rules["maxItems"](validator, most, value, own)

    def check_any(validator: Any, choices: Any, value: Any, own: dict[str, Any]) -> Any:
        match own.get("discriminator"):
            case {"propertyName": str(tag), "mapping": dict(tags)} if isinstance(value, dict):
                chosen = value.get(tag)
                if str(chosen) in tags:
                    yield from validator.descend(value, {"$ref": tags[str(chosen)]})
                    return
                told = _tell_tag(tag, tags, value)
                at = (tag,) if tag in value else ()
                yield ValidationError(told, validator=_TAG, path=at)
                return
        found = [list(validator.descend(value, choice)) for choice in choices]
        if all(found):
            # Where but one is for values of this kind, what is wrong is what that one says.
            meant = [some for some in found if not any(map(_is_of_kind, some))]
            if len(meant) == 1:
                yield from meant[0]
            else:
                yield ValidationError("fits none", context=[one for some in found for one in some])

    def check_others(validator: Any, others: Any, value: Any, own: dict[str, Any]) -> Any:
        if "patternProperties" in own:
            return ()  # which others there are, patterns tell
        return rules["additionalProperties"](validator, others, value, own)

    def bound(rule: Callable[..., Any]) -> Callable[..., Any]:
        def check(*about: Any) -> Any:
            if time.monotonic() > end:  # types that refer to others may double at each
                raise TimeoutError
            return rule(*about)

        return check

    rules = Draft202012Validator.VALIDATORS
    own_rules = {
        "type": check_type,
        "format": check_format,
        "anyOf": check_any,
        "maxItems": check_most,
        "additionalProperties": check_others,
    }
    bounded = {name: bound(rule) for name, rule in {**rules, **own_rules}.items()}
    left = dict.fromkeys(_LEFT, lambda *_: ())
    kinds = document.get("$defs", {})
    # An empty registry: a schema of somebody's is no reason to fetch what it refers to.
    checker = validators.extend(Draft202012Validator, bounded | left)(
        {**schema, "$defs": kinds}, registry=Registry()
    )
    given = {} if params is None else params
    try:
        errors = list(checker.iter_errors(given))
        unknown = (one for one in errors if one.validator == "additionalProperties")
        # A wrong name often means that the right one is missing, too: it says more.
        error = next(unknown, None) or best_match(errors)
        return "" if error is None else f"{error.json_path} {_explain(error, kinds)}"
    except Exception:  # noqa: BLE001 - whatever a schema that is none leads to
        return ""


def _is_of_kind(error: ValidationError) -> bool:
    """Whether a value is of another kind than what is wanted of it as a whole."""
    return error.validator == "type" and not error.relative_path


def _tell_tag(tag: str, tags: Iterable[str], value: dict[str, Any]) -> str:
    """Which tags there are, where a value has none of them."""
    wanted = shorten(" or ".join(map(repr, tags)), 5 * _SHOWN)
    if tag not in value:
        return f"lacks {tag}: {wanted}"
    near = difflib.get_close_matches(str(value[tag]), tags, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"must be {wanted}, not {shorten(repr(value[tag]), _SHOWN)}{hint}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _explain(error: ValidationError, kinds: dict[str, Any]) -> str:
    """What is wanted where a value is wrong."""
    value, wanted = error.instance, error.schema
    properties = wanted.get("properties", {}) if isinstance(wanted, dict) else {}
    match error.validator:
        case str(validator) if validator == _TAG:
            return str(error.message)
        case "type" if not error.path:
            return f"must be a map by parameter name, not {shorten(to_json(value), _SHOWN)}"
        case "format":
            told = type_text(wanted, kinds)
            return f"must be {told}, not {shorten(to_json(value), _SHOWN)}: {error.message}"
        case str(validator) if validator in _OF_TYPE:
            told = type_text(wanted, kinds)
            return f"must be {told}, not {shorten(to_json(value), _SHOWN)}"
        case "required":
            missing = [name for name in error.validator_value if name not in value]
            return "lacks " + ", ".join(
                f"{name}: {type_text(properties.get(name), kinds)}" for name in missing
            )
        case "additionalProperties" if error.validator_value is False:
            unknown = next(name for name in value if name not in properties)
            return f"has no {unknown!r}{_hint(unknown, properties) if properties else ''}"
    return f"must fit {error.validator} of its schema, not {shorten(to_json(value), _SHOWN)}"
