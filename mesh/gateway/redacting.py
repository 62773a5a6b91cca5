"""Which values are secrets: by the name of their field, by a mark in the contract, by their look.

When in doubt, a value is taken for one: who taps can do without it, and nobody can take it back.
Pure: it knows neither calls nor connections.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
import urllib.parse
from typing import TYPE_CHECKING, Any

from mesh.contracts.exact import is_marked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REDACTED = "[redacted]"

_PARTS = (
    *("password", "passwd", "passphrase", "passcode", "userpass", "dbpass", "pwd", "secret"),
    *("credential", "token", "apikey", "privatekey", "accesskey", "signingkey", "encryptionkey"),
    *("sshkey", "authorization", "oauth", "cookie", "csrf", "xsrf", "sessionid", "sessid"),
    *("symfony", "creditcard", "cardnumber", "cardno", "securitycode"),
)
"""What makes a name one of a secret wherever it stands in it, after what Sentry leaves out by
default: ``DEFAULT_DENYLIST`` of ``sentry_sdk.scrubber``, and its `server-side scrubbing
<https://docs.sentry.io/security-legal-pii/scrubbing/server-side-scrubbing/>`_."""
_WORDS = frozenset(
    "auth bearer credentials csc cvc cvv jwt otp pass pin pw session sid ssn".split()  # noqa: SIM905 - a list would take fourteen lines
)
"""The same, where it is a word of the name: ``author`` is no secret."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_REMEMBERED, _LONGEST_NAME, _MOST_WORDS = 64, 256, 4
"""Characters of a name that is remembered, and of one that is judged; words of a text that may be a
name."""

LONGEST = 2048
"""Characters of a text that are told."""
_SEARCHED = LONGEST + 512
"""Those that are looked at: more than any card number has that begins in what is told."""
_NAMED = re.compile(r"""([\w.\[\]"'\\-]++)(\W*+)""")
"""What may be a name, with its quotes and indices, and all up to the next word."""
_SIGN = re.compile(r"[=:>]++\s*+")
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|x([0-9a-f]{2}))", re.IGNORECASE)
_MOST_QUOTED = 3
"""Times that a text may be quoted over again."""
_LONGEST_PLAIN = 2 * _SEARCHED
"""Characters that may be meant by those looked at: some stand for eighteen."""
_LOOKS = re.compile(
    r"\bbearer\s++[\w.~+/=-]++"  # RFC 9110's credentials
    r"|\bbasic\s++[\w.~+/=-]{8,}+"
    r"|(?<![\w-])eyJ[\w-]{8,}+\.[\w.-]++"  # a JSON Web Token
    r"|-{1,5} ?BEGIN [\w ]{0,40}PRIVATE KEY.*",
    re.IGNORECASE | re.DOTALL,
)
_NUMBERS = re.compile(r"\d(?:[\s._/-]{0,2}\d)++")
_DIGITS = re.compile(r"\d+")
_CARD = range(13, 20)
"""Digits of a card number."""
_MOST = 64
"""Schemas that one value may have at once: more are not looked through."""
_MOST_STEPS = 4096
"""Schemas that are looked at for one payload."""


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret, however it is written.

    Case, dashes, underscores and dots do not matter: ``API-Key``, ``apiKey`` and ``x_api_key``. One
    of more than 256 characters is taken for one.
    """
    if len(name) <= _REMEMBERED:
        return _remembered(name)
    return len(name) > _LONGEST_NAME or _judge(name)


def _judge(name: str) -> bool:
    plain = unicodedata.normalize("NFKC", name)
    joined = "".join(filter(str.isalnum, plain)).casefold()
    if any(part in joined for part in _PARTS):
        return True
    return any(word.lower() in _WORDS for word in _WORD.findall(plain))


_remembered = functools.lru_cache(4096)(_judge)


def names_secret(value: object) -> bool:
    """Whether a value is itself the name of a secret, which another one then is."""
    if isinstance(value, bytes):
        value = value[: _LONGEST_NAME + 1].decode("latin-1")
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        return False
    return is_secret(value) and len(value.split()) <= _MOST_WORDS


def redact_text(text: str) -> str:
    """The beginning of a text, 2,048 characters and dots at most, without its secrets.

    From a secret's name with a sign behind it on, all that follows goes, as there is no telling
    where its value ends. Elsewhere what goes are credentials before the host of a URL, those of
    HTTP, JSON Web Tokens, private keys and numbers of payment cards. Where such is there only once
    quotes as those of URLs, HTML or JSON are undone, the whole text goes. It takes time for 2,560
    characters at most, in proportion to them.
    """
    looked_at = text[:_SEARCHED]
    plain = _without_quotes(looked_at)
    if plain != looked_at and (len(plain) > _LONGEST_PLAIN or any(_find_secrets(plain, plain))):
        return REDACTED
    parts: list[str] = []
    at = 0
    for start, end in sorted(_find_secrets(looked_at, text)):
        if at <= start < LONGEST:
            parts += looked_at[at:start], REDACTED
        at = max(at, end)
    parts.append(looked_at[at:LONGEST])
    if at < len(text) > LONGEST:
        parts.append("...")
    return "".join(parts)


def _without_quotes(text: str) -> str:
    """A text as it may be meant by whoever unpacks it."""
    text = unicodedata.normalize("NFKC", text)
    for _ in range(_MOST_QUOTED):
        before = text
        text = _ESCAPE.sub(lambda escape: chr(int(escape[1] or escape[2], 16)), text)
        text = html.unescape(urllib.parse.unquote(text))
        if text == before or len(text) > _LONGEST_PLAIN:
            break
    return text


def _find_secrets(text: str, whole: str) -> Iterator[tuple[int, int]]:
    """Where a text has secrets, from and to; ``whole`` goes on where the text may be cut."""
    user, host = text.find("://") + 3, whole.rfind("@")
    if 3 <= user <= host:  # nobody knows where a password with spaces begins and ends
        yield user, host
    told = _find_told(text)
    if told is not None:
        yield told, len(whole)
    for found in _LOOKS.finditer(text):
        yield found.span()
    for found in _NUMBERS.finditer(text):
        if _has_card(found[0]):
            yield found.span()


def _find_told(text: str) -> int | None:
    """Where what a secret's name stands before begins: behind a sign, an option, a label."""
    before, labels = "", False
    for found in _NAMED.finditer(text):
        name, gap = found.groups()
        sign = _SIGN.search(gap)
        is_option = bool(gap) and (before.endswith("-") or name.startswith("-"))
        is_label = labels and name[-1] in "\"'"  # <input name="password" value="x">
        if (sign or is_option or is_label) and is_secret(name):
            return found.start(2) + (sign.end() if sign else 0)
        before, labels = gap, bool(sign) and gap[-1] in "\"'"
    return None


