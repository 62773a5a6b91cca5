"""What of a payload is taken for a secret, and that no secret is told."""

from __future__ import annotations

import datetime as dt
import json
import time
from abc import abstractmethod
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mesh
from mesh.contracts.contract import info_of
from mesh.contracts.schema import describe
from mesh.gateway.permits import Contract
from mesh.gateway.previews import DEEPEST, MOST_STEPS, preview
from mesh.gateway.redacting import LONGEST, REDACTED, Kinds, is_secret, redact_text
from mesh.payload import decode
from mesh.wire.codec import JSON, MSGPACK

SECRET = "5up3r"
"""In every secret of these tests, and in nothing else."""

NAMES = [
    *("password", "Password", "PASSWORD", "user_password", "newPassword", "passwd", "pwd", "pass"),
    *("secret", "client-secret", "clientSecret", "SECRET_KEY", "token", "accessToken", "tokens"),
    *("x-csrf-token", "XSRF-TOKEN", "api_key", "apiKey", "API-Key", "x.api.key", "APIKEY"),
    *("private_key", "privateKey", "authorization", "Proxy-Authorization", "auth", "x_auth"),
    *("cookie", "Set-Cookie", "cookies", "sessionid", "PHPSESSID", "connect.sid", "user_session"),
    *("credentials", "awsCredential", "mysql_pwd", "credit_card", "creditCardNumber", "cvv", "CVC"),
    *("card-number", "pin", "pin1", "otp", "jwt", "ssn", "\uff50assword", "oauth", "userpass"),
    *("dbpwd", "pw", "card_no", "signingKey", "encryption_key", "ssh_key"),
]
PLAIN = [
    "author",
    "authors",
    "user_id",
    "opinion",
    "spin",
    "passenger",
    "compass",
    "name",
    "",
    "号",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)
    assert is_secret("very_" * 40 + name)
    assert is_secret("very_" * 1000), "what takes long to judge"


