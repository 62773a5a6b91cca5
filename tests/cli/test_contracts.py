"""Contracts in the command: `info`, `list`, `call`, `check` and completion, on real processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mesh.cli.commands import COMMANDS
from mesh.cli.completing import parameters_of
from tests.cli.conftest import Mesh, read_line, start

if TYPE_CHECKING:
    from collections.abc import Iterator


SERVICE = '''
import enum, sys
from abc import abstractmethod
from dataclasses import dataclass
from decimal import Decimal
import mesh

VERSION = sys.argv[2]

class Plan(enum.Enum):
    FREE = "free"
    PAID = "paid"

@dataclass
class User:
    id: str
    plan: Plan = Plan.FREE
    paid: Decimal = Decimal(0)

@dataclass
class UserMissing(mesh.NotFound):
    """No user {user_id}."""
    user_id: str

class Users(mesh.Contract, name="users", version=VERSION):
    """The user directory."""

    @mesh.method(idempotent=True, timeout=2.0, slo=0.25, raises=[UserMissing], access="users.read")
    @abstractmethod
    async def get(self, user_id: str, deep: bool = False) -> User:
        """Look a user up."""

    @mesh.method(deprecated="call get", tap=True)
    @abstractmethod
    async def put(self, users: list[User], notes: dict[int, bytes] = {}) -> int: ...

    if VERSION >= "2":
        @mesh.method
        @abstractmethod
        async def delete(self, user_id: str) -> None: ...

class Plans(mesh.Contract, name="plans", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def get(self) -> None: ...

class Service(Users, requires=[Plans]):
    async def get(self, user_id, deep=False):
        if user_id == "nobody":
            raise UserMissing(user_id)
        return User(user_id)

    async def put(self, users, notes={}):
        return len(users) + sum(len(note) for note in notes.values())

    async def delete(self, user_id):
        pass

async def plain(client):
    @client.method("ready", service="users")
    async def is_ready():
        return True
    await client.call("mesh", "status")
    print("ready", flush=True)

mesh.run(Service(), plain, gateway=sys.argv[1], metadata={"zone": "north"})
'''


@pytest.fixture(scope="module", name="shop")
def make_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A shell with a gateway, and the service `users` in versions 1.2.0 and 2.0.0."""
    shell = Mesh(tmp_path_factory.mktemp("run"))
    with shell.gateway() as (_, ready):
        address = ready["addresses"][0]
        shell.env["MESH_GATEWAY"] = address
        shell.env["ADMIN"] = ready["admin"]
        command = [sys.executable, "-c", SERVICE, address]
        with (
            start([*command, "1.2.0"], shell.env) as old,
            start([*command, "2.0.0"], shell.env) as new,
        ):
            for process in (old, new):
                assert read_line(process) == "ready\n"
            yield shell


GET = """\
  get(user_id: str, deep: bool = False) -> User
      Look a user up.
      raises USER_MISSING(user_id: str): not_found
      timeout 2s, slo 99% within 250ms, 99.9% succeed, idempotent, access users.read
"""


def test_info_shows_the_contract_of_each_version(shop: Mesh) -> None:
    result = shop("info", "users")
    assert (result.returncode, result.stderr) == (0, "")
    title, rest = result.stdout.split("\n", 1)
    assert title == "users  version 1.2.0, 2.0.0"
    _, new, old = rest.split("\ncontract ")
    assert new.startswith("2.0.0 at ")
    assert old.startswith("1.2.0 at ")
    for contract in (new, old):
        assert "\nThe user directory.\n\n" + GET + "\n" in contract
        assert "  put(users: list[User], notes: dict[str, bytes] = {}) -> int\n" in contract
        assert "      tap, deprecated: call get\n" in contract
        assert "  Plan = Literal['free', 'paid']\n" in contract
        assert "  User(id: str, plan: Plan = 'free', paid: Decimal = '0')\n" in contract
    assert "  delete(user_id: str) -> None\n" in new
    assert "delete(" not in old
    assert result.stdout.count("zone=north requires plans 1.0.0\n") == 2


def test_info_for_programs_has_the_json_schema(shop: Mesh) -> None:
    """As it was registered; `/api/services/users` tells the same."""
    document = json.loads(shop("info", "users", "--json").stdout)
    new, old = document["contracts"]
    assert (new["version"], old["version"]) == ("2.0.0", "1.2.0")
    ids = {one["version"]: one["process_id"] for one in document["instances"]}
    assert (new["instances"], old["instances"]) == ([ids["2.0.0"]], [ids["1.2.0"]])
    params = old["schema"]["methods"]["get"]["params"]
    assert params["properties"]["user_id"] == {"type": "string"}
    assert params["required"] == ["user_id"]
    assert old["schema"]["$defs"]["User"]["required"] == ["id"]
    address = f"http://{shop.env['ADMIN']}/api/services/users"
    fetch = "import sys, urllib.request as it; print(it.urlopen(sys.argv[1]).read().decode())"
    told = subprocess.run(
        [sys.executable, "-c", fetch, address], capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout)["contracts"] == document["contracts"]