def _has_card(text: str) -> bool:
    """Whether whole groups of digits have the check digit of payment cards.

    That is Luhn's formula of ISO/IEC 7812. It doubles each other digit from the right: what comes
    of these at even and at odd places is summed up once for all groups.
    """
    digits: list[int] = []
    starts, ends = [], set()
    for group in _DIGITS.findall(text):
        starts.append(len(digits))
        digits += map(int, group)
        ends.add(len(digits))
    sums: tuple[list[int], list[int]] = [0], [0]
    for at, digit in enumerate(digits):
        sums[at % 2].append(sums[at % 2][-1] + sum(divmod(2 * digit, 10)))
        sums[1 - at % 2].append(sums[1 - at % 2][-1] + digit)
    return any(
        end in ends and (sums[end % 2][end] - sums[end % 2][start]) % 10 == 0
        for start in starts
        if 22 <= int("".join(map(str, digits[start : start + 2]))) < 70
        for end in range(start + _CARD.start, start + _CARD.stop)
    )


class Kinds:
    """What a contract's schema says of one value: whether it is marked, and of what is in it.

    Schemas come from other programs: whatever they are, this does not raise. Of a value that needs
    too many of them, and once they have been too many for one payload, all is taken for marked.

    Args:
        schemas: Those that it may have.
        definitions: Those with names, ``$defs``.
        left: How many may still be looked at for this payload.
    """

    __slots__ = ("_definitions", "_first", "_inner", "_left", "_schemas", "is_secret")

    def __init__(
        self, schemas: Sequence[object], definitions: dict[str, Any], left: list[int] | None = None
    ) -> None:
        self._definitions = definitions
        self._left = [_MOST_STEPS] if left is None else left
        self._inner: dict[str | int | None, Kinds] = {}
        self._schemas: dict[int, dict[str, Any]] = {}
        waiting = list(schemas)
        while waiting and len(self._schemas) <= _MOST and self._left[0] > 0:
            self._left[0] -= 1
            one = waiting.pop()
            if isinstance(one, dict) and id(one) not in self._schemas:
                self._schemas[id(one)] = one
                waiting += self._behind(one)
        self._first = max((len(_first_items(one)) for one in self._schemas.values()), default=0)
        self.is_secret = bool(waiting) or any(map(is_marked, self._schemas.values()))

    def _behind(self, schema: dict[str, Any]) -> Iterator[object]:
        """Those that a schema stands for."""
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield self._definitions.get(reference.rpartition("/")[2])
        for name in ("anyOf", "oneOf", "allOf"):
            choices = schema.get(name)
            if isinstance(choices, list):
                yield from choices[:_MOST_STEPS]

    @property
    def lacks_names(self) -> bool:
        """Whether it is a structure that travels as an array, so that no field has its name."""
        return any(
            "title" in schema and "prefixItems" in schema for schema in self._schemas.values()
        )

    def key(self) -> Kinds:
        """What is said of the keys of a map."""
        return self._inner.get(None) or self._within(
            None, [schema.get("propertyNames") for schema in self._schemas.values()]
        )

    def field(self, name: str) -> Kinds:
        """What is said of a field."""
        if (known := self._inner.get(name)) is not None:
            return known
        found: list[object] = []
        for schema in self._schemas.values():
            fields = schema.get("properties")
            others = schema.get("additionalProperties")
            found.append(fields.get(name, others) if isinstance(fields, dict) else others)
        return self._within(name, found)

    def item(self, at: int) -> Kinds:
        """What is said of an item of an array."""
        at = min(at, self._first)  # all behind those with schemas of their own have the same
        if (known := self._inner.get(at)) is not None:
            return known
        found: list[object] = []
        for schema in self._schemas.values():
            first = _first_items(schema)
            found.append(first[at] if at < len(first) else schema.get("items"))
        return self._within(at, found)

    def _within(self, where: str | int | None, schemas: Sequence[object]) -> Kinds:
        """What is said there, remembered for the values of one payload."""
        if not schemas:
            return self
        inner = self._inner[where] = Kinds(schemas, self._definitions, self._left)
        return inner


def _first_items(schema: dict[str, Any]) -> list[Any]:
    first = schema.get("prefixItems")
    return first if isinstance(first, list) else []