@pytest.mark.parametrize("name", PLAIN)
def test_names_of_what_is_none(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://x.org/?page=2&token=5up3r&b=1", f"https://x.org/?page=2&token={REDACTED}"),
        ("user[password]=5up3r", f"user[password]={REDACTED}"),
        ("next=%2F%3Ftoken%3D5up3r", REDACTED),
        ('{"a": 1, "password": "5up3r 5up3r"}', f'{{"a": 1, "password": {REDACTED}'),
        (r"{\"apiKey\":\"5up3r\"}", rf"{{\"apiKey\":{REDACTED}"),
        (r'{"\uff50assword": "5up3r"}', REDACTED),
        ("-H 'Authorization: Basic 5up3r=='", f"-H 'Authorization: {REDACTED}"),
        ("postgres://ada:5up3r@db/x y", f"postgres://{REDACTED}@db/x y"),
        ("a://5up3r@b,c://d:5u/p3r@e", f"a://{REDACTED}@e"),
        ("sent bearer 5up3r5up3r.x", f"sent {REDACTED}"),
        ("see eyJhbGciOiJIUzI1NiJ9.5up3r.x-y", f"see {REDACTED}"),
        ("-----BEGIN RSA PRIVATE KEY-----\n5up3r\n", REDACTED),
        ("card 4111 1111-1111 1111, ok", f"card {REDACTED}, ok"),
        ("4111 1111 1111 1111 12/27", REDACTED),
        ("4111111111111111 123", REDACTED),
        ("99 4111.1111.1111.1111", REDACTED),
        ("id=x4111_1111__1111  1111y", f"id=x{REDACTED}y"),
        ("2223003122003222", REDACTED),
        ("4111111111111111-5500005555555559", REDACTED),
        ("order 4111111111111112", "order 4111111111111112"),  # its check digit is wrong
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n5up3r", REDACTED),
        ("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n5up3r", REDACTED),
        ("postgres://ada:5up 3r@db", f"postgres://{REDACTED}@db"),
        (f"a://{SECRET * 1000}@db", f"a://{REDACTED}..."),
        ("sent Bearer 5up3r", f"sent {REDACTED}"),
        ("user     = ada\npassword     = 5up3r", f"user     = ada\npassword     = {REDACTED}"),
        ("password[]=5up3r", f"password[]={REDACTED}"),
        ("password[0]=5up3r", f"password[0]={REDACTED}"),
        ("d['password']['new'] = 5up3r", f"d['password']['new'] = {REDACTED}"),
        ("password+=+5up3r", f"password+={REDACTED}"),
        ("password -> 5up3r", f"password -> {REDACTED}"),
        ("password - : 5up3r", f"password - : {REDACTED}"),
        ("<password>5up3r</password>", f"<password>{REDACTED}"),
        ('name="password"\r\n\r\n5up3r', f'name="password"{REDACTED}'),
        ("login --db-password 5up3r", f"login --db-password{REDACTED}"),
        ("password%20=%205up3r", REDACTED),
        ("q=%7B%22password%22%3A%225up3r%22%7D", REDACTED),
        ("password%253D5up3r", REDACTED),
        ("{&quot;password&quot;:&quot;5up3r&quot;}", REDACTED),
        ("password\uff1a5up3r", REDACTED),
        (r'{"pass\x77ord":"5up3r"}', REDACTED),
        (r'{"pass\\u0077ord":"5up3r"}', REDACTED),
        ("Bearer%205up3r", REDACTED),
        ("100% of author=1 &amp; so", "100% of author=1 &amp; so"),
        ("1732218402123456789", "1732218402123456789"),
        ("author: ada, see http://x.org/a?b=c", "author: ada, see http://x.org/a?b=c"),
        ("ada@x.org", "ada@x.org"),
    ],
)
def test_secrets_within_texts(text: str, told: str) -> None:
    assert redact_text(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "\\u0041",
        "&#65;",
        "&notit",
        "%2525",
        "\ufdfa",
        "a=",
        "://a:",
        "bearer ",
        "-----BEGIN ",
        "4 ",
        "a:",
        "eyJ-",
        "a.",
        "%3",
        "\\'",
        "44-",
        "@://",
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """One that is as long as a payload that is held, however it is made."""
    started = time.process_time()
    redact_text(text * (64 * 1024 // len(text)) + " @")
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"user": "ada", "password": {"old": SECRET}}, {"user": "ada", "password": REDACTED}),
        ({"a": [{"b": {"api-key": [SECRET]}}]}, {"a": [{"b": {"api-key": REDACTED}}]}),
        ([["Cookie", SECRET], ["a", "b"]], [["Cookie", REDACTED], ["a", "b"]]),
        (["login", "--password", SECRET, "x"], ["login", "--password", REDACTED, "x"]),
        ({"name": "Cookie", "value": SECRET}, {"name": "Cookie", "value": REDACTED}),
        ({"name": "Ada", "value": 1}, {"name": "Ada", "value": 1}),
        ({"Key": "password", "Value": SECRET}, {"Key": "password", "Value": REDACTED}),
        ({"k": "my password", "v": SECRET}, {"k": "my password", "v": REDACTED}),
        ({"id": "pin", "default": 77, "a": {}}, {"id": "pin", "default": REDACTED, "a": REDACTED}),
        ({"name": "token", "value": f"secret-{SECRET}"}, {"name": REDACTED, "value": REDACTED}),
        ({"a": "x" * 90 + "_token", "b": SECRET}, {"a": "x" * 90 + "_token", "b": REDACTED}),
        ({"a": b"token", "b": SECRET}, {"a": "<5 bytes>", "b": REDACTED}),
        ({"a": "how to reset a password", "b": 1}, {"a": "how to reset a password", "b": 1}),
        ([b"password", SECRET], ["<8 bytes>", REDACTED]),
        ({b"token": SECRET}, {"<bytes>": REDACTED}),
        ({f"token={SECRET}": 1}, {f"token={REDACTED}": REDACTED}),
        ({"raw": SECRET.encode()}, {"raw": "<5 bytes>"}),
        ({"number": 4111111111111111}, {"number": REDACTED}),
        ({4111111111111111: 4111111111111111.0}, {REDACTED: REDACTED}),
        (
            [10**400, -(10**5000), 2**127],
            ["<integer of 1,329 bits>", "<integer of 16,610 bits>", 2**127],
        ),
        ([2**127, 1e300, 5.234567890123456, "\ud800"], [2**127, 1e300, 5.234567890123456, "?"]),
        ([1, -2.5, True, None, float("nan"), [], {}], [1, -2.5, True, None, "nan", [], {}]),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        (msgspec.msgpack.Ext(5, SECRET.encode()), "<extension of type 5>"),
        ("ada", "ada"),
    ],
)
def test_values_without_their_secrets(value: object, told: object) -> None:
    shown = preview(value)
    assert shown.whole
    assert json.loads(shown.text) == told


def test_what_a_method_answers_goes_by_its_name_where_it_has_none() -> None:
    assert json.loads(preview(SECRET, name="create_token").text) == REDACTED
    assert json.loads(preview({"id": 1, "token": SECRET}, name="create_token").text) == {
        "id": 1,
        "token": REDACTED,
    }