def test_list_shows_the_version_of_each_instance(shop: Mesh) -> None:
    rows = [line.split() for line in shop("list").stdout.splitlines()]
    column = rows[0].index("VERSION")
    assert sorted(row[column] for row in rows[1:]) == ["1.2.0", "2.0.0"]


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("gett", "{}", "service 'users' has no method 'gett'; did you mean 'get'?"),
        ("zzz", "{}", "has no method 'zzz'; there are delete, get, put, ready"),
        ("get", None, "parameters of users.get: $ lacks user_id: str"),
        ("get", "[1]", "parameters of users.get: $ must be a map by parameter name, not [1]"),
        ("get", '{"user_id": 5}', "parameters of users.get: $.user_id must be str, not 5"),
        ("get", '{"user": "x"}', "$ has no 'user'; did you mean 'user_id'?"),
        ("put", '{"users": [{"id": "a"}, {}]}', "$.users[1] lacks id: str"),
        (
            "put",
            '{"users": [{"id": "a", "plan": "dear"}]}',
            "$.users[0].plan must be Literal['free', 'paid'], not \"dear\"",
        ),
    ],
)
def test_a_call_is_checked_before_it_is_sent(
    shop: Mesh, method: str, params: str | None, message: str
) -> None:
    before = json.loads(shop("info", "users", "--json").stdout)["callers"]
    result = shop("call", "users", method, *([params] if params else []), "--json")
    assert result.returncode == 1
    error = json.loads(result.stdout)["error"]
    assert message in error["message"]
    assert error["code"] == ("unimplemented" if "method" in message else "invalid_argument")
    assert not error["maybe_executed"]
    assert json.loads(shop("info", "users", "--json").stdout)["callers"] == before


def test_a_call_that_is_traced_is_checked_as_well(shop: Mesh) -> None:
    """It is not sent, and has no trace."""
    refused = shop("trace", "--call", "users", "get", '{"user": "x"}')
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "users.get failed: invalid_argument UNDECODABLE" in refused.stderr
    assert "$ has no 'user'; did you mean 'user_id'?" in refused.stderr
    told = json.loads(shop("trace", "--call", "users", "gett", "--json").stdout)
    assert (told["error"]["reason"], told["trace"]) == ("METHOD_NOT_FOUND", None)


def test_a_call_that_is_traced_carries_what_only_json_can_say(shop: Mesh) -> None:
    params = {"users": [{"id": "a"}], "notes": {"7": "eHk="}}
    ended = shop("trace", "--call", "users", "put", json.dumps(params))
    assert (ended.returncode, ended.stderr) == (0, "users.put is deprecated: call get\n")
    assert ended.stdout.startswith("3\n\nusers.put by mesh-cli  ok after ")


def test_a_call_has_the_contract_s_timeout(shop: Mesh) -> None:
    drawn = shop("trace", "--call", "users", "get", '{"user_id": "ada"}').stdout
    assert re.search(r"^users\.get .* (2,000|1,9\d\d) ", drawn, re.MULTILINE), drawn
    drawn = shop("trace", "--call", "users", "get", '{"user_id": "ada"}', "--timeout", "9").stdout
    assert re.search(r"^users\.get .* (9,000|8,9\d\d) ", drawn, re.MULTILINE), drawn


def test_a_call_of_one_version_reaches_it(shop: Mesh) -> None:
    def ended(*more: str) -> Any:
        told = shop("call", "users", "delete", '{"user_id": "ada"}', "--json", "--version", *more)
        error = json.loads(told.stdout)["error"]
        return error and error["reason"]

    assert [ended("2.0.0") for _ in range(3)] == [None] * 3  # 1.2.0 does not have it
    assert ended("1.0.0") == "METHOD_NOT_FOUND"
    assert ended("1.3.0") == ended("3.0.0") == "INCOMPATIBLE_VERSION"
    traced = shop("trace", "--call", "users", "delete", '{"user_id": "a"}', "--version", "3.0.0")
    assert "INCOMPATIBLE_VERSION" in traced.stderr
    for wrong in (("call", "users", "get", "--version", "2"), ("trace", "--version", "1.0.0")):
        assert shop(*wrong).returncode == 2


