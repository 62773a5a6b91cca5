"""Which values are secrets: by the name of their field, by a mark in the contract, by their look.

When in doubt, a value is taken for one: who taps can do without it, and nobody can take it back.
Pure: it knows neither calls nor connections.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REDACTED = "[redacted]"

_PARTS = (
    *("password", "passwd", "passphrase", "passcode", "mysqlpwd", "secret", "credential"),
    *("token", "apikey", "privatekey", "accesskey", "authorization", "cookie", "csrf", "xsrf"),
    *("sessionid", "sessid", "symfony", "creditcard", "cardnumber", "securitycode"),
)
"""What makes a name one of a secret wherever it stands in it, after what Sentry leaves out by
default: ``DEFAULT_DENYLIST`` of ``sentry_sdk.scrubber``, and its `server-side scrubbing
<https://docs.sentry.io/security-legal-pii/scrubbing/server-side-scrubbing/>`_."""
_WORDS = frozenset(
    "auth bearer credentials csc cvc cvv jwt otp pass pin pwd session sid ssn".split()  # noqa: SIM905 - a list would take fourteen lines
)
"""The same, where it is a word of the name: ``author`` is no secret."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_LONGEST_NAME = 64
"""Characters of a text that may be a name, and of one that is remembered."""

_ANY_CASE = re.IGNORECASE
_ASSIGNED = re.compile(
    r"(?<![\w.-])((?:[\w.-]|\\u[0-9a-f]{4})++)[\]\\\"']*+\s{0,3}(?:[=:]|%3[AD])\s{0,3}", _ANY_CASE
)
"""A name and what sets it off from its value: in queries, headers, JSON within texts, settings."""
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})", _ANY_CASE)
_RUN = re.compile(r"\S+")
_LOOKS = re.compile(
    r"\b(?:bearer|basic)\s{1,3}[\w.~+/=-]{8,}+"  # RFC 9110's credentials
    r"|(?<![\w-])eyJ[\w-]{8,}+\.[\w.-]++"  # a JSON Web Token
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*",
    _ANY_CASE | re.DOTALL,
)
_CARD = re.compile(r"(?<!\d)[3-6]\d(?:[ -]?\d){11,17}(?!\d)")
_MARKS = (("writeOnly", True), ("format", "password"))
"""How JSON Schema marks what is not to be read back, and OpenAPI what is not to be seen."""
_MOST = 64
"""Schemas that one value may have at once: more are not looked through."""


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret, however it is written.

    Case, dashes, underscores and dots do not matter: ``API-Key``, ``apiKey`` and ``x_api_key``.
    """
    return _remembered(name) if len(name) <= _LONGEST_NAME else _judge(name)


def _judge(name: str) -> bool:
    plain = unicodedata.normalize("NFKC", name)
    joined = "".join(filter(str.isalnum, plain)).casefold()
    if any(part in joined for part in _PARTS):
        return True
    return any(word.lower() in _WORDS for word in _WORD.findall(plain))


_remembered = functools.lru_cache(4096)(_judge)


def names_secret(value: object) -> bool:
    """Whether a value is itself the name of a secret, which the next one then is."""
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or any(map(str.isspace, value)):
        return False
    return is_secret(value)


def redact_text(text: str) -> str:
    """A text without what looks like a secret in it.

    From a secret's name with ``=`` or ``:`` on, all that follows goes, as there is no telling where
    its value ends. Elsewhere what goes are credentials before the host of a URL, those of HTTP,
    JSON Web Tokens, private keys and numbers of payment cards.
    """
    for found in _ASSIGNED.finditer(text):
        if is_secret(_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), found[1])):
            text = text[: found.end()] + REDACTED
            break
    if "://" in text and "@" in text:
        text = _RUN.sub(_without_user, text)
    text = _LOOKS.sub(REDACTED, text)
    return _CARD.sub(_without_card, text)


def _without_user(run: re.Match[str]) -> str:
    """A text without spaces, without what stands between ``://`` and the last ``@``."""
    whole = run[0]
    start, end = whole.find("://") + 3, whole.rfind("@")
    return whole[:start] + REDACTED + whole[end:] if 3 <= start <= end else whole


def _without_card(number: re.Match[str]) -> str:
    return REDACTED if _is_card(number[0]) else number[0]


def _is_card(text: str) -> bool:
    """Whether digits have the check digit of payment cards (ISO/IEC 7812, Luhn's formula)."""
    digits = [int(one) for one in text if one in "0123456789"][::-1]
    doubled = (sum(divmod(2 * one, 10)) for one in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


class Kinds:
    """What a contract's schema says of one value: whether it is marked, and of what is in it.

    Schemas come from other programs: whatever they are, this does not raise.

    Args:
        schemas: Those that it may have.
        definitions: Those with names, ``$defs``.
    """

    __slots__ = ("_definitions", "_schemas", "is_secret")

    def __init__(self, schemas: Sequence[object], definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._schemas: dict[int, dict[str, Any]] = {}
        waiting = list(schemas)
        while waiting and len(self._schemas) <= _MOST:
            one = waiting.pop()
            if isinstance(one, dict) and id(one) not in self._schemas:
                self._schemas[id(one)] = one
                waiting += self._behind(one)
        too_many = len(self._schemas) > _MOST
        self.is_secret = too_many or any(
            schema.get(name) == mark for schema in self._schemas.values() for name, mark in _MARKS
        )

    def _behind(self, schema: dict[str, Any]) -> Iterator[object]:
        """Those that a schema stands for."""
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield self._definitions.get(reference.rpartition("/")[2])
        for name in ("anyOf", "oneOf", "allOf"):
            choices = schema.get(name)
            if isinstance(choices, list):
                yield from choices

    @property
    def lacks_names(self) -> bool:
        """Whether it is a structure that travels as an array, so that no field has its name."""
        return any(
            "title" in schema and "prefixItems" in schema for schema in self._schemas.values()
        )

    def field(self, name: str) -> Kinds:
        """What is said of a field."""
        found: list[object] = []
        for schema in self._schemas.values():
            fields = schema.get("properties")
            others = schema.get("additionalProperties")
            found.append(fields.get(name, others) if isinstance(fields, dict) else others)
        return Kinds(found, self._definitions)

    def item(self, at: int) -> Kinds:
        """What is said of an item of an array."""
        found: list[object] = []
        for schema in self._schemas.values():
            first = schema.get("prefixItems")
            if isinstance(first, list) and at < len(first):
                found.append(first[at])
            else:
                found.append(schema.get("items"))
        return Kinds(found, self._definitions)