def test_times_are_told_as_json_tells_them() -> None:
    when = dt.datetime(2026, 11, 21, 20, 54, 4, tzinfo=dt.UTC)
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode({"at": when}))
    assert preview(travelled).text == '{"at":"2026-11-21T20:54:04Z"}'


def test_long_and_deep_values_are_cut() -> None:
    long = preview({"text": "x" * 10_000})
    assert (len(long.text), long.whole) == (LONGEST, False)
    assert long.text.startswith('{"text":"xxx')
    value: Any = SECRET
    for _ in range(DEEPEST + 1):
        value = [value]
    deep = preview(value)
    assert deep.whole
    assert SECRET not in deep.text
    assert '"..."' in deep.text


Marked = Annotated[str, msgspec.Meta(extra_json_schema={"writeOnly": True})]


class Row(msgspec.Struct, array_like=True):
    id: int
    password: str


class Pair(NamedTuple):
    id: int
    password: str


class Inner(msgspec.Struct):
    a: str


class User(msgspec.Struct):
    note: Marked
    hint: Annotated[str, msgspec.Meta(extra_json_schema={"format": "password"})] | None = None
    friends: list[User] = []
    by_name: dict[str, Marked] = {}
    place: tuple[float, Marked] | None = None
    row: Row | None = None
    pair: Pair | None = None
    safe: tuple[int, str] | None = None
    whole: Annotated[Inner, msgspec.Meta(extra_json_schema={"writeOnly": True})] | None = None
    keys: dict[Marked, int] = {}
    when: Annotated[datetime, msgspec.Meta(extra_json_schema={"format": "password"})] | None = None


class Users(mesh.Contract, name="users", version="1.0.0"):
    @mesh.method(tap=True)
    @abstractmethod
    async def put(self, user: User) -> User: ...


def test_fields_that_a_contract_marks() -> None:
    """And structures that travel as arrays, whose fields have no names then."""
    kinds = Contract(msgspec.json.encode(describe(info_of(Users)))).answer("put", 0, "")
    friend = User(
        *(SECRET, SECRET),
        by_name={"a": SECRET},
        place=(1.5, SECRET),
        safe=(1, "b"),
        whole=Inner(SECRET),
        keys={SECRET: 1},
        when=datetime(2026, 1, 2),  # noqa: DTZ001 - its format is another one then
    )
    user = User(SECRET, friends=[friend], row=Row(1, SECRET), pair=Pair(1, SECRET))
    shown = preview(msgspec.to_builtins(user), kinds)
    assert shown.whole
    told = json.loads(shown.text)
    assert SECRET not in shown.text
    assert told["row"] == told["pair"] == "<2 values without names>"
    (other,) = told["friends"]
    assert (other["note"], other["hint"], other["by_name"]) == (REDACTED, REDACTED, {"a": REDACTED})
    assert (other["place"], other["safe"]) == ([1.5, REDACTED], [1, "b"])
    assert (other["whole"], other["keys"], other["when"]) == (REDACTED, {REDACTED: 1}, REDACTED)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        7,
        {"$ref": "#/$defs/self"},
        {"$ref": 1, "anyOf": 2, "properties": 3, "prefixItems": 4, "additionalProperties": 5},
        {"properties": {"a": {"$ref": "#/$defs/gone"}}, "items": False, "allOf": [None, 3]},
    ],
)
def test_schemas_that_make_no_sense_do_no_harm(schema: object) -> None:
    kinds = Kinds((schema,), {"self": {"anyOf": [{"$ref": "#/$defs/self"}, {"type": "object"}]}})
    assert json.loads(preview({"a": [1], "token": SECRET}, kinds).text) == {
        "a": [1],
        "token": REDACTED,
    }


def test_of_too_many_schemas_nothing_is_told() -> None:
    kinds = Kinds(({"anyOf": [{"const": at} for at in range(100)]},), {})
    assert preview("ada", kinds).text == f'"{REDACTED}"'


class _Counted(dict[str, Any]):
    """A schema that counts how often it is asked."""

    asked = 0

    def get(self, *names: Any) -> Any:
        _Counted.asked += 1
        return super().get(*names)


@pytest.mark.parametrize("name", ["items", "additionalProperties"])
def test_schemas_are_asked_so_often_at_most_for_one_payload(name: str) -> None:
    """What is said of the items of a list is found once; what needs too much is told no more."""
    choices = {"anyOf": [_Counted({name: _Counted({"title": str(at)})}) for at in range(60)]}
    _Counted.asked = 0
    kinds = Kinds((choices,), {})
    value = [1] * 900 if name == "items" else {str(at): 1 for at in range(400)}
    told = preview(value, kinds).text
    assert _Counted.asked < 60_000
    assert (REDACTED in told) == (name != "items")