@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("get", {"user_id": "ada"}, {"id": "ada", "plan": "free", "paid": "0"}),
        ("get", {"user_id": "ada", "deep": True}, {"id": "ada", "plan": "free", "paid": "0"}),
        # What only JSON can say: keys that are numbers, bytes; and a decimal as a number.
        ("put", {"users": [{"id": "a", "paid": 1.5}], "notes": {"7": "eHk="}}, 3),
        ("delete", {"user_id": "ada"}, None),  # of the newer contract alone
        ("ready", None, True),  # of none
    ],
)
def test_a_call_that_fits_is_made(shop: Mesh, method: str, params: Any, result: Any) -> None:
    arguments = [json.dumps(params)] if params is not None else []
    for _ in range(2):  # by either version, or by the one that has it
        ended = shop("call", "users", method, *arguments)
        if method == "delete" and ended.returncode:
            continue  # without a version, a call goes to any instance that has the method
        warning = "users.put is deprecated: call get\n" if method == "put" else ""
        assert (ended.returncode, ended.stderr) == (0, warning)
        assert json.loads(ended.stdout) == result


def test_a_declared_error_comes_with_its_fields(shop: Mesh) -> None:
    ended = shop("call", "users", "get", '{"user_id": "nobody"}', "--json")
    error = json.loads(ended.stdout)["error"]
    assert (error["reason"], error["details"]) == ("USER_MISSING", {"user_id": "nobody"})


def test_what_a_service_drops_is_told_before_it_is_called(shop: Mesh) -> None:
    """By either contract; and the call is made, as the service takes it."""
    ended = shop("call", "users", "put", '{"users": [{"id": "a", "plam": "paid"}]}')
    assert (ended.returncode, ended.stdout) == (0, "1\n")
    warning = "users.put drops $.users[0].plam (did you mean 'plan'?)\n"
    assert ended.stderr == "users.put is deprecated: call get\n" + warning


# Completion.


def complete(shell: Mesh, line: str, kind: str = "bash") -> list[str]:
    """What a shell is told of the last word of a line: nothing else is written."""
    words = f"{line} ." if line.endswith(" ") else line
    count = len(words.split()) - 1 if "'" not in words else 4
    env = {
        **shell.env,
        "_MESH_COMPLETE": f"{kind}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": line.rpartition(" ")[2] if kind == "fish" else str(count),
    }
    told = subprocess.run(
        [sys.executable, "-c", "from mesh.cli import main; main(prog_name='mesh')"],
        env=env, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    if kind == "zsh":
        return [name for name in lines[1::3] if name]
    return [one.split("\t")[0].removeprefix("plain,") for one in lines if one]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mesh ca", ["call"]),
        ("mesh call u", ["users"]),
        ("mesh call ", ["users"]),
        ("mesh call m", ["mesh"]),
        ("mesh info u", ["users"]),
        ("mesh trace --call u", ["users"]),
        ("mesh trace --call users g", ["get"]),
        ("mesh trace users g", []),  # an id
        ("mesh ping u", ["users"]),
        ("mesh top u", ["users"]),
        ("mesh tap --service u", ["users"]),
        ("mesh tap --method d", ["delete"]),
        ("mesh tap --method users.g", ["users.get"]),
        ("mesh tap --service users --method p", ["put"]),
        ("mesh trace --service u", ["users"]),
        ("mesh trace --method g", ["get"]),
        ("mesh changes --service u", ["users"]),
        ("mesh call users ", ["delete", "get", "put", "ready"]),
        ("mesh call users g", ["get"]),
        ("mesh call orders g", []),
        ("mesh call users get '{", ['{"user_id": ', '{"deep": ']),
        ("mesh call users get '{\"de", ['{"deep": ']),
        ('mesh call users get \'{"deep": true, ', ['{"deep": true, "user_id": ']),
        ('mesh call users put \'{"users": [{', []),
        ('mesh call users get \'{"user_id": "{', []),
        ("mesh call users get ", []),
        ("mesh nothing ", list(COMMANDS)),
    ],
)
def test_a_shell_completes_names(shop: Mesh, line: str, expected: list[str]) -> None:
    assert complete(shop, line) == expected


def test_only_identifiers_are_completed() -> None:
    """What stands in the line is run by the next key."""
    properties: dict[str, Any] = {
        "x'; touch y; '": {},
        "a\nb": {},
        "b\x1b[31m": {},
        "id": {},
        "é": {},
    }
    assert parameters_of({"params": {"properties": properties}}) == ["id"]
    odd: Any
    for odd in (None, {}, {"params": 1}, {"params": {"properties": ["a"]}}):
        assert parameters_of(odd) == []


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_every_shell_completes(shop: Mesh, kind: str) -> None:
    assert complete(shop, "mesh call users g", kind) == ["get"]


def test_a_shell_that_completes_leaves_standard_input_alone(shop: Mesh) -> None:
    assert complete(shop, "mesh call users get - --js") == ["--json"]


@pytest.mark.parametrize(
    "variables",
    [{}, {"MESH_GATEWAY": "nowhere"}, {"MESH_TLS_CA": "/nothing", "MESH_GATEWAY": "tls:a:1"}],
    ids=["no gateway", "no address", "no certificate"],
)
def test_without_a_gateway_completion_is_silent(shell: Mesh, variables: dict[str, str]) -> None:
    shell.env |= variables
    assert complete(shell, "mesh call u") == []