class _Items(list[Any]):
    """A list that counts what was taken from it."""

    taken = 0

    def __iter__(self) -> Any:
        for one in super().__iter__():
            self.taken += 1
            yield one


@pytest.mark.parametrize(
    ("one", "most"),
    [("password=" + "x" * 2500, 10), ("k=" * 1250, 10), ({}, MOST_STEPS), ("", 2048)],
)
def test_so_much_of_a_value_is_looked_at(one: object, most: int) -> None:
    """However little of it is shown."""
    items = _Items([one] * 30_000)
    assert not preview(items).whole
    assert items.taken <= most


def test_what_lies_beyond_what_is_shown_is_not_looked_at() -> None:
    """But no secret is cut in two there."""
    assert redact_text("x" * 3000 + "password=") == "x" * LONGEST + "..."
    card = "4111 1111 1111 1111"
    for shown in range(len(card)):
        text = "x" * (LONGEST - shown) + card + "x" * 5000
        assert "4" not in redact_text(text)


_anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(10**5000), 10**5000),
        st.floats(),
        st.text(st.characters(), max_size=40),
        st.binary(max_size=20),
        st.datetimes(),
        st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=4)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(
            st.one_of(
                st.text(max_size=9), st.binary(max_size=9), st.integers(), st.floats(), st.none()
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=20,
)


@given(_anything)
def test_there_is_a_preview_of_anything(value: object) -> None:
    shown = preview(value)
    assert len(shown.text) <= LONGEST
    if shown.whole:
        json.loads(shown.text)


@given(st.binary(max_size=60), st.sampled_from([MSGPACK, JSON]))
def test_there_is_a_preview_of_whatever_can_be_decoded(payload: bytes, encoding: int) -> None:
    try:
        value = decode(payload, encoding)
    except (msgspec.MsgspecError, ValueError):
        return
    preview(value)


# Documents with secrets in them, with the schema that marks some of these.

Document = tuple[Any, dict[str, Any]]
_texts = st.text("abc xyz&=:/?{}[],'\"\\", max_size=12)
_secrets = st.text("abc-_.", max_size=8).map(lambda some: f"{some}{SECRET}{some}")
_names = st.sampled_from(NAMES)
_plain: st.SearchStrategy[Document] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.binary(max_size=9),
    _texts,
).map(lambda value: (value, {}))
_hidden: st.SearchStrategy[Document] = st.one_of(
    st.tuples(_names, _secrets).map(lambda both: ({both[0]: [both[1]]}, {})),
    st.tuples(_names, _secrets).map(lambda both: ([both[0], both[1]], {})),
    st.tuples(_names, _secrets).map(lambda both: ({"name": both[0], "value": both[1]}, {})),
    st.tuples(_texts, _names, _secrets).map(lambda some: (f"{some[0]} {some[1]}={some[2]}", {})),
    st.tuples(_texts, _names, _secrets).map(
        lambda some: (some[0] + " " + json.dumps({some[1]: some[2]}), {})
    ),
    st.tuples(_texts, _secrets).map(lambda both: (f"{both[0]} s3://me:{both[1]}@host", {})),
    _secrets.map(lambda secret: (f"Bearer {secret}{secret}", {})),
    _secrets.map(lambda secret: (secret, {"writeOnly": True})),
    _secrets.map(lambda secret: ({"a": secret}, {"format": "password", "type": "object"})),
    _secrets.map(lambda secret: (secret, {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Pin"}]})),
    _secrets.map(lambda secret: (secret.encode(), {})),
)


def _within(inner: st.SearchStrategy[Document]) -> st.SearchStrategy[Document]:
    maps = st.dictionaries(st.text("abcdef_", max_size=6), inner, max_size=5)
    lists = st.lists(inner, max_size=5)
    return st.one_of(
        maps.map(
            lambda some: (
                {name: value for name, (value, _) in some.items()},
                {"properties": {name: schema for name, (_, schema) in some.items()}},
            )
        ),
        lists.map(
            lambda some: (
                [value for value, _ in some],
                {"prefixItems": [schema for _, schema in some]},
            )
        ),
        st.tuples(_names, inner).map(lambda both: ({both[0]: both[1][0]}, {})),
    )


@given(st.recursive(st.one_of(_plain, _hidden), _within, max_leaves=30))
def test_no_secret_of_any_document_is_told(document: Document) -> None:
    value, schema = document
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    shown = preview(travelled, Kinds((schema,), {"Pin": {"writeOnly": True}}))
    assert SECRET not in shown.text
    if shown.whole:
        json.loads(shown.text)
